//! Takes fingerprints: one round trip with all questions, and one more walk where there are few keys.

use std::collections::{BTreeMap, HashSet};

use coffer_core::engine::redis::acl::User;
use coffer_core::engine::redis::proof::{Fingerprint, KeyCount, SampleKey, Sampled, Value as Known};
use redis::{Pipeline, RedisResult, Value};
use sha2::{Digest as _, Sha256};

use super::client::parse_info;
use super::{Client, survey};
use crate::site::{Error, hex};

/// Up to so many keys are counted by type, which takes 15 ms on a busy machine. Of more, the sample has some of each type.
const COUNTED: u64 = 2_000;

/// The questions whose answers [`read`] understands.
pub(super) fn questions(client: &Client, sample: &[SampleKey]) -> Pipeline {
    let mut pipe = redis::pipe();
    pipe.cmd("TIME").cmd("INFO");
    if client.has_users {
        pipe.cmd("ACL").arg("LIST");
    }
    if has_functions(client) {
        pipe.cmd("FUNCTION").arg("LIST").arg("WITHCODE");
    }
    let expiry = if tells_moments(client) { "PEXPIRETIME" } else { "PTTL" };
    for at in sample {
        let key = &at.key.0;
        pipe.cmd("SELECT").arg(at.database).ignore().cmd("TYPE").arg(key).cmd(expiry).arg(key);
        for words in reads(&at.kind) {
            pipe.cmd(words[0]);
            for word in &words[1..] {
                match *word {
                    "KEY" => pipe.arg(key),
                    word => pipe.arg(word),
                };
            }
        }
    }
    pipe
}

/// How a value of this type is read, in the engine's words.
fn reads(kind: &str) -> &'static [&'static [&'static str]] {
    match kind {
        "string" => &[&["GET", "KEY"]],
        "list" => &[&["LRANGE", "KEY", "0", "-1"]],
        "set" => &[&["SMEMBERS", "KEY"]],
        "zset" => &[&["ZRANGE", "KEY", "0", "-1", "WITHSCORES"]],
        "hash" => &[&["HGETALL", "KEY"]],
        "stream" => &[&["XRANGE", "KEY", "-", "+"], &["XINFO", "GROUPS", "KEY"], &["XINFO", "STREAM", "KEY"]],
        _ => &[],
    }
}

fn has_functions(client: &Client) -> bool {
    client.number.at_least(7, 0)
}

/// Whether it says when a key expires instead of in how long.
fn tells_moments(client: &Client) -> bool {
    client.number.at_least(7, 0)
}

/// What was answered to [`questions`], and all of `INFO`.
pub(super) fn read(
    client: &Client,
    sample: &[SampleKey],
    answers: Vec<RedisResult<Value>>,
) -> Result<(Fingerprint, BTreeMap<String, String>), Error> {
    let mut answers = answers.into_iter();
    let mut next = |command| match answers.next() {
        Some(Ok(value)) => Ok(value),
        Some(Err(e)) => Err(client.error(command, &e)),
        None => Err(Error::Misunderstood { command }),
    };
    let (seconds, micros): (i64, i64) = convert("TIME", next("TIME")?)?;
    let taken_at_ms = seconds * 1000 + micros / 1000;
    let info = parse_info(&convert::<String>("INFO", next("INFO")?)?);
    let users = match client.has_users {
        true => {
            let lines: Vec<String> = convert("ACL LIST", next("ACL LIST")?)?;
            let users = lines.iter().filter_map(|line| User::parse(line));
            Some(users.map(|user| (user.name.clone(), user.essence())).collect())
        }
        false => None,
    };
    let functions = match has_functions(client) {
        true => Some(libraries(convert("FUNCTION LIST", next("FUNCTION LIST")?)?)),
        false => None,
    };
    let mut sampled = Vec::with_capacity(sample.len());
    for at in sample {
        let kind: String = convert("TYPE", next("TYPE")?)?;
        let expiry: i64 = convert("PTTL", next("PTTL")?)?;
        // Of another type by now: the engine has refused the read.
        let contents: Vec<Option<Value>> = reads(&at.kind).iter().map(|_| next("read").ok()).collect();
        let value = (kind != "none").then(|| Known {
            digest: (kind == at.kind).then(|| digest(&kind, &contents)).flatten(),
            kind,
            expires_at_ms: match expiry {
                ..0 => None,
                at if tells_moments(client) => Some(at),
                left => Some(taken_at_ms + left),
            },
        });
        sampled.push(Sampled { at: at.clone(), value });
    }
    let said = info.get("valkey_version").or_else(|| info.get("redis_version"));
    let fingerprint = Fingerprint {
        number: said.and_then(|v| v.parse().ok()),
        role: info.get("role").cloned().unwrap_or_default(),
        databases: info.iter().filter_map(|(name, value)| Some((survey::database(name)?, key_count(value)))).collect(),
        types: None,
        sample: sampled,
        functions,
        users,
        taken_at_ms,
    };
    Ok((fingerprint, info))
}

