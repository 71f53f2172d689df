//! Rate limits over a real Redis, and without one.

use std::time::{Duration, Instant};

use freehold::adapters::redis::connect;
use freehold::data_plane::limits::{Limiter, Policy, Step, key_of, side_by_side};
use freehold::kernel::Role;
use freehold::kernel::ids::TenantId;
use freehold::testkit::{Cluster, Mode, Proxy, World, WorldOptions, eventually, extra_redis};

use metrics_exporter_prometheus::PrometheusBuilder;
use redis::AsyncCommands;

use super::edge::Site;
use super::provisioning::TABLES;

/// One a second: nothing refills while a test runs.
const BURST: Policy = Policy { interval_us: 1_000_000, burst: 30 };

/// The script and the function it mirrors give the same answers, whatever the rate and the rhythm.
#[tokio::test]
async fn the_script_does_what_the_function_does() {
    let redis = connect(&Cluster::shared().await.redis_url()).unwrap();
    // A small generator of our own: the same numbers at every run.
    let mut seed: i64 = 42;
    let mut next = move |below: i64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33).rem_euclid(below)
    };
    for _ in 0..40 {
        let policy = Policy::new(next(2_000) as u32 + 1, next(60) as u32 + 1);
        // The keys expire on the server's clock, so the times given stay close to it.
        let mut now = 1_800_000_000_000_000 + next(1_000_000);
        let steps: Vec<Step> = (0..60)
            .map(|_| {
                now += next(policy.interval_us * 2);
                (next(8) - 4, next(4) > 0, now)
            })
            .map(|(owed, asked, now)| (owed.max(0), asked, now))
            .collect();
        let pairs = side_by_side(&redis, TenantId::new(), policy, &steps).await.unwrap();
        for (at, (here, there)) in pairs.into_iter().enumerate() {
            assert_eq!(here, there, "request {at} under {policy:?}");
        }
    }
}

/// A7. A value says whose it is: another tenant's under our key is taken as missing, counted, and replaced.
///
/// Shown to fail: let the script take any value's number.
#[tokio::test]
async fn another_tenant_s_value_is_not_ours() {
    let mut redis = connect(&Cluster::shared().await.redis_url()).unwrap();
    let recorder = PrometheusBuilder::new().build_recorder();
    let numbers = recorder.handle();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let foreign = || numbers.render().contains("rate_limit_foreign_total 1");
    let (ours, theirs) = (TenantId::new(), TenantId::new());
    for limiter in [Limiter::new(Some(redis.clone()), 1), Limiter::new(Some(redis.clone()), 1)] {
        while limiter.take(theirs, BURST).await.allowed {}
    }
    let value: String = redis.get(key_of(theirs)).await.unwrap();
    assert!(value.starts_with(&format!("{theirs}|")), "{value}");
    let () = redis.set(key_of(ours), &value).await.unwrap();
    assert!(!foreign());
    let limiter = Limiter::new(Some(redis.clone()), 1);
    let decision = limiter.take(ours, BURST).await;
    assert_eq!((decision.allowed, decision.remaining), (true, BURST.burst - 1));
    assert!(foreign(), "{}", numbers.render());
    let value: String = redis.get(key_of(ours)).await.unwrap();
    assert!(value.starts_with(&format!("{ours}|")), "{value}");
}

/// Three replicas, a bucket large enough that requests are let through on trust: together they pass no more than the
/// burst and a sixteenth of it, and no less than the burst.
///
/// Shown to fail: let each replica owe the whole of the trust (`most` in `Limiter::decide` without the division, and
/// eight times that); or pay nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_together_keep_the_limit() {
    let url = Cluster::shared().await.redis_url();
    // One in a hundred seconds: nothing refills.
    let policy = Policy { interval_us: 100_000_000, burst: 960 };
    let tenant = TenantId::new();
    let clients = (0..3).flat_map(|_| {
        let limiter = Limiter::new(Some(connect(&url).unwrap()), 3);
        std::iter::repeat_n(limiter, 4)
    });
    let clients: Vec<_> = clients
        .map(|limiter| {
            tokio::spawn(async move {
                let mut passed = 0;
                for _ in 0..300 {
                    passed += i64::from(limiter.take(tenant, policy).await.allowed);
                    // The replicas take turns, whatever the runtime does.
                    tokio::task::yield_now().await;
                }
                passed
            })
        })
        .collect();
    let mut passed = 0;
    for client in clients {
        passed += client.await.unwrap();
    }
    assert!((policy.burst..=policy.burst + policy.trust()).contains(&passed), "{passed} of {policy:?}");
}

