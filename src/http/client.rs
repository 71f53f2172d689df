//! From where a request comes, for people to recognise their devices by and for the audit log. Nothing is allowed or
//! refused by it.

use std::convert::Infallible;
use std::net::IpAddr;

use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{HeaderMap, header};

use crate::data_plane::RequestId;
use crate::identity::sessions::{Asking, Device};

/// The other end of the connection. Put into each request by `serve`.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

impl<S: Send + Sync> FromRequestParts<S> for Asking {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let user_agent = parts.headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
        let peer = parts.extensions.get::<Peer>().map(|peer| peer.0);
        let device = Device {
            user_agent: user_agent.unwrap_or_default().to_owned(),
            address: address(peer, &parts.headers).map_or_else(String::new, |address| address.to_string()),
        };
        Ok(Self { device, request_id: parts.extensions.get::<RequestId>().map(|id| id.0.to_string()) })
    }
}

/// The connection's other end; what a load balancer in our own network saw, when that is the other end. Only the last
/// entry of `X-Forwarded-For` is the balancer's own word: those before it are the client's.
fn address(peer: Option<IpAddr>, headers: &HeaderMap) -> Option<IpAddr> {
    let own_network = match peer? {
        IpAddr::V4(peer) => peer.is_private() || peer.is_loopback(),
        IpAddr::V6(peer) => peer.is_loopback() || peer.is_unique_local(),
    };
    let forwarded = headers.get_all("x-forwarded-for").iter().next_back();
    let last = forwarded.and_then(|line| line.to_str().ok()?.rsplit(',').next()?.trim().parse().ok());
    last.filter(|_| own_network).or(peer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_balancer_is_believed_and_only_its_own_word() {
        let seen = |peer: &str, lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("x-forwarded-for", line.parse().unwrap());
            }
            address(peer.parse().ok(), &headers).map(|address| address.to_string()).unwrap_or_default()
        };
        assert_eq!(seen("10.0.0.5", &["6.6.6.6, 203.0.113.7"]), "203.0.113.7");
        assert_eq!(seen("::1", &["6.6.6.6", "203.0.113.7"]), "203.0.113.7");
        assert_eq!(seen("203.0.113.9", &["6.6.6.6"]), "203.0.113.9", "a stranger may write anything");
        assert_eq!(seen("10.0.0.5", &["nonsense"]), "10.0.0.5");
        assert_eq!(seen("10.0.0.5", &[]), "10.0.0.5");
        assert_eq!(seen("", &["6.6.6.6"]), "");
    }
}
