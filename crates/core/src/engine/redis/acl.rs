//! Users of Redis 6.0 and later, as they stand in an ACL file.
//!
//! Two users are there from the beginning: `default` is the tenant, who may do all but what would break a promise of
//! Coffer; `coffer` is the agent. Users that the tenant makes stay as they are, with what a newer version needs added.

use std::collections::BTreeSet;

use crate::datastore::{Datastore, Number};

/// The agent's user.
pub const AGENT: &str = "coffer";
/// The tenant's user, which is also that of clients that name none.
pub const TENANT: &str = "default";

/// What the tenant may not do: end the engine or make it another's replica, run code in it, change what the agent owns.
const DENIED: &[&str] = &["-shutdown", "-debug", "-replicaof", "-slaveof", "-module", "-config"];
const ALLOWED_AGAIN: &[&str] = &["+config|get", "+config|resetstat"];

/// Whether the engine has users at all.
pub fn has_users(datastore: Datastore, number: Number) -> bool {
    datastore == Datastore::Valkey || number.at_least(6, 0)
}

/// Whether users are told which channels they may use.
pub fn has_channels(datastore: Datastore, number: Number) -> bool {
    datastore == Datastore::Valkey || number.at_least(6, 2)
}

/// One user with its rules, as in `user NAME RULE...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub rules: Vec<String>,
}

impl User {
    /// Reads a line of an ACL file or of `ACL LIST`. `None` for anything else.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace().map(str::to_owned);
        let is_user = words.next()? == "user";
        let name = words.next().filter(|_| is_user)?;
        Some(Self { name, rules: words.collect() })
    }

    /// The line of an ACL file.
    pub fn render(&self) -> String {
        format!("user {} {}", self.name, self.rules.join(" "))
    }

    /// Whether this user was made where channels were open to all, by an engine that knew no rules for them.
    pub fn lacks_channels(&self) -> bool {
        !self.rules.iter().any(|r| r.starts_with('&') || r == "resetchannels" || r == "allchannels")
    }

    /// What no version may change: whether it is on, its password hashes, its keys and its channels. Commands are left
    /// out, because versions write one and the same set of them differently.
    pub fn essence(&self) -> String {
        let mut kept: BTreeSet<&str> = BTreeSet::new();
        for rule in &self.rules {
            match rule.as_str() {
                "on" | "off" | "nopass" => drop(kept.insert(rule)),
                "allkeys" => drop(kept.insert("~*")),
                "allchannels" => drop(kept.insert("&*")),
                rule if rule.starts_with(['#', '~', '%', '&']) => drop(kept.insert(rule)),
                _ => {}
            }
        }
        if self.lacks_channels() {
            kept.insert("&*");
        }
        kept.into_iter().collect::<Vec<_>>().join(" ")
    }
}

/// The users that the engine is started with: those that are there (`file`, the text of the ACL file), the tenant where it
/// is not among them, and the agent. Passwords as SHA-256 in hexadecimal digits.
pub fn ensure(file: Option<&str>, datastore: Datastore, number: Number, tenant: &str, agent: &str) -> Vec<User> {
    let mut users: Vec<User> = file.unwrap_or_default().lines().filter_map(User::parse).collect();
    users.retain(|user| user.name != AGENT);
    if !users.iter().any(|user| user.name == TENANT) {
        let denied = DENIED.iter().chain(has_channels(datastore, number).then_some(&"-failover"));
        users.push(full(TENANT, tenant, denied.chain(ALLOWED_AGAIN)));
    }
    users.push(full(AGENT, agent, std::iter::empty()));
    if has_channels(datastore, number) {
        for user in users.iter_mut().filter(|user| user.lacks_channels()) {
            user.rules.push("&*".to_owned());
        }
    }
    users
}

fn full<'a>(name: &str, password: &str, rules: impl Iterator<Item = &'a &'a str>) -> User {
    let all = ["on".to_owned(), format!("#{password}"), "~*".to_owned(), "+@all".to_owned()];
    User { name: name.to_owned(), rules: all.into_iter().chain(rules.map(|r| (*r).to_owned())).collect() }
}

#[cfg(test)]
mod tests {
    use super::{User, ensure};
    use crate::datastore::Datastore::Redis;

    fn names(users: &[User]) -> Vec<&str> {
        users.iter().map(|u| u.name.as_str()).collect()
    }

    #[test]
    fn a_new_instance_has_the_tenant_and_the_agent() {
        let users = ensure(None, Redis, "7.0.15".parse().expect("number"), "aa", "bb");
        assert_eq!(names(&users), ["default", "coffer"]);
        assert!(users[0].render().starts_with("user default on #aa ~* +@all -shutdown"));
        assert!(users[0].rules.contains(&"&*".to_owned()));
        let old = ensure(None, Redis, "6.0.16".parse().expect("number"), "aa", "bb");
        assert!(old.iter().all(User::lacks_channels), "6.0 does not know rules for channels");
    }

    #[test]
    fn users_of_6_0_keep_their_channels_and_everything_else() {
        let file =
            "user default on #cc ~* +@all\nuser alice off nopass ~a:* -@all +get\nuser coffer on #old ~* +@all\n";
        let users = ensure(Some(file), Redis, "7.0.15".parse().expect("number"), "aa", "bb");
        assert_eq!(names(&users), ["default", "alice", "coffer"]);
        assert_eq!(users[0].render(), "user default on #cc ~* +@all &*", "the tenant's own password stays");
        assert_eq!(users[1].render(), "user alice off nopass ~a:* -@all +get &*");
        assert!(users[2].rules.contains(&"#bb".to_owned()));
        let before = User::parse("user alice off nopass ~a:* -@all +get").expect("user");
        assert_eq!(before.essence(), users[1].essence());
    }

    #[test]
    fn a_user_without_channels_stays_without() {
        let file = "user bob on nopass ~* resetchannels +@all";
        let users = ensure(Some(file), Redis, "7.0.15".parse().expect("number"), "aa", "bb");
        assert_eq!(users[0].render(), file);
    }
}
