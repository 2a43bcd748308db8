//! Which settings of a version may be chosen, in the few words that are common to all datastores.

use super::redis::{config, parameters as redis};
use super::sql::{config as sql_config, parameters as sql, settings};
use crate::datastore::{Datastore, Number, Version};
use crate::spec::{EngineSpec, Settings};

/// A setting that may be chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    pub name: &'static str,
    pub kind: Kind,
    /// Its value where nobody says anything, as the engine shows it.
    pub default: &'static str,
    /// Whether a running engine takes another value; if not, it does at its next start.
    pub live: bool,
}

/// What values a setting takes. Checks look closer; this is what is told beforehand.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A whole number, between both where that is known.
    Integer {
        min: Option<i128>,
        max: Option<i128>,
    },
    Float {
        min: f64,
        max: f64,
    },
    /// On or off, in the datastore's own words.
    Boolean,
    Text,
}

impl Kind {
    /// Trove's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Integer { .. } => "integer",
            Self::Float { .. } => "float",
            Self::Boolean => "boolean",
            Self::Text => "string",
        }
    }
}

/// All of a version, by name. Not among them: what only the agent sets, and what does nothing.
pub fn all(version: &Version) -> Vec<Parameter> {
    match version.datastore {
        Datastore::Redis | Datastore::Valkey => {
            let known = redis::all(version.datastore, version.number).iter();
            let (datastore, number) = (version.datastore, version.number);
            known.filter_map(|(name, parameter)| of_redis(datastore, number, name, *parameter)).collect()
        }
        Datastore::Mysql | Datastore::Mariadb => {
            let (datastore, number) = (version.datastore, version.number);
            let known = sql::all(datastore, number).iter();
            known.filter_map(|(name, parameter)| of_sql(datastore, number, name, parameter)).collect()
        }
    }
}

/// One of them.
pub fn of(version: &Version, name: &str) -> Option<Parameter> {
    all(version).into_iter().find(|parameter| parameter.name == name)
}

/// What an engine runs with where nobody says anything, on the flavor of this one.
pub fn defaults(spec: &EngineSpec) -> Settings {
    let bare = EngineSpec { settings: Settings::new(), ..spec.clone() };
    let (datastore, number) = (spec.datastore(), spec.number);
    match datastore {
        Datastore::Redis | Datastore::Valkey => {
            let known = redis::all(datastore, number).iter();
            let chosen = known.filter_map(|(name, parameter)| of_redis(datastore, number, name, *parameter));
            let written = config::Config::of(&bare, None);
            chosen.map(|p| (p.name.to_owned(), written.value(p.name).unwrap_or_else(|| p.default.to_owned()))).collect()
        }
        Datastore::Mysql | Datastore::Mariadb => {
            let known = sql::all(datastore, number).iter();
            let chosen = known.filter_map(|(name, parameter)| of_sql(datastore, number, name, parameter));
            chosen
                .map(|p| (p.name.to_owned(), sql_config::told(&bare, p.name).unwrap_or_else(|| p.default.to_owned())))
                .collect()
        }
    }
}

/// A value as somebody gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Given {
    /// A text, or a number as it was written.
    Text(String),
    /// Each datastore has words of its own for it.
    Truth(bool),
}

impl Given {
    /// In the words of the datastore's configuration.
    pub fn in_words(self, datastore: Datastore) -> String {
        let word = match (self, datastore) {
            (Self::Text(text), _) => return text,
            (Self::Truth(true), Datastore::Redis | Datastore::Valkey) => "yes",
            (Self::Truth(false), Datastore::Redis | Datastore::Valkey) => "no",
            (Self::Truth(true), Datastore::Mysql | Datastore::Mariadb) => "ON",
            (Self::Truth(false), Datastore::Mysql | Datastore::Mariadb) => "OFF",
        };
        word.to_owned()
    }
}

fn of_redis(
    datastore: Datastore,
    number: Number,
    name: &'static str,
    parameter: redis::Parameter,
) -> Option<Parameter> {
    let default = parameter.default.filter(|_| parameter.accepted && !config::is_owned(name))?;
    let is_number = !default.is_empty() && default.trim_start_matches('-').bytes().all(|b| b.is_ascii_digit());
    let kind = match default {
        "yes" | "no" => Kind::Boolean,
        _ if is_number => Kind::Integer { min: None, max: None },
        _ => Kind::Text,
    };
    Some(Parameter { name, kind, default, live: super::live::is_live(datastore, number, name) })
}

fn of_sql(datastore: Datastore, number: Number, name: &'static str, parameter: &sql::Parameter) -> Option<Parameter> {
    let kind = match parameter.kind {
        sql::Kind::Boolean => Kind::Boolean,
        sql::Kind::Integer { min, max } => Kind::Integer { min: Some(min), max: Some(max) },
        sql::Kind::Float { min, max } => Kind::Float { min, max },
        sql::Kind::Enum(_) | sql::Kind::Set(_) | sql::Kind::Flags(_) | sql::Kind::Text => Kind::Text,
        sql::Kind::Obsolete => return None,
    };
    let live = super::live::is_live(datastore, number, name);
    let parameter = Parameter { name, kind, default: parameter.default, live };
    (!settings::is_owned(name)).then_some(parameter)
}

#[cfg(test)]
mod tests {
    use super::{Kind, all, of};
    use crate::datastore::Version;

    #[test]
    fn what_may_be_chosen_has_a_type_a_range_and_a_time() {
        let of = |label: &str, name: &str| of(&Version::labelled(label), name);
        let connections = of("mariadb 10.11.19", "max_connections").expect("known");
        assert_eq!(connections.kind, Kind::Integer { min: Some(10), max: Some(100_000) });
        assert!(!of("mariadb 10.11.19", "character_set_server").expect("known").live, "no way back to the default");
        assert!(connections.live && !of("mariadb 10.11.19", "back_log").expect("known").live);
        assert_eq!(of("redis 7.0.15", "maxclients").expect("known").kind.name(), "integer");
        assert_eq!(of("redis 7.0.15", "appendonly").expect("known").kind, Kind::Boolean);
        assert_eq!(of("redis 7.0.15", "maxmemory-policy").expect("known").kind, Kind::Text);
        assert!(!of("redis 7.0.15", "databases").expect("known").live);
        for (label, owned) in [("redis 7.0.15", "dir"), ("redis 7.0.15", "requirepass"), ("mariadb 11.8.9", "datadir")]
        {
            assert_eq!(of(label, owned), None);
        }
        assert_eq!(of("mariadb 11.8.9", "alter_algorithm"), None, "it does nothing any more");
        assert!(all(&Version::labelled("mariadb 11.8.9")).len() > 300);
    }
}
