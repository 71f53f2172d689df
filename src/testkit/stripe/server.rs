//! Requests: whose key, which operation, which parameters, how many at once; then the operation, then its faults.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::response::Response;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, Method, Request, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::errors::{Answer, Refusal};
use super::facts::{Found, Operation, find};
use super::faults::Fault;
use super::idempotency::{self, Saved, Turn};
use super::limits::{METER_EVENT, too_many};
use super::operations::{self, Call, meters};
use super::state::{API_VERSION, public};
use super::{Asked, Inside, clock, lists, pages, params};

const LARGEST: usize = 1 << 20;

/// The connection ends without an answer.
#[derive(Debug)]
struct Gone;

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the stand-in closes this connection without an answer")
    }
}

impl std::error::Error for Gone {}

/// Accepts connections until `stop` is cancelled; then all of them end.
pub async fn run(inside: Arc<Inside>, listener: TcpListener, stop: CancellationToken) {
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        if inside.faults.is_down() {
            continue;
        }
        let (inside, stop) = (inside.clone(), stop.clone());
        tokio::spawn(async move { stop.run_until_cancelled(connection(inside, stream)).await });
    }
}

async fn connection(inside: Arc<Inside>, stream: TcpStream) {
    stream.set_nodelay(true).ok();
    let service = service_fn(move |request: Request<Incoming>| {
        let inside = inside.clone();
        async move { answer(&inside, request).await }
    });
    // An error is a fault that was asked for, or a client that left.
    http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await.ok();
}

async fn answer(inside: &Arc<Inside>, request: Request<Incoming>) -> Result<Response, Gone> {
    if inside.faults.is_down() {
        return Err(Gone);
    }
    let (head, body) = request.into_parts();
    let Ok(body) = to_bytes(Body::new(body), LARGEST).await else {
        return Ok(
            Reply::refused(&Refusal::invalid("The request is too large."), "req_0").response(inside, false)
        );
    };
    let path = head.uri.path().to_owned();
    if !path.starts_with("/v1/") && !path.starts_with("/v2/") {
        return Ok(pages::answer(inside, &head, &body));
    }
    api(inside, &head.method, &path, head.uri.query().unwrap_or_default(), &head.headers, body).await
}

/// An answer on its way, before its faults.
struct Reply {
    status: u16,
    body: String,
    request: String,
    retry_after: Option<u32>,
    replayed: bool,
}

impl Reply {
    fn refused(refusal: &Refusal, request: &str) -> Self {
        Self::of(refusal.status, &refusal.body(request), request)
    }

    fn of(status: u16, body: &Value, request: &str) -> Self {
        let body = serde_json::to_string_pretty(body).unwrap_or_default();
        Self { status, body, request: request.to_owned(), retry_after: None, replayed: false }
    }

    fn response(self, inside: &Inside, truncated: bool) -> Response {
        let date = chrono::DateTime::from_timestamp(inside.now(), 0).unwrap_or_default();
        let mut response = Response::builder()
            .status(self.status)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::DATE, date.format("%a, %d %b %Y %H:%M:%S GMT").to_string())
            .header("request-id", self.request)
            .header("stripe-version", API_VERSION);
        if let Some(after) = self.retry_after {
            response = response.header(header::RETRY_AFTER, after);
        }
        if self.replayed {
            response = response.header("idempotent-replayed", "true");
        }
        let body = if truncated {
            response = response.header(header::CONTENT_LENGTH, self.body.len());
            let whole = Bytes::from(self.body.into_bytes());
            let half = whole.slice(..whole.len() / 2);
            // The first half is on its way before the end comes.
            let cut = async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Err(std::io::Error::other("cut on purpose"))
            };
            Body::from_stream(stream::iter([Ok(half)]).chain(stream::once(cut)))
        } else {
            Body::from(self.body)
        };
        response.body(body).expect("a response")
    }
}

