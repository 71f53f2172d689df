//! The control database away, small: ten minutes of it are in `make chaos`.

use std::time::Duration;

use freehold::testkit::chaos::control::{Measure, outage};

/// D2. Guard: nobody waits for a lookup after one that failed (`freshness::judge`).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_control_database_only_signing_up_and_administration_stop() {
    let seen = outage(Measure {
        tenants: 6,
        rate: 20.0,
        healthy: Duration::from_secs(2),
        refused: Duration::from_secs(5),
        hung: Duration::from_secs(8),
    })
    .await;
    assert_eq!((seen.let_in, seen.hung), (0, 0), "{seen:#?}");
    for part in &seen.parts {
        assert_eq!((part.wrong, part.beside_wrong), (0, 0), "{seen:#?}");
        if part.mode == "there" {
            assert!(part.signups.keys().all(|said| said == "201"), "{seen:#?}");
        } else {
            let (kept, refused): (Vec<_>, Vec<_>) =
                part.signups.keys().partition(|said| *said == "503 control_unavailable");
            assert!(!kept.is_empty() && refused.is_empty(), "{seen:#?}");
        }
    }
    assert!(
        seen.parts[1].wire.cut > 0 && seen.parts[2].wire.in_fault > 0,
        "the fault was not met: {seen:#?}"
    );
    assert!(seen.recovered_seconds < 20.0, "{seen:#?}");
}
