//! From the sign-in host to a tenant's host, whose cookie the sign-in host cannot set.
//!
//! ```text
//! sign-in host  /go/acme                → acme's host
//! acme's host   /enter                  marks the browser with a cookie of its own → sign-in host
//! sign-in host  /go/acme?browser=…      a member: a code, good once, for half a minute, for that cookie → acme's host
//! acme's host   /enter?code=…           the code with the cookie: the session of this host → return_to
//! ```
//!
//! Without the mark, anyone could send another person's browser a code of their own and have it work in their name.
//!
//! At a tenant's own domain the same goes by `/go?host=<domain>`: whose domain it is, is looked up at the sign-in host and
//! for a person who is known, so that a stranger's browser learns nothing of it.

use axum::extract::{Query, State};
use axum::response::Response;
use data_encoding::BASE64URL_NOPAD;
use http::{HeaderMap, StatusCode, Uri};
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::json;

use super::{ENTER_COOKIE, own};
use crate::control_plane::audit::{Caller, audit_add};
use crate::data_plane::directory::Tenant;
use crate::data_plane::tenancy::host::{self, Host};
use crate::data_plane::tenancy::{self, cookie, decide};
use crate::http::browser::{
    Answer, AnyVisitor, Site, Visitor, drop_cookie, see_other, session_cookie, set_cookie, with_cookies,
    with_query,
};
use crate::http::vocabulary::Path;
use crate::identity::return_to::path_of;
use crate::identity::sessions::{Asking, hand_off, hand_off_redeem, session_end_by_token};
use crate::identity::sign_in::PATIENCE;
use crate::identity::sso::{sso_allows_session, sso_allows_started};
use crate::kernel::credentials::{self, KeyKind};
use crate::kernel::secret::sha256;
use crate::kernel::{Error, Slug, codes};

#[derive(Default, Deserialize)]
pub(super) struct Go {
    return_to: Option<String>,
    /// The SHA-256 of the mark at the tenant's host.
    browser: Option<String>,
    /// The tenant's own domain, if the browser is there.
    host: Option<String>,
}

/// One answer for a workspace that is not there and one that is not theirs.
fn none() -> Error {
    Error::new(&codes::TENANT_NOT_FOUND).detail("there is no such workspace, or it is not one of yours")
}

/// `GET /go/{slug}`
pub(super) async fn go(
    State(site): State<Site>,
    Path(slug): Path<String>,
    query: Result<Query<Go>, axum::extract::rejection::QueryRejection>,
    AnyVisitor(visitor): AnyVisitor,
) -> Answer {
    let Query(query) = query.unwrap_or_default();
    let slug = Slug::parse(&slug).map_err(|_| none())?;
    let tenant = site.directory.tenant_by_slug(&slug).await?.ok_or_else(none)?;
    let home = site.identity.cp.addresses.tenant_url(slug.as_str());
    let again = format!("/go/{slug}");
    on_to(&site, &tenant, &home, &again, &query, &visitor).await
}

/// `GET /go?host=<domain>`
pub(super) async fn go_to_domain(
    State(site): State<Site>,
    query: Result<Query<Go>, axum::extract::rejection::QueryRejection>,
    AnyVisitor(visitor): AnyVisitor,
) -> Answer {
    let Query(query) = query.unwrap_or_default();
    let domain = query.host.as_deref().and_then(host::name_of).ok_or_else(none)?;
    let Host::Other(domain) = host::classify(&domain, &site.base_domain) else { return Err(none().into()) };
    // The browser is sent there only while the domain is the tenant's.
    let tenant = site.directory.tenant_by_domain(&domain).await?.ok_or_else(none)?;
    let home = site.identity.cp.addresses.domain_url(&domain);
    on_to(&site, &tenant, &home, "/go", &query, &visitor).await
}

