//! The door to every tenant route: who is asking, for which tenant, may they, and not too often. What passes carries a
//! [`TenantContext`]; a handler without one has nothing to query.
//!
//! The order is deliberate. A request without a good key learns nothing, not even which hosts exist (401 always). A
//! good key's tenant is the one served; host and header can only refuse.

pub mod cookie;
pub mod decide;
pub mod host;
pub mod scopes;
mod support;
pub mod token;

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, Method, Uri, header};

use super::broker::Broker;
use super::context::{Actor, RequestId, SignedIn, TenantContext};
use super::directory::{Directory, Key, Person, Support, Tenant};
use super::idempotency::{self, Once};
use super::limits::monthly::Taken;
use super::limits::{self, Limiter};
use super::usage::ApiCalls;
use crate::kernel::credentials::{self, KeyHash, KeyKind};
use crate::kernel::ids::{SessionId, TenantId};
use crate::kernel::{Clock, Error, Result, Role, Slug, codes};
use scopes::{Held, Scopes};
use token::Tokens;

/// What the middleware works with.
pub struct Tenancy {
    pub directory: Directory,
    pub limiter: Limiter,
    pub tokens: Tokens,
    pub broker: Broker,
    pub clock: Clock,
    /// Tenants live under it: `acme.<base_domain>`. In lower case, without a port.
    pub base_domain: Arc<str>,
    /// The largest body that is read to bind an `Idempotency-Key` to it, in bytes.
    pub body_limit: usize,
    /// What each operation asks of a key with scopes.
    pub scopes: Arc<Scopes>,
    /// Where calls of the API are counted.
    pub calls: ApiCalls,
}

/// How many headers an answer is given on its way out.
const HEADERS: usize = 14;

/// Left on the response for the access log: whose request it was. Only once the credential was good.
#[derive(Clone, Debug)]
pub struct Served {
    pub tenant: TenantId,
    pub slug: Slug,
}

/// Who asks, as the directory knows them.
enum Caller {
    Key(Arc<Key>),
    /// A person with a live session, and the role they hold in the tenant.
    Person(Arc<Person>, SessionId, Role),
    /// An operator, for a reason and for a time.
    Support(Arc<Support>),
}

impl Caller {
    fn scopes(&self) -> Held {
        match self {
            Self::Key(key) => key.scopes.clone(),
            Self::Person(..) | Self::Support(_) => None,
        }
    }
}

/// `axum::middleware::from_fn_with_state(tenancy, tenancy::admit)`.
pub async fn admit(State(tenancy): State<Arc<Tenancy>>, mut request: Request, next: Next) -> Response {
    let known = tenancy.recognise(request.method(), request.headers(), request.uri()).await;
    let (caller, tenant) = match known {
        Ok(known) => known,
        Err(error) => return private(error.into_response()),
    };
    let served = Served { tenant: tenant.id, slug: tenant.slug.clone() };
    tracing::Span::current().record("tenant", tracing::field::display(tenant.id));
    let policy = Limiter::policy(&tenant.limits);
    let decision = tenancy.limiter.take(tenant.id, policy).await;
    let month = if decision.allowed { tenancy.month(&tenant, request.headers()).await } else { None };
    let mut response = if !decision.allowed {
        metrics::counter!("rate_limited_total").increment(1);
        limits::headers::refusal(decision).into_response()
    } else if let Some(refused) = month.filter(|taken| !taken.allowed) {
        metrics::counter!("quota_refused_total", "quota" => refused.level.quota.as_str()).increment(1);
        refused.level.refusal(tenancy.clock.now()).into_response()
    } else {
        let held = caller.scopes();
        match tenancy.pass(&caller, &held, &tenant, &mut request).await {
            Ok(once) => {
                tenancy.count(&caller, tenant.id, request.uri());
                let actor = tenancy.note(caller);
                let mut context = tenancy.context(tenant, actor, request.extensions().get(), once);
                context.month = month.map(|taken| taken.level);
                context.needs_no_room = decide::takes_away(request.method(), request.uri().path());
                context.scopes = held;
                context.known_scopes = tenancy.scopes.clone();
                request.extensions_mut().insert(context);
                next.run(request).await
            }
            Err(error) => error.into_response(),
        }
    };
    // All that follow, here and further out, in one go.
    response.headers_mut().reserve(HEADERS);
    limits::headers::insert(response.headers_mut(), policy, decision);
    if let Some(taken) = month {
        limits::headers::insert_month(response.headers_mut(), taken.level, tenancy.clock.now());
    }
    response.extensions_mut().insert(served);
    private(response)
}

impl Tenancy {
    /// The caller and the tenant, once everything the request says agrees.
    async fn recognise(
        &self,
        method: &Method,
        headers: &HeaderMap,
        uri: &Uri,
    ) -> Result<(Caller, Arc<Tenant>)> {
        let (caller, tenant) = match headers.contains_key(header::AUTHORIZATION) {
            true => self.by_bearer(headers).await?,
            false => self.by_cookie(method, headers).await?,
        };
        let host = host::of_request(headers, uri, &self.base_domain)?;
        let named = decide::header_of(headers)?;
        let tenant = self.directory.tenant(tenant).await?.ok_or_else(decide::not_found)?;
        decide::agree(&tenant, &host, named)?;
        decide::served(&tenant)?;
        Ok((caller, tenant))
    }