fn html(status: u16, words: &str) -> Response {
    let page = format!(
        "<html>\r\n<head><title>{status} {words}</title></head>\r\n<body>\r\n<center><h1>{status} {words}</h1>\
         </center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    );
    let response = Response::builder().status(status).header(header::CONTENT_TYPE, "text/html");
    response.body(Body::from(page)).expect("a response")
}

fn error_500() -> Refusal {
    Refusal::new(500, "api_error", "An unknown error occurred")
}

/// Who asks, what, and with which parameters.
fn understood(
    inside: &Inside,
    method: &Method,
    path: &str,
    query: &str,
    headers: &HeaderMap,
    body: &Bytes,
) -> Answer<(&'static Operation, Vec<String>, Value)> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let key = text("authorization").strip_prefix("Bearer ").unwrap_or_default();
    if key.contains("_live_") {
        let why = "This is a stand-in for tests: it takes no live key. Whoever sent one sent it to the wrong place.";
        return Err(Refusal::new(401, "invalid_request_error", why));
    }
    if key.is_empty() {
        return Err(Refusal::new(401, "invalid_request_error", "You did not provide an API key."));
    }
    if *inside.key.lock() != key {
        let shown: String = key.chars().take(8).collect();
        return Err(Refusal::new(
            401,
            "invalid_request_error",
            format!("Invalid API Key provided: {shown}***"),
        ));
    }
    let (operation, ids) = match find(method.as_str(), path) {
        Found::Operation(operation, ids) => (operation, ids),
        Found::NotHere => return Err(Refusal::not_here(&format!("{method} {path}"))),
        Found::Unknown => {
            return Err(Refusal::new(
                404,
                "invalid_request_error",
                format!("Unrecognized request URL ({method}: {path})."),
            ));
        }
    };
    if path.starts_with("/v2/") && text("stripe-version").is_empty() {
        return Err(Refusal::invalid("Requests to /v2/ must name their Stripe-Version."));
    }
    let encoded = if *method == Method::POST {
        if !body.is_empty() && !text("content-type").starts_with("application/x-www-form-urlencoded") {
            return Err(Refusal::invalid(
                "Requests to /v1/ are form-encoded: application/x-www-form-urlencoded.",
            ));
        }
        if !query.is_empty() {
            return Err(Refusal::invalid("The parameters of a POST belong into its body."));
        }
        std::str::from_utf8(body).map_err(|_| Refusal::invalid("The parameters are not UTF-8."))?
    } else {
        query
    };
    let given = params::check(&params::read(encoded)?, &operation.parameters)?;
    Ok((operation, ids, given))
}

async fn api(
    inside: &Arc<Inside>,
    method: &Method,
    path: &str,
    query: &str,
    headers: &HeaderMap,
    body: Bytes,
) -> Result<Response, Gone> {
    let request = inside.request_id();
    let asked = match understood(inside, method, path, query, headers, &body) {
        Ok(asked) => asked,
        Err(refusal) => {
            inside.note(Asked::refused(method, path, &request, &refusal));
            return Ok(Reply::refused(&refusal, &request).response(inside, false));
        }
    };
    let (operation, ids, given) = asked;
    let fault = inside.faults.next(&operation.name);
    inside.note(Asked::of(method, path, &request, &operation.name, &given, fault));
    let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok());
    let key = key.filter(|_| *method == Method::POST).map(str::to_owned);
    let reply = match fault.filter(|fault| fault.is_before()) {
        Some(Fault::Html502 { .. }) => return Ok(html(502, "Bad Gateway")),
        Some(Fault::Html400) => return Ok(html(400, "Bad Request")),
        Some(Fault::Refused) => Reply::refused(&Refusal::invalid("It is refused on purpose."), &request),
        Some(Fault::Reset { .. }) => return Err(Gone),
        Some(Fault::Silence { .. }) => {
            tokio::time::sleep(inside.faults.silence_for()).await;
            return Err(Gone);
        }
        Some(Fault::TooMany { after }) => {
            Reply { retry_after: after, ..Reply::refused(&too_many(), &request) }
        }
        Some(Fault::Unauthorized) => {
            let refusal = Refusal::new(401, "invalid_request_error", "Expired API Key provided")
                .code("api_key_expired");
            Reply::refused(&refusal, &request)
        }
        Some(Fault::Conflict) => {
            let why = "Another request is working on this object.";
            Reply::refused(&Refusal::new(409, "invalid_request_error", why).code("lock_timeout"), &request)
        }
        _ => {
            let saves_500 = matches!(fault, Some(Fault::Error500 { .. }));
            let done = !matches!(fault, Some(Fault::Error500 { done: false }));
            // By what is asked, not by the order it is written in.
            let fingerprint = format!("{method} {path} {given}");
            let call = Call { operation: &operation.name, ids: &ids, params: &given };
            work(inside, &call, key.as_deref(), &fingerprint, &request, done, saves_500).await
        }
    };
    match fault {
        Some(Fault::Html502 { done: true }) => Ok(html(502, "Bad Gateway")),
        Some(Fault::Reset { done: true }) => Err(Gone),
        Some(Fault::Silence { done: true }) => {
            tokio::time::sleep(inside.faults.silence_for()).await;
            Err(Gone)
        }
        Some(Fault::Truncated) => Ok(reply.response(inside, true)),
        _ => Ok(reply.response(inside, false)),
    }
}

/// Does the operation once for its key. `done`: it takes effect; `fails`: the answer is a 500 all the same, and saved.
async fn work(
    inside: &Inside,
    call: &Call<'_>,
    key: Option<&str>,
    fingerprint: &str,
    request: &str,
    done: bool,
    fails: bool,
) -> Reply {
    if let Err(refusal) = inside.limits.pass(*inside.rates.lock(), call.operation) {
        return Reply::refused(&refusal, request);
    }
    let turn = match key {
        None => None,
        Some(key) => {
            let mut state = inside.state.lock();
            clock::run_to(&mut state, inside.now());
            match idempotency::begin(&mut state, &inside.busy, key, fingerprint) {
                Ok(Turn::Again(saved)) => {
                    let Saved { status, body, request, .. } = saved;
                    return Reply { status, body, request, retry_after: None, replayed: true };
                }
                Ok(Turn::New(hold)) => Some(hold),
                Err(refusal) => return Reply::refused(&refusal, request),
            }
        }
    };
    let lane = if call.operation == METER_EVENT {
        let (customer, event_name) = meters::lane_of(&inside.state.lock(), call.params);
        match inside.limits.lane(&customer, &event_name) {
            Ok(lane) => Some(lane),
            Err(refusal) => return Reply::refused(&refusal, request),
        }
    } else {
        None
    };
    let delay = inside.faults.delay();
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    let mut state = inside.state.lock();
    clock::run_to(&mut state, inside.now());
    let answered = if done {
        operations::call(&mut state, call).and_then(|mut answer| {
            lists::expand(&state, &mut answer, call.params)?;
            Ok(public(&answer))
        })
    } else {
        Err(error_500())
    };
    let reply = match answered {
        _ if fails => Reply::refused(&error_500(), request),
        Ok(answer) => Reply::of(200, &answer, request),
        Err(refusal) => Reply::refused(&refusal, request),
    };
    if let Some(key) = key {
        let (asked, at, request) = (fingerprint.to_owned(), state.now, request.to_owned());
        idempotency::save(
            &mut state,
            key,
            Saved { asked, at, status: reply.status, body: reply.body.clone(), request },
        );
    }
    drop(state);
    drop((turn, lane));
    reply
}
