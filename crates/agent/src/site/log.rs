//! What an engine wrote to its log before it ended.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use secrecy::ExposeSecret as _;

use super::Secrets;

/// How many lines are told, and from how many bytes at most they are taken.
const LINES: usize = 5;
const BYTES: u64 = 4096;

/// The last lines that were written to the log behind its first `from` bytes, in one line. An engine that refuses a line of
/// its file prints it: passwords are taken out.
pub fn last_words(log: &Path, from: u64, secrets: &Secrets) -> String {
    let mut text = String::from_utf8_lossy(&tail(log, from)).into_owned();
    for secret in [&secrets.tenant, &secrets.agent] {
        if !secret.expose_secret().is_empty() {
            text = text.replace(secret.expose_secret(), "***");
        }
    }
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    if lines.is_empty() { "none".to_owned() } else { lines[lines.len().saturating_sub(LINES)..].join(" | ") }
}

/// The last line that was written to the log, as it is: never to be told to anybody.
pub(crate) fn last_line(log: &Path) -> String {
    let text = String::from_utf8_lossy(&tail(log, 0)).into_owned();
    text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().to_owned()
}

/// What cannot be read is not told.
fn tail(log: &Path, from: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(mut file) = fs_err::File::open(log) {
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        let at = SeekFrom::Start(from.max(length.saturating_sub(BYTES)));
        let _ = file.seek(at).and_then(|_| file.read_to_end(&mut bytes));
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::last_words;
    use crate::site::Secrets;

    #[test]
    fn a_farewell_counts_only_as_the_last_line_and_only_at_its_end() {
        let log = std::env::temp_dir().join(format!("coffer-farewell-{}", std::process::id()));
        for (text, is_farewell) in [
            ("1 [Note] /usr/sbin/mariadbd: Shutdown complete\n", true),
            ("1 [Note] /usr/sbin/mariadbd: Shutdown complete\n\n", true),
            ("1 [Note] /usr/sbin/mariadbd: Shutdown complete\n2 [Note] Starting MariaDB\n", false),
            ("1 [Warning] Access denied for user 'x: Shutdown complete'@'h'\n", false),
            ("1 [Note] /usr/sbin/mariadbd: Normal shutdown\n", false),
            ("", false),
        ] {
            fs_err::write(&log, text).expect("a log");
            assert_eq!(super::last_line(&log).ends_with(": Shutdown complete"), is_farewell, "{text}");
        }
        fs_err::remove_file(&log).expect("the log goes");
    }

    #[test]
    fn the_last_words_are_those_of_this_engine_and_have_no_password() {
        let secrets = Secrets { tenant: "swordfish".into(), agent: "".into() };
        let log = std::env::temp_dir().join(format!("coffer-last-words-{}", std::process::id()));
        let check = |text: &str, from: u64, expected: &str| {
            fs_err::write(&log, text).expect("a log");
            assert_eq!(last_words(&log, from, &secrets), expected);
        };
        check("of the one before\nfirst\n\nrequirepass swordfish\n", 18, "first | requirepass ***");
        check("of the one before\n", 18, "none");
        check("1\n2\n3\n4\n5\n6\n", 0, "2 | 3 | 4 | 5 | 6");
        fs_err::remove_file(&log).expect("the log");
        assert_eq!(last_words(&log, 0, &secrets), "none");
    }
}
