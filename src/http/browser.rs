//! A browser at the sign-in host: its session, its cookies, and forms that it was meant to send.
//!
//! A handler for a person who is signed in takes [`Visitor`]; one for a form takes [`Meant`], which has a visitor and
//! proves that a page of ours was filled in. Without a session a page sends the browser to sign in and back.
//!
//! Whoever came by a workspace's own provider is no such visitor: the workspace runs that provider and could send anybody
//! as anybody, and must not reach their account or other workspaces. The few pages on the way to that one workspace take
//! [`AnyVisitor`] and [`MeantByAny`].

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{FromRef, FromRequest, FromRequestParts, OptionalFromRequestParts, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::{Form, RequestExt};
use chrono::{DateTime, Utc};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::pages::{self, Shown};
use crate::control_plane::audit::Caller;
use crate::data_plane::RequestId;
use crate::data_plane::directory::{Directory, Person};
use crate::data_plane::tenancy::{self, cookie, host};
use crate::identity::Identity;
use crate::identity::return_to;
use crate::identity::sessions::Started;
use crate::kernel::ids::{SessionId, TenantId};
use crate::kernel::{Error, Result, codes};

/// The longest form that is read.
const LONGEST_FORM: usize = 64 * 1024;

/// What pages work with. Other states give theirs through [`FromRef`].
#[derive(Clone)]
pub struct Site {
    pub identity: Identity,
    pub directory: Directory,
    /// In lower case, without a port.
    pub base_domain: Arc<str>,
}

/// Answers of pages, or the page of an error.
pub type Answer<T = Response> = std::result::Result<T, Shown>;

/// For the routes of the sign-in host: at any other host there is nothing.
/// `axum::middleware::from_fn_with_state(site, at_base)`.
pub async fn at_base(State(site): State<Site>, request: Request, next: Next) -> Response {
    if !is_base(request.headers(), request.uri(), &site.base_domain) {
        return pages::failure(Error::new(&codes::NOT_FOUND));
    }
    let for_person = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let for_person = for_person.is_some_and(|accept| accept.contains("text/html"));
    let response = next.run(request).await;
    let problem =
        response.headers().get(header::CONTENT_TYPE).is_some_and(|k| k == "application/problem+json");
    // What an extractor refused before the handler could say it as a page.
    match response.extensions().get::<Arc<Error>>() {
        Some(error) if problem && for_person => pages::failure(error.clone()),
        _ => tenancy::private(response),
    }
}

/// Whether the request is for the sign-in host: by its name, not by an address, because cookies and links go by name.
pub fn is_base(headers: &HeaderMap, uri: &Uri, base_domain: &str) -> bool {
    let name = headers.get(header::HOST).and_then(|host| host.to_str().ok()).and_then(host::name_of);
    host::of_request(headers, uri, base_domain).is_ok_and(|host| host == host::Host::Base)
        && name.as_deref() == Some(base_domain)
}

/// A person who is signed in at the sign-in host.
pub struct Visitor {
    pub person: Arc<Person>,
    pub session: SessionId,
    /// The workspace whose own provider began the session. Only an [`AnyVisitor`] has one.
    pub only: Option<TenantId>,
    token: SecretString,
    request_id: Option<String>,
}

impl Visitor {
    /// For the hidden field `csrf` of every form.
    pub fn csrf(&self) -> String {
        cookie::csrf_proof(self.token.expose_secret())
    }

    /// Who acts, for the audit log.
    pub fn caller(&self) -> Caller {
        Caller { actor: self.person.id.to_string(), request_id: self.request_id.clone() }
    }

    async fn of(parts: &Parts, site: &Site) -> Result<Option<Self>> {
        let Some((token, hash)) = cookie::session_of(&parts.headers) else { return Ok(None) };
        if !is_base(&parts.headers, &parts.uri, &site.base_domain) {
            return Ok(None);
        }
        let Some(person) = site.directory.person_of_session(hash).await? else { return Ok(None) };
        // The cookie of a tenant's host is nothing here.
        let Some(session) =
            person.session_of(&hash, site.identity.cp.clock.now()).filter(|session| session.tenant.is_none())
        else {
            return Ok(None);
        };
        site.directory.note_seen(session);
        let (session, only) = (session.id, session.only);
        let (token, request_id) = (SecretString::from(token.to_owned()), request_id(parts));
        Ok(Some(Self { person, session, only, token, request_id }))
    }

    async fn required(parts: &Parts, site: &Site) -> Result<Self, Response> {
        match Self::of(parts, site).await {
            Ok(Some(visitor)) => Ok(visitor),
            Ok(None) if parts.method.is_safe() => Err(to_sign_in(&parts.uri)),
            Ok(None) => Err(pages::failure(Error::new(&codes::SIGN_IN_REQUIRED))),
            Err(error) => Err(pages::failure(error)),
        }
    }

    /// Themselves, unless a workspace's own provider sent them.
    ///
    /// # Errors
    /// `forbidden`.
    pub fn by_own_means(self) -> Result<Self> {
        match self.only {
            None => Ok(self),
            Some(_) => Err(Error::new(&codes::FORBIDDEN)
                .detail("you are here by your workspace's own sign-in, which opens that workspace only")
                .hint("to do this, sign out and sign in with a provider of your own")),
        }
    }
}

/// A person who is signed in at the sign-in host, by whatever means. See [`Visitor::only`].
pub struct AnyVisitor(pub Visitor);

impl<S> FromRequestParts<S> for Visitor
where
    S: Send + Sync,
    Site: FromRef<S>,
{
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let visitor = Self::required(parts, &Site::from_ref(state)).await?;
        visitor.by_own_means().map_err(pages::failure)
    }
}