    async fn by_bearer(&self, headers: &HeaderMap) -> Result<(Caller, TenantId)> {
        let text = decide::bearer(headers).ok_or_else(unauthenticated)?;
        match credentials::parse(KeyKind::Tenant, text) {
            Some(hash) => self.by_key(hash).await,
            None => self.by_token(text).await,
        }
    }

    /// The token says who asks and where; whether the session lives and which role the seat has is looked at anew each
    /// time, so that what was taken away is gone within a second and not when the token expires.
    async fn by_token(&self, text: &str) -> Result<(Caller, TenantId)> {
        let said = self.tokens.believed(text, self.clock.now()).await?.ok_or_else(unauthenticated)?;
        let person = self.directory.person(said.account).await?.ok_or_else(unauthenticated)?;
        let session = person.session(said.session, self.clock.now()).filter(|s| s.enters(said.tenant));
        let session = session.ok_or_else(unauthenticated)?.id;
        let role = person.role_in(said.tenant).ok_or_else(decide::not_found)?;
        Ok((Caller::Person(person, session, role), said.tenant))
    }

    async fn by_key(&self, hash: KeyHash) -> Result<(Caller, TenantId)> {
        let key = self.directory.key(hash).await?.filter(|key| key.live(self.clock.now()));
        let key = key.ok_or_else(unauthenticated)?;
        let tenant = key.tenant;
        Ok((Caller::Key(key), tenant))
    }

    /// A cookie is for the one tenant whose host it was made for; the seat is looked at anew each time.
    async fn by_cookie(&self, method: &Method, headers: &HeaderMap) -> Result<(Caller, TenantId)> {
        if let Some((token, hash)) = cookie::support_of(headers) {
            let support = self.by_support(hash).await?;
            cookie::check_meant(method, headers, token)?;
            let tenant = support.tenant;
            return Ok((Caller::Support(support), tenant));
        }
        let (token, hash) = cookie::session_of(headers).ok_or_else(unauthenticated)?;
        let person = self.directory.person_of_session(hash).await?.ok_or_else(unauthenticated)?;
        let session = person.session_of(&hash, self.clock.now()).ok_or_else(unauthenticated)?;
        let tenant = session.tenant.filter(|tenant| session.enters(*tenant)).ok_or_else(unauthenticated)?;
        cookie::check_meant(method, headers, token)?;
        let role = person.role_in(tenant).ok_or_else(decide::not_found)?;
        let session = session.id;
        Ok((Caller::Person(person, session, role), tenant))
    }

    /// Counts the request in its month. A person in a browser is let through also when the month is used up: else nobody
    /// could see that it is, or do something about it.
    async fn month(&self, tenant: &Tenant, headers: &HeaderMap) -> Option<Taken> {
        let by_browser = !headers.contains_key(header::AUTHORIZATION);
        self.limiter.take_of_month(tenant.id, &tenant.limits, by_browser, self.clock.now()).await
    }

    /// The last things asked of a caller who is known and not too fast.
    async fn pass(
        &self,
        caller: &Caller,
        held: &Held,
        tenant: &Tenant,
        request: &mut Request,
    ) -> Result<Option<Once>> {
        let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
        self.scopes.check(held, request.method(), path)?;
        decide::paid(tenant.access, request.method(), path)?;
        if let Caller::Support(support) = caller
            && let Some(change) = support::change_by(support, request)
        {
            self.note_change(support, change).await?;
        }
        once(request, self.body_limit).await
    }

    /// Counts a call of the API. The provider's own staff that looks in is no use by the tenant.
    fn count(&self, caller: &Caller, tenant: TenantId, uri: &Uri) {
        if uri.path().starts_with("/api/") && !matches!(caller, Caller::Support(_)) {
            self.calls.count(tenant, self.clock.now());
        }
    }

    /// Notes the use, and says who acts.
    fn note(&self, caller: Caller) -> Actor {
        match caller {
            Caller::Key(key) => {
                self.directory.note_use(&key);
                let (id, name) = (key.id.to_string(), key.name.to_string());
                Actor { id, name, role: key.role, person: None, support: None }
            }
            Caller::Person(person, session, role) => {
                if let Some(session) = person.session(session, self.clock.now()) {
                    self.directory.note_seen(session);
                }
                let signed_in = SignedIn { account: person.id, session };
                let (id, name) = (person.id.to_string(), person.name.to_string());
                Actor { id, name, role, person: Some(signed_in), support: None }
            }
            Caller::Support(support) => Actor {
                id: support.id.to_string(),
                name: format!("{} (support)", support.operator),
                role: support.role,
                person: None,
                support: Some(support),
            },
        }
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
            scopes: None,
            known_scopes: Arc::default(),
            month: None,
            needs_no_room: false,
        }
    }
}

fn unauthenticated() -> Error {
    Error::new(&codes::UNAUTHENTICATED)
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
    headers.append(header::VARY, HeaderValue::from_static("authorization, cookie, x-freehold-tenant"));
    if response.status() == http::StatusCode::UNAUTHORIZED {
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"freehold\""));
    }
    response
}
