//! Progress of runs as a stream: a look whenever the run is said to have moved, and each second.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::Event;
use futures_util::stream::{Stream, unfold};
use sqlx::PgPool;
use tokio::time::Instant;

use crate::jobs::feed::News;
use crate::jobs::run::{Run, run_by_id};
use crate::kernel::ids::RunId;

/// How long a change may go unseen when no notification comes.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The longest stream: whoever still cares then comes back, and a server that stops need not wait for ever.
const LONGEST: Duration = Duration::from_secs(900);

struct Follow {
    db: PgPool,
    news: News,
    id: RunId,
    unseen: Option<Run>,
    last: String,
    finished: bool,
    until: Instant,
}

/// The run now and at each change, until it is finished. Ends when the client goes: then nobody polls it any more.
pub fn follow(db: PgPool, news: News, first: Run) -> impl Stream<Item = Result<Event, Infallible>> {
    let follow = Follow {
        db,
        news,
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
                self.news.of(self.id, Instant::now() + LOOK_EVERY).await;
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
}
