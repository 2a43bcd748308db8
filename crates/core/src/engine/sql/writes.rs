//! How much was written to MariaDB or MySQL, by the engine's own counts.

use std::collections::BTreeMap;

/// How a counter of statements is called, before the statement.
pub const COUNTERS: &str = "Com_";
/// The statements that change rows.
const ROWS: &[&str] = &[
    "insert",
    "insert_select",
    "replace",
    "replace_select",
    "update",
    "update_multi",
    "delete",
    "delete_multi",
    "load",
    "truncate",
    "import_table_from_sdi",
];
/// How those begin that change what there is, and who may do what.
const DEFINITIONS: &[&str] = &["create_", "alter_", "drop_", "rename_", "grant", "revoke", "set_password"];

/// How many statements that change data an engine has done since it started, from its counters. Those of procedures and
/// events are among them.
pub fn count(counters: &BTreeMap<String, String>) -> u64 {
    let counted = counters.iter().filter(|(name, _)| name.strip_prefix(COUNTERS).is_some_and(changes));
    counted.filter_map(|(_, value)| value.parse::<u64>().ok()).sum()
}

fn changes(statement: &str) -> bool {
    // Temporary tables go with their connection.
    let lasts = !statement.contains("temporary");
    lasts && (ROWS.contains(&statement) || DEFINITIONS.iter().any(|begin| statement.starts_with(begin)))
}

#[cfg(test)]
mod tests {
    use super::count;

    #[test]
    fn statements_that_change_something_are_counted_and_nothing_else() {
        let counters = [
            ("Com_insert", "5"),
            ("Com_update_multi", "1"),
            ("Com_create_table", "2"),
            ("Com_grant", "1"),
            ("Com_drop_temporary_table", "50"),
            ("Com_select", "1000"),
            ("Com_show_create_table", "9"),
            ("Com_commit", "4"),
            ("Com_stmt_prepare", "7"),
            ("Com_delete", "many"),
            ("Handler_write", "8"),
        ];
        assert_eq!(count(&counters.map(|(name, value)| (name.to_owned(), value.to_owned())).into()), 9);
    }
}
