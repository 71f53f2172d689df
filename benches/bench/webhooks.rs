//! Webhooks at the door: a thousand a second for a while, as Stripe sends them (signed, some kilobytes, one in ten for the
//! second time), and then as many as are taken. Each is one statement in the control database, with fsync.

use std::net::SocketAddr;
use std::time::Duration;

use freehold::app::{self, Parts};
use freehold::billing::inbox::signature;
use freehold::billing::settings::{Settings, Webhooks};
use freehold::config::ServeConfig;
use freehold::db::control;
use freehold::http::serve::{self, ServeOptions};
use freehold::product::{Current, Product};
use freehold::testkit::figures::Goal;
use freehold::testkit::program::{Args, Outcome};
use freehold::testkit::wire::{Report, Shot, Target, Until, apart};
use freehold::testkit::{Cluster, World};
use secrecy::SecretString;
use serde_json::json;
use tokio_util::sync::CancellationToken;

const RATE: f64 = 1_000.0;
const LASTING: Duration = Duration::from_secs(15);
const CONNECTIONS: usize = 32;
/// As fast as it goes.
const FLOOD: usize = 10_000;
const SECRET: &str = "whsec_bench";
const PATH: &str = "/webhooks/stripe/snapshot";

pub async fn measure(args: &Args) -> Outcome {
    Cluster::durable().await;
    let world = World::new(Current::migrations()).await;
    let stop = CancellationToken::new();
    let addr = serve(&world, &stop).await;
    let target = Target { addr };
    let (lasting, flood) = (args.time(LASTING), args.count(FLOOD));
    let paced = (RATE * lasting.as_secs_f64()) as usize;

    let warm = fire(target, shots("warm", 500), Until::Requests(500)).await;
    warm.must_be_right();
    let pace = shots("pace", paced);
    let steady = apart(move || async move {
        target.open(CONNECTIONS, RATE, lasting, |_, number| pace[number % pace.len()].clone()).await
    })
    .await;
    let most = fire(target, shots("flood", flood), Until::Requests(flood)).await;
    stop.cancel();

    let (stored, deliveries): (i64, i64) = sqlx::query_as(
        "SELECT count(*), sum(deliveries)::bigint FROM webhook_inbox WHERE event_id LIKE 'evt\\_pace\\_%'",
    )
    .fetch_one(world.db())
    .await
    .expect("the inbox");
    let distinct = (0..paced).filter(|number| number % 10 != 9).count();
    let mut outcome = Outcome::default();
    outcome.lines.push(format!(
        "{} webhooks at {RATE:.0}/s over {CONNECTIONS} connections: {} wrong answers; {stored} events stored, {deliveries} \
         deliveries counted",
        steady.requests,
        steady.wrong(),
    ));
    outcome.lines.push(format!("as many as are taken: {:.0}/s", most.per_second));
    outcome.series.push((format!("{RATE:.0}/s, from when each was due"), steady.latency));
    outcome.series.push(("the generator's own lateness".to_owned(), steady.lateness));
    outcome.goals.push(Goal::at_most("webhooks at 1,000/s, p99", steady.latency.p99, 50.0, "ms"));
    outcome.goals.push(Goal::at_most("webhooks answered wrongly", steady.wrong() as f64, 0.0, "").must());
    let missing = (distinct as i64 - stored).abs() + (steady.requests as i64 - deliveries).abs();
    outcome.goals.push(Goal::at_most("webhooks lost or doubled", missing as f64, 0.0, "").must());
    outcome.facts = json!({ "steady": steady, "flood_per_second": most.per_second, "stored": stored });
    outcome
}

async fn fire(target: Target, shots: Vec<Shot>, until: Until) -> Report {
    apart(move || async move {
        target.closed(CONNECTIONS, until, |_, number| shots[number % shots.len()].clone()).await
    })
    .await
}

/// Signed ahead of time; one in ten repeats the one before it.
fn shots(name: &str, count: usize) -> Vec<Shot> {
    let now = freehold::kernel::Clock::System.now().timestamp();
    let filler: Vec<_> = (0..12)
        .map(|line| json!({ "id": format!("il_{line}"), "amount": 4900, "description": "Team, a month", "period": {
            "start": now, "end": now + 2_592_000 }, "price": { "id": "price_1", "unit_amount": 4900 }, "quantity": 1 }))
        .collect();
    (0..count)
        .map(|number| {
            let event = if number % 10 == 9 { number - 1 } else { number };
            let body = json!({
                "id": format!("evt_{name}_{event}"), "object": "event", "api_version": "2026-09-30.endive",
                "created": now, "livemode": false, "type": "invoice.paid",
                "data": { "object": { "id": format!("in_{event}"), "object": "invoice", "customer": "cus_1",
                    "status": "paid", "currency": "eur", "total": 4900, "lines": { "data": filler } } },
            })
            .to_string();
            let signed = signature::sign(SECRET, now, body.as_bytes());
            Shot::new("POST", PATH, "localhost", "", Some(&body))
                .header(signature::HEADER, &signed)
                .wants(200)
        })
        .collect()
}

/// A server as in production, but for its Stripe, whom nobody asks here.
async fn serve(world: &World, stop: &CancellationToken) -> SocketAddr {
    let mut cp = world.hands.cp.clone();
    cp.db = control::pool(&SecretString::from(world.control_url.clone()), "bench").expect("a DSN");
    let secrets = || vec![SecretString::from(SECRET.to_owned())];
    let webhooks = Webhooks { snapshot: secrets(), thin: secrets() };
    let stripe = Settings::for_loopback("http://127.0.0.1:1", "sk_test_bench", webhooks).expect("settings");
    let config = ServeConfig {
        http_addr: SocketAddr::from(([127, 0, 0, 1], 0)),
        redis_url: Some(SecretString::from(Cluster::shared().await.redis_url())),
        broker_budget: 10,
        replicas: 1,
        metrics_addr: None,
        drain_seconds: 1,
        grace_seconds: 0,
        identity: None,
        stripe: None,
    };
    let parts = Parts { draining: stop.clone(), stripe, ..Parts::default() };
    let server = app::server::<Current>(cp, world.hands.master.clone(), &config, parts).expect("the server");
    let listener = serve::bind(config.http_addr).await.expect("a free port");
    let addr = listener.local_addr().expect("the port");
    tokio::spawn(server.run(listener, ServeOptions { drain: config.drain(), ..ServeOptions::default() }));
    addr
}
