//! Progress of runs as a stream. One listener on the control database serves every follower of this process, and there is
//! none while nobody follows. Whatever the listener misses, a look each second finds.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::response::sse::Event;
use futures_util::stream::{Stream, unfold};
use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::{Instant, timeout, timeout_at};

use crate::jobs::run::{Run, run_by_id};
use crate::jobs::wake;
use crate::kernel::ids::RunId;

/// How long a change may go unseen when no notification comes.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long the listener stays when nobody follows.
const LINGER: Duration = Duration::from_secs(5);
/// The longest stream: whoever still cares then comes back, and a server that stops need not wait for ever.
const LONGEST: Duration = Duration::from_secs(900);

/// Which runs have moved, as this process hears of it.
pub struct RunFeed {
    db: PgPool,
    moved: broadcast::Sender<RunId>,
    listening: AtomicBool,
}

impl RunFeed {
    pub fn new(db: PgPool) -> Self {
        // A follower that lags looks at its run anyway: the size decides nothing.
        Self { db, moved: broadcast::channel(256).0, listening: AtomicBool::new(false) }
    }

    /// From now on, the ids of runs that move. Starts the listener for the first subscriber.
    pub fn subscribe(self: &Arc<Self>) -> broadcast::Receiver<RunId> {
        let receiver = self.moved.subscribe();
        if !self.listening.swap(true, Ordering::AcqRel) {
            tokio::spawn(listen(self.clone()));
        }
        receiver
    }
}

async fn listen(feed: Arc<RunFeed>) {
    loop {
        if let Err(error) = pass_on(&feed).await {
            // Followers look for themselves meanwhile.
            tracing::debug!(%error, "the listener for runs lost its connection");
            tokio::time::sleep(LOOK_EVERY).await;
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
async fn pass_on(feed: &RunFeed) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(&feed.db).await?;
    listener.listen(wake::RUN).await?;
    while feed.moved.receiver_count() > 0 {
        if let Ok(notification) = timeout(LINGER, listener.recv()).await
            && let Ok(run) = notification?.payload().parse()
        {
            feed.moved.send(run).ok();
        }
    }
    Ok(())
}

struct Follow {
    db: PgPool,
    moved: broadcast::Receiver<RunId>,
    id: RunId,
    unseen: Option<Run>,
    last: String,
    finished: bool,
    until: Instant,
}

/// The run now and at each change, until it is finished. Ends when the client goes: then nobody polls it any more.
pub fn follow(
    db: PgPool,
    moved: broadcast::Receiver<RunId>,
    first: Run,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let follow = Follow {
        db,
        moved,
        id: first.id,
        unseen: Some(first),
        last: String::new(),
        finished: false,
        until: Instant::now() + LONGEST,
    };
    unfold(follow, |mut follow| async move { follow.next().await.map(|event| (Ok(event), follow)) })
}

impl Follow {
    async fn next(&mut self) -> Option<Event> {
        while !self.finished && Instant::now() < self.until {
            let Some(run) = self.unseen.take() else {
                self.wait().await;
                // A control database that is away for a moment does not end the stream.
                if let Ok(mut control) = self.db.acquire().await
                    && let Ok(run) = run_by_id(&mut control, self.id).await
                {
                    self.unseen = Some(run);
                }
                continue;
            };
            self.finished = !run.state.is_open();
            let text = serde_json::to_string(&run).ok()?;
            if text != self.last {
                self.last.clone_from(&text);
                return Some(Event::default().event("run").data(text));
            }
        }
        None
    }

    /// Until the run is said to have moved, or a second has passed.
    async fn wait(&mut self) {
        let until = Instant::now() + LOOK_EVERY;
        loop {
            match timeout_at(until, self.moved.recv()).await {
                Ok(Ok(run)) if run != self.id => {}
                Ok(Err(RecvError::Closed)) => {
                    tokio::time::sleep_until(until).await;
                    return;
                }
                Ok(Ok(_) | Err(RecvError::Lagged(_))) | Err(_) => return,
            }
        }
    }
}
