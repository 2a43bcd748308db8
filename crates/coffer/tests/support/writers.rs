//! Writers that remember every write that an engine acknowledged, and find out afterwards which of them are gone.
//!
//! A write whose answer never came may be there or not. One that was answered has to be there, exactly once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::resp::{Connection, Reply};
use super::world::{Instance, wait_for};

const WRITERS: usize = 4;
/// What a client does between two writes: so little that an engine is never idle, and its data does not explode.
const THINKS: Duration = Duration::from_micros(500);
/// How long a client that is not let in waits before it tries again.
const RECONNECTS: Duration = Duration::from_millis(2);

/// The writes, in turn. Each has its number in it.
const KINDS: usize = 9;

/// Writers at work.
pub(crate) struct Writers {
    instance: Instance,
    /// The number of the first of them.
    first: usize,
    over: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Log>>,
}

/// What one writer did: of each write by its number, whether it was acknowledged.
#[derive(Default)]
struct Log {
    acknowledged: Vec<bool>,
    /// What it was told when it read its own last write after it had got in again.
    went_back: Vec<String>,
    /// Errors that an engine answered with, and how often.
    errors: BTreeMap<String, u64>,
}

/// What became of the writes.
#[derive(Debug, Default)]
pub(crate) struct Balance {
    pub acknowledged: u64,
    /// Those without an answer.
    pub unanswered: u64,
    /// What was acknowledged and is not there, or is there twice.
    pub lost: Vec<String>,
    /// Errors that engines answered with.
    pub errors: BTreeMap<String, u64>,
}

impl Writers {
    pub(crate) fn start(instance: &Instance) -> Self {
        Self::start_from(instance, 0, THINKS)
    }

    /// The same with other numbers than those of writers before them, and so long between two writes.
    pub(crate) fn start_from(instance: &Instance, first: usize, thinks: Duration) -> Self {
        let (over, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let start = |writer| {
            let (instance, over, acknowledged) = (instance.clone(), Arc::clone(&over), Arc::clone(&acknowledged));
            std::thread::spawn(move || write(writer, &instance, thinks, &over, &acknowledged))
        };
        let threads = (first..first + WRITERS).map(start).collect();
        Self { instance: instance.clone(), first, over, acknowledged, threads }
    }

    /// Waits until so many more writes have been acknowledged.
    pub(crate) fn wait_for_more(&self, writes: u64) {
        let until = self.acknowledged.load(Ordering::Relaxed) + writes;
        wait_for("writes to be acknowledged", || self.acknowledged.load(Ordering::Relaxed) >= until);
    }

    /// Ends them and counts.
    pub(crate) fn stop(self) -> Balance {
        self.stop_and(Balance::count)
    }

    /// The same where what they wrote up to some moment is lost as it should be, and nothing after that.
    pub(crate) fn stop_after_a_loss(self) -> Balance {
        self.stop_and(Balance::count_since_a_loss)
    }

    fn stop_and(self, count: fn(&mut Balance, usize, Log, &mut Connection)) -> Balance {
        self.over.store(true, Ordering::Relaxed);
        let mut balance = Balance::default();
        for (writer, thread) in (self.first..).zip(self.threads) {
            let log = thread.join().expect("a writer");
            let mut connection = connect(&self.instance).expect("the engine answers at its address");
            balance.count_answers(&log);
            count(&mut balance, writer, log, &mut connection);
        }
        balance
    }
}

/// Removes what writers wrote.
pub(crate) fn forget_written(connection: &mut Connection) {
    let written = connection.ask(&["KEYS", "[0-9]*:*"]).expect("the engine answers").items();
    let removals = written.iter().filter_map(|key| key.text()).map(|key| [&b"DEL"[..], key]);
    connection.pipeline(removals).expect("the engine answers");
}

fn connect(instance: &Instance) -> std::io::Result<Connection> {
    Connection::open(instance.address, Some(&instance.password))
}

fn write(writer: usize, instance: &Instance, thinks: Duration, over: &AtomicBool, acknowledged: &AtomicU64) -> Log {
    let mut log = Log::default();
    let mut connection = None;
    while !over.load(Ordering::Relaxed) {
        let Some(open) = connection.as_mut() else {
            match connect(instance) {
                Ok(mut open) => {
                    log.look_back(writer, &mut open);
                    connection = Some(open);
                }
                Err(_) => std::thread::sleep(RECONNECTS),
            }
            continue;
        };
        let number = log.acknowledged.len();
        let command = command(writer, number);
        let answer = open.pipeline([&command]).map(|mut replies| replies.pop());
        let done = matches!(answer, Ok(Some(ref reply)) if !matches!(reply, Reply::Error(_)));
        if let Ok(Some(Reply::Error(error))) = answer {
            let word = error.split(' ').next().unwrap_or_default().to_owned();
            *log.errors.entry(word).or_default() += 1;
        }
        log.acknowledged.push(done);
        if done {
            acknowledged.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(thinks);
        } else {
            connection = None;
        }
    }
    log
}

fn command(writer: usize, number: usize) -> Vec<String> {
    let (key, n) = (|name: &str| format!("{writer}:{name}"), number.to_string());
    match number % KINDS {
        0 => vec!["SET".to_owned(), key(&n), n],
        1 => vec!["INCR".to_owned(), key("counter")],
        2 => vec!["LPUSH".to_owned(), key("list"), n],
        3 => vec!["HSET".to_owned(), key("hash"), n.clone(), n],
        4 => vec!["XADD".to_owned(), key("stream"), format!("{}-1", number + 1), "n".to_owned(), n],
        5 => vec!["SADD".to_owned(), key("set"), n],
        6 => vec!["ZADD".to_owned(), key("zset"), n.clone(), n],
        7 => vec!["SET".to_owned(), key("last"), n],
        // What the first of these nine wrote.
        _ => vec!["DEL".to_owned(), key(&(number - 8).to_string())],
    }
}

impl Log {
    fn of_kind(&self, kind: usize, acknowledged: bool) -> impl Iterator<Item = usize> + '_ {
        (kind..self.acknowledged.len()).step_by(KINDS).filter(move |n| self.acknowledged[*n] == acknowledged)
    }

