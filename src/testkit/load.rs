//! Mixed load over many tenants, every row stamped with its tenant and every answer checked. The soak runs it at full
//! size and `cargo test` at a small one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::stream::{StreamExt, iter};
use parking_lot::Mutex;
use reqwest::Method;
use serde::Serialize;
use serde_json::{Value, json};

use super::TestApp;
use super::figures::Spread;

/// How often a client that is told to come back later does so.
const RETURNS: usize = 3;
/// At most this many failures are kept word for word.
pub(super) const SAMPLES: usize = 10;

/// A tenant under load, with the rows it was given.
pub struct Tenant {
    slug: String,
    key: String,
    project: String,
    tasks: Mutex<Vec<String>>,
}

/// How much load.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Plan {
    pub requests: usize,
    /// Clients that ask at the same time, each one request after another.
    pub clients: usize,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Report {
    pub requests: usize,
    /// Answers that were neither the success that was asked for nor `busy`.
    pub errors: usize,
    /// Answers `tenant_busy` or `shard_busy`: no connection in time, nothing was done, and the client is told when to ask
    /// again. It does, up to three times.
    pub busy: usize,
    /// Requests that were `busy` every time.
    pub unserved: usize,
    /// Rows that bear another tenant's stamp, or none.
    pub foreign_rows: usize,
    pub rows: usize,
    pub seconds: f64,
    pub per_second: f64,
    pub latency_ms: Spread,
    /// The first failures, as they came.
    pub failures: Vec<String>,
    pub broker: BrokerReport,
}

/// What the broker did meanwhile, over all shards.
#[derive(Debug, Default, Serialize)]
pub struct BrokerReport {
    pub budget_per_shard: usize,
    pub most_open_on_a_shard: usize,
    pub logins: u64,
    pub evictions: u64,
    /// Requests that found a connection of their tenant open, of all.
    pub hit_rate: f64,
    /// Connections that were neither idle nor closed when everyone had gone: a leak.
    pub left_in_use: usize,
}

#[derive(Default)]
struct Tally {
    errors: usize,
    busy: usize,
    unserved: usize,
    foreign_rows: usize,
    rows: usize,
    latencies: Vec<Duration>,
    failures: Vec<String>,
}

/// Makes tenants through the operator API, `at_once` side by side, each with a key, a project and a task.
///
/// # Panics
/// When one cannot be made.
pub async fn make_tenants(app: &TestApp, count: usize, at_once: usize) -> Vec<Tenant> {
    iter(0..count).map(|index| make_tenant(app, index)).buffered(at_once).collect().await
}

async fn make_tenant(app: &TestApp, index: usize) -> Tenant {
    let slug = format!("load-{index:05}");
    // A plan whose rate the load does not reach: what is looked at here is the broker, not the limiter.
    let new = json!({ "slug": slug, "plan": "enterprise" });
    let (status, made) = app.send(app.operator(Method::POST, "/operator/v1/tenants").json(&new)).await;
    assert_eq!(status, 201, "{slug}: {made}");
    let keys = format!("/operator/v1/tenants/{slug}/api-keys");
    let new = json!({ "name": "load", "role": "owner" });
    let (status, key) = app.send(app.operator(Method::POST, &keys).json(&new)).await;
    assert_eq!(status, 201, "{slug}: {key}");
    let key = key["key"].as_str().expect("the key").to_owned();
    Tenant { slug, key, project: String::new(), tasks: Mutex::default() }
}

/// Gives each tenant its first rows.
///
/// # Panics
/// When one cannot be made.
pub async fn furnish(app: &TestApp, tenants: &mut [Tenant], at_once: usize) {
    iter(tenants).for_each_concurrent(at_once, |tenant| tenant.furnish(app)).await;
}

impl Tenant {
    pub fn slug(&self) -> &str {
        &self.slug
    }

    pub fn key(&self) -> &str {
        &self.key
    }

    /// The id of its project.
    pub fn project(&self) -> String {
        self.project.clone()
    }

    /// The id of its first task.
    ///
    /// # Panics
    /// When it was not furnished.
    pub fn task(&self) -> String {
        self.tasks.lock()[0].clone()
    }

    async fn furnish(&mut self, app: &TestApp) {
        let new = json!({ "name": format!("{} project", self.stamp()) });
        let (status, project) = app.send(self.ask(app, &Request::post("/api/v1/projects", new))).await;
        assert_eq!(status, 201, "{}: {project}", self.slug);
        project["id"].as_str().expect("an id").clone_into(&mut self.project);
        let (status, task) = app.send(self.ask(app, &self.new_task(0))).await;
        assert_eq!(status, 201, "{}: {task}", self.slug);
        self.learn(&task);
    }

    /// What every row of the tenant carries. The brackets keep `load-1` apart from `load-10`.
    pub fn stamp(&self) -> String {
        format!("[{}]", self.slug)
    }

    pub(super) fn ask(&self, app: &TestApp, request: &Request) -> reqwest::RequestBuilder {
        let builder = app.request(request.method.clone(), &self.slug, &self.key, &request.path);
        match &request.body {
            Some(body) => builder.json(body),
            None => builder,
        }
    }

