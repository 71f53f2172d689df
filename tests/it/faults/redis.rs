//! Redis in trouble, small: the full size is `make chaos`.

use std::time::Duration;

use freehold::testkit::chaos::redis::{Measure, Stage, TROUBLES};

/// D3. Guard: the local buckets of `Limiter::alone`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_to_redis_requests_go_on_and_limits_bind() {
    let stage = Stage::set(4).await;
    let measure = Measure { tenants: 4, rate: 30.0, flood: 3.0, fault: Duration::from_secs(3) };
    for trouble in TROUBLES {
        let seen = stage.trouble(*trouble, measure).await;
        assert_eq!((seen.wrong - seen.of_shards, seen.flood_wrong, seen.let_in), (0, 0, 0), "{seen:#?}");
        assert!(seen.flood_let_in as f64 <= seen.bound + 1.0, "{seen:#?}");
        assert!(seen.flood_let_in < seen.flood_asked, "nothing was limited: {seen:#?}");
        let bit = match seen.trouble {
            "none" => true,
            "slow 20 ms" => seen.wire.delayed > 0,
            "slow 300 ms" => seen.bound > seen.granted,
            "flushed" | "set back to an old copy" => seen.keys > 0,
            "killed and restarted" => seen.wire.accepted > 0,
            _ => seen.wire.cut + seen.wire.silenced > 0,
        };
        assert!(bit, "the trouble was not met: {seen:#?}");
    }
}
