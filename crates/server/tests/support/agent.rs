//! A provider whose agents have no engine: they say that it runs, and that whatever they are asked is done. Unless they
//! are held: then they say nothing, and whatever was begun goes on.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coffer_core::account::{Account, Answer, Refusal, Request, User};
use coffer_core::agent::takes_over;
use coffer_core::datastore::Number;
use coffer_core::gap::{Circumstances, Host};
use coffer_core::id::{Digest, Generation, InstanceId};
use coffer_core::instance::{Engine, Observed, WayBack};
use coffer_core::section::SectionStep;
use coffer_core::task::{ClientView, ImageFound, Learned, Loss, Order, Outcome, Preview, Task, TaskResult, Writes};
use coffer_provider::{Agent, Error, Held, Placed, Provider};
use coffer_wire::agent::{Desired, Identity, Report, desired_path, report_path};
use jiff::Timestamp;

/// How long a held agent waits before it looks again.
const HELD: Duration = Duration::from_millis(20);

fn circumstances() -> Circumstances {
    let host = Host { arch: "x86_64".to_owned(), processors: 2, memory_gib: 24 };
    Circumstances { host, data_bytes: 5000, read_gap_us: None }
}

fn preview() -> Preview {
    Preview { circumstances: Some(circumstances()), ..Preview::default() }
}

#[derive(Default)]
pub struct Places {
    pub held: Arc<AtomicBool>,
}

impl Provider for Places {
    fn ensure(&self, identity: &Identity) -> Result<Placed, Error> {
        let (identity, held) = (identity.clone(), Arc::clone(&self.held));
        let instance = identity.instance;
        std::thread::spawn(move || Fake::new(identity, held).run());
        Ok(Placed { instance, volume: PathBuf::from("/nowhere"), agent: Agent::Started })
    }

    fn ensure_agent(&self, _: InstanceId) -> Result<Agent, Error> {
        Ok(Agent::Runs)
    }

    fn drop_place(&self, _: InstanceId, _: &dyn Fn() -> bool) -> Result<(), Error> {
        Ok(())
    }

    fn hold(&self, _: InstanceId) -> Result<Held, Error> {
        Ok(Held { is_placed: true, guard: Box::new(()) })
    }

    fn list(&self) -> Result<Vec<Placed>, Error> {
        Ok(Vec::new())
    }
}

/// As if there were a database `shop` and a user `ann`, who has it.
fn told(request: &Request) -> Answer {
    let ann = || User { account: Account::new("ann", None), databases: vec!["shop".to_owned()] };
    let absent = |account: &Account| Answer::Refused(Refusal::UserAbsent(account.name.clone()));
    match request {
        Request::Databases(part) => Answer::Databases { names: vec!["shop".to_owned()], more: part.after.is_none() },
        Request::Users(part) => Answer::Users { users: vec![ann()], more: part.after.is_none() },
        Request::User { account } if account.name == "ann" => Answer::User(ann()),
        Request::Root => Answer::Root { enabled: false },
        Request::DisableRoot => Answer::Refused(Refusal::RootDisabled),
        Request::User { account } | Request::DropUser { account } if account.name != "ann" => absent(account),
        Request::DropDatabase { name } | Request::Revoke { database: name, .. } if name != "shop" => {
            Answer::Refused(Refusal::DatabaseAbsent(name.clone()))
        }
        Request::Make { databases, .. } if databases.iter().any(|database| database.name == "shop") => {
            Answer::Refused(Refusal::DatabaseExists("shop".to_owned()))
        }
        Request::Make { users, .. } if users.iter().any(|user| user.account.name == "ann") => {
            Answer::Refused(Refusal::UserExists("ann".to_owned()))
        }
        _ => Answer::Changed,
    }
}

struct Fake {
    identity: Identity,
    held: Arc<AtomicBool>,
    running: Option<(Generation, Number)>,
    ways_back: Vec<WayBack>,
}

impl Fake {
    fn new(identity: Identity, held: Arc<AtomicBool>) -> Self {
        Self { identity, held, running: None, ways_back: Vec::new() }
    }

