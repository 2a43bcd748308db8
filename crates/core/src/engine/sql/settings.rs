//! What becomes of settings of MariaDB and MySQL.

use super::parameters::{self, Kind, Parameter, Parameters};
use super::rules::{ANSWERS, Answer, OWNED, OWNED_PREFIXES, PINNED, REASONS, RENAMED, RENAMED_WORDS, renamed_value};
use crate::datastore::Version;
use crate::engine::{Fate, Policy, SettingsChange};
use crate::finding::Finding;
use crate::spec::Settings;

/// Whether only the agent sets it: where files lie, what is listened on, as whom it runs, and what would let anybody in.
pub fn is_owned(name: &str) -> bool {
    OWNED.contains(&name) || OWNED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// What becomes of `settings` on the way from `from` to `to`.
pub fn change(from: &Version, to: &Version, settings: &Settings, policy: Policy) -> SettingsChange {
    let way = Way { from, to, old: known(from), new: known(to) };
    let mut fates: Vec<Fate> = settings.iter().map(|(name, value)| way.fate(name, value, settings)).collect();
    way.settle_names(&mut fates);
    let set = SettingsChange(fates.clone()).after();
    way.pin(&mut fates, &set, policy);
    let set = SettingsChange(fates.clone()).after();
    fates.extend(way.defaults(&set));
    SettingsChange(fates)
}

/// From one version to another, and what both know.
struct Way<'a> {
    from: &'a Version,
    to: &'a Version,
    old: &'static Parameters,
    new: &'static Parameters,
}

fn known(version: &Version) -> &'static Parameters {
    parameters::all(version.datastore, version.number)
}

