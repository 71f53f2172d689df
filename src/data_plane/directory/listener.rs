//! The task that listens for changes and writes down the use of keys.

use std::time::Duration;

use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio_util::sync::CancellationToken;

use super::Directory;
use crate::control_plane::changes::{CHANGED_CHANNEL, Change};

/// How often a silent connection is asked for a sign of life: a peer that vanished without a word is found by this.
const HEARTBEAT: Duration = Duration::from_secs(5);
const HEARTBEAT_LIMIT: Duration = Duration::from_secs(2);
const RECONNECT: Duration = Duration::from_millis(250);
const WRITE_NOTES: Duration = Duration::from_secs(5);

impl Directory {
    /// Listens until the token is cancelled. Run it in a task of its own; without it the directory works, but
    /// believes nothing for longer than a second.
    pub async fn run(self, stop: CancellationToken) {
        tokio::join!(self.listen_until(&stop), self.write_notes_until(&stop));
    }

    async fn listen_until(&self, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            let heard = stop.run_until_cancelled(self.listen()).await;
            // Whatever was said meanwhile was not heard.
            self.0.signals.set_listening(false);
            self.doubt_everything();
            if let Some(Err(error)) = heard {
                tracing::debug!(%error, "not listening for changes");
                stop.run_until_cancelled(tokio::time::sleep(RECONNECT)).await;
            }
        }
    }

    /// One connection's life.
    async fn listen(&self) -> Result<(), sqlx::Error> {
        // A connection of its own: waiting lookups must not keep the listener out, nor it them.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(HEARTBEAT_LIMIT)
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_lazy_with((*self.0.db.connect_options()).clone());
        let mut listener = PgListener::connect_with(&pool).await?;
        // A lost connection has to be known as such: the library would reconnect in silence.
        listener.eager_reconnect(false);
        listener.listen(CHANGED_CHANNEL).await?;
        self.doubt_everything();
        self.0.signals.reached();
        self.0.signals.set_listening(true);
        tracing::debug!("listening for changes");
        loop {
            match tokio::time::timeout(HEARTBEAT, listener.try_recv()).await {
                Ok(Ok(Some(note))) => match note.payload().parse() {
                    Ok(change) => self.apply(change),
                    Err(error) => {
                        // A newer program says something this one does not know: look at everything again.
                        tracing::warn!(%error, "an unknown change");
                        self.apply(Change::All);
                    }
                },
                Ok(Ok(None)) => return Err(sqlx::Error::PoolClosed),
                Ok(Err(error)) => return Err(error),
                Err(_) => {
                    let alive = sqlx::query("SELECT 1").execute(&mut listener);
                    tokio::time::timeout(HEARTBEAT_LIMIT, alive)
                        .await
                        .map_err(|_| sqlx::Error::PoolTimedOut)??;
                }
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
