//! Gathers what the checks before an upgrade judge, while the engine serves. Changes nothing but its own session.
//!
//! All of it has one limit of time, which the engine itself keeps, and each list one of length. What was not looked at to its end
//! is among the facts, so that nothing is passed over in silence.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

use coffer_core::engine::sql::checks::{BUSY_SECONDS, check, loses_compression, rebuilds_versioned, spares_compressed};
use coffer_core::engine::sql::config::{SYSTEM_DATABASES, identifier};
use coffer_core::engine::sql::dialect::Dialect;
use coffer_core::engine::sql::facts::{Account, Busy, Column, Facts, Program, Source, Work};
use coffer_core::engine::sql::features::Changes;
use coffer_core::finding::Finding;
use coffer_core::spec::EngineSpec;
use tokio::time::Instant;

use super::Client;
use super::client::{Texts, text};
use super::tables::{self, Known};
use crate::site::{Error, Paths};

/// How long all questions may take together.
const LIMIT: Duration = Duration::from_secs(60);
/// Why something was not looked at, or not to its end.
const LATE: &str = "the time for all checks was over";
/// How many rows of one list are looked at.
const ROWS: usize = 1000;
/// How much of one text is looked at.
const TEXT: usize = 256 << 10;
/// Where packages have their plugins, from the engine root on.
const PLUGIN_DIRS: [&str; 3] = ["usr/lib/mysql/plugin", "usr/lib64/mysql/plugin", "usr/lib/mariadb/plugin"];
/// Locks that only a backup takes, or whoever does as it does.
const BACKUP_LOCKS: &str = "'MDL_BACKUP_START','MDL_BACKUP_FLUSH','MDL_BACKUP_WAIT_FLUSH','MDL_BACKUP_WAIT_DDL',\
                            'MDL_BACKUP_WAIT_COMMIT','MDL_BACKUP_FTWRL1','MDL_BACKUP_FTWRL2'";
/// Who has such a lock of MySQL: that of `LOCK INSTANCE FOR BACKUP`, or the one that keeps everybody from writing. Without its
/// performance schema it shows none.
const MYSQL_BACKUPS: &str = "SELECT DISTINCT t.processlist_id, t.processlist_user, t.processlist_time \
                             FROM performance_schema.metadata_locks l JOIN performance_schema.threads t ON t.thread_id = l.owner_thread_id \
                             WHERE l.object_type IN ('BACKUP LOCK', 'GLOBAL') AND l.lock_type = 'SHARED' AND l.lock_status = 'GRANTED'";

/// Files of MariaDB whose checksums are of the newer kind (16) tell by what their pages are compressed, others only that they are.
const PAGE_COMPRESSED: &str = "SELECT REPLACE(name, '/', '.'), IF(flag & 16, \
                               ELT((flag >> 5 & 7) - 1, 'lz4', 'lzo', 'lzma', 'bzip2', 'snappy'), '') \
                               FROM information_schema.innodb_sys_tablespaces \
                               WHERE IF(flag & 16, flag >> 5 & 7 > 1, flag & 65536)";

impl Client {
    /// Everything that speaks against an upgrade. `root` is the target's engine root, where it is here. A connection that was used for this
    /// is good for nothing else: its session is set up for looking.
    pub(crate) async fn look(
        &self,
        from: &EngineSpec,
        to: &EngineSpec,
        paths: &Paths,
        root: Option<&Path>,
    ) -> Result<Vec<Finding>, Error> {
        let changes = Changes::between(from.datastore(), from.number, to.number);
        let survey = Survey {
            client: self,
            is_mysql: matches!(self.dialect, Dialect::MySql),
            deadline: Instant::now() + LIMIT,
            facts: Facts::default(),
        };
        let mut facts = survey.gather(&changes, from, to, paths).await?;
        facts.target_libraries = root.and_then(libraries);
        Ok(check(&facts, from, to))
    }
}

/// The libraries of plugins in an engine root.
fn libraries(root: &Path) -> Option<BTreeSet<String>> {
    let dir = PLUGIN_DIRS.iter().find_map(|dir| fs_err::read_dir(root.join(dir)).ok())?;
    Some(dir.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
}

struct Survey<'a> {
    client: &'a Client,
    is_mysql: bool,
    deadline: Instant,
    facts: Facts,
}

