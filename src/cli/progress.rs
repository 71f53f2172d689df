//! Progress on stderr, for people only: nothing is drawn where stderr is not a terminal.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::jobs::run::{Run, StepState};

/// Whether progress is drawn.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    pub visible: bool,
}

impl Progress {
    pub fn new(quiet: bool) -> Self {
        Self { visible: !quiet && std::io::stderr().is_terminal() }
    }

    /// A bar over a known number of things.
    pub fn count(self, total: u64, what: &'static str) -> ProgressBar {
        if !self.visible {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new(total).with_message(what);
        if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:30}] {pos}/{len} {elapsed} left {eta}") {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }

    /// Something that takes as long as it takes.
    pub fn wait(self, what: &'static str) -> ProgressBar {
        if !self.visible {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new_spinner().with_message(what);
        bar.enable_steady_tick(Duration::from_millis(100));
        bar
    }

    /// The steps of a run.
    pub fn run(self) -> RunBar {
        if !self.visible {
            return RunBar(ProgressBar::hidden());
        }
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{spinner} [{bar:20}] {pos}/{len} {msg}") {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        RunBar(bar)
    }
}

/// A bar that shows how far a run is. It goes when it is dropped.
pub struct RunBar(ProgressBar);

impl RunBar {
    pub fn show(&self, run: &Run) {
        let done = run.steps.iter().filter(|step| step.state == StepState::Done).count();
        let next = run.steps.iter().find(|step| step.state == StepState::Pending);
        self.0.set_length(run.steps.len() as u64);
        self.0.set_position(done as u64);
        let doing = next.map_or("done", |step| step.name.as_str());
        if let Some(progress) = run.progress.as_ref().filter(|progress| progress.planned > 0) {
            self.0.set_length(progress.planned);
            self.0.set_position(progress.done);
            let at = progress.working.first().map_or("", String::as_str);
            self.0.set_message(format!("{}: {doing} {at}", run.kind));
            return;
        }
        self.0.set_message(match &run.error {
            Some(error) if run.state.is_open() => {
                format!("{}: {doing} (attempt {}: {error})", run.kind, run.attempts)
            }
            _ => format!("{}: {doing}", run.kind),
        });
    }
}

impl Drop for RunBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
