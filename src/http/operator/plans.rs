//! `/operator/v1/plans`.

use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Inside;
use super::caller::Operator;
use crate::control_plane::plans::{self, Plan, PlanChanges};
use crate::http::vocabulary::Json;
use crate::kernel::Result;
use crate::kernel::page::Page;

/// A plan file to bring the control database to.
#[derive(Clone, Debug, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyPlans {
    /// The text of a `plans.toml`.
    #[garde(length(bytes, min = 1, max = 200_000))]
    pub toml: String,
    /// Only say what would change.
    #[garde(skip)]
    #[serde(default)]
    pub dry_run: bool,
}

pub(super) fn routes() -> OpenApiRouter<Inside> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(apply))
}

/// The plans on sale, in the file's order
#[utoipa::path(get, path = "/operator/v1/plans", operation_id = "operator_plan_list", tag = "Operator: plans",
    responses((status = 200, body = Page<Plan>)))]
async fn list(operator: Operator) -> Result<Json<Page<Plan>>> {
    let mut control = operator.cp.db.acquire().await?;
    plans::plan_list(&mut control).await.map(Page::whole).map(Json)
}

/// Bring the plans to a file's
#[utoipa::path(post, path = "/operator/v1/plans/apply", operation_id = "operator_plan_apply", tag = "Operator: plans",
    request_body = ApplyPlans, responses((status = 200, body = PlanChanges)))]
async fn apply(operator: Operator, Json(body): Json<ApplyPlans>) -> Result<Json<PlanChanges>> {
    let file = plans::parse(&body.toml)?;
    plans::apply(&operator.cp, &operator.caller, &file, body.dry_run).await.map(Json)
}
