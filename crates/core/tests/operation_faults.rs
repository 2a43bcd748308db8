//! Every plan, struck by every fault and by every pair of faults, on a world that watches over the promises.
//!
//! A case is a plan and a schedule of faults. Whatever the schedule is, the end is wholly old or wholly new, nothing is
//! left behind and no acknowledged write is lost. Where the machine asks for a person, a person mends what failed and
//! has it tried again, and the same holds then.

// Cases are counted and told; the macros that would do without `panic` cannot say what a case was.
#![allow(clippy::panic, clippy::print_stdout)]

use std::fmt;

use coffer_core::account::Request;
use coffer_core::instance::{self, Operation};
use coffer_core::operation::{ATTEMPTS, Event, Phase, Plan};
use coffer_core::plan::{self, Planned, Refusal, Step};
use coffer_core::spec::EngineSpec;
use coffer_testkit::driver::{self, Halt, Journal};
use coffer_testkit::fault::{self, Fault, Kind, Layer, Moment, Schedule, Site, Way};
use coffer_testkit::fixture::{EARLIER, Fixture};
use coffer_testkit::moves;
use coffer_testkit::world::{FakeWorld, Picture};

/// A plan, the world that it is made for, and the two pictures in which it may end.
struct Story {
    name: &'static str,
    plan: Plan<Step>,
    world: FakeWorld,
    old: Picture,
    new: Picture,
}

impl Story {
    fn new(name: &'static str, fixture: &Fixture, planned: Result<Planned, Refusal>) -> Self {
        Self::on(name, FakeWorld::of(&fixture.instance, &fixture.snapshot().spec()), planned.expect(name).plan)
    }

    fn on(name: &'static str, world: FakeWorld, plan: Plan<Step>) -> Self {
        let old = world.picture();
        let mut done = world.clone();
        let mut journal = Journal::new(&plan);
        assert_eq!(driver::run(&mut journal, &mut done, 100), Ok(Halt::Over), "{name}");
        assert_eq!(journal.phase(), Phase::Done, "{name}");
        done.collect();
        Self { name, plan, world, old, new: done.picture() }
    }

    fn all() -> Vec<Self> {
        vec![
            Self::create(),
            Self::create_with_accounts(),
            Self::upgrade(),
            Self::same_version(),
            Self::restart(),
            Self::restart_with_other_settings(),
            Self::configure(),
            Self::delete(),
            Self::rollback(),
            Self::rollback_of_a_rollback(),
            Self::rollback_in_place(),
            Self::finalize(),
        ]
    }

    fn create() -> Self {
        let fixture = Fixture::unbuilt();
        Self::new("create", &fixture, plan::plan_create(&fixture.snapshot()))
    }

    fn create_with_accounts() -> Self {
        let fixture = Fixture::unbuilt();
        let nothing = Request::Make { databases: Vec::new(), users: Vec::new(), again: true };
        Self::new("create with accounts", &fixture, plan::plan_create_with(&fixture.snapshot(), nothing))
    }

    fn upgrade() -> Self {
        let fixture = Fixture::serving();
        Self::new("upgrade", &fixture, plan::plan_upgrade(&fixture.snapshot(), fixture.target()))
    }

    fn same_version() -> Self {
        let fixture = Fixture::serving();
        let same = &fixture.catalogue[0];
        Self::new("upgrade to the same version", &fixture, plan::plan_upgrade(&fixture.snapshot(), same))
    }

    fn restart() -> Self {
        let fixture = Fixture::serving();
        Self::new("restart", &fixture, plan::plan_restart(&fixture.snapshot()))
    }

    fn restart_with_other_settings() -> Self {
        let mut fixture = Fixture::serving();
        fixture.instance.group = Some(fixture.group(&[("databases", "20")]));
        Self::new("restart with other settings", &fixture, plan::plan_restart(&fixture.snapshot()))
    }

    fn configure() -> Self {
        let fixture = Fixture::serving();
        let group = fixture.group(&[("timeout", "60"), ("databases", "20")]);
        Self::new("configure", &fixture, plan::plan_configure(&fixture.snapshot(), Some(&group)))
    }

    fn delete() -> Self {
        let fixture = Fixture::serving();
        Self::new("delete", &fixture, plan::plan_delete(&fixture.snapshot()))
    }

    fn rollback() -> Self {
        let (fixture, upgrade, old) = upgraded(Fixture::serving());
        Self::back("rollback", &fixture, &upgrade, &old)
    }

    fn rollback_of_a_rollback() -> Self {
        let (fixture, upgrade, _) = upgraded(Fixture::serving());
        let new = fixture.snapshot().spec();
        let planned = roll_back(&fixture, &upgrade);
        let (fixture, rollback) = fixture.after(instance::Kind::Rollback, planned);
        Self::back("rollback of a rollback", &fixture, &rollback, &new)
    }