/// `Option<Visitor>`: whoever it is may see the page; who came by a workspace's own provider, as a stranger.
impl<S> OptionalFromRequestParts<S> for Visitor
where
    S: Send + Sync,
    Site: FromRef<S>,
{
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Option<Self>, Response> {
        let visitor = Self::of(parts, &Site::from_ref(state)).await.map_err(pages::failure)?;
        Ok(visitor.filter(|visitor| visitor.only.is_none()))
    }
}

impl<S> FromRequestParts<S> for AnyVisitor
where
    S: Send + Sync,
    Site: FromRef<S>,
{
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        Visitor::required(parts, &Site::from_ref(state)).await.map(Self)
    }
}

/// `Option<AnyVisitor>`: whoever it is may see the page.
impl<S> OptionalFromRequestParts<S> for AnyVisitor
where
    S: Send + Sync,
    Site: FromRef<S>,
{
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Option<Self>, Response> {
        let visitor = Visitor::of(parts, &Site::from_ref(state)).await.map_err(pages::failure)?;
        Ok(visitor.map(Self))
    }
}

/// A form that a page of ours was meant to send: an `Origin` that is this host, and the visitor's proof in the field
/// `csrf`. `T` is read from the same form and ignores that field.
pub struct Meant<T>(pub Visitor, pub T);

impl<T, S> FromRequest<S> for Meant<T>
where
    T: DeserializeOwned,
    S: Send + Sync,
    Site: FromRef<S>,
{
    type Rejection = Response;

    async fn from_request(mut request: Request, state: &S) -> Result<Self, Response> {
        let visitor = request.extract_parts_with_state::<Visitor, S>(state).await?;
        let value = meant(request, &visitor).await.map_err(pages::failure)?;
        Ok(Self(visitor, value))
    }
}

/// [`Meant`], by an [`AnyVisitor`].
pub struct MeantByAny<T>(pub Visitor, pub T);

impl<T, S> FromRequest<S> for MeantByAny<T>
where
    T: DeserializeOwned,
    S: Send + Sync,
    Site: FromRef<S>,
{
    type Rejection = Response;

    async fn from_request(mut request: Request, state: &S) -> Result<Self, Response> {
        let AnyVisitor(visitor) = request.extract_parts_with_state::<AnyVisitor, S>(state).await?;
        let value = meant(request, &visitor).await.map_err(pages::failure)?;
        Ok(Self(visitor, value))
    }
}

async fn meant<T: DeserializeOwned>(request: Request, visitor: &Visitor) -> Result<T> {
    let headers = request.headers().clone();
    read_form(meant_form(&headers, request, visitor.token.expose_secret()).await?).await
}

#[derive(Deserialize)]
struct Proof {
    csrf: String,
}

/// The body of a form that a page of this host was meant to send with this session. For any host.
///
/// # Errors
/// `forbidden` for everything else; another site can send no other kind of body without being asked first, so a body of
/// another kind is refused in the same way.
pub async fn meant_form(headers: &HeaderMap, request: Request, token: &str) -> Result<Bytes> {
    let refused = || Error::new(&codes::FORBIDDEN).detail("this did not come from a page of this site");
    if !is_form(headers) || !cookie::from_our_own_page(headers) {
        return Err(refused());
    }
    let body = axum::body::to_bytes(request.into_body(), LONGEST_FORM)
        .await
        .map_err(|error| Error::new(&codes::BODY_TOO_LARGE).source(error))?;
    let proof: Proof = read_form(body.clone()).await.map_err(|_| refused())?;
    if cookie::csrf_holds(token, &proof.csrf) { Ok(body) } else { Err(refused()) }
}

