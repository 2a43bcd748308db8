//! The configuration file and the first accounts: what is in them and how they are written.
//!
//! A file is rendered from a spec as a whole: the base (from flavor), what the tenant asked for, and what the agent owns,
//! which comes last and so wins. Nothing is ever edited in place.

use std::fmt::Write as _;

use super::dialect::Dialect;
use super::settings::is_owned;
use crate::spec::EngineSpec;

/// Where an engine finds its things inside its sandbox.
pub const DATA: &str = "/data";
pub const CONFIG_FILE: &str = "/conf/my.cnf";
/// The names that the engine finds for user ids. By them it knows the agent at its socket.
pub const PASSWD_FILE: &str = "/conf/passwd";
/// The engine's certificate and its key, in one file.
pub const CERTIFICATE_FILE: &str = "/conf/tls.pem";
pub const SOCKET: &str = "/run/mysql.sock";
/// Where temporary tables go: on the volume, since the sandbox's own `/tmp` is small.
pub const TMP: &str = "/run/tmp";

/// The account of the agent. It is let in by the user id at the other end of the unix socket and has no password.
pub const AGENT: &str = "coffer";
/// The account that the tenant gets at creation.
pub const TENANT: &str = "admin";
/// The account of whoever measures what clients see. It may log in and nothing else.
pub const PROBE: &str = "coffer_probe";

/// What measures around a stop change for a while.
const HELD: &[&str] = &[
    "event_scheduler",
    "innodb_fast_shutdown",
    "innodb_max_dirty_pages_pct",
    "innodb_max_dirty_pages_pct_lwm",
    "read_only",
];

/// Whether measures change this setting for a while.
pub(crate) fn is_held(name: &str) -> bool {
    HELD.contains(&name)
}

/// Whether an account is Coffer's or the engine's own, and not the tenant's.
pub fn is_internal(user: &str) -> bool {
    [AGENT, PROBE, "mariadb.sys", "mysql.infoschema", "mysql.session", "mysql.sys", "root"].contains(&user)
}

/// Whether an account is the tenant's, among them the `root` that may be enabled, at any host: the engine's own is at `localhost`.
pub fn is_tenants(user: &str, host: &str) -> bool {
    !is_internal(user) || (user == "root" && host == "%")
}

/// Databases that are the engine's own.
pub const SYSTEM_DATABASES: &[&str] = &["information_schema", "mysql", "performance_schema", "sys"];

/// The privileges that the tenant has on all databases but the engine's own. Not among them: to pass them on, since
/// whoever has them by another's grant has them on the engine's own too.
const TENANT_PRIVILEGES: &[&str] = &[
    "Select",
    "Insert",
    "Update",
    "Delete",
    "Create",
    "Drop",
    "References",
    "Index",
    "Alter",
    "Create_tmp_table",
    "Lock_tables",
    "Create_view",
    "Show_view",
    "Create_routine",
    "Alter_routine",
    "Execute",
    "Event",
    "Trigger",
    "Delete_history",
];
/// `PROCESS`, `SHOW DATABASES` and `BINLOG MONITOR`, as the bits in which accounts are stored.
const TENANT_GLOBAL: u64 = 1 << 8 | 1 << 14 | 1 << 20;
/// Every privilege that there is or will be, as the engine's own scripts write it for root.
const EVERYTHING: u64 = u64::MAX;

/// What the agent's own sessions are, whatever the settings say of sessions: they neither end nor give half an answer by
/// themselves, and say values in the same way on every engine.
pub const SESSION: [&str; 2] = [
    "SET SESSION sql_mode = '', autocommit = 1, max_statement_time = 0, sql_select_limit = 18446744073709551615, \
     sql_safe_updates = 0, wait_timeout = 31536000, time_zone = '+00:00'",
    "SET SESSION TRANSACTION READ WRITE",
];

