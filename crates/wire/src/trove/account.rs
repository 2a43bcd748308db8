//! Databases, users and root: what the routes below an instance take and show.

use coffer_core::account;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::trove::check::{Check, inside};
use crate::trove::fault::Fault;
use crate::trove::instance::Password;
use crate::trove::link::NextLink;
use crate::trove::request::{Object, present};

/// The most databases or users that one request may name.
const LISTED: usize = 500;
/// The longest a name, a host or a password may be here, in characters. What engines take is less, and is checked later.
const LENGTH: usize = 255;

/// `{"databases": [...]}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatabasesBody {
    pub databases: Vec<DatabaseName>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<NextLink>,
}

/// A database, which has nothing but its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatabaseName {
    pub name: String,
}

/// `{"users": [...]}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DatabaseUsersBody)]
pub struct UsersBody {
    pub users: Vec<User>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<NextLink>,
}

/// `{"user": ...}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DatabaseUserBody)]
pub struct UserBody {
    pub user: User,
}

/// An account with the databases on which it has something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DatabaseUser)]
pub struct User {
    pub name: String,
    pub host: String,
    pub databases: Vec<DatabaseName>,
}

/// `{"rootEnabled": false}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RootBody {
    #[serde(rename = "rootEnabled")]
    pub enabled: bool,
}

/// `{"root_history": ...}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RootHistoryBody {
    pub root_history: RootHistory,
}

/// When root was let in last, and by whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RootHistory {
    /// The instance.
    pub id: String,
    /// A date, or `Never`.
    pub enabled: String,
    /// A user, or `Nobody`.
    pub user: String,
}

/// `{"user": {"name": "root", "password": ...}}`: shown this once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RootUserBody {
    pub user: RootUser,
}

/// Root, as it may log in from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RootUser {
    pub name: String,
    #[schema(value_type = String)]
    pub password: Password,
}

/// A database that is to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct NewDatabase {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub character_set: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collate: Option<String>,
}

/// An account that is to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct NewUser {
    pub name: String,
    #[schema(value_type = String)]
    pub password: Password,
    /// An address or a pattern of addresses; `%`, from anywhere, where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub databases: Vec<DatabaseName>,
}

/// What is to change about an account. What is left out stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct UserChange {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub password: Option<Password>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

/// `{"databases": [...]}` of a request.
#[derive(Serialize, ToSchema)]
pub struct NewDatabasesBody {
    pub databases: Vec<NewDatabase>,
}

/// `{"users": [...]}` of a request.
#[derive(Serialize, ToSchema)]
pub struct NewUsersBody {
    pub users: Vec<NewUser>,
}

/// `{"user": ...}` of a request.
#[derive(Serialize, ToSchema)]
pub struct UserChangeBody {
    pub user: UserChange,
}

impl NewDatabasesBody {
    /// Reads what `POST .../databases` takes, and `PUT .../users/{user}/databases`, which needs nothing but names.
    pub fn read(body: &Value) -> Result<Vec<NewDatabase>, Fault> {
        let mut check = Check::default();
        let databases = read_databases(&mut check, "databases", inside(body, "databases")?);
        check.finish()?;
        Ok(databases)
    }
}

impl NewUsersBody {
    /// Reads what `POST .../users` takes, and `PUT .../users`, which changes passwords.
    pub fn read(body: &Value) -> Result<Vec<NewUser>, Fault> {
        let mut check = Check::default();
        let users = read_users(&mut check, "users", inside(body, "users")?);
        check.finish()?;
        Ok(users)
    }
}

impl UserChange {
    /// Reads `{"user": {...}}`.
    pub fn read(body: &Value) -> Result<Self, Fault> {
        let value = inside(body, "user")?;
        let mut check = Check::default();
        let mut change = Self::default();
        if let Some(object) = check.object("user", value) {
            change.name = text(&mut check, "user", object, "name");
            change.host = text(&mut check, "user", object, "host");
            change.password = present(object, "password").and_then(|v| password(&mut check, "user['password']", v));
        }
        check.finish()?;
        if change == Self::default() {
            return Err(Fault::bad_request("Validation error: user {} does not have enough properties"));
        }
        Ok(change)
    }
}

/// Reads the body of `POST .../root`, which may ask for a password.
pub fn read_root(body: &Value) -> Result<Option<Password>, Fault> {
    let mut check = Check::default();
    let object = check.object("root", body);
    let given = object.and_then(|object| present(object, "password"));
    let password = given.and_then(|v| password(&mut check, "password", v));
    check.finish()?;
    Ok(password)
}

