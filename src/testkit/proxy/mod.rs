//! A TCP proxy that does to a connection what networks do: delay, refuse, go silent, cut, lose the answer. A test switches
//! it while connections are open, and reads from its counters that the fault was really met.
//!
//! What it cannot do without the rights of root: leave a connection attempt itself unanswered (a black hole accepts and
//! then nothing ever arrives), or delay the handshake of TCP.
//!
//! `relay` holds what happens to one connection.

mod relay;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// What the proxy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nothing.
    Pass,
    /// Each piece arrives this much later, in either direction, in order. Throughput is not limited.
    Latency(Duration),
    /// Nobody listens: new connections get `ECONNREFUSED`, open ones end. Attempts cannot be counted: there is nobody
    /// to count them.
    Refuse,
    /// Connections are accepted and nothing ever arrives; open ones go silent. What was on its way arrives when the
    /// mode ends, as TCP would send it again.
    Blackhole,
    /// Open connections are reset, new ones as soon as they are there. Attempts are counted.
    Reset,
    /// The server hears everything and its answers are lost: what was asked for happens, and nobody hears of it.
    HalfOpen {
        /// Only what is answered after the client sent these bytes: `Some("COMMIT")` loses the outcome of
        /// transactions and nothing else. `None`: every answer.
        after: Option<&'static str>,
        /// How long a connection that lost an answer stays silent before it is reset.
        silent: Duration,
    },
    /// Few bytes at a time, in either direction.
    Drip { bytes: usize, every: Duration },
    /// [`Mode::Pass`] and [`Mode::Reset`] in turn, beginning with the latter.
    Flap { up: Duration, down: Duration },
}

impl Mode {
    /// Every answer lost, and the connection reset at once.
    pub const ANSWERS_LOST: Self = Self::HalfOpen { after: None, silent: Duration::ZERO };
    /// The outcome of every transaction lost, and the connection reset at once.
    pub const COMMITS_LOST: Self = Self::HalfOpen { after: Some("COMMIT"), silent: Duration::ZERO };
}

/// What a proxy has seen since it was made. Subtract two to look at a time between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Connections accepted, the next line's included.
    pub accepted: u64,
    /// Those that came while the mode was not [`Mode::Pass`] (of a flapping one: while it was down).
    pub in_fault: u64,
    /// Bytes that reached the server and the client.
    pub to_server: u64,
    pub to_client: u64,
    /// Bytes of both ways that were kept back by [`Mode::Latency`] first.
    pub delayed: u64,
    /// Connections that were ended by the mode, at their start or later.
    pub cut: u64,
    /// Connections whose answer the server gave and the client never got.
    pub answers_lost: u64,
    /// Connections that were open and fell silent in a black hole, at least once.
    pub silenced: u64,
}

impl std::ops::Sub for Counts {
    type Output = Self;
    fn sub(self, earlier: Self) -> Self {
        Self {
            accepted: self.accepted - earlier.accepted,
            in_fault: self.in_fault - earlier.in_fault,
            to_server: self.to_server - earlier.to_server,
            to_client: self.to_client - earlier.to_client,
            delayed: self.delayed - earlier.delayed,
            cut: self.cut - earlier.cut,
            answers_lost: self.answers_lost - earlier.answers_lost,
            silenced: self.silenced - earlier.silenced,
        }
    }
}

/// A proxy on a port of its own on 127.0.0.1. Dropped, it ends and so do its connections.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

struct Shared {
    target: SocketAddr,
    /// Bound and not listening: while nobody listens, connections are refused, and nobody else can take the port.
    holder: TcpSocket,
    listener: watch::Sender<Option<Arc<TcpListener>>>,
    /// Of a flapping proxy: what it does just now.
    mode: watch::Sender<Mode>,
    /// Raised by each [`Proxy::set`], so that the flapping that it ends does not go on.
    turn: Mutex<u64>,
    stop: CancellationToken,
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    accepted: AtomicU64,
    to_server: AtomicU64,
    to_client: AtomicU64,
    delayed: AtomicU64,
    cut: AtomicU64,
    answers_lost: AtomicU64,
    silenced: AtomicU64,
    attempts: Mutex<Vec<Instant>>,
}

impl Proxy {
    /// A proxy before a server on 127.0.0.1.
    pub async fn to_port(port: u16) -> Self {
        Self::to(SocketAddr::from(([127, 0, 0, 1], port))).await
    }

