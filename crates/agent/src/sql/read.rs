//! Reads what an engine holds, as far as it is compared.

use std::collections::BTreeMap;

use coffer_core::engine::sql::config::{SYSTEM_DATABASES, identifier, is_internal};
use coffer_core::engine::sql::proof::{Holdings, Sampled};
use sha2::{Digest as _, Sha256};

use super::Client;
use super::client::text;
use crate::site::{Error, hex};

/// So many tables are read. Of more, as many that are chosen by their name's digest.
const TABLES: usize = 200;
/// Tables with up to so many rows are read as a whole.
const WHOLE: u64 = 1000;
/// Of larger ones so many rows from either end of the primary key.
const ROWS: usize = 20;

/// Chooses the tables that are read, and how. The same tables give the same choice.
pub(super) async fn choose(client: &Client) -> Result<Vec<Sampled>, Error> {
    let sql = format!(
        "SELECT table_schema, table_name, IFNULL(table_rows, 0) FROM information_schema.tables \
         WHERE table_type IN ('BASE TABLE', 'SYSTEM VERSIONED') AND table_schema NOT IN ({})",
        system()
    );
    let mut tables = client.rows("the list of tables", &sql).await?;
    tables.sort_by_key(|row| digest(&[row[0].clone(), row[1].clone()]));
    tables.truncate(TABLES);
    let keys = keys(client).await?;
    let sampled = tables.iter().filter_map(|row| {
        let (database, table) = (text(row, 0), text(row, 1));
        let small = text(row, 2).parse::<u64>().is_ok_and(|rows| rows <= WHOLE);
        let key = keys.get(&(database.clone(), table.clone())).cloned().unwrap_or_default();
        // A large one without a key has no order to read by.
        (small || !key.is_empty()).then(|| Sampled { database, table, key: if small { Vec::new() } else { key } })
    });
    Ok(sampled.collect())
}

async fn keys(client: &Client) -> Result<BTreeMap<(String, String), Vec<String>>, Error> {
    let sql = format!(
        "SELECT table_schema, table_name, column_name FROM information_schema.key_column_usage \
         WHERE constraint_name = 'PRIMARY' AND table_schema NOT IN ({}) ORDER BY 1, 2, ordinal_position",
        system()
    );
    let mut keys = BTreeMap::<_, Vec<_>>::new();
    for row in client.rows("the list of keys", &sql).await? {
        keys.entry((text(&row, 0), text(&row, 1))).or_default().push(text(&row, 2));
    }
    Ok(keys)
}

/// What there is. Nobody may write meanwhile.
pub(super) async fn holdings(client: &Client, tables: &[Sampled]) -> Result<Holdings, Error> {
    client.run("SET NAMES", "SET NAMES utf8mb4").await?;
    let mut holdings = Holdings { number: Some(client.version().await?), ..Holdings::default() };
    let system = system();
    for (kind, sql) in [
        (
            "database",
            format!(
                "SELECT schema_name, default_character_set_name, default_collation_name FROM information_schema.schemata WHERE schema_name NOT IN ({system})"
            ),
        ),
        (
            "table",
            format!(
                "SELECT CONCAT(table_schema, '.', table_name), table_type, engine, table_collation FROM information_schema.tables WHERE table_schema NOT IN ({system})"
            ),
        ),
        (
            "routine",
            format!(
                "SELECT CONCAT(routine_schema, '.', routine_name), routine_type, definer, sql_mode, routine_definition FROM information_schema.routines WHERE routine_schema NOT IN ({system})"
            ),
        ),
        (
            "trigger",
            format!(
                "SELECT CONCAT(trigger_schema, '.', trigger_name), event_object_table, event_manipulation, action_timing, definer, action_statement FROM information_schema.triggers WHERE trigger_schema NOT IN ({system})"
            ),
        ),
        (
            "event",
            format!(
                "SELECT CONCAT(event_schema, '.', event_name), status, definer, interval_value, interval_field, event_definition FROM information_schema.events WHERE event_schema NOT IN ({system})"
            ),
        ),
    ] {
        for row in client.rows("the question what there is", &sql).await? {
            holdings.objects.insert(format!("{kind} {}", text(&row, 0)), digest(&row[1..]));
        }
    }
    for row in client
        .rows("the list of accounts", "SELECT user, host, plugin, authentication_string, is_role FROM mysql.user")
        .await?
    {
        if !is_internal(&text(&row, 0)) {
            holdings.objects.insert(format!("user {}@{}", text(&row, 0), text(&row, 1)), digest(&row[2..]));
        }
    }
    for sql in [
        "SELECT grantee, '', privilege_type FROM information_schema.user_privileges",
        "SELECT grantee, table_schema, privilege_type FROM information_schema.schema_privileges",
        "SELECT grantee, CONCAT(table_schema, '.', table_name), privilege_type FROM information_schema.table_privileges",
    ] {
        for row in client.rows("the list of privileges", sql).await? {
            let user = text(&row, 0);
            let user = user.trim_start_matches('\'').split('\'').next().unwrap_or_default();
            if !is_internal(user) {
                holdings.privileges.push(format!("{} of {} on {}", text(&row, 2), text(&row, 0), text(&row, 1)));
            }
        }
    }
    for table in tables {
        let name = format!("rows of {}.{}", table.database, table.table);
        holdings.objects.insert(name, rows(client, table).await?);
        holdings.sampled += 1;
    }
    Ok(holdings)
}

/// Digest of the rows that are read of a table, and how many they are.
async fn rows(client: &Client, table: &Sampled) -> Result<String, Error> {
    let from = format!("SELECT * FROM {}.{}", identifier(&table.database), identifier(&table.table));
    let questions = if table.key.is_empty() {
        vec![from]
    } else {
        let order =
            |way: &str| table.key.iter().map(|c| format!("{} {way}", identifier(c))).collect::<Vec<_>>().join(", ");
        ["ASC", "DESC"].map(|way| format!("{from} ORDER BY {} LIMIT {ROWS}", order(way))).into()
    };
    let mut digests = Vec::new();
    for sql in questions {
        digests.extend(client.rows("the rows of a table", &sql).await?.iter().map(|row| digest(row)));
    }
    // Tables without an order may give their rows in any.
    digests.sort();
    Ok(format!("{} rows, {}", digests.len(), hex(&Sha256::digest(digests.concat()))))
}

/// Length first, so that no two different rows are the same bytes.
fn digest(row: &[Option<Vec<u8>>]) -> String {
    let mut hash = Sha256::new();
    for column in row {
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
