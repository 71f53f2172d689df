//! Which addresses are on the open internet. A workspace names its provider by itself; without this it could make our
//! servers knock on doors of our own network and tell by the answers what is behind them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Looks names up as the system does, and gives none of the addresses when one of them is not public: a name that leads
/// both outside and inside is up to no good.
#[derive(Clone, Copy, Debug)]
pub struct PublicOnly {
    /// This machine may be asked as well: in development.
    pub loopback: bool,
}

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        let loopback = self.loopback;
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            if found.iter().all(|addr| is_open(addr.ip(), loopback)) {
                return Ok(Box::new(found.into_iter()) as Addrs);
            }
            Err(format!("{} leads to an address that is not public", name.as_str()).into())
        })
    }
}

/// Whether the host of an address may be asked, as far as that can be said without looking it up.
pub fn may_be_asked(url: &Url, loopback: bool) -> bool {
    let Some(host) = url.host_str() else { return false };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(ip) => is_open(ip, loopback),
        Err(_) => true,
    }
}

fn is_open(ip: IpAddr, loopback: bool) -> bool {
    is_public(ip) || (loopback && ip.to_canonical().is_loopback())
}

/// Whether an address is one of the open internet: not of this machine, of a private or shared network, of a link, of
/// documentation, of a group, or reserved; nor an IPv6 address that stands for such an IPv4 one.
pub fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => public_v4(ip),
        IpAddr::V6(ip) => public_v6(ip),
    }
}

fn public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let special = match (a, b, c) {
        // "This network", private, this machine, multicast and reserved with broadcast.
        (0 | 10 | 127 | 224..=255, _, _) => true,
        // Carriers' shared space (RFC 6598).
        (100, 64..=127, _) => true,
        // A link; where clouds tell secrets.
        (169, 254, _) => true,
        (172, 16..=31, _) => true,
        (192, 168, _) => true,
        // Protocol assignments, documentation, 6to4 relays.
        (192, 0, 0 | 2) | (192, 88, 99) => true,
        // Measurement of networks.
        (198, 18 | 19, _) => true,
        (198, 51, 100) | (203, 0, 113) => true,
        _ => false,
    };
    !special
}

fn public_v6(ip: Ipv6Addr) -> bool {
    let parts = ip.segments();
    let last = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match parts {
        // 64:ff9b::/96: an IPv4 address behind a translator.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => public_v4(last(high, low)),
        // 2002::/16: an IPv4 address in the middle (6to4).
        [0x2002, high, low, ..] => public_v4(last(high, low)),
        // 2001::/23 is for protocols (Teredo among them), 2001:db8::/32 and 3fff::/20 for documentation.
        [0x2001, 0..=0x1ff | 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => false,
        // Of all others only 2000::/3 is given out: not ::1, ::ffff:0:0/96, fc00::/7, fe80::/10, ff00::/8.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_open_internet_is_public() {
        for open in
            ["1.1.1.1", "93.184.216.34", "172.32.0.1", "100.63.0.1", "2606:4700::1111", "64:ff9b::101:101"]
        {
            assert!(is_public(open.parse().unwrap()), "{open}");
        }
        for closed in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:1.1.1.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "3fff::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(closed.parse().unwrap()), "{closed}");
        }
    }

    /// However it is written: the address is read before it is judged.
    #[test]
    fn an_address_in_place_of_a_name_is_judged_in_every_spelling() {
        let asked = |text: &str, loopback| may_be_asked(&text.parse().unwrap(), loopback);
        for text in [
            "https://127.0.0.1/x",
            "https://127.1/x",
            "https://2130706433/x",
            "https://0x7f000001/x",
            "https://0177.0.0.1/x",
            "https://[::1]/x",
            "https://[::ffff:127.0.0.1]/x",
        ] {
            assert!(!asked(text, false), "{text}");
            assert!(asked(text, true), "{text}");
        }
        for text in ["https://169.254.169.254/", "https://10.0.0.1/", "https://[fd00::1]/", "https://0/"] {
            assert!(!asked(text, false) && !asked(text, true), "{text}");
        }
        assert!(asked("https://id.example.com/", false));
    }
}
