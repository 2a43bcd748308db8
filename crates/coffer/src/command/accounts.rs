//! `coffer database ...`, `coffer user ...` and `coffer root ...`

use std::collections::BTreeMap;
use std::io::BufRead as _;

use coffer_core::account::Account;
use coffer_wire::trove::account::{
    DatabaseName, DatabasesBody, NewDatabase, NewUser, RootBody, RootUserBody, UserBody, UserChange, UsersBody, names,
};
use coffer_wire::trove::instance::Password;
use coffer_wire::trove::link::{NextLink, encoded};
use reqwest::Method;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Session, print};
use crate::cli_accounts::{Database, NewPassword, OneUser, Root, User};
use crate::failure::{Failure, Kind};
use crate::find;
use crate::table::{self, Format, List, Record};

/// The characters of a password that is made here: 192 bits.
const PASSWORD_LENGTH: usize = 32;

/// Runs one of the commands for databases.
pub(crate) async fn database(session: &Session, command: Database) -> Result<(), Failure> {
    match command {
        Database::Create { instance, databases, character_set, collate } => {
            let path = below(session, &instance, "databases").await?;
            let new = |name: &String| NewDatabase {
                name: name.clone(),
                character_set: character_set.clone(),
                collate: collate.clone(),
            };
            let body = json!({"databases": databases.iter().map(new).collect::<Vec<_>>()});
            let hint = format!("coffer database list {instance}");
            told(session.trove.tell(Method::POST, &path, Some(&body)).await, &hint)?;
            done(session, &json!({"databases": databases}), &format!("created {} in {instance}", databases.join(", ")))
        }
        Database::List { instance } => {
            let path = below(session, &instance, "databases").await?;
            let databases = pages(session, &path, |body: DatabasesBody| (body.databases, body.links)).await?;
            let rows = databases.into_iter().map(|database| vec![json!(database.name)]).collect();
            Ok(table::print(&List { columns: &["Name"], rows }.render(session.format))?)
        }
        Database::Delete { instance, database } => {
            let path = below(session, &instance, &format!("databases/{}", encoded(&database))).await?;
            let hint = format!("coffer database list {instance}");
            told(session.trove.tell(Method::DELETE, &path, None).await, &hint)?;
            done(session, &json!({"database": database}), &format!("deleted {database} of {instance}"))
        }
    }
}

/// Runs one of the commands for users.
pub(crate) async fn user(session: &Session, command: User) -> Result<(), Failure> {
    match command {
        User::Create { user, databases, password } => create(session, user, databases, &password).await,
        User::List { instance } => {
            let path = below(session, &instance, "users").await?;
            let users = pages(session, &path, |body: UsersBody| (body.users, body.links)).await?;
            let row = |user: coffer_wire::trove::account::User| {
                vec![json!(user.name), json!(user.host), json!(joined(&user.databases))]
            };
            let rows = users.into_iter().map(row).collect();
            Ok(table::print(&List { columns: &["Name", "Host", "Databases"], rows }.render(session.format))?)
        }
        User::Show { user } => {
            let path = path_of(session, &user, "").await?;
            let UserBody { user: shown } = told(session.trove.get(&path).await, &list_of(&user))?;
            let databases = match session.format {
                Format::Json => json!(shown.databases.iter().map(|database| &database.name).collect::<Vec<_>>()),
                Format::Table => json!(joined(&shown.databases)),
            };
            let fields = [("databases", databases), ("host", json!(shown.host)), ("name", json!(shown.name))];
            record(session, fields)
        }
        User::Grant { user, databases } => {
            let path = path_of(session, &user, "/databases").await?;
            let body = json!({"databases": names(databases.clone())});
            told(session.trove.tell(Method::PUT, &path, Some(&body)).await, &list_of(&user))?;
            let said = format!("{} has everything on {}", user.user, databases.join(", "));
            done(session, &json!({"user": user.user, "databases": databases}), &said)
        }
        User::Revoke { user, database } => {
            let path = path_of(session, &user, &format!("/databases/{}", encoded(&database))).await?;
            told(session.trove.tell(Method::DELETE, &path, None).await, &list_of(&user))?;
            done(
                session,
                &json!({"user": user.user, "database": database}),
                &format!("{} has nothing on {database}", user.user),
            )
        }
        User::SetPassword { user, password } => {
            let path = path_of(session, &user, "").await?;
            let (text, made) = password.get()?;
            let change = UserChange { password: Some(Password(text.clone())), ..UserChange::default() };
            let asked = session.trove.tell(Method::PUT, &path, Some(&json!({"user": change}))).await;
            told(asked, &list_of(&user))?;
            show_password(session, &user.user, made.then_some(text), "has another password")
        }
        User::Delete { user } => {
            let path = path_of(session, &user, "").await?;
            told(session.trove.tell(Method::DELETE, &path, None).await, &list_of(&user))?;
            done(session, &json!({"user": user.user}), &format!("deleted {} of {}", user.user, user.instance))
        }
    }
}

