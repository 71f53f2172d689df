//! Operators in and out.

use askama::Template;
use axum::extract::{Query, Request, State};
use axum::response::Response;
use http::HeaderMap;
use secrecy::ExposeSecret;
use serde::Deserialize;

use super::staff::{Staff, token_of};
use super::{COOKIE, FLOW_COOKIE, HOME};
use crate::data_plane::tenancy::cookie;
use crate::http::browser::{Answer, Site, drop_cookie, meant_form, see_other, set_cookie, with_cookies};
use crate::http::pages::{self, Frame};
use crate::http::vocabulary::Path;
use crate::identity::oidc::CallbackQuery;
use crate::identity::oidc::settings::Registration;
use crate::identity::operators::operator_sign_out;
use crate::identity::return_to::path_of;
use crate::identity::sessions::Asking;
use crate::identity::sign_in::{OPERATORS, PATIENCE, Purpose, Wish};
use crate::kernel::{Error, codes};

/// A provider's name in addresses.
fn short(provider: &Registration) -> &str {
    provider.id.strip_prefix(OPERATORS).unwrap_or(&provider.id)
}

#[derive(Template)]
#[template(path = "desk/sign_in.html")]
struct Page<'a> {
    frame: Frame,
    /// Id and name.
    providers: Vec<(&'a str, &'a str)>,
    return_to: &'a str,
}

#[derive(Default, Deserialize)]
pub struct Wanted {
    return_to: Option<String>,
}

/// Below `/operator`, wherever they wanted to go.
fn inside(wanted: Option<&str>) -> &str {
    let path = path_of(wanted);
    if path == HOME || path.starts_with("/operator/") || path.starts_with("/operator?") { path } else { HOME }
}

/// `GET /operator/sign-in`
pub async fn page(State(site): State<Site>, Query(wanted): Query<Wanted>) -> Response {
    let all = site.identity.operators.registrations();
    let providers = all.map(|one| (short(one), one.name.as_str())).collect();
    pages::page(&Page { frame: Frame::default(), providers, return_to: inside(wanted.return_to.as_deref()) })
}

/// `GET /operator/sign-in/{provider}`
pub async fn start(
    State(site): State<Site>,
    Path(provider): Path<String>,
    query: Result<Query<Wanted>, axum::extract::rejection::QueryRejection>,
    asking: Asking,
    headers: HeaderMap,
) -> Answer {
    let provider = site.identity.operators.get(&format!("{OPERATORS}{provider}"))?;
    site.identity.may_begin(&asking.device.address).await?;
    let Query(wanted) = query.unwrap_or_default();
    let return_to = Some(inside(wanted.return_to.as_deref()));
    let wish = Wish { purpose: Purpose::Operator, account: None, tenant: None, return_to };
    let begun = site.identity.begin(&provider, &wish, cookie::value_of(&headers, FLOW_COOKIE)).await?;
    let now = site.identity.cp.clock.now();
    let mark = set_cookie(FLOW_COOKIE, begun.browser.expose_secret(), now + PATIENCE, now);
    Ok(with_cookies(see_other(&begun.url), [mark]))
}

/// `GET /operator/sign-in/{provider}/callback`
pub async fn callback(
    State(site): State<Site>,
    Path(provider): Path<String>,
    query: Result<Query<CallbackQuery>, axum::extract::rejection::QueryRejection>,
    asking: Asking,
    headers: HeaderMap,
) -> Answer {
    let provider = site.identity.operators.get(&format!("{OPERATORS}{provider}"))?;
    let Query(query) = query.map_err(|error| Error::new(&codes::SIGN_IN_FAILED).source(error))?;
    let returned = site.identity.returned(&provider, &query, cookie::value_of(&headers, FLOW_COOKIE)).await?;
    let before = token_of(&headers).map(|(_, hash)| hash);
    let began = site.identity.operator_arrive(&returned, before.as_ref(), &asking).await?;
    let now = site.identity.cp.clock.now();
    let cookie = set_cookie(COOKIE, began.token.expose_secret(), began.expires_at, now);
    Ok(with_cookies(see_other(inside(Some(&returned.return_to))), [cookie, drop_cookie(FLOW_COOKIE)]))
}

/// `POST /operator/sign-out`. Whatever their role.
pub async fn sign_out(
    State(site): State<Site>,
    staff: Staff,
    headers: HeaderMap,
    request: Request,
) -> Answer {
    if let Some((token, hash)) = token_of(&headers) {
        meant_form(&headers, request, token).await?;
        let cp = &site.identity.cp;
        let mut tx = cp.db.begin().await?;
        operator_sign_out(&mut tx, &staff.caller(), &hash, cp.clock.now()).await?;
        tx.commit().await?;
    }
    Ok(with_cookies(see_other("/operator/sign-in"), [drop_cookie(COOKIE)]))
}

#[cfg(test)]
mod tests {
    use super::inside;

    #[test]
    fn an_operator_stays_among_the_operators_pages() {
        for fine in ["/operator", "/operator?search=a", "/operator/tenants/acme"] {
            assert_eq!(inside(Some(fine)), fine);
        }
        for other in ["/", "/account", "//evil.io", "/operators", "https://evil.io/operator"] {
            assert_eq!(inside(Some(other)), "/operator", "{other}");
        }
        assert_eq!(inside(None), "/operator");
    }
}
