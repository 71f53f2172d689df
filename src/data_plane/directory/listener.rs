//! The task that listens for changes and writes down the use of keys.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Directory;
use crate::control_plane::changes::{CHANGED_CHANNEL, Change};
use crate::jobs::listen::{Heard, listen};

/// A change that takes the listener down.
#[cfg(feature = "testkit")]
const PANIC: &str = "panic";
/// How often the uses of keys are written down.
const WRITE_NOTES: Duration = Duration::from_secs(5);

impl Directory {
    /// Listens until the token is cancelled. Run it in a task of its own; without it the directory works, but
    /// believes nothing for longer than a second.
    pub async fn run(self, stop: CancellationToken) {
        tokio::join!(self.listen_until(&stop), self.write_notes_until(&stop));
    }

    async fn listen_until(&self, stop: &CancellationToken) {
        let signals = &self.0.signals;
        let listening = listen(&self.0.db, CHANGED_CHANNEL, |heard| match heard {
            Heard::Listening => {
                self.doubt_everything();
                signals.reached();
                signals.set_listening(true);
                tracing::debug!("listening for changes");
            }
            Heard::Note(change) => self.hear(change),
            // Whatever is said meanwhile is not heard.
            Heard::Lost => {
                signals.set_listening(false);
                self.doubt_everything();
            }
        });
        stop.run_until_cancelled(listening).await;
    }

    fn hear(&self, change: &str) {
        #[cfg(feature = "testkit")]
        assert_ne!(change, PANIC, "as a test asked");
        match change.parse() {
            Ok(change) => self.apply(change),
            Err(error) => {
                // A newer program says something this one does not know: look at everything again.
                tracing::warn!(%error, "an unknown change");
                self.apply(Change::All);
            }
        }
    }

    async fn write_notes_until(&self, stop: &CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(WRITE_NOTES)).await.is_some() {
            self.0.notes.write(&self.0.db).await;
        }
        self.0.notes.write(&self.0.db).await;
    }
}
