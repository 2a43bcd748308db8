//! What the files of an engine say about its tables.

use std::collections::BTreeSet;
use std::path::Path;

use coffer_core::engine::sql::facts::Facts;

use crate::site::{self, Error, Kind, Paths};

/// File systems on which copies may share blocks: XFS and btrfs, as the kernel numbers them.
const SHARE_BLOCKS: [i64; 2] = [0x5846_5342, 0x9123_683E];
/// How many files are named.
const NAMED: usize = 100;

/// Endings of files that hold a table, each by itself.
const HOLD_TABLES: [&str; 6] = ["ibd", "MYD", "MYI", "CSV", "CSM", "ARZ"];

/// What an engine without files of definitions says that it has.
pub(super) struct Known {
    /// Files of InnoDB, from the data directory on.
    pub files: BTreeSet<String>,
    /// Tables, `shop.orders`.
    pub tables: BTreeSet<String>,
}

impl Known {
    /// Whether it knows the table that this file holds, as far as its name can be read.
    fn has(&self, path: &Path, table: &str, ending: &str) -> bool {
        match ending {
            "ibd" => self.files.contains(&*path.to_string_lossy()),
            // What is left of a sign that was not decoded.
            _ => table.contains('@') || self.tables.contains(table),
        }
    }
}

/// The files of the data directory.
pub(super) fn list(paths: &Paths) -> Result<Vec<site::File>, Error> {
    Ok(site::list(&paths.data, |_| Some(Kind::Other))?)
}

/// Adds what these files say: room, the size of tables that are named already, what belongs to nobody. What the engine knows is
/// asked after they were listed, where it is asked: what was made meanwhile is not among them, and what was dropped is gone.
pub(super) fn look(files: &[site::File], known: Option<&Known>, paths: &Paths, facts: &mut Facts) -> Result<(), Error> {
    let mut definitions = BTreeSet::new();
    for file in files {
        facts.data_bytes += file.size;
        if let Some((table, "frm")) = parts(&file.path) {
            definitions.insert(table);
        }
    }
    for file in files {
        let Some((table, ending)) = parts(&file.path) else { continue };
        // What an engine makes for an ALTER has such a name while it runs, and nobody can run one for as long as the checks say so.
        let lacks_definition = ending == "ibd" && !definitions.contains(&table) && !is_auxiliary(&table);
        let is_unknown = match known {
            Some(known) => HOLD_TABLES.contains(&ending) && !known.has(&file.path, &table, ending),
            None => lacks_definition && !definitions.is_empty(),
        };
        let is_orphan = table.contains("#sql-") || is_unknown && paths.data.join(&file.path).exists();
        if is_orphan && facts.orphans.len() < NAMED {
            facts.orphans.push(file.path.display().to_string());
        }
        if let Some(bytes) = facts.versioned.get_mut(&table) {
            *bytes += file.size;
        }
    }
    facts.foreign_files = site::foreign_files(paths, |_| Some(Kind::Other))?;
    facts.foreign_files.truncate(NAMED);
    let room = rustix::fs::statvfs(&paths.data).map_err(std::io::Error::from)?;
    facts.free_bytes = room.f_bavail * room.f_frsize;
    let kind = rustix::fs::statfs(&paths.data).map_err(std::io::Error::from)?.f_type;
    facts.shares_blocks = SHARE_BLOCKS.contains(&kind);
    Ok(())
}

/// The table, `shop.orders`, and the ending of one of its files. A partition's is its table's. The engine's own databases have no
/// orphans that would matter.
fn parts(path: &Path) -> Option<(String, &str)> {
    let database = decoded(path.parent()?.to_str()?);
    let file = path.file_name()?.to_str()?;
    if database.is_empty() || ["mysql", "sys", "performance_schema"].contains(&database.as_str()) {
        return None;
    }
    let (stem, ending) = file.rsplit_once('.')?;
    let table = ["#P#", "#p#"].iter().find_map(|mark| stem.split_once(mark)).map_or(stem, |(table, _)| table);
    Some((format!("{database}.{}", decoded(table)), ending))
}

/// A full-text index has tables of its own, which no file defines.
fn is_auxiliary(table: &str) -> bool {
    table.rsplit('.').next().is_some_and(|name| name.starts_with("FTS_"))
}

/// The name behind a file's: signs other than letters, digits and `_` are written as `@` and four digits of their number. Letters
/// beyond ASCII stay as they are written.
fn decoded(name: &str) -> String {
    let mut text = String::new();
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        let code = rest.get(1..5).filter(|_| c == '@').and_then(|code| u32::from_str_radix(code, 16).ok());
        match code.and_then(char::from_u32) {
            Some(sign) => {
                text.push(sign);
                rest = rest.get(5..).unwrap_or_default();
            }
            None => {
                text.push(c);
                rest = rest.get(c.len_utf8()..).unwrap_or_default();
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::parts;

    #[test]
    fn files_are_told_by_their_tables() {
        for (path, expected) in [
            ("shop/orders.ibd", Some(("shop.orders", "ibd"))),
            ("shop/parts#P#p0.ibd", Some(("shop.parts", "ibd"))),
            ("my@002dshop/a@0020b.frm", Some(("my-shop.a b", "frm"))),
            ("shop/#sql-1a_2.ibd", Some(("shop.#sql-1a_2", "ibd"))),
            ("shop/@0f@zz.frm", Some(("shop.@0f@zz", "frm"))),
            ("mysql/user.frm", None),
            ("ibdata1", None),
            ("shop/noending", None),
        ] {
            let expected = expected.map(|(table, ending)| (table.to_owned(), ending));
            assert_eq!(parts(Path::new(path)), expected, "{path}");
        }
    }
}
