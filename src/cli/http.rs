//! The client that commands ask servers with.

use std::time::Duration;

use crate::kernel::{Error, Result};

const CONNECT: Duration = Duration::from_secs(5);

/// A client that waits this long for an answer.
///
/// # Errors
/// `internal` when the machine has no randomness, or the like.
pub fn client(patience: Duration) -> Result<reqwest::Client> {
    reqwest::Client::builder()
        .user_agent(concat!("freehold/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT)
        .timeout(patience)
        // A redirect could carry a key or a token elsewhere.
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(Error::internal)
}
