//! Signing out: this browser, everywhere.

use axum::extract::{Request, State};
use http::HeaderMap;

use super::page;
use crate::control_plane::audit::Caller;
use crate::data_plane::RequestId;
use crate::data_plane::tenancy::{self, cookie};
use crate::http::browser::{Answer, Site, drop_cookie, is_base, meant_form, see_other, with_cookies};
use crate::identity::sessions::session_sign_out;
use crate::identity::support::support_sign_out;

/// `POST /sign-out`, at the sign-in host and at a tenant's. Ends the browser's session with all that it began at tenants'
/// hosts. Without a session there is nothing to end, and the cookie goes all the same.
pub(super) async fn sign_out(State(site): State<Site>, headers: HeaderMap, request: Request) -> Answer {
    let at_base = is_base(&headers, request.uri(), &site.base_domain);
    let request_id = request.extensions().get::<RequestId>().map(|id| id.0.to_string());
    if let Some((token, hash)) = cookie::support_of(&headers) {
        meant_form(&headers, request, token).await?;
        let cp = &site.identity.cp;
        let mut tx = cp.db.begin().await?;
        support_sign_out(&mut tx, &hash, request_id, cp.clock.now()).await?;
        tx.commit().await?;
    } else if let Some((token, hash)) = cookie::session_of(&headers) {
        meant_form(&headers, request, token).await?;
        let cp = &site.identity.cp;
        let caller = |actor| Caller { actor, request_id };
        let mut tx = cp.db.begin().await?;
        session_sign_out(&mut tx, &hash, caller, cp.clock.now()).await?;
        tx.commit().await?;
    }
    // At a tenant's host a page, not a redirect: a form may not lead to another host.
    let answer = match at_base {
        true => see_other("/sign-in"),
        false => page::signed_out(&format!("{}/sign-in", site.identity.cp.addresses.base_url())),
    };
    Ok(tenancy::private(with_cookies(answer, [drop_cookie(cookie::SESSION_COOKIE)])))
}