    /// # Panics
    /// When no port is free.
    pub async fn to(target: SocketAddr) -> Self {
        let holder = socket(0);
        let port = holder.local_addr().expect("a bound socket").port();
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            target,
            holder,
            listener: watch::Sender::new(Some(listen(port))),
            mode: watch::Sender::new(Mode::Pass),
            turn: Mutex::new(0),
            stop: stop.clone(),
            counters: Counters::default(),
        });
        tokio::spawn(stop.clone().run_until_cancelled_owned(shared.clone().accept()));
        Self { port, shared, _stop: stop.drop_guard() }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL with the proxy's port in place of its own.
    ///
    /// # Panics
    /// When it is not the URL of something on 127.0.0.1.
    pub fn url(&self, direct: &str) -> String {
        let mut url = reqwest::Url::parse(direct).expect("a URL");
        assert_eq!(url.host_str(), Some("127.0.0.1"), "the proxy is on 127.0.0.1");
        url.set_port(Some(self.port)).expect("a URL with a host");
        url.to_string()
    }

    /// Changes what it does, for connections open and new. A connection made after this returns meets the new mode.
    /// Called on a runtime, as everything here.
    pub fn set(&self, mode: Mode) {
        let mut turn = self.shared.turn.lock();
        *turn += 1;
        match mode {
            Mode::Flap { up, down } => {
                tracing::debug!(self.port, ?mode, "proxy");
                self.shared.enter(self.port, Mode::Reset);
                tokio::spawn(flap(self.shared.clone(), self.port, *turn, up, down));
            }
            mode => self.shared.enter(self.port, mode),
        }
    }

    pub fn counts(&self) -> Counts {
        let counters = &self.shared.counters;
        let read = |counter: &AtomicU64| counter.load(Relaxed);
        Counts {
            accepted: read(&counters.accepted),
            in_fault: counters.attempts.lock().len() as u64,
            to_server: read(&counters.to_server),
            to_client: read(&counters.to_client),
            delayed: read(&counters.delayed),
            cut: read(&counters.cut),
            answers_lost: read(&counters.answers_lost),
            silenced: read(&counters.silenced),
        }
    }

    /// When connections were attempted while the proxy was in fault, since its making.
    pub fn attempts(&self) -> Vec<Instant> {
        self.shared.counters.attempts.lock().clone()
    }

    /// The most of those attempts that came within any such time after `since`.
    pub fn most_attempts_within(&self, window: Duration, since: Instant) -> usize {
        let times: Vec<_> = self.attempts().into_iter().filter(|at| *at >= since).collect();
        (0..times.len())
            .map(|first| times[first..].iter().take_while(|at| **at < times[first] + window).count())
            .max()
            .unwrap_or(0)
    }
}

impl Shared {
    /// The order matters: whoever can still connect meets the mode that is meant for him.
    fn enter(&self, port: u16, mode: Mode) {
        self.mode.send_replace(mode);
        if mode == Mode::Refuse {
            self.listener.send_replace(None);
        } else if self.listener.borrow().is_none() {
            self.listener.send_replace(Some(listen(port)));
        }
    }

    async fn accept(self: Arc<Self>) {
        // The socket that holds the port lives as long as this.
        let _held = &self.holder;
        let mut listener = self.listener.subscribe();
        loop {
            let current = listener.borrow_and_update().clone();
            let accepting = async {
                match &current {
                    Some(listener) => listener.accept().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = listener.changed() => if changed.is_err() { return },
                arrived = accepting => match arrived {
                    Ok((near, _)) => {
                        self.counters.accepted.fetch_add(1, Relaxed);
                        if *self.mode.borrow() != Mode::Pass {
                            self.counters.attempts.lock().push(Instant::now());
                        }
                        tokio::spawn(relay::relay(self.clone(), near));
                    }
                    // Out of file descriptors, most likely: not for ever.
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                },
            }
        }
    }
}

async fn flap(shared: Arc<Shared>, port: u16, turn: u64, up: Duration, down: Duration) {
    for (mode, lasts) in [(Mode::Reset, down), (Mode::Pass, up)].into_iter().cycle() {
        {
            let current = shared.turn.lock();
            if *current != turn || shared.stop.is_cancelled() {
                return;
            }
            shared.enter(port, mode);
        }
        tokio::time::sleep(lasts).await;
    }
}

/// A socket on a port that others of ours may share.
fn socket(port: u16) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseport(true).expect("SO_REUSEPORT");
    socket.bind(SocketAddr::from(([127, 0, 0, 1], port))).expect("a port");
    socket
}

fn listen(port: u16) -> Arc<TcpListener> {
    Arc::new(socket(port).listen(BACKLOG).expect("a listener"))
}
