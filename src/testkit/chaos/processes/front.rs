//! A client that behaves like a load balancer: it asks each server's `/health/ready` every so often, sends requests in
//! turn to those that are ready, over kept connections, and never sends one twice. A server that refuses a connection is
//! taken out until its next good check; the request, which was not sent, goes to the next one.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::client::{Answer, Lost, Wire, request};

/// How often a server is asked whether it is ready. One bad answer takes it out.
pub const CHECK_EVERY: Duration = Duration::from_millis(200);
/// How long a request waits for a server to be ready before it counts as lost.
const NOBODY: Duration = Duration::from_secs(10);

/// The servers behind it. Stops checking when dropped.
pub struct Front {
    servers: Vec<Arc<Server>>,
    turn: AtomicUsize,
    /// Requests that met a closed door and went to the next server.
    pub refused: AtomicUsize,
    stop: CancellationToken,
}

pub struct Server {
    pub addr: SocketAddr,
    ready: AtomicBool,
    /// When it was last seen to become unready.
    out: Mutex<Option<Instant>>,
}

impl Server {
    fn set(&self, ready: bool) {
        if self.ready.swap(ready, Ordering::AcqRel) && !ready {
            *self.out.lock() = Some(Instant::now());
        }
    }

    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    pub fn out_since(&self) -> Option<Instant> {
        *self.out.lock()
    }
}

impl Front {
    /// # Panics
    /// Outside a runtime.
    pub fn new(addrs: &[SocketAddr]) -> Arc<Self> {
        let stop = CancellationToken::new();
        let server = |addr: &SocketAddr| {
            Arc::new(Server { addr: *addr, ready: AtomicBool::new(false), out: Mutex::new(None) })
        };
        let servers: Vec<Arc<Server>> = addrs.iter().map(server).collect();
        for server in &servers {
            tokio::spawn(stop.clone().run_until_cancelled_owned(check(server.clone())));
        }
        Arc::new(Self { servers, turn: AtomicUsize::new(0), refused: AtomicUsize::new(0), stop })
    }

    pub fn server(&self, index: usize) -> &Server {
        &self.servers[index]
    }

    fn next(&self) -> Option<&Server> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let count = self.servers.len();
        (0..count).map(|step| &*self.servers[(turn + step) % count]).find(|server| server.is_ready())
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn check(server: Arc<Server>) {
    let question = request("GET", "/health/ready", "front", "none", None);
    loop {
        let look = async { Wire::open(server.addr).await?.ask(&question).await };
        let answer = tokio::time::timeout(Duration::from_secs(1), look).await;
        server.set(matches!(answer, Ok(Ok(Answer { status: 200, .. }))));
        tokio::time::sleep(CHECK_EVERY).await;
    }
}

/// One of the balancer's lines of work, with connections of its own.
pub struct Lane {
    front: Arc<Front>,
    wires: HashMap<SocketAddr, Wire>,
}

impl Lane {
    pub fn new(front: &Arc<Front>) -> Self {
        Self { front: front.clone(), wires: HashMap::new() }
    }

    /// Sends a request to a server that is ready; says which one it was (none when nobody was).
    pub async fn ask(&mut self, request: &[u8]) -> (Option<SocketAddr>, Result<Answer, Lost>) {
        let until = Instant::now() + NOBODY;
        let front = self.front.clone();
        loop {
            let Some(server) = front.next() else {
                if Instant::now() > until {
                    return (None, Err(Lost::Unsent));
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            let kept = self.wires.remove(&server.addr).filter(|wire| !wire.is_closed());
            let mut wire = match kept {
                Some(wire) => wire,
                None => match Wire::open(server.addr).await {
                    Ok(wire) => wire,
                    Err(_) => {
                        front.refused.fetch_add(1, Ordering::Relaxed);
                        server.set(false);
                        continue;
                    }
                },
            };
            let answer = wire.ask(request).await;
            if matches!(&answer, Ok(answer) if !answer.last) {
                self.wires.insert(server.addr, wire);
            }
            return (Some(server.addr), answer);
        }
    }
}
