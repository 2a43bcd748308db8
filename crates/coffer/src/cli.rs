//! The command line: every command with its arguments, and the help that is enough to use it.

pub(crate) mod configuration;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use coffer_server::ServerName;
use coffer_store::{NotAUrl, PostgresUrl};
use jiff::SignedDuration;

use crate::cli_accounts::{Database, Root, User};
use crate::failure::EXIT_CODES;
use crate::table::Format;

/// Run Redis and Valkey servers for tenants, and upgrade them with one command.
///
/// `coffer serve` is the server; all other commands are its clients and read clouds.yaml and the OS_* variables as the
/// openstack client does. The first start of the server writes a clouds.yaml into its data directory.
#[derive(Debug, Parser)]
#[command(name = "coffer", version, after_long_help = EXIT_CODES, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Print tables for people or JSON for programs.
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT", default_value_t)]
    pub output: Format,
    /// The cloud of clouds.yaml to use.
    #[arg(long, global = true, env = "OS_CLOUD", hide_env_values = true, value_name = "NAME")]
    pub os_cloud: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Serve(Serve),
    /// See what this host allows: how engines are kept apart and limited, and whether ports stay open.
    ///
    /// Looks at the host as the user who runs it, changes nothing, and needs no server. Run it as the user who runs `coffer serve`.
    #[command(after_help = "Example:\n  coffer doctor")]
    Doctor,
    /// Have everything that is written down in another store.
    #[command(subcommand)]
    Store(Store),
    /// Have engine images on this machine.
    #[command(subcommand)]
    Engine(Engine),
    /// See which datastores there are, and in which versions.
    #[command(subcommand)]
    Datastore(Datastore),
    /// See which sizes of instance there are.
    #[command(subcommand)]
    Flavor(Flavor),
    /// Create, see, upgrade, roll back, restart and delete instances.
    #[command(subcommand)]
    Instance(Instance),
    /// Create, list and delete databases in an instance of MariaDB or MySQL.
    #[command(subcommand)]
    Database(Database),
    /// Create, see, change and delete the users of an instance of MariaDB or MySQL.
    #[command(subcommand)]
    User(User),
    /// Let root log in to an instance of MariaDB or MySQL, or not.
    #[command(subcommand)]
    Root(Root),
    /// See what was measured.
    #[command(subcommand)]
    Report(Report),
    /// Keep settings under a name, and give them to instances.
    #[command(subcommand)]
    Configuration(configuration::Configuration),
}

/// Run the server, until it is told to end. Engines keep running when it does.
///
/// On its first start it writes DIR/clouds.yaml with the credentials of an admin and of a demo project.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  coffer serve --data /var/lib/coffer --listen 127.0.0.1:8779
  export OS_CLIENT_CONFIG_FILE=/var/lib/coffer/clouds.yaml OS_CLOUD=demo
  coffer instance list")]
pub(crate) struct Serve {
    /// Where everything is kept: the store, engine images, instances, credentials.
    #[arg(long, value_name = "DIR", env = "COFFER_DATA")]
    pub data: PathBuf,
    /// Where the store is, if not in DIR: a database of PostgreSQL, which several servers share. Its password comes from
    /// `~/.pgpass`. Said once, it is DIR's from then on.
    #[arg(long, value_name = "postgres://USER@HOST/DATABASE", env = "COFFER_STORE")]
    pub store: Option<PostgresUrl>,
    /// What this server is called among those that share the store and run on this machine, each with the same DIR.
    #[arg(long, value_name = "NAME", default_value_t)]
    pub name: ServerName,
    /// Where the API is served; overrides the configuration.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// The configuration, in TOML.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Store {
    /// Move the store of a data directory into PostgreSQL, which several servers can share, or back into a file.
    ///
    /// No server may run on the directory meanwhile; engines and agents go on. All of it is copied, or nothing; where it was
    /// copied from stays as it is.
    #[command(after_help = "Example:
  coffer store move --data /var/lib/coffer --to postgres://coffer@db.example.org/coffer
  coffer store move --data /var/lib/coffer --to file")]
    Move {
        /// The data directory of the servers.
        #[arg(long, value_name = "DIR", env = "COFFER_DATA")]
        data: PathBuf,
        /// An empty database of PostgreSQL, whose password comes from `~/.pgpass`; or `file`, for DIR/coffer.db.
        #[arg(long, value_name = "postgres://USER@HOST/DATABASE|file")]
        to: StoreKind,
    },
}