/// Keys by type, where there are few enough. The engine must not change meanwhile.
pub(super) async fn count_types(
    client: &Client,
    fingerprint: &Fingerprint,
) -> Result<Option<BTreeMap<String, u64>>, Error> {
    let keys: u64 = fingerprint.databases.values().map(|count| count.keys).sum();
    if keys > COUNTED {
        return Ok(None);
    }
    // An engine may show a key twice.
    let mut seen = HashSet::new();
    let mut types = BTreeMap::new();
    survey::walk_with(client, usize::MAX, |key| {
        let kind = key.kind.clone();
        if seen.insert(key) {
            *types.entry(kind).or_default() += 1;
        }
    })
    .await?;
    Ok(Some(types))
}

/// `keys=10,expires=2,avg_ttl=0`, and from Redis 7.4 on `subexpiry=1`, from Valkey 9.0 on `keys_with_volatile_items=1`.
fn key_count(text: &str) -> KeyCount {
    let field = |name| {
        let mut fields = text.split(',').filter_map(|pair| pair.split_once('='));
        fields.find(|(n, _)| *n == name).and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
    };
    let fading = field("subexpiry").max(field("keys_with_volatile_items"));
    KeyCount { keys: field("keys"), volatile: field("expires"), fading }
}

fn libraries(listed: Vec<BTreeMap<String, Value>>) -> BTreeMap<String, String> {
    let mut libraries = BTreeMap::new();
    for library in listed {
        let text = |name: &str| library.get(name).and_then(|v| redis::from_redis_value_ref::<String>(v).ok());
        if let (Some(name), Some(code)) = (text("library_name"), text("library_code")) {
            libraries.insert(name, hex(&Sha256::digest(code)));
        }
    }
    libraries
}

/// The value in a form that is the same in every version: sets and hashes sorted, scores as numbers, of a stream's groups
/// what was delivered and what is pending. `None` where something could not be read.
fn digest(kind: &str, contents: &[Option<Value>]) -> Option<String> {
    let mut parts = contents.iter().map(Option::as_ref);
    let mut hash = Sha256::new();
    let first = parts.next()??;
    match kind {
        "string" | "list" => absorb(&mut hash, first),
        "set" => {
            let mut members = strings(first)?;
            members.sort();
            for member in &members {
                absorb_bytes(&mut hash, member);
            }
        }
        "hash" => {
            let flat = strings(first)?;
            let mut pairs: Vec<_> = flat.chunks(2).collect();
            pairs.sort();
            for field in pairs.concat() {
                absorb_bytes(&mut hash, &field);
            }
        }
        "zset" => {
            for pair in strings(first)?.chunks(2) {
                let score: f64 = std::str::from_utf8(pair.get(1)?).ok()?.parse().ok()?;
                absorb_bytes(&mut hash, &pair[0]);
                hash.update(score.to_bits().to_le_bytes());
            }
        }
        "stream" => {
            absorb(&mut hash, first);
            let mut groups: Vec<BTreeMap<String, Value>> = redis::from_redis_value_ref(parts.next()??).ok()?;
            groups.sort_by_key(|group| group.get("name").and_then(|v| redis::from_redis_value_ref::<String>(v).ok()));
            for group in &groups {
                for field in ["name", "last-delivered-id", "pending"] {
                    absorb(&mut hash, group.get(field)?);
                }
            }
            let stream: BTreeMap<String, Value> = redis::from_redis_value_ref(parts.next()??).ok()?;
            absorb(&mut hash, stream.get("last-generated-id")?);
        }
        _ => return None,
    }
    Some(hex(&hash.finalize()))
}

fn strings(value: &Value) -> Option<Vec<Vec<u8>>> {
    match value {
        Value::Array(items) | Value::Set(items) => items
            .iter()
            .map(|item| match item {
                Value::BulkString(bytes) => Some(bytes.clone()),
                Value::SimpleString(text) => Some(text.clone().into_bytes()),
                _ => None,
            })
            .collect(),
        _ => None,
    }
}

/// Length first, so that no two different values are the same bytes.
fn absorb(hash: &mut Sha256, value: &Value) {
    match value {
        Value::Array(items) => {
            hash.update(items.len().to_le_bytes());
            for item in items {
                absorb(hash, item);
            }
        }
        Value::BulkString(bytes) => absorb_bytes(hash, bytes),
        Value::SimpleString(text) => absorb_bytes(hash, text.as_bytes()),
        Value::Int(number) => absorb_bytes(hash, number.to_string().as_bytes()),
        other => absorb_bytes(hash, format!("{other:?}").as_bytes()),
    }
}

fn absorb_bytes(hash: &mut Sha256, bytes: &[u8]) {
    hash.update(bytes.len().to_le_bytes());
    hash.update(bytes);
}

fn convert<T: redis::FromRedisValue>(command: &'static str, value: Value) -> Result<T, Error> {
    redis::from_redis_value(value).map_err(|_| Error::Misunderstood { command })
}
