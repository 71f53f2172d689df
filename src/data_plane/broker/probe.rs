//! Does the server still answer? Asked while a statement takes long, so that a shard behind a cut cable is noticed
//! within a second instead of at the operating system's time-out.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::login::Endpoint;

/// `SSLRequest`: the one question a PostgreSQL server answers before any login, with one byte. It needs no role and
/// takes no connection slot of the tenant's.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// Whether the server says anything at all within the time.
pub async fn answers(endpoint: &Endpoint, within: Duration) -> bool {
    let asking = async {
        if endpoint.host.starts_with('/') {
            let socket = Path::new(&endpoint.host).join(format!(".s.PGSQL.{}", endpoint.port));
            ask(UnixStream::connect(socket).await?).await
        } else {
            ask(TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?).await
        }
    };
    matches!(timeout(within, asking).await, Ok(Ok(())))
}

async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    stream.write_all(&SSL_REQUEST).await?;
    stream.read_u8().await.map(drop)
}
