//! A thousand tenants at once: what an operator's script does with the API, beside the bare SQL that makes the same
//! logins, schemas, tables and grants in the same database.
//!
//! In chunks that take turns, so that the machine's moods and the growing catalogue fall on all. The bare script is run
//! twice over: on one connection, as such scripts are written, and on as many as a worker opens on a shard. The goal is
//! judged against the faster of the two.

use std::time::{Duration, Instant};

use freehold::testkit::TestApp;
use freehold::testkit::figures::{Goal, Median, Spread};
use freehold::testkit::program::{Args, Outcome};
use futures_util::StreamExt;
use futures_util::stream::{self, FuturesUnordered};
use serde_json::json;

use crate::provision::{self, Bare, worker_idle};

const TENANTS: usize = 1_000;
const CHUNKS: usize = 10;
/// Requests that the operator's script has in flight.
const CLIENTS: usize = 8;
/// Connections of the second script: as many as a worker has on one shard (`ShardAdmins`).
const SESSIONS: usize = 4;

#[derive(Default)]
struct Rates {
    /// Until the last answer.
    answered: Vec<f64>,
    /// Until the spare slots that were used up are there again, too: exactly as many schemas as tenants.
    settled: Vec<f64>,
    one: Vec<f64>,
    several: Vec<f64>,
    calls: Vec<Duration>,
}

pub async fn measure(args: &Args) -> Outcome {
    let chunk = (args.count(TENANTS) / CHUNKS).max(1);
    let app = provision::start().await;
    let mut bare = Vec::new();
    for _ in 0..SESSIONS {
        bare.push(Bare::connect(&app, 0).await);
    }
    let mut rates = Rates::default();
    for round in 0..=CHUNKS {
        if round == 1 {
            // The first one filled caches and opened connections.
            rates = Rates::default();
        }
        worker_idle(&app).await;
        api(&app, round, chunk, &mut rates).await;
        rates.one.push(script(&app, &mut bare[..1], chunk).await);
        rates.several.push(script(&app, &mut bare, chunk).await);
    }
    let [one, several] = [&rates.one, &rates.several].map(|rates| Median::of(rates.iter().copied()));
    let fairer = if several.median > one.median { &rates.several } else { &rates.one };
    let ratio = Median::of(rates.settled.iter().zip(fairer).map(|(ours, bare)| ours / bare));
    let [answered, settled] =
        [&rates.answered, &rates.settled].map(|rates| Median::of(rates.iter().copied()));
    Outcome {
        lines: vec![
            format!("{CHUNKS} chunks of {chunk} tenants; medians over the chunks, least and greatest"),
            format!("API, {CLIENTS} requests at a time, until the last answer:  {answered} a second"),
            format!("… until the spare slots are there again:               {settled} a second"),
            format!("bare SQL script, 1 connection:                         {one} a second"),
            format!("bare SQL script, {SESSIONS} connections:                        {several} a second"),
            format!("API until settled / the faster script:                 {ratio} ×"),
        ],
        series: vec![("create, of a bulk".to_owned(), Spread::of(&rates.calls))],
        goals: vec![Goal::at_least("tenants in bulk / bare SQL script, rate", ratio.median, 0.8, "×")],
        facts: json!({
            "chunk": chunk, "clients": CLIENTS, "sessions": SESSIONS, "answered": answered, "settled": settled,
            "script_one_connection": one, "script_several_connections": several, "ratio": ratio,
        }),
    }
}

async fn api(app: &TestApp, round: usize, chunk: usize, rates: &mut Rates) {
    let begun = Instant::now();
    let calls: Vec<Duration> = stream::iter(0..chunk)
        .map(async |tenant| provision::create(app, &format!("bulk-{round}-{tenant}"), "free").await)
        .buffer_unordered(CLIENTS)
        .collect()
        .await;
    rates.answered.push(chunk as f64 / begun.elapsed().as_secs_f64());
    worker_idle(app).await;
    rates.settled.push(chunk as f64 / begun.elapsed().as_secs_f64());
    rates.calls.extend(calls);
}

/// Makes a chunk with the bare script, shared among these connections. Returns the rate per second.
async fn script(app: &TestApp, connections: &mut [Bare], chunk: usize) -> f64 {
    let shares = connections.len();
    let begun = Instant::now();
    let sessions: FuturesUnordered<_> = connections
        .iter_mut()
        .enumerate()
        .map(async |(share, bare)| {
            for _ in (share..chunk).step_by(shares) {
                bare.run(app).await;
            }
        })
        .collect();
    sessions.collect::<()>().await;
    chunk as f64 / begun.elapsed().as_secs_f64()
}
