//! A load generator that costs little beside what it measures: requests rendered ahead of time, HTTP/1.1 over kept
//! loopback connections, one answer at a time on each.
//!
//! Two ways to load:
//! - [`Target::closed`]: each connection asks again as soon as it was answered. For throughput. Its latencies say how
//!   long a connection was busy, and flatter a server that stalls: nobody asks meanwhile.
//! - [`Target::open`]: requests fall due at a given rate whether or not the ones before were answered, and a latency is
//!   counted from the moment the request was due. For latency at a given load.
//!
//! Each answer is checked: its status, and how often its body bears the stamp of the tenant that was asked.
//!
//! Run it under [`apart`], on a thread of its own, so that the server's runtime is not the generator's.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use memchr::memmem;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};

use super::figures::Spread;

/// Whoever does not answer for this long has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// At most this many wrong answers are kept word for word.
const SAMPLES: usize = 5;

/// A request as it goes over the wire, and what makes an answer to it right. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shot {
    bytes: Bytes,
    status: u16,
    stamp: Bytes,
    /// How often the body has to bear the stamp; the stamp is not looked for when this is `None`.
    times: Option<usize>,
}

impl Shot {
    /// A request to a host with a bearer key (none if empty), with a JSON body or without. A right answer is 201 to
    /// POST, else 200.
    pub fn new(method: &str, path: &str, host: &str, key: &str, body: Option<&str>) -> Self {
        let mut text = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n");
        if !key.is_empty() {
            text += &format!("authorization: Bearer {key}\r\n");
        }
        match body {
            Some(body) => {
                text += &format!(
                    "content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
            }
            None => text += "\r\n",
        }
        let status = if method == "POST" { 201 } else { 200 };
        Self { bytes: text.into(), status, stamp: Bytes::new(), times: None }
    }

    pub fn get(path: &str, host: &str, key: &str) -> Self {
        Self::new("GET", path, host, key, None)
    }

    /// One more header: its name and its value.
    pub fn header(self, name: &str, value: &str) -> Self {
        let text = String::from_utf8_lossy(&self.bytes);
        // After the request line, wherever the body begins.
        let (line, rest) = text.split_once("\r\n").expect("a request line");
        Self { bytes: format!("{line}\r\n{name}: {value}\r\n{rest}").into(), ..self }
    }

    /// The status of a right answer.
    pub fn wants(self, status: u16) -> Self {
        Self { status, ..self }
    }

    /// A right answer bears this text exactly so many times: once a row, if each row is stamped.
    pub fn stamped(self, stamp: &str, times: usize) -> Self {
        Self { stamp: stamp.to_owned().into(), times: Some(times), ..self }
    }
}

/// When a closed load ends.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    Requests(usize),
    Time(Duration),
}

/// What came of a load.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Answers, right or wrong, and requests that got none.
    pub requests: usize,
    /// Answers by status; 0 stands for no answer at all.
    pub statuses: BTreeMap<u16, usize>,
    /// Answers of another status than wanted, and requests that got none.
    pub errors: usize,
    /// Answers of the right status without the right stamp.
    pub foreign: usize,
    pub seconds: f64,
    pub per_second: f64,
    /// Of right answers, in milliseconds.
    pub latency: Spread,
    /// How late the generator itself was, in milliseconds, of an open load. It is part of the latency.
    pub lateness: Spread,
    /// The first wrong answers, as they came.
    pub samples: Vec<String>,
    /// For whoever puts several loads together.
    #[serde(skip)]
    pub latencies: Vec<Duration>,
}

impl Report {
    /// Requests that were not answered as they should be.
    pub fn wrong(&self) -> usize {
        self.errors + self.foreign
    }

    /// Fails with what was wrong, if anything was.
    ///
    /// # Panics
    /// When an answer was wrong.
    pub fn must_be_right(&self) -> &Self {
        assert!(self.wrong() == 0, "{} wrong answers: {:?} {:#?}", self.wrong(), self.statuses, self.samples);
        self
    }
}

