//! Data of every kind that Redis and Valkey have, and a digest that is the same wherever the same data is.
//!
//! The digest is over what clients read, never over how an engine stores it, so it can be compared between versions:
//! sets and hashes are sorted, scores are compared as numbers, expiries as points in time.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io;

use sha2::{Digest as _, Sha256};

use super::resp::{Connection, Reply};

/// How many commands are sent at once.
const BATCH: usize = 500;

/// The kinds of keys, in turn.
const KINDS: [&str; 6] = ["string", "list", "set", "zset", "hash", "stream"];

/// Writes `count` keys of all kinds. Every seventh key expires, a day or more from now.
pub(crate) fn load(connection: &mut Connection, count: usize) -> io::Result<()> {
    let keys: Vec<_> = (0..count).collect();
    for batch in keys.chunks(BATCH) {
        let commands: Vec<_> = batch.iter().flat_map(|n| commands(*n)).collect();
        if let Some(Reply::Error(error)) =
            connection.pipeline(&commands)?.into_iter().find(|reply| matches!(reply, Reply::Error(_)))
        {
            return Err(io::Error::other(error));
        }
    }
    Ok(())
}

fn commands(n: usize) -> Vec<Vec<String>> {
    let kind = KINDS[n % KINDS.len()];
    let key = format!("{kind}:{n}");
    // Long enough that some are not stored in the compact encodings.
    let value = |i: usize| format!("value {n}.{i} {}", "x".repeat((n * 7 + i * 13) % 90));
    let items = 1 + n % 5;
    let of = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let mut command = match kind {
        "string" => of(&["SET", &key, &value(0)]),
        "list" => of(&["RPUSH", &key]),
        "set" => of(&["SADD", &key]),
        "zset" => of(&["ZADD", &key]),
        "hash" => of(&["HSET", &key]),
        _ => of(&["XADD", &key, &format!("{}-1", n + 1), "field", &value(0)]),
    };
    for i in 0..items {
        match kind {
            "list" | "set" => command.push(value(i)),
            "zset" => command.extend([format!("{n}.{i}"), value(i)]),
            "hash" => command.extend([format!("field {i}"), value(i)]),
            _ => {}
        }
    }
    let mut all = vec![command];
    if kind == "stream" {
        all.push(of(&["XGROUP", "CREATE", &key, "readers", "0"]));
    }
    if n.is_multiple_of(7) {
        all.push(of(&["EXPIRE", &key, &(86_400 + n).to_string()]));
    }
    all
}

/// What was found in an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    /// How many keys of each kind.
    pub kinds: BTreeMap<String, usize>,
    /// How many of them expire.
    pub expiring: usize,
    /// Over every key, its value and its expiry.
    pub digest: String,
}

impl Summary {
    /// How many keys there are.
    pub(crate) fn keys(&self) -> usize {
        self.kinds.values().sum()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<_> = self.kinds.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        write!(f, "{} keys ({}), {} expiring, sha256 {}", self.keys(), kinds.join(", "), self.expiring, self.digest)
    }
}

/// Reads every key of the current database with its value and its expiry.
pub(crate) fn summarize(connection: &mut Connection) -> io::Result<Summary> {
    let mut keys = scan(connection)?;
    keys.sort();
    let mut summary = Summary { kinds: BTreeMap::new(), expiring: 0, digest: String::new() };
    let mut all = Sha256::new();
    for batch in keys.chunks(BATCH) {
        let kinds = connection.pipeline(batch.iter().map(|key| [&b"TYPE"[..], key]))?;
        let kinds: Vec<_> =
            kinds.iter().map(|reply| String::from_utf8_lossy(reply.text().unwrap_or_default()).into_owned()).collect();
        let values = connection.pipeline(batch.iter().zip(&kinds).map(|(key, kind)| read_command(kind, key)))?;
        // 7.0 and later tell the point in time; of older ones only whether a key expires can be compared.
        let expiries = connection.pipeline(batch.iter().map(|key| [&b"PEXPIRETIME"[..], key]))?;
        let remaining = connection.pipeline(batch.iter().map(|key| [&b"PTTL"[..], key]))?;
        for (((key, kind), value), (expiry, remaining)) in
            batch.iter().zip(kinds).zip(values).zip(expiries.into_iter().zip(remaining))
        {
            if let Reply::Error(error) = value {
                return Err(io::Error::other(format!("{}: {error}", String::from_utf8_lossy(key))));
            }
            let expires = matches!(remaining, Reply::Number(millis) if millis >= 0);
            let expiry = match expiry {
                Reply::Number(at) => at.to_string(),
                _ => expires.to_string(),
            };
            hash(&mut all, &Reply::Text(key.clone()));
            hash(&mut all, &canonical(&kind, value));
            hash(&mut all, &Reply::Text(expiry.into_bytes()));
            summary.expiring += usize::from(expires);
            *summary.kinds.entry(kind).or_default() += 1;
        }
    }
    for byte in all.finalize() {
        let _ = write!(summary.digest, "{byte:02x}");
    }
    Ok(summary)
}

