//! The same address asked by several tenants and by nobody, through every cache on the way: HTTP's (by what the answers
//! say of themselves), the directory, Redis, kept answers to repeated POSTs (A7). And what lies in Redis afterwards.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde::Serialize;
use serde_json::Value;

use crate::kernel::Role;
use crate::kernel::ids::TenantId;
use crate::testkit::TestApp;
use crate::testkit::load::{SAMPLES, Tenant};
use crate::testkit::openapi_walk::{Operation, operations, random_like};

/// What came of it.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub answers: usize,
    /// Answers by status.
    pub statuses: BTreeMap<u16, usize>,
    /// Answers that held a row, a name or an id of a tenant other than the caller's, or that were made for another caller.
    pub shared: usize,
    /// Answers that neither say `no-store` nor `private`.
    pub cacheable: usize,
    /// Keys found in Redis, looked at after each round; those without a tenant that exists; those whose value does not repeat it.
    pub redis_keys: usize,
    pub keys_of_nobody: usize,
    pub values_of_others: usize,
    /// Values of another tenant that were put under a tenant's key, and that were believed.
    pub planted: usize,
    pub believed: usize,
    pub failures: Vec<String>,
}

impl Report {
    fn fails(&mut self, count: impl FnOnce(&mut Self) -> &mut usize, what: String) {
        *count(self) += 1;
        if self.failures.len() < SAMPLES {
            self.failures.push(what);
        }
    }
}

/// Whoever asks: a tenant of the load, or nobody.
struct Caller<'a> {
    tenant: Option<&'a Tenant>,
    id: Option<TenantId>,
}

struct Answer {
    status: StatusCode,
    cache: String,
    etag: Option<String>,
    replayed: bool,
    body: String,
}

struct Walk<'a> {
    app: &'a TestApp,
    callers: Vec<Caller<'a>>,
    report: Report,
}

/// Walks all routes so many times with these tenants and without a key, then looks into Redis. `redis` is the DSN of the
/// app's own database there.
///
/// # Panics
/// When the server or Redis does not answer.
pub async fn run(app: &TestApp, redis: &str, tenants: &[Tenant], rounds: usize) -> Report {
    let mut callers = vec![Caller { tenant: None, id: None }];
    for tenant in tenants {
        let id = app.world.show(tenant.slug()).await.tenant.id;
        callers.push(Caller { tenant: Some(tenant), id: Some(id) });
    }
    let mut walk = Walk { app, callers, report: Report::default() };
    let document = serde_json::to_value(crate::app::openapi()).expect("the document");
    let (product, operator) = (operations(&document, "/api/"), operations(&document, "/operator/"));
    for round in 0..rounds {
        for operation in &product {
            for url in walk.addresses(operation) {
                walk.everyone_asks(operation, &url, round).await;
            }
            walk.goes_wrong(operation).await;
        }
        walk.repeats(round).await;
        // Now, for a bucket that is full again is forgotten.
        walk.looks_into_redis(redis).await;
    }
    for operation in &operator {
        walk.operator_asks(operation).await;
    }
    walk.plants(redis).await;
    walk.looks_into_redis(redis).await;
    walk.report
}