/// Runs one of the commands for root.
pub(crate) async fn root(session: &Session, command: Root) -> Result<(), Failure> {
    match command {
        Root::Enable { instance, password } => {
            let path = below(session, &instance, "root").await?;
            let given = if password.password_stdin { Some(password.get()?.0) } else { None };
            let body = given.as_ref().map_or_else(|| json!({}), |given| json!({"password": given}));
            let RootUserBody { user } = session.trove.post(&path, &body).await?;
            show_password(session, &user.name, given.is_none().then_some(user.password.0), "may log in")
        }
        Root::Disable { instance } => {
            let path = below(session, &instance, "root").await?;
            told(session.trove.tell(Method::DELETE, &path, None).await, &format!("coffer root show {instance}"))?;
            done(session, &json!({"user": "root"}), &format!("root of {instance} may not log in any more"))
        }
        Root::Show { instance } => {
            let path = below(session, &instance, "root").await?;
            let RootBody { enabled } = session.trove.get(&path).await?;
            record(session, [("is_root_enabled", json!(enabled))])
        }
    }
}

/// The first users of an instance, with everything on its first databases, and the passwords that were made for them.
pub(crate) fn first_users(
    users: &[String],
    databases: &[String],
) -> Result<(Vec<NewUser>, BTreeMap<String, String>), Failure> {
    let (mut new, mut made) = (Vec::new(), BTreeMap::new());
    for user in users {
        let (name, password) = match user.split_once(':') {
            Some((name, password)) => (name, password.to_owned()),
            None => (user.as_str(), new_password()?),
        };
        if name == user {
            made.insert(name.to_owned(), password.clone());
        }
        let password = Password(password);
        new.push(NewUser { name: name.to_owned(), password, host: None, databases: names(databases.to_vec()) });
    }
    Ok((new, made))
}

async fn create(
    session: &Session,
    user: OneUser,
    databases: Vec<String>,
    password: &NewPassword,
) -> Result<(), Failure> {
    let path = below(session, &user.instance, "users").await?;
    let (text, made) = password.get()?;
    let hint = list_of(&user);
    let new =
        NewUser { name: user.user, password: Password(text.clone()), host: user.host, databases: names(databases) };
    told(session.trove.tell(Method::POST, &path, Some(&json!({"users": [new]}))).await, &hint)?;
    show_password(session, &new.name, made.then_some(text), "is created")
}

impl NewPassword {
    /// The password, and whether it was made here.
    fn get(&self) -> Result<(String, bool), Failure> {
        if !self.password_stdin {
            return Ok((new_password()?, true));
        }
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line)?;
        let text = line.trim_end_matches(['\n', '\r']).to_owned();
        if text.is_empty() {
            return Err(Failure::new(
                Kind::Usage,
                "standard input has no password",
                "write one there, in a line of its own",
            ));
        }
        Ok((text, false))
    }
}

/// Letters and digits that nobody has had.
fn new_password() -> Result<String, Failure> {
    const SIGNS: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_";
    let mut bytes = [0; PASSWORD_LENGTH];
    getrandom::fill(&mut bytes).map_err(Failure::other)?;
    Ok(bytes.iter().map(|byte| char::from(SIGNS[usize::from(byte % 64)])).collect())
}

/// Says what was done, and the password where it was made here.
fn show_password(session: &Session, user: &str, made: Option<String>, what: &str) -> Result<(), Failure> {
    let Some(password) = made else { return done(session, &json!({"user": user}), &format!("{user} {what}")) };
    let said = format!("{user} {what}\npassword: {password}\nIt is shown this once only; keep it.");
    done(session, &json!({"user": user, "password": password}), &said)
}

fn done(session: &Session, value: &Value, said: &str) -> Result<(), Failure> {
    print(session.format, value, || format!("{said}\n"))
}

fn record<const N: usize>(session: &Session, fields: [(&str, Value); N]) -> Result<(), Failure> {
    let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Ok(table::print(&Record(fields).render(session.format))?)
}

fn told<T>(asked: Result<T, Failure>, hint: &str) -> Result<T, Failure> {
    asked.map_err(|failure| failure.or_hint(hint))
}

fn list_of(user: &OneUser) -> String {
    format!("coffer user list {}", user.instance)
}

fn joined(databases: &[DatabaseName]) -> String {
    databases.iter().map(|database| database.name.as_str()).collect::<Vec<_>>().join(", ")
}

async fn below(session: &Session, instance: &str, what: &str) -> Result<String, Failure> {
    Ok(format!("/instances/{}/{what}", find::instance_named(&session.trove, instance).await?.id))
}

async fn path_of(session: &Session, user: &OneUser, what: &str) -> Result<String, Failure> {
    let account = Account::new(&user.user, user.host.as_deref()).to_string();
    below(session, &user.instance, &format!("users/{}{what}", encoded(&account))).await
}

/// All pages of a list.
async fn pages<B: DeserializeOwned, T>(
    session: &Session,
    path: &str,
    split: fn(B) -> (Vec<T>, Vec<NextLink>),
) -> Result<Vec<T>, Failure> {
    let (mut all, mut next) = (Vec::new(), path.to_owned());
    loop {
        let (page, links) = split(session.trove.get(&next).await?);
        all.extend(page);
        match links.first().and_then(|link| link.href.split_once('?')) {
            Some((_, query)) => next = format!("{path}?{query}"),
            None => return Ok(all),
        }
    }
}
