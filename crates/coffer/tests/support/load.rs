//! Data for an engine, by the megabyte.

use std::io;
use std::time::{Duration, Instant};

use super::resp::{Connection, Reply};

/// How many bytes one value has.
const VALUE: usize = 1000;
/// Every so many keys one is a hash, of ten fields.
const HASH_EVERY: usize = 20;
/// How many keys are sent at once.
const BATCH: usize = 500;
/// How long an engine may take to come to rest.
const PATIENCE: Duration = Duration::from_secs(300);

/// Writes so many millions of bytes: strings and hashes of a thousand bytes each, which cannot be compressed.
pub(crate) fn fill(connection: &mut Connection, megabytes: usize) -> io::Result<()> {
    let keys: Vec<_> = (0..megabytes * 1_000_000 / VALUE).collect();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for batch in keys.chunks(BATCH) {
        let commands: Vec<_> = batch.iter().map(|n| command(*n, &mut random)).collect();
        for reply in connection.pipeline(&commands)? {
            if let Reply::Error(error) = reply {
                return Err(io::Error::other(error));
            }
        }
    }
    Ok(())
}

fn command(n: usize, random: &mut Random) -> Vec<Vec<u8>> {
    if !n.is_multiple_of(HASH_EVERY) {
        return vec![b"SET".to_vec(), format!("string:{n}").into_bytes(), random.bytes(VALUE)];
    }
    let mut command = vec![b"HSET".to_vec(), format!("hash:{n}").into_bytes()];
    for field in 0..10 {
        command.extend([format!("field:{field}").into_bytes(), random.bytes(VALUE / 10)]);
    }
    command
}

/// Waits until an engine writes nothing in the background, so that every measurement begins alike.
pub(crate) fn wait_for_rest(connection: &mut Connection) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let info = connection.ask(&["INFO", "persistence"])?;
        let info = String::from_utf8_lossy(info.text().unwrap_or_default()).into_owned();
        let at_rest = |name: &str| info.lines().any(|line| line.trim_end() == format!("{name}:0"));
        if ["rdb_bgsave_in_progress", "aof_rewrite_in_progress", "aof_rewrite_scheduled"].into_iter().all(at_rest) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(io::Error::other("the engine does not come to rest"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Numbers without a pattern, the same in every run (xorshift).
struct Random(u64);

impl Random {
    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            bytes.extend(self.0.to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}
