//! A network namespace of a test's own, with cables that can be pulled out. For root.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// How many this program has made.
static TURN: AtomicU32 = AtomicU32::new(0);

/// A namespace, joined to the test's own by two cables. It ends with this.
pub(crate) struct Namespace {
    name: String,
    cables: [Cable; 2],
}

/// A way into the namespace.
pub(crate) struct Cable {
    device: String,
    /// What is reached by it alone.
    pub inside: Ipv4Addr,
}

impl Namespace {
    /// Makes one. `None`, and said so loudly, where that is not allowed.
    pub(crate) fn make() -> Option<Self> {
        // Names of devices have 15 characters at the most, and other tests make namespaces, too, and other threads of this one.
        let pid = std::process::id();
        let turn = TURN.fetch_add(1, Ordering::Relaxed);
        let name = format!("coffer-{pid}-{turn}");
        if !ip(&["netns", "add", &name]) {
            println!("NOT RUN: a server that is cut off: no network namespace can be made here; run it as root");
            return None;
        }
        let cables = [0, 1].map(|n| {
            let part = |number| u8::try_from(number).unwrap_or_default();
            let (high, low) = (part(pid / 32 % 256), part(pid % 32 * 8) + 4 * n);
            let [outside, inside] = [1, 2].map(|host| Ipv4Addr::new(10, 99 + part(turn % 128), high, low + host));
            let (device, end) = (format!("cf{pid}-{turn}{n}"), format!("cg{pid}-{turn}{n}"));
            for line in [
                format!("link add {device} type veth peer name {end} netns {name}"),
                format!("addr add {outside}/30 dev {device}"),
                format!("link set {device} up"),
                format!("-n {name} addr add {inside}/30 dev {end}"),
                format!("-n {name} link set {end} up"),
            ] {
                assert!(ip(&line.split(' ').collect::<Vec<_>>()), "ip {line}");
            }
            Cable { device, inside }
        });
        Some(Self { name, cables })
    }

    /// Its name, for `ip netns exec`.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its cables.
    pub(crate) fn cables(&self) -> &[Cable; 2] {
        &self.cables
    }
}

impl Cable {
    /// Pulls it out: nothing gets through, and nobody is told.
    pub(crate) fn cut(&self) {
        assert!(ip(&["link", "set", &self.device, "down"]));
    }

    /// Plugs it in again.
    pub(crate) fn mend(&self) {
        assert!(ip(&["link", "set", &self.device, "up"]));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        ip(&["netns", "del", &self.name]);
    }
}

fn ip(arguments: &[&str]) -> bool {
    Command::new("ip").args(arguments).output().is_ok_and(|output| output.status.success())
}
