//! Processes that are held: they go on only when they are told to, from one system call to the next, so that nothing they have
//! done is followed by anything else before it was seen.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitId, WaitIdOptions, WaitOptions, waitid, waitpid};

use super::world::PATIENCE;

/// Threads that are not the first of their process, too: `__WALL`.
const ANY_THREAD: WaitOptions = WaitOptions::from_bits_retain(0x4000_0000);
/// Between two looks at threads that all run.
const LOOK: Duration = Duration::from_micros(30);

/// Threads that are held. Let go when this is dropped.
pub(crate) struct Held {
    threads: HashMap<Pid, Thread>,
    /// Who has stopped last, and is to go on next.
    stopped: Option<Pid>,
    /// How many times somebody has stopped.
    turns: u64,
}

#[derive(Clone, Copy)]
struct Thread {
    /// The process that it is of.
    of: Pid,
    /// Whether it stands still, with a signal that it was about to get.
    stopped_with: Option<i32>,
    /// When it was seen to stop last.
    turn: u64,
}

impl Held {
    /// Holds the main thread of a process, wherever it is. Its other threads run.
    pub(crate) fn main_thread(pid: u32) -> Self {
        let mut held = Self { threads: HashMap::new(), stopped: None, turns: 0 };
        let pid = as_pid(pid);
        held.seize(pid, pid, 0).unwrap_or_else(|e| {
            panic!("a process cannot be held: {e}; hint: run as root or set kernel.yama.ptrace_scope to 0")
        });
        assert!(held.next().is_some(), "the process has ended");
        held
    }

    /// Holds all threads of these processes, also those that they make from now on.
    pub(crate) fn processes(pids: impl IntoIterator<Item = u32>) -> Self {
        let mut held = Self { threads: HashMap::new(), stopped: None, turns: 0 };
        for pid in pids {
            // Until no thread is new: one that was not held yet may have made another.
            loop {
                let entries = fs_err::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
                let threads: Vec<_> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
                let new = threads.into_iter().map(as_pid).filter(|thread| !held.threads.contains_key(thread));
                let new: Vec<_> = new.collect();
                // One that has ended meanwhile is none.
                if !new.into_iter().any(|thread| held.seize(thread, as_pid(pid), libc::PTRACE_O_TRACECLONE).is_ok()) {
                    break;
                }
            }
        }
        assert!(held.next().is_some(), "the processes have ended");
        held
    }

    fn seize(&mut self, thread: Pid, of: Pid, options: i32) -> std::io::Result<()> {
        for (request, data) in
            [(libc::PTRACE_SEIZE, libc::PTRACE_O_TRACESYSGOOD | options), (libc::PTRACE_INTERRUPT, 0)]
        {
            trace(request, thread, data)?;
        }
        self.threads.insert(thread, Thread { of, stopped_with: None, turn: 0 });
        Ok(())
    }

    /// Lets who stands still go on to the next system call, or its return from one, and waits for whoever is there first.
    /// Gives the process that it is of; `None` when all have ended.
    pub(crate) fn step(&mut self) -> Option<u32> {
        if let Some(pid) = self.stopped.take() {
            self.let_on(pid);
        }
        self.next()
    }

    fn let_on(&mut self, pid: Pid) {
        if let Some(thread) = self.threads.get_mut(&pid)
            && let Some(signal) = thread.stopped_with.take()
        {
            // An error says that it was killed, which is seen by waiting for it.
            let _ = trace(libc::PTRACE_SYSCALL, pid, signal);
        }
    }

    /// Waits until a thread stands still.
    fn next(&mut self) -> Option<u32> {
        let deadline = Instant::now() + PATIENCE;
        // A single one can be waited for; of several nobody knows which is first.
        let options = if self.threads.len() == 1 { WaitOptions::empty() } else { WaitOptions::NOHANG };
        loop {
            let running = self.threads.iter().filter(|(_, t)| t.stopped_with.is_none());
            // Who never rests does not keep the others from their turns.
            let mut running: Vec<_> = running.map(|(pid, thread)| (thread.turn, *pid)).collect();
            running.sort_unstable_by_key(|(turn, _)| *turn);
            if self.threads.is_empty() {
                return None;
            }
            for (_, pid) in running {
                let Ok(seen) = waitpid(Some(pid), ANY_THREAD | options) else {
                    self.threads.remove(&pid);
                    continue;
                };
                let Some((_, status)) = seen else { continue };
                if let Some(stopped_by) = status.stopping_signal() {
                    return Some(self.note_stop(pid, stopped_by, status.as_raw() >> 16));
                }
                self.threads.remove(&pid);
            }
            assert!(Instant::now() < deadline, "those who are held wait for something that never comes");
            std::thread::sleep(LOOK);
        }
    }

