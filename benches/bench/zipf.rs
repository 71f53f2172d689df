//! Many tenants, few connections: 1,000 tenants on one shard, asked by Zipf's law, with a budget of 500 connections and
//! of 200, beside the same with all tenants warm.
//!
//! One control plane and one shard, whose server has fsync on; for each round and budget a server process's worth is
//! started anew and warmed up. Requests go over HTTP through everything a request passes.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use freehold::config::ServeConfig;
use freehold::control_plane::provisioning::NewTenant;
use freehold::data_plane::broker::ShardStats;
use freehold::identity::settings::Settings;
use freehold::kernel::Role;
use freehold::local::{PostgresOptions, PostgresServer};
use freehold::product::{Current, Product};
use freehold::testkit::figures::{Goal, Median, Spread};
use freehold::testkit::program::{Args, Outcome};
use freehold::testkit::wire::{Report, Shot, Target, Until, apart};
use freehold::testkit::zipf::{Draws, Zipf};
use freehold::testkit::{AppOptions, Cluster, Replica, TestApp, WorldOptions, cpu, extra_postgres};
use futures_util::stream::{StreamExt, iter};
use reqwest::Method;
use secrecy::SecretString;
use serde_json::json;
use sqlx::{Connection, PgConnection};

const TENANTS: usize = 1_000;
const S: f64 = 1.0;
/// Connections of the shard: for all of the tenants and their bursts, for half, for a fifth.
const BUDGETS: [usize; 3] = [1_100, 500, 200];
const MAX_CONNECTIONS: u32 = 1_150;
const CLIENTS: usize = 64;
const ROUNDS: usize = 3;
const WARM_UP: Duration = Duration::from_secs(8);
const FULL_LOAD: Duration = Duration::from_secs(8);
const PART_LOAD: Duration = Duration::from_secs(8);
/// Of its own full load.
const PART: f64 = 0.2;

pub async fn measure(args: &Args) -> Outcome {
    let crowd = Crowd::make(args).await;
    let login = crowd.login_time().await;
    let mut found: [Vec<Round>; 3] = Default::default();
    for round in 0..args.count(ROUNDS) {
        for turn in 0..BUDGETS.len() {
            let at = (turn + round) % BUDGETS.len();
            found[at].push(crowd.round(args, BUDGETS[at], round as u64).await);
        }
    }
    outcome(&crowd, login, &found)
}

/// Tenants on one shard, with a request for each, the most popular first.
struct Crowd {
    app: TestApp,
    server: PostgresServer,
    shots: Vec<Shot>,
    zipf: Zipf,
}

/// What one budget did in one round.
struct Round {
    /// Answers that were not as asked for, the warm-up's included.
    wrong: usize,
    full: Report,
    part: Report,
    hits_full: Broke,
    hits_part: Broke,
}

/// What the broker did during a load.
struct Broke {
    hit_rate: f64,
    logins: u64,
    evictions: u64,
    login_ms: f64,
    most_open: usize,
}

impl Broke {
    fn between(before: ShardStats, after: ShardStats, requests: usize) -> Self {
        let logins = after.logins - before.logins;
        Self {
            hit_rate: 1.0 - logins as f64 / requests.max(1) as f64,
            logins,
            evictions: after.evictions - before.evictions,
            login_ms: (after.login_micros - before.login_micros) as f64 / 1_000.0 / logins.max(1) as f64,
            most_open: after.most_open,
        }
    }
}

impl Crowd {
    async fn make(args: &Args) -> Self {
        let count = args.count(TENANTS).max(40);
        Cluster::durable().await;
        let tables = Current::migrations();
        let world = WorldOptions { shards: 0, tenant_cap: 1, slots: 0, tables };
        let mut app = TestApp::start::<Current>(AppOptions {
            world,
            worker: false,
            roomy: true,
            ..AppOptions::of::<Current>()
        })
        .await;
        let server = extra_postgres(PostgresOptions {
            max_connections: MAX_CONNECTIONS,
            ..PostgresOptions::default()
        })
        .await;
        let mut admin =
            PgConnection::connect_with(&server.connect_options("postgres")).await.expect("the server");
        sqlx::raw_sql("CREATE DATABASE shard").execute(&mut admin).await.expect("a database");
        let begun = Instant::now();
        let slots = i32::try_from(count).expect("not that many");
        app.world.add_shard(&server.url("shard"), slots, slots).await.expect("a shard");
        eprintln!("{count} schemas in {:.0} s", begun.elapsed().as_secs_f64());
        let app_ref = &app;
        let shots = iter(0..count).map(|rank| shot(app_ref, rank)).buffered(8).collect().await;
        let mut admin =
            PgConnection::connect_with(&server.connect_options("shard")).await.expect("the shard");
        sqlx::raw_sql("VACUUM ANALYZE").execute(&mut admin).await.expect("a vacuum");
        sqlx::raw_sql("CHECKPOINT").execute(&mut admin).await.expect("a checkpoint");
        eprintln!("{count} tenants in {:.0} s", begun.elapsed().as_secs_f64());
        app.replicas.remove(0).stop().await;
        Self { app, server, shots, zipf: Zipf::new(count, S) }
    }

