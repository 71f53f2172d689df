//! The DevTools protocol over a pipe: JSON messages, each ended by a zero byte. Commands have a number, which their
//! answers carry; what has none is an event.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::sync::{mpsc, oneshot};

/// The longest any command may take: a busy machine's first page.
const PATIENCE: Duration = Duration::from_secs(60);

type Waiting = HashMap<u64, oneshot::Sender<Result<Value, String>>>;

/// An event of one session: its method and its parameters.
pub type Event = (String, Value);

/// Both ends. Cheap to clone.
#[derive(Clone)]
pub struct Pipe(Arc<Ends>);

struct Ends {
    last: AtomicU64,
    write: mpsc::UnboundedSender<Vec<u8>>,
    /// Commands without an answer; gone when the browser is.
    waiting: Mutex<Option<Waiting>>,
    /// Who listens to which session.
    sessions: Mutex<HashMap<String, mpsc::UnboundedSender<Event>>>,
}

impl Pipe {
    pub fn over(mut stdin: ChildStdin, stdout: ChildStdout) -> Self {
        let (write, mut to_write) = mpsc::unbounded_channel::<Vec<u8>>();
        let ends = Arc::new(Ends {
            last: AtomicU64::new(0),
            write,
            waiting: Mutex::new(Some(HashMap::new())),
            sessions: Mutex::default(),
        });
        tokio::spawn(async move {
            while let Some(message) = to_write.recv().await {
                if stdin.write_all(&message).await.is_err() {
                    return;
                }
            }
        });
        let reading = ends.clone();
        tokio::spawn(async move {
            let (mut stdout, mut message) = (BufReader::new(stdout), Vec::new());
            while stdout.read_until(0, &mut message).await.is_ok_and(|length| length > 0) {
                message.pop();
                if let Ok(value) = serde_json::from_slice(&message) {
                    reading.take(value);
                }
                message.clear();
            }
            // Whoever waits still is told: their senders are dropped.
            *reading.waiting.lock() = None;
        });
        Self(ends)
    }

    /// One command, at the browser itself or in a session, and its answer.
    ///
    /// # Errors
    /// What the browser says is wrong with it; that it is gone; that it does not answer.
    pub async fn call(&self, session: Option<&str>, method: &str, params: Value) -> Result<Value, String> {
        let id = self.0.last.fetch_add(1, Ordering::Relaxed) + 1;
        let (answer, answered) = oneshot::channel();
        let gone = || "the browser is gone".to_owned();
        self.0.waiting.lock().as_mut().ok_or_else(gone)?.insert(id, answer);
        self.send(id, session, method, params);
        match tokio::time::timeout(PATIENCE, answered).await {
            Ok(answer) => answer.map_err(|_| gone())?,
            Err(_) => Err(format!("no answer to {method}")),
        }
    }

    /// One command whose answer nobody waits for.
    pub fn tell(&self, session: &str, method: &str, params: Value) {
        let id = self.0.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.send(id, Some(session), method, params);
    }

    fn send(&self, id: u64, session: Option<&str>, method: &str, params: Value) {
        let mut message = json!({ "id": id, "method": method, "params": params });
        if let Some(session) = session {
            message["sessionId"] = session.into();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.0.write.send(bytes).ok();
    }

    /// All events of a session from now on.
    pub fn events(&self, session: &str) -> mpsc::UnboundedReceiver<Event> {
        let (send, receive) = mpsc::unbounded_channel();
        self.0.sessions.lock().insert(session.to_owned(), send);
        receive
    }
}

impl Ends {
    fn take(&self, mut message: Value) {
        if let Some(id) = message["id"].as_u64() {
            let answer = self.waiting.lock().as_mut().and_then(|waiting| waiting.remove(&id));
            let said = match message["error"]["message"].as_str() {
                Some(error) => Err(error.to_owned()),
                None => Ok(message["result"].take()),
            };
            if let Some(answer) = answer {
                answer.send(said).ok();
            }
            return;
        }
        let (Some(session), Some(method)) = (message["sessionId"].as_str(), message["method"].as_str())
        else {
            return;
        };
        let (session, method) = (session.to_owned(), method.to_owned());
        if let Some(listener) = self.sessions.lock().get(&session) {
            listener.send((method, message["params"].take())).ok();
        }
    }
}
