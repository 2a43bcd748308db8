//! Datastores and their versions: the families of engines that the API names, and the numbers that engines report.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::{Digest, VersionId};

/// A family of engines as the API names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Datastore {
    Mysql,
    Mariadb,
    Redis,
    Valkey,
}

impl Datastore {
    /// All of them, in the order in which they are listed.
    pub const ALL: [Self; 4] = [Self::Mysql, Self::Mariadb, Self::Redis, Self::Valkey];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mysql => "mysql",
            Self::Mariadb => "mariadb",
            Self::Redis => "redis",
            Self::Valkey => "valkey",
        }
    }

    /// The port every client assumes, because Trove's API has no field for one.
    pub fn port(self) -> u16 {
        match self {
            Self::Mysql | Self::Mariadb => 3306,
            Self::Redis | Self::Valkey => 6379,
        }
    }
}

impl fmt::Display for Datastore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What was not a datastore's name.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is not a datastore; hint: coffer datastore list")]
pub struct UnknownDatastore(pub String);

impl FromStr for Datastore {
    type Err = UnknownDatastore;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|d| d.name() == s).ok_or_else(|| UnknownDatastore(s.to_owned()))
    }
}

/// An engine's version number, such as `7.0.15`: one to four numbers with dots between, compared number by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Number {
    parts: [u32; 4],
    len: u8,
}

/// What was not an engine's version number.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is not a version number such as 7.0.15")]
pub struct BadNumber(pub String);

impl Number {
    /// Major and minor together: the series that shares a data format and a set of settings.
    pub fn series(self) -> (u32, u32) {
        (self.parts[0], self.parts[1])
    }

    /// The first number.
    pub fn major(self) -> u32 {
        self.parts[0]
    }

    /// Whether this is `major.minor` or anything after it.
    pub fn at_least(self, major: u32, minor: u32) -> bool {
        self.series() >= (major, minor)
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = self.parts.iter().take(usize::from(self.len));
        if let Some(first) = parts.next() {
            write!(f, "{first}")?;
        }
        parts.try_for_each(|part| write!(f, ".{part}"))
    }
}

impl FromStr for Number {
    type Err = BadNumber;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let bad = || BadNumber(s.to_owned());
        let mut parts = [0; 4];
        let mut len = 0;
        for part in s.split('.') {
            let slot = parts.get_mut(usize::from(len)).ok_or_else(bad)?;
            if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
                return Err(bad());
            }
            *slot = part.parse().map_err(|_| bad())?;
            len += 1;
        }
        Ok(Self { parts, len })
    }
}

impl TryFrom<String> for Number {
    type Error = BadNumber;
    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<Number> for String {
    fn from(n: Number) -> Self {
        n.to_string()
    }
}

/// One version of a datastore in the catalogue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Version {
    pub id: VersionId,
    pub datastore: Datastore,
    /// What users ask for; equal to the number unless an operator gave it another name.
    pub name: String,
    pub number: Number,
    /// The engine image that was fetched for it; `None` until it was fetched for the first time.
    pub image: Option<Digest>,
    /// Whether instances may be created on it or upgraded to it.
    pub active: bool,
    /// Whether it is what `create` takes when no version is named.
    pub default: bool,
    /// The catalogue's entry, which tells where the image comes from. Opaque to all but `coffer-image`.
    pub sources: serde_json::Value,
}

impl Version {
    /// `redis 7.0.15`: how messages name it.
    pub fn label(&self) -> String {
        format!("{} {}", self.datastore, self.name)
    }
}

#[cfg(test)]
impl Version {
    /// The active version with this label, such as `redis 7.0.15`. Each has an id of its own.
    pub(crate) fn labelled(label: &str) -> Self {
        let (datastore, number) = label.split_once(' ').expect(label);
        let id = label.bytes().fold(0_u128, |id, b| id.wrapping_mul(257) + u128::from(b));
        Self {
            id: VersionId(uuid::Uuid::from_u128(id)),
            datastore: datastore.parse().expect(label),
            name: number.to_owned(),
            number: number.parse().expect(label),
            image: None,
            active: true,
            default: false,
            sources: serde_json::Value::Null,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Number;

    #[test]
    fn numbers_are_compared_number_by_number_and_not_as_text() {
        let n = |s: &str| s.parse::<Number>().expect(s);
        assert!(n("7.0.15") > n("7.0.9"));
        assert!(n("10.11.18") > n("10.5.23"));
        assert_eq!(n("8.0.2").to_string(), "8.0.2");
        for bad in ["", "7.", ".7", "7.x", "1.2.3.4.5", "-1", "7.0 15", "99999999999"] {
            assert!(bad.parse::<Number>().is_err(), "{bad}");
        }
    }
}
