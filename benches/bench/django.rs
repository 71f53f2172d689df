//! A tenant's request through all of Freehold, beside the same request to django-tenants under granian (benches/django):
//! the same rows in the same schemas on the same PostgreSQL, the same client. Django asks for no key, counts against no
//! limit and writes no log.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use chrono::DateTime;
use freehold::testkit::figures::{Goal, Median, Spread};
use freehold::testkit::process::free_port;
use freehold::testkit::program::{Args, Outcome};
use freehold::testkit::wire::{Report, Shot, Target};
use http::{StatusCode, header};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use super::effort::{self, PerRequest};
use super::pgbench;
use super::routed::{Round, load};
use super::warm::{Tenant, Warm, execute};

const CONNECTIONS: usize = 16;
const ROUNDS: usize = 6;
const ROUND: Duration = Duration::from_secs(3);
/// All of Django's connections see all fifty schemas meanwhile.
const WARM_UP: Duration = Duration::from_secs(3);
/// Throughput, of Django's.
const GOAL: f64 = 8.0;
/// The script limits what takes long in it.
const INSTALL: Duration = Duration::from_secs(400);
/// Python reads hundreds of files, from a disk that may be busy.
const START: Duration = Duration::from_secs(60);
/// For one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// One request, of both sides. They spell ids differently.
struct Case {
    name: &'static str,
    rows: usize,
    path: fn(&Tenant) -> String,
    path_of_django: fn(&Tenant) -> String,
}

const CASES: [Case; 2] = [
    Case {
        name: "one row",
        rows: 1,
        path: |tenant| format!("/api/v1/projects/{}", tenant.project),
        path_of_django: |tenant| format!("/api/v1/projects/{}", tenant.project.0),
    },
    Case { name: "20 rows", rows: 20, path: list, path_of_django: list },
];

fn list(_: &Tenant) -> String {
    "/api/v1/tasks?status=todo".to_owned()
}

pub async fn measure(args: &Args) -> Outcome {
    // The quickest way to fail comes first.
    let python = match install().await {
        Ok(python) => python,
        Err(why) => return not_measured(why),
    };
    let warm = Warm::start().await;
    match Django::start(&python, &warm).await {
        Ok(django) => compare(args, &warm, &django).await,
        Err(why) => not_measured(why),
    }
}

/// Fails the section: nobody is to take what was not measured for reached.
fn not_measured(why: String) -> Outcome {
    let short = why.lines().next_back().unwrap_or_default();
    let goals = vec![Goal::never(format!("django-tenants could not be measured: {short}"), 1)];
    Outcome { lines: why.lines().map(str::to_owned).collect(), goals, ..Outcome::default() }
}

async fn compare(args: &Args, warm: &Warm, django: &Django) -> Outcome {
    let mut outcome = Outcome::default();
    let mut facts = Vec::new();
    for case in &CASES {
        let other = case.answers_that_differ(warm, django).await;
        outcome
            .goals
            .push(Goal::never(format!("{}: answers that differ in more than ids", case.name), other));
        let shots = [case.path, case.path_of_django].map(|path| {
            warm.shots(|tenant| {
                Shot::get(&path(tenant), &tenant.host, &tenant.key).stamped(&tenant.stamp(), case.rows)
            })
        });
        load(warm.target(), CONNECTIONS, WARM_UP, &shots[0]).await;
        django.load(WARM_UP, &shots[1]).await;
        let mut rounds: [Vec<Round>; 2] = Default::default();
        for round in 0..args.count(ROUNDS) {
            // Who goes first takes turns.
            for side in [round % 2, 1 - round % 2] {
                rounds[side].push(match side {
                    0 => load(warm.target(), CONNECTIONS, args.time(ROUND), &shots[0]).await,
                    _ => django.load(args.time(ROUND), &shots[1]).await,
                });
            }
        }
        facts.push(case.judge(&rounds, &mut outcome));
    }
    outcome.facts = json!(facts);
    outcome
}

impl Case {
    /// Tenants of whom the two sides say different things.
    async fn answers_that_differ(&self, warm: &Warm, django: &Django) -> usize {
        let mut count = 0;
        for tenant in &warm.tenants {
            let ours = told(warm, warm.target(), tenant, &(self.path)(tenant)).await;
            let theirs = told(warm, django.target, tenant, &(self.path_of_django)(tenant)).await;
            count += usize::from(ours.is_err() || ours != theirs);
        }
        count
    }

    fn judge(&self, [ours, theirs]: &[Vec<Round>; 2], outcome: &mut Outcome) -> Value {
        let name = format!("{}, {CONNECTIONS} connections", self.name);
        let ratio = |what: fn(&Round) -> f64| {
            Median::of(ours.iter().zip(theirs).map(|(ours, theirs)| what(ours) / what(theirs)))
        };
        let throughput = ratio(|round| round.report.per_second);
        let p99 = ratio(|round| round.report.latency.p99);
        let effort = ratio(|round| round.effort.server);
        let mut sides = Vec::new();
        for (side, rounds) in [("Freehold", ours), ("django-tenants", theirs)] {
            let middle = |what: fn(&PerRequest) -> f64| {
                Median::of(rounds.iter().map(|round| what(&round.effort))).median
            };
            let per_second = Median::of(rounds.iter().map(|round| round.report.per_second));
            outcome.lines.push(format!(
                "{name}: {side} {:.0}/s ({:.0} to {:.0}); CPU time a request: server {:.0} µs, databases {:.0} µs, generator {:.0} µs",
                per_second.median,
                per_second.min,
                per_second.max,
                middle(|effort| effort.server),
                middle(|effort| effort.postgres_and_redis),
                middle(|effort| effort.generator)
            ));
            let all: Vec<_> =
                rounds.iter().flat_map(|round| round.report.latencies.iter().copied()).collect();
            outcome.series.push((format!("{}, {side}", self.name), Spread::of(&all)));
            sides.push(per_second);
        }
        outcome.lines.push(format!(
            "{name}: of django-tenants: throughput {throughput}, p99 {p99}, server's CPU time {effort}"
        ));
        let reports = || ours.iter().chain(theirs).map(|round| &round.report);
        outcome.lines.extend(reports().flat_map(|report| report.samples.clone()).take(5));
        outcome.goals.push(Goal::never(format!("{name}: wrong answers"), reports().map(Report::wrong).sum()));
        outcome.goals.push(Goal::at_least(
            format!("{name}: throughput, of django-tenants"),
            throughput.median,
            GOAL,
            "×",
        ));
        json!({ "case": name, "freehold_per_second": sides[0], "django_per_second": sides[1],
            "throughput": throughput, "p99": p99, "server_cpu": effort })
    }
}

