//! Listening and stopping. HTTP/1.1 only: TLS and HTTP/2 end at the load balancer. What hyper cannot read as a request it
//! answers itself (400, 414, 431, no body), and has no hook for that answer: of all that is refused, only this is no
//! problem document.
//!
//! Stopping takes three steps, so that a rolling restart loses nothing: first `/health/ready` says no while everything
//! is still served (the balancer needs a moment to notice) and each answer ends its connection, so that none is left
//! for a later request to be lost on; then no new connection is accepted and idle ones are closed, then what is in
//! flight gets a last deadline.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::Response;
use http::{HeaderValue, Request, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
#[cfg(target_os = "linux")]
use nix::sys::socket::{setsockopt, sockopt::TcpUserTimeout};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::client::Peer;
use crate::kernel::{Error, Result, codes};

/// How a server stops, and how much it takes on.
#[derive(Clone, Copy, Debug)]
pub struct ServeOptions {
    /// From "not ready" to the first refused connection: how long the balancer may take to notice.
    pub grace: Duration,
    /// How long requests in flight may take after that.
    pub drain: Duration,
    /// Open connections; more wait in the kernel's queue.
    pub connections: usize,
    /// How long a client may leave what it was sent untaken before it is cut off. Without a limit, clients that ask and
    /// do not read would keep every connection there is.
    pub untaken: Duration,
}

/// Connections of a server that has enough descriptors.
const CONNECTIONS: usize = 10_000;

/// How many connections a process may take on that may have this many file descriptors: half. The rest is for databases,
/// without which nobody could be served; a crowd of clients must not use them up.
pub fn connections_within(descriptors: u64) -> usize {
    usize::try_from(descriptors / 2).unwrap_or(CONNECTIONS).clamp(1, CONNECTIONS)
}

/// Raises this process's limit of file descriptors as far as it may, and gives it.
pub fn raise_descriptors() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 1024 };
    // More than this is of no use, and "without limit" is refused by some kernels.
    let wanted = hard.min(1 << 20);
    if soft < wanted && setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_ok() { wanted } else { soft }
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            grace: Duration::ZERO,
            drain: Duration::from_secs(30),
            connections: CONNECTIONS,
            untaken: Duration::from_secs(60),
        }
    }
}

/// A client gets this long for a request's head. It is also the longest a connection is idle, so it has to be longer
/// than a load balancer keeps one (60 s is usual): whoever closes first while the other sends loses a request.
const HEAD: Duration = Duration::from_secs(75);
/// After a failed accept (out of file descriptors), others need a moment to finish.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// Connections that the kernel keeps for us until there is room (or as many as it may): whoever finds the queue full is
/// not refused but left to try again, a second later at the earliest.
const QUEUE: u32 = 1_024;

/// Opens the listening socket.
///
/// # Errors
/// With a hint when the address is taken or not allowed.
pub async fn bind(addr: SocketAddr) -> Result<TcpListener> {
    listen(addr).map_err(|error| {
        let failed = Error::new(&codes::CONFLICT);
        let failed = match error.kind() {
            io::ErrorKind::AddrInUse => failed
                .detail(format!("the address {addr} is in use"))
                .hint("stop what listens there, or choose another with FREEHOLD_HTTP_ADDR"),
            io::ErrorKind::PermissionDenied => failed
                .detail(format!("this user may not listen on {addr}"))
                .hint("choose a port above 1023 with FREEHOLD_HTTP_ADDR"),
            _ => failed
                .detail(format!("cannot listen on {addr}: {error}"))
                .hint("choose an address of this machine with FREEHOLD_HTTP_ADDR"),
        };
        failed.source(error)
    })
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A server that is started again need not wait for its old connections to be forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(QUEUE)
}

