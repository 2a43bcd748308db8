//! Bad input and bad luck, on real servers: a clear error, and nothing is lost.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use support::world::World;

#[test]
fn an_upgrade_moves_an_instance_and_its_data() {
    let Some(world) = World::start() else { return };
    let redis = world.create("redis_test", "7.0.15", &[]);
    let before = {
        let mut c = world.redis(&redis);
        support::dataset::load(&mut c, 1000).unwrap();
        support::dataset::summarize(&mut c).unwrap()
    };
    world.coffer(["instance", "upgrade", "redis_test", "8.0", "--wait"]).ok();
    assert_eq!(before, support::dataset::summarize(&mut world.redis(&redis)).unwrap());
    println!("{:?}", world.engines_on(&redis.id));
}
