//! Settings of MariaDB and MySQL at upgrades, as tenants meet them.

use coffer_core::datastore::Version;
use coffer_core::engine::sql::in_force::is_in_force;
use coffer_core::engine::sql::parameters::{self, Kind};
use coffer_core::engine::sql::settings::is_owned;
use coffer_core::engine::{Fate, Policy, SettingsChange, change_settings, check_settings};
use coffer_core::finding::{Finding, refuses};
use coffer_core::spec::Settings;
use coffer_testkit::fixture;

/// What newer engines do not have any more, by the engine that has it.
const REMOVED: &str = include_str!("settings/removed.cnf");

fn version(label: &str) -> Version {
    let (datastore, number) = label.split_once(' ').expect(label);
    fixture::version(0, datastore.parse().expect(label), number)
}

fn settings(text: &str) -> Settings {
    let pairs = text.split("; ").filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect()
}

fn change(from: &str, to: &str, text: &str) -> SettingsChange {
    change_settings(&version(from), &version(to), &settings(text), Policy::default())
}

fn check(label: &str, text: &str) -> Vec<Finding> {
    check_settings(&version(label), &settings(text))
}

/// The first fate, in few words.
fn told(change: &SettingsChange) -> String {
    match &change.0[0] {
        Fate::Kept { .. } => "kept".to_owned(),
        Fate::Translated { to_name, to_value, .. } => format!("{to_name}={to_value}"),
        Fate::Dropped { .. } => "dropped".to_owned(),
        Fate::Pinned { name, value, .. } => format!("pinned {name}={value}"),
        Fate::DefaultChanged { .. } => "default changed".to_owned(),
        Fate::Refused { .. } => "refused".to_owned(),
    }
}

fn newer_than(label: &str) -> Vec<&'static str> {
    let all = ["mariadb 10.11.19", "mariadb 11.8.9", "mysql 9.7.4"];
    let from = version(label);
    let newer = all.into_iter().filter(|to| {
        let to = version(to);
        to.datastore == from.datastore && to.number > from.number
    });
    newer.collect()
}

#[test]
fn every_removed_setting_goes_to_every_newer_engine_without_a_person() {
    let mut tried = 0;
    for section in REMOVED.split("\n[").skip(1) {
        let (from, lines) = section.split_once("]\n").expect("a section");
        let all: Settings = settings(&lines.trim().replace('\n', "; "));
        for to in newer_than(from) {
            let target = version(to);
            let accepted = |some: &Settings| {
                let change = change_settings(&version(from), &target, some, Policy::default());
                assert!(!refuses(&change.findings()), "{from} to {to}: {:?}", change.findings());
                let found = check_settings(&target, &change.after());
                assert_eq!(found, [], "{from} to {to}");
            };
            accepted(&all);
            for (name, value) in &all {
                // A collation without its character set is refused by the old engine, too.
                if name != "collation_server" {
                    accepted(&Settings::from([(name.clone(), value.clone())]));
                    tried += 1;
                }
            }
        }
    }
    assert!(tried > 200, "{tried} settings tried");
}

#[test]
fn settings_that_the_old_engine_has_are_known_to_it() {
    for section in REMOVED.split("\n[").skip(1) {
        let (from, lines) = section.split_once("]\n").expect("a section");
        if from.starts_with("mariadb") {
            assert_eq!(check_settings(&version(from), &settings(&lines.trim().replace('\n', "; "))), [], "{from}");
        }
    }
}

#[test]
fn every_default_is_a_value_that_the_engine_takes_and_that_goes_to_the_next() {
    for label in ["mariadb 10.5.23", "mariadb 10.11.19", "mariadb 11.8.9", "mysql 9.7.4"] {
        let engine = version(label);
        let all = parameters::all(engine.datastore, engine.number).iter();
        let chosen = all.filter(|(name, p)| !is_owned(name) && p.kind != Kind::Obsolete && !p.default.is_empty());
        let defaults: Settings = chosen.map(|(name, p)| ((*name).to_owned(), p.default.to_owned())).collect();
        assert!(defaults.len() > 400, "{label}: {}", defaults.len());
        assert_eq!(check_settings(&engine, &defaults), [], "{label}");
        for to in newer_than(label) {
            let change = change_settings(&engine, &version(to), &defaults, Policy::default());
            assert!(!refuses(&change.findings()), "{label} to {to}: {:?}", change.findings());
            assert_eq!(check_settings(&version(to), &change.after()), [], "{label} to {to}");
        }
    }
}

