//! The data directory: which servers use it at once, and that they all have one store.
//!
//! ```text
//! lock               held for life: alone by a server whose store is a file, together by those that share a store
//! lock-NAME          held for life by the server of that name, where the store is shared
//! store              where the shared store is; not there where it is coffer.db
//! run/agents.sock    where agents find the server, or the one named main;
//! run/agents-NAME.sock    and where they find another
//! ```

use std::fmt;
use std::fs::TryLockError;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use coffer_store::Location;
use fs_err::os::unix::fs::OpenOptionsExt as _;

/// The socket that every agent is told of. Those of other servers are beside it.
pub(crate) const AGENTS_SOCKET: &str = "agents.sock";

/// What a server is called among those that share a store: short, and part of file names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerName(String);

/// Why a text is no name of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it has to be of 1 to 32 of a-z, 0-9 and '-'")]
pub struct BadServerName;

impl Default for ServerName {
    fn default() -> Self {
        Self("main".to_owned())
    }
}

impl FromStr for ServerName {
    type Err = BadServerName;

    fn from_str(text: &str) -> Result<Self, BadServerName> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let is_name = (1..=32).contains(&text.len()) && text.chars().all(fits);
        if is_name { Ok(Self(text.to_owned())) } else { Err(BadServerName) }
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A server has it already: one whose store is a file, or one of the same name.
    #[error("another server runs on {}; hint: {hint}", path.display())]
    AlreadyRuns { path: PathBuf, hint: &'static str },
    /// What its instances are is written down somewhere else.
    #[error(
        "the store of {} is {is}, not {asked}; hint: start with that, or take everything over first: coffer store move",
        path.display()
    )]
    OtherStore { path: PathBuf, is: String, asked: String },
    #[error(transparent)]
    Files(#[from] std::io::Error),
}

/// A data directory that this process may use. Dropped, others may.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    name: ServerName,
    _locks: Vec<fs_err::File>,
}

impl Directory {
    /// Takes the directory, which is made if it is not there, for a server of this name with this store.
    pub fn take(path: &Path, store: &Location, name: &ServerName) -> Result<Self, Error> {
        make(path)?;
        let locks = if store.is_shared() {
            let all =
                lock(path, "lock", Share::WithOthers, "its store is a file: take it over with coffer store move")?;
            let own = lock(path, &format!("lock-{name}"), Share::No, "give this one another --name")?;
            vec![all, own]
        } else {
            vec![lock(path, "lock", Share::No, "stop it, or choose another directory with --data")?]
        };
        let directory = Self { path: path.to_owned(), name: name.clone(), _locks: locks };
        directory.agree_on(store)?;
        Ok(directory)
    }

    /// Takes the directory for somebody who changes which store it has: no server may run on it.
    pub fn take_alone(path: &Path) -> Result<Self, Error> {
        let locks = vec![lock(path, "lock", Share::No, "stop every server that runs on it first")?];
        Ok(Self { path: path.to_owned(), name: ServerName::default(), _locks: locks })
    }

    /// Writes down where the store is.
    pub fn set_store(&self, store: &Location) -> Result<(), Error> {
        let path = self.path.join("store");
        if store.is_shared() {
            let new = self.path.join("store.new");
            let mut file = fs_err::OpenOptions::new().write(true).create(true).truncate(true).open(&new)?;
            std::io::Write::write_all(&mut file, format!("{store}\n").as_bytes())?;
            file.sync_all()?;
            fs_err::rename(new, path)?;
        } else if path.exists() {
            fs_err::remove_file(path)?;
        }
        Ok(fs_err::File::open(&self.path)?.sync_all()?)
    }

    /// Where agents of this host find the server.
    pub(crate) fn agents_socket(&self) -> PathBuf {
        let file = match self.name == ServerName::default() {
            true => AGENTS_SOCKET.to_owned(),
            false => format!("agents-{}.sock", self.name),
        };
        self.path.join("run").join(file)
    }

    /// Whether a server of that name, which is not this one, runs on this directory.
    pub(crate) fn has_another(&self, name: &ServerName) -> bool {
        let held = || lock(&self.path, &format!("lock-{name}"), Share::WithOthers, "");
        *name != self.name && matches!(held(), Err(Error::AlreadyRuns { .. }))
    }

    /// A shared store becomes the directory's at the first start, unless it has one.
    fn agree_on(&self, store: &Location) -> Result<(), Error> {
        let is = store_of(&self.path)?;
        let is_new = !is.is_shared() && !self.path.join("coffer.db").exists();
        if is_new {
            self.set_store(store)
        } else if is.is_shared() == store.is_shared() && (!is.is_shared() || is == *store) {
            Ok(())
        } else {
            Err(Error::OtherStore { path: self.path.clone(), is: is.to_string(), asked: store.to_string() })
        }
    }
}

/// Where the store of a directory is, as it was said last.
pub fn store_of(data: &Path) -> Result<Location, Error> {
    match fs_err::read_to_string(data.join("store")) {
        Ok(url) => {
            let parsed = url.trim().parse().map(Location::Postgres);
            parsed.map_err(|e| Error::Files(std::io::Error::new(std::io::ErrorKind::InvalidData, e)))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(store_file(data)),
        Err(e) => Err(e.into()),
    }
}

/// The store of a directory that has no other.
pub fn store_file(data: &Path) -> Location {
    Location::File(data.join("coffer.db"))
}

fn make(path: &Path) -> std::io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    fs_err::create_dir_all(path)?;
    // Engines run as users of their own and have to get to their roots and volumes through it.
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(0o711))
}

enum Share {
    No,
    WithOthers,
}

fn lock(data: &Path, name: &str, share: Share, hint: &'static str) -> Result<fs_err::File, Error> {
    let file = fs_err::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(data.join(name))?;
    let taken = match share {
        Share::No => file.file().try_lock(),
        Share::WithOthers => file.file().try_lock_shared(),
    };
    match taken {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::AlreadyRuns { path: data.to_owned(), hint }),
        Err(TryLockError::Error(e)) => Err(e.into()),
    }
}
