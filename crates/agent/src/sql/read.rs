//! Reads what an engine holds, as far as it is compared.
//!
//! While writes wait nothing is read that grows with the data: names and definitions, and of some tables a few hundred rows,
//! which the engine gives up when they take too long.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use coffer_core::engine::sql::config::{SYSTEM_DATABASES, is_tenants, literal};
use coffer_core::engine::sql::proof::{COLUMNS, Holdings, KEYS, LASTING, LONG, ROWS, Sampled, WHOLE, comparable};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::Client;
use super::client::{Texts, text};
use crate::site::{Error, hex};

/// So many tables are read. Of more, as many that are chosen by their name's digest.
const TABLES: usize = 200;

/// How long the reading of tables may take.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    whole: Duration,
    table: Duration,
}

/// While writes wait.
pub(super) const QUICK: Limits = Limits { whole: Duration::from_secs(1), table: Duration::from_millis(200) };
/// Of an engine that has nothing in its memory yet.
pub(super) const PATIENT: Limits = Limits { whole: Duration::from_secs(10), table: Duration::from_secs(3) };

/// Types without a length that may be long. Vectors are of a type that the protocol's library does not know.
const UNMEASURED: &str = "'geometry', 'point', 'linestring', 'polygon', 'multipoint', 'multilinestring', 'multipolygon', \
                          'geometrycollection', 'geomcollection', 'vector'";

/// What is compared of an index of each of many tables. Its kind would have MariaDB open them.
const INDEX: &str = "index_name, non_unique, seq_in_index, column_name, sub_part";

/// What is compared of a column. Old forms of times are marked by a comment until they are stored in the newer one.
const COLUMN: &str = "column_name, ordinal_position, SUBSTRING_INDEX(column_type, ' /*', 1), is_nullable, character_set_name, \
                      collation_name, column_key";

/// Objects that are compared by all that is told of them: what they are, and the question, which has their name first.
/// `{system}` is in the place of the engine's own databases.
const OBJECTS: &[(&str, &str)] = &[
    (
        "database",
        "SELECT schema_name, default_character_set_name, default_collation_name FROM information_schema.schemata \
         WHERE schema_name NOT IN ({system})",
    ),
    (
        "table",
        "SELECT CONCAT(table_schema, '.', table_name) FROM information_schema.tables WHERE table_schema NOT IN ({system})",
    ),
    (
        "view",
        "SELECT CONCAT(table_schema, '.', table_name), definer, security_type, check_option, view_definition \
         FROM information_schema.views WHERE table_schema NOT IN ({system})",
    ),
    (
        "routine",
        "SELECT CONCAT(routine_schema, '.', routine_name), routine_type, definer, sql_mode, routine_definition \
         FROM information_schema.routines WHERE routine_schema NOT IN ({system})",
    ),
    (
        "parameter",
        "SELECT CONCAT(specific_schema, '.', specific_name, ' ', routine_type, ' ', ordinal_position), parameter_mode, \
         parameter_name, data_type FROM information_schema.parameters WHERE specific_schema NOT IN ({system})",
    ),
    (
        "trigger",
        "SELECT CONCAT(trigger_schema, '.', trigger_name), event_object_table, event_manipulation, action_timing, definer, \
         action_statement FROM information_schema.triggers WHERE trigger_schema NOT IN ({system})",
    ),
    (
        "event",
        "SELECT CONCAT(event_schema, '.', event_name), status, definer, interval_value, interval_field, event_definition \
         FROM information_schema.events WHERE event_schema NOT IN ({system})",
    ),
];

/// What accounts may: to whom, on what, what.
const PRIVILEGES: &[&str] = &[
    "SELECT grantee, '', privilege_type FROM information_schema.user_privileges",
    "SELECT grantee, table_schema, privilege_type FROM information_schema.schema_privileges",
    "SELECT grantee, CONCAT(table_schema, '.', table_name), privilege_type FROM information_schema.table_privileges",
    "SELECT grantee, CONCAT(table_schema, '.', table_name, '.', column_name), privilege_type \
     FROM information_schema.column_privileges",
    "SELECT CONCAT('''', user, '''@''', host, ''''), CONCAT(db, '.', routine_name), CONCAT(routine_type, ' ', proc_priv) \
     FROM mysql.procs_priv",
];

