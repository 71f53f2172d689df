//! Caches between tenants (trust A7).

use freehold::product::Current;
use freehold::testkit::fire::caches;
use freehold::testkit::{AppOptions, Cluster, TestApp, load};

/// Shown to fail: let `tenancy::private` give the response back as it is (67 answers that a cache may keep), or give the
/// limiter one key for all tenants.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_given_an_answer_that_was_made_for_another() {
    let redis = Cluster::shared().await.redis_url();
    let app = TestApp::start::<Current>(AppOptions {
        redis_url: Some(redis.clone()),
        ..AppOptions::of::<Current>()
    })
    .await;
    let mut tenants = load::make_tenants(&app, 2, 2).await;
    load::furnish(&app, &mut tenants, 2).await;
    let report = caches::run(&app, &redis, &tenants, 2).await;
    assert_eq!((report.shared, report.cacheable), (0, 0), "{report:#?}");
    assert_eq!(report.keys_of_nobody, 0, "{report:#?}");
    assert!(report.answers > 500 && report.redis_keys >= 2 && report.planted > 0, "{report:#?}");
}
