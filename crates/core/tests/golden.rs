//! Plans, phases and results lie in stores and journals, and newer binaries finish what older ones have begun. So every
//! variant of what lies there has one file that says how it is written, and that is never changed.
//!
//! A new variant does not compile here until it has an entry, and does not pass until its file is there:
//! `COFFER_GOLDEN=write` writes files that are missing. It overwrites none.

use std::fmt::Debug;
use std::path::PathBuf;

use coffer_core::account::{self, Account};
use coffer_core::finding::{Cause, Finding};
use coffer_core::gap::{Circumstances, Host};
use coffer_core::group::Configured;
use coffer_core::id::{Generation, TaskId};
use coffer_core::operation::{Phase, Plan};
use coffer_core::plan::{Record, Step};
use coffer_core::section::{Section, SectionStep};
use coffer_core::spec::EngineSpec;
use coffer_core::task::{
    ClientView, ImageFound, Learned, Loss, Order, Outcome, Preview, StepEnd, StepRecord, Task, TaskResult, Writes,
};
use coffer_testkit::fixture::{self, Fixture};
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// One test per type: an exhaustive match from its variants to the names of their files, and a sample of each.
macro_rules! golden {
    ($test:ident: $type:ty { $($variant:pat => $file:literal: $sample:expr,)+ }) => {
        #[test]
        fn $test() {
            let file = |value: &$type| match value { $($variant => $file,)+ };
            let samples: Vec<$type> = vec![$($sample),+];
            let files: Vec<_> = samples.iter().map(&file).collect();
            assert_eq!(files, [$($file),+], "a sample is of another variant than its entry");
            for sample in &samples {
                check(stringify!($test), file(sample), sample);
            }
            assert_all_named(stringify!($test), &files);
        }
    };
}

golden!(step: Step {
    Step::EnsurePlace => "ensure_place": Step::EnsurePlace,
    Step::DropPlace => "drop_place": Step::DropPlace,
    Step::Run { .. } => "run": Step::Run { spec: Box::new(from()), generation: Generation(5), within_seconds: 120 },
    Step::Ask { .. } => "ask": Step::Ask {
        task: Box::new(Task::Fetch { image: to().image }),
        within_seconds: 1800,
    },
    Step::Record(_) => "record": Step::Record(Record::Deleted),
});

golden!(record: Record {
    Record::Built { .. } => "built": Record::Built { generation: Generation(1) },
    Record::Runs { configured: None, .. } => "runs": Record::Runs {
        spec: Box::new(to()),
        generation: Generation(5),
        configured: None,
        before: None,
    },
    Record::Runs { configured: Some(_), before: None, .. } => "runs_configured": Record::Runs {
        spec: Box::new(to()),
        generation: Generation(5),
        configured: Some(Box::new(configured())),
        before: None,
    },
    Record::Runs { configured: Some(_), before: Some(_), .. } => "runs_with_a_way_back": Record::Runs {
        spec: Box::new(to()),
        generation: Generation(5),
        configured: Some(Box::new(configured())),
        before: Some(Box::new(Configured { own: from().settings, group: None })),
    },
    Record::Deleted => "deleted": Record::Deleted,
});

golden!(task: Task {
    Task::Fetch { .. } => "fetch": Task::Fetch { image: to().image },
    Task::Check { .. } => "check": Task::Check { to: to(), try_target: true },
    Task::Verify { .. } => "verify": Task::Verify { expect: from() },
    Task::Configure { .. } => "configure": Task::Configure { to: from(), generation: Generation(5) },
    Task::CheckBack { down: false, .. } => "check_back":
        Task::CheckBack { to: from(), restores: Some(fixture::EARLIER), down: false },
    Task::CheckBack { down: true, .. } => "check_back_without_the_engine":
        Task::CheckBack { to: from(), restores: Some(fixture::EARLIER), down: true },
    Task::Finalize { .. } => "finalize": Task::Finalize { operations: vec![fixture::EARLIER] },
    Task::Section(_) => "section": Task::Section(Box::new(a_section())),
    Task::Accounts { .. } => "accounts": Task::Accounts { request: Box::new(make()) },
});

golden!(section: Section {
    Section { restores: None, .. } => "on_the_data_as_they_are": a_section(),
    Section { restores: Some(_), down: false, .. } => "on_a_pre_image":
        Section { restores: Some(fixture::EARLIER), ..a_section() },
    Section { restores: Some(_), down: true, .. } => "without_the_engine":
        Section { restores: Some(fixture::EARLIER), down: true, ..a_section() },
});

