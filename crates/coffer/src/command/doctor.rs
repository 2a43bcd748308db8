//! `coffer doctor`: what this host allows. Needs no server, and changes nothing.

use coffer_agent::gate;
use coffer_core::gate::Level;
use serde_json::json;

use crate::failure::Failure;
use crate::table::{self, Format, List};

/// How many connections can wait for an engine that is not there: the kernel's own limit cuts what the gate asks for.
const SOMAXCONN: &str = "/proc/sys/net/core/somaxconn";
/// With fewer the line of a busy instance is full within a second, and who comes then waits for a second more.
const ENOUGH_CONNECTIONS: u64 = 1024;
/// How many namespaces a user may have. Where there is no such file, the kernel has none for ordinary users.
const USER_NAMESPACES: &str = "/proc/sys/user/max_user_namespaces";

/// One thing that was looked at.
struct Finding {
    what: &'static str,
    found: String,
    /// What to do about it; empty if it is as it should be.
    hint: String,
}

/// Looks, and tells.
pub(crate) fn run(format: Format) -> Result<(), Failure> {
    let rows = [isolation(), port(), line()]
        .into_iter()
        .map(|finding| vec![json!(finding.what), json!(finding.found), json!(finding.hint)])
        .collect();
    Ok(table::print(&List { columns: &["What", "Found", "What to do"], rows }.render(format))?)
}

fn isolation() -> Finding {
    let what = "isolation of engines";
    if rustix::process::geteuid().is_root() {
        let found = "namespaces, a user id for each instance".to_owned();
        return Finding { what, found, hint: String::new() };
    }
    match number(USER_NAMESPACES) {
        Some(1..) => Finding {
            what,
            found: "namespaces inside a user namespace, your user id for all instances".to_owned(),
            hint: "run coffer as root for user ids of their own, and limits of memory and CPU".to_owned(),
        },
        _ => Finding {
            what,
            found: "none: engines cannot be started".to_owned(),
            hint: format!("run coffer as root, or allow user namespaces ({USER_NAMESPACES})"),
        },
    }
}

/// Whether the port of an instance stays open.
fn port() -> Finding {
    let found = gate::foresee(Level::Steered);
    let meaning = match found.level {
        Level::Steered => "nobody is refused, and no engine is seen before it was proven",
        Level::Shared => "nobody is refused; engines before 7.0 may cut who is there while they stop",
        Level::Own => "connections are refused while an engine is down",
    };
    let (why, hint) = found.why.split_once("; hint: ").unwrap_or((&found.why, ""));
    let because = if why.is_empty() { String::new() } else { format!(" ({why})") };
    Finding { what: "gate", found: format!("{}: {meaning}{because}", found.level.name()), hint: hint.to_owned() }
}

/// How long the line can become.
fn line() -> Finding {
    let connections = number(SOMAXCONN).unwrap_or_default();
    let enough = connections >= ENOUGH_CONNECTIONS;
    Finding {
        what: "connections that can wait",
        found: format!("{connections} for each instance"),
        hint: if enough { String::new() } else { "sysctl -w net.core.somaxconn=4096".to_owned() },
    }
}

fn number(path: &str) -> Option<u64> {
    fs_err::read_to_string(path).ok()?.trim().parse().ok()
}
