//! An HTTP client that hides nothing: it never sends a request twice, and says how far a lost one had got.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longer than any request may take.
const PATIENCE: Duration = Duration::from_secs(40);

/// A request as it goes over the wire.
pub fn request(method: &str, path: &str, host: &str, key: &str, body: Option<&serde_json::Value>) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {key}\r\n");
    match body.map(ToString::to_string) {
        Some(body) => {
            text +=
                &format!("content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        }
        None => text += "\r\n",
    }
    text.into_bytes()
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// The server closes the connection after it.
    pub last: bool,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// How a request was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// There was no connection to send it on: it was not sent. Any balancer tries elsewhere.
    Unsent,
    /// It was sent and the connection ended before a byte of an answer. It may have been carried out: a balancer
    /// repeats it only when it is safe to.
    Unanswered,
    /// The answer broke off.
    Torn,
    /// No answer within the client's patience.
    Silent,
}

/// One connection, one request at a time.
pub struct Wire {
    stream: TcpStream,
}

impl Wire {
    pub async fn open(addr: SocketAddr) -> Result<Self, Lost> {
        let connecting = tokio::time::timeout(Duration::from_secs(5), TcpStream::connect(addr));
        let stream = connecting.await.map_err(|_| Lost::Unsent)?.map_err(|_| Lost::Unsent)?;
        stream.set_nodelay(true).map_err(|_| Lost::Unsent)?;
        Ok(Self { stream })
    }

    /// Whether the server has closed it, as far as can be known without asking.
    pub fn is_closed(&self) -> bool {
        let mut byte = [0; 1];
        !matches!(self.stream.try_read(&mut byte), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    }

    pub async fn ask(&mut self, request: &[u8]) -> Result<Answer, Lost> {
        tokio::time::timeout(PATIENCE, self.exchange(request)).await.unwrap_or(Err(Lost::Silent))
    }

    async fn exchange(&mut self, request: &[u8]) -> Result<Answer, Lost> {
        self.stream.write_all(request).await.map_err(|_| Lost::Unanswered)?;
        let mut read = Vec::with_capacity(4096);
        let head = loop {
            match self.stream.read_buf(&mut read).await {
                Ok(0) | Err(_) if read.is_empty() => return Err(Lost::Unanswered),
                Ok(0) | Err(_) => return Err(Lost::Torn),
                Ok(_) => {}
            }
            if let Some(end) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end;
            }
        };
        let mut body = read.split_off(head + 4);
        let head = String::from_utf8_lossy(&read).to_ascii_lowercase();
        let value = |name: &str| {
            head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
        };
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or(Lost::Torn)?;
        let length: usize = match value("content-length") {
            Some(length) => length.parse().map_err(|_| Lost::Torn)?,
            None => 0,
        };
        let last = value("connection") == Some("close");
        while body.len() < length {
            match self.stream.read_buf(&mut body).await {
                Ok(0) | Err(_) => return Err(Lost::Torn),
                Ok(_) => {}
            }
        }
        Ok(Answer { status, last, body })
    }
}
