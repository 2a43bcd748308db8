//! Everything that Redis and Valkey can hold, written as far as the engine at hand knows it, and read back as a client
//! sees it: values in every encoding, expiries, several databases, consumer groups, functions, users.
//!
//! What is read says what clients see and never how an engine stores it, so it can be compared between versions.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use sha2::{Digest as _, Sha256};

use super::resp::{Connection, Reply};

/// The databases that are written to.
const DATABASES: [u32; 3] = [0, 1, 15];
/// Far enough away that nothing expires while a test runs.
const FAR: u64 = 4_000_000_000;
/// What an engine that only tells how long a key still lives may be off by, in milliseconds. Machines that test are slow.
const NEARLY: i64 = 5_000;
/// Longer values are told by their digest.
const TOLD: usize = 160;
/// Who the users are that are written.
const USERS: &str = "ladder-";
const PASSWORD: &str = "correct horse";

type Command = Vec<Vec<u8>>;

macro_rules! words {
    ($($word:expr),* $(,)?) => { vec![$(AsRef::<[u8]>::as_ref(&$word).to_vec()),*] };
}

/// What a client finds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Contents {
    /// By what it is the value of.
    values: BTreeMap<String, String>,
    /// When keys expire, in milliseconds of Unix time.
    expiries: BTreeMap<String, i64>,
    /// Whether the engine told the moments themselves.
    exact: bool,
}

impl Contents {
    /// How many keys, functions and facts about users there are.
    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    /// Fails, naming what differs, unless both are the same.
    #[track_caller]
    pub(crate) fn assert_same(&self, after: &Self, when: &str) {
        let mut differences = Vec::new();
        let keys: std::collections::BTreeSet<_> = self.values.keys().chain(after.values.keys()).collect();
        for key in keys {
            let (was, is) = (self.values.get(key), after.values.get(key));
            if was != is {
                differences.push(format!("{key}: was {was:?}, is {is:?}"));
            }
            let tolerated = if self.exact && after.exact { 0 } else { NEARLY };
            let same = match (self.expiries.get(key), after.expiries.get(key)) {
                (Some(was), Some(is)) => was.abs_diff(*is) <= tolerated.unsigned_abs(),
                (was, is) => was == is,
            };
            if !same {
                let (was, is) = (self.expiries.get(key), after.expiries.get(key));
                differences.push(format!("{key} expires: was {was:?}, is {is:?}"));
            }
        }
        let count = differences.len();
        differences.truncate(10);
        assert!(differences.is_empty(), "{when}: {count} differences, among them\n{}", differences.join("\n"));
    }
}

/// Writes values of everything that this engine knows, under keys that begin with `by`.
pub(crate) fn fill(connection: &mut Connection, by: &str) {
    for database in DATABASES {
        let mut all: Vec<Command> = vec![words!("SELECT", database.to_string())];
        all.extend(strings(by));
        all.extend(collections(by));
        if knows(connection, "XADD") {
            all.extend(streams(by));
        }
        if knows(connection, "HPEXPIREAT") {
            let key = format!("{by}:mortal");
            all.push(words!("HSET", key, "mortal", "a", "eternal", "b"));
            all.push(words!("HPEXPIREAT", key, (FAR * 1000 + 7).to_string(), "FIELDS", "1", "mortal"));
        }
        if knows(connection, "VADD") {
            let key = format!("{by}:vectors");
            for n in 0..20 {
                let (x, y) = (n.to_string(), (20 - n).to_string());
                all.push(words!("VADD", key, "VALUES", "2", x, y, format!("element {n}"), "NOQUANT"));
            }
        }
        // As old as Redis itself, so that the moment is the same whichever engine is asked to set it.
        let kinds = ["text", "list:small", "set:numbers", "zset:odd", "hash:big"];
        all.extend(kinds.iter().zip(0..).map(|(kind, n)| {
            let at = FAR * 1000 + n;
            words!("PEXPIREAT", format!("{by}:{kind}"), at.to_string())
        }));
        run(connection, &all);
    }
    run(connection, &[words!("SELECT", "0")]);
    if knows(connection, "FUNCTION") {
        let name = by.replace(|letter: char| !letter.is_ascii_alphanumeric(), "_");
        let code = format!(
            "#!lua name=ladder_{name}\nredis.register_function('echo_{name}', function(keys, args) return args[1] .. '!' end)"
        );
        run(connection, &[words!("FUNCTION", "LOAD", "REPLACE", code)]);
    }
    if knows(connection, "ACL") {
        let user = format!("{USERS}{}", by.replace(' ', "-"));
        let off = format!("{user}-off");
        let password = format!(">{PASSWORD}");
        let mut reader =
            words!("ACL", "SETUSER", user, "on", password, "~cache:*", "-@all", "+get", "+publish", "+select");
        if knows_channels(connection) {
            reader.extend(words!("resetchannels", "&news:*"));
        }
        run(connection, &[reader, words!("ACL", "SETUSER", off, "off", password, "~*", "+@all")]);
    }
}

