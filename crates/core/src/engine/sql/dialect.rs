//! What MariaDB and MySQL do not have in common, each in one place.

use std::time::Duration;

use super::config::{AGENT, PROBE, SESSION, TENANT, literal};
use crate::datastore::Datastore;
use crate::spec::EngineSpec;

/// Which of the two an engine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    MariaDb,
    MySql,
}

/// What the tenant may on all databases of MySQL but the engine's own. Not among them: to pass them on.
const TENANT_PRIVILEGES: &str = "SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, REFERENCES, INDEX, ALTER, \
                                 CREATE TEMPORARY TABLES, LOCK TABLES, CREATE VIEW, SHOW VIEW, CREATE ROUTINE, \
                                 ALTER ROUTINE, EXECUTE, EVENT, TRIGGER";

impl Dialect {
    /// That of the engine of this spec. One of another family has none, and is taken for MariaDB.
    pub fn of(spec: &EngineSpec) -> Self {
        match spec.datastore() {
            Datastore::Mysql => Self::MySql,
            Datastore::Mariadb | Datastore::Redis | Datastore::Valkey => Self::MariaDb,
        }
    }

    /// Where packages and images have the server.
    pub fn program(self) -> &'static str {
        match self {
            Self::MariaDb => "/usr/sbin/mariadbd",
            Self::MySql => "/usr/sbin/mysqld",
        }
    }

    /// How to ask the program whether it takes its configuration, without data. MySQL's `--help` overlooks unknown names.
    pub fn validation(self) -> &'static [&'static str] {
        match self {
            Self::MariaDb => &["--help", "--verbose"],
            Self::MySql => &["--validate-config"],
        }
    }

    /// What is made small while a target is tried beside the engine that serves.
    pub fn small(self) -> &'static [&'static str] {
        match self {
            Self::MariaDb => &[
                "--innodb-buffer-pool-size=16M",
                "--innodb-log-file-size=4M",
                "--key-buffer-size=1M",
                "--aria-pagecache-buffer-size=1M",
                "--performance-schema=OFF",
            ],
            Self::MySql => &[
                "--innodb-buffer-pool-size=16M",
                "--innodb-redo-log-capacity=8M",
                "--key-buffer-size=1M",
                "--performance-schema=OFF",
            ],
        }
    }

    /// What the agent sets of its engine beside what is the same for both, and after all that the tenant has set.
    pub(super) fn owned_settings(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::MariaDb => &[("skip_slave_start", "ON")],
            Self::MySql => &[
                ("skip_replica_start", "ON"),
                // The other door, which nobody guards.
                ("mysqlx", "OFF"),
                // By it the agent is let in.
                ("plugin_load_add", "auth_socket.so"),
                // Nobody could follow it, it would fill the volume, and with it tenants could make no functions.
                ("skip_log_bin", "ON"),
            ],
        }
    }

    /// Whether events run where the tenant has not said.
    pub(super) fn runs_events_by_default(self) -> bool {
        self == Self::MySql
    }

    /// The statements that make [`SESSION`], in one.
    pub fn session(self) -> String {
        let statements = SESSION.join("; ");
        match self {
            Self::MariaDb => statements,
            Self::MySql => statements.replace("max_statement_time", "max_execution_time"),
        }
    }

    /// A question that the engine gives up after so long. It begins with `SELECT`.
    pub fn within(self, question: &str, limit: Duration) -> String {
        match self {
            Self::MariaDb => format!("SET STATEMENT max_statement_time = {:.3} FOR {question}", limit.as_secs_f64()),
            Self::MySql => match question.strip_prefix("SELECT") {
                Some(rest) => format!("SELECT /*+ MAX_EXECUTION_TIME({}) */{rest}", limit.as_millis().max(1)),
                None => question.to_owned(),
            },
        }
    }

    /// What accounts there are: what they are, and the question, which has user and host first. That an account can log in
    /// takes a plugin.
    pub fn accounts(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::MariaDb => &[
                (
                    "user",
                    "SELECT user, host, plugin, authentication_string, is_role, default_role, plugin IN (SELECT plugin_name \
                     FROM information_schema.plugins WHERE plugin_status = 'ACTIVE') FROM mysql.user",
                ),
                ("role", "SELECT user, CONCAT(host, ' ', role), admin_option FROM mysql.roles_mapping"),
            ],
            Self::MySql => &[
                (
                    "user",
                    "SELECT user, host, plugin, authentication_string, account_locked, plugin IN (SELECT plugin_name \
                     FROM information_schema.plugins WHERE plugin_status = 'ACTIVE') FROM mysql.user",
                ),
                (
                    "role",
                    "SELECT to_user, CONCAT(to_host, ' ', from_user, ' ', from_host), with_admin_option FROM mysql.role_edges",
                ),
                (
                    "default role",
                    "SELECT user, CONCAT(host, ' ', default_role_user, ' ', default_role_host) FROM mysql.default_roles",
                ),
            ],
        }
    }

    /// Whether an engine whose log ends with this line has ended as it should.
    pub fn is_farewell(self, last_line: &str) -> bool {
        match self {
            Self::MariaDb => last_line.trim_end().ends_with(": Shutdown complete"),
            // Later ones add a line.
            Self::MySql => {
                last_line.contains(": Shutdown complete (mysqld ") || last_line.ends_with("MySQL Server - end.")
            }
        }
    }

    /// The number of the error by which a question is given up that took too long.
    pub fn is_timeout(number: u16) -> bool {
        const ER_STATEMENT_TIMEOUT: u16 = 1969;
        const ER_QUERY_TIMEOUT: u16 = 3024;
        [ER_STATEMENT_TIMEOUT, ER_QUERY_TIMEOUT].contains(&number)
    }
}

