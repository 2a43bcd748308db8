//! Whether an engine holds what another one held: what is read of both, and the comparison.
//!
//! What is read is a list of all that there is, each with what is compared of it, and rows of some tables. `CHECKSUM TABLE` is
//! not among it: it differs between versions where the data does not. Nor is what does not outlast a stop (tables in memory),
//! lies elsewhere (federated ones), or is made anew whenever it is read (generated columns).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::config::identifier;
use crate::datastore::Number;
use crate::finding::Finding;

/// The storage engines whose rows are in the data directory and outlast a stop.
pub const LASTING: &[&str] = &["InnoDB", "MyISAM", "Aria", "CSV", "ARCHIVE", "ROCKSDB"];
/// So many rows are read from the beginning of a primary key, and from its end.
const FIRST: usize = 200;
const LAST: usize = 20;
/// Tables without a primary key are read as a whole, if they have no more rows than this: there is no order to read some by.
pub const WHOLE: usize = 200;
/// Of values that may have more bytes than this a digest is read.
pub const LONG: u64 = 255;

/// How what is read of a table is called, before the table's name.
pub const COLUMNS: &str = "columns of ";
pub const KEYS: &str = "keys of ";
pub const ROWS: &str = "rows of ";

/// A table of which rows are read, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sampled {
    pub database: String,
    pub table: String,
    /// The columns that hold something of their own.
    pub columns: Vec<String>,
    /// Those among them whose values may be long.
    pub long: Vec<String>,
    /// The columns of its primary key, in their order. Empty: it has none.
    pub key: Vec<String>,
}

impl Sampled {
    /// Its name, as objects have it.
    pub fn name(&self) -> String {
        format!("{}.{}", self.database, self.table)
    }

    /// The statements that read its rows. They ask for no more than some hundred rows of limited length, whatever the table
    /// holds.
    pub fn questions(&self) -> Vec<String> {
        let column = |name: &String| match self.long.contains(name) {
            // Both engines have it built in, which cannot be said of MD5.
            true => format!("SHA2({}, 256)", identifier(name)),
            false => identifier(name),
        };
        let columns: Vec<_> = self.columns.iter().map(column).collect();
        let all =
            format!("SELECT {} FROM {}.{}", columns.join(", "), identifier(&self.database), identifier(&self.table));
        if self.key.is_empty() {
            return vec![format!("{all} LIMIT {}", WHOLE + 1)];
        }
        let order =
            |way: &str| self.key.iter().map(|c| format!("{} {way}", identifier(c))).collect::<Vec<_>>().join(", ");
        vec![
            format!("{all} ORDER BY {} LIMIT {FIRST}", order("ASC")),
            format!("{all} ORDER BY {} LIMIT {LAST}", order("DESC")),
        ]
    }
}

/// What an engine holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holdings {
    /// What the engine says it is.
    pub number: Option<Number>,
    /// Kind and name of each object (`table shop.orders`), and its definition or contents as far as they are compared.
    pub objects: BTreeMap<String, String>,
    /// What each account may. A later version may add to it.
    pub privileges: Vec<String>,
    /// Digests of the columns of all tables. Empty: there was no time.
    #[serde(default)]
    pub columns: BTreeMap<String, String>,
    /// The same of their indexes. A table without one is not among them.
    #[serde(default)]
    pub keys: BTreeMap<String, String>,
    /// Digests of what was read of single tables (`columns of shop.orders`, `keys of`, `rows of`), where that was in time.
    #[serde(default)]
    pub read: BTreeMap<String, String>,
    /// What of single tables could not be read, and what the engine said.
    #[serde(default)]
    pub broken: BTreeMap<String, String>,
    /// How many tables there was no time for.
    #[serde(default)]
    pub late: u64,
}

impl Holdings {
    /// In a sentence: how much of it is compared.
    pub fn summary(&self) -> String {
        let tables = self.read.keys().filter(|what| what.starts_with(ROWS)).count();
        let of_all = |what: &str, all: &BTreeMap<String, String>| match all.len() {
            0 => String::new(),
            all => format!(", {what}{all}"),
        };
        let (columns, keys) = (of_all(COLUMNS, &self.columns), of_all(KEYS, &self.keys));
        let broken = match self.broken.len() {
            0 => String::new(),
            broken => format!("; {broken} could not be read"),
        };
        let late = match self.late {
            0 => String::new(),
            late => format!("; there was no time to read {late} more"),
        };
        format!("{} objects, rows of {tables} tables{columns}{keys}{broken}{late}", self.objects.len())
    }
}

/// A name as it is compared: what was `utf8` is called `utf8mb3` since 10.6, and its collations likewise.
pub fn comparable(name: &str) -> String {
    match name.strip_prefix("utf8") {
        Some(rest) if rest.is_empty() || rest.starts_with('_') => format!("utf8mb3{rest}"),
        _ => name.to_owned(),
    }
}

