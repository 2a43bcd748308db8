//! Gathers what the checks judge.

use std::collections::BTreeMap;

use coffer_core::engine::redis::checks::Facts;
use coffer_core::spec::EngineSpec;
use redis::Value;

use super::{Client, disk, survey};
use crate::site::{self, Error, Kind, Paths};

/// How many keys are looked at for their types.
const KEYS: usize = 10_000;

pub(super) async fn gather(client: &Client, _spec: &EngineSpec, paths: &Paths) -> Result<Facts, Error> {
    let acl = match client.has_users {
        true => client.ask("ACL LIST", redis::cmd("ACL").arg("LIST")).await?,
        false => Vec::new(),
    };
    let mut types = BTreeMap::new();
    for key in survey::walk(client, KEYS).await? {
        types.entry(key.kind).or_insert_with(|| key.key.to_string());
    }
    let files = disk::files(&paths.data)?;
    let room = rustix::fs::statvfs(&paths.data).map_err(std::io::Error::from)?;
    Ok(Facts {
        info: client.info("all").await?,
        config: client.config("*").await?,
        modules: modules(client).await?.into_iter().collect(),
        acl,
        types,
        data_bytes: files.iter().map(|f| f.size).sum(),
        appended_bytes: files.iter().filter(|f| f.kind == Kind::Appended).map(|f| f.size).max().unwrap_or(0),
        free_bytes: room.f_bavail * room.f_frsize,
        memory_available_bytes: memory_available(),
        foreign_files: site::foreign_files(paths, disk::kind)?,
    })
}

/// The modules that somebody loaded. Those that an engine consists of itself come with the next one: they have no path
/// (`vectorset` of Redis 8) or a bare name (`lua` of Valkey 9.1). Before 7.0 there were none, and no paths were told.
async fn modules(client: &Client) -> Result<Vec<String>, Error> {
    if !client.number.at_least(4, 0) {
        return Ok(Vec::new());
    }
    let listed: Vec<BTreeMap<String, Value>> = client.ask("MODULE LIST", redis::cmd("MODULE").arg("LIST")).await?;
    let text = |module: &BTreeMap<String, Value>, what: &str| -> Option<String> {
        module.get(what).and_then(|v| redis::from_redis_value_ref(v).ok())
    };
    let loaded = listed.iter().filter(|module| text(module, "path").is_none_or(|path| path.contains('/')));
    Ok(loaded.filter_map(|module| text(module, "name")).collect())
}

/// What the kernel says can be had without swapping.
fn memory_available() -> Option<u64> {
    let text = fs_err::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}
