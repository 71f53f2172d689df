//! `Idempotency-Key` on the platform's own POSTs: a repeat gets the first one's answer.
//!
//! Their work is in the control database and partly in transactions of its own, so the answer cannot be kept in the
//! transaction of the work, as a product's is ([`crate::data_plane::idempotency`]). The key is claimed before and answered
//! after: two at once do it once, and the second waits for the first. A process that dies in between leaves a claim without
//! an answer; a repeat is then told so, and nothing is done twice. A request that failed frees its key.
//!
//! Answers are kept sealed: one of them may be the only place that shows an API key.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use data_encoding::BASE64;
use http::{HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use tracing::Instrument;

use crate::control_plane::idempotency::{Claim, attach, claim, release, settle};
use crate::data_plane::TenantContext;
use crate::http::pages::in_this_frame;
use crate::identity::Identity;
use crate::kernel::ids::TenantId;
use crate::kernel::seal::Use;
use crate::kernel::{Error, Result, codes};

/// The longest answer that is kept, in bytes.
const LONGEST: usize = 1024 * 1024;
/// How long a repeat waits for the first, and how often it looks.
const LOOKS: u32 = 50;
const EVERY: Duration = Duration::from_millis(100);
const REPLAYED: &str = "idempotency-replayed";

/// A key of one caller in one workspace. The role is part of it: who has lost one gets no answer that it gave.
struct Key {
    tenant: TenantId,
    scope: String,
    key: String,
    hash: [u8; 32],
}

/// An answer as it is kept, sealed.
#[derive(Serialize, Deserialize)]
struct Kept {
    headers: Vec<(String, String)>,
    body: String,
}

/// For the routes within the door: `from_fn_with_state(identity, repeats::once)`.
pub async fn once(State(identity): State<Identity>, request: Request, next: Next) -> Response {
    let key = request.extensions().get::<TenantContext>().and_then(|context| {
        let once = context.once()?;
        let scope = format!("workspace:{}:{}:{}", context.tenant_id, context.actor.id, context.actor.role);
        let (key, hash) = (once.key().to_owned(), *once.request_hash());
        Some(Key { tenant: context.tenant_id, scope, key, hash })
    });
    let Some(key) = key else { return next.run(request).await };
    match key.begin(&identity).await {
        Ok(None) => {}
        Ok(Some(kept)) => return kept,
        Err(error) => return error.into_response(),
    }
    // To its end, whether or not somebody still waits for the answer: otherwise nobody would know what became of it.
    let work = async move {
        let response = next.run(request).await;
        key.end(&identity, response).await
    };
    match tokio::spawn(in_this_frame(work.in_current_span())).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => error.into_response(),
        Err(error) => Error::internal(error).into_response(),
    }
}

impl Key {
    /// The answer of an earlier one; none for the first.
    async fn begin(&self, identity: &Identity) -> Result<Option<Response>> {
        for _ in 0..LOOKS {
            let mut tx = identity.cp.db.begin().await?;
            match claim(&mut tx, &self.scope, &self.key, &self.hash, identity.cp.clock.now()).await? {
                Claim::New => {
                    attach(&mut tx, &self.scope, &self.key, self.tenant).await?;
                    tx.commit().await?;
                    return Ok(None);
                }
                Claim::Answered { status, body } => return self.open(identity, status, &body).map(Some),
                Claim::InFlight { .. } => drop(tx),
            }
            tokio::time::sleep(EVERY).await;
        }
        Err(Error::new(&codes::CONFLICT)
            .detail("what became of the first request with this key is not known yet")
            .hint("look whether it was done; to do it again, use a new key"))
    }

    async fn end(&self, identity: &Identity, response: Response) -> Result<Response> {
        let (parts, body) = response.into_parts();
        let mut conn = identity.cp.db.acquire().await?;
        if !(parts.status.is_success() || parts.status.is_redirection()) {
            release(&mut conn, &self.scope, &self.key, self.tenant).await?;
            return Ok(Response::from_parts(parts, body));
        }
        let body = to_bytes(body, LONGEST).await.map_err(Error::internal)?;
        let headers = parts.headers.iter().filter(|(name, _)| **name != http::header::SET_COOKIE);
        let headers =
            headers.filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())));
        let kept = Kept { headers: headers.collect(), body: BASE64.encode(&body) };
        let plain = serde_json::to_vec(&kept).map_err(Error::internal)?;
        let sealed = identity.master.seal(Use::KeptAnswer, &self.whose(), &identity.cp.entropy, &plain);
        settle(&mut conn, &self.scope, &self.key, parts.status.as_u16(), &sealed).await?;
        Ok(Response::from_parts(parts, Body::from(body)))
    }

    fn open(&self, identity: &Identity, status: u16, sealed: &[u8]) -> Result<Response> {
        let plain = identity.master.open(Use::KeptAnswer, &self.whose(), sealed)?;
        let kept: Kept = serde_json::from_slice(&plain).map_err(Error::internal)?;
        let body = BASE64.decode(kept.body.as_bytes()).map_err(Error::internal)?;
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = StatusCode::from_u16(status).map_err(Error::internal)?;
        for (name, value) in &kept.headers {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                response.headers_mut().append(name, value);
            }
        }
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
        Ok(response)
    }

    fn whose(&self) -> Vec<u8> {
        [self.scope.as_bytes(), self.key.as_bytes()].join(&0u8)
    }
}
