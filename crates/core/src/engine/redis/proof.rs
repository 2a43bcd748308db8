//! Whether the new engine holds what the old one held.
//!
//! Both are asked the same questions, the old one while writes wait, the new one before clients get in. What must be
//! equal is compared exactly; what may only shrink by itself, keys that expire, is compared as such.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::datastore::Number;
use crate::finding::Finding;

/// A key, which may be any bytes. In JSON it is written in hexadecimal digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key(pub Vec<u8>);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        use fmt::Write as _;
        key.0.iter().fold(Self::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

/// What was not a key in hexadecimal digits.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is not a key in hexadecimal digits")]
pub struct BadKey(String);

impl TryFrom<String> for Key {
    type Error = BadKey;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let digits: Option<Vec<u32>> = text.chars().map(|c| c.to_digit(16)).collect();
        match digits {
            Some(digits) if digits.len().is_multiple_of(2) => {
                Ok(Self(digits.chunks(2).filter_map(|pair| u8::try_from(pair[0] * 16 + pair[1]).ok()).collect()))
            }
            _ => Err(BadKey(text)),
        }
    }
}

/// A key whose value is compared as a whole, chosen while the old engine serves.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SampleKey {
    pub database: u32,
    pub key: Key,
    /// Its type when it was chosen, which says how it is read.
    pub kind: String,
}

/// How many keys a database has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyCount {
    pub keys: u64,
    /// How many of them expire.
    pub volatile: u64,
    /// How many have fields that expire. With its last field a key is gone.
    #[serde(default)]
    pub fading: u64,
}

/// What was read of one key of the sample.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sampled {
    #[serde(flatten)]
    pub at: SampleKey,
    /// `None`: there is no such key.
    pub value: Option<Value>,
}

/// The value of a key, as it is compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Value {
    /// What `TYPE` says.
    pub kind: String,
    /// SHA-256 of the value in a canonical form. `None` for types that cannot be read in one, and for a key that is of
    /// another type than when it was chosen.
    pub digest: Option<String>,
    /// When it expires, in milliseconds since 1970 by the engine's clock; `None`: never.
    pub expires_at_ms: Option<i64>,
}

/// What an engine holds, as far as it can be told within some milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// What the engine says it is.
    pub number: Option<Number>,
    /// `master` or `slave`, in the engine's words.
    pub role: String,
    pub databases: BTreeMap<u32, KeyCount>,
    /// Keys per type over all databases; `None` where counting would take too long.
    pub types: Option<BTreeMap<String, u64>>,
    pub sample: Vec<Sampled>,
    /// Digest of each function library; `None` on engines without functions (before 7.0).
    pub functions: Option<BTreeMap<String, String>>,
    /// What each ACL user may, in the form of [`super::acl::User::essence`]; `None` on engines without ACL (before 6.0).
    pub users: Option<BTreeMap<String, String>>,
    /// The engine's clock when all this was read, in milliseconds since 1970.
    pub taken_at_ms: i64,
}

/// How far two readings of one expiry may differ, in milliseconds, where an engine only tells the time that is left.
const CLOCK_SLACK_MS: i64 = 1000;