    pub(super) fn new_task(&self, number: usize) -> Request {
        let title = format!("{} task {number}", self.stamp());
        let priority = ["low", "normal", "high", "urgent"][number % 4];
        let assignee = ["ada", "grace", "edsger"][number % 3];
        let new =
            json!({ "project_id": self.project, "title": title, "priority": priority, "assignee": assignee });
        Request::post("/api/v1/tasks", new)
    }

    /// The `number`-th request: of a hundred, 40 read a row, 30 list with filters, 12 create, 10 change, 8 comment.
    pub(super) fn request(&self, number: usize, draw: usize) -> Request {
        let task = {
            let tasks = self.tasks.lock();
            tasks[draw / 100 % tasks.len()].clone()
        };
        let one = format!("/api/v1/tasks/{task}");
        match draw % 100 {
            0..30 => Request::get(one),
            30..40 => Request::get(format!("/api/v1/projects/{}", self.project)),
            40..50 => Request::get("/api/v1/tasks?status=todo,done&sort=-updated_at&limit=10"),
            50..56 => Request::get(format!("/api/v1/tasks?project={}&priority=high,urgent", self.project)),
            56..62 => Request::get("/api/v1/tasks?assignee=ada&sort=due_at&limit=5"),
            62..65 => Request::get("/api/v1/tasks?q=task&limit=5"),
            65..70 => Request::get(format!("{one}/comments")),
            70..82 => self.new_task(number),
            82..92 => {
                let status = ["todo", "in_progress", "done"][number % 3];
                let patch =
                    json!({ "status": status, "title": format!("{} changed {number}", self.stamp()) });
                Request { method: Method::PATCH, path: one, body: Some(patch) }
            }
            _ => {
                let body = format!("{} says {number}", self.stamp());
                Request::post(format!("{one}/comments"), json!({ "body": body }))
            }
        }
    }

    /// Keeps the ids of some tasks it made, for later requests to name.
    fn learn(&self, row: &Value) {
        if let Some(id) = row["id"].as_str().filter(|id| id.starts_with("tsk_")) {
            let mut tasks = self.tasks.lock();
            if tasks.len() < 50 {
                tasks.push(id.to_owned());
            }
        }
    }
}

pub(super) struct Request {
    method: Method,
    path: String,
    body: Option<Value>,
}

impl Request {
    fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), body: None }
    }

    fn post(path: impl Into<String>, body: Value) -> Self {
        Self { method: Method::POST, path: path.into(), body: Some(body) }
    }
}

/// Sends the load to the first replica and checks every answer.
pub async fn run(app: &TestApp, tenants: &[Tenant], plan: Plan) -> Report {
    run_while(app, tenants, plan, &|| true).await
}

/// The same, and no further request once `wanted` says no.
pub async fn run_while(
    app: &TestApp,
    tenants: &[Tenant],
    plan: Plan,
    wanted: &(dyn Fn() -> bool + Sync),
) -> Report {
    let before = logins_and_evictions(app);
    let next = AtomicUsize::new(0);
    let begun = Instant::now();
    let tallies: Vec<Tally> = iter(0..plan.clients)
        .map(|_| client(app, tenants, plan, &next, wanted))
        .buffer_unordered(plan.clients)
        .collect()
        .await;
    let seconds = begun.elapsed().as_secs_f64();
    let mut all = Tally::default();
    for tally in tallies {
        all.errors += tally.errors;
        all.busy += tally.busy;
        all.unserved += tally.unserved;
        all.foreign_rows += tally.foreign_rows;
        all.rows += tally.rows;
        all.latencies.extend(tally.latencies);
        all.failures.extend(tally.failures);
    }
    all.failures.truncate(SAMPLES);
    let requests = all.latencies.len();
    Report {
        requests,
        errors: all.errors,
        busy: all.busy,
        unserved: all.unserved,
        foreign_rows: all.foreign_rows,
        rows: all.rows,
        seconds,
        per_second: requests as f64 / seconds,
        latency_ms: Spread::of(&all.latencies),
        failures: all.failures,
        broker: broker_report(app, before, requests).await,
    }
}

async fn client(
    app: &TestApp,
    tenants: &[Tenant],
    plan: Plan,
    next: &AtomicUsize,
    wanted: &(dyn Fn() -> bool + Sync),
) -> Tally {
    let mut tally = Tally::default();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= plan.requests || !wanted() {
            return tally;
        }
        let draw = scatter(number);
        // Half of the requests go to a tenth of the tenants, so that some connections are worth keeping and others are
        // not; the rest visits all in turn.
        let index = if draw.is_multiple_of(2) {
            draw / 2 % tenants.len().div_ceil(10)
        } else {
            number % tenants.len()
        };
        let tenant = &tenants[index];
        let request = tenant.request(number, scatter(number ^ 0x5bd1));
        let begun = Instant::now();
        let mut answer = ask(app, tenant, &request).await;
        tally.latencies.push(begun.elapsed());
        for _ in 0..RETURNS {
            let Some(pause) = told_to_return(&answer) else { break };
            tally.busy += 1;
            tokio::time::sleep(pause).await;
            answer = ask(app, tenant, &request).await;
        }
        match told_to_return(&answer) {
            Some(_) => tally.turned_away(tenant, &request),
            None => tally.check(tenant, &request, answer),
        }
    }
}

