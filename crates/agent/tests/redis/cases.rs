//! What must be found, refused or survived.

use std::os::unix::fs::PermissionsExt as _;

use coffer_agent::redis::try_target;
use coffer_agent::site::{Error, Exposure};
use coffer_core::engine::redis::checks;
use coffer_core::engine::redis::config::Persistence;

use crate::contents::{self, same};
use crate::world::{NONE, RDB, World};

pub async fn losses_are_found(mut w: World) {
    let (from, to) = (w.spec("redis 7.0.15", RDB), w.spec("redis 8.0.2", RDB));
    w.start(&from, Exposure::Open).await;
    contents::fill(&mut w.inside(&from), &from, 30);
    let (fingerprint, _) = w.down(&from).await;
    let client = w.start(&to, Exposure::Closed).await;
    assert_eq!(client.prove(&to, &fingerprint).await.unwrap(), []);
    let sampled = |prefix: &str| {
        let key = |s: &coffer_core::engine::redis::proof::Sampled| String::from_utf8(s.at.key.0.clone()).ok();
        let of_first = fingerprint.sample.iter().filter(|s| s.at.database == 0);
        of_first.filter_map(key).find(|key| key.starts_with(prefix)).unwrap()
    };
    let (zset, list, expiring) = (sampled("zset"), sampled("list"), sampled("expiring"));
    let mut c = w.inside(&to);
    // Each is found beside all that were made before it.
    for (words, id, object) in [
        (vec!["DEL", "hll"], "proof.keys", "database 0"),
        (vec!["DEL", "hll"], "proof.types", "type string"),
        (vec!["ZINCRBY", &zset, "0.001", "a"], "proof.value", &zset),
        (vec!["LSET", &list, "0", "other"], "proof.value", &list),
        (vec!["EXPIRE", &expiring, "5"], "proof.value", &expiring),
        (vec!["ACL", "SETUSER", "alice", "off"], "proof.changed", "user alice"),
        (vec!["ACL", "DELUSER", "alice"], "proof.missing", "user alice"),
        (vec!["FUNCTION", "FLUSH"], "proof.missing", "function library lib"),
        (vec!["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"], "redis.config", "setting maxmemory-policy"),
        (vec!["FLUSHALL"], "proof.keys", "database 9"),
    ] {
        redis::cmd(words[0]).arg(&words[1..]).query::<redis::Value>(&mut c).unwrap();
        let found = client.prove(&to, &fingerprint).await.unwrap();
        assert!(found.iter().any(|f| f.id == id && f.object.contains(object)), "{words:?}: {found:#?}");
    }
}

pub async fn unsafe_is_refused(mut w: World) {
    let spec = w.spec("redis 7.0.15", NONE);
    let client = w.start(&spec, Exposure::Open).await;
    let temporary = client.plan_measures().await.unwrap();
    assert!(matches!(client.quiesce(&spec, &temporary).await, Err(Error::Unsafe { .. })));
    let mut c = w.tenant().unwrap();
    redis::cmd("SET").arg("a").arg(1).query::<()>(&mut c).unwrap();
    let refused = client.clone().stop(&spec, w.process(), std::time::Duration::from_secs(5)).await;
    assert!(matches!(refused, Err(Error::Unsafe { .. })), "{refused:?}");
    redis::cmd("SET").arg("a").arg(2).query::<()>(&mut c).unwrap();

    // Quiet and resumed: a write waits and then succeeds.
    client.prepare(&spec, &temporary).await.unwrap();
    client.quiesce(&spec, &temporary).await.unwrap();
    let waits = std::thread::spawn(move || redis::cmd("INCR").arg("a").query::<i64>(&mut c).unwrap());
    client.unquiesce(&spec).await.unwrap();
    client.unquiesce(&spec).await.unwrap();
    assert_eq!(waits.join().unwrap(), 3);
    client.settle(&temporary.found.unwrap(), &w.paths).await.unwrap();
    assert_eq!(client.persistence().await.unwrap(), Persistence::configured(&spec));
}

pub async fn killed_loses_nothing(mut w: World) {
    let spec = w.spec("redis 7.0.15", NONE);
    let client = w.start(&spec, Exposure::Open).await;
    contents::fill(&mut w.inside(&spec), &spec, 30);
    let before = contents::all(&mut w.inside(&spec));
    let temporary = client.plan_measures().await.unwrap();
    client.prepare(&spec, &temporary).await.unwrap();
    w.kill().await;

    // Prepared: the append-only file is what is loaded, though the configuration names none.
    let client = w.start(&spec, Exposure::Open).await;
    same(&before, &contents::all(&mut w.inside(&spec)));
    let with_rdb = Persistence::configured(&w.spec("redis 7.0.15", RDB));
    client.settle(&with_rdb, &w.paths).await.unwrap();
    w.kill().await;

    // Settled as one that keeps snapshots: there is one.
    w.start(&spec, Exposure::Open).await;
    same(&before, &contents::all(&mut w.inside(&spec)));
    w.kill().await;

    // Configured to have an append-only file and having none: it does not start empty.
    let with_aof = w.spec("redis 7.0.15", crate::world::AOF);
    let client = w.start(&with_aof, Exposure::Open).await;
    same(&before, &contents::all(&mut w.inside(&with_aof)));
    client.settle(&Persistence::configured(&with_aof), &w.paths).await.unwrap();
    w.kill().await;
    w.start(&with_aof, Exposure::Open).await;
    same(&before, &contents::all(&mut w.inside(&with_aof)));
}

