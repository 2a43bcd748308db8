//! The clock, so that tests can set it.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};

/// Tells the time. Cheap to clone.
#[derive(Clone)]
pub struct Clock {
    now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    steady: Arc<dyn Fn() -> SignedDuration + Send + Sync>,
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        let began = Instant::now();
        Self::new(Timestamp::now, move || SignedDuration::try_from(began.elapsed()).unwrap_or(SignedDuration::MAX))
    }

    /// A clock that says what `now` says, and of how much time has passed what `steady` says.
    pub fn new(
        now: impl Fn() -> Timestamp + Send + Sync + 'static,
        steady: impl Fn() -> SignedDuration + Send + Sync + 'static,
    ) -> Self {
        Self { now: Arc::new(now), steady: Arc::new(steady) }
    }

    /// The time, cut to microseconds, which is what the store keeps. It jumps when somebody sets the machine's clock.
    pub fn now(&self) -> Timestamp {
        let now = (self.now)();
        Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
    }

    /// How much time has passed since some moment of this process. It never jumps.
    pub(crate) fn steady(&self) -> SignedDuration {
        (self.steady)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", self.now())
    }
}