/// What `after` lacks or has too much of. Empty: it holds what was held `before`. Single tables are compared as far as they were
/// read both times.
pub fn compare(before: &Holdings, after: &Holdings) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut told = BTreeSet::new();
    let mut differs = |id: &str, object: &str, message: String| {
        // What is read of all tables at once may be read of one of them, too.
        if told.insert(object.to_owned()) {
            findings.push(Finding::error(id, object, message, "none: the upgrade is undone by itself"));
        }
    };
    for (object, was) in &before.objects {
        match after.objects.get(object) {
            None => differs("proof.missing", object, "it is missing".to_owned()),
            Some(is) if is != was => differs("proof.changed", object, "it is not what it was".to_owned()),
            Some(_) => {}
        }
    }
    for object in after.objects.keys().filter(|object| !before.objects.contains_key(*object)) {
        differs("proof.extra", object, "it is there, and was not before".to_owned());
    }
    for (what, before, after) in [(COLUMNS, &before.columns, &after.columns), (KEYS, &before.keys, &after.keys)] {
        for (table, _) in before.iter().filter(|(table, was)| after.get(*table).is_some_and(|is| is != *was)) {
            differs("proof.changed", &format!("{what}{table}"), "they are not what they were".to_owned());
        }
    }
    for (what, was) in &before.read {
        match (after.read.get(what), after.broken.get(what)) {
            (Some(is), _) if is != was => differs("proof.changed", what, "they are not what they were".to_owned()),
            (_, Some(why)) => differs("proof.broken", what, format!("they cannot be read any more: {why}")),
            _ => {}
        }
    }
    let left: BTreeSet<_> = after.privileges.iter().collect();
    for privilege in before.privileges.iter().filter(|privilege| !left.contains(privilege)) {
        differs("proof.privilege", privilege, "it is missing".to_owned());
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::{Holdings, Sampled, comparable, compare};

    fn map(pairs: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn every_loss_change_and_surplus_is_found_and_new_privileges_are_not() {
        let before = Holdings {
            objects: map(&[("table a.b", "x"), ("view a.v", "y")]),
            privileges: vec!["u SELECT".to_owned()],
            columns: map(&[("a.b", "1"), ("a.gone", "1")]),
            keys: map(&[("a.b", "1"), ("a.unopened", "1")]),
            read: map(&[("keys of a.b", "1"), ("rows of a.b", "1"), ("rows of a.late", "1"), ("rows of a.bad", "1")]),
            ..Holdings::default()
        };
        assert_eq!(compare(&before, &before), []);
        let after = Holdings {
            objects: map(&[("table a.b", "z"), ("table a.c", "")]),
            privileges: vec!["u INSERT".to_owned()],
            columns: map(&[("a.b", "2")]),
            keys: map(&[("a.b", "2")]),
            read: map(&[("keys of a.b", "2"), ("rows of a.b", "2")]),
            broken: map(&[("rows of a.bad", "it is crashed")]),
            ..before.clone()
        };
        let found: Vec<_> = compare(&before, &after).into_iter().map(|f| format!("{} {}", f.id, f.object)).collect();
        assert_eq!(
            found,
            [
                "proof.changed table a.b",
                "proof.missing view a.v",
                "proof.extra table a.c",
                "proof.changed columns of a.b",
                "proof.changed keys of a.b",
                "proof.changed rows of a.b",
                "proof.broken rows of a.bad",
                "proof.privilege u SELECT"
            ]
        );
        assert_eq!(after.summary(), "2 objects, rows of 1 tables, columns of 1, keys of 1; 1 could not be read");
    }

    #[test]
    fn a_character_set_is_the_same_by_both_its_names() {
        for (name, known) in [
            ("utf8", "utf8mb3"),
            ("utf8mb3", "utf8mb3"),
            ("utf8_general_ci", "utf8mb3_general_ci"),
            ("utf8mb4", "utf8mb4"),
            ("latin1", "latin1"),
        ] {
            assert_eq!(comparable(name), known);
        }
    }

    #[test]
    fn of_no_table_more_is_read_than_some_hundred_short_rows() {
        let mut table = Sampled {
            database: "a".to_owned(),
            table: "b`c".to_owned(),
            columns: ["id", "text"].map(str::to_owned).into(),
            long: vec!["text".to_owned()],
            key: vec!["id".to_owned()],
        };
        assert_eq!(
            table.questions(),
            [
                "SELECT `id`, SHA2(`text`, 256) FROM `a`.`b``c` ORDER BY `id` ASC LIMIT 200",
                "SELECT `id`, SHA2(`text`, 256) FROM `a`.`b``c` ORDER BY `id` DESC LIMIT 20"
            ]
        );
        table.key.clear();
        assert_eq!(table.questions(), ["SELECT `id`, SHA2(`text`, 256) FROM `a`.`b``c` LIMIT 201"]);
    }
}
