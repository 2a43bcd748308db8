//! The keeper: a small process beside each agent that has the sockets of the gate and answers the engine's calls. It outlives
//! agents and engines, so that neither's end closes the port.
//!
//! One thread and one loop over what may happen: an agent asks, the engine calls or ends, it is late. After each the sockets
//! are made to be what the state says, and both are written down in `agent/gate.json`, by which the next keeper finds the
//! sockets again in those who have them. It ends when nobody needs it: no agent, no engine, and nobody waits.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use coffer_core::gate::{Behind, Event, Gate, Level};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::fcntl_getfl;
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with, sockopt,
};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::engine;
use super::filter::{Call, Machine};
use super::message::{self, Files, Kind, Lent, Reply, Request, VERSION};
use super::sockets::{self, Known, Sockets};
use super::sys::{self, Answer, Told};
use crate::sandbox::ProcessLock;

/// The hidden subcommand under which an agent runs this program as a keeper, in the agent's directory of the volume, and with
/// its first connection as standard input.
pub const KEEPER_COMMAND: &str = "gate-keeper";
/// In the agent's directory: where agents connect, what a keeper holds for its life, and what it wrote down.
pub(super) const SOCKET: &str = "gate.sock";
pub(super) const LOCK: &str = "gate.lock";
const RECORD: &str = "gate.json";
/// More agents than one are there only while one follows another.
const LINKS_LIMIT: usize = 4;

/// What is written down.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    address: SocketAddr,
    level: Level,
    gate: Gate,
    sockets: Known,
}

/// Runs the keeper until nobody needs it. To be called first thing in `main`, before any thread exists, when the first argument
/// is [`KEEPER_COMMAND`].
pub fn keeper_main() -> ExitCode {
    crate::sandbox::close_inherited_files();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "gate keeper");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    // Not in its agent's session: what happens to that one's process group is not its concern. It may lead one already.
    let _ = rustix::process::setsid();
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let first = rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), 3)?;
    let nothing = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, rustix::fs::Mode::empty())?;
    rustix::stdio::dup2_stdin(nothing)?;
    let Some(_lock) = ProcessLock::acquire(Path::new(LOCK))? else {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "another keeper has this gate"));
    };
    let _ = fs_err::remove_file(SOCKET);
    let listener = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    bind(&listener, &SocketAddrUnix::new(SOCKET)?)?;
    listen(&listener, 8)?;
    let Some(machine) = Machine::own() else { return Err(io::ErrorKind::Unsupported.into()) };
    message::limit(&first)?;
    let mut keeper = Keeper {
        machine,
        listener,
        links: vec![first],
        state: None,
        notify: None,
        process: None,
        broken: false,
        notices: Vec::new(),
        written: String::new(),
    };
    keeper.work()
}

struct Keeper {
    machine: Machine,
    listener: OwnedFd,
    links: Vec<OwnedFd>,
    /// Known since the first hello.
    state: Option<State>,
    notify: Option<OwnedFd>,
    process: Option<OwnedFd>,
    /// Whether the last engine could not be given its socket.
    broken: bool,
    notices: Vec<String>,
    /// The record as it was written last.
    written: String,
}

struct State {
    address: SocketAddr,
    level: Level,
    limit: Duration,
    gate: Gate,
    sockets: Sockets,
}

/// What may have happened.
#[derive(Clone, Copy)]
enum Source {
    Listener,
    Notify,
    Process,
    Line,
    Link(usize),
}

impl Keeper {
    fn work(&mut self) -> io::Result<()> {
        loop {
            let happened = self.wait()?;
            // The end of the engine first: what an agent asks may rest on it.
            if happened.iter().any(|source| matches!(source, Source::Process)) {
                self.engine_ended();
            }
            for source in happened {
                match source {
                    Source::Process => {}
                    Source::Notify => self.answer_engine(),
                    Source::Line => self.turn_away(),
                    Source::Listener => self.let_in_agent(),
                    Source::Link(at) => {
                        if self.serve(at) {
                            return Ok(());
                        }
                    }
                }
            }
            if let Some(state) = &self.state
                && state.gate.deadline().is_some()
            {
                self.change(Event::Late { now: now() });
            }
            self.links.retain(|link| !has_hung_up(link));
            let nobody = Gate::Refusing { behind: Behind::Nobody };
            if self.links.is_empty() && self.state.as_ref().is_none_or(|state| state.gate == nobody) {
                return Ok(());
            }
        }
    }

