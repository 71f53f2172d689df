//! Who is asking, as the platform sees them.

use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;

use crate::data_plane::As;
use crate::data_plane::context::Viewer;
use crate::http::vocabulary::Json;
use crate::identity::Identity;
use crate::kernel::ids::{AccountId, TenantId};
use crate::kernel::{Result, Role};
use crate::operations;

pub fn routes() -> OpenApiRouter<Identity> {
    operations!(OpenApiRouter::new(), get)
}

/// Who is asking, and where.
#[derive(Serialize, utoipa::ToSchema)]
struct Me {
    /// The id of the person or of the key: `acc_…`, `key_…`.
    id: String,
    name: String,
    role: Role,
    /// The person; none for a key.
    account: Option<AccountId>,
    tenant: TenantId,
    #[schema(value_type = String)]
    slug: String,
}

/// Tell who I am
#[utoipa::path(get, path = "/api/v1/me", operation_id = "get_me", tag = "workspace",
    responses((status = 200, description = "The caller.", body = Me)))]
async fn get(ctx: As<Viewer>) -> Result<Json<Me>> {
    Ok(Json(Me {
        id: ctx.actor.id.clone(),
        name: ctx.actor.name.clone(),
        role: ctx.actor.role,
        account: ctx.actor.person.map(|person| person.account),
        tenant: ctx.tenant_id,
        slug: ctx.slug.to_string(),
    }))
}
