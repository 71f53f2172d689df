//! The outermost layer of every request: its id, its line in the log, its numbers, its error logged once, and the
//! problem body finished with the id.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{MatchedPath, Request};
use axum::response::Response;
use http::{HeaderValue, Method, header};
use metrics::{Counter, Histogram};
use parking_lot::RwLock;
use tracing::Instrument;

use super::problem::Problem;
use super::request_id;
use crate::data_plane::RequestId;
use crate::data_plane::tenancy::Served;
use crate::kernel::{Entropy, Error};

/// What it takes to observe.
pub struct Observer {
    entropy: Entropy,
    meters: Meters,
}

impl Observer {
    pub fn new(entropy: Entropy) -> Self {
        Self { entropy, meters: Meters::default() }
    }
}

/// Lets `next` answer, and sees to all that is said about it.
pub async fn observe(
    observer: &Observer,
    mut request: Request,
    next: impl AsyncFnOnce(Request) -> Response,
) -> Response {
    let begun = Instant::now();
    let id = request_id::choose(request.headers(), &observer.entropy);
    request.extensions_mut().insert(id.clone());
    let method = method_label(request.method());
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map_or("unmatched", |path| path.as_str());
    let span = tracing::info_span!("request", request_id = &*id.0, tenant = tracing::field::Empty);

    let mut response = next(request).instrument(span.clone()).await;

    let elapsed = begun.elapsed();
    let status = response.status();
    let _entered = span.enter();
    if let Some(error) = response.extensions().get::<Arc<Error>>().cloned() {
        if status.is_server_error() {
            tracing::error!(code = error.code().name, error = ?error, "request failed");
        } else {
            tracing::debug!(code = error.code().name, error = ?error, "request refused");
        }
        // A page says it in its own way.
        if response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/problem+json")
        {
            finish_problem(&mut response, &error, &id);
        }
    }
    let tenant = response.extensions().get::<Served>();
    // No query string, header or body: they may hold what must not be kept.
    tracing::info!(
        target: "access",
        method,
        route,
        status = status.as_u16(),
        ms = (elapsed.as_secs_f64() * 1e6).round() / 1e3,
        slug = tenant.map(|served| served.slug.as_str()),
        "request",
    );
    observer.meters.count(route, method, status.as_u16(), elapsed.as_secs_f64());
    request_id::answer(response.headers_mut(), &id);
    response
}

/// Writes the problem again, with the request's id in it.
fn finish_problem(response: &mut Response, error: &Error, id: &RequestId) {
    let mut problem = Problem::from(error);
    problem.request_id = Some(id.0.to_string());
    if let Ok(body) = serde_json::to_vec(&problem) {
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        *response.body_mut() = Body::from(body);
    }
}

/// Anyone may invent methods; the time series must not grow with them.
fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

/// The instruments of each route, found again without making their labels anew: that would be a dozen allocations for
/// every request.
#[derive(Default)]
struct Meters(RwLock<HashMap<Box<str>, Vec<Meter>>>);

struct Meter {
    method: &'static str,
    status: u16,
    requests: Counter,
    seconds: Histogram,
}

impl Meters {
    fn count(&self, route: &str, method: &'static str, status: u16, seconds: f64) {
        let is_it = |meter: &&Meter| meter.status == status && meter.method == method;
        if let Some(meter) = self.0.read().get(route).and_then(|meters| meters.iter().find(is_it)) {
            return meter.count(seconds);
        }
        let meter = Meter::new(route, method, status);
        meter.count(seconds);
        // Two that come here at once leave two entries over the same instruments.
        self.0.write().entry(route.into()).or_default().push(meter);
    }
}

impl Meter {
    fn new(route: &str, method: &'static str, status: u16) -> Self {
        let (route, code) = (route.to_owned(), status.to_string());
        Self {
            method,
            status,
            requests: metrics::counter!("http_requests_total", "route" => route.clone(), "method" => method, "status" => code),
            seconds: metrics::histogram!("http_request_seconds", "route" => route, "method" => method),
        }
    }

    fn count(&self, seconds: f64) {
        self.requests.increment(1);
        self.seconds.record(seconds);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use axum::Router;
    use axum::middleware::{Next, from_fn};
    use axum::response::IntoResponse;
    use axum::routing::get;
    use parking_lot::Mutex;
    use tower::ServiceExt;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::kernel::Slug;
    use crate::kernel::ids::TenantId;
    use crate::telemetry::logs::JsonLines;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    async fn fails() -> Response {
        let tenant = TenantId(uuid::Uuid::nil());
        tracing::Span::current().record("tenant", tracing::field::display(tenant));
        let mut response = Error::internal("the cause, for us only").into_response();
        response.extensions_mut().insert(Served { tenant, slug: Slug::parse("acme").unwrap() });
        response
    }

    /// One line for the error, with its cause; one for the request, without anything that must not be kept.
    #[tokio::test]
    async fn the_log_says_what_happened_and_nothing_that_was_sent() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::registry().with(JsonLines(move || writer.clone()));
        let _guard = tracing::subscriber::set_default(subscriber);
        let app = Router::new().route("/tasks/{id}", get(fails)).layer(from_fn(
            async |request: Request, next: Next| {
                let observer = Observer::new(Entropy::default());
                observe(&observer, request, async |request| next.run(request).await).await
            },
        ));
        let request = Request::get("/tasks/17?token=query-secret")
            .header("authorization", "Bearer header-secret")
            .header("x-request-id", "rid-1")
            .body(Body::from("body-secret"))
            .unwrap();
        let response = app.oneshot(request).await.unwrap();
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
        assert!(!String::from_utf8_lossy(&body).contains("cause"));

        let text = String::from_utf8(lines.0.lock().clone()).unwrap();
        assert!(!text.contains("secret"), "{text}");
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let [error, access] = lines.as_slice() else { panic!("two lines: {text}") };
        assert!(error["error"].as_str().unwrap().contains("the cause, for us only"));
        assert_eq!(
            (&access["route"], &access["status"], &access["method"]),
            (&"/tasks/{id}".into(), &500.into(), &"GET".into())
        );
        assert_eq!(access["slug"], "acme");
        assert!(access["ms"].is_number());
        for line in [error, access] {
            assert_eq!(line["span"]["request_id"], "rid-1");
            assert_eq!(line["span"]["tenant"], TenantId(uuid::Uuid::nil()).to_string());
        }
    }
}