/// Reads all that is there.
pub(crate) fn read(address: SocketAddr, password: &str) -> Contents {
    let mut connection = Connection::open(address, Some(password)).expect("the engine answers at its address");
    let mut contents = Contents { exact: knows(&mut connection, "PEXPIRETIME"), ..Contents::default() };
    for database in databases(&mut connection) {
        run(&mut connection, &[words!("SELECT", database)]);
        for key in scan(&mut connection) {
            read_key(&mut connection, &database, &key, &mut contents);
        }
    }
    if knows(&mut connection, "FUNCTION") {
        for library in ask(&mut connection, &words!("FUNCTION", "LIST", "WITHCODE")).items() {
            let facts = pairs(library);
            let name = format!("function library {}", facts["library_name"]);
            contents.values.insert(name, facts["library_code"].clone());
            let echo = facts["library_name"].replacen("ladder", "echo", 1);
            let answer = connection.ask(&["FCALL", &echo, "0", "hello"]);
            contents.values.insert(format!("function {echo}"), format!("{answer:?}"));
        }
    }
    if knows(&mut connection, "ACL") {
        let users = ask(&mut connection, &words!("ACL", "USERS")).items();
        let names = users.iter().map(told).filter(|name| name.starts_with(USERS));
        for name in names {
            let may = what_it_may(address, &name);
            contents.values.insert(format!("user {name}"), may);
        }
    }
    contents
}

fn strings(by: &str) -> Vec<Command> {
    let every_byte: Vec<u8> = (0..=255).collect();
    let mut binary_key = format!("{by}:").into_bytes();
    binary_key.extend(&every_byte);
    let mut hyperloglog = words!("PFADD", format!("{by}:hll:dense"));
    hyperloglog.extend((0..5000).map(|n: u32| format!("visitor {n}").into_bytes()));
    vec![
        words!("SET", format!("{by}:text"), "a text"),
        words!("SET", format!("{by}:empty"), ""),
        words!("SET", format!("{by}:number"), "-9223372036854775808"),
        words!("SET", format!("{by}:small number"), "7"),
        words!("SET", format!("{by}:float"), "0.1"),
        words!("SET", format!("{by}:44"), "x".repeat(44)),
        words!("SET", format!("{by}:45"), "x".repeat(45)),
        words!("SET", format!("{by}:compressible"), "abc".repeat(40_000)),
        words!("SET", format!("{by}:noise"), noise(300_000)),
        words!("SET", format!("{by}:every byte"), every_byte),
        words!("SET", binary_key, "a key of every byte"),
        words!("SET", format!("{by}:{}", "k".repeat(2000)), "a long key"),
        words!("SETBIT", format!("{by}:bits"), "100001", "1"),
        words!("PFADD", format!("{by}:hll:sparse"), "a", "b", "c"),
        hyperloglog,
        // Counted once, so that counting again changes nothing in the value.
        words!("PFCOUNT", format!("{by}:hll:sparse")),
        words!("PFCOUNT", format!("{by}:hll:dense")),
    ]
}