golden!(account_request: account::Request {
    account::Request::Databases(_) => "databases": account::Request::Databases(account::Part { after: None, limit: 20 }),
    account::Request::Users(_) => "users":
        account::Request::Users(account::Part { after: Some("ann@%".to_owned()), limit: 20 }),
    account::Request::User { .. } => "user": account::Request::User { account: Account::new("ann", None) },
    account::Request::Root => "root": account::Request::Root,
    account::Request::Make { .. } => "make": make(),
    account::Request::DropDatabase { .. } => "drop_database":
        account::Request::DropDatabase { name: "shop".to_owned() },
    account::Request::Change { .. } => "change": account::Request::Change {
        users: vec![account::UserChange {
            account: Account::new("ann", None),
            password: Some(account::Password::Forgotten),
            becomes: Some(Account::new("eve", Some("10.0.0.%"))),
        }],
    },
    account::Request::DropUser { .. } => "drop_user":
        account::Request::DropUser { account: Account::new("ann", None) },
    account::Request::Grant { .. } => "grant":
        account::Request::Grant { account: Account::new("ann", None), databases: vec!["shop".to_owned()] },
    account::Request::Revoke { .. } => "revoke":
        account::Request::Revoke { account: Account::new("ann", None), database: "shop".to_owned() },
    account::Request::EnableRoot { .. } => "enable_root":
        account::Request::EnableRoot { password: account::Password::Clear("p".to_owned()) },
    account::Request::DisableRoot => "disable_root": account::Request::DisableRoot,
});

golden!(account_answer: account::Answer {
    account::Answer::Databases { .. } => "databases":
        account::Answer::Databases { names: vec!["shop".to_owned()], more: true },
    account::Answer::Users { .. } => "users": account::Answer::Users { users: vec![ann()], more: false },
    account::Answer::User(_) => "user": account::Answer::User(ann()),
    account::Answer::Root { .. } => "root": account::Answer::Root { enabled: true },
    account::Answer::Changed => "changed": account::Answer::Changed,
    account::Answer::Refused(_) => "refused":
        account::Answer::Refused(account::Refusal::UserAbsent("ann".to_owned())),
});

golden!(section_step: SectionStep {
    SectionStep::Prepare => "prepare": SectionStep::Prepare,
    SectionStep::Quiesce => "quiesce": SectionStep::Quiesce,
    SectionStep::Stop => "stop": SectionStep::Stop,
    SectionStep::Keep => "keep": SectionStep::Keep,
    SectionStep::Swap => "swap": SectionStep::Swap,
    SectionStep::Restore => "restore": SectionStep::Restore,
    SectionStep::Start => "start": SectionStep::Start,
    SectionStep::Prove => "prove": SectionStep::Prove,
    SectionStep::Open => "open": SectionStep::Open,
});

golden!(phase: Phase {
    Phase::Forward { .. } => "forward": Phase::Forward { at: 7, begun: true, attempt: 2 },
    Phase::Backward { .. } => "backward": Phase::Backward { at: 6, attempt: 1, cause: cause() },
    Phase::Done => "done": Phase::Done,
    Phase::Undone { .. } => "undone": Phase::Undone { cause: cause() },
    Phase::Stuck { undoing: None, .. } => "stuck": Phase::Stuck { at: 7, cause: cause(), undoing: None },
    Phase::Stuck { undoing: Some(_), .. } => "stuck_undoing":
        Phase::Stuck { at: 2, cause: cause(), undoing: Some(Cause::new("the new engine exits at start", "")) },
    Phase::Abandoned { .. } => "abandoned": Phase::Abandoned { at: 0, cause: cause() },
});

golden!(outcome: Outcome {
    Outcome::Done(_) => "done": Outcome::Done(Box::new(much_learned())),
    Outcome::Failed { .. } => "failed": Outcome::Failed { cause: cause(), learned: Box::default() },
});

golden!(writes: Writes {
    Writes::All { .. } => "all": Writes::All { count: 12 },
    Writes::Since { .. } => "since": Writes::Since { count: 12, started_at: Timestamp::UNIX_EPOCH },
    Writes::Unknown { .. } => "unknown": Writes::Unknown { why: "it counts nothing".to_owned() },
});

golden!(learned: Learned {
    Learned { loss: Some(_), .. } => "with_loss": Learned {
        loss: Some(Loss {
            since: Timestamp::UNIX_EPOCH,
            counted_at: Timestamp::UNIX_EPOCH,
            writes: Writes::All { count: 12 },
        }),
        ..Learned::default()
    },
    Learned { circumstances: Some(_), .. } => "with_circumstances": Learned {
        gap_us: Some(41_000),
        circumstances: Some(Circumstances {
            host: Host { arch: "x86_64".to_owned(), processors: 2, memory_gib: 24 },
            data_bytes: 5000,
            read_gap_us: Some(21_000),
        }),
        ..Learned::default()
    },
    Learned { .. } => "with_clients": Learned {
        gap_us: Some(41_000),
        clients: Some(ClientView { attempts: 412, refused: 1, reset: 2, wrong: 3, longest_wait_us: 38_000 }),
        ..Learned::default()
    },
});

