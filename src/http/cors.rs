//! Which pages may read a tenant's answers: the tenant's own. Another tenant's page, on a sister host, may not.
//!
//! There is no `Access-Control-Allow-Credentials`: callers send a key, and no cookie of ours exists that a browser
//! could add by itself.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};

use crate::data_plane::directory::{Directory, Tenant};
use crate::data_plane::tenancy::host::{self, Host};
use crate::kernel::Result;

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
    pub directory: Directory,
    pub base_domain: Arc<str>,
    /// Whether pages served over plain HTTP count: for development.
    pub plain_http: bool,
    /// Origins that may read every tenant's answers, as in `https://console.example.com`.
    pub extra: Arc<[String]>,
}

/// `axum::middleware::from_fn_with_state(cors, answer)`.
pub async fn answer(State(cors): State<Cors>, request: Request, next: Next) -> Response {
    let Some(origin) = request.headers().get(header::ORIGIN).cloned() else {
        let mut response = next.run(request).await;
        response.headers_mut().append(header::VARY, HeaderValue::from_static("origin"));
        return response;
    };
    let preflight = request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let allowed = match cors.allows(&origin, request.headers(), request.uri()).await {
        Ok(allowed) => allowed,
        // An actual request finds out for itself what is wrong; it only goes without permission to be read.
        Err(error) if preflight => return error.into_response(),
        Err(_) => false,
    };
    let mut response =
        if preflight { StatusCode::NO_CONTENT.into_response() } else { next.run(request).await };
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
    async fn allows(&self, origin: &HeaderValue, headers: &HeaderMap, uri: &Uri) -> Result<bool> {
        let Ok(origin) = origin.to_str() else { return Ok(false) };
        if self.extra.iter().any(|extra| extra == origin) {
            return Ok(true);
        }
        let Some(page) = Page::parse(origin, self.plain_http) else { return Ok(false) };
        let host = host::of_request(headers, uri, &self.base_domain)?;
        let tenant = match &host {
            Host::Base => None,
            Host::Slug(slug) => self.directory.tenant_by_slug(slug).await?,
            Host::Other(domain) => self.directory.tenant_by_domain(domain).await?,
        };
        let here = headers.get(header::HOST).and_then(|host| host.to_str().ok()).and_then(port_of);
        Ok(tenant.is_some_and(|tenant| page.is_of(&tenant, &self.base_domain, here)))
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

    /// Whether this is the tenant's own page: on its host or a custom domain, at the scheme's own port or the one this
    /// server is asked at.
    fn is_of(&self, tenant: &Tenant, base_domain: &str, here: Option<u16>) -> bool {
        let own = match host::classify(&self.host, base_domain) {
            Host::Base => false,
            Host::Slug(slug) => slug == tenant.slug,
            Host::Other(domain) => tenant.has_domain(&domain),
        };
        own && (self.port.is_none() || self.port == here)
    }
}

fn port_of(authority: &str) -> Option<u16> {
    let (_, port) = authority.rsplit_once(':')?;
    port.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control_plane::plans::Entitlements;
    use crate::control_plane::tenants::TenantState;
    use crate::kernel::Slug;
    use crate::kernel::ids::TenantId;

    #[test]
    fn a_tenant_s_own_pages_and_no_others() {
        let acme = Tenant {
            id: TenantId::new(),
            slug: Slug::parse("acme").unwrap(),
            name: "Acme".into(),
            state: TenantState::Active,
            plan: "free".into(),
            limits: Arc::new(Entitlements {
                requests_per_second: 1,
                burst: 1,
                connections: 1,
                statement_timeout_ms: 1,
                projects: 1,
                seats: 1,
            }),
            epoch: 1,
            domains: Box::new(["work.acme.io".into()]),
            login: None,
        };
        let ok = |origin: &str, plain, here| {
            Page::parse(origin, plain).is_some_and(|page| page.is_of(&acme, "example.com", here))
        };
        assert!(ok("https://acme.example.com", false, None));
        assert!(ok("https://work.acme.io", false, None));
        assert!(ok("http://acme.example.com:8080", true, Some(8080)));
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
            assert!(!ok(origin, false, Some(443)), "{origin}");
        }
    }
}