/// The databases at `place`. Keys that are not known are ignored, as Trove's schema has it.
pub(crate) fn read_databases(check: &mut Check, place: &str, value: &Value) -> Vec<NewDatabase> {
    let mut databases = Vec::new();
    for (at, value) in check.list(place, value, LISTED).unwrap_or_default().iter().enumerate() {
        let place = format!("{place}[{at}]");
        let Some(object) = check.object(&place, value) else { continue };
        check.required(&place, object, "name");
        databases.push(NewDatabase {
            name: text(check, &place, object, "name").unwrap_or_default(),
            character_set: text(check, &place, object, "character_set"),
            collate: text(check, &place, object, "collate"),
        });
    }
    databases
}

/// The users at `place`.
pub(crate) fn read_users(check: &mut Check, place: &str, value: &Value) -> Vec<NewUser> {
    let mut users = Vec::new();
    for (at, value) in check.list(place, value, LISTED).unwrap_or_default().iter().enumerate() {
        let place = format!("{place}[{at}]");
        let Some(object) = check.object(&place, value) else { continue };
        check.required(&place, object, "name");
        let given = check.required(&place, object, "password");
        let password = given.and_then(|v| password(check, &format!("{place}['password']"), v));
        let databases =
            present(object, "databases").map(|v| read_databases(check, &format!("{place}['databases']"), v));
        users.push(NewUser {
            name: text(check, &place, object, "name").unwrap_or_default(),
            password: password.unwrap_or(Password(String::new())),
            host: text(check, &place, object, "host"),
            databases: databases.unwrap_or_default().into_iter().map(|d| DatabaseName { name: d.name }).collect(),
        });
    }
    users
}

fn text(check: &mut Check, place: &str, object: &Object, key: &str) -> Option<String> {
    present(object, key).and_then(|value| check.text(&format!("{place}['{key}']"), value, LENGTH))
}

/// Never repeated in what is said of it.
fn password(check: &mut Check, place: &str, value: &Value) -> Option<Password> {
    let Some(text) = value.as_str() else {
        check.add(place, "is not of type 'string'");
        return None;
    };
    Some(Password(text.to_owned()))
}

impl From<NewDatabase> for account::NewDatabase {
    fn from(new: NewDatabase) -> Self {
        Self { name: new.name, character_set: new.character_set, collate: new.collate }
    }
}

impl From<NewUser> for account::NewUser {
    fn from(new: NewUser) -> Self {
        Self {
            account: account::Account::new(&new.name, new.host.as_deref()),
            password: new.password.into(),
            databases: new.databases.into_iter().map(|database| database.name).collect(),
        }
    }
}

impl From<Password> for account::Password {
    fn from(password: Password) -> Self {
        Self::Clear(password.0)
    }
}

impl From<account::User> for User {
    fn from(user: account::User) -> Self {
        Self { name: user.account.name, host: user.account.host, databases: names(user.databases) }
    }
}

/// Databases as they are shown.
pub fn names(databases: Vec<String>) -> Vec<DatabaseName> {
    databases.into_iter().map(|name| DatabaseName { name }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{NewUsersBody, UserChange, read_root};
    use crate::trove::Fault;

    #[test]
    fn what_is_wrong_with_users_is_told_without_their_passwords() {
        let check = |body: Value, expected: &str| {
            let told = NewUsersBody::read(&body).err().map(|fault: Fault| fault.message().to_owned());
            assert_eq!(told.unwrap_or_default(), expected, "{body}");
        };
        check(json!({"users": [{"name": "u", "password": "p", "host": null, "more": 1}]}), "");
        check(json!({"users": [{"name": "u"}]}), "Validation error: users[0] 'password' is a required property");
        check(
            json!({"users": [{"password": 7}]}),
            "Validation error: users[0] 'name' is a required property; users[0]['password'] is not of type 'string'",
        );
        check(json!({"users": 7}), "Validation error: users 7 is not of type 'array'");
        check(json!({}), "Validation error: 'users' is a required property");
    }

    #[test]
    fn a_change_changes_something_and_root_may_be_asked_for_without_a_password() {
        assert!(UserChange::read(&json!({"user": {"name": null}})).is_err());
        assert!(UserChange::read(&json!({"user": {"host": "10.0.%"}})).is_ok_and(|change| change.host.is_some()));
        assert_eq!(read_root(&json!({})).ok(), Some(None));
        assert!(read_root(&json!([])).is_err() && read_root(&json!({"password": 1})).is_err());
    }
}
