//! Data of all types, and all of it read back, independently of the code under test.

use std::collections::BTreeMap;

use coffer_core::spec::EngineSpec;
use redis::{Connection, Value};

/// So many keys of every type that the engine has, in each of three databases, some expiring; users and functions.
pub fn fill(c: &mut Connection, spec: &EngineSpec, count: u32) {
    let valkey = spec.datastore().name() == "valkey";
    let has = |major, minor| valkey || spec.number.at_least(major, minor);
    for database in [0, 3, 9] {
        let mut pipe = redis::pipe();
        pipe.cmd("SELECT").arg(database);
        for i in 0..count {
            pipe.cmd("SET").arg(format!("string:{i}")).arg(vec![b'x'; i as usize * 3]);
            pipe.cmd("SET").arg(format!("number:{i}")).arg(i);
            pipe.cmd("SET").arg([b"bin\0\xff\"\r\n".as_slice(), &i.to_le_bytes()].concat()).arg(&[0_u8, 255, 10]);
            pipe.cmd("SET").arg(format!("expiring:{i}")).arg(i).arg("EX").arg(10_000 + i);
            pipe.cmd("RPUSH").arg(format!("list:{i}")).arg((0..i % 150 + 1).collect::<Vec<_>>());
            pipe.cmd("SADD").arg(format!("set:{i}")).arg((0..i % 40 + 1).map(|n| format!("m{n}")).collect::<Vec<_>>());
            pipe.cmd("SADD").arg(format!("intset:{i}")).arg((0..i % 40 + 1).collect::<Vec<_>>());
            pipe.cmd("ZADD")
                .arg(format!("zset:{i}"))
                .arg(f64::from(i) / 7.0)
                .arg("a")
                .arg("-inf")
                .arg("b")
                .arg(0.1)
                .arg("c");
            pipe.cmd("HSET").arg(format!("hash:{i}")).arg("f").arg(i);
            pipe.cmd("HSET").arg(format!("hash:{i}")).arg("long").arg("v".repeat(i as usize));
            if has(5, 0) {
                let stream = format!("stream:{i}");
                pipe.cmd("XADD").arg(&stream).arg(format!("{}-1", i + 1)).arg("f").arg(i);
                pipe.cmd("XADD").arg(&stream).arg(format!("{}-2", i + 1)).arg("f").arg("g");
                pipe.cmd("XGROUP").arg("CREATE").arg(&stream).arg("group").arg("0");
                pipe.cmd("XREADGROUP").arg("GROUP").arg("group").arg("someone").arg("COUNT").arg(1);
                pipe.arg("STREAMS").arg(&stream).arg(">");
            }
        }
        pipe.query::<Vec<Value>>(c).unwrap();
    }
    redis::cmd("SELECT").arg(0).query::<()>(c).unwrap();
    redis::cmd("PFADD").arg("hll").arg((0..1000).collect::<Vec<_>>()).query::<()>(c).unwrap();
    if has(6, 0) {
        let user = ["SETUSER", "alice", "on", ">secret", "~a:*", "+get", "+publish"];
        redis::cmd("ACL").arg(&user).query::<()>(c).unwrap();
    }
    if has(7, 0) {
        let code = "#!lua name=lib\nredis.register_function('f', function() return 1 end)";
        redis::cmd("FUNCTION").arg("LOAD").arg(code).query::<String>(c).unwrap();
    }
}

/// All of an engine, by key: type and value, and when it expires in milliseconds since 1970.
pub type All = BTreeMap<String, (String, Option<i64>)>;