/// Chooses the tables that are read, and how. The same tables give the same choice. With the names of what has columns and is
/// no table.
pub(super) async fn choose(client: &Client) -> Result<(Vec<Sampled>, BTreeSet<String>), Error> {
    let sql = format!(
        "SELECT table_schema, table_name, engine, table_type IN ('BASE TABLE', 'SYSTEM VERSIONED') \
         FROM information_schema.tables WHERE table_schema NOT IN ({})",
        system()
    );
    let all = client.rows("the list of tables", &sql).await?;
    let (mut tables, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|row| text(row, 3) == "1");
    let others = others.iter().map(|row| format!("{}.{}", text(row, 0), text(row, 1))).collect();
    tables.retain(|row| LASTING.contains(&text(row, 2).as_str()));
    tables.sort_by_key(|row| digest(&row[..2]));
    tables.truncate(TABLES);
    let mut sampled = Vec::new();
    for row in &tables {
        let mut table = Sampled { database: text(row, 0), table: text(row, 1), ..Sampled::default() };
        let columns = format!(
            "SELECT column_name, IFNULL(character_octet_length, 0) > {LONG} OR data_type IN ({UNMEASURED}) \
             FROM information_schema.columns WHERE {} AND IFNULL(generation_expression, '') = '' ORDER BY ordinal_position",
            of(&table)
        );
        for row in client.rows("the columns of a table", &columns).await? {
            if text(&row, 1) == "1" {
                table.long.push(text(&row, 0));
            }
            table.columns.push(text(&row, 0));
        }
        let key = format!(
            "SELECT column_name FROM information_schema.statistics WHERE {} AND index_name = 'PRIMARY' ORDER BY seq_in_index",
            of(&table)
        );
        table.key = client.rows("the key of a table", &key).await?.iter().map(|row| text(row, 0)).collect();
        if !table.columns.is_empty() {
            sampled.push(table);
        }
    }
    Ok((sampled, others))
}

/// What is asked of all tables at once, and which ones are none.
pub(super) struct OfAll<'a> {
    pub others: &'a BTreeSet<String>,
    pub columns: bool,
    pub keys: bool,
}

/// What there is. Nobody may write meanwhile.
pub(super) async fn holdings(
    client: &Client,
    tables: &[Sampled],
    of_all: Option<OfAll<'_>>,
    limits: Limits,
) -> Result<Holdings, Error> {
    let mut holdings = Holdings { number: Some(client.version().await?), ..Holdings::default() };
    let system = system();
    for (kind, sql) in OBJECTS {
        for row in client.rows("the question what there is", &sql.replace("{system}", &system)).await? {
            holdings.objects.insert(format!("{kind} {}", text(&row, 0)), digest_of_names(&row[1..]));
        }
    }
    // Whose they are comes first: the internal ones are not compared.
    for (kind, sql) in client.dialect.accounts() {
        for row in client.rows("the list of accounts", sql).await? {
            // The host has more after it where the row is about a role.
            if is_tenants(&text(&row, 0), text(&row, 1).split(' ').next().unwrap_or_default()) {
                let name = format!("{kind} {}@{}", text(&row, 0), text(&row, 1));
                holdings.objects.insert(name, digest(&row[2..]));
            }
        }
    }
    for sql in PRIVILEGES {
        for row in client.rows("the list of privileges", sql).await? {
            let grantee = text(&row, 0);
            let (user, host) = grantee.trim_matches('\'').split_once("'@'").unwrap_or((grantee.trim_matches('\''), ""));
            if is_tenants(user, host) {
                holdings.privileges.push(format!("{} of {} on {}", text(&row, 2), text(&row, 0), text(&row, 1)));
            }
        }
    }
    let end = Instant::now() + limits.whole;
    if let Some(all) = of_all {
        let until = Instant::now() + limits.table;
        if all.columns {
            holdings.columns = of_each(client, COLUMN, "columns", all.others, until).await?;
        }
        if all.keys {
            holdings.keys = of_each(client, INDEX, "statistics", all.others, until).await?;
        }
    }
    for table in tables {
        read(client, table, end.min(Instant::now() + limits.table), &mut holdings).await?;
    }
    Ok(holdings)
}

