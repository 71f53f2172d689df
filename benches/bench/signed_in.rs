//! A person's warm request beside a key's: the same read of the same tenant, over the same kept connections, once with an
//! API key, once with an access token, once with a browser's cookie. They take turns within each round.
//!
//! What is compared is the door: who asks, which session, which seat. Beside the throughput stands the processor time of
//! this process for each request (server and load generator together), which a machine that does other things as well
//! disturbs far less. The lookups that the directory makes in the control
//! database are counted over all that is measured.

use std::time::Duration;

use freehold::data_plane::tenancy::cookie::SESSION_COOKIE;
use freehold::identity::Identity;
use freehold::identity::accounts::{Vouched, account_enter};
use freehold::identity::device::Approver;
use freehold::identity::members::member_add;
use freehold::identity::sessions::{Asking, Device, Proof, hand_off, hand_off_redeem, session_start};
use freehold::identity::settings::Settings;
use freehold::identity::sign_in::Providers;
use freehold::kernel::Role;
use freehold::kernel::credentials::{KeyKind, parse};
use freehold::product::Current;
use freehold::testkit::figures::{Goal, Median, Spread};
use freehold::testkit::program::{Args, Outcome};
use freehold::testkit::wire::{Shot, Target, Until, apart};
use freehold::testkit::{AppOptions, Cluster, TestApp, tester};
use secrecy::ExposeSecret;
use serde_json::json;

const ROUNDS: usize = 45;
const EACH: Duration = Duration::from_millis(300);
const CONNECTIONS: usize = 8;
const HOST: &str = "acme.localhost";
/// A read that asks no database at all, so that nothing hides what the door costs.
const DOOR_ALONE: &str = "/api/v1/me";
/// A read as the product has them: one statement on the tenant's shard.
const A_READ: &str = "/api/v1/projects";

struct Ways {
    key: String,
    token: String,
    cookie: String,
}

const NAMES: [&str; 3] = ["API key", "access token", "cookie"];

pub async fn measure(args: &Args) -> Outcome {
    Cluster::durable().await;
    let app = TestApp::start::<Current>(AppOptions { roomy: true, ..AppOptions::of::<Current>() }).await;
    let ways = ways(&app).await;
    let (rounds, each) = (args.count(ROUNDS), args.time(EACH));
    let target = Target { addr: app.replicas[0].addr };
    let mut outcome = Outcome::default();
    let mut facts = Vec::new();
    for (path, what, limit) in [(A_READ, "a read", Some(10.0)), (DOOR_ALONE, "the door alone", None)] {
        let shots = shots(&ways, path);
        let warm = {
            let shots = shots.clone();
            apart(move || async move {
                target.closed(CONNECTIONS, Until::Time(each), |_, n| shots[n % 3].clone()).await
            })
        };
        warm.await.must_be_right();
        let directory = &app.replicas[0].http.directory;
        let before = directory.health().lookups;
        let (mut rates, mut latencies) = ([const { Vec::new() }; 3], [const { Vec::new() }; 3]);
        let mut cpu = [0.0; 3];
        for round in 0..rounds {
            for turn in 0..3 {
                // Each kind is first, second and last equally often.
                let kind = (round + turn) % 3;
                let shot = shots[kind].clone();
                let begun = processor_seconds();
                let report = apart(move || async move {
                    target.closed(CONNECTIONS, Until::Time(each), |_, _| shot.clone()).await
                })
                .await;
                report.must_be_right();
                cpu[kind] += processor_seconds() - begun;
                rates[kind].push(report.per_second);
                latencies[kind].extend(report.latencies);
            }
        }
        // Entries older than 15 seconds are refreshed in the background: that is by age, not by request.
        let lookups = directory.health().lookups - before;
        let requests: usize = latencies.iter().map(Vec::len).sum();
        let by_age = (3.0 * rounds as f64 * each.as_secs_f64() / 15.0).ceil() * 3.0 + 3.0;
        outcome.lines.push(format!(
            "{what}: {requests} requests over {CONNECTIONS} connections, {rounds} rounds; {lookups} lookups in the \
             control database, all by age"
        ));
        for (kind, name) in NAMES.into_iter().enumerate() {
            let rate = Median::of(rates[kind].iter().copied());
            let loss: Vec<f64> =
                rates[kind].iter().zip(&rates[0]).map(|(own, key)| (1.0 - own / key) * 100.0).collect();
            let loss = Median::of(loss);
            let each_us = |kind: usize| cpu[kind] * 1e6 / latencies[kind].len() as f64;
            outcome.lines.push(format!(
                "{what}, {name:<12}: {:>6.0} requests/s; lost against the key, round by round: {:.1} % ({:.0} to {:.0}); \
                 processor {:.0} µs a request, {:+.1} % to the key",
                rate.median,
                loss.median,
                loss.min,
                loss.max,
                each_us(kind),
                (each_us(kind) / each_us(0) - 1.0) * 100.0
            ));
            outcome.series.push((format!("{what}, {name}"), Spread::of(&latencies[kind])));
            facts.push(json!({ "what": what, "way": name, "per_second": rate, "loss_percent": loss,
                "cpu_us_per_request": each_us(kind) }));
            if let (Some(limit), true) = (limit, kind > 0) {
                let goal =
                    if kind == 1 { "throughput lost with a token" } else { "throughput lost with a cookie" };
                outcome.goals.push(Goal::at_most(goal, loss.median, limit, "%"));
            }
        }
        if limit.is_some() {
            let goal = "control-database lookups (by age only)";
            outcome.goals.push(Goal::at_most(goal, lookups as f64, by_age, "").must());
        }
    }
    outcome.facts = json!({ "rounds": rounds, "figures": facts });
    outcome
}