/// Where a store is to be moved.
#[derive(Clone, Debug)]
pub(crate) enum StoreKind {
    File,
    Postgres(PostgresUrl),
}

impl std::str::FromStr for StoreKind {
    type Err = NotAUrl;

    fn from_str(text: &str) -> Result<Self, NotAUrl> {
        if text == "file" { Ok(Self::File) } else { text.parse().map(Self::Postgres) }
    }
}

/// Where the engine images of this machine are.
#[derive(Debug, Args)]
pub(crate) struct ImageStore {
    /// The data directory of the server on this machine.
    #[arg(long, value_name = "DIR", env = "COFFER_DATA")]
    pub data: PathBuf,
    /// The catalogue of engine versions; the one that comes with coffer unless given.
    #[arg(long, value_name = "FILE", env = "COFFER_CATALOGUE")]
    pub catalogue: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Engine {
    /// List the versions of the catalogue, and which of them are on this machine.
    #[command(after_help = "Example:\n  coffer engine list --data /var/lib/coffer")]
    List {
        #[command(flatten)]
        store: ImageStore,
    },
    /// Fetch the image of a version from the first of its sources that answers, and try its binary.
    #[command(after_help = "Example:\n  coffer engine fetch --data /var/lib/coffer redis 8.0")]
    Fetch {
        #[command(flatten)]
        store: ImageStore,
        /// redis or valkey.
        datastore: String,
        /// A version as `coffer engine list` shows it.
        version: String,
    },
    /// Bring in the image of a version as a file: an OCI layout, an archive of one, or a root directory.
    #[command(after_help = "Example:\n  coffer engine import --data /var/lib/coffer redis 8.0 ./redis-8.0.tar.zst")]
    Import {
        #[command(flatten)]
        store: ImageStore,
        /// redis or valkey.
        datastore: String,
        /// A version as `coffer engine list` shows it.
        version: String,
        /// The layout, archive or directory.
        path: PathBuf,
        /// Take it only if its image has this digest.
        #[arg(long, value_name = "sha256:HEX")]
        digest: Option<String>,
        /// Where the server program is in the image; as in the catalogue unless given.
        #[arg(long, value_name = "PATH")]
        binary: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Datastore {
    /// List the datastores.
    #[command(after_help = "Example:\n  coffer datastore list")]
    List,
    /// See the versions of a datastore.
    #[command(subcommand)]
    Version(DatastoreVersion),
}

#[derive(Debug, Subcommand)]
pub(crate) enum DatastoreVersion {
    /// List the versions of a datastore.
    #[command(after_help = "Example:\n  coffer datastore version list redis")]
    List {
        /// The datastore's name or id.
        datastore: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Report {
    /// For how long clients could not write or read, at upgrades, rollbacks and restarts.
    ///
    /// A line for what is alike: the same way, a host of the same class, about as much data. Each time in the middle with the shortest and
    /// the longest. Of the project; with an administrator's cloud of all projects. The same figures are in the plans of upgrades.
    #[command(after_help = "Examples:\n  coffer report gaps\n  coffer report gaps -o json")]
    Gaps,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Flavor {
    /// List the flavors: how much memory and how many processors an instance can have.
    #[command(after_help = "Example:\n  coffer flavor list")]
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Instance {
    /// List the instances of the project.
    #[command(after_help = "Example:\n  coffer instance list")]
    List,
    /// Show one instance with everything that is known of it.
    #[command(after_help = "Example:\n  coffer instance show redis_test")]
    Show {
        /// The instance's id or name.
        instance: String,
    },
    Create(Create),
    /// Restart the engine of an instance without losing what it holds.
    #[command(after_help = "Example:\n  coffer instance restart redis_test --wait")]
    Restart {
        /// The instance's id or name.
        instance: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Find everything that speaks against an upgrade, and change nothing. May be run at any time.
    ///
    /// Fetches the image of the version where it is not there yet, looks at the engine while it serves, and tries the target. Exit code 0: nothing
    /// blocks the upgrade; 3: it would be refused, for the errors among the findings.
    #[command(
        after_help = "Examples:\n  coffer instance check redis_test 8.0.2\n  coffer instance check redis_test 8.0.2 -o json"
    )]
    Check {
        /// The instance's id or name.
        instance: String,
        /// The version's name or id, or DATASTORE/VERSION to cross over to another datastore.
        version: String,
    },
    Upgrade(Upgrade),
    Rollback(Rollback),
    /// End the time in which an upgrade can be rolled back, and free the room that its pre-image takes.
    ///
    /// It ends by itself after the time that the operator has set (24 h unless told otherwise); `coffer instance show` says when.
    #[command(after_help = "Example:\n  coffer instance finalize redis_test --wait")]
    Finalize {
        /// The instance's id or name.
        instance: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Try at once what is stuck, and count its attempts anew. Says first what that does and costs.
    #[command(after_help = "Examples:
  coffer instance resume redis_test --dry-run     see what would be done, change nothing
  coffer instance resume redis_test --wait        see it, be asked, do it, and show each step")]
    Resume(Decide),
    /// Give up what is stuck, half way. Says first what that means and costs. Nothing is removed.
    #[command(after_help = "Examples:
  coffer instance abandon redis_test --dry-run    see what it would mean, change nothing
  coffer instance abandon redis_test              see it, be asked, do it")]
    Abandon(Decide),
    /// List what was done to an instance, or is being done: every step with its times, the gap, the findings.
    #[command(
        after_help = "Examples:\n  coffer instance operations redis_test\n  coffer instance operations redis_test --wait"
    )]
    Operations {
        /// The instance's id or name.
        instance: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Delete instances with everything they hold.
    #[command(after_help = "Example:\n  coffer instance delete redis_test --wait")]
    Delete {
        /// Ids or names.
        #[arg(required = true, value_name = "INSTANCE")]
        instances: Vec<String>,
        #[command(flatten)]
        wait: Wait,
    },
}

/// Create an instance. Its password is printed once, and never again.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  coffer instance create redis_test --flavor 1 --size 1 --datastore redis --datastore-version 7.0.15 \\
      --set maxmemory-policy=allkeys-lru --wait
  coffer instance create shop_db --flavor 1 --size 1 --datastore mariadb --databases shop --users ann --wait")]
pub(crate) struct Create {
    pub name: String,
    /// The flavor's id or name, as `coffer flavor list` shows it.
    #[arg(long)]
    pub flavor: String,
    /// The size of the volume in GiB.
    #[arg(long, value_name = "GIB", value_parser = clap::value_parser!(u32).range(1..))]
    pub size: u32,
    /// redis or valkey; the server's default unless given.
    #[arg(long, value_name = "NAME")]
    pub datastore: Option<String>,
    /// The version's name or id; the datastore's default unless given.
    #[arg(long, value_name = "VERSION")]
    pub datastore_version: Option<String>,
    /// A setting in the engine's own words. May be given more than once.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
    pub settings: Vec<(String, String)>,
    /// The first databases, of MariaDB and MySQL.
    #[arg(long, value_name = "DATABASE", num_args = 1..)]
    pub databases: Vec<String>,
    /// The first users, each with everything on the first databases. Their passwords are made and printed once; one that is
    /// given here can be read by everybody on this machine.
    #[arg(long, value_name = "NAME[:PASSWORD]", num_args = 1..)]
    pub users: Vec<String>,
    /// The id or name of a configuration group, whose values go before those of --set.
    #[arg(long, value_name = "GROUP")]
    pub configuration: Option<String>,
    #[command(flatten)]
    pub wait: Wait,
}

/// Upgrade an instance to another version of its datastore.
///
/// The engine is stopped only after everything that can be checked has been checked. When anything goes wrong, the old
/// version is put back with all its data.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  coffer instance upgrade redis_test 8.0.2 --dry-run   print the plan, change nothing
  coffer instance upgrade redis_test 8.0.2 --wait      do it, and show each step
  coffer instance upgrade redis_test valkey/8.1.1      cross over to Valkey")]
pub(crate) struct Upgrade {
    /// The instance's id or name.
    pub instance: String,
    /// The version's name or id, or DATASTORE/VERSION to cross over to another datastore.
    pub version: String,
    /// Print the plan and what was found, and change nothing.
    #[arg(long, conflicts_with = "wait")]
    pub dry_run: bool,
    /// Take the new version's defaults. Unless given, those that clients would feel are kept as they were.
    #[arg(long)]
    pub adopt_defaults: bool,
    #[command(flatten)]
    pub wait: Wait,
}

/// Go back to what an instance was before its last upgrade: version, settings and data.
///
/// Possible until the upgrade is finalized, by itself after some time or by `coffer instance finalize`; `coffer instance show` says
/// until when. Where the older version works on the data as they are nothing is lost. Else the data become those from before
/// the upgrade, and what was written since is lost; how much that is, is said before anything is done. The data that there are
/// now are kept in turn, so that the rollback can be rolled back.
///
/// The newer engine need not run. Where it is down or does not stay up, nobody can count what was written since, and the plan says
/// so.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  coffer instance rollback redis_test --dry-run       see what would be done and lost, change nothing
  coffer instance rollback redis_test --wait          see it, be asked, do it, and show each step
  coffer instance rollback redis_test --yes --wait    the same without being asked")]
pub(crate) struct Rollback {
    /// The instance's id or name.
    pub instance: String,
    /// Print the plan, what would be lost and what was found, and change nothing.
    #[arg(long, conflicts_with_all = ["wait", "yes"])]
    pub dry_run: bool,
    /// Take the data from before the upgrade even where the older version works on those that there are, such as when these were
    /// spoiled.
    #[arg(long)]
    pub restore: bool,
    /// Do not ask: what is lost may be lost.
    #[arg(long)]
    pub yes: bool,
    #[command(flatten)]
    pub wait: Wait,
}

/// What is done about an operation that is stuck.
#[derive(Debug, Args)]
pub(crate) struct Decide {
    /// The instance's id or name.
    pub instance: String,
    /// Say what it does and costs, and change nothing.
    #[arg(long, conflicts_with_all = ["wait", "yes"])]
    pub dry_run: bool,
    /// Do not ask.
    #[arg(long)]
    pub yes: bool,
    #[command(flatten)]
    pub wait: Wait,
}

/// Whether and how long a command stays until what it asked for is done.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Wait {
    /// Stay until it is done, and show each step.
    #[arg(long)]
    pub wait: bool,
    /// Stay no longer than this, such as 90s or 10m. What was begun goes on.
    #[arg(long, value_name = "TIME", requires = "wait")]
    pub timeout: Option<SignedDuration>,
}

fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.to_owned())),
        _ => Err("write it as NAME=VALUE, such as maxmemory-policy=allkeys-lru".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::{Cli, Command, Instance};

    #[test]
    fn the_command_tree_is_free_of_contradictions() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_that_does_something_has_an_example_in_its_help() {
        fn check(command: &mut clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            if command.get_subcommands().next().is_none() {
                let help = command.render_help().to_string();
                assert!(help.contains("Example"), "{path} has no example");
                assert!(help.contains(path.trim()), "the example of {path} does not name it");
            }
            command.get_subcommands_mut().for_each(|sub| check(sub, &path));
        }
        let mut cli = Cli::command();
        cli.build();
        check(&mut cli, "");
    }

    #[test]
    fn what_does_not_make_sense_is_refused_with_a_reason() {
        let check = |line: &str, expected: &str| {
            let error = Cli::try_parse_from(line.split(' ')).expect_err(line).to_string();
            assert!(error.contains(expected), "{line}: {error}");
        };
        check("coffer instance create x --flavor 1 --size 0", "0 is not in 1..");
        check("coffer instance create x --flavor 1 --size 1 --set nonsense", "NAME=VALUE");
        check("coffer instance upgrade x 8.0 --dry-run --wait", "cannot be used with");
        check("coffer instance rollback x --dry-run --yes", "cannot be used with");
        check("coffer instance restart x --timeout 10m", "--wait");
        check("coffer instance restart x --wait --timeout soon", "--timeout");
        check("coffer instance delete", "<INSTANCE>");
        check("coffer instance list -o yaml", "possible values: table, json");
    }

    #[test]
    fn settings_may_contain_any_sign_after_the_first_equals() {
        let line = ["coffer", "instance", "create", "x", "--flavor", "1", "--size", "1", "--set", "save=900 1=2"];
        let parsed = Cli::try_parse_from(line).expect("a create").command;
        let expected = [("save".to_owned(), "900 1=2".to_owned())];
        assert!(matches!(parsed, Command::Instance(Instance::Create(create)) if create.settings == expected));
    }
}
