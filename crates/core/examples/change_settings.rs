//! Says what becomes of settings, for scripts: `change_settings DATASTORE FROM TO [adopt] < FILE`.
//!
//! FILE has lines `name = value`. The settings that the target is started with are printed in the same way, each fate on
//! standard error. `engines/generate-sql-parameters --prove` starts real servers on them.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a command")]

use std::error::Error;
use std::io::read_to_string;

use coffer_core::datastore::Version;
use coffer_core::engine::{Policy, change_settings, check_settings};
use coffer_core::id::VersionId;
use coffer_core::spec::Settings;

fn version(datastore: &str, number: &str) -> Result<Version, Box<dyn Error>> {
    Ok(Version {
        id: VersionId(uuid::Uuid::nil()),
        datastore: datastore.parse()?,
        name: number.to_owned(),
        number: number.parse()?,
        image: None,
        active: true,
        default: false,
        sources: serde_json::Value::Null,
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [datastore, from, to, rest @ ..] = words.as_slice() else { return Err("DATASTORE FROM TO [adopt]".into()) };
    let (from, to) = (version(datastore, from)?, version(datastore, to)?);
    let policy = if rest.is_empty() { Policy::Preserve } else { Policy::Adopt };
    let text = read_to_string(std::io::stdin())?;
    let lines = text.lines().filter_map(|line| line.split_once('='));
    let settings: Settings = lines.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect();

    let change = change_settings(&from, &to, &settings, policy);
    for fate in &change.0 {
        eprintln!("{}", serde_json::to_string(fate)?);
    }
    let after = change.after();
    for finding in check_settings(&to, &after) {
        eprintln!("{finding}");
    }
    for (name, value) in after {
        println!("{name} = {value}");
    }
    Ok(())
}
