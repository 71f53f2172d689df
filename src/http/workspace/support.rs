//! Support sessions: who of the provider's staff looks into this workspace, and why.

use axum::extract::State;
use http::StatusCode;
use utoipa_axum::router::OpenApiRouter;

use super::caller;
use crate::data_plane::As;
use crate::data_plane::context::{Admin, Owner};
use crate::http::vocabulary::{Json, Path, Query};
use crate::identity::Identity;
use crate::identity::support::{OwnSupportFilter, SupportSession, own_support_list, support_end};
use crate::kernel::Result;
use crate::kernel::ids::SupportId;
use crate::kernel::page::Page;
use crate::operations;

pub fn routes() -> OpenApiRouter<Identity> {
    operations!(OpenApiRouter::new(), list, end)
}

/// List support sessions
///
/// Looks into this workspace by the provider's staff: who, why, from when until when.
#[utoipa::path(get, path = "/api/v1/support-sessions", operation_id = "list_support_sessions",
    tag = "support-sessions", params(OwnSupportFilter),
    responses((status = 200, description = "Sessions, newest first.", body = Page<SupportSession>)))]
async fn list(
    ctx: As<Admin>,
    State(identity): State<Identity>,
    Query(filter): Query<OwnSupportFilter>,
) -> Result<Json<Page<SupportSession>>> {
    let mut conn = identity.cp.db.acquire().await?;
    let now = identity.cp.clock.now();
    Ok(Json(own_support_list(&mut conn, ctx.tenant_id, &filter, now).await?))
}

/// End a support session
///
/// Every server refuses it within a second.
#[utoipa::path(delete, path = "/api/v1/support-sessions/{id}", operation_id = "end_support_session",
    tag = "support-sessions", params(("id" = SupportId, Path)),
    responses((status = 204, description = "The session has ended.")))]
async fn end(
    ctx: As<Owner>,
    State(identity): State<Identity>,
    Path(id): Path<SupportId>,
) -> Result<StatusCode> {
    support_end(&identity.cp, &caller(&ctx), Some(ctx.tenant_id), id).await?;
    Ok(StatusCode::NO_CONTENT)
}