/// Every key, but those that a writer made.
pub fn all(c: &mut Connection) -> All {
    let mut found = BTreeMap::new();
    for database in [0, 3, 9] {
        redis::cmd("SELECT").arg(database).query::<()>(c).unwrap();
        let mut keys: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query(c).unwrap();
        keys.retain(|key| !key.starts_with(b"w:"));
        let now: (i64, i64) = redis::cmd("TIME").query(c).unwrap();
        let (mut kinds, mut lefts) = (redis::pipe(), redis::pipe());
        for key in &keys {
            kinds.cmd("TYPE").arg(key);
            lefts.cmd("PTTL").arg(key);
        }
        let lefts: Vec<i64> = lefts.query(c).unwrap();
        let kinds: Vec<String> = kinds.query(c).unwrap();
        let mut reads = redis::pipe();
        for (key, kind) in keys.iter().zip(&kinds) {
            match kind.as_str() {
                "string" => reads.cmd("GET").arg(key),
                "list" => reads.cmd("LRANGE").arg(key).arg(0).arg(-1),
                "set" => reads.cmd("SMEMBERS").arg(key),
                "zset" => reads.cmd("ZRANGE").arg(key).arg(0).arg(-1).arg("WITHSCORES"),
                "hash" => reads.cmd("HGETALL").arg(key),
                "stream" => reads.cmd("XRANGE").arg(key).arg("-").arg("+"),
                other => panic!("{other}"),
            };
        }
        let values: Vec<Value> = reads.query(c).unwrap();
        for (((key, kind), left), value) in keys.iter().zip(kinds).zip(lefts).zip(values) {
            let mut value = match value {
                // Versions write one number in several ways.
                Value::Array(parts) if kind == "zset" => parts
                    .iter()
                    .map(|part| {
                        redis::from_redis_value_ref::<f64>(part).map_or(format!("{part:?}"), |n| format!("{n:?}"))
                    })
                    .collect(),
                Value::Array(parts) => parts.iter().map(|part| format!("{part:?}")).collect::<Vec<_>>(),
                other => vec![format!("{other:?}")],
            };
            // These have no order.
            if kind == "set" || kind == "hash" {
                value.sort();
            }
            let expires = (left >= 0).then(|| now.0 * 1000 + now.1 / 1000 + left);
            found.insert(format!("{database} {}", key.escape_ascii()), (format!("{kind} {value:?}"), expires));
        }
        if kind_has_groups(c) {
            let groups: Value = redis::cmd("XINFO").arg("GROUPS").arg("stream:7").query(c).unwrap();
            assert!(format!("{groups:?}").contains("group"), "{groups:?}");
        }
    }
    redis::cmd("SELECT").arg(0).query::<()>(c).unwrap();
    found
}

/// Fails unless all is the same; reading when a key expires takes some milliseconds.
pub fn same(before: &All, after: &All) {
    let equal = |a: &(String, Option<i64>), b: &(String, Option<i64>)| {
        let close = match (a.1, b.1) {
            (Some(a), Some(b)) => (a - b).abs() < 500,
            (a, b) => a == b,
        };
        a.0 == b.0 && close
    };
    let differ: Vec<_> = before.iter().filter(|(key, a)| !after.get(*key).is_some_and(|b| equal(a, b))).collect();
    let some: Vec<_> = differ.iter().take(3).map(|(key, value)| (key, value, after.get(*key))).collect();
    assert!(differ.is_empty(), "{} keys differ, such as {some:#?}", differ.len());
    assert_eq!(before.len(), after.len());
}

fn kind_has_groups(c: &mut Connection) -> bool {
    redis::cmd("EXISTS").arg("stream:7").query::<i64>(c).unwrap() == 1
}

/// Of these writes those that are not there.
pub fn missing(c: &mut Connection, writes: &[u64]) -> Vec<u64> {
    let mut missing = Vec::new();
    for chunk in writes.chunks(1000) {
        let keys: Vec<String> = chunk.iter().map(|at| format!("w:{at}")).collect();
        let values: Vec<Option<u64>> = redis::cmd("MGET").arg(keys).query(c).unwrap();
        missing.extend(chunk.iter().zip(values).filter(|(at, value)| *value != Some(**at)).map(|(at, _)| *at));
    }
    missing
}
