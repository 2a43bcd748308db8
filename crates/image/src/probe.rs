//! Asking a server program in an engine root for its own version.
//!
//! The program comes from outside, so it never runs with this process's rights on this machine's files: as root it runs
//! as `nobody` with the engine root as its root directory, as an ordinary user in a user namespace with that root.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::command::said;
use crate::error::{Error, Result};

/// A server only prints a line here; a loaded machine may still need a while to read a large program from disk.
const LIMIT: Duration = Duration::from_secs(30);

/// The version number that `binary` in `root` prints, like `7.0.15`.
pub(crate) async fn version_number(root: &Path, binary: &Path) -> Result<String> {
    let mut as_nobody = Command::new("chroot");
    as_nobody.arg("--userspec=65534:65534").arg("--groups=").arg(root);
    let mut in_namespace = Command::new("unshare");
    in_namespace.args(["--user", "--map-root-user"]).arg(format!("--root={}", root.display())).args(["--wd=/", "--"]);

    let mut attempts = Vec::new();
    for mut command in [as_nobody, in_namespace] {
        let launcher = command.as_std().get_program().to_string_lossy().into_owned();
        let path = std::env::var_os("PATH").unwrap_or_default();
        command
            .arg(binary)
            .arg("--version")
            // An inherited LANG makes some servers exit in a root without that locale.
            .env_clear()
            .env("LC_ALL", "C")
            .env("PATH", path)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        match tokio::time::timeout(LIMIT, command.output()).await {
            Ok(Ok(output)) => match number_in(&String::from_utf8_lossy(&output.stdout)) {
                Some(number) if output.status.success() => return Ok(number),
                _ => attempts.push(format!("{launcher}: {}: {}", output.status, said(&output))),
            },
            Ok(Err(error)) => attempts.push(format!("{launcher}: {error}")),
            Err(_) => attempts.push(format!("{launcher}: no answer within {} s", LIMIT.as_secs())),
        }
    }
    Err(Error::BinaryUnusable { binary: binary.to_owned(), attempts })
}

/// The first number of three or more parts: `Redis server v=7.0.15 sha=...`, `mariadbd  Ver 10.11.18-MariaDB ...`.
fn number_in(text: &str) -> Option<String> {
    text.split(|c: char| !c.is_ascii_digit() && c != '.')
        .find(|word| {
            let parts: Vec<&str> = word.split('.').collect();
            parts.len() >= 3 && parts.iter().all(|part| !part.is_empty())
        })
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::number_in;

    #[test]
    fn the_number_is_found_in_what_each_server_prints() {
        let check = |text, number: Option<&str>| assert_eq!(number_in(text).as_deref(), number);
        check("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64", Some("7.0.15"));
        check("Valkey server v=8.1.1 sha=00000000:0 malloc=jemalloc-5.3.0", Some("8.1.1"));
        check("mariadbd  Ver 10.11.18-MariaDB-0+deb12u1 for debian-linux-gnu", Some("10.11.18"));
        check("/usr/sbin/mysqld  Ver 9.7.4 for Linux on x86_64 ((Debian))", Some("9.7.4"));
        check("no version here, only 7.0 and v1", None);
    }
}
