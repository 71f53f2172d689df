//! The door to every tenant route: who is asking, for which tenant, may they, and not too often. What passes carries a
//! [`TenantContext`]; a handler without one has nothing to query.
//!
//! The order is deliberate. A request without a good key learns nothing, not even which hosts exist (401 always). A
//! good key's tenant is the one served; host and header can only refuse.

pub mod decide;
pub mod host;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, Method, Uri, header};

use super::broker::Broker;
use super::context::{Actor, RequestId, TenantContext};
use super::directory::{Directory, Key, Tenant};
use super::idempotency::{self, Once};
use super::limits::{self, Limiter};
use crate::kernel::ids::TenantId;
use crate::kernel::{Clock, Error, Result, Slug, codes};

/// What the middleware works with.
pub struct Tenancy {
    pub directory: Directory,
    pub limiter: Limiter,
    pub broker: Broker,
    pub clock: Clock,
    /// Tenants live under it: `acme.<base_domain>`. In lower case, without a port.
    pub base_domain: Arc<str>,
    /// The largest body that is read to bind an `Idempotency-Key` to it, in bytes.
    pub body_limit: usize,
}

/// How many headers an answer is given on its way out.
const HEADERS: usize = 12;

/// Left on the response for the access log: whose request it was. Only once the credential was good.
#[derive(Clone, Debug)]
pub struct Served {
    pub tenant: TenantId,
    pub slug: Slug,
}

/// `axum::middleware::from_fn_with_state(tenancy, tenancy::admit)`.
pub async fn admit(State(tenancy): State<Arc<Tenancy>>, mut request: Request, next: Next) -> Response {
    let (key, tenant) = match tenancy.recognise(request.headers(), request.uri()).await {
        Ok(known) => known,
        Err(error) => return private(error.into_response()),
    };
    let served = Served { tenant: tenant.id, slug: tenant.slug.clone() };
    tracing::Span::current().record("tenant", tracing::field::display(tenant.id));
    let policy = Limiter::policy(&tenant.limits);
    let decision = tenancy.limiter.take(tenant.id, policy).await;
    let mut response = if !decision.allowed {
        metrics::counter!("rate_limited_total").increment(1);
        limits::headers::refusal(decision).into_response()
    } else {
        match once(&mut request, tenancy.body_limit).await {
            Ok(once) => {
                tenancy.directory.note_use(&key);
                let actor = Actor { id: key.id.to_string(), name: key.name.to_string(), role: key.role };
                let context = tenancy.context(tenant, actor, request.extensions().get(), once);
                request.extensions_mut().insert(context);
                next.run(request).await
            }
            Err(error) => error.into_response(),
        }
    };
    // All that follow, here and further out, in one go.
    response.headers_mut().reserve(HEADERS);
    limits::headers::insert(response.headers_mut(), policy, decision);
    response.extensions_mut().insert(served);
    private(response)
}

impl Tenancy {
    /// The caller's key and its tenant, once everything the request says agrees.
    async fn recognise(&self, headers: &HeaderMap, uri: &Uri) -> Result<(Arc<Key>, Arc<Tenant>)> {
        let unauthenticated = || Error::new(&codes::UNAUTHENTICATED);
        let hash = decide::key_of(headers).ok_or_else(unauthenticated)?;
        let key = self.directory.key(hash).await?.filter(|key| key.live(self.clock.now()));
        let key = key.ok_or_else(unauthenticated)?;
        let host = host::of_request(headers, uri, &self.base_domain)?;
        let named = decide::header_of(headers)?;
        let tenant = self.directory.tenant(key.tenant).await?.ok_or_else(decide::not_found)?;
        decide::agree(&tenant, &host, named)?;
        decide::served(tenant.state)?;
        Ok((key, tenant))
    }

    fn context(
        &self,
        tenant: Arc<Tenant>,
        actor: Actor,
        request_id: Option<&RequestId>,
        once: Option<Once>,
    ) -> TenantContext {
        TenantContext {
            tenant_id: tenant.id,
            slug: tenant.slug.clone(),
            limits: tenant.limits.clone(),
            actor,
            request_id: request_id.map_or_else(String::new, |id| id.0.to_string()),
            clock: self.clock.clone(),
            tenant,
            directory: self.directory.clone(),
            broker: self.broker.clone(),
            once,
        }
    }
}

/// The `Idempotency-Key` of a POST, bound to its body, which is read here and put back.
async fn once(request: &mut Request, limit: usize) -> Result<Option<Once>> {
    if request.method() != Method::POST {
        return Ok(None);
    }
    let Some(key) = idempotency::key_of(request.headers())?.map(str::to_owned) else { return Ok(None) };
    let body = read_body(std::mem::take(request.body_mut()), limit).await?;
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let once = Once::new(&key, request.method(), path, &body);
    *request.body_mut() = body.into();
    Ok(Some(once))
}

async fn read_body(body: axum::body::Body, limit: usize) -> Result<Bytes> {
    let mut chunks = body.into_data_stream();
    let mut all = BytesMut::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| Error::new(&codes::BAD_REQUEST).source(error))?;
        if all.len() + chunk.len() > limit {
            return Err(Error::new(&codes::BODY_TOO_LARGE));
        }
        all.extend_from_slice(&chunk);
    }
    Ok(all.freeze())
}

/// No cache between us and the caller may keep or share an answer: what it says depends on the credential.
pub fn private(mut response: Response) -> Response {
    let headers: &mut HeaderMap = response.headers_mut();
    headers.entry(header::CACHE_CONTROL).or_insert_with(|| HeaderValue::from_static("private, no-store"));
    headers.append(header::VARY, HeaderValue::from_static("authorization, x-freehold-tenant"));
    if response.status() == http::StatusCode::UNAUTHORIZED {
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"freehold\""));
    }
    response
}