/// What the new engine lacks or has too much of. Empty: it holds what the old one held.
pub fn compare(before: &Fingerprint, after: &Fingerprint) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut differs = |id: &str, object: String, message: String| {
        findings.push(Finding::error(id, object, message, "none: the upgrade is undone by itself"));
    };
    if after.role != "master" {
        differs("proof.role", "role".to_owned(), format!("it is '{}' instead of master", after.role));
    }
    let none = KeyCount::default();
    let databases: BTreeSet<u32> = before.databases.keys().chain(after.databases.keys()).copied().collect();
    for database in databases {
        let was = before.databases.get(&database).unwrap_or(&none);
        let is = after.databases.get(&database).unwrap_or(&none);
        let (kept_was, kept_is) = (was.keys.saturating_sub(was.volatile), is.keys.saturating_sub(is.volatile));
        // One with nothing but fields that expire goes with the last of them.
        if kept_is > kept_was || kept_is < kept_was.saturating_sub(was.fading) {
            let message = format!("{kept_is} keys that do not expire instead of {kept_was}");
            differs("proof.keys", format!("database {database}"), message);
        }
        if is.volatile > was.volatile {
            let message = format!("{} keys that expire, more than the {} before", is.volatile, was.volatile);
            differs("proof.keys", format!("database {database}"), message);
        }
    }
    let volatile = |of: &Fingerprint| of.databases.values().map(|count| count.volatile).sum::<u64>();
    let fading: u64 = before.databases.values().map(|count| count.fading).sum();
    let expired = volatile(before).saturating_sub(volatile(after)) + fading;
    if let (Some(was), Some(is)) = (&before.types, &after.types) {
        for (kind, was) in types_that_differ(was, is, expired) {
            let is = is.get(kind).copied().unwrap_or(0);
            differs("proof.types", format!("type {kind}"), format!("{is} keys instead of {was}"));
        }
    }
    for was in &before.sample {
        let is = after.sample.iter().find(|s| s.at == was.at);
        if let Some(message) = value_differs(was.value.as_ref(), is.and_then(|s| s.value.as_ref()), after.taken_at_ms) {
            differs("proof.value", format!("key {} of database {}", was.at.key, was.at.database), message);
        }
    }
    for (what, was, is) in
        [("function library", &before.functions, &after.functions), ("user", &before.users, &after.users)]
    {
        let (Some(was), Some(is)) = (was, is) else { continue };
        for (name, content) in was {
            match is.get(name) {
                None => differs("proof.missing", format!("{what} {name}"), "it is missing".to_owned()),
                Some(now) if now != content => {
                    differs("proof.changed", format!("{what} {name}"), "it is not what it was".to_owned());
                }
                Some(_) => {}
            }
        }
    }
    findings
}

/// Types of which there are more than before, or fewer than those that `expired` can explain.
fn types_that_differ<'a>(
    was: &'a BTreeMap<String, u64>,
    is: &'a BTreeMap<String, u64>,
    expired: u64,
) -> Vec<(&'a str, u64)> {
    let kinds: BTreeSet<&String> = was.keys().chain(is.keys()).collect();
    let count = |of: &BTreeMap<String, u64>, kind: &String| of.get(kind).copied().unwrap_or(0);
    kinds
        .into_iter()
        .map(|kind| (kind, count(was, kind), count(is, kind)))
        .filter(|(_, was, is)| is > was || is + expired < *was)
        .map(|(kind, was, _)| (kind.as_str(), was))
        .collect()
}

fn value_differs(was: Option<&Value>, is: Option<&Value>, now_ms: i64) -> Option<String> {
    match (was, is) {
        (None, None) => None,
        (None, Some(_)) => Some("it is there, and was not before".to_owned()),
        (Some(was), None) => match was.expires_at_ms {
            Some(at) if at <= now_ms + CLOCK_SLACK_MS => None,
            _ => Some("it is missing".to_owned()),
        },
        (Some(was), Some(is)) if was.kind != is.kind => Some(format!("it is a {} instead of a {}", is.kind, was.kind)),
        (Some(was), Some(is)) if was.digest != is.digest => Some("its value is another one".to_owned()),
        (Some(was), Some(is)) => match (was.expires_at_ms, is.expires_at_ms) {
            (None, None) => None,
            (Some(a), Some(b)) if (a - b).abs() <= CLOCK_SLACK_MS => None,
            (was, is) => Some(format!("it expires {} instead of {}", moment(is), moment(was))),
        },
    }
}

