//! The connection to Redis: one, multiplexed, remade when it breaks. A pool would be slower and less fair.

use std::time::Duration;

use redis::Client;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};

use crate::kernel::{Error, Result, codes};

/// The longest a command may take. Redis holds nothing that cannot be done without, so nobody waits for it.
const RESPONSE: Duration = Duration::from_millis(100);
const CONNECT: Duration = Duration::from_millis(500);

/// Prepares the connection; it is opened by the first command, so that a server starts without Redis.
///
/// # Errors
/// When the URL cannot be read. It may hold a password and is not repeated.
pub fn connect(url: &str) -> Result<ConnectionManager> {
    let bad = |error: redis::RedisError| {
        Error::new(&codes::BAD_REQUEST)
            .detail("the Redis URL cannot be read")
            .hint("it looks like redis://host:6379/0, rediss://… for TLS, or unix:///path/to/socket")
            .source(error)
    };
    let config = ConnectionManagerConfig::new()
        .set_response_timeout(Some(RESPONSE))
        .set_connection_timeout(Some(CONNECT))
        // The caller has a breaker of its own; retrying inside a command only makes it late.
        .set_number_of_retries(1)
        .set_min_delay(Duration::from_millis(10))
        .set_max_delay(Duration::from_millis(50));
    let client = Client::open(url).map_err(bad)?;
    ConnectionManager::new_lazy_with_config(client, config).map_err(bad)
}
