//! `/operator/v1/jobs`.

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Inside;
use super::caller::Operator;
use crate::http::vocabulary::{Json, Path, Query};
use crate::jobs::queue::{self, Job, JobFilter};
use crate::kernel::Result;
use crate::kernel::ids::JobId;
use crate::kernel::page::Page;

pub(super) fn routes() -> OpenApiRouter<Inside> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(retry))
}

/// Jobs, newest first
#[utoipa::path(get, path = "/operator/v1/jobs", operation_id = "operator_job_list", tag = "Operator: work",
    params(JobFilter), responses((status = 200, body = Page<Job>)))]
async fn list(operator: Operator, Query(filter): Query<JobFilter>) -> Result<Json<Page<Job>>> {
    let mut control = operator.cp.db.acquire().await?;
    queue::job_list(&mut control, &filter).await.map(Json)
}

/// Put a dead job back in the queue
#[utoipa::path(post, path = "/operator/v1/jobs/{id}/retry", operation_id = "operator_job_retry", tag = "Operator: work",
    params(("id" = JobId, Path)), responses((status = 200, body = Job)))]
async fn retry(operator: Operator, Path(id): Path<JobId>) -> Result<Json<Job>> {
    crate::control_plane::work::job_retry(&operator.cp, &operator.caller, id).await.map(Json)
}
