//! A browser that is not signed in (yet): known by a mark in a cookie, so that what it begins is its own to end, and its
//! forms are ones that it was meant to send.

use axum::extract::{FromRef, FromRequest, Request};
use axum::response::Response;
use chrono::{DateTime, TimeDelta, Utc};
use data_encoding::BASE64URL_NOPAD;
use http::{HeaderMap, HeaderValue};
use serde::de::DeserializeOwned;

use super::browser::{Site, meant_form, read_form, set_cookie};
use super::pages;
use crate::data_plane::tenancy::cookie;
use crate::identity::sign_in::is_mark;
use crate::kernel::secret::sha256;
use crate::kernel::{Entropy, Error, Result, codes};

/// The browser that a sign-in is begun in.
pub const FLOW_COOKIE: &str = "__Host-freehold-flow";
/// How long a page with a form may stay open.
const PAGE: TimeDelta = TimeDelta::hours(12);

/// A browser's mark.
pub struct Mark(String);

impl Mark {
    /// The one that the browser has, or a new one.
    pub fn of(headers: &HeaderMap, entropy: &Entropy) -> Self {
        let known = cookie::value_of(headers, FLOW_COOKIE).filter(|mark| is_mark(mark));
        Self(known.map_or_else(|| BASE64URL_NOPAD.encode(&entropy.bytes::<32>()), str::to_owned))
    }

    /// For the hidden field `csrf` of a form.
    pub fn csrf(&self) -> String {
        cookie::csrf_proof(&self.0)
    }

    /// What is kept of it.
    pub fn hash(&self) -> [u8; 32] {
        sha256(self.0.as_bytes())
    }

    /// The cookie that keeps it for as long as a page may stay open.
    pub fn cookie(&self, now: DateTime<Utc>) -> HeaderValue {
        set_cookie(FLOW_COOKIE, &self.0, now + PAGE, now)
    }
}

/// A form of a browser that is not signed in, which a page of ours was meant to send: an `Origin` that is this host, and
/// the proof of the browser's mark in the field `csrf`. Without it, another site could sign a visitor in as somebody else.
pub struct Unsigned<T>(pub Mark, pub T);

impl<T, S> FromRequest<S> for Unsigned<T>
where
    T: DeserializeOwned,
    S: Send + Sync,
    Site: FromRef<S>,
{
    type Rejection = Response;

    async fn from_request(request: Request, _: &S) -> Result<Self, Response> {
        read(request).await.map_err(pages::failure)
    }
}

async fn read<T: DeserializeOwned>(request: Request) -> Result<Unsigned<T>> {
    let headers = request.headers().clone();
    let mark = cookie::value_of(&headers, FLOW_COOKIE).filter(|mark| is_mark(mark)).ok_or_else(|| {
        Error::new(&codes::FORBIDDEN)
            .detail("this page was open for too long, or the browser keeps no cookies")
            .hint("open it again")
    })?;
    let form = meant_form(&headers, request, mark).await?;
    let value = read_form(form).await?;
    Ok(Unsigned(Mark(mark.to_owned()), value))
}
