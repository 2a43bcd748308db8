//! The provider, as it is asked from asynchronous code.

use std::fmt;
use std::sync::Arc;

use coffer_core::finding::Cause;
use coffer_provider::Provider;

/// Where instances live.
#[derive(Clone)]
pub(crate) struct Places(Arc<dyn Provider>);

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Places")
    }
}

/// Why a provider did not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Refused(coffer_provider::Error),
    #[error("the provider broke off; hint: see the server's log")]
    Died,
}

impl Failure {
    /// As people are told of it: what the system said is in it, and where it said so is for the log.
    pub(crate) fn cause(&self) -> Cause {
        use std::error::Error as _;
        let system = self.source().and_then(|source| source.downcast_ref::<std::io::Error>());
        if let Some(error) = system {
            tracing::warn!(failure = %self, %error, "the provider failed");
        }
        // The hint is in the sentence already.
        let said = match system.map(|error| (error, error.kind())) {
            // Words of our own, without a path.
            Some((error, std::io::ErrorKind::Other)) => format!(" ({error})"),
            Some((_, kind)) => format!(" ({kind})"),
            None => String::new(),
        };
        Cause::new(format!("{self}{said}"), "")
    }
}

impl Places {
    pub(crate) fn new(provider: Arc<dyn Provider>) -> Self {
        Self(provider)
    }

    /// Has the provider do something, on a thread where it may block.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&dyn Provider) -> Result<T, coffer_provider::Error> + Send + 'static,
    ) -> Result<T, Failure> {
        let provider = Arc::clone(&self.0);
        match tokio::task::spawn_blocking(move || call(&*provider)).await {
            Ok(answer) => answer.map_err(Failure::Refused),
            Err(_) => Err(Failure::Died),
        }
    }
}
