//! The end of the server, as everything that runs in it learns of it.

use tokio::sync::watch;

/// Tells when the server is to end. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Ending(watch::Receiver<bool>);

/// Makes the server end.
#[derive(Debug)]
pub struct End(watch::Sender<bool>);

/// A pair of which the first half tells all clones of the second.
pub fn ending() -> (End, Ending) {
    let (end, ending) = watch::channel(false);
    (End(end), Ending(ending))
}

impl End {
    /// From now on the server is to end.
    pub fn begin(&self) {
        self.0.send_replace(true);
    }
}

impl Ending {
    /// Until the server is to end, or is gone.
    pub async fn begun(&mut self) {
        // An error means that the other half is gone, which is an end as well.
        let _ = self.0.wait_for(|ending| *ending).await;
    }
}
