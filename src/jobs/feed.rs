//! Which runs have moved, as one process hears of it: one listener on the control database serves everyone who waits, and
//! it ends soon after the last one has gone. A notification may be missed, so whoever waits also looks now and then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::listen::{Heard, listen};
use super::wake;
use crate::kernel::ids::RunId;

/// How long the listener stays when nobody follows.
const LINGER: Duration = Duration::from_secs(5);

/// The listener and those it tells. Cheap to clone.
#[derive(Clone)]
pub struct RunFeed(Arc<Inner>);

struct Inner {
    db: PgPool,
    moved: broadcast::Sender<RunId>,
    /// Taken while there is a listener, connected or trying to be; given back however it ends.
    listener: Arc<Semaphore>,
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
            listener: Arc::new(Semaphore::new(1)),
            hearing: AtomicBool::new(false),
        }))
    }

    /// Starts the listener for the first subscriber.
    pub fn subscribe(&self) -> News {
        let news = News { moved: self.0.moved.subscribe(), feed: self.0.clone() };
        news.attended();
        news
    }
}

impl News {
    /// Whether news arrive. Ask before looking at the run: what changes after the look is then heard.
    pub fn hearing(&self) -> bool {
        self.feed.hearing.load(Ordering::Acquire)
    }

    /// Sees that there is a listener.
    fn attended(&self) {
        if let Ok(permit) = self.feed.listener.clone().try_acquire_owned() {
            tokio::spawn(attend(self.feed.clone(), permit));
        }
    }

    /// Waits until the run is said to have moved, but not beyond `until`.
    pub async fn of(&mut self, run: RunId, until: Instant) {
        // It may have panicked.
        self.attended();
        loop {
            match timeout_at(until, self.moved.recv()).await {
                Ok(Ok(moved)) if moved != run => {}
                Ok(Err(RecvError::Closed)) => return tokio::time::sleep_until(until).await,
                Ok(Ok(_) | Err(RecvError::Lagged(_))) | Err(_) => return,
            }
        }
    }
}

/// Passes notifications on until nobody is left to hear them.
async fn attend(feed: Arc<Inner>, mut permit: OwnedSemaphorePermit) {
    loop {
        let passing_on = listen(&feed.db, wake::RUN, |heard| match heard {
            Heard::Listening => feed.hearing.store(true, Ordering::Release),
            Heard::Note(run) => {
                if let Ok(run) = run.parse() {
                    feed.moved.send(run).ok();
                }
            }
            // Followers look for themselves meanwhile.
            Heard::Lost => feed.hearing.store(false, Ordering::Release),
        });
        tokio::select! {
            never = passing_on => match never {},
            () = deserted(&feed) => {}
        }
        drop(permit);
        // Someone may have subscribed between the last look and this, and found a listener.
        if feed.moved.receiver_count() == 0 {
            return;
        }
        match feed.listener.clone().try_acquire_owned() {
            Ok(again) => permit = again,
            Err(_) => return,
        }
    }
}

/// Returns when nobody has followed for a while.
async fn deserted(feed: &Inner) {
    loop {
        feed.moved.closed().await;
        tokio::time::sleep(LINGER).await;
        if feed.moved.receiver_count() == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Should fail: a flag in place of the permit, and no `attended` in `of`.
    #[tokio::test]
    async fn a_listener_that_is_gone_is_missed_by_whoever_follows() {
        let feed = RunFeed::new(PgPool::connect_lazy("postgres://nobody@127.0.0.1:1/none").unwrap());
        let mut news = feed.subscribe();
        assert_eq!(feed.0.listener.available_permits(), 0, "there is a listener");
        // As if it had panicked.
        feed.0.listener.add_permits(1);
        news.of(RunId::new(), Instant::now()).await;
        assert_eq!(feed.0.listener.available_permits(), 0, "there is one again");
    }
}
