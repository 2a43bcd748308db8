//! Looks at keys: all of them or the first, some at a time, so that the engine serves meanwhile.

use std::collections::{BTreeMap, BinaryHeap};

use coffer_core::engine::redis::proof::{Key, SampleKey};
use redis::RedisResult;
use sha2::{Digest as _, Sha256};

use super::Client;
use super::client::parse_info;
use crate::site::Error;

/// How many keys of each type are compared as a whole.
const PER_TYPE: usize = 32;
/// How many elements a value of the sample may have, and how many bytes a string: reading it must not be felt.
const ELEMENTS: u64 = 128;
const BYTES: u64 = 16 << 10;
/// How many keys are looked at to choose the sample.
const KEYS: usize = 1_000_000;
/// How many keys are asked for at a time. The engine answers within a millisecond.
const AT_ONCE: usize = 500;

/// The keys whose values will be compared: of each type those with the smallest hashes, which is the same choice
/// whoever asks, and no pattern in the names can bias it.
pub(super) async fn choose_sample(client: &Client) -> Result<Vec<SampleKey>, Error> {
    let mut chosen: BTreeMap<String, BinaryHeap<(Vec<u8>, SampleKey)>> = BTreeMap::new();
    walk_with(client, KEYS, |key| {
        let hash = Sha256::new().chain_update(key.database.to_le_bytes()).chain_update(&key.key.0).finalize().to_vec();
        let heap = chosen.entry(key.kind.clone()).or_default();
        heap.push((hash, key));
        // Some are left out later for their size, so more are kept than are needed.
        if heap.len() > PER_TYPE * 2 {
            heap.pop();
        }
    })
    .await?;
    let mut sample = Vec::new();
    for (kind, heap) in chosen {
        let keys: Vec<SampleKey> = heap.into_sorted_vec().into_iter().map(|(_, key)| key).collect();
        let small = small_ones(client, &kind, &keys).await?;
        let mut keys: Vec<_> = keys.into_iter().zip(small).filter(|(_, small)| *small).map(|(key, _)| key).collect();
        if kind == "hash" && fields_expire(client) {
            keys = lasting_ones(client, keys).await?;
        }
        keys.truncate(PER_TYPE);
        sample.extend(keys);
    }
    sample.sort();
    Ok(sample)
}

async fn small_ones(client: &Client, kind: &str, keys: &[SampleKey]) -> Result<Vec<bool>, Error> {
    let (command, limit) = match kind {
        "string" => ("STRLEN", BYTES),
        "list" => ("LLEN", ELEMENTS),
        "set" => ("SCARD", ELEMENTS),
        "zset" => ("ZCARD", ELEMENTS),
        "hash" => ("HLEN", ELEMENTS),
        "stream" => ("XLEN", ELEMENTS),
        _ => return Ok(vec![true; keys.len()]),
    };
    let mut questions = redis::pipe();
    for key in keys {
        questions.cmd("SELECT").arg(key.database).ignore().cmd(command).arg(&key.key.0);
    }
    let sizes: Vec<RedisResult<u64>> = client.ask_all(command, &mut questions).await?;
    Ok(sizes.into_iter().map(|size| size.is_ok_and(|size| size <= limit)).collect())
}

/// Whether fields of hashes can expire.
fn fields_expire(client: &Client) -> bool {
    match client.is_valkey {
        true => client.number.at_least(9, 0),
        false => client.number.at_least(7, 4),
    }
}

/// Those hashes of which no field expires: the others may change by themselves.
async fn lasting_ones(client: &Client, keys: Vec<SampleKey>) -> Result<Vec<SampleKey>, Error> {
    let mut questions = redis::pipe();
    for key in &keys {
        questions.cmd("SELECT").arg(key.database).ignore().cmd("HKEYS").arg(&key.key.0);
    }
    let fields: Vec<RedisResult<Vec<Vec<u8>>>> = client.ask_all("HKEYS", &mut questions).await?;
    let mut questions = redis::pipe();
    for (key, fields) in keys.iter().zip(fields) {
        let fields = fields.unwrap_or_default();
        questions.cmd("SELECT").arg(key.database).ignore();
        questions.cmd("HPTTL").arg(&key.key.0).arg("FIELDS").arg(fields.len()).arg(fields);
    }
    let left: Vec<RedisResult<Vec<i64>>> = client.ask_all("HPTTL", &mut questions).await?;
    let lasts = |left: &RedisResult<Vec<i64>>| left.as_ref().is_ok_and(|left| left.iter().all(|ms| *ms < 0));
    Ok(keys.into_iter().zip(left).filter(|(_, left)| lasts(left)).map(|(key, _)| key).collect())
}

/// The first keys with their types.
pub(super) async fn walk(client: &Client, limit: usize) -> Result<Vec<SampleKey>, Error> {
    let mut keys = Vec::new();
    walk_with(client, limit, |key| keys.push(key)).await?;
    Ok(keys)
}

/// Shows each key, some perhaps twice, until there is none or `limit` were shown.
pub(super) async fn walk_with(client: &Client, limit: usize, mut show: impl FnMut(SampleKey)) -> Result<(), Error> {
    let text: String = client.ask("INFO", redis::cmd("INFO").arg("keyspace")).await?;
    let databases: Vec<u32> = parse_info(&text).keys().filter_map(|name| database(name)).collect();
    // Each database has its share, so that a large one does not hide the others.
    let share = limit / databases.len().max(1);
    for database in databases {
        let (mut cursor, mut seen) = (0_u64, 0);
        loop {
            let mut page = redis::pipe();
            page.cmd("SELECT").arg(database).ignore();
            page.cmd("SCAN").arg(cursor).arg("COUNT").arg(AT_ONCE);
            let mut pages: Vec<RedisResult<(u64, Vec<Vec<u8>>)>> = client.ask_all("SCAN", &mut page).await?;
            let Some(Ok((next, keys))) = pages.pop() else { return Err(Error::Misunderstood { command: "SCAN" }) };
            seen += keys.len();
            let mut questions = redis::pipe();
            questions.cmd("SELECT").arg(database).ignore();
            for key in &keys {
                questions.cmd("TYPE").arg(key);
            }
            let kinds: Vec<RedisResult<String>> = client.ask_all("TYPE", &mut questions).await?;
            for (key, kind) in keys.into_iter().zip(kinds) {
                // A key that went away meanwhile has no type.
                if let Ok(kind) = kind
                    && kind != "none"
                {
                    show(SampleKey { database, key: Key(key), kind });
                }
            }
            cursor = next;
            if cursor == 0 || seen >= share {
                break;
            }
        }
    }
    Ok(())
}

/// The number in `db7`, as in `INFO keyspace`.
pub(super) fn database(name: &str) -> Option<u32> {
    name.strip_prefix("db")?.parse().ok()
}
