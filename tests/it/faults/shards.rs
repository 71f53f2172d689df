//! A shard behind a bad network, small: the full size is `make chaos`.

use std::time::Duration;

use freehold::testkit::chaos::shards::{FAULTS, Measure, Strike, strike, town};

const MEASURE: Measure = Measure {
    rate: 30.0,
    healthy: Duration::from_secs(1),
    // Long enough for the breaker to open and for two probes.
    fault: Duration::from_secs(4),
    after: Duration::from_secs(10),
};

/// The strikes of one test, each with what always has to hold: the fault was there, its own tenants were turned away in
/// order, nobody else was, it was over within ten seconds, and every promise was kept once.
async fn strikes(names: &[&str]) -> Vec<Strike> {
    let town = town(3).await;
    let mut strikes = Vec::new();
    for (index, fault) in FAULTS.iter().filter(|(name, _)| names.contains(name)).enumerate() {
        let seen = strike(&town, *fault, MEASURE, &format!("strike {index}")).await;
        assert!(seen.bit(), "the fault was not met: {seen:#?}");
        // None at all is for `make chaos` to see: on a machine that is busy with other tests and builds, a healthy shard
        // can take longer to answer than the broker waits.
        assert!(seen.neighbour_success > 0.95, "{seen:#?}");
        assert!(seen.disorderly.is_empty(), "{seen:#?}");
        assert!(seen.recovered_seconds < 10.0, "{seen:#?}");
        assert_eq!((seen.books.lost, seen.books.doubled), (0, 0), "{seen:#?}");
        strikes.push(seen);
    }
    assert_eq!(strikes.len(), names.len(), "a fault has another name");
    strikes
}

/// D1. Shown to fail: the breaker taken out of `Seat::open`. Taken out of `Shard::is_alive`, which asks seldom anyway, it is not
/// missed here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_is_gone_is_tried_once_a_second_and_its_tenants_hear_so_in_time() {
    for seen in strikes(&["refuse", "blackhole", "reset", "half-open"]).await {
        assert!(seen.is_outage() && seen.success < 0.1, "{seen:#?}");
        assert!(seen.probes_a_second <= 1, "{seen:#?}");
        assert!(seen.retries_per_request <= 0.1, "{seen:#?}");
        // The whole of it is `make chaos`: this machine may be busy with other tests.
        assert!(seen.refused.p50 < 500.0 && seen.refused.max < 3_000.0, "{seen:#?}");
    }
}

/// D1.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_is_hardly_there_is_no_shard_and_no_neighbour_notices() {
    for seen in strikes(&["slow 500 ms", "drip", "flap"]).await {
        assert!(seen.probes_a_second <= 1, "{seen:#?}");
        assert!(seen.retries_per_request <= 0.1, "{seen:#?}");
    }
}

/// C3. Guard: `TenantContext::write_once` looks for an answer that was kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_is_made_once_however_often_it_is_asked_for() {
    for seen in strikes(&["commits lost", "commits lost in silence"]).await {
        assert!(seen.books.replayed > 0, "no commit happened unheard: {seen:#?}");
        assert!(seen.answers.contains_key("200"), "reading goes on: {seen:#?}");
    }
}