    fn rollback_in_place() -> Self {
        let (fixture, upgrade, old) = upgraded(Fixture::valkey());
        Self::back("rollback in place", &fixture, &upgrade, &old)
    }

    fn finalize() -> Self {
        let (fixture, upgrade, old) = upgraded(Fixture::serving());
        let planned = plan::plan_finalize(&fixture.snapshot(), &[upgrade]).expect("finalize");
        Self::on("finalize", after(&fixture, &old), planned.plan)
    }

    fn back(name: &'static str, fixture: &Fixture, last: &Operation, kept: &EngineSpec) -> Self {
        Self::on(name, after(fixture, kept), roll_back(fixture, last).plan)
    }

    /// Whether it gives up what was written since a pre-image was taken.
    fn forfeits(&self) -> bool {
        self.plan.steps.iter().find_map(Step::section).is_some_and(|section| section.restores.is_some())
    }

    /// Whether a failure at this site has the plan undone.
    fn turns_back(&self, site: Site) -> bool {
        let turn = match site.layer {
            Layer::Plan => self.plan.point_of_no_return,
            Layer::Section => {
                self.plan.steps.iter().find_map(moves::section_of).map_or(0, |s| s.plan.point_of_no_return)
            }
        };
        site.way == Way::Forward && site.at < turn
    }

    /// The steps of a plan and its section, forward, back, and each of two faults tried to the last.
    fn bound(&self) -> usize {
        3 * self.plan.steps.len() + 2 * ATTEMPTS as usize + 4
    }
}

/// What a failed assertion has to say of the case.
struct Case {
    name: &'static str,
    schedule: Schedule,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {:?}", self.name, self.schedule)
    }
}

/// The fixture after an upgrade, that upgrade, and the engine that ran before.
fn upgraded(fixture: Fixture) -> (Fixture, Operation, EngineSpec) {
    let old = fixture.snapshot().spec();
    let planned = plan::plan_upgrade(&fixture.snapshot(), fixture.target()).expect("an upgrade");
    let (fixture, upgrade) = fixture.after(instance::Kind::Upgrade, planned);
    (fixture, upgrade, old)
}

fn roll_back(fixture: &Fixture, last: &Operation) -> Planned {
    let back = plan::find_way_back(&fixture.snapshot(), std::slice::from_ref(last), false).expect("a way back");
    plan::plan_rollback(&fixture.snapshot(), &back)
}

/// The world of a fixture after an operation, with the pre-image of what ran before.
fn after(fixture: &Fixture, kept: &EngineSpec) -> FakeWorld {
    FakeWorld::of(&fixture.instance, &fixture.snapshot().spec()).with_kept(EARLIER, kept)
}

/// How many cases were played, and in how many of them every fault did strike.
#[derive(Default)]
struct Tally {
    cases: usize,
    all_struck: usize,
}

impl Tally {
    fn print(&self, name: &str, what: &str) {
        println!("{name}: {} cases of {what}; in {} of them everything struck", self.cases, self.all_struck);
        assert!(self.all_struck > 0 || self.cases == 0, "{name}: the cases of {what} show nothing");
    }

    /// Plays one case to its end and asserts everything that has to hold in it.
    fn check(&mut self, story: &Story, schedule: Schedule) -> FakeWorld {
        let wanted = schedule.faults.len() + usize::from(schedule.cancel.is_some());
        let mut world = story.world.clone();
        world.schedule = schedule.clone();
        let at = &Case { name: story.name, schedule };
        let mut journal = Journal::new(&story.plan);
        let mut wrong_way = None;
        // Each fault interrupts the loop once at most, and so does a person.
        let mut entries = 1..=wanted + 2;
        loop {
            assert!(entries.next().is_some(), "{at}: does not end, {:?}", world.violations);
            match driver::run(&mut journal, &mut world, story.bound()) {
                Ok(Halt::Over) => break,
                // Whoever claims the operation next goes on from the record.
                Ok(Halt::Crashed) => {}
                Ok(Halt::Waiting) => {
                    assert_eq!(wrong_way, None, "{at}: stuck again after it was mended");
                    wrong_way = Some(mend(story, &mut world, &mut journal, at));
                }
                Ok(Halt::Exhausted) => panic!("{at}: does not end, is {:?}", journal.phase()),
                Err(illegal) => panic!("{at}: {illegal}"),
            }
        }
        assert!(journal.writes <= story.bound(), "{at}: took {} writes", journal.writes);
        self.cases += 1;
        self.all_struck += usize::from(world.struck.len() + usize::from(world.cancel_accepted.is_some()) >= wanted);

        let turned_back = world.struck.iter().any(|f| f.kind != Kind::Crash && story.turns_back(f.site))
            || world.cancel_accepted == Some(true);
        match journal.phase() {
            Phase::Done => {
                assert!(!turned_back, "{at}: went on to the end after it had failed");
                assert_ne!(wrong_way, Some(true), "{at}: was stuck on the way back and then went on to the end");
                world.collect();
                assert_eq!(world.picture(), story.new, "{at}: done, but not wholly new");
                assert_eq!(world.forfeited() > 0, story.forfeits(), "{at}: gave up other writes than it said");
            }
            Phase::Undone { .. } => {
                assert!(turned_back, "{at}: undone without a reason");
                assert_ne!(wrong_way, Some(false), "{at}: was stuck on the way to the end and then undone");
                assert_eq!(world.picture(), story.old, "{at}: undone, but not wholly old");
                assert_eq!(world.forfeited(), 0, "{at}: undone, and gave up writes");
            }
            phase => panic!("{at}: over, but {phase:?}"),
        }
        assert_eq!(world.violations, Vec::<String>::new(), "{at}");
        assert_eq!(world.lost(), 0, "{at}: lost acknowledged writes");
        world
    }
}

