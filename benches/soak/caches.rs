//! Every route asked by twenty tenants and by nobody at the same address, and a look into Redis (A7).

use freehold::product::{Current, Product};
use freehold::testkit::figures::Goal;
use freehold::testkit::fire::caches;
use freehold::testkit::program::{Args, Outcome};
use freehold::testkit::{AppOptions, Cluster, TestApp, WorldOptions, load};
use serde_json::json;

const TENANTS: usize = 20;

pub async fn run(args: &Args) -> Outcome {
    let redis = Cluster::durable().await.redis_url();
    let app = TestApp::start::<Current>(AppOptions {
        world: WorldOptions { shards: 2, tenant_cap: 100, slots: 5, tables: Current::migrations() },
        roomy: true,
        redis_url: Some(redis.clone()),
        ..AppOptions::of::<Current>()
    })
    .await;
    let mut tenants = load::make_tenants(&app, TENANTS, 4).await;
    load::furnish(&app, &mut tenants, 4).await;
    let rounds = args.count(20);
    let report = caches::run(&app, &redis, &tenants, rounds).await;
    let mut lines = vec![
        format!(
            "{} answers to {TENANTS} tenants and nobody in {rounds} rounds: {:?}",
            report.answers, report.statuses
        ),
        format!(
            "{} keys in Redis; {} values planted under another tenant's key",
            report.redis_keys, report.planted
        ),
    ];
    lines.extend(report.failures.iter().cloned());
    Outcome {
        lines,
        series: Vec::new(),
        goals: vec![
            Goal::never("answers that were made for another", report.shared),
            Goal::never("answers that a shared cache may keep", report.cacheable),
            Goal::never("Redis keys without a tenant that exists", report.keys_of_nobody),
        ],
        facts: json!({ "report": report }),
    }
}
