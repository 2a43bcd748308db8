//! Which databases and accounts tenants may have, and what root is.

use std::collections::BTreeSet;

use super::config::{SYSTEM_DATABASES, TENANT, is_internal};
use crate::account::{Account, NewDatabase, NewUser, Password, Refusal, Request};

/// The account that a tenant may have enabled. It has what the first account has: everything
/// on all databases but the engine's own, and nothing by which it could get at those, at Coffer's accounts, or past the gate:
/// no SUPER or any of the privileges that it became (a writer that does not wait, a view that runs as somebody else), no FILE,
/// SHUTDOWN, RELOAD or CREATE USER, and no right to pass on what it has.
pub const ROOT: &str = "root";
/// What root has everywhere.
pub const ROOT_GLOBAL: &str = "PROCESS, SHOW DATABASES, REPLICATION CLIENT";
/// What root has on each database that is not the engine's own.
pub const ROOT_ON_DATABASES: &str = "SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, REFERENCES, INDEX, ALTER, \
     CREATE TEMPORARY TABLES, LOCK TABLES, CREATE VIEW, SHOW VIEW, CREATE ROUTINE, ALTER ROUTINE, EXECUTE, EVENT, TRIGGER";

/// The most characters in the name of a database, and in that of an account: what both engines take.
const DATABASE_LENGTH: usize = 64;
const USER_LENGTH: usize = 32;
const HOST_LENGTH: usize = 60;

/// Accounts that are the engine's own, or Coffer's, and never a tenant's; `root` is a tenant's by way of its own routes only.
pub const RESERVED_USERS: &[&str] =
    &["coffer", "coffer_probe", "mariadb.sys", "mysql.infoschema", "mysql.session", "mysql.sys", "public", "root"];

/// The character sets that both engines have.
const CHARACTER_SETS: &[&str] = &[
    "armscii8", "ascii", "big5", "binary", "cp1250", "cp1251", "cp1256", "cp1257", "cp850", "cp852", "cp866", "cp932",
    "dec8", "eucjpms", "euckr", "gb2312", "gbk", "geostd8", "greek", "hebrew", "hp8", "keybcs2", "koi8r", "koi8u",
    "latin1", "latin2", "latin5", "latin7", "macce", "macroman", "sjis", "swe7", "tis620", "ucs2", "ujis", "utf16",
    "utf16le", "utf32", "utf8", "utf8mb3", "utf8mb4",
];

/// Why this cannot be the name of a tenant's database; in Trove's words where it has them.
pub fn check_database(name: &str) -> Result<(), String> {
    let fits = is_name(name, DATABASE_LENGTH);
    if !fits || name.starts_with("#mysql50#") {
        return Err(format!(
            "Database name {} is not valid: it has 1 to {DATABASE_LENGTH} characters, no space at its ends, and none of \
             ' \" ` ; , / \\",
            shown(name)
        ));
    }
    if is_reserved(name, SYSTEM_DATABASES) {
        return Err(format!("Database name {} is on the reserved list: {}.", shown(name), list(SYSTEM_DATABASES)));
    }
    Ok(())
}

/// Why this database cannot be made: its name, or what its character set is to be.
pub fn check_new_database(database: &NewDatabase) -> Result<(), String> {
    check_database(&database.name)?;
    let set = database.character_set.as_deref();
    if let Some(set) = set.filter(|set| !CHARACTER_SETS.contains(set)) {
        return Err(format!("{} is not a character set: they are {}.", shown(set), CHARACTER_SETS.join(", ")));
    }
    let Some(collate) = database.collate.as_deref() else { return Ok(()) };
    let plain = (1..=64).contains(&collate.len())
        && collate.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    let of = |set: &str| collate == set || collate.starts_with(&format!("{set}_"));
    // Collations of Unicode 14 belong to several sets and name none.
    let fits = collate.starts_with("uca1400_") || set.map_or_else(|| CHARACTER_SETS.iter().any(|set| of(set)), of);
    if plain && fits {
        Ok(())
    } else {
        Err(format!("{} is not a collation of the character set {}.", shown(collate), set.map_or("any".into(), shown)))
    }
}

