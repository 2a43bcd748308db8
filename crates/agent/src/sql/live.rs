//! Settings that the running engine takes.

use coffer_core::engine::sql::config::identifier;

use super::Client;
use crate::site::Error;

impl Client {
    /// Sets a global variable. `expression` is SQL, as [`coffer_core::engine::live::changes`] makes it.
    pub(crate) async fn assign(&self, name: &str, expression: &str) -> Result<(), Error> {
        self.run("SET GLOBAL", &format!("SET GLOBAL {} = {expression}", identifier(name))).await
    }
}
