//! Other settings for an engine that goes on: each is told to it, and where it refuses one, it is told all as they were.

use coffer_core::engine::live::{Change, changes};
use coffer_core::finding::Cause;
use coffer_core::spec::EngineSpec;

use crate::cause::cause;
use crate::driver::Client;
use crate::site::Error;

/// Has the engine that runs as `from` go on as `to`, which differs in settings that it takes live. Can be called again.
pub(crate) async fn retune(client: &Client, from: &EngineSpec, to: &EngineSpec) -> Result<(), Cause> {
    let mut changes = changes(from, to);
    changes.retain(|change| !ends_append_only(change));
    for (at, change) in changes.iter().enumerate() {
        if let Err(error) = tell(client, change, &change.to).await {
            let refused = refused(to, change, error);
            // The refused one too: the engine may have taken a part of it.
            for change in changes.iter().take(at + 1).rev() {
                if let Err(error) = tell(client, change, &change.back).await {
                    tracing::error!(setting = change.name, %error, "a setting cannot be put back");
                }
            }
            return Err(refused);
        }
    }
    Ok(())
}

/// Whether an append-only file ends with this. Not told here but by the end of temporary measures ([`Client::settle`]), which first
/// has all of it in a snapshot, and then removes it: the next start would load it, however old it is by then.
pub(crate) fn ends_append_only(change: &Change) -> bool {
    change.name == "appendonly" && change.to == "no"
}

async fn tell(client: &Client, change: &Change, value: &str) -> Result<(), Error> {
    match client {
        Client::Redis(client) => client.set(&change.name, value).await,
        Client::Sql(client) => client.assign(&change.name, value).await,
    }
}

fn refused(to: &EngineSpec, change: &Change, error: Error) -> Cause {
    let Error::Refused { reason, .. } = error else { return cause(error) };
    let value = change.value.as_deref().unwrap_or("its default");
    Cause::new(
        format!("{} does not take {} = {value}: {reason}", to.label(), change.name),
        format!("give {} another value; all settings are as they were", change.name),
    )
}
