//! Databases and accounts of the tenant, looked at and changed through the agent's own account.
//!
//! What is refused was looked for before anything was touched. A statement is written by [`Sql`] alone.

use coffer_core::account::{Account, Answer, NewDatabase, NewUser, Part, Password, Refusal, Request, User, UserChange};
use coffer_core::engine::sql::accounts::{RESERVED_USERS, ROOT, ROOT_GLOBAL, ROOT_ON_DATABASES, check_account};
use coffer_core::engine::sql::config::SYSTEM_DATABASES;
use coffer_core::engine::sql::quoting::{Sql, exactly};
use sha1::{Digest as _, Sha1};

use super::Client;
use super::client::{Texts, text};
use crate::site::Error;

/// The databases whose name matches the pattern of one of an account's grants.
const GRANTED: &str = "SELECT DISTINCT s.schema_name FROM mysql.db d JOIN information_schema.schemata s \
     ON CAST(s.schema_name AS BINARY) LIKE CAST(d.db AS BINARY) ESCAPE '\\' WHERE CAST(d.user AS BINARY) = ";

impl Client {
    /// Answers one request about databases and accounts.
    pub(crate) async fn accounts(&self, request: &Request) -> Result<Answer, Error> {
        // Texts are read and written as UTF-8, and in quotes a backslash is one.
        self.run("SET NAMES", "SET NAMES utf8mb4").await?;
        self.run("SET", "SET SESSION sql_mode = 'NO_BACKSLASH_ESCAPES'").await?;
        let refused = match request {
            Request::Databases(part) => return self.databases(part).await,
            Request::Users(part) => return self.users(part).await,
            Request::User { account } => return self.user(account).await,
            Request::Root => return Ok(Answer::Root { enabled: self.has_user(&root()).await? }),
            Request::Make { databases, users, again } => self.make(databases, users, *again).await?,
            Request::DropDatabase { name } => self.drop_database(name).await?,
            Request::Change { users } => self.change(users).await?,
            Request::DropUser { account } => self.drop_user(account).await?,
            Request::Grant { account, databases } => self.grant(account, databases).await?,
            Request::Revoke { account, database } => self.revoke(account, database).await?,
            Request::EnableRoot { password } => self.enable_root(password).await?,
            Request::DisableRoot => self.disable_root().await?,
        };
        Ok(refused.map_or(Answer::Changed, Answer::Refused))
    }

    async fn databases(&self, part: &Part) -> Result<Answer, Error> {
        let sql = Sql::new("SELECT schema_name FROM information_schema.schemata WHERE CAST(schema_name AS BINARY) > ")
            .value(part.after.as_deref().unwrap_or_default());
        let sql = tenants_own(sql).words(" ORDER BY CAST(schema_name AS BINARY) LIMIT ");
        let rows = self.listed("the list of databases", sql.number(part.limit.saturating_add(1))).await?;
        let (names, more) = cut(rows.iter().map(|row| text(row, 0)).collect(), part.limit);
        Ok(Answer::Databases { names, more })
    }

    async fn users(&self, part: &Part) -> Result<Answer, Error> {
        let after = part.after.as_deref().map_or(Account { name: String::new(), host: String::new() }, Account::parse);
        let sql = Sql::new("SELECT user, host FROM mysql.user WHERE (CAST(user AS BINARY), CAST(host AS BINARY)) > (")
            .values([after.name.as_str(), &after.host])
            .words(") AND user <> '' AND user NOT IN (")
            .values(RESERVED_USERS.iter().copied())
            .words(if self.is_mariadb().await? { ") AND is_role = 'N'" } else { ")" })
            .words(" ORDER BY CAST(user AS BINARY), CAST(host AS BINARY) LIMIT ")
            .number(part.limit.saturating_add(1));
        let rows = self.listed("the list of accounts", sql).await?;
        let (accounts, more) =
            cut(rows.iter().map(|row| Account { name: text(row, 0), host: text(row, 1) }).collect(), part.limit);
        let mut users = Vec::new();
        for account in accounts {
            users.push(User { databases: self.granted(&account).await?, account });
        }
        Ok(Answer::Users { users, more })
    }

    async fn user(&self, account: &Account) -> Result<Answer, Error> {
        // What is not a tenant's is not shown.
        if check_account(account).is_err() || !self.has_user(account).await? {
            return Ok(Answer::Refused(absent(account)));
        }
        Ok(Answer::User(User { account: account.clone(), databases: self.granted(account).await? }))
    }

    /// The tenant's databases on which an account has something.
    async fn granted(&self, account: &Account) -> Result<Vec<String>, Error> {
        let sql = Sql::new(GRANTED).value(&account.name).words(" AND CAST(d.host AS BINARY) = ").value(&account.host);
        let rows = self.listed("the list of grants", tenants_own(sql)).await?;
        let mut names: Vec<_> = rows.iter().map(|row| text(row, 0)).collect();
        names.sort();
        Ok(names)
    }

