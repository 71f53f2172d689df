//! Hearing the control database's notifications: the one way in which this program listens.

use std::convert::Infallible;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::{PgListener, PgPoolOptions};

use super::backoff::Backoff;

/// How often a silent connection is asked for a sign of life: a peer that vanished without a word is found by this.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// The longest a listener waits for an answer, the one to its connecting included.
const ANSWER: Duration = Duration::from_secs(2);
/// Between a lost connection and the next try.
const RECONNECT: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(1));

/// What a listener hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard<'a> {
    /// What is said from now on is heard. What was said before was not: whoever keeps something looks again.
    Listening,
    /// A notification's payload.
    Note(&'a str),
    /// Nothing is heard any more. Comes after every [`Heard::Listening`], also when the listener is dropped or panics.
    Lost,
}

/// Listens to a channel until it is dropped, and connects again whenever it has to. `db` says where; the connection is
/// one of its own, so that nobody who waits for one of the pool keeps the listener out, nor it them.
pub async fn listen(db: &PgPool, channel: &str, hear: impl FnMut(Heard<'_>)) -> Infallible {
    let mut ear = Ear { hear, listening: false };
    let mut failures = 0;
    loop {
        let error = one_connection(db, channel, &mut ear).await;
        failures = if ear.listening { 1 } else { failures + 1 };
        ear.lost();
        tracing::debug!(channel, %error, "not listening");
        tokio::time::sleep(RECONNECT.after(failures)).await;
    }
}

/// Tells what is heard, and that nothing is, however it ends.
struct Ear<F: FnMut(Heard<'_>)> {
    hear: F,
    listening: bool,
}

impl<F: FnMut(Heard<'_>)> Ear<F> {
    fn lost(&mut self) {
        if std::mem::take(&mut self.listening) {
            (self.hear)(Heard::Lost);
        }
    }
}

impl<F: FnMut(Heard<'_>)> Drop for Ear<F> {
    fn drop(&mut self) {
        self.lost();
    }
}

/// One connection's life; gives what ended it.
async fn one_connection<F: FnMut(Heard<'_>)>(db: &PgPool, channel: &str, ear: &mut Ear<F>) -> sqlx::Error {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(ANSWER)
        .max_lifetime(None)
        .idle_timeout(None)
        .connect_lazy_with((*db.connect_options()).clone());
    let connecting = async {
        let mut listener = PgListener::connect_with(&pool).await?;
        // A lost connection has to be known as such: the library would reconnect in silence.
        listener.eager_reconnect(false);
        listener.listen(channel).await?;
        Ok(listener)
    };
    let mut listener = match in_time(connecting).await {
        Ok(listener) => listener,
        Err(error) => return error,
    };
    ear.listening = true;
    (ear.hear)(Heard::Listening);
    loop {
        match tokio::time::timeout(HEARTBEAT, listener.try_recv()).await {
            Ok(Ok(Some(note))) => (ear.hear)(Heard::Note(note.payload())),
            Ok(Ok(None)) => return sqlx::Error::PoolClosed,
            Ok(Err(error)) => return error,
            Err(_) => {
                if let Err(error) = in_time(sqlx::query("SELECT 1").execute(&mut listener)).await {
                    return error;
                }
            }
        }
    }
}

async fn in_time<T>(asking: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    tokio::time::timeout(ANSWER, asking).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Should fail: without `Drop for Ear`.
    #[test]
    fn whoever_was_told_that_it_listens_is_told_that_it_does_not() {
        let mut heard = Vec::new();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut ear = Ear { hear: |what: Heard<'_>| heard.push(format!("{what:?}")), listening: true };
            (ear.hear)(Heard::Note("x"));
            panic!("as a change that nobody thought of would make it");
        }));
        assert!(panicked.is_err());
        assert_eq!(heard, ["Note(\"x\")", "Lost"]);
    }
}
