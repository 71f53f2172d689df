//! This workspace's own sign-in.

use axum::extract::State;
use http::StatusCode;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;

use super::{by, caller};
use crate::data_plane::As;
use crate::data_plane::TenantContext;
use crate::data_plane::context::{Admin, OfPerson, Owner};
use crate::http::vocabulary::Json;
use crate::identity::Identity;
use crate::identity::sso::{NewSso, Sso, sso_connect, sso_enforce, sso_find, sso_method, sso_remove};
use crate::kernel::{Result, Role};
use crate::operations;

pub fn routes() -> OpenApiRouter<Identity> {
    operations!(OpenApiRouter::new(), show, set, remove, require)
}

/// The workspace's own sign-in.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct SsoStatus {
    /// The provider; null while there is none.
    pub provider: Option<Sso>,
    /// What to register at the provider as the redirect address.
    pub redirect_uri: String,
    /// Where the workspace's people sign in.
    pub sign_in_url: String,
}

/// A provider of one's own.
#[derive(Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SsoSetting {
    /// Exactly as the provider writes it in its tokens: an https address.
    #[garde(skip)]
    issuer: String,
    #[garde(skip)]
    client_id: String,
    /// Kept sealed, and never shown again.
    #[garde(skip)]
    client_secret: String,
    /// The role of those who come for the first time: viewer or member. Null: only people who have a seat.
    #[garde(skip)]
    #[serde(default)]
    join_role: Option<Role>,
}

/// Whether people of the proven domains have to come by the workspace's own sign-in.
#[derive(Debug, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct SsoRequired {
    #[garde(skip)]
    required: bool,
}

/// How it stands, for the API and the page.
///
/// # Errors
/// Those of the control database.
pub async fn status(identity: &Identity, context: &TenantContext) -> Result<SsoStatus> {
    let provider = sso_find(&mut *identity.cp.db.acquire().await?, context.tenant_id).await?;
    let base = identity.cp.addresses.base_url();
    Ok(SsoStatus {
        provider,
        redirect_uri: identity.callback_url(&sso_method(context.tenant_id)),
        sign_in_url: format!("{base}/sign-in/sso/{}", context.slug),
    })
}

/// Show the workspace's own sign-in
#[utoipa::path(get, path = "/api/v1/sso", operation_id = "get_sso", tag = "sso",
    responses((status = 200, description = "How it stands; the secret is not shown.", body = SsoStatus)))]
async fn show(ctx: As<Admin>, State(identity): State<Identity>) -> Result<Json<SsoStatus>> {
    Ok(Json(status(&identity, &ctx).await?))
}

/// Set up the workspace's own sign-in
///
/// An OpenID provider, which is asked about itself first. A change has to be tried before it can be required again; another
/// issuer ends the sessions that the old one began.
#[utoipa::path(put, path = "/api/v1/sso", operation_id = "set_sso", tag = "sso", request_body = SsoSetting,
    responses((status = 200, description = "How it stands.", body = SsoStatus)))]
async fn set(
    ctx: As<OfPerson<Owner>>,
    State(identity): State<Identity>,
    Json(new): Json<SsoSetting>,
) -> Result<Json<SsoStatus>> {
    let new = NewSso {
        issuer: new.issuer,
        client_id: new.client_id,
        client_secret: SecretString::from(new.client_secret),
        join_role: new.join_role,
    };
    sso_connect(&identity, &caller(&ctx), by(&ctx), ctx.tenant_id, &new).await?;
    Ok(Json(status(&identity, &ctx).await?))
}

/// Take the workspace's own sign-in away
///
/// All sessions that it began end.
#[utoipa::path(delete, path = "/api/v1/sso", operation_id = "remove_sso", tag = "sso",
    responses((status = 204, description = "People sign in by other ways.")))]
async fn remove(ctx: As<OfPerson<Owner>>, State(identity): State<Identity>) -> Result<StatusCode> {
    sso_remove(&identity, &caller(&ctx), by(&ctx), ctx.tenant_id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Require the workspace's own sign-in
///
/// Of everybody with an address of a proven domain. Takes a sign-in by it within the last five minutes, so that the door
/// does not shut for good.
#[utoipa::path(post, path = "/api/v1/sso/require", operation_id = "require_sso", tag = "sso",
    request_body = SsoRequired, responses((status = 200, description = "How it stands.", body = Sso)))]
async fn require(
    ctx: As<OfPerson<Owner>>,
    State(identity): State<Identity>,
    Json(rule): Json<SsoRequired>,
) -> Result<Json<Sso>> {
    let who = (by(&ctx), Some(ctx.person()?.session));
    Ok(Json(sso_enforce(&identity, &caller(&ctx), who, ctx.tenant_id, rule.required).await?))
}
