//! Upgrades of MariaDB and MySQL that are struck: whoever dies, whatever is in the way, they end wholly new or wholly old, and
//! nothing that was acknowledged is lost.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

use super::mariadb::{Contents, Writers, assert_same, connect};
use super::strike::{Moment, STEPS, strike};
use super::world::{Instance, World, kill, wait_for};

/// From which version to which.
pub(crate) struct Way<'a> {
    /// Makes an instance of the older one under this name, with something of every kind in it.
    pub create: fn(&World, &str) -> Instance,
    /// What it holds.
    pub read: fn(&Instance) -> Contents,
    /// The number of the newer one.
    pub to: &'a str,
    /// Each victim is struck at one of so many moments, and each at others, since all of them take half an hour. With
    /// `COFFER_EVERY_STEP` in the environment each is struck at all of them.
    pub one_in: usize,
}

/// In the order in which moments are shared out among them.
const VICTIMS: [&str; 4] = [ENGINE.0, AGENT.0, SERVER.0, ALL.0];

/// Who is killed: a name for people, and how.
pub(crate) type Blow = (&'static str, fn(&mut World, &Instance));

pub(crate) const ENGINE: Blow = ("engine", |world, instance| world.engine_pid(&instance.id).into_iter().for_each(kill));
pub(crate) const AGENT: Blow = ("agent", |world, instance| world.agent_pid(&instance.id).into_iter().for_each(kill));
pub(crate) const SERVER: Blow = ("server", |world, _| world.kill_server());
pub(crate) const ALL: Blow = ("all", |world, instance| {
    world.agent_pid(&instance.id).into_iter().for_each(kill);
    world.engine_pid(&instance.id).into_iter().for_each(kill);
    world.kill_server();
});

/// Asks for an upgrade, and waits for nothing.
#[track_caller]
pub(crate) fn ask_upgrade(world: &World, instance: &Instance, to: &str) {
    let upgrade = json!({"instance": {"datastore_version": to}});
    let answer = world.ask("demo", "PATCH", &format!("/instances/{}", instance.id), &upgrade);
    assert_eq!(answer.status, 202, "{answer:?}");
}

impl Way<'_> {
    /// The upgrade was struck. However it ended, all is there; and what was undone can be done.
    fn check(&self, world: &World, instance: &Instance, name: &str, writers: Writers, told: &str) {
        let newest = world.wait_until_over(&instance.id);
        writers.wait_for_more();
        writers.stop(instance, told);
        println!("{told}: {} {}, gap {}", newest["phase"], newest["cause"]["message"], newest["gap_ms"]);
        if newest["phase"] == "undone" {
            assert_ne!(newest["cause"]["hint"], "", "nobody is told what to do: {newest:#}");
            world.coffer(["instance", "upgrade", name, self.to, "--wait"]).ok();
        }
        assert!(connect(instance).ask("SELECT VERSION()").unwrap()[0].starts_with(self.to), "{told}");
        connect(instance).run("DROP TABLE shop.log");
        assert_eq!(world.engines_on(&instance.id).len(), 1, "{told}");
    }

    /// An upgrade for each of its steps, or of its share of them, struck when that begins, while clients write; and one when the new engine starts.
    pub(crate) fn struck(&self, world: &mut World, (victim, blow): Blow) {
        let begins = STEPS.iter().enumerate().map(|(at, step)| (*step, Moment::Forward(at)));
        let all = begins.chain([("start of the engine", Moment::Starting)]);
        let (first, one_in) = match std::env::var_os("COFFER_EVERY_STEP") {
            Some(_) => (0, 1),
            None => (VICTIMS.iter().position(|v| *v == victim).expect("a victim") % self.one_in, self.one_in),
        };
        for (step, moment) in all.skip(first).step_by(one_in) {
            let name = format!("m-{}", step.replace(' ', "-"));
            let instance = (self.create)(world, &name);
            let before = (self.read)(&instance);
            let writers = Writers::start(&instance);
            writers.wait_for_more();
            let ask = |world: &mut World| ask_upgrade(world, &instance, self.to);
            strike(world, &instance, moment, ask, |world| blow(world, &instance));
            world.start_server();
            self.check(world, &instance, &name, writers, &format!("{victim} killed at {step}"));
            assert_same(&before, &(self.read)(&instance), step);
            world.coffer(["instance", "delete", &name, "--wait"]).ok();
        }
    }

    /// A configuration that others may write, which an engine ignores and with it where its data are, and an engine that was
    /// killed: the next start mends both, and the upgrade goes as any.
    pub(crate) fn with_a_file_that_others_may_write(&self, world: &World, name: &str) -> Instance {
        let instance = (self.create)(world, name);
        let before = (self.read)(&instance);
        let file = world.volume(&instance.id).join("conf/my.cnf");
        fs_err::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
        let engine = world.engine_pid(&instance.id).unwrap();
        kill(engine);
        let may_be_upgraded = || world.coffer(["instance", "upgrade", name, self.to, "--dry-run"]).code == 0;
        wait_for("the next engine", || {
            world.engine_pid(&instance.id).is_some_and(|pid| pid != engine) && may_be_upgraded()
        });
        // It recovers first.
        world.coffer(["instance", "upgrade", name, self.to, "--wait"]).ok();
        assert_same(&before, &(self.read)(&instance), "after a crash");
        instance
    }

    /// An upgrade for each of these steps, in which the disk is full from then on. The world has a small one.
    pub(crate) fn on_a_full_disk(&self, world: &mut World, steps: &[&str]) {
        let ballast = world.data().join("instances/ballast");
        for step in steps {
            let name = format!("m-{step}");
            let instance = (self.create)(world, &name);
            let before = (self.read)(&instance);
            let at = STEPS.iter().position(|s| s == step).unwrap();
            let ask = |world: &mut World| ask_upgrade(world, &instance, self.to);
            strike(world, &instance, Moment::Forward(at), ask, |_| {
                let mut file = fs_err::File::create(&ballast).unwrap();
                for size in [1 << 20, 4096, 1] {
                    while file.write_all(&vec![0xc0; size]).is_ok() {}
                }
            });
            let newest = world.wait_until_over(&instance.id);
            println!("full at {step}: {} {}", newest["phase"], newest["cause"]["message"]);
            // Whatever takes a temporary table the engine refuses now; what tables hold it tells.
            for (question, was) in before.iter().filter(|(question, _)| question.starts_with("SELECT * FROM")) {
                assert_eq!(connect(&instance).ask(question).unwrap(), *was, "{step}: {question}");
            }
            fs_err::remove_file(&ballast).unwrap();
            let writers = Writers::start(&instance);
            self.check(world, &instance, &name, writers, &format!("full at {step}"));
            assert_same(&before, &(self.read)(&instance), step);
            world.coffer(["instance", "delete", &name, "--wait"]).ok();
        }
    }
}