fn moment(at_ms: Option<i64>) -> String {
    at_ms.map_or_else(|| "never".to_owned(), |ms| format!("at {ms} ms"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Fingerprint, Key, KeyCount, SampleKey, Sampled, Value, compare};

    fn holds() -> Fingerprint {
        let value =
            |kind: &str, expires_at_ms| Some(Value { kind: kind.into(), digest: Some("d".into()), expires_at_ms });
        let at = |key: &str| SampleKey { database: 0, key: Key(key.into()), kind: "string".into() };
        let sampled = |key: &str, value| Sampled { at: at(key), value };
        Fingerprint {
            number: None,
            role: "master".into(),
            databases: BTreeMap::from([
                (0, KeyCount { keys: 10, volatile: 2, fading: 0 }),
                (3, KeyCount { keys: 1, volatile: 0, fading: 0 }),
            ]),
            types: Some(BTreeMap::from([("string".into(), 9), ("hash".into(), 2)])),
            sample: vec![sampled("a", value("string", None)), sampled("t", value("hash", Some(5_000_000)))],
            functions: Some(BTreeMap::from([("lib".into(), "x".into())])),
            users: Some(BTreeMap::from([("default".into(), "on".into())])),
            taken_at_ms: 1_000_000,
        }
    }

    fn check(change: impl FnOnce(&mut Fingerprint), expected: &[&str]) {
        let mut after = holds();
        change(&mut after);
        let found: Vec<_> =
            compare(&holds(), &after).into_iter().map(|f| format!("{}: {}", f.object, f.message)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn an_equal_engine_is_proven() {
        check(|_| {}, &[]);
    }

    #[test]
    fn every_loss_is_found_and_named() {
        check(|f| f.databases.entry(0).or_default().keys = 9, &["database 0: 7 keys that do not expire instead of 8"]);
        check(|f| f.databases.retain(|d, _| *d != 3), &["database 3: 0 keys that do not expire instead of 1"]);
        check(|f| f.types = Some([("hash".into(), 2)].into()), &["type string: 0 keys instead of 9"]);
        check(|f| f.sample[0].value = None, &["key \"a\" of database 0: it is missing"]);
        check(
            |f| f.sample[0].value = f.sample[0].value.clone().map(|v| Value { digest: Some("e".into()), ..v }),
            &["key \"a\" of database 0: its value is another one"],
        );
        check(
            |f| f.sample[1].value = f.sample[1].value.clone().map(|v| Value { expires_at_ms: None, ..v }),
            &["key \"t\" of database 0: it expires never instead of at 5000000 ms"],
        );
        check(|f| f.functions = Some(BTreeMap::new()), &["function library lib: it is missing"]);
        check(|f| f.users = Some([("default".into(), "off".into())].into()), &["user default: it is not what it was"]);
        check(|f| f.role = "slave".into(), &["role: it is 'slave' instead of master"]);
    }

    #[test]
    fn keys_may_expire_meanwhile_and_new_ones_may_not_appear() {
        check(
            |f| {
                f.databases.insert(0, KeyCount { keys: 9, volatile: 1, fading: 0 });
                f.types = Some(BTreeMap::from([("string".into(), 9), ("hash".into(), 1)]));
                f.sample[1].value = None;
                f.taken_at_ms = 5_000_000;
            },
            &[],
        );
        check(
            |f| *f.databases.entry(0).or_default() = KeyCount { keys: 11, volatile: 3, fading: 0 },
            &["database 0: 3 keys that expire, more than the 2 before"],
        );
    }

    #[test]
    fn a_key_goes_with_the_last_of_its_fields() {
        let mut before = holds();
        before.databases.insert(0, KeyCount { keys: 10, volatile: 2, fading: 1 });
        let after = |keys, hashes| {
            let mut after = holds();
            after.databases.insert(0, KeyCount { keys, volatile: 2, fading: 0 });
            after.types = Some(BTreeMap::from([("string".into(), 9), ("hash".into(), hashes)]));
            compare(&before, &after).len()
        };
        assert_eq!(after(9, 1), 0, "it was the one whose fields expire");
        assert_eq!(after(8, 0), 2, "another one is missing, by number and by type");
    }

    #[test]
    fn a_fingerprint_survives_the_journal() {
        let mut odd = holds();
        odd.sample[0].at.key = Key(vec![0, 255, b'"']);
        let text = serde_json::to_string(&odd).expect("json");
        assert_eq!(serde_json::from_str::<Fingerprint>(&text).expect("read"), odd);
        assert!(serde_json::from_str::<Key>("\"0g\"").is_err());
    }
}
