//! Clients as probes send them: short-lived ones, one after the other, and one that stays.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use coffer_core::engine::sql::config::PROBE;
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};

use super::client::options;
use crate::site::{Caller, End, STAYING};

/// Who logs in, runs one statement that changes nothing, and leaves.
pub(crate) struct Visitor {
    pub(crate) password: SecretString,
}

/// Who logs in and stays, and asks for something as long as it may.
pub(crate) struct Reader {
    pub(crate) password: SecretString,
    connection: Option<MySqlConnection>,
}

impl Reader {
    pub(crate) fn new(password: SecretString) -> Self {
        Self { password, connection: None }
    }
}

impl Caller for Visitor {
    async fn attempt(&mut self, address: SocketAddr) -> End {
        let visit = async {
            let mut connection = enter(address, &self.password).await?;
            ask(&mut connection).await?;
            connection.close().await
        };
        end(visit.await)
    }
}

impl Caller for Reader {
    fn every(&self) -> Duration {
        STAYING
    }

    async fn attempt(&mut self, address: SocketAddr) -> End {
        let read = async {
            let mut connection = match self.connection.take() {
                Some(connection) => connection,
                None => enter(address, &self.password).await?,
            };
            ask(&mut connection).await?;
            self.connection = Some(connection);
            Ok(())
        };
        end(read.await)
    }
}

async fn enter(address: SocketAddr, password: &SecretString) -> Result<MySqlConnection, sqlx::Error> {
    let options = options().host(&address.ip().to_string()).port(address.port()).username(PROBE);
    options.password(password.expose_secret()).connect().await
}

async fn ask(connection: &mut MySqlConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe("DO 0")).execute(connection).await.map(drop)
}

fn end(visit: Result<(), sqlx::Error>) -> End {
    match visit {
        Ok(()) => End::Done,
        Err(sqlx::Error::Io(e)) if e.kind() == io::ErrorKind::ConnectionRefused => End::Refused,
        Err(sqlx::Error::Database(_)) => End::Wrong,
        Err(_) => End::Reset,
    }
}
