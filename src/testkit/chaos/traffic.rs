//! Steady load: requests fall due at a fixed rate, whether or not those before were answered, and each answer is kept
//! with its moment. It runs on a thread and a runtime of its own, so that a server that stalls does not stall it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use reqwest::Method;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::window::{Event, Window};

/// No answer for this long is a hang.
pub const HANG: Duration = Duration::from_secs(10);

/// One request.
#[derive(Clone, Debug)]
pub struct Ask {
    pub method: Method,
    pub url: String,
    pub host: String,
    pub key: String,
    pub body: Option<Value>,
    /// The `Idempotency-Key`.
    pub once: Option<String>,
}

/// Some who ask alike: `rate` requests a second, evenly. `make` is given the request's number.
pub struct Group {
    pub name: &'static str,
    pub rate: f64,
    pub make: Box<dyn Fn(u64) -> Ask + Send>,
}

/// A load that is under way. It ends when it is finished or dropped.
pub struct Traffic {
    seen: Arc<Vec<Mutex<Vec<Event>>>>,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Traffic {
    /// # Panics
    /// When there is no thread to run it on.
    pub fn start(groups: Vec<Group>) -> Self {
        let seen: Arc<Vec<_>> = Arc::new(groups.iter().map(|_| Mutex::default()).collect());
        let stop = CancellationToken::new();
        let (inside, asked) = (seen.clone(), stop.clone());
        let thread = std::thread::Builder::new().name("traffic".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(run(groups, inside, asked));
        });
        Self { seen, stop, thread: Some(thread.expect("a thread")) }
    }

    /// What a group was answered to requests that were due in this time and have an answer by now.
    pub fn window(&self, group: usize, from: Instant, to: Instant) -> Window {
        let seen = self.seen[group].lock();
        Window::of(seen.iter().filter(|event| (from..to).contains(&event.due)).cloned().collect())
    }

    /// Sends no more, waits for the answers that are out, and gives all of each group.
    ///
    /// # Panics
    /// When the load itself did.
    pub async fn finish(mut self) -> Vec<Window> {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await.expect("no panic in join");
            joined.expect("the load did not panic");
        }
        self.seen.iter().map(|seen| Window::of(std::mem::take(&mut *seen.lock()))).collect()
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn run(groups: Vec<Group>, seen: Arc<Vec<Mutex<Vec<Event>>>>, stop: CancellationToken) {
    let client = client();
    let open = TaskTracker::new();
    let sending = groups.into_iter().enumerate().map(|(index, group)| {
        let (client, seen, stop, open) = (client.clone(), seen.clone(), stop.clone(), open.clone());
        async move {
            let mut due = tokio::time::interval(Duration::from_secs_f64(1.0 / group.rate));
            for number in 0.. {
                let Some(at) = stop.run_until_cancelled(due.tick()).await else { return };
                let (ask, client, seen) = ((group.make)(number), client.clone(), seen.clone());
                open.spawn(async move {
                    let event = send(&client, &ask, number, at.into_std()).await;
                    seen[index].lock().push(event);
                });
            }
        }
    });
    futures_util::future::join_all(sending).await;
    open.close();
    open.wait().await;
}

/// A client that waits as long as a hang takes and no longer.
///
/// # Panics
/// When there is no TLS to be had.
pub fn client() -> reqwest::Client {
    reqwest::Client::builder().timeout(HANG).no_proxy().build().expect("an HTTP client")
}

/// Sends one request and reads its answer to the end.
pub async fn send(client: &reqwest::Client, ask: &Ask, number: u64, due: Instant) -> Event {
    let mut request =
        client.request(ask.method.clone(), &ask.url).header("host", &ask.host).bearer_auth(&ask.key);
    if let Some(once) = &ask.once {
        request = request.header("idempotency-key", once);
    }
    if let Some(body) = &ask.body {
        request = request.json(body);
    }
    let answer = async {
        let answer = request.send().await?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Ok::<_, reqwest::Error>((status, headers, answer.text().await?))
    };
    let (status, retry_after, replayed, code) = match answer.await {
        Ok((status, headers, text)) => {
            let code = if status < 300 { String::new() } else { code_of(&text) };
            let has = |name| headers.contains_key(name);
            (status, has("retry-after"), has("idempotency-replayed"), code)
        }
        Err(error) => (0, false, false, format!("{error:?}")),
    };
    Event { number, due, took: due.elapsed(), status, code, retry_after, replayed, once: ask.once.is_some() }
}

fn code_of(text: &str) -> String {
    let problem: Value = serde_json::from_str(text).unwrap_or_default();
    problem["code"].as_str().unwrap_or(text).to_owned()
}
