//! Databases and accounts inside an instance: what an agent is asked about them, and what it answers.
//!
//! Requests come from the API, one at a time and with somebody who waits, or from the plan of a creation. In a plan, which
//! lies in a store, passwords are sealed; on their way to the agent they are not.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Who logs in: a name, and from where. Two accounts of one name and different hosts are two accounts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Account {
    pub name: String,
    /// An address, or a pattern of addresses in which `%` stands for anything.
    pub host: String,
}

/// From anywhere: the host of an account that names none.
pub const ANYWHERE: &str = "%";

impl Account {
    /// The account of that name, from `host` or from anywhere.
    pub fn new(name: &str, host: Option<&str>) -> Self {
        Self { name: name.to_owned(), host: host.unwrap_or(ANYWHERE).to_owned() }
    }

    /// Reads `name` or `name@host`, as Trove's paths have it: the last `@` is the one that counts.
    pub fn parse(text: &str) -> Self {
        match text.rsplit_once('@') {
            Some((name, host)) if !host.is_empty() => Self::new(name, Some(host)),
            _ => Self::new(text, None),
        }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.host)
    }
}

/// A password that somebody chose. It is not part of what debugging prints.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Password {
    Clear(String),
    /// As only the control plane can read it, in hexadecimal digits.
    Sealed(String),
    /// It was used, and is kept nowhere.
    Forgotten,
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// A database that is to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewDatabase {
    pub name: String,
    /// The engine's default where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub character_set: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collate: Option<String>,
}

/// An account that is to be made, with everything on these databases and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewUser {
    pub account: Account,
    pub password: Password,
    pub databases: Vec<String>,
}

/// What is to change about an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserChange {
    pub account: Account,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Password>,
    /// Another name or host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub becomes: Option<Account>,
}

/// Which part of a list is wanted: in the order of bytes, what comes after `after`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    pub limit: u32,
}

/// One question about databases and accounts, or one change of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Request {
    /// The tenant's databases.
    Databases(Part),
    /// The tenant's accounts, with their databases.
    Users(Part),
    /// One account.
    User { account: Account },
    /// Whether root may log in.
    Root,
    /// Make these. Refused as a whole when one is there already, unless it is done `again`, at a creation: then nothing
    /// was there before, and what is there is of an attempt that was broken off.
    Make { databases: Vec<NewDatabase>, users: Vec<NewUser>, again: bool },
    /// Remove a database with everything in it.
    DropDatabase { name: String },
    /// Change these, if all of them are there.
    Change { users: Vec<UserChange> },
    /// Remove an account.
    DropUser { account: Account },
    /// Give an account everything on these databases.
    Grant { account: Account, databases: Vec<String> },
    /// Take from an account everything that it was given on a database.
    Revoke { account: Account, database: String },
    /// Let root log in with this password.
    EnableRoot { password: Password },
    /// Let root log in no more.
    DisableRoot,
}

impl Request {
    /// The passwords in it.
    pub fn passwords_mut(&mut self) -> Vec<&mut Password> {
        match self {
            Self::Make { users, .. } => users.iter_mut().map(|user| &mut user.password).collect(),
            Self::Change { users } => users.iter_mut().filter_map(|user| user.password.as_mut()).collect(),
            Self::EnableRoot { password } => vec![password],
            Self::Databases(_)
            | Self::Users(_)
            | Self::User { .. }
            | Self::Root
            | Self::DropDatabase { .. }
            | Self::DropUser { .. }
            | Self::Grant { .. }
            | Self::Revoke { .. }
            | Self::DisableRoot => Vec::new(),
        }
    }
}

/// An account as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub account: Account,
    /// The tenant's databases on which it has something.
    pub databases: Vec<String>,
}

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// `more`: there are others after these.
    Databases {
        names: Vec<String>,
        more: bool,
    },
    Users {
        users: Vec<User>,
        more: bool,
    },
    User(User),
    Root {
        enabled: bool,
    },
    Changed,
    Refused(Refusal),
}

/// Why it was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    DatabaseExists(String),
    DatabaseAbsent(String),
    UserExists(String),
    UserAbsent(String),
    RootDisabled,
    /// The engine did not take it, with its reason. What came before in the same request may have been done.
    ByEngine(String),
}

/// In Trove's words.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DatabaseExists(name) => write!(f, "A database with the name \"{name}\" already exists."),
            Self::DatabaseAbsent(name) => write!(f, "Database {name} cannot be found on the instance."),
            Self::UserExists(name) => write!(f, "A user with the name \"{name}\" already exists."),
            Self::UserAbsent(name) => write!(f, "User {name} cannot be found on the instance."),
            Self::ByEngine(reason) => write!(f, "The engine refused it: {reason}."),
            Self::RootDisabled => f.write_str("Root user has never been enabled on the instance."),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Account, Password};

    #[test]
    fn an_account_is_read_as_troves_paths_have_it() {
        let check =
            |text: &str, name: &str, host: &str| assert_eq!(Account::parse(text), Account::new(name, Some(host)));
        check("ann", "ann", "%");
        check("ann@10.0.0.%", "ann", "10.0.0.%");
        check("ann@b@::1", "ann@b", "::1");
        check("ann@", "ann@", "%");
    }

    #[test]
    fn a_password_is_never_printed() {
        assert!(!format!("{:?}", Password::Clear("swordfish".to_owned())).contains("swordfish"));
    }
}