    async fn make(&self, databases: &[NewDatabase], users: &[NewUser], again: bool) -> Result<Option<Refusal>, Error> {
        if !again {
            for database in databases {
                if self.has_database(&database.name).await? {
                    return Ok(Some(Refusal::DatabaseExists(database.name.clone())));
                }
            }
            for user in users {
                if self.has_user(&user.account).await? {
                    return Ok(Some(Refusal::UserExists(user.account.name.clone())));
                }
                if let Some(refusal) = self.missing(&user.databases).await? {
                    return Ok(Some(refusal));
                }
            }
        }
        for database in databases {
            let mut sql =
                Sql::new("CREATE DATABASE ").words(if again { "IF NOT EXISTS " } else { "" }).name(&database.name);
            if let Some(set) = &database.character_set {
                sql = sql.words(" CHARACTER SET ").name(set);
            }
            if let Some(collate) = &database.collate {
                sql = sql.words(" COLLATE ").name(collate);
            }
            self.done("CREATE DATABASE", sql).await?;
        }
        for NewUser { account, password, databases } in users {
            if again {
                self.done("DROP USER", Sql::new("DROP USER IF EXISTS ").account(account)).await?;
            }
            let sql = Sql::new("CREATE USER ").account(account);
            self.identify("CREATE USER", sql, password).await?;
            self.give(account, databases).await?;
        }
        Ok(None)
    }

    async fn drop_database(&self, name: &str) -> Result<Option<Refusal>, Error> {
        if !self.has_database(name).await? {
            return Ok(Some(Refusal::DatabaseAbsent(name.to_owned())));
        }
        self.done("DROP DATABASE", Sql::new("DROP DATABASE ").name(name)).await?;
        Ok(None)
    }

    async fn change(&self, users: &[UserChange]) -> Result<Option<Refusal>, Error> {
        for UserChange { account, becomes, .. } in users {
            if !self.has_user(account).await? {
                return Ok(Some(absent(account)));
            }
            if let Some(taken) = becomes.as_ref().filter(|becomes| *becomes != account)
                && self.has_user(taken).await?
            {
                return Ok(Some(Refusal::UserExists(taken.name.clone())));
            }
        }
        for UserChange { account, password, becomes } in users {
            if let Some(password) = password {
                self.identify("ALTER USER", Sql::new("ALTER USER ").account(account), password).await?;
            }
            if let Some(becomes) = becomes.as_ref().filter(|becomes| *becomes != account) {
                self.done("RENAME USER", Sql::new("RENAME USER ").account(account).words(" TO ").account(becomes))
                    .await?;
            }
        }
        Ok(None)
    }

    async fn drop_user(&self, account: &Account) -> Result<Option<Refusal>, Error> {
        if !self.has_user(account).await? {
            return Ok(Some(absent(account)));
        }
        self.done("DROP USER", Sql::new("DROP USER ").account(account)).await?;
        Ok(None)
    }

    async fn grant(&self, account: &Account, databases: &[String]) -> Result<Option<Refusal>, Error> {
        if !self.has_user(account).await? {
            return Ok(Some(absent(account)));
        }
        if let Some(refusal) = self.missing(databases).await? {
            return Ok(Some(refusal));
        }
        self.give(account, databases).await?;
        Ok(None)
    }

    async fn revoke(&self, account: &Account, database: &str) -> Result<Option<Refusal>, Error> {
        if !self.has_user(account).await? {
            return Ok(Some(absent(account)));
        }
        let sql = Sql::new("SELECT 1 FROM mysql.db WHERE CAST(db AS BINARY) = ")
            .value(&exactly(database))
            .words(" AND CAST(user AS BINARY) = ")
            .value(&account.name)
            .words(" AND CAST(host AS BINARY) = ")
            .value(&account.host);
        if self.listed("the list of grants", sql).await?.is_empty() {
            return Ok(Some(Refusal::DatabaseAbsent(database.to_owned())));
        }
        self.done("REVOKE", Sql::new("REVOKE ALL ON ").only(database).words(".* FROM ").account(account)).await?;
        Ok(None)
    }

