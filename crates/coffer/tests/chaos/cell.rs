//! The matrix as data: its cells, their names, and which of them make no sense. Pure.

use std::fmt;
use std::str::FromStr;

use coffer_core::datastore::Datastore;

/// In their order.
pub(crate) const DATASTORES: [Datastore; 4] =
    [Datastore::Redis, Datastore::Valkey, Datastore::Mariadb, Datastore::Mysql];

/// What is done with an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    Create,
    Upgrade,
    Restart,
    Configure,
    /// A change of databases and users, which is no operation in the store but a question to the agent.
    Accounts,
    Rollback,
    Finalize,
    Delete,
}

/// Who works on a step, and so is held when that begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// The control plane.
    Server,
    /// The agent, asked by the control plane.
    Agent,
    /// The agent alone, from its journal.
    Section,
    /// The same on the way back of a section that failed.
    WayBack,
}

/// A step of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Step {
    pub place: Place,
    /// Its name in records. An undo has that of the step.
    pub name: &'static str,
}

/// On which side of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    /// It is written down that it begins, and nothing was done for it.
    Before,
    /// The new engine's process is there, and was not spoken to.
    Within,
    /// It is done, and nobody else was told.
    After,
}

/// What happens then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    KillServer,
    KillAgent,
    KillEngine,
    KillKeeper,
    /// Everybody above at once.
    KillAll,
    /// The same, and what was not flushed to the disk is gone.
    PowerCut,
    DiskFull,
    DiskSlow,
    /// Agents do not reach servers; with PostgreSQL, a server does not reach the database.
    NetworkCut,
    /// The servers' clocks jump.
    ClockJump,
    BadPreimage,
    RootGone,
    RegistryHangs,
}

/// One run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cell {
    pub datastore: Datastore,
    pub operation: Operation,
    pub step: Step,
    pub side: Side,
    pub fault: Fault,
}

impl Operation {
    pub(crate) const ALL: [Self; 8] = [
        Self::Create,
        Self::Upgrade,
        Self::Restart,
        Self::Configure,
        Self::Accounts,
        Self::Rollback,
        Self::Finalize,
        Self::Delete,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Upgrade => "upgrade",
            Self::Restart => "restart",
            Self::Configure => "configure",
            Self::Accounts => "accounts",
            Self::Rollback => "rollback",
            Self::Finalize => "finalize",
            Self::Delete => "delete",
        }
    }

    /// Its steps in their order, and then those of its way back, in theirs.
    fn steps(self, datastore: Datastore) -> Vec<Step> {
        use Place::{Agent, Section, Server, WayBack};
        let of = |place, names: &'static [&'static str]| names.iter().map(move |name| Step { place, name });
        let record = || of(Server, &["record"]);
        match self {
            Self::Create => of(Server, &["place"])
                .chain(of(Agent, &["fetch"]))
                .chain(of(Server, &["run"]))
                .chain(of(Agent, if has_accounts(datastore) { &["accounts"] } else { &[] }))
                .chain(record())
                .collect(),
            Self::Upgrade => of(Agent, &["fetch", "check"])
                .chain(of(Section, &["prepare", "quiesce", "stop", "keep", "swap", "start", "prove", "open"]))
                .chain(record())
                // Where it fails: Redis when it is proven, engines of SQL at their own step.
                .chain(of(WayBack, if has_accounts(datastore) { &[] } else { &["prove"] }))
                .chain(of(WayBack, &["start", "swap", "keep", "stop", "quiesce", "prepare"]))
                .collect(),
            Self::Restart => {
                of(Section, &["prepare", "quiesce", "stop", "start", "prove", "open"]).chain(record()).collect()
            }
            Self::Configure => of(Agent, &["configure"]).chain(record()).collect(),
            Self::Accounts => of(Agent, &["accounts"]).collect(),
            Self::Rollback => of(Agent, &["fetch", "check"])
                .chain(of(Section, &["prepare", "quiesce", "stop", "keep", "swap"]))
                .chain(of(Section, if rolls_back_in_place(datastore) { &[] } else { &["restore"] }))
                .chain(of(Section, &["start", "prove", "open"]))
                .chain(record())
                .collect(),
            Self::Finalize => of(Agent, &["finalize"]).collect(),
            Self::Delete => of(Server, &["drop", "record"]).collect(),
        }
    }
}

/// Whether databases and users are made over the API.
pub(crate) fn has_accounts(datastore: Datastore) -> bool {
    match datastore {
        Datastore::Mysql | Datastore::Mariadb => true,
        Datastore::Redis | Datastore::Valkey => false,
    }
}

/// Whether the versions of the matrix go back on the data as they are.
pub(crate) fn rolls_back_in_place(datastore: Datastore) -> bool {
    datastore == Datastore::Valkey
}

