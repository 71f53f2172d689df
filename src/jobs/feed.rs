//! Which runs have moved, as one process hears of it: one listener on the control database serves everyone who waits, and
//! it ends soon after the last one has gone. A notification may be missed, so whoever waits also looks now and then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::{Instant, timeout, timeout_at};

use super::wake;
use crate::kernel::ids::RunId;

/// How long the listener waits before it connects again.
const RECONNECT: Duration = Duration::from_secs(1);
/// How long the listener stays when nobody follows.
const LINGER: Duration = Duration::from_secs(5);

/// The listener and those it tells. Cheap to clone.
#[derive(Clone)]
pub struct RunFeed(Arc<Inner>);

struct Inner {
    db: PgPool,
    moved: broadcast::Sender<RunId>,
    /// There is a listener, connected or trying to be.
    listening: AtomicBool,
    /// It hears: what commits from now on is passed on.
    hearing: AtomicBool,
}

/// News of every run, from the subscription on.
pub struct News {
    moved: broadcast::Receiver<RunId>,
    feed: Arc<Inner>,
}

impl RunFeed {
    pub fn new(db: PgPool) -> Self {
        // A follower that lags looks at its run anyway: the size decides nothing.
        Self(Arc::new(Inner {
            db,
            moved: broadcast::channel(256).0,
            listening: AtomicBool::new(false),
            hearing: AtomicBool::new(false),
        }))
    }

    /// Starts the listener for the first subscriber.
    pub fn subscribe(&self) -> News {
        let receiver = self.0.moved.subscribe();
        if !self.0.listening.swap(true, Ordering::AcqRel) {
            tokio::spawn(listen(self.0.clone()));
        }
        News { moved: receiver, feed: self.0.clone() }
    }
}

impl News {
    /// Whether news arrive. Ask before looking at the run: what changes after the look is then heard.
    pub fn hearing(&self) -> bool {
        self.feed.hearing.load(Ordering::Acquire)
    }

    /// Waits until the run is said to have moved, but not beyond `until`.
    pub async fn of(&mut self, run: RunId, until: Instant) {
        loop {
            match timeout_at(until, self.moved.recv()).await {
                Ok(Ok(moved)) if moved != run => {}
                Ok(Err(RecvError::Closed)) => return tokio::time::sleep_until(until).await,
                Ok(Ok(_) | Err(RecvError::Lagged(_))) | Err(_) => return,
            }
        }
    }
}

async fn listen(feed: Arc<Inner>) {
    loop {
        let ended = pass_on(&feed).await;
        feed.hearing.store(false, Ordering::Release);
        if let Err(error) = ended {
            // Followers look for themselves meanwhile.
            tracing::debug!(%error, "the listener for runs lost its connection");
            tokio::time::sleep(RECONNECT).await;
        }
        if feed.moved.receiver_count() > 0 {
            continue;
        }
        feed.listening.store(false, Ordering::Release);
        // Someone may have subscribed between the count and the store, and found a listener.
        if feed.moved.receiver_count() == 0 || feed.listening.swap(true, Ordering::AcqRel) {
            return;
        }
    }
}

/// Passes notifications on until nobody is left to hear them.
async fn pass_on(feed: &Inner) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(&feed.db).await?;
    listener.listen(wake::RUN).await?;
    feed.hearing.store(true, Ordering::Release);
    let mut heard = Instant::now();
    while feed.moved.receiver_count() > 0 || heard.elapsed() < LINGER {
        if let Ok(notification) = timeout(LINGER, listener.recv()).await
            && let Ok(run) = notification?.payload().parse()
        {
            feed.moved.send(run).ok();
            heard = Instant::now();
        }
    }
    Ok(())
}
