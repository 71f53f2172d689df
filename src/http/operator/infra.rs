//! `/operator/v1/infra`.

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Inside;
use super::caller::Operator;
use crate::control_plane::infra::lookout::{self, Look, LookFilter};
use crate::http::vocabulary::{Json, Query};
use crate::kernel::Result;
use crate::kernel::page::Page;

pub(super) fn routes() -> OpenApiRouter<Inside> {
    OpenApiRouter::new().routes(routes!(list))
}

/// What the nightly looks at the cloud have found: drift, orphans, what could not be looked at
#[utoipa::path(get, path = "/operator/v1/infra/looks", operation_id = "operator_infra_look_list", tag = "Operator: work",
    params(LookFilter), responses((status = 200, body = Page<Look>)))]
async fn list(operator: Operator, Query(filter): Query<LookFilter>) -> Result<Json<Page<Look>>> {
    let mut control = operator.cp.db.acquire().await?;
    lookout::looks(&mut control, &filter).await.map(Page::whole).map(Json)
}