/// The first accounts of MySQL, as its own initialisation reads them: a statement a line. The agent's has no password and is
/// let in by the user id at the other end of the socket; its plugin is loaded only after the initialisation, which is why it
/// is written into the row.
pub fn mysql_accounts(tenant_password: &str, probe_password: &str) -> String {
    let mut lines = vec![
        format!("CREATE USER '{AGENT}'@'localhost'"),
        format!("GRANT ALL ON *.* TO '{AGENT}'@'localhost' WITH GRANT OPTION"),
        format!("UPDATE mysql.user SET plugin = 'auth_socket', authentication_string = '' WHERE user = '{AGENT}'"),
        "DROP USER 'root'@'localhost'".to_owned(),
    ];
    for (user, password) in [(TENANT, tenant_password), (PROBE, probe_password)] {
        // A statement takes no literal but text there, and how text is quoted depends on the mode.
        let quoted = format!("QUOTE(CONVERT({} USING utf8mb4))", literal(password.as_bytes()));
        lines.push(format!("SET @make = CONCAT('CREATE USER ''{user}''@''%'' IDENTIFIED BY ', {quoted})"));
        lines.extend(["PREPARE make FROM @make", "EXECUTE make", "DEALLOCATE PREPARE make"].map(str::to_owned));
    }
    let tenant = format!("'{TENANT}'@'%'");
    lines.push(format!("GRANT PROCESS, SHOW DATABASES, REPLICATION CLIENT ON *.* TO {tenant}"));
    lines.push(format!("GRANT {TENANT_PRIVILEGES} ON `%`.* TO {tenant}"));
    // The exact name goes before the pattern: of the engine's own databases the tenant gets next to nothing.
    for (database, privilege) in [("mysql", "SHOW VIEW"), ("sys", "SHOW VIEW"), ("performance_schema", "SELECT")] {
        lines.push(format!("GRANT {privilege} ON `{database}`.* TO {tenant}"));
    }
    lines.iter().fold(String::new(), |text, line| text + line + ";\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Dialect, mysql_accounts};

    #[test]
    fn passwords_are_never_among_the_statements_as_they_are() {
        let sql = mysql_accounts("sword'fish", "herring");
        assert!(!sql.contains("fish") && !sql.contains("herring"));
        assert!(sql.lines().all(|line| line.ends_with(';')), "a statement a line");
    }

    #[test]
    fn each_engine_is_asked_in_its_own_words() {
        let within = |dialect: Dialect, millis| dialect.within("SELECT a FROM b", Duration::from_millis(millis));
        assert_eq!(within(Dialect::MariaDb, 1_500), "SET STATEMENT max_statement_time = 1.500 FOR SELECT a FROM b");
        assert_eq!(within(Dialect::MySql, 1_500), "SELECT /*+ MAX_EXECUTION_TIME(1500) */ a FROM b");
        // None at all would be no limit.
        assert_eq!(within(Dialect::MySql, 0), "SELECT /*+ MAX_EXECUTION_TIME(1) */ a FROM b");
    }

    #[test]
    fn only_an_engine_that_ended_as_it_should_says_farewell() {
        let mariadb = "2026-01-01  1:00:00 0 [Note] /usr/sbin/mariadbd: Shutdown complete";
        let mysql = "2026-01-01T01:00:00.0Z 0 [System] [MY-015016] [Server] MySQL Server - end.";
        assert!(Dialect::MariaDb.is_farewell(mariadb) && !Dialect::MariaDb.is_farewell("Shutdown complete, but"));
        assert!(Dialect::MySql.is_farewell(mysql) && !Dialect::MySql.is_farewell("[ERROR] Aborting"));
    }
}
