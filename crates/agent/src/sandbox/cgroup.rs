//! Memory and CPU limits of an engine, by control groups of version 2 or 1.
//!
//! A group is a directory `coffer/<name>` at the top of each hierarchy that has the controller, made by root: always the same
//! one, whichever session asks. An ordinary user gets `coffer/<name>` beside the own group, where its session was delegated to
//! it, and otherwise nothing, which [`LimitsReport`] says with the reason. Limits are never silently absent.
//!
//! The page cache of the files that an engine reads and writes counts towards its memory, but is given back before anything is
//! killed. Swap is not granted: an engine that swaps looks healthy and serves nobody.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The period over which CPU time is counted, in microseconds: the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;

/// A control group and what may be used in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CgroupLimits {
    /// The group's name: one path component, the instance's id.
    pub name: String,
    /// Memory, in bytes. An engine that needs more is killed.
    pub memory_bytes: u64,
    /// CPU time, in thousandths of a processor. An engine that needs more waits. `None`: as much as there is.
    pub cpu_millis: Option<u32>,
}

/// What came of the limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsReport {
    /// Of the memory.
    pub memory: Limit,
    /// Of the CPU time.
    pub cpu: Limit,
}

/// Whether a limit holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// The kernel holds it.
    Enforced,
    /// Nobody does.
    NotEnforced {
        /// Why, in words for a person.
        why: String,
    },
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Enforced => f.write_str("enforced"),
            Self::NotEnforced { why } => write!(f, "not enforced: {why}"),
        }
    }
}

/// A group that exists, with its limits set as far as they can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// What came of the limits.
    pub report: LimitsReport,
    /// The directories that a process has to join to be limited, none if nothing is enforced.
    pub directories: Vec<PathBuf>,
}

/// Ensures that the group exists and has these limits, which then hold for the processes in it already, too.
pub fn ensure(limits: &CgroupLimits) -> Group {
    let read = |path: &str| fs_err::read_to_string(path).unwrap_or_default();
    let host =
        Host::parse(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"), rustix::process::geteuid().is_root());
    host.ensure(limits)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// What of control groups there is on a host, and where one may be made.
struct Host {
    /// Each mounted hierarchy: its version, its controllers (of version 1), the directory in which a group may be made.
    hierarchies: Vec<(Version, Vec<String>, PathBuf)>,
}

impl Host {
    fn parse(mountinfo: &str, own: &str, is_root: bool) -> Self {
        let hierarchies = mountinfo.lines().filter_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let mount_point = PathBuf::from(before.split(' ').nth(4)?);
            let mut after = after.split(' ');
            let (kind, options) = (after.next()?, after.nth(1)?);
            let controllers: Vec<String> = options.split(',').map(str::to_owned).collect();
            let version = match kind {
                "cgroup2" => Version::Two,
                "cgroup" => Version::One,
                _ => return None,
            };
            let parent = if is_root {
                mount_point
            } else {
                // `0::/path` of version 2, `4:memory,cpu:/path` of version 1.
                let path = own.lines().find_map(|line| {
                    let mut fields = line.splitn(3, ':').skip(1);
                    let (names, path) = (fields.next()?, fields.next()?);
                    let ours = match version {
                        Version::Two => names.is_empty(),
                        Version::One => names.split(',').any(|name| controllers.iter().any(|c| c == name)),
                    };
                    ours.then(|| path.trim_start_matches('/').to_owned())
                })?;
                let own_group = mount_point.join(path);
                own_group.parent().filter(|parent| parent.starts_with(&mount_point)).unwrap_or(&own_group).to_owned()
            };
            Some((version, controllers, parent))
        });
        Self { hierarchies: hierarchies.collect() }
    }

    fn ensure(&self, limits: &CgroupLimits) -> Group {
        let mut directories = Vec::new();
        let mut one = |controller: &str, set: &dyn Fn(Version, &Path) -> io::Result<()>| match self.ensure_one(
            &limits.name,
            controller,
            set,
        ) {
            Ok(directory) => {
                if !directories.contains(&directory) {
                    directories.push(directory);
                }
                Limit::Enforced
            }
            Err(why) => Limit::NotEnforced { why },
        };
        let memory = one("memory", &|version, group| limit_memory(version, group, limits.memory_bytes));
        let cpu = one("cpu", &|version, group| limit_cpu(version, group, limits.cpu_millis));
        Group { report: LimitsReport { memory, cpu }, directories }
    }

    fn ensure_one(
        &self,
        name: &str,
        controller: &str,
        set: &dyn Fn(Version, &Path) -> io::Result<()>,
    ) -> Result<PathBuf, String> {
        let (version, parent) =
            self.find(controller).ok_or_else(|| format!("this host has no control group for {controller}"))?;
        let ours = parent.join("coffer");
        let group = ours.join(name);
        let make = || -> io::Result<()> {
            if version == Version::Two {
                hand_down(parent, controller)?;
                fs_err::create_dir_all(&ours)?;
                hand_down(&ours, controller)?;
            }
            fs_err::create_dir_all(&group)?;
            set(version, &group)
        };
        make().map_err(|error| error.to_string())?;
        Ok(group)
    }

    /// Where this controller's groups are made. A controller is in one hierarchy only.
    fn find(&self, controller: &str) -> Option<(Version, &Path)> {
        self.hierarchies.iter().find_map(|(version, controllers, parent)| {
            let has = match version {
                Version::One => controllers.iter().any(|name| name == controller),
                Version::Two => fs_err::read_to_string(parent.join("cgroup.controllers"))
                    .is_ok_and(|names| names.split_ascii_whitespace().any(|name| name == controller)),
            };
            has.then_some((*version, parent.as_path()))
        })
    }
}