/// What is let through on trust is paid, though nobody asks any more.
///
/// Shown to fail: let `Limiter::owes` start nothing.
#[tokio::test]
async fn trust_is_paid_soon() {
    let mut redis = connect(&Cluster::shared().await.redis_url()).unwrap();
    let (limiter, tenant) = (Limiter::new(Some(redis.clone()), 1), TenantId::new());
    let policy = Policy { interval_us: 100_000_000, burst: 960 };
    for left in (949..960).rev() {
        assert_eq!(limiter.take(tenant, policy).await.remaining, left);
    }
    eventually(Duration::from_secs(5), "eleven requests are paid", async || {
        let value: String = redis.get(key_of(tenant)).await.unwrap();
        let tat: i64 = value.rsplit('|').next().unwrap().parse().unwrap();
        let (seconds, micros): (i64, i64) = redis::cmd("TIME").query_async(&mut redis).await.unwrap();
        let debt = tat - (seconds * 1_000_000 + micros);
        if debt > policy.interval_us * 10 { Ok(()) } else { Err(debt) }
    })
    .await;
}

/// Guard: the script is one atomic step. A hundred at once, and exactly the burst passes.
#[tokio::test]
async fn exactly_the_burst_passes_at_once() {
    let limiter = Limiter::new(Some(connect(&Cluster::shared().await.redis_url()).unwrap()), 1);
    let (tenant, other) = (TenantId::new(), TenantId::new());
    let takes: Vec<_> = (0..100)
        .map(|_| {
            let limiter = limiter.clone();
            tokio::spawn(async move { limiter.take(tenant, BURST).await.allowed })
        })
        .collect();
    let mut passed = 0;
    for take in takes {
        passed += i64::from(take.await.unwrap());
    }
    assert_eq!(passed, BURST.burst);
    assert!(limiter.take(other, BURST).await.allowed, "a neighbour's bucket is its own");
}

/// D3. Redis killed or hung: requests go on, each replica over its share, and no more than a moment is lost.
#[tokio::test]
async fn without_redis_requests_go_on_over_the_local_share() {
    let redis = extra_redis().await;
    for mode in [Mode::Refuse, Mode::Blackhole] {
        let proxy = Proxy::to_port(redis.port()).await;
        let limiter = Limiter::new(Some(connect(&proxy.url(&redis.url(0))).unwrap()), 3);
        let tenant = TenantId::new();
        assert_eq!(limiter.take(tenant, BURST).await.remaining, BURST.burst - 1);
        proxy.set(mode);
        let mut passed = 0;
        let mut waits = Vec::new();
        for _ in 0..100 {
            let asked = Instant::now();
            passed += i64::from(limiter.take(tenant, BURST).await.allowed);
            waits.push(asked.elapsed());
        }
        assert_eq!(passed, BURST.burst / 3, "{mode:?}: a third of the limit for one of three replicas");
        waits.sort();
        assert!(waits[99] < Duration::from_millis(400), "{mode:?}: one request waited {:?}", waits[99]);
        assert!(waits[97] < Duration::from_millis(20), "{mode:?}: the breaker is not open: {:?}", waits[97]);
        // Back again: the shared bucket, which remembers its one request.
        proxy.set(Mode::Pass);
        eventually(Duration::from_secs(10), "redis decides again", async || {
            let remaining = limiter.take(tenant, BURST).await.remaining;
            if remaining > BURST.burst / 3 { Ok(()) } else { Err(remaining) }
        })
        .await;
    }
}

/// The whole way: headers on every answer, 429 with a time, and the neighbour is not touched.
#[tokio::test]
async fn a_tenant_over_its_limit_is_told_when_to_come_back() {
    let world = World::with(WorldOptions { shards: 1, tenant_cap: 10, slots: 0, tables: &TABLES }).await;
    world.tenant_with("acme", "free").await;
    world.tenant_with("globex", "free").await;
    let limiter = Limiter::new(Some(connect(&Cluster::shared().await.redis_url()).unwrap()), 1);
    let db = world.db().clone();
    let site = Site::over(world, db, limiter, Duration::from_secs(30)).await;
    let key = site.key("acme", Role::Viewer).await;
    let other = site.key("globex", Role::Viewer).await;
    let first = site.get("acme.localhost", "/api/v1/whoami", &key).await;
    assert_eq!(first.status, 200);
    assert_eq!(first.header("ratelimit-policy"), "\"requests\";q=40;w=2");
    assert_eq!(first.header("ratelimit"), "\"requests\";r=39;t=1");
    let refused = loop {
        let reply = site.get("acme.localhost", "/api/v1/large", &key).await;
        if reply.status != 200 {
            break reply;
        }
    };
    assert_eq!(refused.code(), (429, "rate_limited".to_owned()));
    assert_eq!(refused.header("retry-after"), "1");
    assert!(refused.header("ratelimit").starts_with("\"requests\";r=0;t="));
    assert_eq!(site.get("globex.localhost", "/api/v1/whoami", &other).await.status, 200);
    // A refused credential costs the tenant nothing and says nothing about its bucket.
    assert_eq!(site.get("acme.localhost", "/api/v1/whoami", "x").await.header("ratelimit"), "");
}