/// Why this cannot be an account of a tenant's.
pub fn check_account(account: &Account) -> Result<(), String> {
    let Account { name, host } = account;
    if !is_name(name, USER_LENGTH) {
        return Err(format!(
            "User name {} is not valid: it has 1 to {USER_LENGTH} characters, no space at its ends, and none of \
             ' \" ` ; , / \\",
            shown(name)
        ));
    }
    if is_reserved(name, RESERVED_USERS) || is_internal(name) {
        return Err(format!("User name {} is on the reserved list: {}.", shown(name), list(RESERVED_USERS)));
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'%');
    if !(1..=HOST_LENGTH).contains(&host.len()) || !host.bytes().all(plain) {
        return Err(format!(
            "Host {} is not valid: it is an address, or a pattern of addresses such as 10.0.%.",
            shown(host)
        ));
    }
    Ok(())
}

/// Why this cannot be a password.
pub fn check_password(password: &str) -> Result<(), String> {
    let fits = (1..=255).contains(&password.chars().count()) && !password.chars().any(char::is_control);
    if fits { Ok(()) } else { Err("A password has 1 to 255 characters, and no control characters.".to_owned()) }
}

/// Why a request asks for something that a tenant may not have, whatever is there. Looking is always allowed: what a tenant
/// may not have is not found.
pub fn check(request: &Request) -> Result<(), String> {
    let secret = |password: &Password| match password {
        Password::Clear(text) => check_password(text),
        Password::Sealed(_) | Password::Forgotten => Ok(()),
    };
    match request {
        Request::Databases(_) | Request::Users(_) | Request::User { .. } | Request::Root | Request::DisableRoot => {
            Ok(())
        }
        Request::Make { databases, users, .. } => {
            for database in databases {
                check_new_database(database).map_err(|why| format!("Database create error: {why}"))?;
            }
            check_differ("databases", "name", databases.iter().map(|database| &database.name))?;
            for NewUser { account, password, databases } in users {
                check_account(account).map_err(|why| format!("User create error: {why}"))?;
                secret(password)?;
                databases.iter().try_for_each(|name| check_database(name))?;
            }
            check_differ("users", "name and host", users.iter().map(|user| &user.account))
        }
        Request::DropDatabase { name } => check_database(name),
        Request::Change { users } => {
            for change in users {
                check_account(&change.account)?;
                change.becomes.as_ref().map_or(Ok(()), check_account)?;
                change.password.as_ref().map_or(Ok(()), secret)?;
            }
            check_differ("users", "name and host", users.iter().map(|user| &user.account))
        }
        Request::DropUser { account } => check_account(account),
        Request::Grant { account, databases } => {
            check_account(account)?;
            databases.iter().try_for_each(|name| check_database(name))
        }
        Request::Revoke { account, database } => check_account(account).and_then(|()| check_database(database)),
        Request::EnableRoot { password } => secret(password),
    }
}

/// Why these cannot be the first databases and users of an instance, of which nothing is there yet but its first account.
pub fn check_first(request: &Request) -> Result<(), String> {
    check(request)?;
    let Request::Make { databases, users, .. } = request else { return Ok(()) };
    for NewUser { account, databases: wanted, .. } in users {
        if *account == Account::new(TENANT, None) {
            return Err(Refusal::UserExists(TENANT.to_owned()).to_string());
        }
        if let Some(absent) = wanted.iter().find(|wanted| databases.iter().all(|made| made.name != **wanted)) {
            return Err(format!(
                "The request indicates that user {} should have access to database {absent}, but database {absent} is not \
                 included in the initial databases list.",
                account.name
            ));
        }
    }
    Ok(())
}

fn check_differ<T: Ord>(what: &str, same: &str, mut things: impl Iterator<Item = T>) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    if things.all(|thing| seen.insert(thing)) {
        return Ok(());
    }
    Err(format!(
        "Two or more {what} share the same {same} in the initial {what} list. Please correct the names or remove the \
         duplicate entries."
    ))
}

/// Engines store names in at most three bytes a character.
fn is_name(name: &str, most: usize) -> bool {
    let forbidden =
        |c: char| c.is_control() || u32::from(c) > 0xffff || matches!(c, '\'' | '"' | '`' | ';' | ',' | '/' | '\\');
    (1..=most).contains(&name.chars().count()) && !name.chars().any(forbidden) && name.trim() == name
}

fn is_reserved(name: &str, reserved: &[&str]) -> bool {
    reserved.iter().any(|reserved| reserved.eq_ignore_ascii_case(name))
}

/// What a client sent, cut short.
fn shown(text: &str) -> String {
    let cut: String = text.chars().filter(|c| !c.is_control()).take(80).collect();
    format!("\"{cut}\"")
}

/// As Python shows a list of names.
fn list(names: &[&str]) -> String {
    format!("['{}']", names.join("', '"))
}

