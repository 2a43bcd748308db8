//! Whether an engine does what its configuration file says, by what it shows.

use super::parameters::{self, Kind};
use super::proof::comparable;
use super::settings::{integer, same};
use crate::datastore::{Datastore, Number};

/// What engines reckon out anew from other settings and from what the host allows.
const RECKONED: &[&str] = &[
    "back_log",
    "event_scheduler",
    "innodb_buffer_pool_chunk_size",
    "innodb_buffer_pool_size",
    "innodb_open_files",
    "max_connections",
    "open_files_limit",
    "table_definition_cache",
    "table_open_cache",
    "thread_cache_size",
];
/// Sizes are rounded by up to so many bytes, and by a sixteenth.
const ROUNDED: i128 = 64 << 10;

/// Whether an engine that was told `wanted` of a setting does that when it shows `shown`. Modes that stand for several are shown
/// with those, and sizes as they were rounded.
pub fn is_in_force(version: (Datastore, Number), name: &str, wanted: &str, shown: &str) -> bool {
    let Some(parameter) = parameters::of(version.0, version.1, name).filter(|_| !RECKONED.contains(&name)) else {
        return true;
    };
    let kind = &parameter.kind;
    let words = |text: &str| text.split(',').map(|word| word.trim().to_ascii_lowercase()).collect::<Vec<_>>();
    match kind {
        Kind::Integer { min, max } => match (integer(wanted), integer(shown)) {
            (Some(wanted), Some(shown)) => {
                let wanted = wanted.clamp(*min, *max);
                wanted == shown || wanted >= 1024 && (wanted - shown).abs() <= ROUNDED + wanted / 16
            }
            // Engines show some numbers as words.
            _ => true,
        },
        Kind::Float { .. } => match (wanted.parse::<f64>(), shown.parse::<f64>()) {
            (Ok(wanted), Ok(shown)) => (wanted - shown).abs() < 1e-6,
            _ => true,
        },
        Kind::Enum(all) => match wanted.parse::<usize>() {
            Ok(place) => all.get(place).is_none_or(|word| word.eq_ignore_ascii_case(shown)),
            Err(_) => wanted.eq_ignore_ascii_case(shown),
        },
        Kind::Set(_) | Kind::Flags(_) => {
            let shown = words(shown);
            let is_plain = |word: &String| !word.is_empty() && !word.ends_with("default") && integer(word).is_none();
            words(wanted).iter().filter(|word| is_plain(word)).all(|word| shown.contains(word))
        }
        Kind::Boolean => same(kind, wanted, shown),
        Kind::Text => {
            comparable(wanted).trim_end_matches('/').eq_ignore_ascii_case(comparable(shown).trim_end_matches('/'))
        }
        Kind::Obsolete => true,
    }
}
