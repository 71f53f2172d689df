//! Seats of this workspace.

use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;

use super::{by, caller};
use crate::data_plane::As;
use crate::data_plane::context::{Admin, Viewer};
use crate::http::vocabulary::{Json, Path, Query};
use crate::identity::Identity;
use crate::identity::members::{Member, MemberFilter, member_change, member_get, member_list, member_remove};
use crate::kernel::ids::AccountId;
use crate::kernel::page::Page;
use crate::kernel::{Result, Role};
use crate::operations;

pub fn routes() -> OpenApiRouter<Identity> {
    operations!(OpenApiRouter::new(), list, get, change, remove)
}

/// A member's new role.
#[derive(Debug, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct RoleChange {
    #[garde(skip)]
    role: Role,
}

/// List members
#[utoipa::path(get, path = "/api/v1/members", operation_id = "list_members", tag = "members",
    params(MemberFilter), responses((status = 200, description = "Members, by account.", body = Page<Member>)))]
async fn list(
    ctx: As<Viewer>,
    State(identity): State<Identity>,
    Query(filter): Query<MemberFilter>,
) -> Result<Json<Page<Member>>> {
    let mut conn = identity.cp.db.acquire().await?;
    Ok(Json(member_list(&mut conn, ctx.tenant_id, &filter).await?))
}

/// Get a member
#[utoipa::path(get, path = "/api/v1/members/{account}", operation_id = "get_member", tag = "members",
    params(("account" = AccountId, Path)), responses((status = 200, description = "The member.", body = Member)))]
async fn get(
    ctx: As<Viewer>,
    State(identity): State<Identity>,
    Path(account): Path<AccountId>,
) -> Result<Json<Member>> {
    let mut conn = identity.cp.db.acquire().await?;
    Ok(Json(member_get(&mut conn, ctx.tenant_id, account).await?))
}

/// Give a member another role
///
/// Nobody gives or takes a role above their own, and an owner stays.
#[utoipa::path(patch, path = "/api/v1/members/{account}", operation_id = "change_member", tag = "members",
    params(("account" = AccountId, Path)), request_body = RoleChange,
    responses((status = 200, description = "The member.", body = Member)))]
async fn change(
    ctx: As<Admin>,
    State(identity): State<Identity>,
    Path(account): Path<AccountId>,
    Json(new): Json<RoleChange>,
) -> Result<Json<Member>> {
    let mut tx = identity.cp.db.begin().await?;
    let now = identity.cp.clock.now();
    let member =
        member_change(&mut tx, &caller(&ctx), by(&ctx), ctx.tenant_id, account, new.role, now).await?;
    tx.commit().await?;
    Ok(Json(member))
}

/// Remove a member, or leave
///
/// Anyone may leave; removing others takes an admin. An owner stays.
#[utoipa::path(delete, path = "/api/v1/members/{account}", operation_id = "remove_member", tag = "members",
    params(("account" = AccountId, Path)), responses((status = 204, description = "The seat is free.")))]
async fn remove(
    ctx: As<Viewer>,
    State(identity): State<Identity>,
    Path(account): Path<AccountId>,
) -> Result<StatusCode> {
    let mut tx = identity.cp.db.begin().await?;
    let now = identity.cp.clock.now();
    member_remove(&mut tx, &caller(&ctx), by(&ctx), ctx.tenant_id, account, now).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