impl Way<'_> {
    fn fate(&self, name: &str, value: &str, settings: &Settings) -> Fate {
        let to = self.to.label();
        let (name, value) = (name.to_owned(), value.to_owned());
        let Some(to_name) = effective(self.new, &name).or_else(|| renamed(self.new, &name)) else {
            return self.answer(name, value, settings);
        };
        if is_owned(to_name) {
            return Fate::Dropped { reason: "it is set by coffer itself".to_owned(), name, value };
        }
        let Some(to_value) = self.value(to_name, &value) else {
            return Fate::Dropped { reason: format!("{to} takes no part of it any more"), name, value };
        };
        if let Some(why) = self.new.get(to_name).and_then(|parameter| wrong_value(parameter, &to_value)) {
            let gone = ANSWERS.iter().find(|(n, answer, _)| *n == name && matches!(answer, Answer::Goes));
            return match gone {
                Some((_, _, reason)) => Fate::Dropped { name, value, reason: (*reason).to_owned() },
                None => Fate::Refused { reason: format!("{to} does not take '{value}': {why}"), name, value },
            };
        }
        if to_name == name && to_value == value {
            return Fate::Kept { name, value };
        }
        let reason = if to_value == value {
            format!("{to} calls it {to_name}")
        } else {
            self.other_value(to_name, &value, &to_value)
        };
        Fate::Translated { name, value, to_name: to_name.to_owned(), to_value, reason }
    }

    /// What becomes of a setting that the target does not have under any name.
    fn answer(&self, name: String, value: String, settings: &Settings) -> Fate {
        let to = self.to.label();
        let answers = ANSWERS.iter().filter(|(n, _, _)| *n == name);
        for (_, answer, reason) in answers {
            let (to_name, to_value) = match answer {
                Answer::Becomes(to_name, convert) => (*to_name, convert(&value, settings)),
                Answer::Goes => return Fate::Dropped { name, value, reason: (*reason).to_owned() },
            };
            let Some(parameter) = effective(self.new, to_name).and_then(|name| self.new.get(name)) else { continue };
            let Some(to_value) = to_value.filter(|_| !settings.contains_key(to_name)) else {
                return Fate::Dropped { reason: format!("{to} has {to_name} in its place: {reason}"), name, value };
            };
            let (to_name, to_value) = (to_name.to_owned(), clamp(parameter, to_value));
            return Fate::Translated { name, value, to_name, to_value, reason: (*reason).to_owned() };
        }
        if self.new.contains_key(name.as_str()) {
            return Fate::Dropped { reason: format!("{to} takes it and does nothing with it"), name, value };
        }
        let default = self.old.get(name.as_str()).is_some_and(|p| same(&p.kind, p.default, &value));
        let harm = if default { "; it had its default value" } else { "" };
        Fate::Dropped { reason: format!("{to} has no setting {name}{harm}"), name, value }
    }

    /// The value as the target takes it; `None` where nothing is left of it.
    fn value(&self, name: &str, value: &str) -> Option<String> {
        let Some(parameter) = self.new.get(name) else { return Some(value.to_owned()) };
        let value = renamed_value(self.to.datastore, name, value);
        let value = match &parameter.kind {
            // Flags and sets lose the words that the target does not have: their work is done in another way, or not at all.
            Kind::Set(_) | Kind::Flags(_) if !value.bytes().all(|b| b.is_ascii_digit()) => {
                let kept: Vec<_> =
                    value.split(',').filter(|word| wrong_word(&parameter.kind, word).is_none()).collect();
                if kept.is_empty() && name != "sql_mode" && name != "old_mode" {
                    return None;
                }
                kept.join(",")
            }
            Kind::Enum(words) if self.old.get(name).is_some_and(|old| old.kind == Kind::Boolean) => {
                // What was a switch takes only its words.
                let word = boolean(&value).map(|on| if on { "ON" } else { "OFF" });
                word.filter(|word| words.contains(word)).map_or(value, str::to_owned)
            }
            _ => value,
        };
        Some(clamp(parameter, self.keep_utf8(name, value)))
    }

    /// Why the value is another one.
    fn other_value(&self, name: &str, before: &str, after: &str) -> String {
        let (to, kind) = (self.to.label(), self.new.get(name).map(|parameter| &parameter.kind));
        let (lost, added) = only_differences(before, after);
        match kind {
            Some(Kind::Integer { .. } | Kind::Float { .. }) => format!("{to} takes {}", kind.unwrap_or(&Kind::Text)),
            Some(Kind::Set(_) | Kind::Flags(_)) if !lost.is_empty() => format!("{to} has no {lost}"),
            Some(Kind::Set(_) | Kind::Flags(_)) => format!("{added} says what was always so before"),
            _ => format!("{to} does not take '{before}'"),
        }
    }

    /// `utf8` meant three bytes before there was a mode that says so, and where modes are chosen, it has to be said.
    fn keep_utf8(&self, name: &str, value: String) -> String {
        const MODE: &str = "UTF8_IS_UTF8MB3";
        let knows = |parameters: &Parameters| parameters.get(name).is_some_and(|p| p.kind.words().contains(&MODE));
        if name != "old_mode" || knows(self.old) || !knows(self.new) {
            return value;
        }
        if value.is_empty() { MODE.to_owned() } else { format!("{value},{MODE}") }
    }

    /// Where two settings become one, the one that had its name already counts.
    fn settle_names(&self, fates: &mut [Fate]) {
        let kept: Vec<String> = fates
            .iter()
            .filter_map(|fate| if let Fate::Kept { name, .. } = fate { Some(name.clone()) } else { None })
            .collect();
        let mut taken = kept;
        for fate in fates {
            let Fate::Translated { name, value, to_name, .. } = fate else { continue };
            if name == to_name || !taken.contains(to_name) {
                taken.push(to_name.clone());
                continue;
            }
            let reason = format!("{} calls it {to_name}, which is set already", self.to.label());
            *fate = Fate::Dropped { name: name.clone(), value: value.clone(), reason };
        }
    }

    /// Sets what would change under clients otherwise.
    fn pin(&self, fates: &mut Vec<Fate>, set: &Settings, policy: Policy) {
        if self.from.datastore != self.to.datastore {
            return;
        }
        for (name, fallback, reason) in PINNED {
            let (before, after) = (self.old.get(name).map(|p| p.default), self.new.get(name).map(|p| p.default));
            let (Some(before), Some(after)) = (before.or(*fallback), after) else { continue };
            // A collation belongs to a character set: with one that was chosen, its own default is the right one.
            let chosen =
                set.contains_key(*name) || *name == "collation_server" && set.contains_key("character_set_server");
            let needed = *name == "character_set_server" && set.contains_key("collation_server");
            if before != after && !chosen && (policy == Policy::Preserve || needed) {
                let (name, value, reason) = ((*name).to_owned(), before.to_owned(), (*reason).to_owned());
                fates.push(Fate::Pinned { name, value, reason });
            }
        }
    }

    /// The defaults that change, of what nobody set.
    fn defaults(&self, set: &Settings) -> Vec<Fate> {
        let mut fates = Vec::new();
        if self.from.datastore != self.to.datastore {
            return fates;
        }
        for (&name, old) in self.old {
            let Some(new) = self.new.get(name).filter(|new| new.kind != Kind::Obsolete) else { continue };
            if same(&new.kind, old.default, new.default) || is_owned(name) || set.contains_key(name) {
                continue;
            }
            let reason = REASONS
                .iter()
                .find(|(n, _)| *n == name)
                .map_or_else(|| format!("{} has another default", self.to.label()), |(_, reason)| (*reason).to_owned());
            let (mut before, mut after) = (old.default.to_owned(), new.default.to_owned());
            if matches!(new.kind, Kind::Flags(_)) {
                (before, after) = only_differences(&before, &after);
            }
            fates.push(Fate::DefaultChanged { name: name.to_owned(), before, after, reason });
        }
        fates
    }
}

