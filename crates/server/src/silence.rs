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
    // Since when this server listened when those were told whom it has never heard.
    let mut told = None;
    loop {
        tokio::select! {
            () = ending.begun() => return,
            _ = tick.tick() => {}
        }
        let now = app.clock.now();
        if last.elapsed() > STOPPED {
            app.contact.listen_anew(now);
        }
        last = Instant::now();
        let since = app.contact.listens_since();
        let all = async {
            app.tell_silent().await?;
            if told != Some(since) && now.duration_since(since) >= app.silence_limit() {
                app.tell_never_heard().await?;
                told = Some(since);
            }
            Ok::<_, crate::app::Error>(())
        };
        if let Err(error) = all.await {
            error!(%error, "it cannot be told which agents are silent");
        }
    }
}
