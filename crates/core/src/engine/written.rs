//! Which engine wrote data last, as the data themselves say.

use crate::datastore::{Datastore, Number};

/// How much of a snapshot has to be read for [`by_snapshot`].
pub const SNAPSHOT_HEAD: usize = 256;

/// Of a snapshot of Redis or Valkey, from its first bytes. Such a file begins with `REDIS0011`, or `VALKEY080`, and then says things
/// by name. Valkey also says which Redis it is like.
pub fn by_snapshot(head: &[u8]) -> Option<(Datastore, Number)> {
    let mut rest = head.get(9..)?;
    if !head.starts_with(b"REDIS") && !head.starts_with(b"VALKEY") {
        return None;
    }
    let mut redis = None;
    while let [0xfa, after @ ..] = rest {
        let (name, after) = short_text(after)?;
        let Some((value, after)) = short_text(after) else { break };
        let number = || std::str::from_utf8(value).ok()?.parse().ok();
        match name {
            b"valkey-ver" => return Some((Datastore::Valkey, number()?)),
            b"redis-ver" => redis = number().map(|number| (Datastore::Redis, number)),
            _ if redis.is_some() => break,
            _ => {}
        }
        rest = after;
    }
    redis
}

/// A text of less than 64 bytes, which is all that is of interest here.
fn short_text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = bytes.split_first()?;
    rest.split_at_checked(Some(usize::from(length)).filter(|length| *length < 64)?)
}

/// The files in a data directory of MariaDB or MySQL in which the engine's own step says its version, by what reads them.
pub fn marks(datastore: Datastore) -> &'static [&'static str] {
    match datastore {
        Datastore::Mariadb => &["mariadb_upgrade_info", "mysql_upgrade_info"],
        Datastore::Mysql => &["mysql_upgrade_history"],
        Datastore::Redis | Datastore::Valkey => &[],
    }
}

/// Of such a file.
pub fn by_mark(datastore: Datastore, text: &str) -> Option<(Datastore, Number)> {
    let number = match datastore {
        // `10.11.19-MariaDB`
        Datastore::Mariadb => text.trim().split(['-', '\0']).next()?.trim().parse().ok()?,
        Datastore::Mysql => {
            let history: serde_json::Value = serde_json::from_str(text).ok()?;
            let last = history.get("upgrade_history")?.as_array()?.last()?;
            last.get("version")?.as_str()?.split('-').next()?.parse().ok()?
        }
        Datastore::Redis | Datastore::Valkey => return None,
    };
    Some((datastore, number))
}

#[cfg(test)]
mod tests {
    use super::{by_mark, by_snapshot};
    use crate::datastore::Datastore;

    fn said(written: Option<(Datastore, crate::datastore::Number)>) -> String {
        written.map_or_else(|| "nothing".to_owned(), |(datastore, number)| format!("{datastore} {number}"))
    }

    #[test]
    fn a_snapshot_says_who_wrote_it() {
        let of_redis = b"REDIS0012\xfa\x09redis-ver\x058.0.2\xfa\x0aredis-bits\xc0@\xfe\0";
        assert_eq!(said(by_snapshot(of_redis)), "redis 8.0.2");
        let of_valkey = b"REDIS0011\xfa\x0avalkey-ver\x058.1.1\xfa\x09redis-ver\x057.2.4";
        assert_eq!(said(by_snapshot(of_valkey)), "valkey 8.1.1");
        let both = b"VALKEY080\xfa\x09redis-ver\x057.2.4\xfa\x0avalkey-ver\x059.1.2";
        assert_eq!(said(by_snapshot(both)), "valkey 9.1.2");
        for other in
            [&b"REDIS0012\xfa\x09redis-ver"[..], b"REDIS", b"nonsense that is long enough", b"REDIS0003\xfe\0\0", b""]
        {
            assert_eq!(said(by_snapshot(other)), "nothing", "{other:?}");
        }
    }

    #[test]
    fn the_marks_of_sql_say_who_was_there_last() {
        assert_eq!(said(by_mark(Datastore::Mariadb, "10.11.19-MariaDB\n")), "mariadb 10.11.19");
        let history = r#"{"file_format":"1","upgrade_history":[{"date":"2026-11-01 00:00:00","version":"9.7.2","maturity":"LTS","initialize":true},
                          {"date":"2026-11-02 00:00:00","version":"9.7.4","maturity":"LTS"}]}"#;
        assert_eq!(said(by_mark(Datastore::Mysql, history)), "mysql 9.7.4");
        for text in ["", "nonsense", "{}"] {
            assert_eq!(said(by_mark(Datastore::Mariadb, text)), "nothing");
            assert_eq!(said(by_mark(Datastore::Mysql, text)), "nothing");
        }
    }
}
