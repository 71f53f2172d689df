//! Is this process alive, and should it be sent requests?

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::control_plane::worker::Pulse;
use crate::data_plane::directory::{Directory, DirectoryHealth};

/// What readiness is judged by.
#[derive(Clone)]
pub struct Health {
    pub directory: Directory,
    /// Cancelled when the process is asked to stop: from then on it is not ready.
    pub draining: CancellationToken,
}

/// The body of `/health/ready`.
#[derive(Debug, Serialize)]
struct Readiness {
    status: &'static str,
    draining: bool,
    control_database: DirectoryHealth,
}

/// What a worker's readiness is judged by.
#[derive(Clone)]
pub struct WorkerHealth {
    pub pulse: Pulse,
    /// Cancelled when the process is asked to stop.
    pub draining: CancellationToken,
}

#[derive(Debug, Serialize)]
struct WorkerReadiness {
    status: &'static str,
    draining: bool,
    /// Since the shards were last looked at and the control database told; null before the first time.
    seconds_since_round: Option<f64>,
}

/// `GET /health/ready` of a worker. Nobody sends it requests: it says whether the worker works.
pub async fn worker_ready(State(WorkerHealth { pulse, draining }): State<WorkerHealth>) -> Response {
    let draining = draining.is_cancelled();
    let ready = !draining && pulse.beats();
    let seconds_since_round = pulse.age().map(|age| (age.as_secs_f64() * 10.0).round() / 10.0);
    let body = WorkerReadiness { status: said(ready), draining, seconds_since_round };
    answer(ready, body)
}

fn said(ready: bool) -> &'static str {
    if ready { "ready" } else { "not_ready" }
}

fn answer(ready: bool, body: impl Serialize) -> Response {
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [(http::header::CACHE_CONTROL, "no-store")], axum::Json(body)).into_response()
}

/// `GET /health/live`: answers while the process can answer at all.
pub async fn live() -> Response {
    axum::Json(serde_json::json!({ "status": "live" })).into_response()
}

/// `GET /health/ready`.
pub async fn ready(State(health): State<Health>) -> Response {
    let draining = health.draining.is_cancelled();
    let control_database = health.directory.health();
    let ready = judge(draining, control_database);
    answer(ready, Readiness { status: said(ready), draining, control_database })
}

/// A process that knows tenants serves them without the control database: an outage there must not take every replica
/// out of the balancer. One that knows none yet can do nothing without it.
fn judge(draining: bool, directory: DirectoryHealth) -> bool {
    !draining && (directory.listening || directory.tenants > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_it_can_serve_somebody() {
        let cold = DirectoryHealth { listening: false, reachable: true, tenants: 0, lookups: 0 };
        let heard = DirectoryHealth { listening: true, ..cold };
        let warm = DirectoryHealth { tenants: 1, reachable: false, ..cold };
        assert!(!judge(false, cold));
        assert!(judge(false, heard) && judge(false, warm));
        assert!(!judge(true, heard) && !judge(true, warm));
    }
}