struct Answer {
    status: u16,
    /// What `Retry-After` says.
    pause: Option<Duration>,
    text: String,
}

async fn ask(app: &TestApp, tenant: &Tenant, request: &Request) -> Result<Answer, reqwest::Error> {
    let answer = tenant.ask(app, request).send().await?;
    let header = answer.headers().get(reqwest::header::RETRY_AFTER);
    let seconds = header.and_then(|header| header.to_str().ok()?.parse().ok());
    Ok(Answer {
        status: answer.status().as_u16(),
        pause: seconds.map(Duration::from_secs),
        text: answer.text().await?,
    })
}

/// How long to wait, when nothing was done for want of a connection. A refusal that does not say when to return is a
/// failure like any other.
fn told_to_return(answer: &Result<Answer, reqwest::Error>) -> Option<Duration> {
    let answer = answer.as_ref().ok()?;
    let busy = answer.text.contains("\"tenant_busy\"") || answer.text.contains("\"shard_busy\"");
    answer.pause.filter(|_| busy)
}

impl Tally {
    fn check(&mut self, tenant: &Tenant, request: &Request, answer: Result<Answer, reqwest::Error>) {
        let wanted = if request.method == Method::POST { 201 } else { 200 };
        let seen = match answer {
            Ok(Answer { status, text, .. }) if status == wanted => match serde_json::from_str::<Value>(&text)
            {
                Ok(body) => return self.check_rows(tenant, request, &body),
                Err(error) => format!("not JSON: {error}: {text}"),
            },
            Ok(Answer { status, text, .. }) => format!("{status} {text}"),
            Err(error) => format!("{error:?}"),
        };
        self.errors += 1;
        self.note(format!("{} {} of {}: {seen}", request.method, request.path, tenant.slug));
    }

    fn turned_away(&mut self, tenant: &Tenant, request: &Request) {
        self.busy += 1;
        self.unserved += 1;
        self.note(format!("{} {} of {}: busy each time", request.method, request.path, tenant.slug));
    }

    fn check_rows(&mut self, tenant: &Tenant, request: &Request, body: &Value) {
        let rows = body["items"].as_array().map_or(std::slice::from_ref(body), Vec::as_slice);
        for row in rows {
            self.rows += 1;
            if !bears(row, &tenant.stamp()) {
                self.foreign_rows += 1;
                self.note(format!("{} {} of {}: {row}", request.method, request.path, tenant.slug));
            }
        }
        tenant.learn(body);
    }

    fn note(&mut self, failure: String) {
        if self.failures.len() < SAMPLES {
            self.failures.push(failure);
        }
    }
}

/// Whether a row's own words begin with the stamp.
pub(super) fn bears(row: &Value, stamp: &str) -> bool {
    ["title", "name", "body"]
        .iter()
        .any(|field| row[field].as_str().is_some_and(|text| text.starts_with(stamp)))
}

/// A fixed, even scatter of numbers, so that two runs send the same requests.
pub(super) fn scatter(number: usize) -> usize {
    let mut mixed = (number as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) as usize >> 1
}

pub(super) fn logins_and_evictions(app: &TestApp) -> (u64, u64) {
    let stats = app.world.shards.iter().map(|shard| app.replicas[0].http.broker.stats(shard.id));
    stats.fold((0, 0), |(logins, evictions), stats| (logins + stats.logins, evictions + stats.evictions))
}

pub(super) async fn broker_report(app: &TestApp, before: (u64, u64), requests: usize) -> BrokerReport {
    // Connections come back a moment after their answers.
    let broker = &app.replicas[0].http.broker;
    let stats = || app.world.shards.iter().map(|shard| broker.stats(shard.id));
    let in_use = || stats().map(|stats| stats.open - stats.idle.min(stats.open) + stats.waiting).sum();
    for _ in 0..100 {
        if in_use() == 0_usize {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (logins, evictions) = logins_and_evictions(app);
    let (logins, evictions) = (logins - before.0, evictions - before.1);
    BrokerReport {
        budget_per_shard: stats().map(|stats| stats.budget).max().unwrap_or(0),
        most_open_on_a_shard: stats().map(|stats| stats.most_open).max().unwrap_or(0),
        logins,
        evictions,
        hit_rate: 1.0 - logins as f64 / requests.max(1) as f64,
        left_in_use: in_use(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_without_the_stamp_is_foreign() {
        let row = json!({ "id": "tsk_1", "title": "[load-1] task" });
        assert!(bears(&row, "[load-1]"));
        assert!(!bears(&row, "[load-10]") && !bears(&json!({}), "[load-1]"));
    }
}