/// Lets the groups below this one have the controller, which version 2 wants at every level. Where that is so already it need
/// not be allowed to us.
fn hand_down(group: &Path, controller: &str) -> io::Result<()> {
    let control = group.join("cgroup.subtree_control");
    let has = fs_err::read_to_string(&control)
        .is_ok_and(|names| names.split_ascii_whitespace().any(|name| name == controller));
    if has { Ok(()) } else { fs_err::write(control, format!("+{controller}")) }
}

fn limit_memory(version: Version, group: &Path, bytes: u64) -> io::Result<()> {
    let bytes = bytes.to_string();
    match version {
        Version::Two => {
            fs_err::write(group.join("memory.max"), &bytes)?;
            write_if_there(&group.join("memory.swap.max"), "0")
        }
        Version::One => {
            // Memory and swap together must never be below memory, so neither raising nor lowering works in one order.
            let both = group.join("memory.memsw.limit_in_bytes");
            let raised = fs_err::write(&both, &bytes);
            fs_err::write(group.join("memory.limit_in_bytes"), &bytes)?;
            if raised.is_err() {
                write_if_there(&both, &bytes)?;
            }
            write_if_there(&group.join("memory.swappiness"), "0")
        }
    }
}

fn limit_cpu(version: Version, group: &Path, millis: Option<u32>) -> io::Result<()> {
    let quota_us = millis.map(|millis| (u64::from(millis) * CPU_PERIOD_US / 1000).to_string());
    match version {
        Version::Two => {
            let quota_us = quota_us.as_deref().unwrap_or("max");
            fs_err::write(group.join("cpu.max"), format!("{quota_us} {CPU_PERIOD_US}"))
        }
        Version::One => {
            fs_err::write(group.join("cpu.cfs_period_us"), CPU_PERIOD_US.to_string())?;
            fs_err::write(group.join("cpu.cfs_quota_us"), quota_us.as_deref().unwrap_or("-1"))
        }
    }
}

/// Kernels are built without swap accounting.
fn write_if_there(path: &Path, value: &str) -> io::Result<()> {
    if path.exists() { fs_err::write(path, value) } else { Ok(()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn limits() -> CgroupLimits {
        CgroupLimits { name: "one".to_owned(), memory_bytes: GIB, cpu_millis: Some(1500) }
    }

    /// Lets an ordinary directory stand for a hierarchy: a limit is a file in it.
    fn stand_in(kind: &str, options: &str, files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let top = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs_err::write(top.path().join(name), content).unwrap();
        }
        let mountinfo = format!("30 20 0:26 / {} rw,nosuid shared:9 - {kind} {kind} {options}\n", top.path().display());
        (top, Host::parse(&mountinfo, "", true))
    }

    fn read(top: &tempfile::TempDir, file: &str) -> String {
        fs_err::read_to_string(top.path().join(file)).unwrap_or_default()
    }

    #[test]
    fn version_two_gets_memory_and_cpu_in_one_group() {
        let (top, host) = stand_in("cgroup2", "rw,nsdelegate", &[("cgroup.controllers", "cpuset cpu io memory pids")]);
        let group = host.ensure(&limits());
        assert_eq!(group.report, LimitsReport { memory: Limit::Enforced, cpu: Limit::Enforced });
        assert_eq!(group.directories, [top.path().join("coffer/one")]);
        assert_eq!(read(&top, "coffer/one/memory.max"), GIB.to_string());
        assert_eq!(read(&top, "coffer/one/cpu.max"), "150000 100000");
        assert_eq!(read(&top, "coffer/cgroup.subtree_control"), "+cpu");
        host.ensure(&CgroupLimits { cpu_millis: None, ..limits() });
        assert_eq!(read(&top, "coffer/one/cpu.max"), "max 100000");
    }

    #[test]
    fn version_one_gets_a_group_per_hierarchy_and_the_missing_one_is_said() {
        let (top, host) = stand_in("cgroup", "rw,memory", &[]);
        let group = host.ensure(&limits());
        assert_eq!(group.report.memory, Limit::Enforced);
        assert_eq!(group.report.cpu.to_string(), "not enforced: this host has no control group for cpu");
        assert_eq!(group.directories, [top.path().join("coffer/one")]);
        assert_eq!(read(&top, "coffer/one/memory.limit_in_bytes"), GIB.to_string());
    }

    #[test]
    fn a_version_two_hierarchy_without_controllers_is_not_taken_for_one_with() {
        let (_top, host) = stand_in("cgroup2", "rw", &[("cgroup.controllers", "hugetlb")]);
        assert_eq!(host.ensure(&limits()).directories, Vec::<PathBuf>::new());
    }

    #[test]
    fn an_ordinary_user_asks_beside_the_own_group() {
        let mountinfo = "30 20 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let host = Host::parse(mountinfo, "0::/user.slice/app.slice/coffer.service\n", false);
        assert_eq!(host.hierarchies[0].2, Path::new("/sys/fs/cgroup/user.slice/app.slice"));
    }
}