/// What the information schema has of each table but these others, if it is told until then.
async fn of_each(
    client: &Client,
    what: &str,
    from: &str,
    others: &BTreeSet<String>,
    until: Instant,
) -> Result<BTreeMap<String, String>, Error> {
    let left = until.saturating_duration_since(Instant::now());
    // No time at all would be none that is limited.
    if left.as_millis() == 0 {
        return Ok(BTreeMap::new());
    }
    let sql = format!(
        "SELECT table_schema, table_name, {what} FROM information_schema.{from} WHERE table_schema NOT IN ({})",
        system()
    );
    let rows = match client.rows_within("what all tables have", &sql, left).await {
        Ok(rows) => rows,
        Err(Error::Late { .. }) => return Ok(BTreeMap::new()),
        Err(e) => return Err(e),
    };
    let mut tables: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in &rows {
        let table = format!("{}.{}", text(row, 0), text(row, 1));
        if !others.contains(&table) {
            tables.entry(table).or_default().push(digest_of_names(&row[2..]));
        }
    }
    Ok(tables.into_iter().map(|(table, mut rows)| (table, digest_of_rows(&mut rows))).collect())
}

/// Reads a table, as far as it can be read until then.
async fn read(client: &Client, table: &Sampled, until: Instant, holdings: &mut Holdings) -> Result<(), Error> {
    let columns =
        format!("SELECT {COLUMN} FROM information_schema.columns WHERE {} ORDER BY ordinal_position", of(table));
    let keys = format!(
        "SELECT index_name, non_unique, seq_in_index, column_name, sub_part, index_type FROM information_schema.statistics \
         WHERE {} ORDER BY index_name, seq_in_index",
        of(table)
    );
    // The rows first: a table that was not closed is repaired by whoever opens it, and until then it looks as if it had no keys.
    for (what, questions) in [(ROWS, table.questions()), (COLUMNS, vec![columns]), (KEYS, vec![keys])] {
        if what == COLUMNS && !holdings.columns.is_empty() {
            continue;
        }
        let is_data = what == ROWS;
        let what = format!("{what}{}", table.name());
        let mut rows = Vec::new();
        for sql in questions {
            let left = until.saturating_duration_since(Instant::now());
            // No time at all would be none that is limited.
            let asked = match left.as_millis() {
                0 => Err(Error::Late { what: "answer", within: left, detail: String::new() }),
                _ => client.rows_within("the rows of a table", &sql, left).await,
            };
            match asked {
                Ok(found) => rows.extend(found),
                Err(Error::Late { .. }) => {
                    holdings.late += 1;
                    return Ok(());
                }
                // It is broken, or has gone since it was chosen.
                Err(Error::Refused { reason, .. }) => {
                    holdings.broken.insert(what, reason);
                    return Ok(());
                }
                Err(e) => return Err(e),
            }
        }
        let tells_nothing = match is_data {
            // Without a key there is no order to read some of them by.
            true => table.key.is_empty() && rows.len() > WHOLE,
            // It could not be opened.
            false => rows.is_empty(),
        };
        if tells_nothing {
            continue;
        }
        let mut digests: Vec<_> =
            rows.iter().map(|row| if is_data { digest(row) } else { digest_of_names(row) }).collect();
        holdings.read.insert(what, digest_of_rows(&mut digests));
    }
    Ok(())
}

/// Of rows that may come in any order.
fn digest_of_rows(digests: &mut [String]) -> String {
    digests.sort();
    format!("{} rows, {}", digests.len(), hex(&Sha256::digest(digests.concat())))
}

/// Which rows of the information schema are about the table.
fn of(table: &Sampled) -> String {
    let (database, table) = (literal(table.database.as_bytes()), literal(table.table.as_bytes()));
    format!("table_schema = {database} AND table_name = {table}")
}

/// Of what may be called in more than one way.
fn digest_of_names(row: impl AsRef<[Option<Vec<u8>>]>) -> String {
    let plain = |cell: &Option<Vec<u8>>| cell.as_ref().map(|c| comparable(&String::from_utf8_lossy(c)).into_bytes());
    digest(row.as_ref().iter().map(plain).collect::<Texts>())
}

/// Length first, so that no two different rows are the same bytes.
fn digest(row: impl AsRef<[Option<Vec<u8>>]>) -> String {
    let mut hash = Sha256::new();
    for column in row.as_ref() {
        match column {
            Some(bytes) => {
                hash.update(bytes.len().to_le_bytes());
                hash.update(bytes);
            }
            None => hash.update(usize::MAX.to_le_bytes()),
        }
    }
    hex(&hash.finalize())
}

fn system() -> String {
    SYSTEM_DATABASES.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ")
}
