use std::collections::{BTreeMap, BTreeSet};

use super::super::facts::{Account, Busy, Column, Facts, Program, Source, Work};
use super::super::features::Changes;
use super::{Checks, DISK_RESERVE, REBUILT_A_SECOND, check, loses_compression};
use crate::datastore::{Datastore, Version};
use crate::finding::Severity;
use crate::flavor::Flavor;
use crate::spec::EngineSpec;

const GIB: u64 = 1 << 30;

fn spec(number: &str) -> EngineSpec {
    let flavor = Flavor { id: "1".into(), name: "small".into(), ram_mib: 1024, vcpus: 1 };
    EngineSpec::new(
        &Version::labelled(&format!("mariadb {number}")),
        &flavor,
        10,
        [127, 20, 0, 5].into(),
        BTreeMap::new(),
    )
}

/// One on which nothing is wrong.
fn sound() -> Facts {
    Facts {
        variables: map(&[
            ("innodb_force_recovery", "0"),
            ("innodb_read_only", "0"),
            ("myisam_use_mmap", "0"),
            ("read_only", "0"),
        ]),
        plugins: [("InnoDB", None), ("mysql_native_password", None), ("ARCHIVE", Some("ha_archive.so"))]
            .map(|(plugin, library)| (plugin.to_owned(), library.map(str::to_owned)))
            .into(),
        target_libraries: Some(BTreeSet::from(["ha_archive.so".to_owned()])),
        engines: map(&[("InnoDB", "shop.orders"), ("ARCHIVE", "shop.log")]),
        data_bytes: GIB,
        free_bytes: 5 * GIB,
        ..Facts::default()
    }
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn told(findings: Vec<crate::finding::Finding>) -> Vec<String> {
    let severity = |severity| match severity {
        Severity::Error => 'E',
        Severity::Warning => 'W',
        Severity::Notice => 'N',
    };
    findings.into_iter().map(|f| format!("{} {} {}", severity(f.severity), f.id, f.object)).collect()
}

/// From 10.5 to 11.8, with this changed of a sound engine.
fn found(change: impl FnOnce(&mut Facts)) -> Vec<String> {
    let mut facts = sound();
    change(&mut facts);
    told(check(&facts, &spec("10.5.23"), &spec("11.8.9")))
}

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    assert_eq!(found(|_| {}), [""; 0]);
}

#[test]
fn the_state_of_the_server_is_judged() {
    for (name, expected) in [
        ("innodb_force_recovery", "E mariadb.recovery innodb_force_recovery"),
        ("innodb_read_only", "E mariadb.recovery innodb_read_only"),
        ("read_only", "N mariadb.read_only engine"),
    ] {
        assert_eq!(found(|f| drop(f.variables.insert(name.to_owned(), "1".to_owned()))), [expected]);
        assert_eq!(found(|f| drop(f.variables.insert(name.to_owned(), "OFF".to_owned()))), [""; 0]);
    }
    assert_eq!(found(|f| f.prepared = 1), ["E mariadb.xa engine"]);
    for (what, seconds, expected) in [
        (Work::Transaction, 59, "W mariadb.busy connection 7"),
        (Work::Transaction, 60, "E mariadb.busy connection 7"),
        (Work::Statement, 59, "W mariadb.busy connection 7"),
        (Work::Statement, 60, "E mariadb.busy connection 7"),
        (Work::Definition, 0, "E mariadb.ddl connection 7"),
        (Work::Backup, 0, "E mariadb.backup connection 7"),
    ] {
        let busy = Busy { connection: "7".into(), user: "app".into(), what, seconds };
        assert_eq!(found(|f| f.busy = vec![busy]), [expected]);
    }
}

#[test]
fn replication_is_judged_by_how_far_it_is_behind() {
    for (lag_seconds, expected) in [
        (None, "N mariadb.replica replication a"),
        (Some(60), "W mariadb.replica replication a"),
        (Some(61), "E mariadb.replica replication a"),
    ] {
        assert_eq!(found(|f| f.sources = vec![Source { name: "a".into(), lag_seconds }]), [expected]);
    }
    assert_eq!(found(|f| f.replicas = 1), ["W mariadb.replicas engine"]);
}

#[test]
fn room_is_counted_to_the_byte() {
    let needed = GIB + DISK_RESERVE;
    assert_eq!(found(|f| f.free_bytes = needed), [""; 0]);
    assert_eq!(found(|f| f.free_bytes = needed - 1), ["E mariadb.disk volume"]);
    let shared = |free_bytes| {
        found(|f| {
            f.free_bytes = free_bytes;
            f.shares_blocks = true;
        })
    };
    assert_eq!(shared(needed - 1), ["W mariadb.disk volume"]);
    assert_eq!(shared(DISK_RESERVE), ["W mariadb.disk volume"]);
    assert_eq!(shared(DISK_RESERVE - 1), ["E mariadb.disk volume"]);
    let full = |data_bytes| {
        found(|f| {
            f.data_bytes = data_bytes;
            f.free_bytes = 100 * GIB;
        })
    };
    let half = (10 * GIB - DISK_RESERVE) / 2;
    assert_eq!(full(half), [""; 0]);
    assert_eq!(full(half + 1), ["W mariadb.volume volume"]);
    // Of a table that is built anew there are two for a while.
    let rebuilt = found(|f| {
        f.versioned.insert("shop.past".to_owned(), 1 << 20);
        f.free_bytes = needed + (1 << 20) - 1;
    });
    assert_eq!(rebuilt, ["E mariadb.disk volume", "N mariadb.rebuild table shop.past"]);
}