    /// The time of a login by itself, nothing else going on.
    async fn login_time(&self) -> Spread {
        let mut took = Vec::new();
        for rank in 0..100 {
            let tenant = self.app.world.show(&slug(rank % self.shots.len())).await;
            let options = self.app.world.tenant_login(&tenant);
            let begun = Instant::now();
            let pg = PgConnection::connect_with(&options).await.expect("a login");
            took.push(begun.elapsed());
            pg.close().await.expect("a goodbye");
        }
        Spread::of(&took)
    }

    async fn round(&self, args: &Args, budget: usize, seed: u64) -> Round {
        let config = ServeConfig {
            http_addr: SocketAddr::from(([127, 0, 0, 1], 0)),
            redis_url: Some(SecretString::from(Cluster::shared().await.redis_url())),
            broker_budget: budget,
            replicas: 1,
            metrics_addr: None,
            drain_seconds: 5,
            grace_seconds: 0,
            identity: None,
            stripe: None,
        };
        let hands = &self.app.world.hands;
        let replica =
            Replica::start::<Current>(hands.cp.clone(), &hands.master, config, Settings::default()).await;
        let target = Target { addr: replica.addr };
        // Everyone once, the most popular last, and then as it will be.
        let shots = self.shots.clone();
        let count = shots.len();
        let each = move || {
            target.closed(16, Until::Requests(count), move |_, sent| shots[count - 1 - sent % count].clone())
        };
        let mut wrong = apart(each).await.wrong();
        wrong += self.closed(target, args.time(WARM_UP), seed * 3).await.wrong();
        let before = self.stats(&replica);
        let (server, own) = (cpu::of_ended_sessions(&self.server), cpu::of_this_process());
        let full = self.closed(target, args.time(FULL_LOAD), seed * 3 + 1).await;
        let between = self.stats(&replica);
        let cpu = (cpu::of_ended_sessions(&self.server) - server, cpu::of_this_process() - own);
        let rate = full.per_second * PART;
        let part = self.open(target, rate, args.time(PART_LOAD), seed * 3 + 2).await;
        let after = self.stats(&replica);
        replica.stop().await;
        wrong += full.wrong() + part.wrong();
        let round = Round {
            wrong,
            hits_full: Broke::between(before, between, full.requests),
            hits_part: Broke::between(between, after, part.requests),
            full,
            part,
        };
        let (f, p) = (&round.hits_full, &round.hits_part);
        eprintln!(
            "budget {budget}: {:.0}/s, p50 {:.2} p99 {:.2} max {:.1}, hit {:.1} %, login {:.2} ms, {} logins, {} evictions, {} open, {} wrong; cpu ms/login server {:.2}, cpu ms/request here {:.3}; part: {:.0}/s p50 {:.2} p99 {:.2} max {:.1}, hit {:.1} %, login {:.2} ms, {} wrong",
            round.full.per_second,
            round.full.latency.p50,
            round.full.latency.p99,
            round.full.latency.max,
            f.hit_rate * 100.0,
            f.login_ms,
            f.logins,
            f.evictions,
            f.most_open,
            round.full.wrong(),
            cpu.0.as_secs_f64() * 1e3 / f.logins.max(1) as f64,
            cpu.1.as_secs_f64() * 1e3 / round.full.requests as f64,
            rate,
            round.part.latency.p50,
            round.part.latency.p99,
            round.part.latency.max,
            p.hit_rate * 100.0,
            p.login_ms,
            round.part.wrong(),
        );
        round
    }

    async fn closed(&self, target: Target, time: Duration, seed: u64) -> Report {
        let (shots, zipf) = (self.shots.clone(), self.zipf.clone());
        apart(move || async move {
            let draws = RefCell::new(Draws::new(seed));
            let choose = |_, _| shots[zipf.draw(&mut draws.borrow_mut())].clone();
            target.closed(CLIENTS, Until::Time(time), choose).await
        })
        .await
    }

    async fn open(&self, target: Target, rate: f64, time: Duration, seed: u64) -> Report {
        let (shots, zipf) = (self.shots.clone(), self.zipf.clone());
        apart(move || async move {
            let draws = RefCell::new(Draws::new(seed));
            let choose = |_, _| shots[zipf.draw(&mut draws.borrow_mut())].clone();
            target.open(CLIENTS, rate, time, choose).await
        })
        .await
    }

