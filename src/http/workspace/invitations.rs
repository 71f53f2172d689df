//! Invitations to this workspace.

use axum::extract::State;
use http::StatusCode;
use utoipa_axum::router::OpenApiRouter;

use super::{by, caller};
use crate::data_plane::As;
use crate::data_plane::context::{Admin, OfPerson};
use crate::http::vocabulary::{Json, Path, Query};
use crate::identity::Identity;
use crate::identity::invitations::{
    Invitation, InvitationFilter, NewInvitation, invitation_list, invitation_resend, invitation_revoke,
    invite,
};
use crate::kernel::Result;
use crate::kernel::ids::InvitationId;
use crate::kernel::page::Page;
use crate::operations;

pub fn routes() -> OpenApiRouter<Identity> {
    operations!(OpenApiRouter::new(), create, list, resend, revoke)
}

/// Invite somebody
///
/// By mail, for one address, for a week. Only a person can invite, and nobody to a role above their own.
#[utoipa::path(post, path = "/api/v1/invitations", operation_id = "create_invitation", tag = "invitations",
    request_body = NewInvitation,
    responses((status = 201, description = "The invitation.", body = Invitation)))]
async fn create(
    ctx: As<OfPerson<Admin>>,
    State(identity): State<Identity>,
    Json(new): Json<NewInvitation>,
) -> Result<(StatusCode, Json<Invitation>)> {
    let invitation = invite(&identity, &caller(&ctx), by(&ctx), ctx.tenant_id, &new).await?;
    Ok((StatusCode::CREATED, Json(invitation)))
}

/// List invitations
#[utoipa::path(get, path = "/api/v1/invitations", operation_id = "list_invitations", tag = "invitations",
    params(InvitationFilter),
    responses((status = 200, description = "Invitations, newest first.", body = Page<Invitation>)))]
async fn list(
    ctx: As<Admin>,
    State(identity): State<Identity>,
    Query(filter): Query<InvitationFilter>,
) -> Result<Json<Page<Invitation>>> {
    let mut conn = identity.cp.db.acquire().await?;
    Ok(Json(invitation_list(&mut conn, ctx.tenant_id, &filter).await?))
}

/// Send an invitation again
///
/// With a new link: the old one is dead, and the week begins anew. Nobody sends one again to a role above their own.
#[utoipa::path(post, path = "/api/v1/invitations/{id}/resend", operation_id = "resend_invitation", tag = "invitations",
    params(("id" = InvitationId, Path)),
    responses((status = 200, description = "The invitation.", body = Invitation)))]
async fn resend(
    ctx: As<Admin>,
    State(identity): State<Identity>,
    Path(id): Path<InvitationId>,
) -> Result<Json<Invitation>> {
    Ok(Json(invitation_resend(&identity, &caller(&ctx), by(&ctx), ctx.tenant_id, id).await?))
}

/// Take an invitation back
#[utoipa::path(delete, path = "/api/v1/invitations/{id}", operation_id = "revoke_invitation", tag = "invitations",
    params(("id" = InvitationId, Path)), responses((status = 204, description = "Its link is dead.")))]
async fn revoke(
    ctx: As<Admin>,
    State(identity): State<Identity>,
    Path(id): Path<InvitationId>,
) -> Result<StatusCode> {
    invitation_revoke(&identity, &caller(&ctx), ctx.tenant_id, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