pub async fn targets_are_tried(mut w: World) {
    let from = w.spec("redis 7.0.15", RDB);
    w.start(&from, Exposure::Open).await;
    let attempt = async |settings: &[(&str, &str)]| {
        let to = w.spec("redis 8.0.2", settings);
        try_target(&to, w.site(&to), &w.paths.conf).await
    };
    attempt(RDB).await.unwrap();
    for (settings, word) in [
        (&[("no-such-setting", "1")] as &[(&str, &str)], "no-such-setting"),
        (&[("timeout", "tomorrow")], "timeout"),
        (&[("maxmemory-policy", "none")], "maxmemory-policy"),
    ] {
        let why = attempt(settings).await.unwrap_err().to_string();
        assert!(why.contains(word), "{why}");
        assert!(!why.contains("password"), "{why}");
    }
    // An image of another version than it says.
    let mut wrong = w.spec("redis 8.0.2", RDB);
    let site = w.site(&wrong);
    wrong.number = "8.0.9".parse().unwrap();
    let why = try_target(&wrong, site, &w.paths.conf).await.unwrap_err();
    assert!(matches!(why, Error::Wrong { .. }), "{why}");
    assert!(!w.paths.agent.join("trial").exists());
}

pub async fn users_keep_channels(mut w: World) {
    let (from, to) = (w.spec("redis 6.0.16", RDB), w.spec("redis 7.0.15", RDB));
    let client = w.start(&from, Exposure::Open).await;
    contents::fill(&mut w.inside(&from), &from, 30);
    let facts = client.facts(&from, &w.paths).await.unwrap();
    let found = checks::check(&facts, &from, &to);
    assert!(found.iter().any(|f| f.id == "redis.acl.pubsub" && f.object == "user alice"), "{found:#?}");
    let (fingerprint, _) = w.down(&from).await;
    w.up(&to, &fingerprint).await;
    let mut c = w.tenant().unwrap();
    redis::cmd("AUTH").arg("alice").arg("secret").query::<()>(&mut c).unwrap();
    redis::cmd("PUBLISH").arg("news").arg("hello").query::<i64>(&mut c).unwrap();
    let denied = redis::cmd("GET").arg("b").query::<Option<String>>(&mut c).unwrap_err();
    assert_eq!(denied.code(), Some("NOPERM"), "{denied}");
}

pub async fn drift_is_found(mut w: World) {
    let (from, to) = (w.spec("redis 7.0.15", RDB), w.spec("redis 8.0.2", RDB));
    let client = w.start(&from, Exposure::Open).await;
    contents::fill(&mut w.inside(&from), &from, 30);
    let check = async || checks::check(&client.facts(&from, &w.paths).await.unwrap(), &from, &to);
    assert_eq!(check().await, []);
    assert_eq!(client.verify(&from).await.unwrap(), []);
    assert_eq!(client.version().await.unwrap(), from.number);

    let mut c = w.inside(&from);
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("100mb").query::<()>(&mut c).unwrap();
    fs_err::write(w.paths.data.join("dump.rdb"), "of somebody else").unwrap();
    let found: Vec<_> = check().await.into_iter().map(|f| format!("{} {}", f.id, f.object)).collect();
    // Only root can have somebody else's files.
    let foreign = rustix::process::geteuid().is_root().then_some("redis.files data/dump.rdb".to_owned());
    let expected: Vec<String> = foreign.into_iter().chain(["redis.drift setting maxmemory".to_owned()]).collect();
    assert_eq!(found, expected);
    assert_eq!(client.verify(&from).await.unwrap().len(), 1);
}

pub async fn tenant_is_bound(mut w: World) {
    let spec = w.spec("redis 7.0.15", RDB);
    w.start(&spec, Exposure::Open).await;
    let mut c = w.tenant().unwrap();
    for words in [
        vec!["SHUTDOWN", "NOSAVE"],
        vec!["CONFIG", "SET", "appendonly", "yes"],
        vec!["CONFIG", "REWRITE"],
        vec!["DEBUG", "SLEEP", "0"],
        vec!["REPLICAOF", "127.0.0.1", "1"],
        vec!["FAILOVER", "ABORT"],
        vec!["MODULE", "LIST"],
    ] {
        let denied = redis::cmd(words[0]).arg(&words[1..]).query::<redis::Value>(&mut c).unwrap_err();
        // DEBUG has a lock of its own.
        assert!(denied.code() == Some("NOPERM") || words[0] == "DEBUG", "{words:?}: {denied}");
    }
    redis::cmd("CONFIG").arg("GET").arg("maxmemory").query::<redis::Value>(&mut c).unwrap();
    redis::cmd("ACL").arg("WHOAMI").query::<String>(&mut c).unwrap();
    for file in ["redis.conf", "users.acl"] {
        let mode = fs_err::metadata(w.paths.conf.join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
        let text = fs_err::read_to_string(w.paths.conf.join(file)).unwrap();
        assert!(!text.contains("password"), "{file} has a password in the clear");
    }
}