impl Walk<'_> {
    /// The operation's address, with an id of each tenant where it takes one.
    fn addresses(&self, operation: &Operation) -> Vec<String> {
        if operation.parameters.is_empty() {
            return vec![operation.path.clone()];
        }
        let tenants = self.callers.iter().filter_map(|caller| caller.tenant).take(2);
        tenants.flat_map(|tenant| [tenant.project(), tenant.task()]).map(|id| operation.at(&id)).collect()
    }

    /// At the base host, where the address is the same for all: whose it is, is said by headers alone.
    fn ask(&self, caller: &Caller, method: &Method, url: &str) -> RequestBuilder {
        let request = self.app.client.request(method.clone(), self.app.replicas[0].url(url));
        match caller.tenant {
            Some(tenant) => request.bearer_auth(tenant.key()).header("x-freehold-tenant", tenant.slug()),
            None => request,
        }
    }

    async fn everyone_asks(&mut self, operation: &Operation, url: &str, round: usize) {
        // Nobody deletes what the others are still to ask for: see `goes_wrong`.
        if operation.method == Method::DELETE {
            return;
        }
        let count = self.callers.len();
        let order = (0..count).map(|place| (place + round) % count);
        let requests = order.map(|index| {
            let caller = &self.callers[index];
            let mut request = self.ask(caller, &operation.method, url);
            if let Some(body) = operation.body_with(&random_like("prj_00000000000000000000000000")) {
                let stamp = caller.tenant.map(Tenant::stamp).unwrap_or_default();
                request = request.json(&stamped(&body, &stamp, caller.tenant));
            }
            async move { (index, answer(request).await) }
        });
        let answers = join_all(requests).await;
        for (index, answer) in &answers {
            self.check(*index, answer, &format!("{} {url}", operation.method));
        }
        // What one was given, offered by another as what it has already.
        for (index, answer) in &answers {
            let Some(etag) = answer.etag.as_deref().filter(|_| operation.method == Method::GET) else {
                continue;
            };
            let other = (index + 1) % count;
            let request = self.ask(&self.callers[other], &Method::GET, url).header("if-none-match", etag);
            let theirs = self::answer(request).await;
            if theirs.status == StatusCode::NOT_MODIFIED {
                self.report
                    .fails(|report| &mut report.shared, format!("{url}: 304 for another's entity tag"));
            }
            self.check(other, &theirs, url);
        }
    }

    /// Each operation as it should not be called: by another method, with a broken body, for what is not there.
    async fn goes_wrong(&mut self, operation: &Operation) {
        let url = operation.at(&random_like("prj_00000000000000000000000000"));
        for index in 0..self.callers.len().min(2) {
            let caller = &self.callers[index];
            let requests = [
                self.ask(caller, &Method::PUT, &url),
                self.ask(caller, &Method::OPTIONS, &url),
                self.ask(caller, &operation.method, &url)
                    .header("content-type", "application/json")
                    .body("{"),
                self.ask(caller, &operation.method, &format!("{url}?limit=many")),
                self.ask(caller, &operation.method, &format!("{url}/nothing/here")),
                self.ask(caller, &operation.method, &url).header("x-freehold-tenant", "somebody-else"),
            ];
            for answer in join_all(requests.map(answer)).await {
                self.check(index, &answer, &format!("{} {url}, wrongly", operation.method));
            }
        }
    }

    /// One `Idempotency-Key` in everybody's hands, for one address, twice.
    async fn repeats(&mut self, round: usize) {
        for again in [false, true] {
            for index in 0..self.callers.len() {
                let caller = &self.callers[index];
                let body = serde_json::json!({ "name": "[anyone]" });
                let request = self.ask(caller, &Method::POST, "/api/v1/projects").json(&body);
                let answer = answer(request.header("idempotency-key", format!("everybody's {round}"))).await;
                self.check(index, &answer, "POST /api/v1/projects with everybody's key");
                if caller_is(&self.callers[index]) && (answer.replayed != again || answer.status != 201) {
                    let what = format!("a key of others: {} {}", answer.status, answer.body);
                    self.report.fails(|report| &mut report.shared, what);
                }
            }
        }
    }

    async fn operator_asks(&mut self, operation: &Operation) {
        let url = operation.at(&random_like("run_00000000000000000000000000"));
        let with_key = |method: &Method| self.app.operator(method.clone(), &url);
        let without = self.app.client.request(operation.method.clone(), self.app.replicas[0].url(&url));
        let mut requests = vec![without, with_key(&Method::PUT)];
        if operation.method == Method::GET {
            requests.push(with_key(&Method::GET));
        } else {
            requests.push(with_key(&operation.method).header("content-type", "application/json").body("{"));
        }
        for request in requests {
            let answer = answer(request).await;
            self.private(&answer, &format!("{} {url}", operation.method));
        }
    }

    fn private(&mut self, answer: &Answer, what: &str) {
        self.report.answers += 1;
        *self.report.statuses.entry(answer.status.as_u16()).or_default() += 1;
        if !answer.cache.contains("no-store") && !answer.cache.contains("private") {
            let what = format!("{what}: {} with cache-control {:?}", answer.status, answer.cache);
            self.report.fails(|report| &mut report.cacheable, what);
        }
    }

    fn check(&mut self, index: usize, answer: &Answer, what: &str) {
        self.private(answer, what);
        let others = self.callers.iter().enumerate().filter(|(other, _)| *other != index);
        let named = others.filter_map(|(_, other)| {
            let (tenant, id) = (other.tenant?, other.id?);
            let names = [tenant.stamp(), id.to_string(), tenant.project()];
            // What the caller itself sent is not what the server gave away.
            names
                .into_iter()
                .find(|name| answer.body.contains(name.as_str()) && !what.contains(name.as_str()))
        });
        if let Some(name) = named.into_iter().next() {
            let caller = self.callers[index].tenant.map_or("nobody", Tenant::slug);
            let what = format!("{what} showed {name} to {caller}: {}", answer.body);
            self.report.fails(|report| &mut report.shared, what);
        } else if !caller_is(&self.callers[index]) && answer.status.is_success() && what.contains("/api/") {
            self.report.fails(|report| &mut report.shared, format!("{what}: {} for nobody", answer.status));
        }
    }

    /// A tenant that has used its rate up, and its value in Redis put under the key of one that has not.
    async fn plants(&mut self, redis: &str) {
        let mut keys = Vec::new();
        for slug in ["spent", "fresh"] {
            let tenant = self.app.world.tenant_with(slug, "free").await;
            keys.push((slug, tenant.tenant.id, self.app.key(slug, Role::Viewer).await));
        }
        let (spent, fresh) = (&keys[0], &keys[1]);
        let mut conn = connection(redis).await;
        let ask = |(slug, _, key): &(&str, TenantId, String)| {
            self.app.request(Method::GET, slug, key, "/api/v1/projects")
        };
        left(ask(fresh)).await;
        let mut asked = 0;
        while left(ask(spent)).await.is_some_and(|left| left > 0) {
            asked += 1;
            assert!(asked < 10_000, "the rate of a free plan cannot be used up");
        }
        let (spent_id, fresh_id) = (spent.1.to_string(), fresh.1.to_string());
        for key in keys_in(&mut conn).await.into_iter().filter(|key| key.contains(&spent_id)) {
            let under = key.replace(&spent_id, &fresh_id);
            let copied: i64 = redis::cmd("COPY")
                .arg(&key)
                .arg(&under)
                .arg("REPLACE")
                .query_async(&mut conn)
                .await
                .expect("Redis");
            self.report.planted += usize::try_from(copied).unwrap_or_default();
            // Thirty of forty: far more than a spent bucket fills in the meantime.
            if left(ask(fresh)).await.is_none_or(|left| left < 30) {
                self.report.fails(|report| &mut report.believed, format!("the value of {key} under {under}"));
            }
        }
    }

    async fn looks_into_redis(&mut self, redis: &str) {
        let mut conn = connection(redis).await;
        let known: Vec<TenantId> = sqlx::query_scalar("SELECT id FROM tenant")
            .fetch_all(self.app.world.db())
            .await
            .expect("tenants");
        let known: Vec<String> = known.iter().map(TenantId::to_string).collect();
        for key in keys_in(&mut conn).await {
            self.report.redis_keys += 1;
            let Some(tenant) = known.iter().find(|tenant| key.contains(tenant.as_str())) else {
                self.report.fails(|report| &mut report.keys_of_nobody, format!("the Redis key {key}"));
                continue;
            };
            // As it lies there, whatever its type.
            let Some(value): Option<Vec<u8>> =
                redis::cmd("DUMP").arg(&key).query_async(&mut conn).await.expect("Redis")
            else {
                continue;
            };
            if !value.windows(tenant.len()).any(|part| part == tenant.as_bytes()) {
                let what = format!("the value of {key}: {}", value.escape_ascii());
                self.report.fails(|report| &mut report.values_of_others, what);
            }
        }
    }
}