    fn note_stop(&mut self, pid: Pid, stopped_by: i32, event: i32) -> u32 {
        // Stops that are ours carry a mark, or say in the upper half which event they are.
        let is_ours = stopped_by == libc::SIGTRAP | 0x80 || event != 0;
        let of = self.threads.get(&pid).map_or(pid, |thread| thread.of);
        if event == libc::PTRACE_EVENT_CLONE
            && let Ok(made) = message(pid)
        {
            self.threads.insert(made, Thread { of, stopped_with: None, turn: 0 });
        }
        self.turns += 1;
        let stopped_with = Some(if is_ours { 0 } else { stopped_by });
        self.threads.insert(pid, Thread { of, stopped_with, turn: self.turns });
        self.stopped = Some(pid);
        of.as_raw_nonzero().get().unsigned_abs()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // The end of a process is seen after that of its other threads.
        let (processes, threads): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.threads).into_iter().partition(|(pid, thread)| *pid == thread.of);
        for (pid, thread) in threads.into_iter().chain(processes) {
            let signal = thread.stopped_with.unwrap_or_else(|| stop(pid));
            // Of one that was killed the end has to be seen here, or nobody sees it; but that of a child by whoever started it.
            if trace(libc::PTRACE_DETACH, pid, signal).is_err() && !(pid == thread.of && is_child(pid)) {
                while matches!(waitpid(Some(pid), ANY_THREAD), Ok(Some((_, status))) if status.stopped()) {}
            }
        }
    }
}

/// Has a thread stand still, as it has to be to be let go, and gives the signal that it was about to get. Sees no end of it.
fn stop(pid: Pid) -> i32 {
    if trace(libc::PTRACE_INTERRUPT, pid, 0).is_err() {
        return 0;
    }
    let looks = WaitIdOptions::EXITED | WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT;
    let looks = looks | WaitIdOptions::from_bits_retain(ANY_THREAD.bits());
    if !matches!(waitid(WaitId::Pid(pid), looks), Ok(Some(status)) if status.trapped() || status.stopped()) {
        return 0;
    }
    let Ok(Some((_, status))) = waitpid(Some(pid), ANY_THREAD) else { return 0 };
    let stopped_by = status.stopping_signal().unwrap_or(0);
    let is_ours = stopped_by == libc::SIGTRAP | 0x80 || status.as_raw() >> 16 != 0;
    if is_ours { 0 } else { stopped_by }
}

/// Whether it is a process that this one has started, and not a thread of one.
fn is_child(pid: Pid) -> bool {
    let stat = fs_err::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(1)?.parse().ok());
    parent == Some(std::process::id())
}

fn as_pid(pid: u32) -> Pid {
    i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id")
}

#[allow(unsafe_code, reason = "no library here offers ptrace")]
fn trace(request: libc::c_uint, pid: Pid, data: i32) -> std::io::Result<()> {
    let nowhere = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: none of the requests that are used reads or writes memory of this process: their last argument is a number.
    let done = unsafe { libc::ptrace(request, pid.as_raw_nonzero().get(), nowhere, libc::c_long::from(data)) };
    if done == -1 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

/// What the kernel says of the event that it stopped for: of a new thread its id.
#[allow(unsafe_code, reason = "no library here offers ptrace")]
fn message(pid: Pid) -> std::io::Result<Pid> {
    let nowhere = std::ptr::null_mut::<libc::c_void>();
    let mut said: libc::c_ulong = 0;
    // SAFETY: the kernel writes one number of this type to the address, which is that of a variable that outlives the call.
    let done = unsafe { libc::ptrace(libc::PTRACE_GETEVENTMSG, pid.as_raw_nonzero().get(), nowhere, &raw mut said) };
    let made = i32::try_from(said).ok().and_then(Pid::from_raw);
    if done == -1 {
        Err(std::io::Error::last_os_error())
    } else {
        made.ok_or_else(|| std::io::ErrorKind::NotFound.into())
    }
}
