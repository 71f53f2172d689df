//! Which pages may read a tenant's answers: those of the very host that is asked. Another tenant's page, on a sister
//! host, may not.
//!
//! Names decide alone, and nothing is looked up: a preflight carries no credential, and an answer that depended on the
//! directory would tell anyone which tenants and domains exist.
//!
//! There is no `Access-Control-Allow-Credentials`: callers send a key, and no cookie of ours exists that a browser
//! could add by itself.

use std::sync::Arc;

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};

use crate::data_plane::tenancy::host::{self, Host};

const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE";
const HEADERS: &str =
    "authorization, content-type, idempotency-key, if-match, x-freehold-tenant, x-request-id";
const EXPOSED: &str =
    "etag, location, x-request-id, retry-after, ratelimit, ratelimit-policy, idempotency-replayed";
/// How long a browser may remember a preflight's answer, in seconds.
const MAX_AGE: &str = "600";

/// What the layer works with.
#[derive(Clone)]
pub struct Cors {
    pub base_domain: Arc<str>,
    /// Whether pages served over plain HTTP count: for development.
    pub plain_http: bool,
    /// Origins that may read every tenant's answers, as in `https://console.example.com`.
    pub extra: Arc<[String]>,
}

/// Lets `next` answer, and adds who may read it; answers a preflight itself.
pub async fn answer<F>(cors: &Cors, request: Request, next: impl FnOnce(Request) -> F) -> Response
where
    F: Future<Output = Response>,
{
    let Some(origin) = request.headers().get(header::ORIGIN).cloned() else {
        let mut response = next(request).await;
        response.headers_mut().append(header::VARY, HeaderValue::from_static("origin"));
        return response;
    };
    let preflight = request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let allowed = cors.allows(&origin, request.headers(), request.uri());
    let mut response = if preflight { StatusCode::NO_CONTENT.into_response() } else { next(request).await };
    let headers = response.headers_mut();
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    if allowed {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        permit(headers, preflight);
    }
    response
}

fn permit(headers: &mut HeaderMap, preflight: bool) {
    let lines: &[_] = if preflight {
        &[
            (header::ACCESS_CONTROL_ALLOW_METHODS, METHODS),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS),
            (header::ACCESS_CONTROL_MAX_AGE, MAX_AGE),
        ]
    } else {
        &[(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED)]
    };
    for (name, value) in lines {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

impl Cors {
    fn allows(&self, origin: &HeaderValue, headers: &HeaderMap, uri: &Uri) -> bool {
        let Ok(origin) = origin.to_str() else { return false };
        if self.extra.iter().any(|extra| extra == origin) {
            return true;
        }
        let Some(page) = Page::parse(origin, self.plain_http) else { return false };
        // What is wrong with the host, the request itself will say.
        let Ok(host) = host::of_request(headers, uri, &self.base_domain) else { return false };
        let port = headers.get(header::HOST).and_then(|host| host.to_str().ok()).and_then(port_of);
        page.is_of(&host, port, &self.base_domain)
    }
}

/// Where a page comes from.
#[derive(Debug, PartialEq, Eq)]
struct Page {
    host: String,
    /// None: the scheme's own.
    port: Option<u16>,
}

impl Page {
    fn parse(origin: &str, plain_http: bool) -> Option<Self> {
        let authority = match origin.split_once("://")? {
            ("https", rest) => rest,
            ("http", rest) if plain_http => rest,
            _ => return None,
        };
        Some(Self { host: host::name_of(authority)?, port: port_of(authority) })
    }

    /// Whether this is the asked host's own page: of the same name, at the scheme's own port or the one asked at. The
    /// base domain is no tenant's.
    fn is_of(&self, host: &Host, port: Option<u16>, base_domain: &str) -> bool {
        let own = *host != Host::Base && host::classify(&self.host, base_domain) == *host;
        own && (self.port.is_none() || self.port == port)
    }
}

fn port_of(authority: &str) -> Option<u16> {
    let (_, port) = authority.rsplit_once(':')?;
    port.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(host: &str, origin: &str, plain: bool) -> bool {
        let (name, port) = (host::name_of(host).unwrap(), port_of(host));
        let host = host::classify(&name, "example.com");
        Page::parse(origin, plain).is_some_and(|page| page.is_of(&host, port, "example.com"))
    }

    #[test]
    fn a_host_s_own_pages_and_no_others() {
        assert!(ok("acme.example.com", "https://acme.example.com", false));
        assert!(ok("acme.example.com:443", "https://ACME.example.com.", false));
        assert!(ok("work.acme.io", "https://work.acme.io", false));
        assert!(ok("acme.example.com:8080", "http://acme.example.com:8080", true));
        for origin in [
            "http://acme.example.com",
            "https://globex.example.com",
            "https://example.com",
            "https://acme.example.com.evil.io",
            "https://evil.io",
            "https://acme.example.com:8443",
            "null",
            "https://",
            "acme.example.com",
            "ftp://acme.example.com",
        ] {
            assert!(!ok("acme.example.com:443", origin, false), "{origin}");
        }
        assert!(!ok("work.acme.io", "https://acme.example.com", false));
        assert!(!ok("example.com", "https://example.com", false), "the base domain is no tenant's");
        assert!(!ok("10.0.0.1", "https://10.0.0.2", false), "an address is no tenant's either");
    }
}