    /// Waits until something happens, or it is late.
    fn wait(&self) -> io::Result<Vec<Source>> {
        let state = self.state.as_ref();
        let refuses = state.filter(|state| matches!(state.gate, Gate::Refusing { behind } if behind != Behind::Nobody));
        let line = refuses.filter(|state| state.level == Level::Steered).and_then(|state| state.sockets.line());
        let mut sources = vec![(Source::Listener, self.listener.as_fd())];
        sources.extend(self.notify.as_ref().map(|file| (Source::Notify, file.as_fd())));
        sources.extend(self.process.as_ref().map(|file| (Source::Process, file.as_fd())));
        sources.extend(line.map(|file| (Source::Line, file)));
        sources.extend(self.links.iter().enumerate().map(|(at, link)| (Source::Link(at), link.as_fd())));
        let mut files: Vec<_> =
            sources.iter().map(|(_, file)| PollFd::from_borrowed_fd(*file, PollFlags::IN)).collect();
        let left = state.and_then(|state| state.gate.deadline()).map(|until| until.saturating_sub(now()));
        // A millisecond more: not to wake up just before.
        let left = left.map(|left| Timespec::try_from(Duration::from_millis(left + 1))).transpose();
        match poll(&mut files, left.map_err(|_| Errno::INVAL)?.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
        let happened = sources.iter().zip(&files).filter(|(_, file)| !file.revents().is_empty());
        Ok(happened.map(|((source, _), _)| *source).collect())
    }

    fn let_in_agent(&mut self) {
        let Ok(link) = accept_with(&self.listener, SocketFlags::CLOEXEC) else { return };
        let is_ours = sockopt::socket_peercred(&link).is_ok_and(|peer| peer.uid == rustix::process::geteuid());
        if is_ours && self.links.len() < LINKS_LIMIT && message::limit(&link).is_ok() {
            self.links.push(link);
        }
    }

    /// Answers one request. True when this keeper is to end.
    fn serve(&mut self, at: usize) -> bool {
        let link = &self.links[at];
        // Whoever hung up or talks nonsense is let go of after this round.
        let Ok(Some((request, files))) = message::receive::<Request>(link) else {
            let _ = rustix::net::shutdown(link, rustix::net::Shutdown::Both);
            return false;
        };
        let retires = matches!(request, Request::Retire);
        let error = self.ask(request, files).err().map(|error| error.to_string());
        let state = self.state.as_ref();
        let deadline = state.and_then(|state| state.gate.deadline());
        let reply = Reply {
            version: VERSION,
            now: state.map(|state| (state.level, state.gate)),
            late_in_ms: deadline.map(|until| until.saturating_sub(now())),
            broken: self.broken,
            notices: std::mem::take(&mut self.notices),
            error,
        };
        let lent: Lent<'_> = [
            (Kind::Notify, self.notify.as_ref().map(AsFd::as_fd)),
            (Kind::Process, self.process.as_ref().map(AsFd::as_fd)),
            (Kind::Line, state.and_then(|state| state.sockets.line())),
            (Kind::Engine, state.and_then(|state| state.sockets.engine())),
        ]
        .into_iter()
        .filter_map(|(kind, file)| Some((kind, file?)))
        .collect();
        if let Err(error) = message::send(&self.links[at], &reply, &lent) {
            tracing::warn!(%error, "an agent did not take its answer");
            self.notices = reply.notices;
        }
        retires
    }

    fn ask(&mut self, request: Request, files: Files) -> Result<(), Refused> {
        match request {
            Request::Hello { version, address, level, limit_ms } => {
                self.greet(version, address, level, Duration::from_millis(limit_ms), files)
            }
            Request::Status => Ok(()),
            Request::Hold { limit_ms } => self.try_change(Event::Hold { until: now() + limit_ms }),
            Request::Started => self.engine_started(files),
            Request::Open => {
                if !self.state()?.sockets.engine_listens() {
                    return Err(Refused::Deaf);
                }
                self.try_change(Event::Open)
            }
            Request::Refuse => self.try_change(Event::Refuse),
            Request::Retire => {
                self.state = None;
                let _ = fs_err::remove_file(RECORD);
                Ok(())
            }
        }
    }

    fn state(&mut self) -> Result<&mut State, Refused> {
        self.state.as_mut().ok_or(Refused::Stranger)
    }