/// Of two lists with commas, what only one of them has.
fn only_differences(before: &str, after: &str) -> (String, String) {
    let without = |a: &str, b: &str| {
        let other: Vec<_> = b.split(',').collect();
        a.split(',').filter(|word| !other.contains(word)).collect::<Vec<_>>().join(",")
    };
    (without(before, after), without(after, before))
}

/// The name, where the engine has it and does something with it.
fn effective(engine: &'static Parameters, name: &str) -> Option<&'static str> {
    // MySQL keeps old names of replication for a while; the new ones last longer.
    let newer = RENAMED_WORDS.iter().find(|(old, _)| name.contains(old)).map(|(old, new)| name.replace(old, new));
    let found = newer.as_deref().and_then(|newer| engine.get_key_value(newer)).or_else(|| engine.get_key_value(name));
    found.filter(|(_, parameter)| parameter.kind != Kind::Obsolete).map(|(name, _)| *name)
}

/// The other name under which the engine has it.
pub(super) fn renamed(engine: &'static Parameters, name: &str) -> Option<&'static str> {
    let plain = name.to_ascii_lowercase().replace('-', "_");
    let plain = plain.strip_prefix("loose_").unwrap_or(&plain);
    let pairs = RENAMED.iter().flat_map(|(old, new)| [(*old, *new), (*new, *old)]);
    let listed = pairs.filter(|(one, _)| *one == plain).map(|(_, other)| other.to_owned());
    let older = RENAMED_WORDS.iter().map(|(old, new)| plain.replace(new, old));
    let candidates = std::iter::once(plain.to_owned()).chain(listed).chain(older);
    candidates.filter(|other| other != name).find_map(|other| effective(engine, &other))
}

/// What is wrong with `settings` on `version`: names that only the agent sets, unknown names, impossible values. Where
/// nobody asked an engine of the series, what is unknown or impossible is a warning only.
pub fn check(version: &Version, settings: &Settings) -> Vec<Finding> {
    let engine = known(version);
    let finding =
        if parameters::is_measured(version.datastore, version.number) { Finding::error } else { Finding::warning };
    let mut findings = Vec::new();
    for (name, value) in settings {
        let object = format!("setting {name}");
        let own_name = renamed(engine, name);
        if is_owned(name) || own_name.is_some_and(is_owned) || !engine.contains_key(name.as_str()) && means_owned(name)
        {
            let message = "it is set by coffer itself and cannot be chosen";
            findings.push(Finding::error("settings.owned", object, message, "leave it out"));
            continue;
        }
        if let Some(why) = unwritable(value) {
            findings.push(Finding::error("settings.value", object, why, format!("give {name} another value")));
            continue;
        }
        let Some(parameter) = engine.get(name.as_str()) else {
            let remedy = match own_name.or_else(|| nearest(engine, name)) {
                Some(other) if own_name.is_some() => format!("its name there is {other}"),
                Some(other) => format!("did you mean {other}?"),
                None => "leave it out".to_owned(),
            };
            let message = format!("{} has no such setting", version.label());
            findings.push(finding("settings.unknown", object, message, remedy));
            continue;
        };
        let renamed = renamed_value(version.datastore, name, value);
        let why = match wrong_value(parameter, value) {
            None if renamed != *value => Some(format!("{} takes only '{renamed}' of it", version.label())),
            why => why,
        };
        if let Some(why) = why {
            let message = format!("'{value}' is not possible: {why}");
            findings.push(finding("settings.value", object, message, format!("give {name} another value")));
        }
    }
    if let Some(message) = wrong_collation(engine, settings) {
        findings.push(finding(
            "settings.value",
            "setting collation_server".into(),
            message,
            "set character_set_server as well".into(),
        ));
    }
    findings
}

/// Whether an engine may take it for something that only the agent sets: they take abbreviations, and words before a name.
fn means_owned(name: &str) -> bool {
    let mut plain = name.to_ascii_lowercase().replace('-', "_");
    while let Some(rest) =
        ["loose_", "skip_", "enable_", "disable_", "maximum_"].iter().find_map(|w| plain.strip_prefix(w))
    {
        plain = rest.to_owned();
    }
    let abbreviated = |owned: &str| owned.strip_prefix("skip_").unwrap_or(owned).starts_with(&plain);
    is_owned(&plain) || OWNED.iter().chain(OWNED_PREFIXES).any(|owned| abbreviated(owned))
}

/// A server does not start with a collation of another character set than its own.
fn wrong_collation(engine: &Parameters, settings: &Settings) -> Option<String> {
    let collation = settings.get("collation_server")?;
    let default = || engine.get("character_set_server").map(|parameter| parameter.default);
    let charset = settings.get("character_set_server").map(String::as_str).or_else(default)?;
    // Two names of one character set.
    let plain = |name: &str| name.to_ascii_lowercase().replace("utf8mb3", "utf8");
    let belongs = plain(collation) == plain(charset) || plain(collation).starts_with(&format!("{}_", plain(charset)));
    let message =
        || format!("'{collation}' is not a collation of the character set '{charset}': no server starts on that");
    (!belongs).then(message)
}

/// The name that differs in the fewest letters, if it is close.
fn nearest(engine: &'static Parameters, name: &str) -> Option<&'static str> {
    let distances = engine.keys().map(|known| (distance(name, known), *known));
    distances.min().filter(|(distance, _)| *distance <= 1 + name.len() / 5).map(|(_, known)| known)
}

/// How many letters must be put in, left out or changed (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut corner = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let here = (corner + usize::from(x != y)).min(left + 1).min(*cell + 1);
            (corner, left, *cell) = (*cell, here, here);
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(a.len())
}

/// A file of settings has one line for each.
fn unwritable(value: &str) -> Option<&'static str> {
    value.chars().any(char::is_control).then_some("its value has control characters")
}

/// Why the engine would refuse the value or take another, as far as it can be told without asking it.
fn wrong_value(parameter: &Parameter, value: &str) -> Option<String> {
    let kind = &parameter.kind;
    let fits = match kind {
        Kind::Boolean => boolean(value).is_some(),
        Kind::Integer { min, max } => integer(value).is_some_and(|n| (*min..=*max).contains(&n)),
        Kind::Float { min, max } => value.parse::<f64>().is_ok_and(|n| (*min..=*max).contains(&n)),
        Kind::Enum(_) => wrong_word(kind, value).is_none(),
        // As a number each bit is a word.
        Kind::Set(_) | Kind::Flags(_) if value.bytes().all(|b| b.is_ascii_digit()) => true,
        Kind::Set(_) | Kind::Flags(_) => value.split(',').all(|word| wrong_word(kind, word).is_none()),
        Kind::Text | Kind::Obsolete => true,
    };
    (!fits).then(|| format!("it is {kind}"))
}

/// The word, if it is none of those of the parameter.
fn wrong_word<'v>(kind: &Kind, value: &'v str) -> Option<&'v str> {
    let known = |word: &str| kind.words().iter().any(|w| w.eq_ignore_ascii_case(word.trim()));
    let fits = match kind {
        Kind::Flags(_) if value.trim().eq_ignore_ascii_case("default") => true,
        Kind::Flags(_) => value.split_once('=').is_some_and(|(word, state)| {
            known(word) && ["on", "off", "default"].iter().any(|s| s.eq_ignore_ascii_case(state.trim()))
        }),
        Kind::Enum(words) => known(value) || value.parse::<usize>().is_ok_and(|place| place < words.len()),
        _ => known(value),
    };
    (!fits).then_some(value)
}

