//! The figures: one row for each thing that was measured, as a table for people and under stable names for programs.

use std::fmt::Write as _;
use std::io;

use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};
use serde_json::{Map, Value, json};

/// One thing that was measured. Its first figure is the one that is compared and aimed at.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// The stable name, such as `request.show.8`.
    pub name: String,
    /// What it is, for people.
    pub label: String,
    pub figures: Vec<Figure>,
    pub compared: Option<Compared>,
    pub aim: Option<Aim>,
}

/// One figure of a row.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    /// The stable name within the row; its ending is the unit.
    pub name: &'static str,
    /// What stands before it in the table, such as `p50`.
    pub label: &'static str,
    pub value: f64,
    pub unit: &'static str,
}

/// What the first figure is compared with.
#[derive(Clone, Debug)]
pub(crate) struct Compared {
    pub with: &'static str,
    pub value: f64,
}

/// What the first figure has to be.
#[derive(Clone, Debug)]
pub(crate) struct Aim {
    pub text: String,
    pub bound: Bound,
}

/// On which side of the limit.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Bound {
    fn limit(self) -> f64 {
        match self {
            Self::AtMost(limit) | Self::AtLeast(limit) => limit,
        }
    }

    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }
}

impl Row {
    /// One of its figures.
    pub(crate) fn value(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|figure| figure.name == name).map(|figure| figure.value)
    }

    /// How often the compared figure is in the first one.
    fn ratio(&self) -> Option<f64> {
        let compared = self.compared.as_ref().filter(|c| c.value > 0.0)?;
        Some(self.figures.first()?.value / compared.value)
    }

    fn meets_aim(&self) -> Option<bool> {
        Some(self.aim.as_ref()?.bound.holds(self.figures.first()?.value))
    }

    fn json(&self) -> Value {
        let mut row = Map::from_iter([("name".to_owned(), json!(self.name)), ("label".to_owned(), json!(self.label))]);
        row.extend(self.figures.iter().map(|f| (f.name.to_owned(), json!(rounded(f.value)))));
        if let (Some(compared), Some(ratio)) = (&self.compared, self.ratio()) {
            row.insert("compared_with".to_owned(), json!(compared.with));
            row.insert("compared_value".to_owned(), json!(rounded(compared.value)));
            row.insert("ratio".to_owned(), json!(rounded(ratio)));
        }
        if let (Some(aim), Some(meets)) = (&self.aim, self.meets_aim()) {
            row.insert("aim".to_owned(), json!(rounded(aim.bound.limit())));
            row.insert("meets_aim".to_owned(), json!(meets));
        }
        Value::Object(row)
    }

    fn cells(&self) -> [String; 6] {
        let mut figures = String::new();
        for figure in &self.figures {
            let comma = if figures.is_empty() { "" } else { ", " };
            let label = if figure.label.is_empty() { String::new() } else { format!("{} ", figure.label) };
            let _ = write!(figures, "{comma}{label}{}{}", short(figure.value), figure.unit);
        }
        let unit = self.figures.first().map_or("", |f| f.unit);
        let compared = self.compared.as_ref().map(|c| format!("{} {}{unit}", c.with, short(c.value)));
        let met = self.meets_aim().map(|met| if met { "yes" } else { "NO" });
        [
            self.label.clone(),
            figures,
            compared.unwrap_or_default(),
            self.ratio().map(short).unwrap_or_default(),
            self.aim.as_ref().map(|aim| aim.text.clone()).unwrap_or_default(),
            met.unwrap_or_default().to_owned(),
        ]
    }
}

/// Prints all rows as one table, which is also Markdown.
pub(crate) fn print_table(machine: &Value, rows: &[Row], into: &mut impl io::Write) -> io::Result<()> {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN).set_header(["", "Coffer", "compared with", "ratio", "aim", "met"]);
    for row in rows {
        table.add_row(row.cells());
    }
    if let Some(column) = table.column_mut(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let said: Vec<_> =
        machine.as_object().into_iter().flatten().map(|(name, value)| format!("{name} {value}")).collect();
    writeln!(into, "{table}\n\n{}", said.join(", ").replace('"', ""))
}

/// Prints all rows as one JSON document.
pub(crate) fn print_json(machine: &Value, rows: &[Row], into: &mut impl io::Write) -> io::Result<()> {
    let rows: Vec<_> = rows.iter().map(Row::json).collect();
    serde_json::to_writer_pretty(&mut *into, &json!({"machine": machine, "figures": rows}))?;
    writeln!(into)
}

/// Three digits that count, which is more than can be trusted.
fn short(value: f64) -> String {
    let digits = if value == 0.0 { 0.0 } else { value.abs().log10().floor() };
    match digits {
        digits if digits >= 2.0 => format!("{value:.0}"),
        digits if digits >= 1.0 => format!("{value:.1}"),
        digits if digits >= -1.0 => format!("{value:.2}"),
        digits if digits >= -2.0 => format!("{value:.3}"),
        _ => format!("{value:.4}"),
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}