/// Settings that sessions begin with and by which a program of the engine's own would be cut short, and what they are while it
/// runs. An engine does not have all of them.
pub const UNLIMITED: &[(&str, &str)] = &[
    ("autocommit", "1"),
    ("max_statement_time", "0"),
    ("sql_safe_updates", "0"),
    ("sql_select_limit", "18446744073709551615"),
    ("transaction_read_only", "0"),
    ("tx_read_only", "0"),
    ("wait_timeout", "31536000"),
];

/// The share of the memory that is the buffer pool.
const POOL_SHARE: u64 = 2;
/// How much memory there is for each connection, buffers included.
const BYTES_A_CONNECTION: u64 = 2 << 20;

/// How many clients are let in at once.
pub fn max_connections(spec: &EngineSpec) -> u64 {
    let asked = spec.settings.get("max_connections").and_then(|value| value.parse().ok());
    asked.unwrap_or_else(|| (spec.memory_bytes / BYTES_A_CONNECTION).clamp(100, 4000))
}

/// Whether the event scheduler runs once clients are let in.
pub fn runs_events(spec: &EngineSpec) -> bool {
    match spec.settings.get("event_scheduler") {
        Some(value) => is_on(value),
        None => Dialect::of(spec).runs_events_by_default(),
    }
}

/// Whether an engine makes a certificate for itself at each start unless it is given one. The key takes it up to two seconds, in which
/// nobody is served. MySQL makes one with its data, and keeps it.
pub fn lacks_certificate(spec: &EngineSpec) -> bool {
    Dialect::of(spec) == Dialect::MariaDb && spec.number.at_least(11, 4)
}

/// Whether a value of a switch turns it on.
pub fn is_on(value: &str) -> bool {
    ["on", "1", "true"].contains(&value.to_ascii_lowercase().as_str())
}

/// The whole of `my.cnf`.
pub fn render(spec: &EngineSpec) -> String {
    let mut text = String::from("# Written by coffer at every start; changes are lost.\n[mysqld]\n");
    for (name, value) in settings(spec) {
        let _ = writeln!(text, "{name} = {}", quoted(&value));
    }
    text
}

/// What an engine is told of one setting; `None` where its own default holds.
pub fn told(spec: &EngineSpec, name: &str) -> Option<String> {
    if name == "event_scheduler" {
        // The file has it off for the start alone.
        return Some(if runs_events(spec) { "ON" } else { "OFF" }.to_owned());
    }
    settings(spec).into_iter().rev().find(|(told, _)| told == name).map(|(_, value)| value)
}

/// All that an engine is told, in order: of two that have one name the later one counts.
pub fn settings(spec: &EngineSpec) -> Vec<(String, String)> {
    let pool = (spec.memory_bytes / POOL_SHARE).max(16 << 20) >> 20 << 20;
    let mut all = Vec::new();
    let mut with = |name: &str, value: &str| all.push((name.to_owned(), value.to_owned()));
    with("innodb_buffer_pool_size", &pool.to_string());
    with("max_connections", &max_connections(spec).to_string());
    // The events are off until clients are let in; see `runs_events`.
    for (name, value) in spec.settings.iter().filter(|(name, _)| *name != "event_scheduler" && !is_owned(name)) {
        with(name, value);
    }
    for (name, value) in [
        ("datadir", DATA),
        ("socket", SOCKET),
        ("tmpdir", TMP),
        ("pid_file", "/run/mysql.pid"),
        ("bind_address", &spec.address.to_string()),
        ("port", &spec.datastore().port().to_string()),
        ("skip_name_resolve", "ON"),
        ("symbolic_links", "OFF"),
        ("secure_file_priv", "/run"),
        ("event_scheduler", "OFF"),
    ] {
        with(name, value);
    }
    for (name, value) in Dialect::of(spec).owned_settings() {
        with(name, value);
    }
    if lacks_certificate(spec) {
        with("ssl_cert", CERTIFICATE_FILE);
        with("ssl_key", CERTIFICATE_FILE);
    }
    all
}

