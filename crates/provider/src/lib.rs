//! Where instances live. A provider gives an instance a place: a volume, and an agent beside it that outlives the control
//! plane. It knows nothing of databases.
//!
//! Everything here is idempotent and safe against being called twice at once, also by two control planes. Calls block, for
//! milliseconds except where one says otherwise: from asynchronous code they belong on a thread for blocking work.

mod local;

use std::path::PathBuf;

use coffer_core::id::InstanceId;
use coffer_wire::agent::Identity;

pub use local::Local;

/// A kind of place for instances.
pub trait Provider: Send + Sync {
    /// Ensures that the instance has a volume with this identity in it, and an agent.
    ///
    /// An agent that runs already keeps the identity that it was started with.
    fn ensure(&self, identity: &Identity) -> Result<Placed, Error>;

    /// Ensures that an agent runs in the instance's place, which must be there. Waits for nobody: whoever has the place
    /// ([`Error::Taken`]) starts its agent, or removes it.
    fn ensure_agent(&self, instance: InstanceId) -> Result<Agent, Error>;

    /// Ensures that nothing is left of the instance: agent, engines, control group, volume with all data. Takes as long as
    /// deleting the data takes.
    ///
    /// Whoever calls this may have been stopped since they were told to. So `still_wanted` is asked once nobody else can change
    /// the place any more, and where it says no, nothing is touched.
    fn drop_place(&self, instance: InstanceId, still_wanted: &dyn Fn() -> bool) -> Result<(), Error>;

    /// Sees to it that nobody makes or drops the place until what this gives is dropped, and says whether there is a place.
    fn hold(&self, instance: InstanceId) -> Result<Held, Error>;

    /// Every instance that has a place here, and how its agent is. Cheap enough to be asked every second.
    fn list(&self) -> Result<Vec<Placed>, Error>;
}

/// An instance's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Whose it is.
    pub instance: InstanceId,
    /// Its volume, on the host of its agent.
    pub volume: PathBuf,
    /// Its agent.
    pub agent: Agent,
}

/// A place that nobody changes as long as this is there.
pub struct Held {
    /// Whether there is one.
    pub is_placed: bool,
    /// What keeps others from it.
    pub guard: Box<dyn Send + Sync>,
}

/// How an agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agent {
    /// It ran already.
    Runs,
    /// It was dead, or there was none yet, and was started.
    Started,
    /// It is dead. Its engine goes on.
    Dead,
}

/// Why a provider could not do it. What it did so far stays; calling again goes on from there. Tenants read the sentences, so
/// where it was on the host is in the sources alone, for the log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nothing to start an agent in.
    #[error(
        "instance {instance} has no place here; hint: see which host keeps it, or delete it with `coffer instance delete`"
    )]
    NoPlace {
        /// Whose place is missing.
        instance: InstanceId,
    },
    /// Nobody wants the place to be dropped any more.
    #[error(
        "nobody wants the place of instance {instance} to be dropped any more; hint: none needed, nothing was touched"
    )]
    Unwanted {
        /// Whose place was to be dropped.
        instance: InstanceId,
    },
    /// Another server does something with the place; one that was stopped meanwhile has it until it goes on or is ended. Nothing
    /// was touched.
    #[error(
        "another server has had the place of instance {instance} for {seconds} s; hint: it is tried again; end that server if it hangs"
    )]
    Taken {
        /// Whose place.
        instance: InstanceId,
        /// For how long at least, as far as was waited.
        seconds: u64,
    },
    /// The agent's program could not be run.
    #[error(
        "could not start the agent of instance {instance}; hint: check that the program of the server is there and executable, \
         and see the server's log"
    )]
    Agent {
        /// Whose agent.
        instance: InstanceId,
        /// The program.
        program: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A killed process did not end in time.
    #[error(
        "the holder of {} of instance {instance} did not end within {seconds} s of being killed; hint: look whether its disk answers",
        lock.file_name().unwrap_or_default().display()
    )]
    Stubborn {
        /// Whose process.
        instance: InstanceId,
        /// The lock file that it holds.
        lock: PathBuf,
        /// How long it was waited for.
        seconds: u64,
    },
    /// A file or directory.
    #[error("could not {what} of instance {instance}; hint: check the space and the permissions of the data directory")]
    Volume {
        /// What was tried.
        what: &'static str,
        /// Whose.
        instance: InstanceId,
        /// The system's answer, with the path.
        source: std::io::Error,
    },
    /// The directory of all instances.
    #[error("could not read the places of instances; hint: check the permissions of the data directory")]
    Places {
        /// The system's answer, with the path.
        source: std::io::Error,
    },
}
