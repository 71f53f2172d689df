//! `/operator/v1/slots`.

use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Inside;
use super::caller::Operator;
use crate::control_plane::slots::{self, Slot};
use crate::http::vocabulary::{Json, Query};
use crate::kernel::Result;
use crate::kernel::page::Page;

/// Which slots to list.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SlotFilter {
    /// A shard's name or id.
    pub shard: Option<String>,
}

pub(super) fn routes() -> OpenApiRouter<Inside> {
    OpenApiRouter::new().routes(routes!(list))
}

/// Slots that no tenant has claimed, at most 1,000
#[utoipa::path(get, path = "/operator/v1/slots", operation_id = "operator_slot_list", tag = "Operator: shards",
    params(SlotFilter), responses((status = 200, body = Page<Slot>)))]
async fn list(operator: Operator, Query(filter): Query<SlotFilter>) -> Result<Json<Page<Slot>>> {
    let mut control = operator.cp.db.acquire().await?;
    slots::slot_list(&mut control, filter.shard.as_deref()).await.map(Page::whole).map(Json)
}