/// Whether the body is said to be that of a form.
pub fn is_form(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim() == "application/x-www-form-urlencoded")
}

/// A form's fields, from its body.
///
/// # Errors
/// `bad_request`.
pub async fn read_form<T: DeserializeOwned>(body: Bytes) -> Result<T> {
    let mut request = Request::new(body.into());
    *request.method_mut() = Method::POST;
    request
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    let Form(value) = Form::<T>::from_request(request, &()).await.map_err(|error| {
        Error::new(&codes::BAD_REQUEST).detail("the form could not be read").source(error)
    })?;
    Ok(value)
}

/// Sends the browser to sign in, and back to where it wanted to go.
pub fn to_sign_in(wanted: &Uri) -> Response {
    let wanted = wanted.path_and_query().map(|path| path.as_str());
    see_other(&with_query("/sign-in", &[("return_to", return_to::path_of(wanted))]))
}

/// 303 to an address of ours, or one that was checked.
pub fn see_other(to: &str) -> Response {
    match HeaderValue::from_str(to) {
        Ok(to) => (StatusCode::SEE_OTHER, [(header::LOCATION, to)]).into_response(),
        Err(error) => pages::failure(Error::internal(error)),
    }
}

/// `path` (or a whole address without a query) with a query.
pub fn with_query(path: &str, pairs: &[(&str, &str)]) -> String {
    let query = Url::parse_with_params("https://here.invalid/", pairs).expect("a constant with a query");
    format!("{path}?{}", query.query().unwrap_or_default())
}

/// The id of a request, for the audit log.
pub fn request_id(parts: &Parts) -> Option<String> {
    parts.extensions.get::<RequestId>().map(|id| id.0.to_string())
}

/// A `Set-Cookie` line. `__Host-` names are kept by a browser only with just these attributes.
pub fn set_cookie(name: &str, value: &str, expires: DateTime<Utc>, now: DateTime<Utc>) -> HeaderValue {
    let seconds = (expires - now).num_seconds().max(0);
    let line = format!("{name}={value}; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age={seconds}");
    let mut line = HeaderValue::from_str(&line).expect("names and tokens are plain text");
    line.set_sensitive(true);
    line
}

/// The cookie of a session that has just begun.
pub fn session_cookie(started: &Started, now: DateTime<Utc>) -> HeaderValue {
    set_cookie(cookie::SESSION_COOKIE, started.token.expose_secret(), started.expires_at, now)
}

/// A `Set-Cookie` line that takes a cookie away.
pub fn drop_cookie(name: &str) -> HeaderValue {
    set_cookie(name, "", DateTime::UNIX_EPOCH, DateTime::UNIX_EPOCH)
}

/// Adds `Set-Cookie` lines.
pub fn with_cookies(mut response: Response, cookies: impl IntoIterator<Item = HeaderValue>) -> Response {
    for cookie in cookies {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_for_one_host_over_tls_out_of_reach_of_scripts() {
        let now = DateTime::UNIX_EPOCH;
        let line = set_cookie("__Host-x", "v", now + chrono::TimeDelta::seconds(9), now);
        assert_eq!(line, "__Host-x=v; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=9");
        assert_eq!(drop_cookie("__Host-x"), "__Host-x=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0");
    }

    #[test]
    fn the_way_back_is_carried_whole() {
        let wanted: Uri = "/go/acme?return_to=%2Ftasks%3Fq%3Da%2526b".parse().unwrap();
        let to = to_sign_in(&wanted);
        let to = to.headers()[header::LOCATION].to_str().unwrap();
        let url = Url::parse("https://here.invalid").unwrap().join(to).unwrap();
        let back = url.query_pairs().find(|(key, _)| key == "return_to").unwrap().1.into_owned();
        assert_eq!(back, "/go/acme?return_to=%2Ftasks%3Fq%3Da%2526b");
    }

    #[test]
    fn only_the_name_itself_is_the_sign_in_host() {
        let at = |name: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, name.parse().unwrap());
            is_base(&headers, &"/".parse().unwrap(), "example.com")
        };
        assert!(at("example.com") && at("EXAMPLE.com:8080"));
        for other in ["acme.example.com", "127.0.0.1", "[::1]:80", "example.com.evil.io", "work.acme.io"] {
            assert!(!at(other), "{other}");
        }
    }
}