    /// Reads the writer's own last write: who got in again must not see the past.
    fn look_back(&mut self, writer: usize, connection: &mut Connection) {
        let Ok(reply) = connection.ask(&["GET", &format!("{writer}:last")]) else { return };
        let last = self.of_kind(7, true).last();
        let is = number(&reply);
        if is < last {
            self.went_back.push(format!("{writer}:last was {last:?} and is {is:?} after a reconnect"));
        }
    }
}

impl Balance {
    fn count_answers(&mut self, log: &Log) {
        let done = log.acknowledged.iter().filter(|done| **done).count();
        self.acknowledged += done as u64;
        self.unanswered += (log.acknowledged.len() - done) as u64;
        for (error, count) in &log.errors {
            *self.errors.entry(error.clone()).or_default() += count;
        }
    }

    fn count_since_a_loss(&mut self, writer: usize, log: Log, connection: &mut Connection) {
        let there = connection.ask(&["LRANGE", &format!("{writer}:list"), "0", "-1"]).expect("the engine answers");
        let there: BTreeSet<usize> = there.items().iter().filter_map(number).collect();
        let since = log.of_kind(2, true).skip_while(|n| !there.contains(n));
        self.lost.extend(since.filter(|n| !there.contains(n)).map(|n| format!("{writer}:list {n}")));
    }

    fn count(&mut self, writer: usize, log: Log, connection: &mut Connection) {
        self.lost.extend(log.went_back.iter().cloned());
        let mut ask = |words: &[&str]| {
            let key = format!("{writer}:{}", words[1]);
            let words: Vec<_> = [&[words[0], key.as_str()], &words[2..]].concat();
            connection.ask(&words).expect("the engine answers")
        };
        let counter = number(&ask(&["GET", "counter"])).unwrap_or(0);
        let (least, unanswered) = (log.of_kind(1, true).count(), log.of_kind(1, false).count());
        if !(least..=least + unanswered).contains(&counter) {
            self.lost
                .push(format!("{writer}:counter is {counter} after {least} increments and {unanswered} unanswered"));
        }
        let last = number(&ask(&["GET", "last"]));
        let newest = log.of_kind(7, true).last();
        if last < newest || last.is_some_and(|last| last % KINDS != 7) {
            self.lost.push(format!("{writer}:last is {last:?} and was {newest:?}"));
        }
        for (kind, name, found) in [
            (2, "list", ask(&["LRANGE", "list", "0", "-1"]).items()),
            (3, "hash", ask(&["HVALS", "hash"]).items()),
            (
                4,
                "stream",
                ask(&["XRANGE", "stream", "-", "+"]).items().into_iter().filter_map(value_of_entry).collect(),
            ),
            (5, "set", ask(&["SMEMBERS", "set"]).items()),
            (6, "zset", ask(&["ZRANGE", "zset", "0", "-1"]).items()),
        ] {
            let mut times = BTreeMap::<usize, usize>::new();
            found.iter().filter_map(number).for_each(|n| *times.entry(n).or_default() += 1);
            self.lost.extend(
                log.of_kind(kind, true).filter(|n| !times.contains_key(n)).map(|n| format!("{writer}:{name} {n}")),
            );
            let wrong =
                times.iter().filter(|(n, times)| **times > 1 || *n % KINDS != kind || **n >= log.acknowledged.len());
            self.lost.extend(wrong.map(|(n, times)| format!("{writer}:{name} {n} is there {times} times")));
        }
        for n in (0..log.acknowledged.len()).step_by(KINDS) {
            let is = number(&ask(&["GET", &n.to_string()]));
            let (written, removed) = (log.acknowledged[n], log.acknowledged.get(n + 8));
            let right = match (written, removed) {
                (_, Some(true)) => is.is_none(),
                (true, None) => is == Some(n),
                (_, Some(false)) | (false, None) => is.is_none() || is == Some(n),
            };
            if !right {
                self.lost.push(format!("{writer}:{n} is {is:?}, written: {written}, removed: {removed:?}"));
            }
        }
    }

    /// Adds what became of others.
    pub(crate) fn add(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.unanswered += other.unanswered;
        self.lost.extend(other.lost);
        for (error, count) in other.errors {
            *self.errors.entry(error).or_default() += count;
        }
    }
}

fn number(reply: &Reply) -> Option<usize> {
    std::str::from_utf8(reply.text()?).ok()?.parse().ok()
}

fn value_of_entry(entry: Reply) -> Option<Reply> {
    entry.items().pop()?.items().pop()
}
