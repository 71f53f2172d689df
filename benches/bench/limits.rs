//! What the rate limits cost: the routed read over fifty tenants far from their limits, through the limiter with Redis,
//! with Redis asked about every request (as for tenants near their limits), without Redis (as while it is away), and
//! with none. One server each, over the same directory and connections.

use std::time::Duration;

use freehold::adapters::redis;
use freehold::data_plane::limits::Limiter;
use freehold::http::operator;
use freehold::http::router::{HttpState, router};
use freehold::http::serve::{self, ServeOptions};
use freehold::product::{Current, Product};
use freehold::testkit::Cluster;
use freehold::testkit::figures::{Goal, Median, Spread};
use freehold::testkit::program::{Args, Outcome};
use freehold::testkit::wire::{Report, Target};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::routed::{Round, load};
use super::warm::{Tenant, Warm};

const ROUNDS: usize = 6;
const ROUND: Duration = Duration::from_secs(3);
const CONNECTIONS: usize = 16;
const SIDES: [&str; 4] = ["on, with Redis", "on, Redis asked each time", "on, without Redis", "off"];
const OFF: usize = 3;

pub async fn measure(args: &Args) -> Outcome {
    let warm = Warm::start().await;
    let http = &warm.app.replicas[0].http;
    let stop = CancellationToken::new();
    let mut targets = vec![warm.target()];
    let redis = redis::connect(&Cluster::shared().await.redis_url()).expect("a URL");
    // Trust shared by so many replicas is none.
    let strict = Limiter::new(Some(redis), u32::MAX);
    for limiter in [strict, Limiter::new(None, 1), Limiter::off()] {
        targets.push(serve_with(HttpState { limiter, ..http.clone() }, &warm, &stop).await);
    }
    let shots = warm.shots(Tenant::read);
    for target in &targets {
        load(*target, CONNECTIONS, ROUND / 2, &shots).await;
    }
    let mut rounds: [Vec<Round>; 4] = Default::default();
    for round in 0..args.count(ROUNDS) {
        for turn in 0..SIDES.len() {
            let side = (round + turn) % SIDES.len();
            rounds[side].push(load(targets[side], CONNECTIONS, args.time(ROUND), &shots).await);
        }
    }
    stop.cancel();
    judge(&rounds)
}

async fn serve_with(state: HttpState, warm: &Warm, stop: &CancellationToken) -> Target {
    let listener = serve::bind(([127, 0, 0, 1], 0).into()).await.expect("a free port");
    let addr = listener.local_addr().expect("the port");
    let app = router(state, Current::routes(), operator::routes(warm.app.world.hands.cp.clone()), None);
    tokio::spawn(serve::serve(listener, app, stop.clone(), ServeOptions::default()));
    Target { addr }
}

fn judge(rounds: &[Vec<Round>; 4]) -> Outcome {
    let off = || &rounds[OFF];
    let mut outcome = Outcome::default();
    let mut facts = Vec::new();
    for (side, mine) in SIDES.into_iter().zip(rounds) {
        let lost = Median::of(
            mine.iter().zip(off()).map(|(on, off)| 1.0 - on.report.per_second / off.report.per_second),
        );
        let effort = Median::of(
            mine.iter().zip(off()).map(|(on, off)| on.effort.served() / off.effort.served() - 1.0),
        );
        let per_second = Median::of(mine.iter().map(|round| round.report.per_second));
        outcome.lines.push(format!(
            "{side}: {:.0}/s; throughput lost {lost}, CPU time a request more by {effort}",
            per_second.median
        ));
        let all: Vec<_> = mine.iter().flat_map(|round| round.report.latencies.iter().copied()).collect();
        outcome.series.push((side.to_owned(), Spread::of(&all)));
        facts.push(json!({ "side": side, "per_second": per_second, "lost": lost, "cpu": effort }));
        // Asking each time is what the others are better than.
        if side.ends_with("Redis") {
            outcome.goals.push(Goal::at_most(
                format!("throughput lost, limits {side}"),
                lost.median,
                0.10,
                "",
            ));
        }
    }
    let wrong = rounds.iter().flatten().map(|round| Report::wrong(&round.report)).sum();
    outcome.goals.push(Goal::never("wrong answers", wrong));
    outcome.facts = json!(facts);
    outcome
}