fn caller_is(caller: &Caller) -> bool {
    caller.tenant.is_some()
}

/// The body with the caller's own stamp in its texts and the caller's own project.
fn stamped(body: &Value, stamp: &str, tenant: Option<&Tenant>) -> Value {
    let mut body = body.clone();
    if let Some(fields) = body.as_object_mut() {
        for (name, value) in fields {
            if value == "generated" {
                *value = Value::from(format!("{stamp} generated"));
            }
            if name == "project_id"
                && let Some(tenant) = tenant
            {
                *value = Value::from(tenant.project());
            }
        }
    }
    body
}

async fn answer(request: RequestBuilder) -> Answer {
    let answer = request.send().await.expect("an answer");
    let header =
        |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (cache, etag) = (header("cache-control").unwrap_or_default(), header("etag"));
    let (status, replayed) = (answer.status(), header("idempotency-replayed").is_some());
    Answer { status, cache, etag, replayed, body: answer.text().await.expect("a body") }
}

/// What is left of the caller's rate. None when it is refused.
async fn left(request: RequestBuilder) -> Option<i64> {
    let answer = request.send().await.expect("an answer");
    if answer.status() == StatusCode::TOO_MANY_REQUESTS {
        return None;
    }
    let header =
        answer.headers().get("ratelimit").and_then(|value| value.to_str().ok()).expect("a rate limit");
    header.split(';').find_map(|part| part.strip_prefix("r=")).and_then(|left| left.parse().ok())
}

async fn connection(redis: &str) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(redis).expect("a DSN");
    client.get_multiplexed_async_connection().await.expect("Redis answers")
}

async fn keys_in(conn: &mut redis::aio::MultiplexedConnection) -> Vec<String> {
    redis::cmd("KEYS").arg("*").query_async(conn).await.expect("Redis answers")
}