impl Survey<'_> {
    async fn gather(
        mut self,
        changes: &Changes,
        from: &EngineSpec,
        to: &EngineSpec,
        paths: &Paths,
    ) -> Result<Facts, Error> {
        // Nobody's lock is waited for, and what is refused is told in words that are known.
        self.client.run("SET", "SET SESSION lock_wait_timeout = 2, lc_messages = 'en_US'").await?;
        self.state().await?;
        self.busy().await?;
        self.replication().await?;
        self.accounts().await?;
        self.tables(from, to).await?;
        self.names(changes).await?;
        self.programs(changes).await?;
        self.definers().await?;
        self.views().await?;
        self.columns(changes).await?;
        let files = tables::list(paths)?;
        let known = self.known().await?;
        tables::look(&files, known.as_ref(), paths, &mut self.facts)?;
        Ok(self.facts)
    }

    /// The rows that a question gives, as far as time and [`ROWS`] allow; what is cut off is noted under `what`. The question ends where
    /// a `LIMIT` can follow, but for those that take none.
    async fn ask(&mut self, what: &str, sql: &str) -> Result<Vec<Texts>, Error> {
        let limited = match sql.starts_with("SELECT") {
            true => format!("{sql} LIMIT {}", ROWS + 1),
            false => sql.to_owned(),
        };
        let mut rows = self.ask_all(what, &limited).await?.unwrap_or_default();
        if rows.len() > ROWS {
            self.missed(what, format!("only the first {ROWS} were looked at"));
            rows.truncate(ROWS);
        }
        Ok(rows)
    }

    /// All rows, as far as time allows; `None`, and noted, where there is no answer.
    async fn ask_all(&mut self, what: &str, sql: &str) -> Result<Option<Vec<Texts>>, Error> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            self.missed(what, LATE);
            return Ok(None);
        }
        let what_for = "a question of the checks";
        let answered = match sql.starts_with("SELECT") {
            true => self.client.rows_within(what_for, sql, left).await,
            false => self.client.rows(what_for, sql).await,
        };
        match answered {
            Ok(rows) => Ok(Some(rows)),
            Err(Error::Refused { reason, .. }) => {
                self.missed(what, reason);
                Ok(None)
            }
            // The engine gave up the question, and the connection is good.
            Err(Error::Late { within, .. }) if within.is_zero() => {
                self.missed(what, LATE);
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    fn missed(&mut self, what: &str, why: impl Display) {
        self.facts.unchecked.push((what.to_owned(), why.to_string()));
    }

    async fn state(&mut self) -> Result<(), Error> {
        for name in ["innodb_force_recovery", "innodb_read_only", "myisam_use_mmap", "read_only"] {
            for row in self.ask("variables", &format!("SELECT @@GLOBAL.{name}")).await? {
                self.facts.variables.insert(name.to_owned(), text(&row, 0));
            }
        }
        self.facts.prepared = count(&self.ask("prepared transactions", "XA RECOVER").await?);
        let sql = "SELECT plugin_name, plugin_library FROM information_schema.plugins WHERE plugin_status = 'ACTIVE'";
        let plugins = self.ask("plugins", sql).await?;
        let library = |row: &Texts| row.get(1).and_then(Option::as_ref).map(|_| text(row, 1));
        self.facts.plugins = plugins.iter().map(|row| (text(row, 0), library(row))).collect();
        if self.is_mysql {
            let components = self.ask("components", "SELECT component_urn FROM mysql.component").await?;
            self.facts.components = firsts(&components);
        }
        Ok(())
    }

    async fn busy(&mut self) -> Result<(), Error> {
        // Statements may hold secrets, so only what kind they are leaves the engine.
        let sql = format!(
            "SELECT p.id, p.user, IF(p.command = 'Query', p.time, 0) AS spent, \
             IFNULL(TIMESTAMPDIFF(SECOND, t.trx_started, NOW()), 0) AS open, CASE \
             WHEN p.info REGEXP '^[[:space:]]*(BACKUP[[:space:]]+STAGE|FLUSH[[:space:]]+TABLES|LOCK[[:space:]]+INSTANCE|CLONE[[:space:]])' THEN 'backup' \
             WHEN p.info REGEXP '^[[:space:]]*(ALTER[[:space:]].*TABLE|OPTIMIZE|REPAIR|CREATE[[:space:]].*INDEX|DROP[[:space:]]+INDEX)' \
             THEN 'definition' ELSE '' END AS kind FROM information_schema.processlist p \
             LEFT JOIN information_schema.innodb_trx t ON t.trx_mysql_thread_id = p.id \
             WHERE p.id <> CONNECTION_ID() AND p.user NOT IN ('system user', 'event_scheduler') \
             HAVING kind <> '' OR spent >= {BUSY_SECONDS} OR open >= {BUSY_SECONDS} ORDER BY GREATEST(spent, open) DESC"
        );
        for row in self.ask("connections", &sql).await? {
            let (spent, open) = (number(&row, 2), number(&row, 3));
            let (what, seconds) = match text(&row, 4).as_str() {
                "backup" => (Work::Backup, spent),
                "definition" => (Work::Definition, spent),
                _ if open > spent => (Work::Transaction, open),
                _ => (Work::Statement, spent),
            };
            self.facts.busy.push(Busy { connection: text(&row, 0), user: text(&row, 1), what, seconds });
        }
        // A backup that waits between two statements is seen by its locks, where the engine shows them.
        if self.is_mysql || self.facts.plugins.contains_key("METADATA_LOCK_INFO") {
            let sql = match self.is_mysql {
                true => MYSQL_BACKUPS.to_owned(),
                false => format!(
                    "SELECT DISTINCT l.thread_id, p.user, p.time FROM information_schema.metadata_lock_info l \
                     JOIN information_schema.processlist p ON p.id = l.thread_id WHERE l.lock_mode IN ({BACKUP_LOCKS})"
                ),
            };
            for row in self.ask("locks of backups", &sql).await? {
                let connection = text(&row, 0);
                self.facts.busy.retain(|busy| busy.connection != connection);
                let (user, seconds) = (text(&row, 1), number(&row, 2));
                self.facts.busy.push(Busy { connection, user, what: Work::Backup, seconds });
            }
        }
        Ok(())
    }

    async fn replication(&mut self) -> Result<(), Error> {
        // The places of what is looked at are the same in all versions: name, and seconds behind.
        let (sql, name, lag) = match self.is_mysql {
            true => ("SHOW REPLICA STATUS", 55, 32),
            false => ("SHOW ALL SLAVES STATUS", 0, 34),
        };
        for row in self.ask("replication", sql).await? {
            self.facts.sources.push(Source { name: text(&row, name), lag_seconds: text(&row, lag).parse().ok() });
        }
        let sql = "SELECT id FROM information_schema.processlist WHERE command LIKE 'Binlog Dump%'";
        self.facts.replicas = count(&self.ask("replicas", sql).await?);
        Ok(())
    }

    async fn accounts(&mut self) -> Result<(), Error> {
        let sql = match self.is_mysql {
            true => {
                "SELECT CONCAT(user, '@', host), CONCAT_WS(',', plugin, JSON_EXTRACT(user_attributes, '$.multi_factor_authentication[*].plugin')) AS by_ \
                 FROM mysql.user HAVING by_ <> 'caching_sha2_password'"
            }
            false => {
                "SELECT CONCAT(user, '@', host), CONCAT_WS(',', JSON_VALUE(priv, '$.plugin'), JSON_EXTRACT(priv, '$.auth_or[*].plugin')) AS by_ \
                 FROM mysql.global_priv HAVING by_ NOT IN ('', 'mysql_native_password', 'unix_socket')"
            }
        };
        for row in self.ask("accounts", sql).await? {
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let plugins = text(&row, 1).split(|c| !is_name(c)).filter(|p| !p.is_empty()).map(str::to_owned).collect();
            self.facts.accounts.push(Account { name: text(&row, 0), plugins });
        }
        Ok(())
    }

    async fn tables(&mut self, from: &EngineSpec, to: &EngineSpec) -> Result<(), Error> {
        let ours = ours("table_schema");
        let sql = format!(
            "SELECT IFNULL(engine, ''), MIN(CONCAT(table_schema, '.', table_name)) FROM information_schema.tables \
             WHERE table_type IN ('BASE TABLE', 'SYSTEM VERSIONED') AND {ours} GROUP BY 1"
        );
        let engines = self.ask("storage engines", &sql).await?;
        self.facts.engines = engines.iter().map(|row| (text(row, 0), text(row, 1))).collect();
        if rebuilds_versioned(from, to) {
            let sql = format!(
                "SELECT CONCAT(table_schema, '.', table_name) FROM information_schema.tables \
                 WHERE table_type = 'SYSTEM VERSIONED' AND {ours}"
            );
            let versioned = self.ask("system-versioned tables", &sql).await?;
            self.facts.versioned = versioned.iter().map(|row| (text(row, 0), 0)).collect();
        }
        if spares_compressed(to) {
            let sql = "SELECT REPLACE(name, '/', '.') FROM information_schema.innodb_sys_tables WHERE row_format = 'Compressed'";
            self.facts.compressed = firsts(&self.ask("compressed tables", sql).await?);
        }
        if loses_compression(from, to) {
            let tables = self.ask("tables with compressed pages", PAGE_COMPRESSED).await?;
            self.facts.page_compressed = tables.iter().map(|row| (text(row, 0), text(row, 1))).collect();
        }
        Ok(())
    }

    async fn names(&mut self, changes: &Changes) -> Result<(), Error> {
        let mut parts = Vec::new();
        if let Some(words) = list(&changes.words) {
            parts.push(format!(
                "SELECT CONCAT('table ', table_schema, '.', table_name) AS object, table_name AS name FROM information_schema.tables \
                 WHERE UPPER(table_name) IN ({words}) AND {}",
                ours("table_schema")
            ));
        }
        if let Some(words) = list(&(&changes.words | &changes.functions)) {
            parts.push(format!(
                "SELECT CONCAT(LOWER(routine_type), ' ', routine_schema, '.', routine_name), routine_name FROM information_schema.routines \
                 WHERE UPPER(routine_name) IN ({words}) AND {}",
                ours("routine_schema")
            ));
        }
        if !parts.is_empty() {
            let rows = self.ask("names", &parts.join(" UNION ALL ")).await?;
            self.facts.names = rows.iter().map(|row| (text(row, 0), text(row, 1))).collect();
        }
        Ok(())
    }

    async fn programs(&mut self, changes: &Changes) -> Result<(), Error> {
        let texts = pattern(&changes.words, &changes.gone_functions);
        let modes = pattern(&changes.gone_modes, []);
        // As they were written, with their parameters, where the engine has both.
        let routines = match self.is_mysql {
            true => [
                "LOWER(routine_type)",
                "routine_schema",
                "routine_name",
                "sql_mode",
                "routine_definition",
                "information_schema.routines",
            ],
            false => ["LOWER(type)", "db", "name", "sql_mode", "CONCAT_WS(' ', param_list, body_utf8)", "mysql.proc"],
        };
        let (triggers, events) = (
            [
                "'trigger'",
                "trigger_schema",
                "trigger_name",
                "sql_mode",
                "action_statement",
                "information_schema.triggers",
            ],
            ["'event'", "event_schema", "event_name", "sql_mode", "event_definition", "information_schema.events"],
        );
        for [kind, schema, name, mode, body, from] in [routines, triggers, events] {
            // A text of bytes is compared by its bytes unless it is told what it is.
            let body = format!("CONVERT({body} USING utf8mb4)");
            let conditions: Vec<_> = [(&body[..], &texts), (mode, &modes)]
                .into_iter()
                .filter_map(|(of, pattern)| Some(format!("{of} REGEXP {}", pattern.as_ref()?)))
                .collect();
            if !conditions.is_empty() {
                let object = format!("CONCAT({kind}, ' ', {schema}, '.', {name})");
                self.texts(from, &object, mode, &body, &format!("({}) AND {}", conditions.join(" OR "), ours(schema)))
                    .await?;
            }
        }
        if let Some(words) = list(&changes.words).filter(|_| self.is_mysql) {
            self.parameters(&words).await?;
        }
        if let Some(gone) = pattern(&changes.gone_plugins, &changes.gone_functions) {
            let object = "CONCAT('view ', table_schema, '.', table_name)";
            let which = format!("view_definition REGEXP {gone} AND {}", ours("table_schema"));
            self.texts("information_schema.views", object, "''", "view_definition", &which).await?;
        }
        // MariaDB would have to open every table, and has lost no function.
        if let Some(gone) = pattern([], &changes.gone_functions).filter(|_| self.is_mysql) {
            let before = self.facts.programs.len();
            let object = "CONCAT('check ', constraint_schema, '.', constraint_name)";
            let which = format!("check_clause REGEXP {gone} AND {}", ours("constraint_schema"));
            self.texts("information_schema.check_constraints", object, "''", "check_clause", &which).await?;
            let object = "CONCAT('index ', table_schema, '.', table_name, '.', index_name)";
            let which = format!("expression REGEXP {gone} AND {}", ours("table_schema"));
            self.texts("information_schema.statistics", object, "''", "expression", &which).await?;
            for program in self.facts.programs.iter_mut().skip(before) {
                program.text = unescaped(&program.text);
            }
        }
        Ok(())
    }

    async fn texts(&mut self, from: &str, object: &str, mode: &str, body: &str, which: &str) -> Result<(), Error> {
        let sql =
            format!("SELECT {object}, {mode}, LEFT({body}, {TEXT}), CHAR_LENGTH({body}) FROM {from} WHERE {which}");
        for row in self.ask(from, &sql).await? {
            let object = text(&row, 0);
            if number(&row, 3) > TEXT as u64 {
                self.missed(&object, format!("only its first {} KiB were looked at", TEXT >> 10));
            }
            self.facts.programs.push(Program { object, modes: text(&row, 1), text: text(&row, 2) });
        }
        Ok(())
    }

    /// Routines of MySQL whose parameters have one of these names: whether in quotes, only their whole text tells.
    async fn parameters(&mut self, words: &str) -> Result<(), Error> {
        let sql = format!(
            "SELECT DISTINCT routine_type, specific_schema, specific_name FROM information_schema.parameters \
             WHERE UPPER(parameter_name) IN ({words}) AND {}",
            ours("specific_schema")
        );
        for row in self.ask("parameters of routines", &sql).await? {
            let (kind, schema, name) = (text(&row, 0), text(&row, 1), text(&row, 2));
            let object = format!("{} {schema}.{name}", kind.to_lowercase());
            let sql = format!("SHOW CREATE {kind} {}.{}", identifier(&schema), identifier(&name));
            for row in self.ask(&object, &sql).await? {
                self.facts.programs.retain(|program| program.object != object);
                self.facts.programs.push(Program { object: object.clone(), modes: text(&row, 1), text: text(&row, 2) });
            }
        }
        Ok(())
    }

    async fn definers(&mut self) -> Result<(), Error> {
        let users = match self.is_mysql {
            true => "mysql.user",
            false => "mysql.global_priv",
        };
        let all = [
            ("'view'", "table_schema", "table_name", "information_schema.views"),
            ("LOWER(routine_type)", "routine_schema", "routine_name", "information_schema.routines"),
            ("'trigger'", "trigger_schema", "trigger_name", "information_schema.triggers"),
            ("'event'", "event_schema", "event_name", "information_schema.events"),
        ];
        let parts = all.map(|(kind, schema, name, from)| {
            // By their bytes, since columns of different tables differ in how they compare.
            format!(
                "SELECT CONCAT({kind}, ' ', {schema}, '.', {name}), definer FROM {from} WHERE {} AND BINARY definer NOT IN \
                 (SELECT BINARY CONCAT(user, IF(host = '', '', CONCAT('@', host))) FROM {users} \
                 UNION SELECT BINARY CONCAT(user, '@', host) FROM {users})",
                ours(schema)
            )
        });
        let rows = self.ask("definers", &parts.join(" UNION ALL ")).await?;
        self.facts.definers = rows.iter().map(|row| (text(row, 0), text(row, 1))).collect();
        Ok(())
    }

    /// Has the engine resolve each view, without reading any of it.
    async fn views(&mut self) -> Result<(), Error> {
        let sql = format!(
            "SELECT table_schema, table_name FROM information_schema.tables WHERE table_type = 'VIEW' AND {}",
            ours("table_schema")
        );
        for row in self.ask("views", &sql).await? {
            let (schema, name) = (text(&row, 0), text(&row, 1));
            let told = |(object, _): &(String, String)| *object == format!("view {schema}.{name}");
            if self.facts.definers.iter().any(told) {
                continue;
            }
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.missed("views", LATE);
                break;
            }
            let sql = format!("SELECT 1 FROM {}.{} LIMIT 0", identifier(&schema), identifier(&name));
            match self.client.rows_within("a view", &sql, left).await {
                Ok(_) => {}
                // 1356: invalid tables, columns or rights; 1449: a definer that does not exist, further down.
                Err(Error::Refused { reason, .. }) if reason.contains("invalid") || reason.contains("definer") => {
                    self.facts.broken_views.push(format!("{schema}.{name}"));
                }
                Err(Error::Refused { reason, .. }) => self.missed(&format!("view {schema}.{name}"), reason),
                Err(Error::Late { within, .. }) if within.is_zero() => {
                    self.missed(&format!("view {schema}.{name}"), LATE);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// The last, since the engine opens every table for it.
    async fn columns(&mut self, changes: &Changes) -> Result<(), Error> {
        let mut conditions = vec!["column_type LIKE '%mariadb-5.3%'".to_owned()];
        conditions.extend(list(&changes.words).map(|words| format!("UPPER(column_name) IN ({words})")));
        conditions.extend(list(&changes.gone_collations).map(|gone| format!("UPPER(collation_name) IN ({gone})")));
        // MySQL tells a text that is the default without its quotes.
        let default = match self.is_mysql {
            true => "IF(extra LIKE '%DEFAULT_GENERATED%', column_default, NULL)",
            false => "column_default",
        };
        let expression = format!("CONCAT_WS(' ', generation_expression, {default})");
        conditions.extend(pattern([], &changes.gone_functions).map(|gone| format!("{expression} REGEXP {gone}")));
        let sql = format!(
            "SELECT CONCAT(table_schema, '.', table_name), column_name, column_type, collation_name, {expression} \
             FROM information_schema.columns WHERE {} AND ({})",
            ours("table_schema"),
            conditions.join(" OR ")
        );
        for row in self.ask("columns", &sql).await? {
            let cell = |at| text(&row, at);
            self.facts.columns.push(Column {
                table: cell(0),
                name: cell(1),
                kind: cell(2),
                collation: cell(3),
                expression: if self.is_mysql { unescaped(&cell(4)) } else { cell(4) },
            });
        }
        Ok(())
    }

    /// What MySQL says that it has: its definitions are in no files of their own.
    async fn known(&mut self) -> Result<Option<Known>, Error> {
        if !self.is_mysql {
            return Ok(None);
        }
        let files = "SELECT path FROM information_schema.innodb_datafiles WHERE path LIKE './%'";
        let tables = "SELECT CONCAT(table_schema, '.', table_name) FROM information_schema.tables";
        let (files, tables) =
            (self.ask_all("files of tables", files).await?, self.ask_all("names of tables", tables).await?);
        Ok(files.zip(tables).map(|(files, tables)| Known {
            files: firsts(&files).iter().filter_map(|path| path.strip_prefix("./")).map(str::to_owned).collect(),
            tables: firsts(&tables).into_iter().collect(),
        }))
    }
}

/// A condition: the column names a database that is not the engine's own.
fn ours(column: &str) -> String {
    let system: Vec<_> = SYSTEM_DATABASES.iter().map(|name| format!("'{name}'")).collect();
    format!("{column} NOT IN ({})", system.join(", "))
}

/// Words of our own tables as a list of SQL, in capitals; none where there are none.
fn list(words: &BTreeSet<&'static str>) -> Option<String> {
    let all: Vec<_> = words.iter().map(|word| format!("'{}'", word.to_uppercase())).collect();
    (!all.is_empty()).then(|| all.join(", "))
}

/// A pattern that finds any of these words, and calls of any of these functions, in any case.
fn pattern<'a>(
    words: impl IntoIterator<Item = &'a &'static str>,
    functions: impl IntoIterator<Item = &'a &'static str>,
) -> Option<String> {
    let words = words.into_iter().map(|word| (*word).to_owned());
    let calls = functions.into_iter().map(|name| format!("{name}[[:space:]]*[(]"));
    let all: Vec<_> = words.chain(calls).collect();
    (!all.is_empty()).then(|| format!("'{}'", all.join("|")))
}

/// An expression of MySQL as it would be written: the information schema has a backslash before each of its quotes and backslashes.
fn unescaped(expression: &str) -> String {
    let mut text = String::new();
    let mut signs = expression.chars();
    while let Some(sign) = signs.next() {
        text.extend(if sign == '\\' { signs.next() } else { Some(sign) });
    }
    text
}

fn firsts(rows: &[Texts]) -> Vec<String> {
    rows.iter().map(|row| text(row, 0)).collect()
}

fn number(row: &Texts, at: usize) -> u64 {
    text(row, at).parse().unwrap_or(0)
}

fn count(rows: &[Texts]) -> u64 {
    rows.len() as u64
}

#[cfg(test)]
mod tests {
    use super::unescaped;

    #[test]
    fn quotes_of_an_expression_are_quotes_again() {
        assert_eq!(unescaped(r"(`a` <> _utf8mb4\'it\\\'s\')"), r"(`a` <> _utf8mb4'it\'s')");
        assert_eq!(unescaped("md5(`a`)"), "md5(`a`)");
    }
}
