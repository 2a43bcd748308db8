//! Configuration groups: settings under a name, for as many instances of one datastore version as one likes.
//!
//! What an instance is to run with is what it was given itself, with the values of its group before that. What it does run
//! with is recorded apart; where both differ, it waits for a restart. That is derived whenever it is asked for.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::datastore::Version;
use crate::engine::{self, Fate, Policy, SettingsChange};
use crate::id::{GroupId, ProjectId, VersionId};
use crate::spec::Settings;

/// The longest that a name may be, in characters.
const NAME_LENGTH: usize = 255;

/// Settings under a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    pub id: GroupId,
    pub project: ProjectId,
    /// Need not be the only one of its name.
    pub name: String,
    pub description: Option<String>,
    /// The version whose words the values are. Only instances of exactly this one can have the group.
    pub version: VersionId,
    pub values: Settings,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// Where the settings of an instance come from, as an operation leaves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configured {
    /// What the instance was given itself.
    pub own: Settings,
    /// The group that is attached then. It is made where there is none with its name, version and values.
    pub group: Option<Group>,
}

/// What an instance is to run with.
pub fn merged(own: &Settings, group: Option<&Group>) -> Settings {
    let mut all = own.clone();
    all.extend(group.into_iter().flat_map(|group| group.values.clone()));
    all
}

/// The names whose values differ, or that only one of both has.
pub fn differences(a: &Settings, b: &Settings) -> Vec<String> {
    let of_a = a.iter().filter(|(name, value)| b.get(*name) != Some(value)).map(|(name, _)| name);
    let of_b = b.keys().filter(|name| !a.contains_key(*name));
    let mut names: Vec<_> = of_a.chain(of_b).cloned().collect();
    names.sort();
    names
}

/// What a running engine can be made to run with on the way from `in_force` to `wanted`: what can be changed live is, the
/// rest waits for the next start.
pub fn apply_live(version: &Version, in_force: &Settings, wanted: &Settings) -> Settings {
    let mut live = in_force.clone();
    for name in differences(in_force, wanted) {
        if engine::live::is_live(version.datastore, version.number, &name) {
            match wanted.get(&name) {
                Some(value) => live.insert(name, value.clone()),
                None => live.remove(&name),
            };
        }
    }
    live
}

/// What becomes of an instance's own settings and of its group on the way to another version.
#[derive(Clone, Debug, PartialEq)]
pub struct Migration {
    pub change: SettingsChange,
    pub own: Settings,
    /// The values of the group of the new version; `None` where there is no group.
    pub values: Option<Settings>,
}

/// What becomes of an instance's own settings and of its group's on the way from `from` to `to`. What is pinned belongs to
/// the group where there is one, so that it can be seen and changed there.
pub fn migrate(from: &Version, to: &Version, own: &Settings, group: Option<&Group>, policy: Policy) -> Migration {
    let change = engine::change_settings(from, to, &merged(own, group), policy);
    let of_group = |fate: &Fate| match (fate, group) {
        (_, None) => false,
        (Fate::Pinned { .. }, Some(_)) => true,
        (fate, Some(group)) => group.values.contains_key(fate.name()),
    };
    let (of_group, of_own): (Vec<_>, Vec<_>) = change.0.iter().cloned().partition(of_group);
    let values = group.map(|_| SettingsChange(of_group).after());
    // What the group says otherwise is not among the fates: it is asked for on its own.
    let hidden: Settings = match group {
        Some(group) => own.iter().filter(|(name, _)| group.values.contains_key(*name)).map(owned).collect(),
        None => Settings::new(),
    };
    let mut own = engine::change_settings(from, to, &hidden, Policy::Adopt).after();
    own.extend(SettingsChange(of_own).after());
    Migration { change, own, values }
}

fn owned((name, value): (&String, &String)) -> (String, String) {
    (name.clone(), value.clone())
}

