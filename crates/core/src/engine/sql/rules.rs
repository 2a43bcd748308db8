//! What the tables of parameters cannot say: why, and what takes the place of what.
//!
//! Facts are from the engines themselves (each rule was tried on the binaries by `engines/generate-sql-parameters --prove`)
//! and from their release notes.

use super::settings::integer;
use crate::datastore::Datastore;
use crate::spec::Settings;

/// What only the agent sets, or what is a command and no setting.
pub(super) const OWNED: &[&str] = &[
    "aria_log_dir_path",
    "basedir",
    "bind_address",
    "bootstrap",
    "character_sets_dir",
    "chroot",
    "console",
    "core_file",
    "daemonize",
    "datadir",
    "des_key_file",
    "early_plugin_load",
    "extra_port",
    "general_log_file",
    "init_file",
    "initialize",
    "initialize_insecure",
    "innodb_buffer_pool_filename",
    "innodb_data_file_path",
    "innodb_data_home_dir",
    "innodb_directories",
    "innodb_doublewrite_dir",
    "innodb_fast_shutdown",
    "innodb_force_recovery",
    "innodb_log_group_home_dir",
    "innodb_read_only",
    "innodb_redo_log_archive_dirs",
    "innodb_temp_data_file_path",
    "innodb_temp_tablespaces_dir",
    "innodb_tmpdir",
    "innodb_undo_directory",
    "lc_messages_dir",
    "log_basename",
    "log_bin",
    "log_bin_index",
    "log_ddl_recovery",
    "log_error",
    "log_isam",
    "log_slow_query_file",
    "log_tc",
    "master_info_file",
    // A file that is written through memory keeps its time: a copy that was made ahead would look like it.
    "myisam_use_mmap",
    "no_dd_upgrade",
    "no_monitor",
    "persisted_globals_load",
    "pid_file",
    "plugin_dir",
    "plugin_load",
    "plugin_load_add",
    "port",
    "read_only",
    "relay_log",
    "relay_log_index",
    "relay_log_info_file",
    "replica_load_tmpdir",
    "report_port",
    "secure_file_priv",
    "skip_grant_tables",
    "skip_name_resolve",
    "skip_log_bin",
    "skip_networking",
    "skip_replica_start",
    "skip_slave_start",
    "slave_load_tmpdir",
    "slow_query_log_file",
    "socket",
    "ssl_cert",
    "ssl_key",
    "symbolic_links",
    "tmpdir",
    // How the agent is let in.
    "unix_socket",
    "upgrade",
    "user",
    "validate_config",
];

/// Other doors into the server, which nobody guards, what makes it do something else than serve, programs that it would run
/// and places to which it would send what it knows.
pub(super) const OWNED_PREFIXES: &[&str] =
    &["admin_address", "admin_port", "feedback", "keyring_migration_", "mysqlx", "wsrep"];

/// Two names of one setting, the older first. The newer is used where the target has both.
pub(super) const RENAMED: &[(&str, &str)] = &[
    ("innodb_stats_sample_pages", "innodb_stats_transient_sample_pages"),
    ("storage_engine", "default_storage_engine"),
    ("tx_isolation", "transaction_isolation"),
    ("tx_read_only", "transaction_read_only"),
];

/// Words in names: MySQL says the newer ones since 8.0.26 and took the older ones away where they had become synonyms.
pub(super) const RENAMED_WORDS: &[(&str, &str)] = &[("slave", "replica"), ("master", "source")];