    fn stats(&self, replica: &Replica) -> ShardStats {
        replica.http.broker.stats(self.app.world.shards[0].id)
    }
}

fn slug(rank: usize) -> String {
    format!("zipf-{rank:04}")
}

/// Makes a tenant with a key and a project, and gives the request that reads the project.
async fn shot(app: &TestApp, rank: usize) -> Shot {
    let slug = slug(rank);
    if rank.is_multiple_of(100) {
        // A worker would look every two seconds; a shard that was not seen lately gets no tenants.
        app.world.probe().await;
    }
    let new = NewTenant { slug: slug.clone(), name: None, plan: Some("enterprise".to_owned()) };
    app.world.create(&new).await.expect("a spare slot");
    let key = app.key(&slug, Role::Owner).await;
    let name = format!("[{slug}] project");
    let request = app.request(Method::POST, &slug, &key, "/api/v1/projects").json(&json!({ "name": name }));
    let (status, project) = app.send(request).await;
    assert_eq!(status, 201, "{slug}: {project}");
    let path = format!("/api/v1/projects/{}", project["id"].as_str().expect("an id"));
    Shot::get(&path, &format!("{slug}.localhost"), &key).stamped(&format!("[{slug}]"), 1)
}

fn outcome(crowd: &Crowd, login: Spread, found: &[Vec<Round>; 3]) -> Outcome {
    let mut outcome = Outcome::default();
    outcome.lines.push(format!(
        "{} tenants on one shard, s = {S}, {CLIENTS} connections to the server",
        crowd.shots.len()
    ));
    outcome.series.push(("a login alone".to_owned(), login));
    let mut wrong = 0;
    for (budget, rounds) in BUDGETS.iter().zip(found) {
        let rate = Median::of(rounds.iter().map(|round| round.full.per_second));
        let hits = Median::of(rounds.iter().map(|round| round.hits_full.hit_rate * 100.0));
        let took = Median::of(rounds.iter().map(|round| round.hits_full.login_ms));
        let evictions =
            Median::of(rounds.iter().map(|round| round.hits_full.evictions as f64 / round.full.seconds));
        outcome.lines.push(format!(
            "budget {budget}: {:.0} requests a second ({:.0} to {:.0}); hit rate {:.1} % of at most {:.1} %; a login takes {:.1} ms; {:.0} evictions a second",
            rate.median, rate.min, rate.max, hits.median, crowd.zipf.share_of(*budget) * 100.0, took.median, evictions.median,
        ));
        let all = |pick: fn(&Round) -> &Report| {
            Spread::of(&rounds.iter().flat_map(|round| pick(round).latencies.clone()).collect::<Vec<_>>())
        };
        outcome.series.push((format!("budget {budget}, full load"), all(|round| &round.full)));
        outcome.series.push((format!("budget {budget}, 20 % load"), all(|round| &round.part)));
        wrong += rounds.iter().map(|round| round.wrong).sum::<usize>();
    }
    let warm = |round: usize| found[0][round].full.per_second;
    for (at, goal) in [(1, 0.5), (2, 0.25)] {
        let budget = BUDGETS[at];
        let ratio =
            Median::of(found[at].iter().enumerate().map(|(round, it)| it.full.per_second / warm(round)));
        outcome.lines.push(format!("budget {budget} / all warm: {ratio}"));
        outcome.goals.push(Goal::at_least(
            format!("budget {budget} / all warm, full load"),
            ratio.median,
            goal,
            "×",
        ));
        let p99 = Median::of(found[at].iter().map(|round| round.part.latency.p99));
        outcome.goals.push(Goal::at_most(
            format!("budget {budget}, 20 % load, p99 / login time"),
            p99.median / login.p50,
            3.0,
            "×",
        ));
    }
    outcome.goals.push(Goal::never("wrong answers", wrong));
    outcome.facts = json!({
        "tenants": crowd.shots.len(),
        "s": S,
        "budgets": BUDGETS.iter().zip(found).map(|(budget, rounds)| json!({
            "budget": budget,
            "best_hit_rate": crowd.zipf.share_of(*budget),
            "rounds": rounds.iter().map(|round| json!({
                "per_second": round.full.per_second,
                "hit_rate": round.hits_full.hit_rate,
                "logins": round.hits_full.logins,
                "evictions": round.hits_full.evictions,
                "login_ms": round.hits_full.login_ms,
                "most_open": round.hits_full.most_open,
                "part_p99_ms": round.part.latency.p99,
                "part_hit_rate": round.hits_part.hit_rate,
            })).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
    });
    outcome
}