fn collections(by: &str) -> Vec<Command> {
    let with = |command: &str, key: &str, items: Vec<Vec<u8>>| {
        let mut all = words!(command, format!("{by}:{key}"));
        all.extend(items);
        all
    };
    let many = |count: u32, word: &str| (0..count).map(|n| format!("{word} {n}").into_bytes()).collect::<Vec<_>>();
    let fields = |count: u32, length: usize| {
        (0..count)
            .flat_map(|n| [format!("field {n}").into_bytes(), format!("{n}{}", "v".repeat(length)).into_bytes()])
            .collect()
    };
    let scored = |count: u32| {
        (0..count)
            .flat_map(|n| [format!("{}.5", n * 7 % 1000).into_bytes(), format!("member {n}").into_bytes()])
            .collect()
    };
    let odd = [
        "inf",
        "-inf",
        "0",
        "-0.5",
        "0.1",
        "1e308",
        "5e-324",
        "9007199254740993",
        "3.141592653589793",
        "-1e-17",
        "1e21",
    ];
    vec![
        with("RPUSH", "list:small", words!("1", "-2", "three", "", noise(40))),
        with("RPUSH", "list:big", many(3000, "item")),
        with("RPUSH", "list:huge items", words!("x".repeat(20_000), noise(20_000), "small")),
        with("SADD", "set:numbers", (0..100).map(|n: i32| (n * 3 - 50).to_string().into_bytes()).collect()),
        with("SADD", "set:wide numbers", words!("1", "70000", "5000000000", "-9223372036854775808")),
        with("SADD", "set:many numbers", (0..1000).map(|n: i32| n.to_string().into_bytes()).collect()),
        with("SADD", "set:small", words!("a", "b", "17", "")),
        with("SADD", "set:big", many(2000, "member")),
        with("HMSET", "hash:small", fields(5, 3)),
        with("HMSET", "hash:long values", fields(5, 100)),
        with("HMSET", "hash:big", fields(2000, 10)),
        with("HMSET", "hash:binary", words!("", "empty field", [0_u8, 255], noise(30))),
        with("ZADD", "zset:small", scored(6)),
        with("ZADD", "zset:big", scored(2000)),
        with("ZADD", "zset:odd", odd.iter().flat_map(|s| words!(s, format!("scored {s}"))).collect()),
        with("GEOADD", "geo", words!("13.361389", "38.115556", "Palermo", "15.087269", "37.502669", "Catania")),
    ]
}

fn streams(by: &str) -> Vec<Command> {
    let key = format!("{by}:stream");
    let mut all: Vec<Command> = (1..=400)
        .map(|n| {
            let mut entry = words!("XADD", key, format!("{n}-{n}"), "field", format!("value {n}"));
            if n % 3 == 0 {
                entry.extend(words!("another", noise(20)));
            }
            entry
        })
        .collect();
    all.extend([
        words!("XDEL", key, "5-5", "6-6"),
        words!("XGROUP", "CREATE", key, "readers", "0"),
        words!("XGROUP", "CREATE", key, "at the end", "$"),
        words!("XREADGROUP", "GROUP", "readers", "alice", "COUNT", "10", "STREAMS", key, ">"),
        words!("XREADGROUP", "GROUP", "readers", "bob", "COUNT", "4", "STREAMS", key, ">"),
        words!("XACK", key, "readers", "1-1", "2-2", "12-12"),
        words!("XTRIM", key, "MAXLEN", "350"),
        // One that was emptied and remembers how far it was.
        words!("XADD", format!("{by}:stream:emptied"), "9-1", "a", "b"),
        words!("XDEL", format!("{by}:stream:emptied"), "9-1"),
        words!("XGROUP", "CREATE", format!("{by}:stream:new"), "waiting", "$", "MKSTREAM"),
    ]);
    all
}

/// Bytes that do not compress, always the same.
fn noise(length: usize) -> Vec<u8> {
    let blocks = (0_u32..).flat_map(|n| Sha256::digest(n.to_le_bytes()).to_vec());
    blocks.take(length).collect()
}