/// Where to send.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub addr: SocketAddr,
}

impl Target {
    /// Each of `connections` asks again as soon as it was answered. `choose` is given the connection's number and how
    /// many requests were sent before, by all.
    pub async fn closed(
        self,
        connections: usize,
        until: Until,
        choose: impl Fn(usize, usize) -> Shot,
    ) -> Report {
        let lines = self.lines(connections).await;
        let (tally, sent, begun) = (RefCell::new(Tally::default()), Cell::new(0), Instant::now());
        let over = |sent: usize| match until {
            Until::Requests(most) => sent >= most,
            Until::Time(limit) => begun.elapsed() >= limit,
        };
        join_all(lines.into_iter().enumerate().map(async |(number, mut line)| {
            while !over(sent.get()) {
                let shot = choose(number, sent.replace(sent.get() + 1));
                let asked = Instant::now();
                let answer = line.ask(&shot.bytes).await;
                tally.borrow_mut().note(&shot, asked.elapsed(), answer, &line.body);
            }
        }))
        .await;
        tally.into_inner().report(begun.elapsed())
    }

    /// Requests fall due `rate` times a second, evenly, for `lasting`; one of `connections` that is free sends them in
    /// order. If none is free they wait, and their latency counts from when they were due. `choose` is given the
    /// connection's and the request's number.
    pub async fn open(
        self,
        connections: usize,
        rate: f64,
        lasting: Duration,
        choose: impl Fn(usize, usize) -> Shot,
    ) -> Report {
        let lines = self.lines(connections).await;
        let (send, due) = mpsc::unbounded_channel();
        // A thread keeps the time: the runtime's timers are a millisecond coarse.
        let count = (rate * lasting.as_secs_f64()) as usize;
        let metronome = std::thread::spawn(move || {
            let begun = Instant::now();
            for number in 0..count {
                let at = begun + Duration::from_secs_f64(number as f64 / rate);
                std::thread::sleep(at.saturating_duration_since(Instant::now()));
                if send.send((number, at)).is_err() {
                    return;
                }
            }
        });
        let (tally, due, begun) = (RefCell::new(Tally::default()), Mutex::new(due), Instant::now());
        join_all(lines.into_iter().enumerate().map(async |(line_number, mut line)| {
            loop {
                let (number, at) = {
                    let mut due = due.lock().await;
                    let waited = due.is_empty();
                    let Some((number, at)) = due.recv().await else { return };
                    // Whoever had to wait for the time to come has nobody but the generator to blame for being late.
                    if waited {
                        tally.borrow_mut().lateness.push(at.elapsed());
                    }
                    (number, at)
                };
                let shot = choose(line_number, number);
                let answer = line.ask(&shot.bytes).await;
                tally.borrow_mut().note(&shot, at.elapsed(), answer, &line.body);
            }
        }))
        .await;
        metronome.join().ok();
        tally.into_inner().report(begun.elapsed())
    }

    /// Connections, made before the clock starts.
    async fn lines(self, count: usize) -> Vec<Line> {
        let mut lines: Vec<Line> = (0..count).map(|_| Line::new(self.addr)).collect();
        for line in &mut lines {
            // One that fails here tries again with its first request, which then counts as failed.
            line.stream = line.connect().await.ok();
        }
        lines
    }
}

/// Runs `work` on a thread and a runtime of its own.
///
/// # Panics
/// When the work does.
pub async fn apart<T, F>(work: impl FnOnce() -> F + Send + 'static) -> T
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    let (send, done) = tokio::sync::oneshot::channel();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        drop(send.send(runtime.block_on(work())));
    });
    match done.await {
        Ok(done) => done,
        // It ended without an answer: it panicked, and so does its caller.
        Err(_) => std::panic::resume_unwind(thread.join().expect_err("a panic")),
    }
}

#[derive(Default)]
struct Tally {
    report: Report,
    lateness: Vec<Duration>,
}

