//! One connection through the proxy.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Mode, Shared};

/// A piece is at most this long.
const PIECE: usize = 16 * 1024;
/// Bytes kept on their way in one direction; then the sender waits.
const ON_THE_WAY: usize = 1 << 20;

/// How a connection ends.
enum End {
    /// Both sides said goodbye, or the proxy is gone.
    Closed,
    /// The mode ended it: in order, or by a reset.
    Cut { reset: bool },
}

/// Takes one client's connection from its start to its end.
pub async fn relay(shared: Arc<Shared>, mut near: TcpStream) {
    let Some(connected) = shared.stop.run_until_cancelled(dial(&shared, &near)).await else { return };
    let mut far = match connected {
        Ok(far) => far,
        Err(_) => return reset(&near),
    };
    // Small pieces wait for nothing: a proxy that adds 40 ms by itself measures nothing.
    drop((near.set_nodelay(true), far.set_nodelay(true)));
    let mut mode = shared.mode.subscribe();
    let end = {
        let both = both_ways(&shared, &mut near, &mut far);
        tokio::select! {
            end = both => end,
            end = cut(&shared, &mut mode) => end,
            () = shared.stop.cancelled() => End::Closed,
        }
    };
    if let End::Cut { reset: hard } = end {
        shared.counters.cut.fetch_add(1, Relaxed);
        if hard {
            reset(&near);
            reset(&far);
        }
    }
}