/// Asserts that it is stuck for a good reason, mends the reason and has it tried again. Returns whether it was on the
/// way back.
fn mend(story: &Story, world: &mut FakeWorld, journal: &mut Journal<Step>, at: &Case) -> bool {
    // A plan that waits without being stuck waits for its agent.
    let (layer, phase) = match journal.phase() {
        phase @ Phase::Stuck { .. } => (Layer::Plan, phase),
        _ => (Layer::Section, world.section_phase().expect("a section that waits")),
    };
    let Phase::Stuck { at: step, undoing, cause } = phase else { panic!("{at}: waits for a person in {phase:?}") };
    let backward = undoing.is_some();
    let way = if backward { Way::Undo } else { Way::Forward };
    let site = Site { layer, at: step, way };
    assert!(backward || !story.turns_back(site), "{at}: stuck on the way to the end, before the point of no return");
    assert_eq!(world.failures(site), ATTEMPTS as usize, "{at}: stuck after another number of attempts");
    assert!(!cause.message.is_empty(), "{at}: stuck without a cause");
    assert_eq!(world.violations, Vec::<String>::new(), "{at}");
    assert_eq!(world.lost(), 0, "{at}: stuck, and lost acknowledged writes");
    world.schedule.mend();
    match layer {
        Layer::Plan => journal.tell(Event::Retry).expect("a stuck plan can be tried again"),
        Layer::Section => world.retry_section(),
    }
    backward
}

fn with(faults: impl Into<Vec<Fault>>) -> Schedule {
    Schedule { faults: faults.into(), cancel: None }
}

/// Nothing goes wrong, and then one thing.
fn every_fault(story: &Story) {
    let mut tally = Tally::default();
    tally.check(story, with([]));
    for fault in fault::all(&story.plan) {
        tally.check(story, with([fault]));
    }
    tally.print(story.name, "one fault");
}

/// The same, and then two things, in both orders where they meet at one site.
fn every_fault_and_every_pair(story: &Story) {
    every_fault(story);
    let faults = fault::all(&story.plan);
    let mut pairs = Tally::default();
    for (i, &first) in faults.iter().enumerate() {
        for (k, &second) in faults.iter().enumerate() {
            if k >= i || second.site == first.site {
                pairs.check(story, with([first, second]));
            }
        }
    }
    pairs.print(story.name, "two faults");
}

/// A step acts and still fails, and then the way back is struck by every pair of faults.
fn every_pair_on_the_way_back(story: &Story) {
    let all = fault::all(&story.plan);
    let section_at = story.plan.steps.iter().position(|s| moves::section_of(s).is_some());
    let mut tally = Tally::default();
    let fails = |f: &&Fault| f.kind == Kind::Fail && f.moment == Moment::After && story.turns_back(f.site);
    for &trigger in all.iter().filter(fails) {
        // What lies behind the failure is never visited on the way back.
        let visited = |f: &&Fault| match (trigger.site.layer, f.site.layer) {
            (Layer::Section, Layer::Plan) => Some(f.site.at) <= section_at,
            (Layer::Plan, Layer::Section) => false,
            _ => f.site.at <= trigger.site.at,
        };
        let undos: Vec<_> = all.iter().filter(|f| f.site.way == Way::Undo).filter(visited).collect();
        for (i, &&first) in undos.iter().enumerate() {
            for (k, &&second) in undos.iter().enumerate() {
                if k >= i || second.site == first.site {
                    tally.check(story, with([trigger, first, second]));
                }
            }
        }
    }
    tally.print(story.name, "a failure with two faults on the way back");
}