/// On to a host of this tenant's, which begins at `home`; by way of its own sign-in, and `again` here, if it wants that.
async fn on_to(
    site: &Site,
    tenant: &Tenant,
    home: &str,
    again: &str,
    query: &Go,
    visitor: &Visitor,
) -> Answer {
    visitor.person.role_in(tenant.id).ok_or_else(none)?;
    decide::served(tenant)?;
    let (cp, return_to) = (&site.identity.cp, path_of(query.return_to.as_deref()));
    let enter = format!("{home}/enter");
    let mark = query.browser.as_deref().and_then(|mark| BASE64URL_NOPAD.decode(mark.as_bytes()).ok());
    let Some(mark) = mark.and_then(|mark| <[u8; 32]>::try_from(mark).ok()) else {
        return Ok(see_other(&with_query(&enter, &[("return_to", return_to)])));
    };
    let mut conn = cp.db.acquire().await?;
    match sso_allows_session(&mut conn, tenant.id, visitor.person.id, visitor.session).await {
        Ok(()) => {}
        // Another workspace's provider sent them: there is no way on from here.
        Err(error) if error.is(&codes::FORBIDDEN) && visitor.only.is_none() => {
            drop(conn);
            let mut pairs = vec![("return_to", return_to)];
            pairs.extend(query.host.as_deref().map(|host| ("host", host)));
            let back = with_query(again, &pairs);
            let id = tenant.id.to_string();
            let mut page = own::connect_page(site, &id, visitor, Some(&back)).await?;
            *page.status_mut() = StatusCode::FORBIDDEN;
            return Ok(page);
        }
        Err(error) => return Err(error.into()),
    }
    let code = hand_off(&mut conn, &cp.entropy, visitor.session, tenant.id, &mark, return_to, cp.clock.now())
        .await?;
    Ok(see_other(&with_query(&enter, &[("code", code.expose_secret())])))
}

#[derive(Default, Deserialize)]
pub(super) struct Enter {
    return_to: Option<String>,
    code: Option<String>,
}

/// `GET /enter`, at a tenant's host.
pub(super) async fn enter(
    State(site): State<Site>,
    query: Result<Query<Enter>, axum::extract::rejection::QueryRejection>,
    asking: Asking,
    headers: HeaderMap,
    uri: Uri,
) -> Answer {
    let host = host::of_request(&headers, &uri, &site.base_domain)?;
    if host == Host::Base {
        return Err(Error::new(&codes::NOT_FOUND).into());
    }
    let Query(query) = query.unwrap_or_default();
    let answer = match query.code {
        None => mark(&site, &host, query.return_to.as_deref()),
        Some(code) => redeem(&site, &host, &code, &asking, &headers).await?,
    };
    Ok(tenancy::private(answer))
}

/// Marks the browser and sends it for a code. The same for every name, whether there is such a tenant or not.
fn mark(site: &Site, host: &Host, return_to: Option<&str>) -> Response {
    let (cp, now) = (&site.identity.cp, site.identity.cp.clock.now());
    let mark = BASE64URL_NOPAD.encode(&cp.entropy.bytes::<32>());
    let hash = BASE64URL_NOPAD.encode(&sha256(mark.as_bytes()));
    let mut query = vec![("browser", hash.as_str()), ("return_to", path_of(return_to))];
    let go = match host {
        Host::Slug(slug) => format!("{}/go/{slug}", cp.addresses.base_url()),
        Host::Other(domain) => {
            query.push(("host", &**domain));
            format!("{}/go", cp.addresses.base_url())
        }
        Host::Base => cp.addresses.base_url(),
    };
    let to = with_query(&go, &query);
    // As long as a sign-in on the way may take.
    with_cookies(see_other(&to), [set_cookie(ENTER_COOKIE, &mark, now + PATIENCE, now)])
}

async fn redeem(site: &Site, host: &Host, code: &str, asking: &Asking, headers: &HeaderMap) -> Answer {
    let refused = || {
        Error::new(&codes::SIGN_IN_FAILED).detail("this link was used, is too old, or is another browser's")
    };
    let code = credentials::parse(KeyKind::HandOff, code).ok_or_else(refused)?;
    let mark = cookie::value_of(headers, ENTER_COOKIE).ok_or_else(refused)?;
    let tenant = match host {
        Host::Slug(slug) => site.directory.tenant_by_slug(slug).await?,
        Host::Other(domain) => site.directory.tenant_by_domain(domain).await?,
        Host::Base => None,
    };
    let tenant = tenant.ok_or_else(refused)?;
    let cp = &site.identity.cp;
    let now = cp.clock.now();
    let mut tx = cp.db.begin().await?;
    let mark = sha256(mark.as_bytes());
    let (started, to) =
        hand_off_redeem(&mut tx, &cp.entropy, &code, tenant.id, &mark, &asking.device, now).await?;
    sso_allows_started(&mut tx, tenant.id, started.id).await?;
    // What this browser had here before is of no more use.
    if let Some((_, old)) = cookie::session_of(headers) {
        session_end_by_token(&mut tx, &old, now).await?;
    }
    // A sign-in at the sign-in host is in the person's own chain; that they came here is the tenant's to know.
    let caller = Caller { actor: started.account.to_string(), request_id: asking.request_id.clone() };
    let detail = json!({ "address": asking.device.address });
    let (action, subject) = ("session.enter", started.id.to_string());
    audit_add(&mut tx, &caller, now, action, Some(tenant.id), &subject, detail).await?;
    tx.commit().await?;
    Ok(with_cookies(see_other(&to), [session_cookie(&started, now), drop_cookie(ENTER_COOKIE)]))
}