impl Tally {
    fn note(&mut self, shot: &Shot, took: Duration, answer: io::Result<u16>, body: &[u8]) {
        let report = &mut self.report;
        report.requests += 1;
        let status = *answer.as_ref().unwrap_or(&0);
        *report.statuses.entry(status).or_default() += 1;
        let right_stamp = |times| memmem::find_iter(body, &shot.stamp).count() == times;
        if status != shot.status {
            report.errors += 1;
        } else if !shot.times.is_none_or(right_stamp) {
            report.foreign += 1;
        } else {
            return report.latencies.push(took);
        }
        if report.samples.len() < SAMPLES {
            let asked = String::from_utf8_lossy(&shot.bytes);
            let (asked, body) = (asked.lines().next().unwrap_or_default(), String::from_utf8_lossy(body));
            report.samples.push(match answer {
                Ok(status) => format!("{asked}: {status} {body}"),
                Err(error) => format!("{asked}: {error}"),
            });
        }
    }

    fn report(self, took: Duration) -> Report {
        let seconds = took.as_secs_f64();
        Report {
            seconds,
            per_second: self.report.latencies.len() as f64 / seconds,
            latency: Spread::of(&self.report.latencies),
            lateness: Spread::of(&self.lateness),
            ..self.report
        }
    }
}

/// One kept connection.
struct Line {
    addr: SocketAddr,
    stream: Option<TcpStream>,
    read: Vec<u8>,
    /// The last answer's body.
    body: Vec<u8>,
}

impl Line {
    fn new(addr: SocketAddr) -> Self {
        Self { addr, stream: None, read: Vec::with_capacity(64 << 10), body: Vec::new() }
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self.addr).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Sends a request and reads its answer to the end. After a failure the next one gets a new connection.
    async fn ask(&mut self, request: &[u8]) -> io::Result<u16> {
        self.body.clear();
        self.read.clear();
        let answered = tokio::time::timeout(PATIENCE, self.exchange(request)).await;
        let (status, keep) = answered.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        if !keep {
            self.stream = None;
        }
        Ok(status)
    }

    async fn exchange(&mut self, request: &[u8]) -> io::Result<(u16, bool)> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.connect().await?,
        };
        stream.write_all(request).await?;
        let head = loop {
            more(&mut stream, &mut self.read).await?;
            if let Some(head) = Head::read(&self.read)? {
                break head;
            }
        };
        let mut at = head.length;
        match head.body {
            Length::Exactly(length) => {
                while self.read.len() < at + length {
                    more(&mut stream, &mut self.read).await?;
                }
                self.body.extend_from_slice(&self.read[at..at + length]);
            }
            Length::Chunked => loop {
                let size = loop {
                    match httparse::parse_chunk_size(&self.read[at..]) {
                        Ok(httparse::Status::Complete((line, size))) => {
                            at += line;
                            break size as usize;
                        }
                        Ok(httparse::Status::Partial) => more(&mut stream, &mut self.read).await?,
                        Err(_) => return Err(bad("a chunk without a size")),
                    }
                };
                // Each chunk ends in a line break; the last one is empty. Trailers are not expected.
                while self.read.len() < at + size + 2 {
                    more(&mut stream, &mut self.read).await?;
                }
                self.body.extend_from_slice(&self.read[at..at + size]);
                at += size + 2;
                if size == 0 {
                    break;
                }
            },
        }
        // Only a connection whose answer was read to its end is kept.
        self.stream = Some(stream);
        Ok((head.status, head.keep))
    }
}