#[cfg(test)]
mod tests {
    use super::{check_account, check_database, check_first, check_new_database, check_password};
    use crate::account::{Account, NewDatabase, NewUser, Password, Request};

    #[test]
    fn names_are_refused_before_an_engine_sees_them() {
        let longest = "d".repeat(64);
        for good in ["shop", "a_b", "50%", "Größe", "a b", "a.b", "-", &longest] {
            assert_eq!(check_database(good), Ok(()), "{good}");
        }
        let too_long = "d".repeat(65);
        for bad in ["", " a", "a ", "a`b", "a'b", "a\"b", "a;b", "a,b", "a/b", "a\\b", "a\nb", "a\u{1f600}", &too_long]
        {
            assert!(check_database(bad).is_err_and(|why| why.contains("is not valid")), "{bad}");
        }
        for reserved in ["mysql", "sys", "information_schema", "PERFORMANCE_SCHEMA"] {
            assert!(check_database(reserved).is_err_and(|why| why.contains("on the reserved list: ['")), "{reserved}");
        }
    }

    #[test]
    fn accounts_of_coffer_and_of_the_engine_are_nobodys() {
        for reserved in ["root", "ROOT", "coffer", "coffer_probe", "mariadb.sys", "mysql.sys", "PUBLIC"] {
            let why = check_account(&Account::new(reserved, None)).expect_err(reserved);
            assert!(why.contains("on the reserved list"), "{why}");
        }
        assert_eq!(check_account(&Account::new(&"u".repeat(32), Some("10.0.0.%"))), Ok(()));
        assert!(check_account(&Account::new(&"u".repeat(33), None)).is_err());
        for host in ["", "a b", "10.0.0.1'", "a/b", &"h".repeat(61)] {
            assert!(check_account(&Account::new("ann", Some(host))).is_err(), "{host}");
        }
    }

    #[test]
    fn a_collation_belongs_to_the_character_set() {
        let check = |set: Option<&str>, collate: Option<&str>| {
            let owned = |text: Option<&str>| text.map(str::to_owned);
            check_new_database(&NewDatabase { name: "d".into(), character_set: owned(set), collate: owned(collate) })
        };
        assert_eq!(check(Some("utf8mb4"), Some("utf8mb4_bin")), Ok(()));
        assert_eq!(check(None, Some("latin1_swedish_ci")), Ok(()));
        assert_eq!(check(Some("utf8mb4"), Some("uca1400_ai_ci")), Ok(()));
        assert_eq!(check(Some("binary"), Some("binary")), Ok(()));
        for (set, collate) in [(Some("utf9"), None), (Some("utf8mb4"), Some("latin1_bin")), (None, Some("x`y"))] {
            assert!(check(set, collate).is_err(), "{set:?} {collate:?}");
        }
    }

    #[test]
    fn the_first_users_have_only_what_is_made_with_them() {
        let database = |name: &str| NewDatabase { name: name.to_owned(), character_set: None, collate: None };
        let user = |name: &str, on: &str| NewUser {
            account: Account::new(name, None),
            password: Password::Clear("p".to_owned()),
            databases: vec![on.to_owned()],
        };
        let check = |databases: &[&str], users: Vec<NewUser>| {
            let databases = databases.iter().map(|name| database(name)).collect();
            check_first(&Request::Make { databases, users, again: true }).err().unwrap_or_default()
        };
        assert_eq!(check(&["shop"], vec![user("ann", "shop"), user("eve", "shop")]), "");
        assert!(check(&["shop"], vec![user("ann", "other")]).contains("is not included in the initial databases list"));
        assert!(check(&["shop", "shop"], vec![]).contains("Two or more databases share the same name"));
        assert!(check(&["shop"], vec![user("ann", "shop"), user("ann", "shop")]).contains("Two or more users share"));
        assert!(check(&["shop"], vec![user("admin", "shop")]).contains("already exists"));
        let reserved = "User create error: User name \"root\" is on the reserved list: ['coffer', ";
        assert!(check(&["shop"], vec![user("root", "shop")]).starts_with(reserved));
    }

    #[test]
    fn passwords_are_any_text_that_can_be_typed() {
        assert_eq!(check_password(&"é".repeat(255)), Ok(()));
        for bad in ["", "a\0b", "a\nb", &"p".repeat(256)] {
            assert!(check_password(bad).is_err_and(|why| !why.contains('\0')), "{bad:?}");
        }
    }
}
