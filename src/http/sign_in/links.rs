//! Which providers an account is linked to. A change takes a live session and a sign-in of the last minutes; the page
//! that lists them is elsewhere.

use axum::extract::State;
use http::HeaderMap;
use serde::Deserialize;

use super::flow::{begin, with_flow_cookie};
use super::page;
use crate::http::browser::{Answer, Meant, Site, Visitor, see_other};
use crate::identity::accounts::link_remove;
use crate::identity::sessions::{Asking, session_is_fresh};
use crate::identity::sign_in::{Purpose, Wish};

const ACCOUNT: &str = "/account";

#[derive(Deserialize)]
pub(super) struct Way {
    provider: String,
    return_to: Option<String>,
}

/// `POST /account/confirm`: a sign-in of the same account, by a provider that it is linked to.
pub(super) async fn confirm(
    State(site): State<Site>,
    asking: Asking,
    headers: HeaderMap,
    Meant(visitor, way): Meant<Way>,
) -> Answer {
    go_to(&site, (&asking, &headers), &visitor, &way, Purpose::Confirm).await
}

/// `POST /account/links`: another provider for this account.
pub(super) async fn add(
    State(site): State<Site>,
    asking: Asking,
    headers: HeaderMap,
    Meant(visitor, way): Meant<Way>,
) -> Answer {
    fresh(&site, &visitor).await?;
    go_to(&site, (&asking, &headers), &visitor, &way, Purpose::Link).await
}

async fn fresh(site: &Site, visitor: &Visitor) -> Answer<()> {
    let cp = &site.identity.cp;
    let mut conn = cp.db.acquire().await?;
    Ok(session_is_fresh(&mut conn, visitor.person.id, visitor.session, cp.clock.now()).await?)
}

async fn go_to(
    site: &Site,
    (asking, headers): (&Asking, &HeaderMap),
    visitor: &Visitor,
    way: &Way,
    purpose: Purpose,
) -> Answer {
    let provider = site.identity.providers.get(&way.provider)?;
    let return_to = way.return_to.as_deref().unwrap_or(ACCOUNT);
    let wish = Wish { purpose, account: Some(visitor.person.id), tenant: None, return_to: Some(return_to) };
    let begun = begin(site, &provider, &wish, asking, headers).await?;
    Ok(with_flow_cookie(site, &begun, page::leads_to(&begun.url, &provider.registration.name)))
}

#[derive(Deserialize)]
pub(super) struct Which {
    issuer: String,
    subject: String,
}

/// `POST /account/links/remove`
pub(super) async fn remove(State(site): State<Site>, Meant(visitor, link): Meant<Which>) -> Answer {
    let cp = &site.identity.cp;
    let now = cp.clock.now();
    let mut tx = cp.db.begin().await?;
    session_is_fresh(&mut tx, visitor.person.id, visitor.session, now).await?;
    link_remove(&mut tx, &visitor.caller(), visitor.person.id, &link.issuer, &link.subject, now).await?;
    tx.commit().await?;
    Ok(see_other(ACCOUNT))
}