    /// Made anew each time, so that it has what it should whatever was done to it before.
    async fn enable_root(&self, password: &Password) -> Result<Option<Refusal>, Error> {
        let root = root();
        self.done("DROP USER", Sql::new("DROP USER IF EXISTS ").account(&root)).await?;
        self.identify("CREATE USER", Sql::new("CREATE USER ").account(&root), password).await?;
        // Exact names go before patterns: of the engine's own databases it gets next to nothing.
        for system in ["mysql", "sys"] {
            self.done("GRANT", Sql::new("GRANT SHOW VIEW ON ").only(system).words(".* TO ").account(&root)).await?;
        }
        let history = if self.is_mariadb().await? {
            ", DELETE HISTORY"
        } else {
            self.done("GRANT", Sql::new("GRANT SELECT ON ").name("performance_schema").words(".* TO ").account(&root))
                .await?;
            ""
        };
        let everywhere =
            Sql::new("GRANT ").words(ROOT_ON_DATABASES).words(history).words(" ON `%`.* TO ").account(&root);
        self.done("GRANT", everywhere).await?;
        self.done("GRANT", Sql::new("GRANT ").words(ROOT_GLOBAL).words(" ON *.* TO ").account(&root)).await?;
        Ok(None)
    }

    async fn disable_root(&self) -> Result<Option<Refusal>, Error> {
        Ok(self.drop_user(&root()).await?.map(|_| Refusal::RootDisabled))
    }

    async fn give(&self, account: &Account, databases: &[String]) -> Result<(), Error> {
        for database in databases {
            self.done("GRANT", Sql::new("GRANT ALL ON ").only(database).words(".* TO ").account(account)).await?;
        }
        Ok(())
    }

    /// Ends a statement with how the account shows who it is. MariaDB gets the password hashed, since it writes statements
    /// into its logs as they are.
    async fn identify(&self, what: &'static str, sql: Sql, password: &Password) -> Result<(), Error> {
        let Password::Clear(password) = password else {
            return Err(Error::Misunderstood { command: "a sealed password" });
        };
        let sql = if self.is_mariadb().await? {
            sql.words(" IDENTIFIED VIA mysql_native_password USING ").text(&hashed(password))
        } else {
            sql.words(" IDENTIFIED BY ").text(password)
        };
        match self.done(what, sql).await {
            // Engines repeat what they do not understand.
            Err(Error::Refused { command, reason }) if reason.contains(password.as_str()) => {
                Err(Error::Refused { command, reason: "for a reason that names the password".to_owned() })
            }
            other => other,
        }
    }

    /// The first of these databases that there is not.
    async fn missing(&self, databases: &[String]) -> Result<Option<Refusal>, Error> {
        for database in databases {
            if !self.has_database(database).await? {
                return Ok(Some(Refusal::DatabaseAbsent(database.clone())));
            }
        }
        Ok(None)
    }

    async fn has_database(&self, name: &str) -> Result<bool, Error> {
        let sql =
            Sql::new("SELECT 1 FROM information_schema.schemata WHERE CAST(schema_name AS BINARY) = ").value(name);
        Ok(!self.listed("the list of databases", sql).await?.is_empty())
    }

    async fn has_user(&self, account: &Account) -> Result<bool, Error> {
        let sql = Sql::new("SELECT 1 FROM mysql.user WHERE CAST(user AS BINARY) = ")
            .value(&account.name)
            .words(" AND CAST(host AS BINARY) = ")
            .value(&account.host);
        Ok(!self.listed("the list of accounts", sql).await?.is_empty())
    }

    async fn is_mariadb(&self) -> Result<bool, Error> {
        Ok(self.value("VERSION()").await?.contains("MariaDB"))
    }

    async fn listed(&self, what: &'static str, sql: Sql) -> Result<Vec<Texts>, Error> {
        self.rows(what, sql.as_str()).await
    }

    async fn done(&self, what: &'static str, sql: Sql) -> Result<(), Error> {
        self.run(what, sql.as_str()).await
    }
}

fn root() -> Account {
    Account::new(ROOT, None)
}

fn absent(account: &Account) -> Refusal {
    Refusal::UserAbsent(account.name.clone())
}

/// Only databases of the tenant's, and none of the directories that merely lie there.
fn tenants_own(sql: Sql) -> Sql {
    sql.words(" AND schema_name NOT IN (")
        .values(SYSTEM_DATABASES.iter().copied())
        .words(") AND schema_name NOT LIKE '#mysql50#%'")
}

/// The first `limit`, and whether there are others.
fn cut<T>(mut all: Vec<T>, limit: u32) -> (Vec<T>, bool) {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = all.len() > limit;
    all.truncate(limit);
    (all, more)
}

/// As the plugin `mysql_native_password` keeps it.
fn hashed(password: &str) -> String {
    let twice = Sha1::digest(Sha1::digest(password.as_bytes()));
    twice.iter().fold("*".to_owned(), |text, byte| text + &format!("{byte:02X}"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn passwords_are_hashed_as_the_engine_does() {
        // SELECT PASSWORD('password')
        assert_eq!(super::hashed("password"), "*2470C0C06DEE42FD1618BB99005ADCA2EC9D1E19");
    }
}