    /// Takes over what there is, if this keeper has nothing yet.
    fn greet(
        &mut self,
        version: u32,
        address: SocketAddr,
        level: Level,
        limit: Duration,
        mut files: Files,
    ) -> Result<(), Refused> {
        if version != VERSION {
            return Err(Refused::Version);
        }
        if let Some(state) = &mut self.state {
            state.limit = limit;
            return if state.address == address { Ok(()) } else { Err(Refused::Address(state.address)) };
        }
        let record = fs_err::read(RECORD).ok().and_then(|text| serde_json::from_slice::<Record>(&text).ok());
        let record = record.filter(|record| record.address == address);
        let process = files.take(Kind::Process).filter(|process| !has_ended(process));
        // An engine that runs has the gate that it was started with.
        let level = record.as_ref().filter(|_| process.is_some()).map_or(level, |record| record.level);
        let record = record.filter(|record| record.level == level);
        let (mut line, mut own) = (files.take(Kind::Line), files.take(Kind::Engine));
        let known = record.as_ref().map(|record| record.sockets.clone()).unwrap_or_default();
        if let Some(process) = &process {
            let wanted: Vec<_> = known.line.into_iter().chain(known.engine).collect();
            for (inode, copy) in engine::copy_sockets(process, &wanted)? {
                if Some(inode) == known.line {
                    line.get_or_insert(copy);
                } else {
                    own.get_or_insert(copy);
                }
            }
        }
        let is_known = |socket: &OwnedFd, known| sockets::inode(socket).is_ok_and(|inode| Some(inode) == known);
        let line = line.filter(|line| is_known(line, known.line));
        let own = own.filter(|own| is_known(own, known.engine));
        if process.is_some() && level == Level::Steered && own.is_none() {
            return Err(Refused::Gateless);
        }
        let waiting = Gate::Holding { until: now() + millis(limit), behind: Behind::Nobody };
        let gate = match record.map(|record| record.gate) {
            Some(gate) if process.is_some() => gate,
            // The engine ended meanwhile.
            Some(gate) if line.is_some() || own.is_some() => {
                gate.apply(Event::Ended { until: now() + millis(limit) }, level).unwrap_or(waiting)
            }
            _ => waiting,
        };
        let mut sockets = Sockets::found(address, level, known, line, own);
        sockets.settle(gate)?;
        self.notify = files.take(Kind::Notify);
        self.process = process;
        self.state = Some(State { address, level, limit, gate, sockets });
        self.write_down();
        Ok(())
    }

    fn engine_started(&mut self, mut files: Files) -> Result<(), Refused> {
        // One whose end was not seen yet must not stand in the way.
        if self.process.as_ref().is_some_and(has_ended) {
            self.engine_ended();
        }
        let (Some(notify), Some(process)) = (files.take(Kind::Notify), files.take(Kind::Process)) else {
            return Err(Refused::Empty);
        };
        self.try_change(Event::Started)?;
        self.broken = false;
        self.notify = Some(notify);
        self.process = Some(process);
        Ok(())
    }

    fn engine_ended(&mut self) {
        self.notify = None;
        self.process = None;
        if let Some(state) = &self.state {
            let until = now() + millis(state.limit);
            self.change(Event::Ended { until });
        }
    }

    /// A change that nobody asked for: what does not fit is told to the next who asks.
    fn change(&mut self, event: Event) {
        let before = self.state.as_ref().map(|state| state.gate);
        if let Err(error) = self.try_change(event) {
            tracing::error!(%error, ?event, "gate");
            self.notices.push(format!("the gate could not be changed: {error}"));
        }
        let after = self.state.as_ref().map(|state| state.gate);
        if let (Event::Late { .. }, true) = (event, before != after) {
            self.notices.push(match after {
                Some(Gate::Open) => "connections waited too long: the engine from before was let back in".to_owned(),
                _ => "connections waited too long for an engine and are refused now".to_owned(),
            });
            tracing::warn!(?after, "connections waited too long");
        }
    }

    fn try_change(&mut self, event: Event) -> Result<(), Refused> {
        let state = self.state()?;
        let gate = state.gate.apply(event, state.level)?;
        if gate == state.gate {
            return Ok(());
        }
        // First the sockets, then the state: where they cannot be had, nothing was changed.
        if let Err(error) = state.sockets.settle(gate) {
            let _ = state.sockets.settle(state.gate);
            return Err(error.into());
        }
        state.gate = gate;
        self.write_down();
        Ok(())
    }