#[test]
fn a_create_ends_wholly_old_or_wholly_new() {
    every_fault_and_every_pair(&Story::create());
    every_pair_on_the_way_back(&Story::create());
}

#[test]
fn an_upgrade_ends_wholly_old_or_wholly_new() {
    every_fault_and_every_pair(&Story::upgrade());
}

#[test]
fn an_upgrade_finds_its_way_back_through_every_pair_of_faults() {
    every_pair_on_the_way_back(&Story::upgrade());
}

#[test]
fn an_upgrade_to_the_same_version_changes_nothing() {
    let story = Story::same_version();
    assert_eq!(story.old, story.new);
    every_fault_and_every_pair(&story);
    every_pair_on_the_way_back(&story);
}

#[test]
fn a_restart_ends_wholly_old_or_wholly_new() {
    every_fault_and_every_pair(&Story::restart());
    every_pair_on_the_way_back(&Story::restart());
}

#[test]
fn a_rollback_ends_wholly_old_or_wholly_new() {
    every_fault_and_every_pair(&Story::rollback());
    every_fault(&Story::rollback_of_a_rollback());
}

#[test]
fn a_rollback_finds_its_own_way_back_through_every_pair_of_faults() {
    every_pair_on_the_way_back(&Story::rollback());
}

#[test]
fn a_rollback_in_place_loses_nothing() {
    // Its steps are those of an upgrade.
    every_fault(&Story::rollback_in_place());
}

#[test]
fn a_finalize_ends_with_no_way_back() {
    every_fault_and_every_pair(&Story::finalize());
}

#[test]
fn a_delete_ends_with_nothing_left() {
    every_fault_and_every_pair(&Story::delete());
}

#[test]
fn a_cancel_at_any_moment_undoes_everything_or_is_refused_and_changes_nothing() {
    for story in Story::all() {
        let mut tally = Tally::default();
        for layer in [Layer::Plan, Layer::Section] {
            if layer == Layer::Section && !story.plan.steps.iter().any(|s| moves::section_of(s).is_some()) {
                continue;
            }
            for turn in 1.. {
                let cancel = Some((layer, turn));
                let world = tally.check(&story, Schedule { faults: Vec::new(), cancel });
                if world.cancel_accepted.is_none() {
                    break;
                }
                for fault in fault::all(&story.plan) {
                    tally.check(&story, Schedule { faults: vec![fault], cancel });
                }
            }
        }
        tally.print(story.name, "a cancel, alone and with a fault");
    }
}

#[test]
fn without_faults_every_plan_does_what_it_is_for() {
    let fixture = Fixture::serving();
    let (before, after) = (Some(fixture.catalogue[0].id), Some(fixture.catalogue[1].id));
    let expected = vec![
        (Story::create(), None, before),
        (Story::upgrade(), before, after),
        (Story::same_version(), before, before),
        (Story::restart(), before, before),
        (Story::delete(), before, None),
        (Story::rollback(), after, before),
        (Story::rollback_of_a_rollback(), before, after),
        (Story::finalize(), after, after),
    ];
    for (story, old, new) in expected {
        assert_eq!((story.world.recorded(), story.world.serving()), (old, old), "{} before", story.name);
        let world = Tally::default().check(&story, with([]));
        assert_eq!((world.recorded(), world.serving()), (new, new), "{} after", story.name);
    }
}

/// The model itself: a section whose order is wrong must not pass.
#[test]
fn the_world_notices_what_must_never_happen() {
    use coffer_core::section::SectionStep::{self, Open, Prepare, Prove, Quiesce, Start, Stop, Swap};
    let check = |steps: Vec<SectionStep>, expected: &str| {
        let mut story = Story::upgrade();
        for step in &mut story.plan.steps {
            if let Step::Ask { task, .. } = step
                && let coffer_core::task::Task::Section(section) = &mut **task
            {
                section.plan.steps.clone_from(&steps);
                section.plan.point_of_no_return = steps.len();
            }
        }
        let mut world = story.world.clone();
        let section_open = Site { layer: Layer::Section, at: steps.len() - 1, way: Way::Forward };
        world.schedule = with([Fault { site: section_open, moment: Moment::After, kind: Kind::Fail }]);
        let mut journal = Journal::new(&story.plan);
        driver::run(&mut journal, &mut world, 100).expect("legal");
        let seen = format!("{:?}, lost {}", world.violations, world.lost());
        assert!(seen.contains(expected), "{steps:?}: {seen}");
    };
    check(vec![Prepare, Quiesce, Stop, Swap, Start, Open], "open and was not proven");
    check(vec![Prepare, Quiesce, Swap, Start, Prove], "was started beside");
    check(vec![Quiesce, Stop, Start, Prove, Open], "lost");
}