/// A world on a small disk. `None`, and said so, where none may be mounted.
pub(crate) fn small_world(mib: u32, config: &str) -> Option<World> {
    let mut world = World::prepare("", config)?;
    if !world.ensure_disk(mib) {
        println!("NOT RUN: a disk that fills up: only root may mount a small one");
        return None;
    }
    world.start_server();
    Some(world)
}

/// A client that holds a transaction is named, its instance is not stopped, and is when the client is through.
pub(crate) fn a_long_transaction(world: &World, instance: &Instance, name: &str) {
    let mut sql = connect(instance);
    for statement in
        ["CREATE DATABASE shop", "CREATE TABLE shop.t (a INT PRIMARY KEY)", "BEGIN", "INSERT INTO shop.t VALUES (1)"]
    {
        sql.run(statement);
    }
    let id = sql.ask("SELECT CONNECTION_ID()").unwrap().remove(0);
    let age = "SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_started < NOW() - INTERVAL 6 SECOND";
    wait_for("the transaction to be old", || connect(instance).ask(age).unwrap() == ["1"]);
    let engine = world.engine_pid(&instance.id);
    let measured = "SELECT @@innodb_io_capacity, @@innodb_max_dirty_pages_pct, @@innodb_max_dirty_pages_pct_lwm, \
                    @@read_only, @@event_scheduler";
    let before = connect(instance).ask(measured).unwrap();
    let failed = world.coffer(["instance", "restart", name, "--wait"]);
    assert_eq!(failed.code, 6, "{failed:?}");
    wait_for("the measures to be over", || connect(instance).ask(measured).unwrap() == before);
    let cause = world.operations(&instance.id).remove(0)["cause"].to_string();
    assert!(cause.contains(&format!("connection {id} of user 'admin' has a transaction open for")), "{cause}");
    assert_eq!(world.engine_pid(&instance.id), engine, "the engine was not stopped");
    sql.run("COMMIT");
    world.coffer(["instance", "restart", name, "--wait"]).ok();
    assert_eq!(connect(instance).ask("SELECT a FROM shop.t").unwrap(), ["1"]);
}
