//! A name server on loopback, over UDP and TCP: TXT records that a test writes, and the ways in which a server is no help.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::{CancellationToken, DropGuard};

/// The longest answer that fits a plain datagram; a longer one is asked for again over TCP.
const DATAGRAM: usize = 512;
const TXT: [u8; 2] = [0, 16];
const IN: [u8; 2] = [0, 1];

/// What it says of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsAnswer {
    /// Records, each of parts of at most 255 bytes.
    Txt(Vec<Vec<String>>),
    /// The name is there, and has no such record.
    Nothing,
    NoSuchName,
    Failure,
    Silence,
    /// Bytes that are no answer.
    Rubbish,
}

impl DnsAnswer {
    /// One record of one part.
    pub fn txt(text: &str) -> Self {
        Self::Txt(vec![vec![text.to_owned()]])
    }
}

type Zone = Arc<Mutex<HashMap<String, DnsAnswer>>>;

/// The server. Names that were not written are not there. Ends with the value.
pub struct DnsServer {
    pub addr: SocketAddr,
    zone: Zone,
    asked: Arc<Mutex<usize>>,
    _stop: DropGuard,
}

impl DnsServer {
    /// # Panics
    /// When there is no port that is free for both.
    pub async fn start() -> Self {
        let (udp, tcp) = bind().await;
        let addr = udp.local_addr().expect("its address");
        let (zone, asked, stop) = (Zone::default(), Arc::<Mutex<usize>>::default(), CancellationToken::new());
        let serve = {
            let (zone, asked) = (zone.clone(), asked.clone());
            async move { tokio::join!(datagrams(udp, zone.clone(), asked), streams(tcp, zone)) }
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(serve));
        Self { addr, zone, asked, _stop: stop.drop_guard() }
    }

    /// What is said of this name from now on.
    pub fn set(&self, name: &str, answer: DnsAnswer) {
        self.zone.lock().insert(name.to_ascii_lowercase(), answer);
    }

    /// How many datagrams came.
    pub fn asked(&self) -> usize {
        *self.asked.lock()
    }
}

async fn bind() -> (UdpSocket, TcpListener) {
    for _ in 0..20 {
        let tcp = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().expect("its address")).await {
            return (udp, tcp);
        }
    }
    panic!("no port is free for both UDP and TCP");
}

async fn datagrams(socket: UdpSocket, zone: Zone, asked: Arc<Mutex<usize>>) {
    let mut buffer = [0; 4096];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        *asked.lock() += 1;
        let Some(mut answer) = answer(&buffer[..length], &zone) else { continue };
        if answer.len() > DATAGRAM {
            answer = truncated(&buffer[..length], answer);
        }
        socket.send_to(&answer, from).await.ok();
    }
}

async fn streams(listener: TcpListener, zone: Zone) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let zone = zone.clone();
        tokio::spawn(async move {
            while let Ok(length) = stream.read_u16().await {
                let mut question = vec![0; usize::from(length)];
                if stream.read_exact(&mut question).await.is_err() {
                    return;
                }
                let Some(answer) = answer(&question, &zone) else { continue };
                let Ok(length) = u16::try_from(answer.len()) else { return };
                let framed = [&length.to_be_bytes()[..], &answer].concat();
                if stream.write_all(&framed).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// The question's name in lower case, and where its section ends.
fn question_of(message: &[u8]) -> Option<(String, usize)> {
    let (mut at, mut labels) = (12, Vec::new());
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(message.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    (message.len() >= at + 4).then(|| (labels.join("."), at + 4))
}

/// Flags, the code, and how many answers; the question again.
fn head(message: &[u8], end: usize, flags: u8, code: u8, answers: u16) -> Vec<u8> {
    let mut head = message[..2].to_vec();
    // A response, recursion asked for and available.
    head.extend([0x81 | flags, 0x80 | code, 0, 1]);
    head.extend(answers.to_be_bytes());
    head.extend([0, 0, 0, 0]);
    head.extend(&message[12..end]);
    head
}

fn answer(message: &[u8], zone: &Zone) -> Option<Vec<u8>> {
    let (name, end) = question_of(message)?;
    let known = zone.lock().get(&name).cloned().unwrap_or(DnsAnswer::NoSuchName);
    let records = match known {
        DnsAnswer::Silence => return None,
        DnsAnswer::Rubbish => return Some([&message[..2], &[0xff; 40][..]].concat()),
        DnsAnswer::Nothing => return Some(head(message, end, 0, 0, 0)),
        DnsAnswer::NoSuchName => return Some(head(message, end, 0, 3, 0)),
        DnsAnswer::Failure => return Some(head(message, end, 0, 2, 0)),
        DnsAnswer::Txt(records) => records,
    };
    let mut all = head(message, end, 0, 0, u16::try_from(records.len()).ok()?);
    for parts in records {
        let mut data = Vec::new();
        for part in parts {
            data.push(u8::try_from(part.len()).ok()?);
            data.extend(part.as_bytes());
        }
        // The question's name, by its place; a minute to live.
        all.extend([0xc0, 12]);
        all.extend([TXT, IN].concat());
        all.extend([0, 0, 0, 60]);
        all.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
        all.extend(data);
    }
    Some(all)
}

fn truncated(message: &[u8], whole: Vec<u8>) -> Vec<u8> {
    match question_of(message) {
        Some((_, end)) => head(message, end, 0x02, 0, 0),
        None => whole,
    }
}
