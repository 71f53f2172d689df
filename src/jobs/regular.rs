//! Jobs that every tenant is given again and again.

use std::time::Duration;

/// A kind of job, and how often each active tenant is given one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegularJob {
    pub kind: &'static str,
    /// At most seven days: after that it is forgotten when the last one was.
    pub every: Duration,
}
