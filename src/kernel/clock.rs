//! The one source of "now". Passed in, so that a test can move it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Duration, Utc};

/// Wall-clock time, either the system's or one a test moves by hand.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    #[default]
    System,
    /// The system's time plus an offset in milliseconds.
    Shifted(Arc<AtomicI64>),
}

impl Clock {
    /// A clock that starts at the system's time and can be moved with [`Clock::advance`].
    pub fn movable() -> Self {
        Self::Shifted(Arc::new(AtomicI64::new(0)))
    }

    #[allow(clippy::disallowed_methods)] // the one place that may ask the system
    pub fn now(&self) -> DateTime<Utc> {
        match self {
            Self::System => Utc::now(),
            Self::Shifted(offset) => Utc::now() + Duration::milliseconds(offset.load(Ordering::Relaxed)),
        }
    }

    /// Moves a movable clock; a system clock stays where it is.
    pub fn advance(&self, by: Duration) {
        if let Self::Shifted(offset) = self {
            offset.fetch_add(by.num_milliseconds(), Ordering::Relaxed);
        }
    }
}
