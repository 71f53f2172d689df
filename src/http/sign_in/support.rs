//! An operator's link to a tenant's host: it becomes this browser's session there, once.

use axum::extract::{Query, State};
use http::{HeaderMap, Uri};
use secrecy::ExposeSecret;
use serde::Deserialize;

use crate::data_plane::tenancy::host::{self, Host};
use crate::data_plane::tenancy::{self, cookie};
use crate::http::browser::{Answer, Site, see_other, set_cookie, with_cookies};
use crate::identity::sessions::{Asking, session_end_by_token};
use crate::identity::support::support_enter;
use crate::kernel::credentials::{self, KeyKind};
use crate::kernel::{Error, codes};

#[derive(Default, Deserialize)]
pub(super) struct Link {
    #[serde(default)]
    code: String,
}

/// `GET /enter/support`, at a tenant's host.
pub(super) async fn enter(
    State(site): State<Site>,
    query: Result<Query<Link>, axum::extract::rejection::QueryRejection>,
    asking: Asking,
    headers: HeaderMap,
    uri: Uri,
) -> Answer {
    let refused = || {
        Error::new(&codes::SIGN_IN_FAILED)
            .detail("this link was opened before, is too old, or was taken back")
    };
    let Host::Slug(slug) = host::of_request(&headers, &uri, &site.base_domain)? else {
        return Err(Error::new(&codes::NOT_FOUND).into());
    };
    let Query(link) = query.unwrap_or_default();
    let code = credentials::parse(KeyKind::Support, &link.code).ok_or_else(refused)?;
    let tenant = site.directory.tenant_by_slug(&slug).await?.ok_or_else(refused)?;
    let cp = &site.identity.cp;
    let now = cp.clock.now();
    let mut tx = cp.db.begin().await?;
    let entered =
        support_enter(&mut tx, &cp.entropy, &code, tenant.id, asking.request_id.clone(), now).await?;
    // A seat of their own that this browser has here is not mixed with it.
    if let Some((_, old)) = cookie::session_of(&headers) {
        session_end_by_token(&mut tx, &old, now).await?;
    }
    tx.commit().await?;
    let cookie = set_cookie(cookie::SESSION_COOKIE, entered.token.expose_secret(), entered.expires_at, now);
    Ok(tenancy::private(with_cookies(see_other("/"), [cookie])))
}
