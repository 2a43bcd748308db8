//! How much was written since the engine started.

use std::collections::BTreeSet;
use std::time::Duration;

use coffer_core::engine::redis::writes::count;
use redis::Value;

use super::Client;
use crate::site::Error;

/// The flag of commands that may write.
const WRITE: &str = "write";

impl Client {
    /// How many commands that may write it has done since it started, and how long ago that is.
    pub(crate) async fn writes(&self) -> Result<(u64, Duration), Error> {
        let commands: Vec<Value> = self.ask("COMMAND", &redis::cmd("COMMAND")).await?;
        let mut writing = BTreeSet::new();
        collect(&commands, &mut writing);
        let count = count(&self.info("commandstats").await?, &writing);
        let server = self.info("server").await?;
        let up = server.get("uptime_in_seconds").and_then(|seconds| seconds.parse().ok());
        Ok((count, Duration::from_secs(up.ok_or(Error::Misunderstood { command: "INFO" })?)))
    }
}

/// The names of those that may write, with those of subcommands, which stand within their command since 7.0.
fn collect(commands: &[Value], writing: &mut BTreeSet<String>) {
    for command in commands {
        let Value::Array(fields) = command else { continue };
        let text = |value: &Value| redis::from_redis_value_ref::<String>(value).ok();
        let flags: Vec<String> = fields.get(2).and_then(|f| redis::from_redis_value_ref(f).ok()).unwrap_or_default();
        if let Some(name) = fields.first().and_then(text).filter(|_| flags.iter().any(|flag| flag == WRITE)) {
            writing.insert(name.to_lowercase());
        }
        if let Some(Value::Array(subcommands)) = fields.get(9) {
            collect(subcommands, writing);
        }
    }
}
