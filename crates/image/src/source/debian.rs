//! An engine root out of Debian packages.
//!
//! apt, with a state of its own in the staging directory, decides which packages are needed and downloads them (it checks
//! signatures and digests); their files are unpacked and no script of theirs runs. So it needs no privileges, touches
//! nothing of the machine's own apt, and works for every suite that the machine's mirror has.

use std::path::{Path, PathBuf};
use std::process::{Command as BlockingCommand, Stdio};
use std::time::Duration;

use fs_err as fs;
use tokio::process::Command;

use super::{Fetch, mirror};
use crate::command::{blocking, run};
use crate::error::{Error, Result};
use crate::pack::relativise_links;
use crate::unpack::{Rule, Unpacker};

const UPDATE_LIMIT: Duration = Duration::from_mins(5);
const DOWNLOAD_LIMIT: Duration = Duration::from_mins(30);

/// Packages that only maintainer scripts need, and those never run here: apt is told that they are installed. It keeps
/// adduser, init scripts and their interpreters out of engine roots, which makes them a third of the size.
const NEVER_UNPACKED: [&str; 9] =
    ["adduser", "debconf", "debconf-2.0", "dpkg", "init-system-helpers", "lsb-base", "passwd", "sysvinit-utils", "ucf"];

/// Documentation and translations, which no server reads.
const PRUNED: [&str; 6] = ["bug", "doc-base", "info", "lintian", "locale", "man"];

/// Unpacked packages, ready to be made an image.
pub(super) struct Tree {
    pub(super) path: PathBuf,
    /// `name=version`, sorted.
    pub(super) packages: Vec<String>,
}

/// Downloads and unpacks `packages` with everything they depend on.
pub(super) async fn unpack(fetch: &Fetch<'_>, suites: &[String], packages: &[String], ended: bool) -> Result<Tree> {
    let apt = fetch.stage.join("apt");
    write_apt_state(&apt, suites, ended)?;
    let apt_get = |action: &[&str]| {
        let mut command = Command::new("apt-get");
        command.arg("--quiet=2").arg("--config-file").arg(apt.join("apt.conf")).args(action);
        command
    };
    fetch.step("read the package lists");
    // Without this, apt calls a list that it could not get a warning and goes on with half of the suites.
    run(apt_get(&["--error-on=any", "update"]), UPDATE_LIMIT, "apt").await?;
    fetch.step("download the packages");
    let mut install = apt_get(&["--yes", "--download-only", "install"]);
    install.args(packages);
    run(install, DOWNLOAD_LIMIT, "apt").await?;

    fetch.step("unpack the packages");
    let (path, limit) = (fetch.stage.join("tree"), fetch.limits.image_bytes);
    blocking(move || {
        let packages = unpack_archives(&apt.join("archives"), &path, limit)?;
        prune(&path)?;
        relativise_links(&path)?;
        write_accounts(&path)?;
        Ok(Tree { path, packages })
    })
    .await
}

/// Writes what apt needs to work in `apt` alone. The machine's own configuration stays in force below it (proxies,
/// certificates), but not its hooks, pins and sources.
fn write_apt_state(apt: &Path, suites: &[String], ended: bool) -> Result<()> {
    for directory in ["lists/partial", "archives/partial"] {
        fs::create_dir_all(apt.join(directory))?;
    }
    let installed = NEVER_UNPACKED.map(|name| {
        format!(
            "Package: {name}\nStatus: install ok installed\nArchitecture: all\nMulti-Arch: foreign\n\
             Version: 999:0\nMaintainer: none\nDescription: not needed in an engine root\n\n"
        )
    });
    fs::write(apt.join("status"), installed.concat())?;

    let known = mirror::of_this_machine()?;
    let mut sources = String::new();
    for suite in suites {
        sources += &known.stanza(suite, ended)?;
    }
    fs::write(apt.join("suites.sources"), sources)?;

    let at = apt.display();
    fs::write(
        apt.join("apt.conf"),
        format!(
            r#"#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Invoke;
#clear DPkg::Pre-Install-Pkgs;
#clear DPkg::Post-Invoke;
Dir::State "{at}";
Dir::State::lists "{at}/lists";
Dir::State::status "{at}/status";
Dir::State::extended_states "{at}/extended_states";
Dir::Cache "{at}";
Dir::Cache::archives "{at}/archives";
Dir::Etc::sourcelist "{at}/suites.sources";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Sandbox::User "root";
APT::Install-Recommends "false";
APT::Get::List-Cleanup "false";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
"#
        ),
    )?;
    Ok(())
}

/// Unpacks every downloaded package into `tree`, in the order of their names; gives what they are.
fn unpack_archives(archives: &Path, tree: &Path, limit: u64) -> Result<Vec<String>> {
    // Every Debian since 12 has these links, and they are in a package that is only configured, never unpacked here.
    for name in ["bin", "lib", "lib32", "lib64", "libx32", "sbin"] {
        let target = Path::new("usr").join(name);
        fs::create_dir_all(tree.join(&target))?;
        fs::os::unix::fs::symlink(&target, tree.join(name))?;
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(archives)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "deb") {
            files.push(path);
        }
    }
    files.sort();
    let mut into = Unpacker::new(tree, Rule::Packages, limit)?;
    for file in &files {
        unpack_package(file, &mut into)?;
    }
    Ok(files.iter().filter_map(|f| package_name(f)).collect())
}

fn unpack_package(file: &Path, into: &mut Unpacker) -> Result<()> {
    let mut dpkg = BlockingCommand::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let unpacked = dpkg.stdout.take().map_or(Ok(()), |tar| into.unpack(tar));
    let status = dpkg.wait()?;
    unpacked?;
    if status.success() {
        return Ok(());
    }
    Err(Error::ProgramFailed {
        program: "dpkg-deb".to_owned(),
        status: status.to_string(),
        output: file.display().to_string(),
    })
}

/// `redis-server_5%3a7.0.15-1_amd64.deb` is `redis-server=5:7.0.15-1`.
fn package_name(file: &Path) -> Option<String> {
    let mut parts = file.file_stem()?.to_str()?.split('_');
    let (name, version) = (parts.next()?, parts.next()?);
    Some(format!("{name}={}", version.replace("%3a", ":")))
}

/// Removes documentation, but keeps the licences.
fn prune(tree: &Path) -> Result<()> {
    let share = tree.join("usr/share");
    for name in PRUNED {
        match fs::remove_dir_all(share.join(name)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    let doc = share.join("doc");
    if !doc.is_dir() {
        return Ok(());
    }
    for package in fs::read_dir(doc)? {
        let package = package?;
        if !package.file_type()?.is_dir() {
            continue;
        }
        for entry in fs::read_dir(package.path())? {
            let entry = entry?;
            if entry.file_name() == "copyright" {
                continue;
            }
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

/// The accounts that name look-ups in an engine root find; the package that brings them is only configured.
fn write_accounts(tree: &Path) -> Result<()> {
    let etc = tree.join("etc");
    fs::create_dir_all(&etc)?;
    fs::write(
        etc.join("passwd"),
        "root:x:0:0:root:/:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
    )?;
    fs::write(etc.join("group"), "root:x:0:\nnogroup:x:65534:\n")?;
    fs::write(etc.join("nsswitch.conf"), "passwd: files\ngroup: files\nhosts: files dns\n")?;
    Ok(())
}