async fn more(stream: &mut TcpStream, read: &mut Vec<u8>) -> io::Result<()> {
    match stream.read_buf(read).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

fn bad(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

enum Length {
    Exactly(usize),
    Chunked,
}

/// What the reader needs of an answer's head.
struct Head {
    length: usize,
    status: u16,
    body: Length,
    /// Whether the connection may carry another request.
    keep: bool,
}

impl Head {
    /// `None` while it is not all there.
    fn read(bytes: &[u8]) -> io::Result<Option<Self>> {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut answer = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(length) =
            answer.parse(bytes).map_err(|_| bad("not an HTTP answer"))?
        else {
            return Ok(None);
        };
        let value = |name: &str| {
            let found = answer.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
            found.map(|header| header.value)
        };
        let status = answer.code.unwrap_or(0);
        let body = if value("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case(b"chunked")) {
            Length::Chunked
        } else if matches!(status, 204 | 304) {
            Length::Exactly(0)
        } else {
            let text = value("content-length").and_then(|value| std::str::from_utf8(value).ok());
            Length::Exactly(
                text.and_then(|text| text.parse().ok()).ok_or_else(|| bad("an answer without a length"))?,
            )
        };
        let keep = !value("connection").is_some_and(|value| value.eq_ignore_ascii_case(b"close"));
        Ok(Some(Self { length, status, body, keep }))
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::http::{HeaderMap, StatusCode};
    use axum::routing::{get, post};
    use futures_util::stream;

    use super::*;

    async fn serve() -> Target {
        let chunked = || Body::from_stream(stream::iter(["[acme] one, ", "[acme] two"].map(io::Result::Ok)));
        let app = Router::new()
            .route(
                "/whole",
                get(|headers: HeaderMap| async move {
                    format!("[acme] of {}", headers["host"].to_str().unwrap())
                }),
            )
            .route("/chunked", get(move || async move { chunked() }))
            .route("/made", post(|body: String| async move { (StatusCode::CREATED, body) }))
            .route("/none", get(|| async { StatusCode::NO_CONTENT }))
            .route("/last", get(|| async { ([("connection", "close")], "bye") }))
            .route("/slow", get(|| async { tokio::time::sleep(Duration::from_millis(50)).await }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        Target { addr }
    }

    /// Shown to fail: take any stamp for the right one.
    #[tokio::test]
    async fn answers_are_read_whole_and_checked() {
        let target = serve().await;
        let report = apart(move || async move {
            let shots = [
                Shot::get("/whole", "acme.localhost", "k").stamped("[acme] of acme.localhost", 1),
                Shot::get("/chunked", "x", "").stamped("[acme]", 2),
                Shot::new("POST", "/made", "x", "", Some("[acme]")).stamped("[acme]", 1),
                Shot::get("/none", "x", "").wants(204).stamped("[acme]", 0),
                // The connection ends with it; the next request opens another.
                Shot::get("/last", "x", ""),
                Shot::get("/whole", "x", "").stamped("[globex]", 1),
                Shot::get("/nowhere", "x", ""),
            ];
            target.closed(3, Until::Requests(70), move |_, number| shots[number % shots.len()].clone()).await
        })
        .await;
        assert_eq!((report.requests, report.errors, report.foreign), (70, 10, 10), "{report:#?}");
        assert_eq!(report.statuses, BTreeMap::from([(200, 40), (201, 10), (204, 10), (404, 10)]));
        assert_eq!((report.latency.samples, report.samples.len()), (50, SAMPLES));
    }

    /// Shown to fail: count a latency from when the request was sent; all then take 50 ms.
    #[tokio::test]
    async fn who_waits_for_a_connection_is_not_forgotten() {
        let target = serve().await;
        // 20 a second can be answered over one connection, 100 are due: the last waits for about 0.8 s.
        let report =
            target.open(1, 100.0, Duration::from_millis(200), |_, _| Shot::get("/slow", "x", "")).await;
        assert_eq!((report.requests, report.wrong()), (20, 0), "{report:#?}");
        assert!(report.latency.max > 600.0, "{report:#?}");
    }

    #[tokio::test]
    async fn nobody_there_is_an_error_and_not_the_end() {
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let target = Target { addr: closed };
        let report = target.closed(2, Until::Requests(4), |_, _| Shot::get("/", "x", "")).await;
        assert_eq!((report.errors, report.statuses), (4, BTreeMap::from([(0, 4)])));
    }
}
