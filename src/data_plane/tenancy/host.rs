//! Whom a request is addressed to, by its `Host` alone. `X-Forwarded-Host` and `Forwarded` are never read: anyone may
//! send them, and a proxy that we trust can set `Host`.

use std::net::Ipv4Addr;

use http::{HeaderMap, Uri, header};

use crate::kernel::{Error, Result, Slug, codes};

/// Whom a host name means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// The base domain itself, or an IP address: no tenant in particular.
    Base,
    /// `<slug>.<base domain>`.
    Slug(Slug),
    /// Any other name: a custom domain if some tenant has it. In lower case.
    Other(Box<str>),
}

/// The one host of a request.
///
/// # Errors
/// `bad_request` when there is none, more than one, one that is not a host, or a request target that names another.
pub fn of_request(headers: &HeaderMap, uri: &Uri, base_domain: &str) -> Result<Host> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(bad("send exactly one Host header"));
    };
    let name = host.to_str().ok().and_then(name_of).ok_or_else(|| bad("the Host header is not a host"))?;
    if let Some(authority) = uri.authority() {
        // An absolute request target: RFC 9112 lets it override Host. Two answers to "whose is it" are one too many.
        if name_of(authority.as_str()).as_ref() != Some(&name) {
            return Err(bad("the request target and the Host header name different hosts"));
        }
    }
    Ok(classify(&name, base_domain))
}

/// Whom a name (from [`name_of`]) means below this base domain.
pub fn classify(name: &str, base_domain: &str) -> Host {
    if name == base_domain || name.starts_with('[') || name.parse::<Ipv4Addr>().is_ok() {
        return Host::Base;
    }
    name.strip_suffix(base_domain)
        .and_then(|rest| rest.strip_suffix('.'))
        .and_then(|slug| Slug::parse(slug).ok())
        .map_or_else(|| Host::Other(name.into()), Host::Slug)
}

/// The host of `host[:port]` in lower case, without a final dot; an IPv6 address keeps its brackets. `None` when it is
/// not a host at all.
pub fn name_of(authority: &str) -> Option<String> {
    let (name, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (inside, rest) = rest.split_once(']')?;
        inside.parse::<std::net::Ipv6Addr>().ok()?;
        (&authority[..inside.len() + 2], rest)
    } else {
        let at = authority.find(':').unwrap_or(authority.len());
        let (name, port) = authority.split_at(at);
        let name = name.strip_suffix('.').unwrap_or(name);
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        if name.len() > 253 || !name.split('.').all(label) {
            return None;
        }
        (name, port)
    };
    match port.strip_prefix(':') {
        None if !port.is_empty() => None,
        Some(digits) if digits.len() > 5 || !digits.bytes().all(|b| b.is_ascii_digit()) => None,
        _ => Some(name.to_ascii_lowercase()),
    }
}

fn bad(detail: &'static str) -> Error {
    Error::new(&codes::BAD_REQUEST).detail(detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Option<Host> {
        name_of(text).map(|name| classify(&name, "example.com"))
    }

    #[test]
    fn hosts_and_what_they_mean() {
        let slug = |s: &str| Some(Host::Slug(Slug::parse(s).unwrap()));
        let other = |s: &str| Some(Host::Other(s.into()));
        for (text, want) in [
            ("acme.example.com", slug("acme")),
            ("ACME.Example.COM:8080", slug("acme")),
            ("acme.example.com.", slug("acme")),
            ("acme.example.com.:443", slug("acme")),
            ("example.com", Some(Host::Base)),
            ("example.com.:80", Some(Host::Base)),
            ("127.0.0.1:8080", Some(Host::Base)),
            ("[::1]:8080", Some(Host::Base)),
            ("[::1]", Some(Host::Base)),
            ("work.acme.io", other("work.acme.io")),
            // Not a slug of ours, so a custom domain that nobody has.
            ("a.b.example.com", other("a.b.example.com")),
            ("www.example.com", other("www.example.com")),
            ("acmeexample.com", other("acmeexample.com")),
            ("acme.example.com.evil.io", other("acme.example.com.evil.io")),
            ("[::1", None),
            ("[::1]x", None),
            ("[nonsense]", None),
            ("acme.example.com:80:80", None),
            ("acme.example.com:http", None),
            ("acme..example.com", None),
            ("acme.example.com..", None),
            ("acme.example.com@evil.io", None),
            ("acme.example.com/evil", None),
            ("acme.example.com evil", None),
            ("", None),
            (":80", None),
        ] {
            assert_eq!(host(text), want, "{text:?}");
        }
    }

    #[test]
    fn one_host_and_a_target_that_agrees() {
        let ask = |hosts: &[&str], uri: &str| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(header::HOST, host.parse().unwrap());
            }
            headers.insert("x-forwarded-host", "globex.example.com".parse().unwrap());
            headers.insert("forwarded", "host=globex.example.com".parse().unwrap());
            of_request(&headers, &uri.parse().unwrap(), "example.com").ok()
        };
        let acme = Some(Host::Slug(Slug::parse("acme").unwrap()));
        assert_eq!(ask(&["acme.example.com"], "/api"), acme);
        assert_eq!(ask(&["acme.example.com"], "http://ACME.example.com:80/api"), acme);
        assert_eq!(ask(&["acme.example.com"], "http://globex.example.com/api"), None);
        assert_eq!(ask(&["acme.example.com", "acme.example.com"], "/api"), None);
        assert_eq!(ask(&[], "/api"), None);
    }
}
