//! Reads and writes through a [`Front`], every answer checked, every write kept in the books.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::books::Books;
use super::front::{Front, Lane};
use super::stage::Stage;
use crate::testkit::eventually;
use crate::testkit::figures::Spread;

/// One request in so many writes.
const WRITES: usize = 5;

/// A request that was not answered as it should have been.
#[derive(Clone, Debug)]
pub struct Failure {
    pub at: Instant,
    pub server: Option<SocketAddr>,
    /// The answer's status, or none when there was no answer.
    pub status: Option<u16>,
    pub tenant: usize,
    pub write: bool,
    pub what: String,
}

/// Load that goes on until it is told to stop.
pub struct Load {
    shared: Arc<Shared>,
    lanes: JoinSet<()>,
    stop: CancellationToken,
    begun: Instant,
}

struct Shared {
    stage: Arc<Stage>,
    front: Arc<Front>,
    books: Books,
    asked: AtomicUsize,
    answered: AtomicUsize,
    failures: Mutex<Vec<Failure>>,
    took: Mutex<Vec<Duration>>,
}

/// What came of it.
pub struct Report {
    pub requests: usize,
    pub failures: Vec<Failure>,
    /// Requests that were not sent because the server refused the connection, and went to another.
    pub refused: usize,
    pub per_second: f64,
    pub latency: Spread,
    pub books: Books,
}

impl Load {
    /// Begins with `lanes` requests at a time.
    pub fn begin(stage: &Arc<Stage>, front: &Arc<Front>, lanes: usize) -> Self {
        let shared = Arc::new(Shared {
            stage: stage.clone(),
            front: front.clone(),
            books: Books::default(),
            asked: AtomicUsize::new(0),
            answered: AtomicUsize::new(0),
            failures: Mutex::default(),
            took: Mutex::default(),
        });
        let (stop, mut set) = (CancellationToken::new(), JoinSet::new());
        for _ in 0..lanes {
            set.spawn(lane(shared.clone(), stop.clone()));
        }
        Self { shared, lanes: set, stop, begun: Instant::now() }
    }

    /// Requests answered so far, as they should have been.
    pub fn answered(&self) -> usize {
        self.shared.answered.load(Ordering::Relaxed)
    }

    pub fn failures(&self) -> usize {
        self.shared.failures.lock().len()
    }

    /// Writes acknowledged so far.
    pub fn written(&self) -> usize {
        self.shared.books.len()
    }

    /// Waits until so many more writes were acknowledged.
    ///
    /// # Panics
    /// When that takes a minute.
    pub async fn writes(&self, more: usize) {
        let wanted = self.written() + more;
        eventually(Duration::from_secs(60), "writes are acknowledged", async || {
            let written = self.written();
            if written >= wanted { Ok(()) } else { Err(format!("{written} of {wanted}")) }
        })
        .await;
    }

    /// Lets the requests at hand finish.
    ///
    /// # Panics
    /// When a lane did.
    pub async fn end(mut self) -> Report {
        self.stop.cancel();
        while let Some(lane) = self.lanes.join_next().await {
            lane.expect("a lane ends well");
        }
        let seconds = self.begun.elapsed().as_secs_f64();
        let shared = Arc::into_inner(self.shared).expect("the lanes have gone");
        let answered = shared.answered.into_inner();
        let failures = shared.failures.into_inner();
        Report {
            requests: answered + failures.len(),
            refused: shared.front.refused.load(Ordering::Relaxed),
            per_second: answered as f64 / seconds,
            latency: Spread::of(&shared.took.into_inner()),
            failures,
            books: shared.books,
        }
    }
}

async fn lane(shared: Arc<Shared>, stop: CancellationToken) {
    let mut lane = Lane::new(&shared.front);
    let mut took = Vec::new();
    while !stop.is_cancelled() {
        let number = shared.asked.fetch_add(1, Ordering::Relaxed);
        // The step is prime to the number of tenants in use, so that each reads and writes.
        let (index, write) = (number / WRITES % shared.stage.tenants.len(), number.is_multiple_of(WRITES));
        let tenant = &shared.stage.tenants[index];
        let title = format!("w-{number}");
        let request = if write { tenant.write(&title) } else { tenant.read() };
        let asked = Instant::now();
        let (server, answer) = lane.ask(&request).await;
        let wanted = if write { 201 } else { 200 };
        let (status, what) = match answer {
            Ok(answer) if answer.status == wanted => {
                took.push(asked.elapsed());
                shared.answered.fetch_add(1, Ordering::Relaxed);
                if write {
                    shared.books.acknowledged(index, title);
                }
                continue;
            }
            Ok(answer) => (Some(answer.status), format!("{} {}", answer.status, answer.json())),
            Err(lost) => (None, format!("{lost:?}")),
        };
        shared.failures.lock().push(Failure {
            at: Instant::now(),
            server,
            status,
            tenant: index,
            write,
            what,
        });
        // Whoever is refused comes back a little later, as a client would.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    shared.took.lock().extend(took);
}

/// The first few failures, word for word.
pub fn samples(failures: &[Failure]) -> Vec<String> {
    let say = |f: &Failure| {
        let kind = if f.write { "write" } else { "read" };
        format!("failed: {kind} at {:?}: {}", f.server, f.what)
    };
    failures.iter().take(5).map(say).collect()
}