#[test]
fn no_setting_reaches_further_than_the_volume_or_shuts_the_agent_out() {
    for setting in [
        "innodb_data_file_path=../run/ibdata1:12M:autoextend",
        "innodb_temp_data_file_path=../run/x:12M:autoextend",
        "innodb_buffer_pool_filename=../run/pool",
        "relay_log=/run/relay",
        "log_tc=/run/tc",
        "myisam_use_mmap=ON",
        "unix_socket=OFF",
        "skip_unix_socket=ON",
        "wsrep_provider=/data/x.so",
        "loose_wsrep_notify_cmd=/bin/sh",
        "feedback_url=http://example.org",
        "feedback=ON",
    ] {
        for engine in ["mariadb 10.5.23", "mariadb 11.8.9"] {
            assert_eq!(check(engine, setting)[0].id, "settings.owned", "{setting} of {engine}");
        }
    }
}

#[test]
fn what_an_engine_shows_is_what_it_was_told_by_its_meaning() {
    let engine = version("mariadb 10.11.19");
    for (name, wanted, shown, in_force) in [
        ("max_allowed_packet", "16M", "16777216", true),
        ("max_allowed_packet", "16M", "8388608", false),
        ("max_allowed_packet", "1000000", "999424", true),
        ("net_retry_count", "10", "11", false),
        ("long_query_time", "0.5", "0.500000", true),
        ("long_query_time", "0.5", "10.000000", false),
        ("local_infile", "0", "OFF", true),
        ("local_infile", "0", "ON", false),
        ("sql_mode", "ansi_quotes", "PIPES_AS_CONCAT,ANSI_QUOTES", true),
        ("sql_mode", "ANSI_QUOTES", "PIPES_AS_CONCAT", false),
        ("optimizer_switch", "mrr=on,index_merge=default", "index_merge=on,mrr=on", true),
        ("optimizer_switch", "mrr=on", "mrr=off", false),
        ("character_set_server", "utf8", "utf8mb3", true),
        ("innodb_flush_method", "fsync", "fsync", true),
        ("no_such_setting", "1", "2", true),
    ] {
        let shows = is_in_force((engine.datastore, engine.number), name, wanted, shown);
        assert_eq!(shows, in_force, "{name}: {wanted} and {shown}");
    }
}

#[test]
fn each_setting_has_the_fate_that_the_engines_showed() {
    const M5: &str = "mariadb 10.5.23";
    const M10: &str = "mariadb 10.11.19";
    const M11: &str = "mariadb 11.8.9";
    const OLD: &str = "mysql 8.0.40";
    const NEW: &str = "mysql 9.7.4";
    for (from, to, setting, fate) in [
        (M5, M10, "max_connections=500", "kept"),
        (M5, M10, "innodb_mutexes=OFF", "dropped"),
        (M5, M10, "innodb_page_cleaners=4", "dropped"),
        (M5, M10, "expire_logs_days=7", "kept"),
        (M5, M10, "innodb_log_file_size=1G", "kept"),
        (M5, M10, "innodb_log_file_size=1M", "innodb_log_file_size=4194304"),
        (M5, M10, "innodb_io_capacity=5000000000", "innodb_io_capacity=4294967295"),
        (M5, M10, "old_mode=NO_PROGRESS_INFO", "old_mode=NO_PROGRESS_INFO,UTF8_IS_UTF8MB3"),
        (M5, M10, "old_mode=", "old_mode=UTF8_IS_UTF8MB3"),
        (M10, M11, "old_mode=", "kept"),
        (M10, M11, "tx_isolation=SERIALIZABLE", "transaction_isolation=SERIALIZABLE"),
        (M10, M11, "transaction-isolation=SERIALIZABLE", "transaction_isolation=SERIALIZABLE"),
        (M10, M11, "loose_datadir=/etc", "dropped"),
        (M10, M11, "loose_max_connections=500", "max_connections=500"),
        (M10, M11, "old_alter_table=COPY", "dropped"),
        (M10, M11, "innodb_doublewrite=TRUE", "innodb_doublewrite=ON"),
        (M10, M11, "innodb_doublewrite=0", "innodb_doublewrite=OFF"),
        (M10, M11, "optimizer_switch=mrr=on,engine_condition_pushdown=on", "optimizer_switch=mrr=on"),
        (M10, M11, "optimizer_switch=engine_condition_pushdown=on", "dropped"),
        (M10, M11, "query_cache_size=1M", "kept"),
        (M10, M11, "innodb_change_buffer_max_size=10", "dropped"),
        (OLD, NEW, "expire_logs_days=7", "binlog_expire_logs_seconds=604800"),
        (OLD, NEW, "expire_logs_days=0", "binlog_expire_logs_seconds=0"),
        (OLD, NEW, "innodb_log_file_size=512M", "innodb_redo_log_capacity=1073741824"),
        (OLD, NEW, "innodb_log_file_size=512M; innodb_log_files_in_group=4", "innodb_redo_log_capacity=2147483648"),
        (OLD, NEW, "innodb_log_files_in_group=4", "innodb_redo_log_capacity=201326592"),
        (OLD, NEW, "innodb_log_file_size=1M", "innodb_redo_log_capacity=8388608"),
        (OLD, NEW, "innodb_log_file_size=512M; innodb_redo_log_capacity=1G", "dropped"),
        (OLD, NEW, "slave_net_timeout=30", "replica_net_timeout=30"),
        (OLD, NEW, "master_verify_checksum=ON", "source_verify_checksum=ON"),
        (OLD, NEW, "log_slave_updates=ON", "log_replica_updates=ON"),
        (OLD, NEW, "slave_parallel_type=DATABASE", "dropped"),
        (OLD, NEW, "tx_isolation=READ-COMMITTED", "transaction_isolation=READ-COMMITTED"),
        (OLD, NEW, "query_cache_size=1M", "dropped"),
        (OLD, NEW, "log_warnings=1", "log_error_verbosity=2"),
        (OLD, NEW, "skip_host_cache=ON", "host_cache_size=0"),
        (OLD, NEW, "character_set_server=utf8", "character_set_server=utf8mb3"),
        (OLD, NEW, "tls_version=TLSv1,TLSv1.2", "tls_version=TLSv1.2"),
        (OLD, NEW, "sql_mode=NO_AUTO_CREATE_USER,ANSI_QUOTES", "sql_mode=ANSI_QUOTES"),
        (OLD, NEW, "sql_mode=NO_AUTO_CREATE_USER", "sql_mode="),
        (OLD, NEW, "default_authentication_plugin=mysql_native_password", "dropped"),
        (
            OLD,
            NEW,
            "default_authentication_plugin=caching_sha2_password",
            "authentication_policy=caching_sha2_password,,",
        ),
        (OLD, NEW, "binlog_format=NONE_OF_THESE", "refused"),
        (OLD, NEW, "max_connections=many", "refused"),
    ] {
        assert_eq!(told(&change(from, to, setting)), fate, "{setting} from {from} to {to}");
        if from == OLD {
            assert_eq!(told(&change("mysql 8.4.7", to, setting)), fate, "{setting} from 8.4 to {to}");
        }
    }
}