    /// Until the server is gone, or says that the instance is.
    fn run(mut self) {
        let mut revision = 0;
        loop {
            let (code, body) = self.ask("GET", &desired_path(self.identity.instance, revision), "");
            match code {
                200 => {}
                204 => continue,
                _ => return,
            }
            let desired: Desired = serde_json::from_str(&body).expect("what is desired");
            while self.held.load(Ordering::Relaxed) {
                std::thread::sleep(HELD);
            }
            revision = desired.revision;
            // As a real one, it does not go back to a record that is behind what it has already done.
            if let Some(engine) = &desired.engine
                && takes_over(desired.generation, Generation::default(), self.running.is_some())
            {
                self.running = Some((desired.generation, engine.number));
            }
            let results = desired.tasks.into_iter().map(|order| self.perform(order)).collect();
            let observed = Observed {
                at: Timestamp::now(),
                generation: self.running.map(|(generation, _)| generation).unwrap_or_default(),
                engine: if self.running.is_some() { Engine::Serving } else { Engine::Absent },
                running: self.running.map(|(_, number)| number),
                on_disk: self.running.map(|(_, number)| number),
                volume_used_bytes: 171_798_692,
                isolation: vec!["none: this agent has no engine".to_owned()],
                settling: false,
                gate: None,
                ways_back: self.ways_back.clone(),
                drift: Vec::new(),
                crash_loop: None,
            };
            let report = Report { observed, running: None, results, events: Vec::new() };
            let report = serde_json::to_string(&report).expect("a report");
            self.ask("POST", &report_path(self.identity.instance), &report);
        }
    }

    fn perform(&mut self, order: Order) -> TaskResult {
        let mut learned = Learned::default();
        match order.task {
            Task::Fetch { image } => {
                let number = image.version.parse().expect("a number");
                let digest = Digest(format!("sha256:{}", "0".repeat(64)));
                learned.image = Some(ImageFound { digest, number, source: "nowhere".to_owned() });
            }
            Task::Check { .. } => learned.preview = Some(preview()),
            Task::CheckBack { restores, .. } => {
                learned.preview = Some(preview());
                let since = self.ways_back.last().map_or(Timestamp::UNIX_EPOCH, |kept| kept.since);
                let loss = Loss { since, counted_at: Timestamp::now(), writes: Writes::All { count: 12 } };
                learned.loss = restores.map(|_| loss);
            }
            Task::Finalize { operations } => self.ways_back.retain(|kept| !operations.contains(&kept.operation)),
            Task::Verify { .. } => {}
            Task::Accounts { request } => learned.accounts = Some(told(&request)),
            Task::Configure { to, generation } => self.running = Some((generation, to.number)),
            Task::Section(section) => {
                if section.plan.steps.contains(&SectionStep::Keep) {
                    let since = Timestamp::now();
                    self.ways_back.push(WayBack {
                        operation: section.operation,
                        version: Some(section.from.version),
                        since,
                        until: since + jiff::SignedDuration::from_hours(24),
                        bytes: 4096,
                    });
                }
                self.running = Some((section.generation, section.to.number));
                learned.gap_us = Some(42_000);
                learned.circumstances = Some(Circumstances { read_gap_us: Some(21_000), ..circumstances() });
                learned.clients =
                    Some(ClientView { attempts: 412, refused: 1, reset: 2, wrong: 3, longest_wait_us: 38_250 });
            }
        }
        TaskResult { id: order.id, outcome: Outcome::Done(Box::new(learned)) }
    }

    /// One request on a connection of its own. Code 0 when there is no server.
    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let Ok(mut stream) = UnixStream::connect(&self.identity.server_socket) else { return (0, String::new()) };
        let request = format!(
            "{method} {path} HTTP/1.0\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            self.identity.token,
            body.len()
        );
        let mut answer = String::new();
        let done = stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_string(&mut answer));
        let _ = stream.shutdown(Shutdown::Both);
        if done.is_err() {
            return (0, String::new());
        }
        let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        (code, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    }
}
