//! The wall clock as an argument, so that a test can set it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use adit_core::rotation::Moment;
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

/// The wall clock. Cheap to clone.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl Clock {
    /// The system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self::new(SystemTime::now)
    }

    /// Another clock.
    #[must_use]
    pub fn new(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        (self.0)()
    }

    /// Both clocks now; the monotonic one is tokio's, which a test can pause.
    pub(super) fn moment(&self) -> Moment {
        Moment { instant: tokio::time::Instant::now().into_std(), unix: self.now() }
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let since_epoch = self.now().duration_since(SystemTime::UNIX_EPOCH);
        Some(UnixTime::since_unix_epoch(since_epoch.unwrap_or(Duration::ZERO)))
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