#[test]
fn files_that_are_written_through_memory_are_found() {
    let mapped = found(|f| drop(f.variables.insert("myisam_use_mmap".to_owned(), "1".to_owned())));
    assert_eq!(mapped, ["E mariadb.mmap myisam_use_mmap"]);
}

#[test]
fn files_of_others_and_of_nobody_are_found() {
    assert_eq!(found(|f| f.foreign_files = vec!["data/x".into()]), ["E mariadb.files data/x"]);
    assert_eq!(found(|f| f.orphans = vec!["shop/#sql-1.ibd".into()]), ["W mariadb.orphan shop/#sql-1.ibd"]);
}

#[test]
fn what_the_target_lacks_is_found_with_who_needs_it() {
    let lacks = found(|f| f.target_libraries = Some(BTreeSet::new()));
    assert_eq!(lacks, ["E mariadb.plugin plugin ARCHIVE"]);
    let account = |plugin: &str| Account { name: "eve@%".into(), plugins: vec![plugin.into()] };
    assert_eq!(found(|f| f.accounts = vec![account("mysql_native_password")]), [""; 0]);
    assert_eq!(found(|f| f.accounts = vec![account("ed25519")]), ["W mariadb.auth user eve@%"]);
    let gone = found(|f| {
        f.accounts = vec![account("ed25519")];
        f.plugins.insert("ed25519".to_owned(), Some("auth_ed25519.so".to_owned()));
    });
    assert_eq!(gone, ["E mariadb.plugin plugin ed25519", "E mariadb.auth user eve@%"]);
    assert_eq!(found(|f| drop(f.engines.insert(String::new(), "shop.x".into()))), ["W mariadb.engine table shop.x"]);
    assert_eq!(found(|f| f.target_libraries = None), ["W mariadb.unchecked plugins"]);
    let component = |name: &str| found(|f| f.components = vec![name.to_owned()]);
    assert_eq!(component("file://ha_archive"), [""; 0]);
    assert_eq!(component("file://component_x"), ["E mariadb.plugin component component_x"]);
}

#[test]
fn versioned_tables_are_built_anew_only_across_the_new_end_of_time() {
    let mut facts = sound();
    for (bytes, expected) in [
        (10 * REBUILT_A_SECOND, "N mariadb.rebuild table shop.past"),
        (10 * REBUILT_A_SECOND + 1, "W mariadb.rebuild table shop.past"),
    ] {
        facts.versioned.insert("shop.past".to_owned(), bytes);
        assert_eq!(told(check(&facts, &spec("10.11.19"), &spec("11.8.9"))), [expected]);
    }
    assert_eq!(told(check(&facts, &spec("10.5.23"), &spec("10.11.19"))), [""; 0]);
    assert_eq!(told(check(&facts, &spec("11.8.6"), &spec("11.8.9"))), [""; 0]);
}

#[test]
fn compressed_tables_matter_where_the_target_does_not_write_to_them() {
    let facts = Facts { compressed: vec!["shop.packed".into()], ..sound() };
    for (value, expected) in [("ON", vec!["E mariadb.compressed table shop.packed"]), ("OFF", vec![])] {
        let mut to = spec("11.8.9");
        to.settings.insert("innodb_read_only_compressed".to_owned(), value.to_owned());
        assert_eq!(told(check(&facts, &spec("10.11.19"), &to)), expected);
    }
}

#[test]
fn compressed_pages_matter_where_the_target_cannot_read_them() {
    let tables = [("shop.squeezed", "lz4"), ("shop.old", "")].map(|(t, by)| (t.to_owned(), by.to_owned()));
    assert_eq!(
        found(|f| f.page_compressed = tables.into()),
        ["E mariadb.compressed table shop.squeezed", "W mariadb.compressed table shop.old"]
    );
    let loses = |from: &str, to: &str| loses_compression(&spec(from), &spec(to));
    assert!(loses("10.5.23", "10.11.19") && loses("10.6.1", "10.7.1"));
    assert!(!loses("10.5.23", "10.6.1") && !loses("10.11.19", "11.8.9"));
}