    /// Answers the call of the engine that waits.
    fn answer_engine(&mut self) {
        let Some(notify) = self.notify.take() else { return };
        match sys::receive(&notify, self.machine) {
            Ok(Some(told)) => {
                let answer = self.answer_to(&notify, &told).unwrap_or_else(|error| {
                    tracing::error!(%error, "the engine's socket could not be handed over");
                    self.broken = true;
                    self.notices.push(format!("the engine's socket could not be handed over: {error}"));
                    // It binds itself then, and fails for want of the port.
                    Answer::Continue
                });
                if let Err(error) = sys::answer(&notify, told.id, answer) {
                    tracing::error!(%error, "answer");
                }
                self.notify = Some(notify);
                self.write_down();
            }
            // Whoever called is gone.
            Ok(None) => self.notify = Some(notify),
            // All who could call are gone, or this will never work: nobody is to be waited for in a loop.
            Err(error) => tracing::info!(%error, "no more calls"),
        }
    }

    fn answer_to(&mut self, notify: &OwnedFd, told: &Told) -> io::Result<Answer> {
        let Some(State { address, gate, sockets, level, .. }) = &mut self.state else { return Ok(Answer::Continue) };
        let [file, pointer, length, ..] = told.arguments;
        let number = u32::try_from(file).map_err(|_| Errno::BADF)?;
        match told.call {
            Call::Bind if engine::address(told.thread, pointer, length)? == Some(*address) => {
                let flags = engine::flags(told.thread, file)?;
                let socket = sockets.for_engine(*gate)?;
                let now = fcntl_getfl(socket)?;
                fcntl_setfl(socket, if flags.nonblocking { now | OFlags::NONBLOCK } else { now - OFlags::NONBLOCK })?;
                sys::give(notify, told.id, socket, Some(number), flags.closes_on_exec)?;
                if let (Level::Steered, Some(line)) = (*level, sockets.line()) {
                    // It knows nothing of it. But as long as it lives the line does, whoever else dies, and nobody gets to an
                    // engine that was not let in.
                    sys::give(notify, told.id, line, None, true)?;
                }
                Ok(Answer::Done)
            }
            Call::Bind => Ok(Answer::Continue),
            Call::Listen => {
                let known = sockets.known();
                let ours = if *level == Level::Steered { known.engine } else { known.line };
                if ours.is_none() || engine::socket(told.thread, file)? != ours {
                    return Ok(Answer::Continue);
                }
                sockets.engine_listened(*gate)?;
                Ok(Answer::Done)
            }
        }
    }

    fn turn_away(&self) {
        let Some(state) = &self.state else { return };
        loop {
            match state.sockets.turn_away() {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return tracing::warn!(%error, "a connection could not be turned away"),
            }
        }
    }

    fn write_down(&mut self) {
        let Some(state) = &self.state else { return };
        let record =
            Record { address: state.address, level: state.level, gate: state.gate, sockets: state.sockets.known() };
        let write = || -> io::Result<String> {
            let text = serde_json::to_string(&record)?;
            if text != self.written {
                // Sockets do not survive a power cut either: it is not flushed.
                let written =
                    fs_err::write("gate.json.new", &text).and_then(|()| fs_err::rename("gate.json.new", RECORD));
                // On a full disk some of it may be there.
                written.inspect_err(|_| drop(fs_err::remove_file("gate.json.new")))?;
            }
            Ok(text)
        };
        match write() {
            Ok(text) => self.written = text,
            Err(error) => tracing::warn!(%error, "what the gate has cannot be written down"),
        }
    }
}

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("this keeper speaks another version")]
    Version,
    #[error("this keeper has the gate of {0}")]
    Address(SocketAddr),
    #[error("nobody has said hello yet")]
    Stranger,
    #[error("files are missing that belong to the request")]
    Empty,
    #[error("the engine does not listen yet")]
    Deaf,
    #[error("the engine that runs has its port itself")]
    Gateless,
    #[error(transparent)]
    Unfit(#[from] coffer_core::gate::Unfit),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Milliseconds of a clock that never jumps, and that all processes of the host share.
fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 2)
}

fn has_ended(process: &OwnedFd) -> bool {
    is_ready(process, PollFlags::IN)
}

fn has_hung_up(link: &OwnedFd) -> bool {
    is_ready(link, PollFlags::HUP | PollFlags::RDHUP)
}

fn is_ready(file: &OwnedFd, flags: PollFlags) -> bool {
    let mut files = [PollFd::new(file, flags)];
    poll(&mut files, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
        && files[0].revents().intersects(flags)
}
