//! Handing the workspace to somebody else.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;

use super::caller;
use crate::data_plane::As;
use crate::data_plane::context::{OfPerson, Owner};
use crate::http::vocabulary::Json;
use crate::identity::Identity;
use crate::identity::members::{Member, ownership_transfer};
use crate::identity::sessions::session_is_fresh;
use crate::kernel::Result;
use crate::kernel::ids::AccountId;
use crate::operations;

pub fn routes() -> OpenApiRouter<Identity> {
    operations!(OpenApiRouter::new(), transfer)
}

/// Who is to be the owner.
#[derive(Debug, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Transfer {
    #[garde(skip)]
    account: AccountId,
}

/// Transfer ownership
///
/// To another member, who becomes an owner as oneself becomes an admin. Wants a sign-in within the last five minutes.
#[utoipa::path(post, path = "/api/v1/ownership/transfer", operation_id = "transfer_ownership", tag = "members",
    request_body = Transfer, responses((status = 200, description = "The new owner.", body = Member)))]
async fn transfer(
    ctx: As<OfPerson<Owner>>,
    State(identity): State<Identity>,
    Json(to): Json<Transfer>,
) -> Result<Json<Member>> {
    let (me, now) = (ctx.person()?, identity.cp.clock.now());
    let mut tx = identity.cp.db.begin().await?;
    session_is_fresh(&mut tx, me.account, me.session, now).await?;
    let owner =
        ownership_transfer(&mut tx, &caller(&ctx), ctx.tenant_id, me.account, to.account, now).await?;
    tx.commit().await?;
    Ok(Json(owner))
}