fn read_key(connection: &mut Connection, database: &str, key: &[u8], into: &mut Contents) {
    let kind = told(&ask(connection, &words!("TYPE", key)));
    let name = shorten(&format!("db{database} {}", key.escape_ascii()));
    let read = |connection: &mut Connection, command: &[&str]| {
        let mut words = words!(command[0], key);
        words.extend(command[1..].iter().map(|word| word.as_bytes().to_vec()));
        ask(connection, &words)
    };
    let value = match kind.as_str() {
        "string" => {
            let value = told(&read(connection, &["GET"]));
            // Asking costs nothing and changes nothing where the count is cached; others answer with an error.
            let is_counted = name.contains(":hll:");
            let count = if is_counted { told(&read(connection, &["PFCOUNT"])) } else { String::new() };
            format!("{value} {count}")
        }
        "list" => told(&read(connection, &["LRANGE", "0", "-1"])),
        "set" => sorted(read(connection, &["SMEMBERS"]).items(), 1),
        "hash" => {
            let fields = sorted(read(connection, &["HGETALL"]).items(), 2);
            let mortal = name
                .ends_with(":mortal")
                .then(|| told(&read(connection, &["HPEXPIRETIME", "FIELDS", "2", "mortal", "eternal"])));
            format!("{fields} {}", mortal.unwrap_or_default())
        }
        "zset" => {
            let pairs = read(connection, &["ZRANGE", "0", "-1", "WITHSCORES"]).items();
            let scored = pairs.chunks(2).map(|pair| {
                let score: f64 = told(&pair[1]).parse().expect("a score");
                format!("{} {:x}", told(&pair[0]), score.to_bits())
            });
            scored.collect::<Vec<_>>().join(", ")
        }
        "stream" => read_stream(connection, key),
        "vectorset" => {
            let elements = (0..20).map(|n| told(&read(connection, &["VEMB", &format!("element {n}")])));
            elements.collect::<Vec<_>>().join("; ")
        }
        other => panic!("{name} is a {other}: this test cannot compare it"),
    };
    into.values.insert(name.clone(), format!("{kind} {}", shorten(&value)));
    let expiry = if into.exact {
        number(&ask(connection, &words!("PEXPIRETIME", key)))
    } else {
        let mut both = connection.pipeline([words!("TIME"), words!("PTTL", key)]).expect("answers").into_iter();
        let time = both.next().expect("an answer").items();
        let now: i64 = told(&time[0]).parse::<i64>().expect("seconds") * 1000
            + told(&time[1]).parse::<i64>().expect("microseconds") / 1000;
        match number(&both.next().expect("an answer")) {
            left if left < 0 => left,
            left => now + left,
        }
    };
    if expiry >= 0 {
        into.expiries.insert(name, expiry);
    }
}

/// Entries, and of groups and consumers what every version since 5.0 tells.
fn read_stream(connection: &mut Connection, key: &[u8]) -> String {
    let mut all = vec![told(&ask(connection, &words!("XRANGE", key, "-", "+")))];
    let pick = |facts: &BTreeMap<String, String>, names: &[&str]| {
        names.iter().map(|name| facts[*name].clone()).collect::<Vec<_>>().join(" ")
    };
    let stream = pairs(ask(connection, &words!("XINFO", "STREAM", key)));
    all.push(pick(&stream, &["length", "last-generated-id", "groups"]));
    for group in ask(connection, &words!("XINFO", "GROUPS", key)).items() {
        let group = pairs(group);
        all.push(pick(&group, &["name", "consumers", "pending", "last-delivered-id"]));
        let name = &group["name"];
        for consumer in ask(connection, &words!("XINFO", "CONSUMERS", key, name)).items() {
            all.push(pick(&pairs(consumer), &["name", "pending"]));
        }
        for pending in ask(connection, &words!("XPENDING", key, name, "-", "+", "1000")).items() {
            // How long it has been idle is different whenever it is asked.
            let facts: Vec<_> = pending.items().iter().map(told).collect();
            all.push(format!("{} {} {}", facts[0], facts[1], facts[3]));
        }
    }
    all.join("; ")
}

fn what_it_may(address: SocketAddr, user: &str) -> String {
    let mut connection = Connection::open(address, None).expect("the engine answers at its address");
    let mut tried = Vec::new();
    for command in [
        vec!["AUTH", user, PASSWORD],
        vec!["GET", "cache:1"],
        vec!["GET", "other:1"],
        vec!["SET", "cache:1", "x"],
        vec!["PUBLISH", "news:1", "x"],
    ] {
        let answer = match connection.ask(&command) {
            Ok(_) => "may".to_owned(),
            Err(error) => error.to_string().split(' ').next().unwrap_or_default().to_owned(),
        };
        tried.push(format!("{}: {answer}", command[0]));
    }
    tried.join(", ")
}