fn shots(ways: &Ways, path: &str) -> [Shot; 3] {
    [
        Shot::get(path, HOST, &ways.key),
        Shot::get(path, HOST, &ways.token),
        Shot::get(path, HOST, "").header("cookie", &format!("{SESSION_COOKIE}={}", ways.cookie)),
    ]
}

/// One owner's ways in, made by the services that signing in uses.
async fn ways(app: &TestApp) -> Ways {
    let world = &app.world;
    let cp = &world.hands.cp;
    // What is measured is the door, not the plan's rate.
    sqlx::query(
        "UPDATE plan SET entitlements = entitlements || '{\"requests_per_second\": 1000000, \"burst\": 1000000}'
          WHERE id = 'enterprise'",
    )
    .execute(world.db())
    .await
    .expect("a plan without a rate");
    let acme = world.tenant("acme").await;
    let key = app.key("acme", Role::Owner).await;
    let now = cp.clock.now();
    let vouched = Vouched {
        issuer: "https://id.example.com".to_owned(),
        subject: "ada".to_owned(),
        provider: "example".to_owned(),
        name: Some("Ada".to_owned()),
        email: None,
        email_verified: false,
    };
    let device = Device::default();
    let mut tx = world.db().begin().await.expect("a transaction");
    let (account, _) = account_enter(&mut tx, &vouched, now).await.expect("an account");
    member_add(&mut tx, &tester(), acme.tenant.id, account, Role::Owner, None, now).await.expect("a seat");
    let proof = Proof { account, method: "oidc:example".to_owned(), second_factor: false, at: now };
    let base = session_start(&mut tx, &cp.entropy, &proof, &device).await.expect("a session");
    let code =
        hand_off(&mut tx, &cp.entropy, base.id, acme.tenant.id, &[1; 32], "/", now).await.expect("a code");
    let code = parse(KeyKind::HandOff, code.expose_secret()).expect("a code");
    let (browser, _) = hand_off_redeem(&mut tx, &cp.entropy, &code, acme.tenant.id, &[1; 32], &device, now)
        .await
        .expect("a session");
    tx.commit().await.expect("a commit");

    let identity = Identity::new(cp, &world.hands.master, Providers::default(), Settings::default());
    let started = identity.device_start("bench").await.expect("a code");
    let who = Approver { account, session: base.id };
    identity.device_answer(who, &started.user_code, true, None).await.expect("a yes");
    let polled = identity.device_poll(started.device_code.expose_secret(), &Asking::default()).await;
    let refresh = polled.expect("tokens").refresh_token;
    let tenant = "acme".parse().unwrap_or_else(|never| match never {});
    let granted =
        identity.token_refresh(refresh.expose_secret(), Some(&tenant), None).await.expect("a token");
    Ways { key, token: granted.access_token, cookie: browser.token.expose_secret().to_owned() }
}

/// What this process has used of the processors, in seconds, to a hundredth.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name before it may hold anything, spaces and brackets too.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks: f64 =
        fields.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum();
    ticks / 100.0
}