#[test]
fn what_clients_would_feel_is_pinned_unless_the_new_way_is_adopted() {
    let pinned = |from: &str, to: &str, text: &str, policy: Policy| {
        let change = change_settings(&version(from), &version(to), &settings(text), policy);
        let pins = change.0.iter().filter_map(|fate| match fate {
            Fate::Pinned { name, value, .. } => Some(format!("{name}={value}")),
            _ => None,
        });
        pins.collect::<Vec<_>>()
    };
    let (m5, m10, m11) = ("mariadb 10.5.23", "mariadb 10.11.19", "mariadb 11.8.9");
    assert_eq!(pinned(m5, m10, "", Policy::Preserve), ["explicit_defaults_for_timestamp=OFF"]);
    let to_11 = ["character_set_collations=", "character_set_server=latin1", "collation_server=latin1_swedish_ci"];
    assert_eq!(pinned(m10, m11, "", Policy::Preserve), [&to_11[..], &["innodb_snapshot_isolation=OFF"]].concat());
    assert_eq!(
        pinned(m5, m11, "", Policy::Preserve),
        [&to_11[..], &["explicit_defaults_for_timestamp=OFF", "innodb_snapshot_isolation=OFF"]].concat()
    );
    assert_eq!(pinned(m10, m11, "", Policy::Adopt), [""; 0]);
    assert_eq!(pinned("mariadb 10.11.18", m10, "", Policy::Preserve), [""; 0]);
    assert_eq!(pinned("mysql 9.7.2", "mysql 9.7.4", "", Policy::Preserve), [""; 0]);
    assert_eq!(pinned("mysql 8.0.40", "mysql 9.7.4", "", Policy::Preserve), [""; 0]);
    // A character set that was chosen has its own collation, as before.
    assert_eq!(
        pinned(m10, m11, "character_set_server=utf8mb4; innodb_snapshot_isolation=ON", Policy::Preserve),
        ["character_set_collations="]
    );
    // A collation that was chosen needs its character set, whatever the policy.
    let adopted = pinned(m10, m11, "collation_server=latin1_german1_ci", Policy::Adopt);
    assert_eq!(adopted, ["character_set_server=latin1"]);
}