/// The value within the limits, where it is a number: engines do the same and say so only in their logs.
fn clamp(parameter: &Parameter, value: String) -> String {
    match parameter.kind {
        Kind::Integer { min, max } => match integer(&value) {
            Some(n) if n < min || n > max => n.clamp(min, max).to_string(),
            _ => value,
        },
        Kind::Float { min, max } => match value.parse::<f64>() {
            Ok(n) if n < min || n > max => n.clamp(min, max).to_string(),
            _ => value,
        },
        _ => value,
    }
}

/// Whether both values mean the same to a parameter of this kind.
pub(super) fn same(kind: &Kind, a: &str, b: &str) -> bool {
    match kind {
        Kind::Integer { .. } => a == b || integer(a).is_some() && integer(a) == integer(b),
        Kind::Boolean => a == b || boolean(a).is_some() && boolean(a) == boolean(b),
        _ => a.eq_ignore_ascii_case(b),
    }
}

fn boolean(value: &str) -> Option<bool> {
    match value.to_ascii_uppercase().as_str() {
        "ON" | "TRUE" | "1" => Some(true),
        "OFF" | "FALSE" | "0" => Some(false),
        _ => None,
    }
}

/// A number as the engines read it: digits, and a suffix that says how often it is to be taken 1024 times.
pub(in crate::engine) fn integer(value: &str) -> Option<i128> {
    let letter = value.chars().next_back().filter(char::is_ascii_alphabetic);
    let power = letter.map_or(Some(0), |letter| "KMGTPE".find(letter.to_ascii_uppercase()).map(|place| place + 1))?;
    let digits = value.strip_suffix(|c: char| c.is_ascii_alphabetic()).unwrap_or(value);
    digits.parse::<i128>().ok()?.checked_mul(1024_i128.checked_pow(u32::try_from(power).ok()?)?)
}