/// A right answer, without what each side spells its own way.
async fn told(warm: &Warm, target: Target, tenant: &Tenant, path: &str) -> Result<Value, String> {
    let asked = warm.app.client.get(format!("http://{}{path}", target.addr)).timeout(PATIENCE);
    let asked = asked.header(header::HOST, &tenant.host).bearer_auth(&tenant.key);
    let answer = asked.send().await.map_err(|error| error.to_string())?;
    if answer.status() != StatusCode::OK {
        return Err(answer.status().to_string());
    }
    let mut told = answer.json().await.map_err(|error| error.to_string())?;
    alike(&mut told);
    Ok(told)
}

/// Ids and cursors go; times become numbers, since they may end in zeros or not.
fn alike(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !["id", "project_id", "next_cursor"].contains(&name.as_str()));
            fields.values_mut().for_each(alike);
        }
        Value::Array(rows) => rows.iter_mut().for_each(alike),
        Value::String(text) => {
            if let Ok(at) = DateTime::parse_from_rfc3339(text) {
                *value = json!(at.timestamp_micros());
            }
        }
        _ => {}
    }
}

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Installs django-tenants and granian unless they are there, and gives the Python that has them.
async fn install() -> Result<PathBuf, String> {
    let script = Command::new(project().join("scripts/install-django.sh")).kill_on_drop(true).output();
    let ended = tokio::time::timeout(INSTALL, script).await;
    let done = ended.map_err(|_| format!("its installation did not end within {INSTALL:?}"))?;
    let done = done.map_err(|error| format!("scripts/install-django.sh: {error}"))?;
    if done.status.success() {
        return Ok(project().join("target/django/bin/python"));
    }
    Err(String::from_utf8_lossy(&done.stderr).trim().to_owned())
}

/// The server: a process of its own, and one for each core below it. They end with this value, or with this process.
struct Django {
    target: Target,
    /// Its stdin is what it lives by.
    process: Child,
}

impl Django {
    async fn start(python: &Path, warm: &Warm) -> Result<Self, String> {
        tenants(warm).await;
        let port = free_port();
        let log = warm.app.world.folder.path().join("django.log");
        let cannot = |error: std::io::Error| format!("granian: {error}");
        let said = File::create(&log).map_err(cannot)?;
        let mut process = Command::new(python)
            // Nothing is written beside the sources.
            .args(["-B", "serve.py", &port.to_string()])
            .current_dir(project().join("benches/django"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(pgbench::libpq(&warm.app.world.shard_urls[0])?)
            .stdin(Stdio::piped())
            .stdout(said.try_clone().map_err(cannot)?)
            .stderr(said)
            .kill_on_drop(true)
            .spawn()
            .map_err(cannot)?;
        let target = Target { addr: ([127, 0, 0, 1], port).into() };
        let begun = Instant::now();
        let tenant = &warm.tenants[0];
        loop {
            let answer = told(warm, target, tenant, &(CASES[0].path_of_django)(tenant)).await;
            let Err(why) = answer else { return Ok(Self { target, process }) };
            let ended = process.try_wait().map_err(cannot)?;
            if ended.is_some() || begun.elapsed() > START {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                return Err(format!("{said}\ngranian does not answer: {why}"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// One round. What its processes cost is the server's part.
    async fn load(&self, length: Duration, shots: &[Shot]) -> Round {
        let used = || self.process.id().map_or(0.0, effort::of_all);
        let before = used();
        let mut round = load(self.target, CONNECTIONS, length, shots).await;
        let each = (used() - before) * 1e6 / round.report.requests.max(1) as f64;
        round.effort.server = each;
        round.effort.postgres_and_redis -= each;
        round
    }
}

/// The two tables in which django-tenants looks up which schema a host name stands for.
async fn tenants(warm: &Warm) {
    let mut sql = "CREATE SCHEMA django;
        CREATE TABLE django.tenant (id bigint PRIMARY KEY, schema_name text NOT NULL UNIQUE);
        CREATE TABLE django.domain (id bigint PRIMARY KEY, domain text NOT NULL UNIQUE,
            tenant_id bigint NOT NULL REFERENCES django.tenant, is_primary boolean NOT NULL);"
        .to_owned();
    for (id, Tenant { schema, host, .. }) in warm.tenants.iter().enumerate() {
        sql += &format!(
            "INSERT INTO django.tenant VALUES ({id}, '{schema}');
             INSERT INTO django.domain VALUES ({id}, '{host}', {id}, true);"
        );
    }
    let mut admin = warm.app.world.shard_conn(0).await;
    execute(&mut admin, sql).await;
}
