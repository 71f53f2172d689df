//! How a change that the worker carries out is answered.

use std::time::Duration;

use axum::response::{AppendHeaders, IntoResponse, Response};
use http::{StatusCode, header};
use serde::Serialize;

use super::caller::Operator;
use crate::control_plane::runs;
use crate::http::vocabulary::Json;
use crate::jobs::run::Run;
use crate::kernel::Result;
use crate::kernel::ids::RunId;

/// How long a request waits for its run. Most take some milliseconds; whoever waits longer is better off following it.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What became of a change while the request waited.
pub enum Outcome<T> {
    /// 200 with the thing as it is now.
    Done(T),
    /// 202 with the run, which goes on.
    Underway(Run),
}

/// Waits for a run; when it is done, `view` reads what to show.
///
/// # Errors
/// The run's own, when it was undone or is stuck.
pub async fn settle<T>(
    operator: &Operator,
    run: RunId,
    view: impl AsyncFnOnce(&Run) -> Result<T>,
) -> Result<Outcome<T>> {
    let run = runs::wait(&operator.cp, &operator.feed, run, PATIENCE).await?;
    if run.state.is_open() {
        return Ok(Outcome::Underway(run));
    }
    runs::succeeded(&run)?;
    view(&run).await.map(Outcome::Done)
}

/// 202: where to follow the run, and the run.
pub fn underway(run: Run) -> Response {
    let location = AppendHeaders([(header::LOCATION, format!("/operator/v1/runs/{}", run.id))]);
    (StatusCode::ACCEPTED, location, Json(run)).into_response()
}

impl<T: Serialize> IntoResponse for Outcome<T> {
    fn into_response(self) -> Response {
        match self {
            Self::Done(view) => Json(view).into_response(),
            Self::Underway(run) => underway(run),
        }
    }
}