/// Serves until `draining` is cancelled and what was in flight has ended or run out of time. Gives the number of
/// connections that had to be cut.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    draining: CancellationToken,
    options: ServeOptions,
) -> usize {
    let room = Arc::new(Semaphore::new(options.connections));
    let (connections, closing, cut) =
        (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
    let stop = async {
        draining.cancelled().await;
        tokio::time::sleep(options.grace).await;
    };
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = accept(&listener, &room, options.untaken) => accepted,
        };
        match accepted {
            Ok((stream, peer, permit)) => {
                let ends = Ends { draining: draining.clone(), closing: closing.clone(), cut: cut.clone() };
                let one = connection(stream, peer, app.clone(), ends);
                connections.spawn(async move {
                    one.await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
    drop(listener);
    closing.cancel();
    connections.close();
    if tokio::time::timeout(options.drain, connections.wait()).await.is_ok() {
        return 0;
    }
    let left = connections.len();
    tracing::warn!(connections = left, "requests still in flight at the deadline were cut off");
    cut.cancel();
    connections.wait().await;
    left
}

type Permit = tokio::sync::OwnedSemaphorePermit;

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
    untaken: Duration,
) -> io::Result<(TcpStream, Peer, Permit)> {
    let permit = room.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    // Answers are written whole: waiting for more to send only delays them.
    stream.set_nodelay(true)?;
    // The kernel keeps this time for us: a timer around each write would cost every answer.
    #[cfg(target_os = "linux")]
    setsockopt(&stream, TcpUserTimeout, &(untaken.as_millis() as u32))?;
    Ok((stream, Peer(peer.ip().to_canonical()), permit))
}

/// The three steps of stopping, as a connection hears of them.
struct Ends {
    /// Each answer is the connection's last one.
    draining: CancellationToken,
    /// An idle connection closes at once.
    closing: CancellationToken,
    cut: CancellationToken,
}

async fn connection(stream: TcpStream, peer: Peer, app: Router, ends: Ends) {
    let Ends { draining, closing, cut } = ends;
    let (app, draining) = (TowerToHyperService::new(app), Arc::new(draining));
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        let (answer, draining) = (app.call(request), draining.clone());
        async move { answer.await.map(|answer| last_if(draining.is_cancelled(), answer)) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let mut told = false;
    loop {
        tokio::select! {
            done = connection.as_mut() => {
                if let Err(error) = done {
                    tracing::debug!(%error, "a connection ended badly");
                }
                return;
            }
            // Finishes the request at hand, then closes; an idle connection closes at once.
            () = closing.cancelled(), if !told => {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
            () = cut.cancelled() => return,
        }
    }
}

/// Tells the client that no more is served on this connection; hyper reads the header too and closes.
fn last_if(last: bool, mut answer: Response) -> Response {
    if last {
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn start(
        app: Router,
        options: ServeOptions,
    ) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<usize>) {
        let listener = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let draining = CancellationToken::new();
        (addr, draining.clone(), tokio::spawn(serve(listener, app, draining, options)))
    }

    async fn ask(addr: SocketAddr, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
        stream
    }

    fn slow(begun: Arc<Semaphore>, go: Arc<Semaphore>) -> Router {
        Router::new().route(
            "/slow",
            get(move || async move {
                begun.add_permits(1);
                let _permit = go.acquire().await;
                "done"
            }),
        )
    }

    #[tokio::test]
    async fn what_is_in_flight_finishes_and_the_idle_are_closed() {
        let (begun, go) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let (addr, draining, server) = start(slow(begun.clone(), go.clone()), ServeOptions::default()).await;
        let mut busy = ask(addr, "/slow").await;
        let mut idle = TcpStream::connect(addr).await.unwrap();
        let _begun = begun.acquire().await.unwrap();
        draining.cancel();
        let mut rest = Vec::new();
        // The idle connection is closed; only then do we know that no new one is accepted.
        assert_eq!(idle.read_to_end(&mut rest).await.unwrap(), 0);
        assert!(TcpStream::connect(addr).await.is_err());
        go.add_permits(1);
        busy.read_to_end(&mut rest).await.unwrap();
        assert!(String::from_utf8(rest).unwrap().ends_with("done"));
        assert_eq!(server.await.unwrap(), 0);
    }

    /// Guard: `last_if`. Without it the connection stays open until the grace is over, and whoever sends on it at that
    /// moment loses a request.
    #[tokio::test]
    async fn while_draining_new_connections_are_served_and_each_answer_is_the_last_on_its_own() {
        let app = Router::new().route("/", get(|| async { "done" }));
        let options = ServeOptions { grace: Duration::from_secs(60), ..ServeOptions::default() };
        let (addr, draining, server) = start(app, options).await;
        let mut early = ask(addr, "/").await;
        let mut first = [0; 17];
        early.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200 OK\r\n");
        draining.cancel();
        early.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        for mut stream in [early, ask(addr, "/").await] {
            let mut rest = String::new();
            let whole = stream.read_to_string(&mut rest);
            tokio::time::timeout(Duration::from_secs(20), whole).await.expect("it is closed").unwrap();
            assert!(rest.ends_with("done") && rest.contains("connection: close"), "{rest}");
        }
        server.abort();
    }

    #[tokio::test]
    async fn what_does_not_finish_is_cut_at_the_deadline() {
        let (begun, go) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let options = ServeOptions { drain: Duration::from_millis(50), ..ServeOptions::default() };
        let (addr, draining, server) = start(slow(begun.clone(), go), options).await;
        let _busy = ask(addr, "/slow").await;
        let _begun = begun.acquire().await.unwrap();
        let asked = Instant::now();
        draining.cancel();
        assert_eq!(server.await.unwrap(), 1);
        assert!(asked.elapsed() < Duration::from_secs(5));
    }

    /// Guard: `TcpUserTimeout`. Without it the connection, and its place among those allowed, is kept for ever.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn whoever_does_not_take_the_answer_is_cut_off() {
        // Far more than the kernel's buffers hold.
        let app = Router::new().route("/", get(|| async { vec![0_u8; 64 << 20] }));
        let options =
            ServeOptions { connections: 1, untaken: Duration::from_secs(1), ..ServeOptions::default() };
        let (addr, _draining, _server) = start(app, options).await;
        let _deaf = ask(addr, "/").await;
        let mut next = ask(addr, "/").await;
        let mut first = [0; 1];
        let answered = tokio::time::timeout(Duration::from_secs(20), next.read_exact(&mut first)).await;
        answered.expect("the only place is free again").unwrap();
    }

    /// Guard: `QUEUE`. With the usual 128, the rest of a crowd is let in a second later, or two, or four.
    #[tokio::test]
    async fn a_crowd_waits_in_the_kernels_queue() {
        let options = ServeOptions { connections: 1, ..ServeOptions::default() };
        let (addr, _draining, _server) = start(Router::new(), options).await;
        let mut crowd = Vec::new();
        for _ in 0..400 {
            crowd.push(TcpStream::connect(addr));
        }
        let all = futures_util::future::try_join_all(crowd);
        tokio::time::timeout(Duration::from_secs(30), all).await.expect("all are let in").unwrap();
    }

    #[test]
    fn clients_are_left_half_of_the_descriptors() {
        assert_eq!(connections_within(1_024), 512);
        assert_eq!(connections_within(1 << 20), CONNECTIONS);
        assert_eq!((connections_within(0), connections_within(u64::MAX)), (1, CONNECTIONS));
    }

    #[tokio::test]
    async fn a_taken_address_is_said_with_a_way_out() {
        let first = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let error = bind(first.local_addr().unwrap()).await.unwrap_err();
        assert!(error.public_detail().unwrap().contains("in use"));
        assert!(error.public_hint().unwrap().contains("FREEHOLD_HTTP_ADDR"));
    }
}
