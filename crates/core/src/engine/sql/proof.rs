//! Whether an engine holds what another one held: fingerprints, taken by plain reads, and their comparison.
//!
//! A fingerprint is a list of what there is, each with what is compared of it. `CHECKSUM TABLE` is not among it: it differs
//! between versions where the data does not.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::datastore::Number;
use crate::finding::Finding;

/// A table that is read for the proof, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sampled {
    pub database: String,
    pub table: String,
    /// The columns of its primary key, in their order: the first and the last rows by it are read. Empty: all rows are.
    pub key: Vec<String>,
}

/// What an engine holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holdings {
    /// What the engine says it is.
    pub number: Option<Number>,
    /// Kind and name of each object (`table shop.orders`), and its definition or contents as far as they are compared.
    pub objects: BTreeMap<String, String>,
    /// What each account may. A later version may add to it.
    pub privileges: Vec<String>,
    /// How many tables were read.
    pub sampled: u64,
}

/// What the new engine lacks or has too much of. Empty: it holds what the old one held.
pub fn compare(before: &Holdings, after: &Holdings) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut differs = |id: &str, object: &str, message: String| {
        findings.push(Finding::error(id, object, message, "none: the upgrade is undone by itself"));
    };
    for (object, was) in &before.objects {
        match after.objects.get(object) {
            None => differs("proof.missing", object, "it is missing".to_owned()),
            Some(is) if is != was => differs("proof.changed", object, "it is not what it was".to_owned()),
            Some(_) => {}
        }
    }
    for object in after.objects.keys().filter(|object| !before.objects.contains_key(*object)) {
        differs("proof.extra", object, "it is there, and was not before".to_owned());
    }
    for privilege in before.privileges.iter().filter(|privilege| !after.privileges.contains(privilege)) {
        differs("proof.privilege", privilege, "it is missing".to_owned());
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::{Holdings, compare};

    #[test]
    fn every_loss_change_and_surplus_is_found_and_new_privileges_are_not() {
        let before = Holdings {
            objects: [("table a.b", "x"), ("view a.v", "y")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            privileges: vec!["u SELECT".to_owned()],
            ..Holdings::default()
        };
        assert_eq!(compare(&before, &before), []);
        let mut after = before.clone();
        after.objects.remove("view a.v");
        after.objects.insert("table a.b".to_owned(), "z".to_owned());
        after.objects.insert("table a.c".to_owned(), String::new());
        after.privileges = vec!["u INSERT".to_owned()];
        let found: Vec<_> = compare(&before, &after).into_iter().map(|f| f.id).collect();
        assert_eq!(found, ["proof.changed", "proof.missing", "proof.extra", "proof.privilege"]);
    }
}
