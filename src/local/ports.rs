//! Free TCP ports on 127.0.0.1.

use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener};

use parking_lot::Mutex;

use crate::kernel::{Entropy, Error, Result, codes};

/// Below the range that the kernel takes for outgoing connections (32768 and up on Linux), so that the port of a
/// server that is being restarted is not taken meanwhile.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// Given out by this process: between choosing a port and the server's listening on it, it still looks free.
static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// A free port that nobody in this process was given.
///
/// # Errors
/// `bad_request` when all are taken.
pub fn choose() -> Result<u16> {
    let start = u16::from_le_bytes(Entropy::default().bytes()) % COUNT;
    let mut given = GIVEN.lock();
    let given = given.get_or_insert_default();
    (0..COUNT)
        .map(|step| FIRST + (start + step) % COUNT)
        .find(|port| !given.contains(port) && is_free(*port))
        .inspect(|port| {
            given.insert(*port);
        })
        .ok_or_else(|| {
            Error::new(&codes::BAD_REQUEST)
                .detail(format!("no free TCP port on 127.0.0.1 from {FIRST} to {}", FIRST + COUNT - 1))
        })
}

/// `wanted` when it is free, else [`choose`].
pub fn keep_or_choose(wanted: Option<u16>) -> Result<u16> {
    match wanted {
        Some(port) if is_free(port) => Ok(port),
        _ => choose(),
    }
}

/// Whether a server could listen there now.
fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_a_free_port_and_leaves_a_taken_one() {
        let port = choose().unwrap();
        assert_eq!(keep_or_choose(Some(port)).unwrap(), port);
        let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        assert_ne!(keep_or_choose(Some(port)).unwrap(), port);
    }

    #[test]
    fn never_gives_the_same_port_twice() {
        let ports: HashSet<u16> = (0..50).map(|_| choose().unwrap()).collect();
        assert_eq!(ports.len(), 50);
    }
}
