//! The commands for databases, users and root of an instance of MariaDB or MySQL.

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum Database {
    /// Create databases in an instance.
    #[command(after_help = "Example:\n  coffer database create shop_db shop --character-set utf8mb4")]
    Create {
        /// The instance's id or name.
        instance: String,
        /// The databases' names.
        #[arg(required = true, value_name = "DATABASE")]
        databases: Vec<String>,
        /// Their character set; the engine's default unless given.
        #[arg(long, value_name = "NAME")]
        character_set: Option<String>,
        /// Their collation; the character set's default unless given.
        #[arg(long, value_name = "NAME")]
        collate: Option<String>,
    },
    /// List the databases of an instance.
    #[command(after_help = "Example:\n  coffer database list shop_db")]
    List {
        /// The instance's id or name.
        instance: String,
    },
    /// Delete a database with everything in it.
    #[command(after_help = "Example:\n  coffer database delete shop_db shop")]
    Delete {
        /// The instance's id or name.
        instance: String,
        database: String,
    },
}

/// One user of an instance.
#[derive(Debug, Args)]
pub(crate) struct OneUser {
    /// The instance's id or name.
    pub instance: String,
    /// The user's name.
    pub user: String,
    /// From where it may log in, where that is not anywhere.
    #[arg(long, value_name = "ADDRESS")]
    pub host: Option<String>,
}

/// Where a password comes from. Never an argument: everybody on the machine can read those.
#[derive(Debug, Args)]
pub(crate) struct NewPassword {
    /// Read the password from standard input; without this, one is made and printed once.
    #[arg(long)]
    pub password_stdin: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum User {
    /// Create a user, who has everything on the databases that are named, and nothing else.
    #[command(after_help = "Examples:
  coffer user create shop_db ann --database shop
  coffer user create shop_db ann --password-stdin < password.txt")]
    Create {
        #[command(flatten)]
        user: OneUser,
        /// A database that the user has. May be given more than once.
        #[arg(long = "database", value_name = "DATABASE")]
        databases: Vec<String>,
        #[command(flatten)]
        password: NewPassword,
    },
    /// List the users of an instance, and the databases that they have.
    #[command(after_help = "Example:\n  coffer user list shop_db")]
    List {
        /// The instance's id or name.
        instance: String,
    },
    /// Show one user.
    #[command(after_help = "Example:\n  coffer user show shop_db ann")]
    Show {
        #[command(flatten)]
        user: OneUser,
    },
    /// Give a user everything on databases.
    #[command(after_help = "Example:\n  coffer user grant shop_db ann shop")]
    Grant {
        #[command(flatten)]
        user: OneUser,
        #[arg(required = true, value_name = "DATABASE")]
        databases: Vec<String>,
    },
    /// Take from a user what it has on a database.
    #[command(after_help = "Example:\n  coffer user revoke shop_db ann shop")]
    Revoke {
        #[command(flatten)]
        user: OneUser,
        database: String,
    },
    /// Give a user another password.
    #[command(after_help = "Example:\n  coffer user set-password shop_db ann --password-stdin < password.txt")]
    SetPassword {
        #[command(flatten)]
        user: OneUser,
        #[command(flatten)]
        password: NewPassword,
    },
    /// Delete a user.
    #[command(after_help = "Example:\n  coffer user delete shop_db ann")]
    Delete {
        #[command(flatten)]
        user: OneUser,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Root {
    /// Let root log in. It has everything that a tenant may have, and its password is printed once.
    #[command(after_help = "Example:\n  coffer root enable shop_db")]
    Enable {
        /// The instance's id or name.
        instance: String,
        #[command(flatten)]
        password: NewPassword,
    },
    /// Let root log in no more.
    #[command(after_help = "Example:\n  coffer root disable shop_db")]
    Disable {
        /// The instance's id or name.
        instance: String,
    },
    /// Show whether root may log in.
    #[command(after_help = "Example:\n  coffer root show shop_db")]
    Show {
        /// The instance's id or name.
        instance: String,
    },
}