golden!(plan: Plan<Step> {
    Plan { .. } => "create": Plan {
        steps: vec![Step::EnsurePlace, Step::Record(Record::Built { generation: Generation(1) })],
        point_of_no_return: 1,
        notes: vec!["nothing else was considered".to_owned()],
    },
});

golden!(order: Order {
    Order { .. } => "verify": Order { id: TaskId::from("0b/0"), task: Task::Verify { expect: from() } },
});

golden!(result: TaskResult {
    TaskResult { .. } => "failed": TaskResult {
        id: TaskId::from("0b/0"),
        outcome: Outcome::Failed { cause: Cause::new("it broke", ""), learned: Box::default() },
    },
});

fn make() -> account::Request {
    account::Request::Make {
        databases: vec![account::NewDatabase {
            name: "shop".to_owned(),
            character_set: Some("utf8mb4".to_owned()),
            collate: None,
        }],
        users: vec![account::NewUser {
            account: Account::new("ann", None),
            password: account::Password::Sealed("00ff".to_owned()),
            databases: vec!["shop".to_owned()],
        }],
        again: true,
    }
}

fn ann() -> account::User {
    account::User { account: Account::new("ann", None), databases: vec!["shop".to_owned()] }
}

fn a_section() -> Section {
    let steps = vec![SectionStep::Prepare, SectionStep::Open];
    Section {
        operation: fixture::OPERATION,
        from: from(),
        to: to(),
        generation: Generation(5),
        plan: Plan { steps, point_of_no_return: 1, notes: Vec::new() },
        restores: None,
        down: false,
    }
}

fn configured() -> Configured {
    Configured { own: to().settings, group: Some(Fixture::serving().group(&[("timeout", "60")])) }
}

fn from() -> EngineSpec {
    Fixture::serving().snapshot().spec()
}

fn to() -> EngineSpec {
    let fixture = Fixture::serving();
    let i = &fixture.instance;
    EngineSpec::new(fixture.target(), &fixture.flavor, i.volume_gib, i.address, i.settings.clone())
}

fn cause() -> Cause {
    let findings = vec![Finding::error("disk.full", "volume", "4096 bytes are free", "make room")];
    Cause { message: "there is no room for the pre-image".to_owned(), hint: "make room".to_owned(), findings }
}

fn much_learned() -> Learned {
    let end = |name: &str, end| StepRecord {
        name: name.to_owned(),
        began_at: Timestamp::UNIX_EPOCH,
        ended_at: Some(Timestamp::UNIX_EPOCH),
        end: Some(end),
        detail: "as planned".to_owned(),
    };
    let spec = to();
    Learned {
        image: spec.image.digest.clone().map(|digest| ImageFound {
            digest,
            number: spec.number,
            source: "a directory".to_owned(),
        }),
        findings: vec![
            Finding::warning("settings.dropped", "setting a", "unknown", ""),
            Finding::notice("x", "y", "z", ""),
        ],
        preview: Some(Preview {
            preimage_method: "hard link".to_owned(),
            preimage_bytes: 4096,
            preimage_millis: 2,
            while_serving: vec!["a background save".to_owned()],
            stops: "the engine".to_owned(),
            gap_millis: 40,
            circumstances: None,
        }),
        steps: vec![
            end("prepare", StepEnd::Done),
            end("quiesce", StepEnd::Failed),
            end("undo quiesce", StepEnd::UndoFailed),
            end("undo prepare", StepEnd::Undone),
        ],
        gap_us: Some(41_000),
        circumstances: None,
        clients: None,
        accounts: None,
        loss: None,
    }
}

fn directory(of: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "golden", of].iter().collect()
}

/// The value is written as its file says, and what the file says is read as the value.
fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(of: &str, file: &str, value: &T) {
    let path = directory(of).join(format!("{file}.json"));
    let written = serde_json::to_string_pretty(value).expect("written") + "\n";
    if std::env::var_os("COFFER_GOLDEN").is_some_and(|v| v == "write") && !path.exists() {
        fs_err::create_dir_all(directory(of)).expect("a directory for golden files");
        fs_err::write(&path, &written).expect("a golden file");
    }
    let golden = fs_err::read_to_string(&path).expect("every variant has a golden file");
    assert_eq!(
        written, golden,
        "{of}::{file} is written in another way than before: stores would not be read any more"
    );
    assert_eq!(&serde_json::from_str::<T>(&golden).expect("read"), value, "{of}::{file} is read as something else");
}

/// A file without a variant is one that was renamed or removed, and stores may still have it.
fn assert_all_named(of: &str, files: &[&str]) {
    for entry in fs_err::read_dir(directory(of)).expect("golden files") {
        let path = entry.expect("a golden file").path();
        let name = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
        assert!(files.contains(&name), "{} has no variant any more", path.display());
    }
}