#[test]
fn names_and_texts_are_judged_by_what_came() {
    let column = |name: &str, kind: &str| Column {
        table: "shop.t".into(),
        name: name.into(),
        kind: kind.into(),
        ..Column::default()
    };
    assert_eq!(found(|f| f.columns = vec![column("offset", "int")]), ["W mariadb.word column shop.t.offset"]);
    assert_eq!(found(|f| f.columns = vec![column("offsets", "int")]), [""; 0]);
    let old = "datetime /* mariadb-5.3 */";
    assert_eq!(found(|f| f.columns = vec![column("d", old)]), ["W mariadb.temporal column shop.t.d"]);
    let named = |object: &str, name: &str| found(|f| f.names = vec![(object.into(), name.into())]);
    assert_eq!(named("table shop.vector", "vector"), ["W mariadb.word table shop.vector"]);
    assert_eq!(named("function shop.uuid_v7", "uuid_v7"), ["W mariadb.function function shop.uuid_v7"]);
    assert_eq!(named("procedure shop.uuid_v7", "uuid_v7"), [""; 0]);
    let program = |object: &str, text: &str| {
        let program = Program { object: object.into(), text: text.into(), ..Program::default() };
        found(|f| f.programs = vec![program])
    };
    assert_eq!(program("trigger shop.g", "SET @x = vector"), ["E mariadb.word trigger shop.g"]);
    assert_eq!(program("trigger shop.g", "SET @x = `vector`"), [""; 0]);
    let view = "select * from `information_schema`.`INNODB_MUTEXES`";
    assert_eq!(program("view shop.v", view), ["W mariadb.view view shop.v"]);
    assert_eq!(program("view shop.v", "select `t`.`vector` AS `vector` from `shop`.`t`"), [""; 0]);
}

#[test]
fn what_is_gone_is_judged_though_no_measured_mariadb_lost_it() {
    let changes = Changes {
        gone_functions: BTreeSet::from(["encode"]),
        gone_modes: BTreeSet::from(["NO_AUTO_CREATE_USER"]),
        gone_collations: BTreeSet::from(["latin9_swedish_ci"]),
        gone_plugins: BTreeSet::from(["OLD", "old_login"]),
        ..Changes::default()
    };
    let mut facts = Facts {
        columns: vec![
            Column { table: "a.t".into(), name: "g".into(), expression: "encode(`x`)".into(), ..Column::default() },
            Column {
                table: "a.t".into(),
                name: "c".into(),
                collation: "latin9_swedish_ci".into(),
                ..Column::default()
            },
        ],
        programs: vec![Program {
            object: "event a.e".into(),
            modes: "ANSI,NO_AUTO_CREATE_USER".into(),
            text: "SELECT Encode(1)".into(),
        }],
        accounts: vec![Account { name: "a@%".into(), plugins: vec!["old_login".into()] }],
        ..sound()
    };
    facts.engines.insert("OLD".into(), "a.t".into());
    facts.plugins.extend([("OLD".into(), None), ("old_login".into(), None)]);
    let (from, to) = (spec("10.5.23"), spec("11.8.9"));
    let found = told(Checks { facts: &facts, changes: &changes, from: &from, to: &to }.all());
    assert_eq!(
        found,
        [
            "E mariadb.engine table a.t",
            "E mariadb.auth user a@%",
            "E mariadb.function column a.t.g",
            "E mariadb.collation column a.t.c",
            "E mariadb.function event a.e",
            "E mariadb.mode event a.e",
        ]
    );
}

#[test]
fn functions_that_mysql_lost_are_found_wherever_they_are_called() {
    let spec = |number: &str| {
        let mut spec = spec(number);
        spec.image.datastore = Datastore::Mysql;
        spec
    };
    let program = |object: &str, text: &str| Program { object: object.into(), text: text.into(), ..Program::default() };
    let facts = Facts {
        columns: vec![Column {
            table: "a.t".into(),
            name: "digest".into(),
            expression: "sha(`x`)".into(),
            ..Column::default()
        }],
        programs: vec![
            program("view a.v", "select md5(`a`.`t`.`x`) AS `md5(x)` from `a`.`t`"),
            program("function a.f", "RETURN Sha1 (x)"),
            program("check a.c", "(`x` = md5(`y`))"),
            program("index a.t.i", "sha(`library`)"),
            program("trigger a.g", "SET NEW.x = SHA2(NEW.y, 256), NEW.md5 = 'sha1(x)'"),
        ],
        ..sound()
    };
    assert_eq!(
        told(check(&facts, &spec("8.4.9"), &spec("9.7.4"))),
        [
            "E mysql.function column a.t.digest",
            "E mysql.function view a.v",
            "E mysql.function function a.f",
            "E mysql.function check a.c",
            "E mysql.function index a.t.i",
        ]
    );
    assert_eq!(told(check(&facts, &spec("9.7.2"), &spec("9.7.4"))), [""; 0]);
}

#[test]
fn what_is_broken_already_and_what_was_not_looked_at_is_told() {
    let definers = vec![("view shop.v".to_owned(), "gone@%".to_owned())];
    assert_eq!(found(|f| f.definers = definers), ["W mariadb.definer view shop.v"]);
    assert_eq!(found(|f| f.broken_views = vec!["shop.v".into()]), ["W mariadb.view view shop.v"]);
    let unchecked = vec![("columns".to_owned(), "it took too long".to_owned())];
    assert_eq!(found(|f| f.unchecked = unchecked), ["W mariadb.unchecked columns"]);
}