/// What takes the place of a setting that the target does not have.
pub(super) enum Answer {
    /// Another setting, with a value made of the old one and all other settings; `None` where no value of it would do.
    Becomes(&'static str, fn(&str, &Settings) -> Option<String>),
    /// Nothing, and that does no harm.
    Goes,
}

use Answer::{Becomes, Goes};

/// By name, what to do where the target does not have it or no value of this type, and why. The first answer that the target has is taken.
pub(super) const ANSWERS: &[(&str, Answer, &str)] = &[
    ("avoid_temporal_upgrade", Goes, "times are always stored in the newer format"),
    ("binlog_transaction_dependency_tracking", Goes, "dependencies are always tracked by the rows that were written"),
    ("debug_no_thread_alarm", Goes, "it was for those who look for faults in the server"),
    (
        "default_authentication_plugin",
        Becomes("authentication_policy", |plugin, _| {
            (plugin == "caching_sha2_password").then(|| format!("{plugin},,"))
        }),
        "new users are made with caching_sha2_password; mysql_native_password is gone",
    ),
    (
        "expire_logs_days",
        Becomes("binlog_expire_logs_seconds", |days, _| seconds(days)),
        "it is told in seconds: 86400 for each day",
    ),
    ("innodb_change_buffer_max_size", Goes, "there is no change buffer any more"),
    ("innodb_large_prefix", Goes, "indexes always take long prefixes"),
    (
        "innodb_log_file_size",
        Becomes("innodb_redo_log_capacity", |size, all| capacity(Some(size), all.get("innodb_log_files_in_group"))),
        "the redo log is one size: innodb_log_file_size times innodb_log_files_in_group",
    ),
    (
        "innodb_log_files_in_group",
        Becomes("innodb_redo_log_capacity", |files, all| match all.get("innodb_log_file_size") {
            Some(_) => None,
            None => capacity(None, Some(files)),
        }),
        "the redo log is one size: innodb_log_file_size times innodb_log_files_in_group",
    ),
    (
        "innodb_locks_unsafe_for_binlog",
        Goes,
        "transactions that are READ COMMITTED lock in that way, and each may choose to be",
    ),
    ("innodb_support_xa", Goes, "two-phase commit is always on"),
    ("innodb_undo_tablespaces", Goes, "there are two, and more are made by CREATE UNDO TABLESPACE"),
    ("log_bin_use_v1_row_events", Goes, "only MySQL before 5.6 read that format"),
    (
        "log_warnings",
        Becomes("log_error_verbosity", |level, _| Some((integer(level)?.clamp(0, 2) + 1).to_string())),
        "it is told as log_error_verbosity: 1 errors, 2 warnings, 3 notes",
    ),
    ("master_info_repository", Goes, "it is always a table"),
    ("max_tmp_tables", Goes, "it had no effect"),
    ("mysql_native_password", Goes, "there is no mysql_native_password any more: give its users another plugin first"),
    ("old_alter_table", Goes, "how a table is altered is chosen in the statement"),
    ("old_passwords", Goes, "there are no old passwords any more"),
    (
        "optimizer_adjust_secondary_key_costs",
        Goes,
        "it was a list of corrections, which are part of how costs are reckoned now",
    ),
    ("profiling", Goes, "it is a choice of each session"),
    ("query_cache_limit", Goes, "there is no query cache any more"),
    ("query_cache_min_res_unit", Goes, "there is no query cache any more"),
    ("query_cache_size", Goes, "there is no query cache any more"),
    ("query_cache_type", Goes, "there is no query cache any more"),
    ("query_cache_wlock_invalidate", Goes, "there is no query cache any more"),
    ("relay_log_info_repository", Goes, "it is always a table"),
    ("replica_parallel_type", Goes, "transactions are always applied side by side as they were committed"),
    ("secure_auth", Goes, "there are no old passwords any more"),
    ("show_old_temporals", Goes, "times are always stored in the newer format"),
    ("skip_host_cache", Becomes("host_cache_size", |_, _| Some("0".to_owned())), "a cache of hosts of no size is none"),
    ("slave_parallel_type", Goes, "transactions are always applied side by side as they were committed"),
    ("slave_rows_search_algorithms", Goes, "rows are always looked for by index and by hash"),
    ("ssl", Goes, "TLS is always offered where there is a certificate"),
    ("sync_frm", Goes, "tables have no .frm files any more"),
    (
        "temptable_use_mmap",
        Becomes("temptable_max_mmap", |mmap, _| ["OFF", "FALSE", "0"].contains(&mmap).then(|| "0".to_owned())),
        "how much of it may be used says whether it is",
    ),
    ("transaction_write_set_extraction", Goes, "it is always XXHASH64"),
];

/// What is set to the old default because the target's changes what clients see: the name, its default before there was
/// such a setting, and why.
pub(super) const PINNED: &[(&str, Option<&str>, &str)] = &[
    (
        "character_set_collations",
        Some(""),
        "tables made with a Unicode character set would have another collation than those that are there",
    ),
    ("character_set_server", None, "new databases would have another character set than those that are there"),
    ("collation_server", None, "new databases would sort and compare in another way than those that are there"),
    (
        "explicit_defaults_for_timestamp",
        None,
        "columns of type TIMESTAMP in new tables would no longer be set to the time by themselves",
    ),
    (
        "innodb_snapshot_isolation",
        Some("OFF"),
        "transactions would fail with error 1020 where they changed a row that another had changed meanwhile",
    ),
    ("lower_case_table_names", None, "names of tables would be compared in another way"),
    ("sql_mode", None, "statements that were taken could be refused, or the other way round"),
];

/// Why a default is another one, where more can be said than that it is.
pub(super) const REASONS: &[(&str, &str)] = &[
    ("character_set_server", "new databases have this character set unless they are told"),
    ("collation_server", "new databases have this collation unless they are told"),
    (
        "explicit_defaults_for_timestamp",
        "columns of type TIMESTAMP in new tables are not set to the time by themselves",
    ),
    ("innodb_flush_method", "data files are written past the page cache"),
    (
        "innodb_snapshot_isolation",
        "a transaction that changes a row changed meanwhile by another fails with error 1020",
    ),
    ("innodb_undo_tablespaces", "undo logs are in files of their own, which are given back when they have grown"),
    ("ssl", "TLS is offered to clients that ask for it"),
    ("old_mode", "it says what was so before there was the mode: utf8 means utf8mb3"),
];

/// The value by the name that the datastore's newest versions have for it.
pub(super) fn renamed_value(datastore: Datastore, name: &str, value: &str) -> String {
    let lower = value.to_ascii_lowercase();
    match name {
        "character_set_server" if datastore == Datastore::Mysql && lower == "utf8" => "utf8mb3".to_owned(),
        "collation_server" if datastore == Datastore::Mysql && lower.starts_with("utf8_") => {
            lower.replacen("utf8_", "utf8mb3_", 1)
        }
        // MySQL does not start with a version of TLS that it does not speak any more. With none left, its own stay.
        "tls_version" if datastore == Datastore::Mysql => {
            let spoken = |word: &&str| !["TLSV1", "TLSV1.1"].contains(&word.trim().to_ascii_uppercase().as_str());
            let kept = value.split(',').filter(spoken).collect::<Vec<_>>().join(",");
            if kept.is_empty() && !value.is_empty() { "TLSv1.2,TLSv1.3".to_owned() } else { kept }
        }
        _ => value.to_owned(),
    }
}

/// Days, perhaps with a fraction, in seconds.
#[expect(clippy::cast_possible_truncation, reason = "it is checked to be a number of seconds in 10,000 days")]
fn seconds(days: &str) -> Option<String> {
    let days: f64 = days.parse().ok()?;
    (0.0..=10_000.0).contains(&days).then(|| ((days * 86_400.0).round() as i64).to_string())
}

/// The whole of the redo log. Before it could be said as a whole there were two files of 48 MiB.
fn capacity(size: Option<&str>, files: Option<impl AsRef<str>>) -> Option<String> {
    let size = size.map_or(Some(48 << 20), integer)?;
    let files = files.map_or(Some(2), |files| integer(files.as_ref()))?;
    Some(size.checked_mul(files)?.to_string())
}