fn scan(connection: &mut Connection) -> io::Result<Vec<Vec<u8>>> {
    let mut keys = Vec::new();
    let mut cursor = "0".to_owned();
    loop {
        let mut page = connection.ask(&["SCAN", &cursor, "COUNT", "1000"])?.items().into_iter();
        let next = page.next().ok_or_else(|| io::Error::other("SCAN answered nothing"))?;
        keys.extend(page.flat_map(Reply::items).filter_map(|key| key.text().map(<[u8]>::to_vec)));
        cursor = String::from_utf8_lossy(next.text().unwrap_or(b"0")).into_owned();
        if cursor == "0" {
            // SCAN may tell a key twice.
            keys.sort();
            keys.dedup();
            return Ok(keys);
        }
    }
}

fn read_command<'a>(kind: &str, key: &'a [u8]) -> Vec<&'a [u8]> {
    match kind {
        "list" => vec![b"LRANGE", key, b"0", b"-1"],
        "set" => vec![b"SMEMBERS", key],
        "zset" => vec![b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"],
        "hash" => vec![b"HGETALL", key],
        "stream" => vec![b"XRANGE", key, b"-", b"+"],
        // Of a string; of a kind that nobody thought of it is an error and not a silence.
        _ => vec![b"GET", key],
    }
}

/// The same value for the same data, in whichever order or notation the engine tells it.
fn canonical(kind: &str, value: Reply) -> Reply {
    let Reply::List(items) = value else { return value };
    let text = |reply: &Reply| reply.text().unwrap_or_default().to_vec();
    Reply::List(match kind {
        "set" => {
            let mut members: Vec<_> = items.iter().map(text).collect();
            members.sort();
            members.into_iter().map(Reply::Text).collect()
        }
        "hash" => {
            let mut fields: Vec<_> = items.chunks(2).map(|pair| pair.iter().map(text).collect::<Vec<_>>()).collect();
            fields.sort();
            fields.into_iter().flatten().map(Reply::Text).collect()
        }
        "zset" => {
            let member = |pair: &[Reply]| {
                let score = pair.get(1).map(text).unwrap_or_default();
                let score: f64 = String::from_utf8_lossy(&score).parse().unwrap_or(f64::NAN);
                [Reply::Text(text(&pair[0])), Reply::Text(score.to_bits().to_string().into_bytes())]
            };
            items.chunks(2).flat_map(member).collect()
        }
        _ => items,
    })
}

/// Lengths go in as well, so that no two different values look alike.
fn hash(into: &mut Sha256, reply: &Reply) {
    match reply {
        Reply::Text(text) => {
            into.update(b"t");
            into.update(text.len().to_le_bytes());
            into.update(text);
        }
        Reply::Number(number) => {
            into.update(b"n");
            into.update(number.to_le_bytes());
        }
        Reply::Nothing => into.update(b"0"),
        Reply::List(items) => {
            into.update(b"l");
            into.update(items.len().to_le_bytes());
            for item in items {
                hash(into, item);
            }
        }
        Reply::Error(error) => {
            into.update(b"e");
            into.update(error);
        }
    }
}
