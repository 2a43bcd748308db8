//! Looks for agents that say nothing any more.
//!
//! Heartbeats are written nowhere. Each server has a deadline for each agent, in memory; one that was started just now or was stopped
//! itself gives everybody the whole time anew.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use tracing::error;

use crate::app::App;
use crate::ending::Ending;

/// How often it is looked.
const LOOK: Duration = Duration::from_secs(5);
/// When it is looked so late, it is this server that was stopped, and nobody could be heard.
const STOPPED: Duration = Duration::from_secs(15);

/// Looks until the server is to end.
pub(crate) async fn watch(app: Arc<App>, mut ending: Ending) {
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Instant::now();
    // Those whom this server has never heard are told once, after it has listened for long enough.
    let mut has_told = false;
    loop {
        tokio::select! {
            () = ending.begun() => return,
            _ = tick.tick() => {}
        }
        if last.elapsed() > STOPPED {
            app.contact.listen_anew();
            has_told = false;
        }
        last = Instant::now();
        let all = async {
            app.tell_silent().await?;
            if !has_told && app.contact.listens_for() >= app.silence_limit() {
                app.tell_never_heard().await?;
                has_told = true;
            }
            Ok::<_, crate::app::Error>(())
        };
        if let Err(error) = all.await {
            error!(%error, "it cannot be told which agents are silent");
        }
    }
}