impl Fault {
    pub(crate) const ALL: [Self; 13] = [
        Self::KillServer,
        Self::KillAgent,
        Self::KillEngine,
        Self::KillKeeper,
        Self::KillAll,
        Self::PowerCut,
        Self::DiskFull,
        Self::DiskSlow,
        Self::NetworkCut,
        Self::ClockJump,
        Self::BadPreimage,
        Self::RootGone,
        Self::RegistryHangs,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::KillServer => "kill-server",
            Self::KillAgent => "kill-agent",
            Self::KillEngine => "kill-engine",
            Self::KillKeeper => "kill-keeper",
            Self::KillAll => "kill-all",
            Self::PowerCut => "power-cut",
            Self::DiskFull => "disk-full",
            Self::DiskSlow => "disk-slow",
            Self::NetworkCut => "network-cut",
            Self::ClockJump => "clock-jump",
            Self::BadPreimage => "bad-preimage",
            Self::RootGone => "root-gone",
            Self::RegistryHangs => "registry-hangs",
        }
    }
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::Within => "within",
            Self::After => "after",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.place == Place::WayBack {
            f.write_str("undo-")?;
        }
        f.write_str(self.name)
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (operation, side, fault) = (self.operation.name(), self.side.name(), self.fault.name());
        write!(f, "{}/{operation}/{}/{side}/{fault}", self.datastore, self.step)
    }
}

impl FromStr for Cell {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        every().find(|cell| cell.to_string() == text).ok_or_else(|| {
            format!(
                "there is no cell {text}; hint: ./chaos --list prints all, such as redis/upgrade/keep/before/kill-agent"
            )
        })
    }
}

/// Every combination there is, those that make no sense among them.
pub(crate) fn every() -> impl Iterator<Item = Cell> {
    DATASTORES.into_iter().flat_map(|datastore| {
        Operation::ALL.into_iter().flat_map(move |operation| {
            operation.steps(datastore).into_iter().flat_map(move |step| {
                [Side::Before, Side::Within, Side::After].into_iter().flat_map(move |side| {
                    Fault::ALL.into_iter().map(move |fault| Cell { datastore, operation, step, side, fault })
                })
            })
        })
    })
}

/// Why there is nothing to see in a cell. The only place that leaves one out.
pub(crate) fn why_not(cell: &Cell) -> Option<&'static str> {
    use Operation::{Accounts, Configure, Create, Delete, Finalize, Rollback, Upgrade};
    let Cell { operation, step, side, fault, datastore } = *cell;
    let first = (operation, step.name, side) == (Create, "place", Side::Before);
    let until_run = operation == Create && matches!(step.name, "place" | "fetch")
        || (operation, step.name, side) == (Create, "run", Side::Before);
    let gone = operation == Delete && (step.name, side) != ("drop", Side::Before);
    if side == Side::Within && (step.name != "start" || step.place != Place::Section) {
        return Some("of this step no moment between its begin and its end can be told");
    }
    if step.place == Place::WayBack {
        if datastore == Datastore::Valkey {
            return Some(
                "no Valkey is made that fails on data; the way back is the agent's own and the same as Redis's",
            );
        }
        if side == Side::After && step.name != "prepare" {
            return Some("the end of an undo is the begin of the one before it: one write of the journal");
        }
    }
    if operation == Accounts && !has_accounts(datastore) {
        return Some("Redis and Valkey have no databases and users that are made over the API");
    }
    if operation == Finalize && side == Side::After && fault == Fault::BadPreimage {
        return Some("the pre-image is gone");
    }
    match fault {
        Fault::KillAgent if first || gone => Some("there is no agent"),
        Fault::KillEngine | Fault::KillKeeper if until_run || gone => Some("there is no engine, and no keeper"),
        Fault::KillEngine if is_down(step, side) => Some("no engine runs"),
        Fault::BadPreimage => match (operation, step.name) {
            _ if step.place == Place::WayBack => {
                Some("the only copy of the data is in it: nobody can go back to what is damaged")
            }
            (Upgrade, "swap" | "start" | "prove" | "open" | "record") | (Rollback | Finalize, _) => None,
            (Upgrade, "keep") if side == Side::After => None,
            _ => Some("there is no pre-image"),
        },
        Fault::RootGone if matches!(operation, Configure | Accounts | Finalize | Delete) => {
            Some("no engine is started")
        }
        Fault::RegistryHangs => match (operation, step.name, side) {
            (Create | Upgrade, "fetch", Side::Before) => None,
            _ => Some("nobody asks a registry, or has not any more"),
        },
        Fault::KillServer
        | Fault::KillAgent
        | Fault::KillEngine
        | Fault::KillKeeper
        | Fault::KillAll
        | Fault::PowerCut
        | Fault::DiskFull
        | Fault::DiskSlow
        | Fault::NetworkCut
        | Fault::ClockJump
        | Fault::RootGone => None,
    }
}

/// Whether a section has its engine stopped at this moment.
fn is_down(step: Step, side: Side) -> bool {
    match (step.place, step.name, side) {
        (Place::Section, "stop", Side::After)
        | (Place::Section, "keep" | "swap" | "restore", _)
        | (Place::Section, "start", Side::Before)
        // The target has ended where the way back begins, or is ended by it.
        | (Place::WayBack, "swap" | "keep" | "stop", _) => true,
        (Place::Server | Place::Agent | Place::Section | Place::WayBack, _, _) => false,
    }
}
