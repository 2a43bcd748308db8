//! A short-lived client, as the probe sends one after the other.

use std::io;
use std::net::SocketAddr;

use coffer_core::engine::sql::config::PROBE;
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};

use super::client::options;
use crate::site::{Caller, End};

/// Who logs in, runs one statement that changes nothing, and leaves.
pub(crate) struct Visitor {
    pub(crate) password: SecretString,
}

impl Caller for Visitor {
    async fn attempt(&mut self, address: SocketAddr) -> End {
        let options = options()
            .host(&address.ip().to_string())
            .port(address.port())
            .username(PROBE)
            .password(self.password.expose_secret());
        let visit = async {
            let mut connection = options.connect().await?;
            sqlx::raw_sql(AssertSqlSafe("DO 0")).execute(&mut connection).await?;
            connection.close().await
        };
        match visit.await {
            Ok(()) => End::Done,
            Err(sqlx::Error::Io(e)) if e.kind() == io::ErrorKind::ConnectionRefused => End::Refused,
            Err(sqlx::Error::Database(_)) => End::Wrong,
            Err(_) => End::Reset,
        }
    }
}
