//! What happened when: append-only, written in the transaction of the change it tells of.

use crate::data_plane::As;
use crate::data_plane::context::Viewer;
use crate::http::vocabulary::{Json, Query};
use crate::kernel::Result;
use crate::kernel::page::Page;

pub mod model;
pub mod store;

pub use model::{Activity, ActivityQuery, Changes};

/// List what happened, newest first
///
/// What is deleted stays in this list: it says who deleted it and when.
#[utoipa::path(
    get,
    path = "/api/v1/activity",
    operation_id = "list_activity",
    tag = "activity",
    params(ActivityQuery),
    responses((status = 200, description = "A page of activity.", body = Page<Activity>))
)]
pub async fn list(ctx: As<Viewer>, Query(query): Query<ActivityQuery>) -> Result<Json<Page<Activity>>> {
    let page = store::activity_page(&ctx, query).await?;
    Ok(Json(page))
}