/// A value as the option file takes any text: in quotes, with the escapes that it knows.
fn quoted(value: &str) -> String {
    let mut text = String::from("\"");
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            c => text.push(c),
        }
    }
    text.push('"');
    text
}

/// A text as a literal of SQL, whatever the SQL mode says about backslashes.
pub fn literal(text: &[u8]) -> String {
    let mut sql = String::from("X'");
    for byte in text {
        let _ = write!(sql, "{byte:02x}");
    }
    sql.push('\'');
    sql
}

/// A name as an identifier of SQL.
pub fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// What comes before the engine's own scripts when a data directory is made. A statement a line, as the bootstrap reads.
pub fn bootstrap_begin() -> String {
    SESSION.map(|statement| format!("{statement};\n")).concat()
        + "create database mysql;\nuse mysql;\nSET @auth_root_socket='coffer';\n"
}

/// What comes after them: the accounts. Written as rows, since the bootstrap has no accounts yet that could be altered.
pub fn bootstrap_end(tenant_password: &str, probe_password: &str) -> String {
    let mut sql = String::from("DELETE FROM mysql.global_priv WHERE User <> 'mariadb.sys';\n");
    sql += "DELETE FROM mysql.proxies_priv;\nDELETE FROM mysql.db;\n";
    let _ = writeln!(
        sql,
        "INSERT INTO mysql.global_priv VALUES ('localhost','{AGENT}','{{\"access\":{EVERYTHING},\"plugin\":\"unix_socket\",\
         \"authentication_string\":\"\"}}');"
    );
    for (user, access, password) in [(TENANT, TENANT_GLOBAL, tenant_password), (PROBE, 0, probe_password)] {
        let _ = writeln!(
            sql,
            "INSERT INTO mysql.global_priv VALUES ('%','{user}',CONCAT('{{\"access\":{access},\"plugin\":\
             \"mysql_native_password\",\"authentication_string\":\"',PASSWORD({}),'\"}}'));",
            literal(password.as_bytes())
        );
    }
    let columns: String = TENANT_PRIVILEGES.iter().fold(String::new(), |list, name| format!("{list},{name}_priv"));
    let yes = ",'Y'".repeat(TENANT_PRIVILEGES.len());
    let _ = writeln!(sql, "INSERT INTO mysql.db (Host,Db,User{columns}) VALUES ('%','%','{TENANT}'{yes});");
    // The exact name goes before the pattern: of the engine's own databases the tenant gets next to nothing.
    for database in ["mysql", "sys"] {
        let _ = writeln!(
            sql,
            "INSERT INTO mysql.db (Host,Db,User,Show_view_priv) VALUES ('%','{database}','{TENANT}','Y');"
        );
    }
    sql
}

/// The file by which the engine knows who is at the other end of its socket: these user ids are the agent.
pub fn passwd(uids: &[u32]) -> String {
    let mut text = String::new();
    for uid in uids {
        let _ = writeln!(text, "{AGENT}:x:{uid}:{uid}:coffer:/:/usr/sbin/nologin");
    }
    text + "nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"
}

#[cfg(test)]
mod tests {
    use super::{bootstrap_begin, bootstrap_end, identifier, literal, quoted};

    #[test]
    fn any_text_is_one_value_one_literal_and_one_identifier() {
        assert_eq!(quoted("a\\b\"c\nd # e"), "\"a\\\\b\\\"c\\nd # e\"");
        assert_eq!(literal(b"it's"), "X'69742773'");
        assert_eq!(identifier("a`b"), "`a``b`");
    }

    #[test]
    fn passwords_are_never_in_the_bootstrap_as_they_are() {
        let sql = bootstrap_begin() + &bootstrap_end("swordfish", "herring");
        assert!(!sql.contains("swordfish") && !sql.contains("herring"));
        assert!(sql.lines().all(|line| line.ends_with(';')), "the bootstrap reads a statement a line");
    }
}
