//! Fault points: where a test makes the process die. In a build without the test kit they are nothing.

/// A place between two things that should both happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    BeforeEffect,
    AfterEffect,
    /// With the record, and all that it changes in the control database, written and not committed.
    BeforeCommit,
    AfterRecord,
}

impl Moment {
    pub const ALL: [Moment; 4] =
        [Moment::BeforeEffect, Moment::AfterEffect, Moment::BeforeCommit, Moment::AfterRecord];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BeforeEffect => "before_effect",
            Self::AfterEffect => "after_effect",
            Self::BeforeCommit => "before_commit",
            Self::AfterRecord => "after_record",
        }
    }
}

/// Kills this process, as `kill -9` would, when `FREEHOLD_FAULT` names this step and moment
/// (`provision:schema:after_effect`). The file named by `FREEHOLD_FAULT_MARK` proves that it fired, and keeps it from
/// firing twice.
#[cfg(feature = "testkit")]
pub fn point(kind: &str, step: &str, moment: Moment) {
    let Ok(wanted) = std::env::var("FREEHOLD_FAULT") else { return };
    if wanted != format!("{kind}:{step}:{}", moment.as_str()) {
        return;
    }
    let Ok(mark) = std::env::var("FREEHOLD_FAULT_MARK") else { return };
    if std::fs::OpenOptions::new().write(true).create_new(true).open(mark).is_ok() {
        // Stopping instead of dying lets a test play the worker whose lease ran out.
        let signal = match std::env::var("FREEHOLD_FAULT_SIGNAL").as_deref() {
            Ok("stop") => nix::sys::signal::Signal::SIGSTOP,
            _ => nix::sys::signal::Signal::SIGKILL,
        };
        nix::sys::signal::raise(signal).ok();
    }
}

#[cfg(not(feature = "testkit"))]
pub fn point(_kind: &str, _step: &str, _moment: Moment) {}
