//! What commands print: lists and single things, as the openstack client's tables or as JSON.
//!
//! Both forms come from the same value, so that they cannot differ: the columns of a table are the keys of the objects.

use std::io::{self, Write as _};

use clap::ValueEnum;
use comfy_table::{CellAlignment, Table};
use serde::ser::{Serialize, SerializeMap as _, Serializer};
use serde_json::Value;

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people, as the openstack client prints it.
    #[default]
    Table,
    /// For programs: an array of objects for lists, an object for a single thing.
    Json,
}

/// The openstack client's borders.
const BORDERS: &str = "||--+-++|    ++++++";

/// Many things of one kind.
pub(crate) struct List {
    pub columns: &'static [&'static str],
    pub rows: Vec<Vec<Value>>,
}

/// One thing. Printed with its fields sorted by name, as the openstack client does.
pub(crate) struct Record(pub Vec<(String, Value)>);

impl List {
    /// As text that ends with a newline.
    pub(crate) fn render(&self, format: Format) -> String {
        match format {
            Format::Json => json(&self.rows.iter().map(|row| Object(self.columns, row)).collect::<Vec<_>>()),
            Format::Table => {
                let mut table = bordered(self.columns);
                for row in &self.rows {
                    table.add_row(row.iter().map(text));
                }
                for (column, value) in table.column_iter_mut().zip(self.rows.first().into_iter().flatten()) {
                    // The client aligns a column by the type of its first value.
                    if value.is_number() {
                        column.set_cell_alignment(CellAlignment::Right);
                    }
                }
                finished(&table)
            }
        }
    }
}

impl Record {
    /// As text that ends with a newline.
    pub(crate) fn render(mut self, format: Format) -> String {
        self.0.sort_by(|a, b| a.0.cmp(&b.0));
        match format {
            Format::Json => json(&self.0.into_iter().collect::<serde_json::Map<_, _>>()),
            Format::Table => {
                let mut table = bordered(&["Field", "Value"]);
                for (name, value) in &self.0 {
                    table.add_row([name.clone(), text(value)]);
                }
                finished(&table)
            }
        }
    }
}

/// Any value as JSON text that ends with a newline.
pub(crate) fn json(value: &impl Serialize) -> String {
    // Values of this crate have string keys and finite numbers, so this cannot fail.
    serde_json::to_string_pretty(value).map(|text| text + "\n").unwrap_or_default()
}

/// Writes `text` to standard output. A reader that has gone away, as in `| head`, is not an error.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// A row whose columns keep their order.
struct Object<'a>(&'a [&'static str], &'a [Value]);

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in self.0.iter().zip(self.1) {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

fn bordered(columns: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(BORDERS).set_header(columns);
    table
}

fn finished(table: &Table) -> String {
    format!("{table}\n")
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(values) => {
            let values: Vec<_> = values.iter().map(text).collect();
            // Sentences get a line each, words share one.
            values.join(if values.iter().any(|value| value.contains(' ')) { "\n" } else { ", " })
        }
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| format!("{name}={}", text(value))).collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Format, List, Record};

    #[test]
    fn a_list_looks_like_the_openstack_client_s() {
        let list = List {
            columns: &["ID", "Name", "Size"],
            rows: vec![vec![json!("6cbf"), json!("redis_test"), json!(5)], vec![json!("1"), json!("x"), json!(12)]],
        };
        assert_eq!(
            list.render(Format::Table),
            "\
+------+------------+------+
| ID   | Name       | Size |
+------+------------+------+
| 6cbf | redis_test |    5 |
| 1    | x          |   12 |
+------+------------+------+
"
        );
        assert_eq!(
            list.render(Format::Json),
            "[\n  {\n    \"ID\": \"6cbf\",\n    \"Name\": \"redis_test\",\n    \"Size\": 5\n  },\n  {\n    \"ID\": \"1\",\n    \
             \"Name\": \"x\",\n    \"Size\": 12\n  }\n]\n"
        );
    }

    #[test]
    fn a_single_thing_has_its_fields_sorted_and_all_aligned_left() {
        let record = || {
            let addresses = json!([{"address": "a", "type": "private"}]);
            let sentences = json!(["one of them", "two"]);
            let fields =
                [("volume", json!(1)), ("ip", json!(["a", "b"])), ("addresses", addresses), ("notes", sentences)];
            Record(fields.map(|(name, value)| (name.to_owned(), value)).into())
        };
        assert_eq!(
            record().render(Format::Table),
            "\
+-----------+------------------------+
| Field     | Value                  |
+-----------+------------------------+
| addresses | address=a type=private |
| ip        | a, b                   |
| notes     | one of them            |
|           | two                    |
| volume    | 1                      |
+-----------+------------------------+
"
        );
        let parsed: serde_json::Value = serde_json::from_str(&record().render(Format::Json)).expect("JSON");
        assert_eq!(parsed["addresses"][0]["type"], "private");
        assert_eq!(parsed["ip"], json!(["a", "b"]));
    }
}