/// Opens the way to the server as soon as the mode lets anything through.
async fn dial(shared: &Shared, near: &TcpStream) -> io::Result<TcpStream> {
    let mut mode = shared.mode.subscribe();
    loop {
        let now = *mode.borrow_and_update();
        match now {
            Mode::Reset | Mode::Refuse => {
                shared.counters.cut.fetch_add(1, Relaxed);
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            Mode::Blackhole => {
                let mut byte = [0];
                tokio::select! {
                    changed = mode.changed() => changed.map_err(io::Error::other)?,
                    // A client that gave up: nobody is left to dial for.
                    () = gone(near, &mut byte) => return Err(io::ErrorKind::ConnectionAborted.into()),
                }
            }
            _ => return TcpStream::connect(shared.target).await,
        }
    }
}

/// Until the client has closed. What it has said stays to be read.
async fn gone(near: &TcpStream, byte: &mut [u8]) {
    loop {
        match near.peek(byte).await {
            Ok(0) | Err(_) => return,
            Ok(_) => sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Until the mode ends open connections.
async fn cut(shared: &Shared, mode: &mut watch::Receiver<Mode>) -> End {
    loop {
        let now = *mode.borrow_and_update();
        match now {
            Mode::Reset => return End::Cut { reset: true },
            Mode::Refuse => return End::Cut { reset: false },
            Mode::Blackhole => {
                shared.counters.silenced.fetch_add(1, Relaxed);
            }
            _ => {}
        }
        if mode.changed().await.is_err() {
            return End::Closed;
        }
    }
}

fn reset(stream: &TcpStream) {
    // On a socket that is already gone there is nothing to reset.
    drop(stream.set_zero_linger());
}

async fn both_ways(shared: &Shared, near: &mut TcpStream, far: &mut TcpStream) -> End {
    let (near_in, near_out) = near.split();
    let (far_in, far_out) = far.split();
    let marked = AtomicBool::new(false);
    let there = Way::new(shared, &marked, true).pump(near_in, far_out);
    let back = Way::new(shared, &marked, false).pump(far_in, near_out);
    match tokio::try_join!(there, back) {
        Ok(_) => End::Closed,
        Err(end) => end,
    }
}

/// One direction of a connection.
struct Way<'a> {
    shared: &'a Shared,
    /// The client has said what the mode waits for.
    marked: &'a AtomicBool,
    towards_server: bool,
    /// What has been read and not yet written, with the time it came.
    line: VecDeque<(Instant, Vec<u8>)>,
    held: usize,
    /// When the last drop fell.
    dripped: Instant,
    /// The end of what the client has said: a mark may come in two pieces.
    tail: Vec<u8>,
}

impl<'a> Way<'a> {
    fn new(shared: &'a Shared, marked: &'a AtomicBool, towards_server: bool) -> Self {
        let now = Instant::now();
        Self {
            shared,
            marked,
            towards_server,
            line: VecDeque::new(),
            held: 0,
            dripped: now,
            tail: Vec::new(),
        }
    }

    /// Carries what one side says to the other until it has said all.
    async fn pump(mut self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> Result<(), End> {
        let broken = |_: io::Error| End::Cut { reset: true };
        let mut mode = self.shared.mode.subscribe();
        let mut piece = vec![0; PIECE];
        let mut ended = false;
        loop {
            let now = *mode.borrow_and_update();
            if ended && self.line.is_empty() {
                return to.shutdown().await.map_err(broken);
            }
            let reads = !ended && self.held < ON_THE_WAY && now != Mode::Blackhole;
            let due = self.due(now);
            tokio::select! {
                changed = mode.changed() => changed.map_err(|_| End::Closed)?,
                read = from.read(&mut piece), if reads => match read.map_err(broken)? {
                    0 => ended = true,
                    length => self.take(now, &piece[..length], &mut to).await?,
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.release(now, &mut to).await.map_err(broken)?;
                }
            }
        }
    }

    /// When the first piece on the way may go on.
    fn due(&self, mode: Mode) -> Option<Instant> {
        let (came, _) = self.line.front()?;
        match mode {
            Mode::Blackhole => None,
            Mode::Latency(delay) => Some(*came + delay),
            Mode::Drip { every, .. } => Some(self.dripped + every),
            _ => Some(*came),
        }
    }

    async fn take(&mut self, mode: Mode, piece: &[u8], to: &mut WriteHalf<'_>) -> Result<(), End> {
        if let Mode::HalfOpen { after, silent } = mode {
            if self.towards_server {
                self.look_for(after, piece);
            } else if after.is_none() || self.marked.load(Relaxed) {
                self.shared.counters.answers_lost.fetch_add(1, Relaxed);
                sleep(silent).await;
                // Whatever the mode is by now: a connection with a hole in what it said is of no use.
                return Err(End::Cut { reset: true });
            }
        }
        if self.line.is_empty() && !matches!(mode, Mode::Latency(_) | Mode::Drip { .. }) {
            return self.write(piece, to).await.map_err(|_| End::Cut { reset: true });
        }
        self.held += piece.len();
        self.line.push_back((Instant::now(), piece.to_vec()));
        Ok(())
    }

    fn look_for(&mut self, mark: Option<&str>, piece: &[u8]) {
        let Some(mark) = mark.map(str::as_bytes) else { return };
        self.tail.extend_from_slice(piece);
        if self.tail.windows(mark.len()).any(|said| said == mark) {
            self.marked.store(true, Relaxed);
        }
        let keep = self.tail.len().saturating_sub(mark.len());
        self.tail.drain(..keep);
    }

    async fn release(&mut self, mode: Mode, to: &mut WriteHalf<'_>) -> io::Result<()> {
        let Some((came, mut piece)) = self.line.pop_front() else { return Ok(()) };
        if let Mode::Drip { bytes, .. } = mode {
            self.dripped = Instant::now();
            if piece.len() > bytes.max(1) {
                self.line.push_front((came, piece.split_off(bytes.max(1))));
            }
        }
        if matches!(mode, Mode::Latency(_)) {
            self.shared.counters.delayed.fetch_add(piece.len() as u64, Relaxed);
        }
        self.held -= piece.len();
        self.write(&piece, to).await
    }

    async fn write(&self, piece: &[u8], to: &mut WriteHalf<'_>) -> io::Result<()> {
        to.write_all(piece).await?;
        let counters = &self.shared.counters;
        let bytes: &AtomicU64 = if self.towards_server { &counters.to_server } else { &counters.to_client };
        bytes.fetch_add(piece.len() as u64, Relaxed);
        Ok(())
    }
}