fn databases(connection: &mut Connection) -> Vec<String> {
    let keyspace = String::from_utf8(ask(connection, &words!("INFO", "keyspace")).text().unwrap_or_default().to_vec());
    let keyspace = keyspace.expect("text");
    let names = keyspace.lines().filter_map(|line| line.split_once(':')?.0.strip_prefix("db"));
    names.map(str::to_owned).collect()
}

fn scan(connection: &mut Connection) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    let mut cursor = b"0".to_vec();
    loop {
        let mut page = ask(connection, &words!("SCAN", cursor, "COUNT", "1000")).items().into_iter();
        cursor = page.next().and_then(|next| next.text().map(<[u8]>::to_vec)).expect("a cursor");
        keys.extend(page.flat_map(Reply::items).filter_map(|key| key.text().map(<[u8]>::to_vec)));
        if cursor == b"0" {
            keys.sort();
            keys.dedup();
            return keys;
        }
    }
}

/// Whether the engine has this command.
fn knows(connection: &mut Connection, command: &str) -> bool {
    let known = ask(connection, &words!("COMMAND", "INFO", command)).items();
    !matches!(known.first(), None | Some(Reply::Nothing))
}

/// Users have rules for channels where somebody made without any is shown with one.
fn knows_channels(connection: &mut Connection) -> bool {
    let rules = ask(connection, &words!("ACL", "LIST"));
    told(&rules).contains('&')
}

#[track_caller]
fn ask(connection: &mut Connection, command: &Command) -> Reply {
    let mut replies = connection.pipeline([command]).expect("the engine answers");
    match replies.pop() {
        Some(Reply::Error(error)) => {
            panic!("{}: {error}", command.iter().map(|w| w.escape_ascii().to_string()).collect::<Vec<_>>().join(" "))
        }
        Some(reply) => reply,
        None => panic!("no answer"),
    }
}

#[track_caller]
fn run(connection: &mut Connection, commands: &[Command]) {
    for batch in commands.chunks(100) {
        let replies = connection.pipeline(batch).expect("the engine answers");
        for (reply, command) in replies.iter().zip(batch) {
            let said = command.iter().take(3).map(|word| shorten(&word.escape_ascii().to_string())).collect::<Vec<_>>();
            assert!(!matches!(reply, Reply::Error(_)), "{said:?}: {reply:?}");
        }
    }
}

fn number(reply: &Reply) -> i64 {
    match reply {
        Reply::Number(number) => *number,
        other => panic!("{other:?} is no number"),
    }
}

/// A list of names and values, as many commands answer.
fn pairs(reply: Reply) -> BTreeMap<String, String> {
    let items = reply.items();
    items.chunks(2).filter(|pair| pair.len() == 2).map(|pair| (told(&pair[0]), raw(&pair[1]))).collect()
}

fn raw(reply: &Reply) -> String {
    match reply {
        Reply::Text(text) => String::from_utf8_lossy(text).into_owned(),
        other => told(other),
    }
}

fn sorted(items: Vec<Reply>, group: usize) -> String {
    let mut all: Vec<_> =
        items.chunks(group).map(|group| group.iter().map(told).collect::<Vec<_>>().join("=")).collect();
    all.sort();
    all.join(", ")
}

/// An answer in letters.
fn told(reply: &Reply) -> String {
    match reply {
        Reply::Text(text) => text.escape_ascii().to_string(),
        Reply::Number(number) => number.to_string(),
        Reply::Nothing => "nothing".to_owned(),
        Reply::List(items) => format!("[{}]", items.iter().map(told).collect::<Vec<_>>().join(", ")),
        Reply::Error(error) => format!("error {error}"),
    }
}

/// The same, or its beginning and its digest.
fn shorten(text: &str) -> String {
    if text.len() <= TOLD {
        return text.to_owned();
    }
    format!("{}... {} bytes, sha256 {:x}", &text[..40], text.len(), Sha256::digest(text))
}