/// The name of the group that another one becomes: with the version at its end, in the place of the former one's.
pub fn migrated_name(name: &str, from: &Version, to: &Version) -> String {
    let suffix = |version: &Version| format!("-{}", version.name);
    let stem = name.strip_suffix(&suffix(from)).filter(|stem| !stem.is_empty()).unwrap_or(name);
    let suffix = suffix(to);
    let room = NAME_LENGTH.saturating_sub(suffix.chars().count());
    stem.chars().take(room).collect::<String>() + &suffix
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::{Group, apply_live, differences, merged, migrate, migrated_name};
    use crate::datastore::Version;
    use crate::engine::Policy;
    use crate::id::{GroupId, ProjectId};
    use crate::spec::Settings;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn group(version: &Version, pairs: &[(&str, &str)]) -> Group {
        Group {
            id: GroupId(uuid::Uuid::nil()),
            project: ProjectId::from("ours"),
            name: "g".to_owned(),
            description: None,
            version: version.id,
            values: settings(pairs),
            created_at: Timestamp::UNIX_EPOCH,
            updated_at: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_group_goes_before_what_an_instance_was_given_itself() {
        let version = Version::labelled("redis 7.0.15");
        let own = settings(&[("timeout", "1"), ("hz", "20")]);
        let group = group(&version, &[("timeout", "5")]);
        assert_eq!(merged(&own, Some(&group)), settings(&[("timeout", "5"), ("hz", "20")]));
        assert_eq!(merged(&own, None), own);
        assert_eq!(differences(&own, &group.values), ["hz", "timeout"]);
    }

    #[test]
    fn what_can_be_changed_live_is_and_the_rest_waits() {
        for (label, live, restart) in
            [("redis 7.0.15", "timeout", "databases"), ("mariadb 10.11.19", "max_connections", "back_log")]
        {
            let version = Version::labelled(label);
            let wanted = settings(&[(live, "55"), (restart, "60")]);
            let applied = apply_live(&version, &Settings::new(), &wanted);
            assert_eq!(applied, settings(&[(live, "55")]), "{label}");
            assert_eq!(differences(&applied, &wanted), [restart], "{label}");
            assert_eq!(apply_live(&version, &wanted, &Settings::new()), settings(&[(restart, "60")]), "{label}");
        }
    }

    #[test]
    fn at_an_upgrade_each_setting_stays_where_it_came_from() {
        let (from, to) = (Version::labelled("mariadb 10.5.23"), Version::labelled("mariadb 11.8.9"));
        let own = settings(&[("max_connections", "99"), ("sql_mode", "ANSI")]);
        let group = group(&from, &[("max_connections", "200"), ("innodb_mutexes", "ON")]);
        let moved = migrate(&from, &to, &own, Some(&group), Policy::Preserve);
        let values = moved.values.expect("a group");
        assert_eq!(values.get("innodb_mutexes"), None, "gone");
        assert_eq!(values.get("max_connections").map(String::as_str), Some("200"));
        assert_eq!(values.get("character_set_server").map(String::as_str), Some("latin1"), "pinned in the group");
        assert_eq!(values.get("sql_mode"), None, "chosen by the instance itself");
        assert_eq!(moved.own, settings(&[("max_connections", "99"), ("sql_mode", "ANSI")]));
        let adopted = migrate(&from, &to, &own, Some(&group), Policy::Adopt).values.expect("a group");
        assert_eq!(adopted.get("character_set_server"), None);
        let alone = migrate(&from, &to, &own, None, Policy::Preserve);
        assert_eq!(alone.values, None);
        assert_eq!(alone.own.get("character_set_server").map(String::as_str), Some("latin1"));
    }

    #[test]
    fn a_migrated_group_has_the_version_at_the_end_of_its_name() {
        let (from, to) = (Version::labelled("redis 7.0.15"), Version::labelled("redis 8.0.2"));
        for (name, expected) in [
            ("prod", "prod-8.0.2"),
            ("prod-7.0.15", "prod-8.0.2"),
            ("-7.0.15", "-7.0.15-8.0.2"),
            (&"ä".repeat(255), &format!("{}-8.0.2", "ä".repeat(249))),
        ] {
            assert_eq!(migrated_name(name, &from, &to), expected);
        }
    }
}