#[test]
fn what_was_pinned_is_what_the_target_is_started_with_and_it_stays() {
    let first = change("mariadb 10.5.23", "mariadb 10.11.19", "max_connections=500").after();
    assert_eq!(first, settings("explicit_defaults_for_timestamp=OFF; max_connections=500"));
    let second = change_settings(&version("mariadb 10.11.19"), &version("mariadb 11.8.9"), &first, Policy::Preserve);
    assert_eq!(second.after()["explicit_defaults_for_timestamp"], "OFF");
    assert_eq!(check_settings(&version("mariadb 11.8.9"), &second.after()), []);
}

#[test]
fn a_default_that_changes_is_told_with_what_differs() {
    let adopted = change_settings(
        &version("mariadb 10.11.19"),
        &version("mariadb 11.8.9"),
        &settings("innodb_undo_tablespaces=0"),
        Policy::Adopt,
    );
    let changed = |wanted: &str| {
        adopted.0.iter().find_map(|fate| match fate {
            Fate::DefaultChanged { name, before, after, .. } if name == wanted => Some((before.clone(), after.clone())),
            _ => None,
        })
    };
    let pair = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
    assert_eq!(changed("innodb_snapshot_isolation"), pair("OFF", "ON"));
    assert_eq!(changed("character_set_server"), pair("latin1", "utf8mb4"));
    assert_eq!(changed("innodb_undo_tablespaces"), None, "somebody chose it");
    assert_eq!(changed("lc_messages_dir"), None, "it is coffer's");
    let (before, after) = changed("optimizer_switch").expect("another default");
    assert_eq!(before, "engine_condition_pushdown=off,hash_join_cardinality=off,cset_narrowing=off");
    assert!(after.contains("cset_narrowing=on") && !after.contains("index_merge"), "{after}");
}

#[test]
fn everything_that_is_wrong_with_settings_is_told_at_once() {
    let all = "datadir=/etc; max_conections=5; max_connections=5; sql_mode=NONE; innodb_file_per_table=maybe; \
               event_scheduler=ON; transaction-isolation=SERIALIZABLE; collation_server=utf8mb4_bin; init_connect=a\nb; \
               innodb_buffer_pool_size=1G; optimizer_switch=mrr=on,default; plugin_dir=/tmp; long_query_time=0.5";
    let found: Vec<_> = check("mariadb 10.11.19", all).iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "setting datadir: it is set by coffer itself and cannot be chosen (leave it out)",
            "setting init_connect: its value has control characters (give init_connect another value)",
            "setting innodb_file_per_table: 'maybe' is not possible: it is ON or OFF (give innodb_file_per_table another value)",
            "setting max_conections: mariadb 10.11.19 has no such setting (did you mean max_connections?)",
            "setting max_connections: '5' is not possible: it is a whole number from 10 to 100000 (give max_connections another value)",
            "setting plugin_dir: it is set by coffer itself and cannot be chosen (leave it out)",
            &found[6],
            "setting transaction-isolation: mariadb 10.11.19 has no such setting (its name there is transaction_isolation)",
            "setting collation_server: 'utf8mb4_bin' is not a collation of the character set 'latin1': no server starts on that \
             (set character_set_server as well)",
        ]
    );
    assert!(
        found[6].starts_with("setting sql_mode: 'NONE' is not possible: it is any of REAL_AS_FLOAT"),
        "{}",
        found[6]
    );
}

#[test]
fn a_series_that_nobody_asked_warns_where_a_known_one_refuses() {
    assert!(refuses(&check("mysql 9.7.4", "expire_logs_days=7")));
    assert!(!refuses(&check("mysql 8.0.40", "expire_logs_days=7")));
    for other_spelling in
        ["datadir", "datad", "loose-datadir", "loose_loose_datadir", "DATADIR", "skip-grant-tables", "grant_tab"]
    {
        for label in ["mysql 8.0.40", "mysql 9.7.4"] {
            assert!(refuses(&check(label, &format!("{other_spelling}=/etc"))), "{other_spelling} on {label}");
        }
    }
    assert!(refuses(&check("mysql 9.7.4", "character_set_server=utf8; collation_server=utf8_general_ci")));
    assert_eq!(check("mysql 9.7.4", "character_set_server=utf8mb3; collation_server=utf8mb3_general_ci"), []);
}

#[test]
fn what_only_the_agent_sets_is_refused_however_it_is_written() {
    for name in [
        "datadir",
        "Skip-Grant-Tables",
        "loose_plugin-load",
        "skip_networking",
        "plugin_loa",
        "innodb_fast_shutdown",
        "a\nb",
        "",
        "a=b",
    ] {
        let settings = [(name.to_owned(), "1".to_owned())].into();
        assert!(refuses(&check_settings(&version("mariadb 10.11.19"), &settings)), "{name:?}");
    }
}
