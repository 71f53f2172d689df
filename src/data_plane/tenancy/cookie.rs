//! A browser's session at a tenant's host: the cookie it travels in, and the proof that a change was meant.
//!
//! A cookie comes along with every request to its host, also with those that another site makes the browser send. So a
//! request that may change something must also carry what another site can neither read nor set: a header with a value
//! derived from the cookie, and an `Origin` that is our own.

use aws_lc_rs::{constant_time, hmac};
use data_encoding::BASE64URL_NOPAD;
use http::{HeaderMap, Method, header};

use super::host;
use crate::kernel::credentials::{self, KeyHash, KeyKind};
use crate::kernel::{Error, Result, codes};

/// `__Host-`: the browser takes it over TLS only, sends it to this one host only, and no other host can set it.
pub const SESSION_COOKIE: &str = "__Host-freehold";
/// Carries the proof; a form has a field named `csrf` instead.
pub const CSRF_HEADER: &str = "x-freehold-csrf";

/// The value of the one cookie of this name. Of two, a proxy or another application may have put one there: then none
/// counts. This is why no library's jar reads them: a jar keeps the last.
pub fn value_of<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut values = lines
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|(key, _)| *key == name)
        .map(|(_, value)| value);
    match (values.next(), values.next()) {
        (value, None) => value,
        _ => None,
    }
}

/// The session's token, with the hash to look it up by.
pub fn session_of(headers: &HeaderMap) -> Option<(&str, KeyHash)> {
    let token = value_of(headers, SESSION_COOKIE)?;
    credentials::parse(KeyKind::Session, token).map(|hash| (token, hash))
}

/// The token of an operator's look into this tenant, with the hash to look it up by. It travels in the same cookie as a
/// person's session: a browser has one or the other.
pub fn support_of(headers: &HeaderMap) -> Option<(&str, KeyHash)> {
    let token = value_of(headers, SESSION_COOKIE)?;
    credentials::parse(KeyKind::Support, token).map(|hash| (token, hash))
}

/// What proves that a page of ours asked: derived from the session's token, so that it is kept nowhere and dies with it.
pub fn csrf_proof(session_token: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, session_token.as_bytes());
    BASE64URL_NOPAD.encode(hmac::sign(&key, b"freehold csrf v1").as_ref())
}

/// Whether `given` is the proof of this session, compared in constant time.
pub fn csrf_holds(session_token: &str, given: &str) -> bool {
    constant_time::verify_slices_are_equal(csrf_proof(session_token).as_bytes(), given.as_bytes()).is_ok()
}

/// Refuses a change that a page of ours did not ask for. For requests that a cookie lets in; a key or a token is sent by
/// a program on purpose.
///
/// # Errors
/// `forbidden`.
pub fn check_meant(method: &Method, headers: &HeaderMap, session_token: &str) -> Result<()> {
    if method.is_safe() {
        return Ok(());
    }
    let proof = headers.get(CSRF_HEADER).and_then(|proof| proof.to_str().ok()).unwrap_or_default();
    if from_our_own_page(headers) && csrf_holds(session_token, proof) {
        return Ok(());
    }
    Err(Error::new(&codes::FORBIDDEN).detail("this did not come from a page of this workspace"))
}

/// Whether the browser says that the request comes from the host it goes to. A browser that sends neither header is
/// none that we know.
pub fn from_our_own_page(headers: &HeaderMap) -> bool {
    if headers.get("sec-fetch-site").is_some_and(|site| site != "same-origin") {
        return false;
    }
    let text = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
    match (text(header::ORIGIN), text(header::HOST)) {
        (Some(origin), Some(host)) => origin.split_once("://").is_some_and(|(scheme, authority)| {
            matches!(scheme, "http" | "https")
                && authority.eq_ignore_ascii_case(host)
                && host::name_of(authority).is_some()
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use secrecy::ExposeSecret;

    use super::*;
    use crate::kernel::Entropy;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn one_cookie_counts_and_two_do_not() {
        let token = credentials::make(KeyKind::Session, &Entropy::default());
        let text = token.key.expose_secret();
        let cookie = |value: &str| headers(&[("cookie", value)]);
        let good = format!("a=b; {SESSION_COOKIE}={text}; c=d");
        assert_eq!(session_of(&cookie(&good)).map(|found| found.1), Some(token.hash));
        for bad in [
            format!("{SESSION_COOKIE}={text}; {SESSION_COOKIE}={text}"),
            format!("freehold={text}"),
            format!("{SESSION_COOKIE}=x"),
            format!("x{SESSION_COOKIE}={text}"),
            String::new(),
        ] {
            assert!(session_of(&cookie(&bad)).is_none(), "{bad}");
        }
        let twice = headers(&[("cookie", &good), ("cookie", &good)]);
        assert!(session_of(&twice).is_none());
    }

    #[test]
    fn a_change_needs_our_origin_and_the_proof() {
        let (token, proof) = ("fhs_some", csrf_proof("fhs_some"));
        let own = ("origin", "https://acme.example.com");
        let host = ("host", "acme.example.com");
        let with =
            |pairs: &[(&'static str, &str)]| check_meant(&Method::POST, &headers(pairs), token).is_ok();
        assert!(with(&[own, host, (CSRF_HEADER, &proof)]));
        assert!(with(&[own, host, ("sec-fetch-site", "same-origin"), (CSRF_HEADER, &proof)]));
        assert!(!with(&[own, host]), "no proof");
        assert!(!with(&[own, host, (CSRF_HEADER, &csrf_proof("fhs_other"))]), "another session's");
        assert!(!with(&[host, (CSRF_HEADER, &proof)]), "no origin");
        for origin in
            ["https://globex.example.com", "null", "https://acme.example.com.evil.io", "acme.example.com"]
        {
            assert!(!with(&[("origin", origin), host, (CSRF_HEADER, &proof)]), "{origin}");
        }
        for site in ["cross-site", "same-site", "none"] {
            assert!(!with(&[own, host, ("sec-fetch-site", site), (CSRF_HEADER, &proof)]), "{site}");
        }
        assert!(check_meant(&Method::GET, &HeaderMap::new(), token).is_ok());
    }
}
