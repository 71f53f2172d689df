//! To a provider and back.

use axum::extract::{Query, State};
use axum::response::Response;
use http::HeaderMap;
use secrecy::ExposeSecret;
use serde::Deserialize;

use super::FLOW_COOKIE;
use crate::data_plane::tenancy::cookie;
use crate::http::browser::{Answer, AnyVisitor, Site, see_other, set_cookie, with_cookies};
use crate::http::mark::Mark;
use crate::http::vocabulary::Path;
use crate::identity::arrive::Here;
use crate::identity::oidc::{CallbackQuery, Provider};
use crate::identity::sessions::Asking;
use crate::identity::sign_in::{Begun, PATIENCE, Purpose, Wish};
use crate::kernel::{Error, codes};

#[derive(Deserialize)]
pub(super) struct Start {
    return_to: Option<String>,
}

/// `GET /sign-in/{provider}`
pub(super) async fn start(
    State(site): State<Site>,
    Path(provider): Path<String>,
    query: Result<Query<Start>, axum::extract::rejection::QueryRejection>,
    asking: Asking,
    headers: HeaderMap,
) -> Answer {
    let provider = site.identity.providers.get(&provider)?;
    let return_to = query.ok().and_then(|Query(query)| query.return_to);
    let wish =
        Wish { purpose: Purpose::SignIn, account: None, tenant: None, return_to: return_to.as_deref() };
    let begun = begin(&site, &provider, &wish, &asking, &headers).await?;
    Ok(with_flow_cookie(&site, &begun, see_other(&begun.url)))
}

/// Begins a sign-in in this browser, unless too many were begun from where it is.
pub(super) async fn begin(
    site: &Site,
    provider: &Provider,
    wish: &Wish<'_>,
    asking: &Asking,
    headers: &HeaderMap,
) -> Answer<Begun> {
    site.identity.may_begin(&asking.device.address).await?;
    Ok(site.identity.begin(provider, wish, cookie::value_of(headers, FLOW_COOKIE)).await?)
}

/// Marks the browser, for as long as the sign-in may take.
pub(super) fn with_flow_cookie(site: &Site, begun: &Begun, response: Response) -> Response {
    let now = site.identity.cp.clock.now();
    with_cookies(response, [set_cookie(FLOW_COOKIE, begun.browser.expose_secret(), now + PATIENCE, now)])
}

/// `GET /sign-in/{provider}/callback`
pub(super) async fn callback(
    State(site): State<Site>,
    Path(provider): Path<String>,
    query: Result<Query<CallbackQuery>, axum::extract::rejection::QueryRejection>,
    visitor: Option<AnyVisitor>,
    asking: Asking,
    headers: HeaderMap,
) -> Answer {
    let provider = site.identity.providers.get(&provider)?;
    come_back(&site, &provider, query, visitor, &asking, &headers).await
}

/// A browser that is back from a provider.
pub(super) async fn come_back(
    site: &Site,
    provider: &Provider,
    query: Result<Query<CallbackQuery>, axum::extract::rejection::QueryRejection>,
    visitor: Option<AnyVisitor>,
    asking: &Asking,
    headers: &HeaderMap,
) -> Answer {
    // A parameter that is there twice, or is no text: nothing of ours.
    let Query(query) = query.map_err(|error| Error::new(&codes::SIGN_IN_FAILED).source(error))?;
    let returned = site.identity.returned(provider, &query, cookie::value_of(headers, FLOW_COOKIE)).await?;
    let here =
        visitor.map(|AnyVisitor(visitor)| Here { account: visitor.person.id, session: visitor.session });
    let arrived = site.identity.arrive(&returned, here, asking).await?;
    let mark = Mark::of(headers, &site.identity.cp.entropy);
    Ok(match arrived.let_in {
        Some(let_in) => super::let_in(site, &let_in, &mark, &returned.return_to),
        None => see_other(&returned.return_to),
    })
}
