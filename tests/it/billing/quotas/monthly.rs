//! Requests per month over a real Redis, flushed, away, and without one.

use std::time::Duration;

use chrono::TimeDelta;
use freehold::adapters::redis::connect;
use freehold::billing::quotas::Month;
use freehold::billing::quotas::levels::requests_of;
use freehold::control_plane::plans::Entitlements;
use freehold::data_plane::limits::{Limiter, monthly};
use freehold::kernel::ids::TenantId;
use freehold::testkit::{Cluster, Mode, Proxy, World, WorldOptions, eventually, extra_redis};
use redis::AsyncCommands;
use tokio_util::sync::CancellationToken;

use super::{counted, limits};
use crate::provisioning::TABLES;

async fn world() -> World {
    World::with(WorldOptions { shards: 1, tenant_cap: 10, slots: 0, tables: &TABLES }).await
}

fn limiter(world: &World, redis: Option<&str>, replicas: u32) -> Limiter {
    let redis = redis.map(|url| connect(url).unwrap());
    Limiter::counting(redis, replicas, world.db().clone(), world.hands.cp.clock.clone())
}

async fn take(world: &World, limiter: &Limiter, tenant: TenantId, limits: &Entitlements) -> bool {
    let now = world.hands.cp.clock.now();
    limiter.take_of_month(tenant, limits, false, now).await.expect("months are counted").allowed
}

/// A hundred requests at once, in turn over these replicas: how many pass.
async fn hundred(world: &World, limiters: &[Limiter], tenant: TenantId, limits: &Entitlements) -> usize {
    let asked = (0..100).map(|n| {
        let (limiter, limits, now) =
            (limiters[n % limiters.len()].clone(), limits.clone(), world.hands.cp.clock.now());
        tokio::spawn(async move { limiter.take_of_month(tenant, &limits, false, now).await.unwrap().allowed })
    });
    let mut passed = 0;
    for one in asked.collect::<Vec<_>>() {
        passed += usize::from(one.await.unwrap());
    }
    passed
}

async fn written(world: &World, tenant: TenantId) -> i64 {
    let month = Month::of(world.hands.cp.clock.now());
    requests_of(world.db(), tenant, month).await.unwrap()
}

/// Shown to fail: the comparison with the limit in `month.lua`; the base from the control database (`Months::base`).
#[tokio::test]
async fn of_a_hundred_at_one_below_the_limit_exactly_one_passes() {
    let world = world().await;
    let tenant = world.tenant("acme").await.tenant.id;
    let limits = limits(100_000);
    counted(&world, tenant, 99_999).await;
    let url = Cluster::shared().await.redis_url();
    let replicas = [limiter(&world, Some(&url), 2), limiter(&world, Some(&url), 2)];
    assert_eq!(hundred(&world, &replicas, tenant, &limits).await, 1);
    assert_eq!(hundred(&world, &replicas, tenant, &limits).await, 0);
    // A person in a browser is let through, and counted.
    let now = world.hands.cp.clock.now();
    let taken = replicas[0].take_of_month(tenant, &limits, true, now).await.unwrap();
    assert_eq!((taken.allowed, taken.level.used), (true, 100_001));
    // A larger plan is in effect with the next request.
    let larger = Entitlements { requests_per_month: Some(100_002), ..limits };
    assert_eq!(hundred(&world, &replicas, tenant, &larger).await, 1);
}

/// At the plan's full rate over two replicas, on trust for most of the way: not one more than the limit passes, and not one
/// less.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_full_rate_from_nothing_to_the_limit_it_is_exact() {
    let world = world().await;
    let tenant = world.tenant("acme").await.tenant.id;
    let limits = Entitlements { requests_per_second: 2_000, burst: 1_000, ..limits(6_000) };
    let (url, stop) = (Cluster::shared().await.redis_url(), CancellationToken::new());
    let clients = (0..2).flat_map(|_| {
        let replica = limiter(&world, Some(&url), 2);
        tokio::spawn(replica.clone().run(stop.clone()));
        std::iter::repeat_n(replica, 4)
    });
    let clients: Vec<_> = clients
        .map(|limiter| {
            let (limits, now) = (limits.clone(), world.hands.cp.clock.now());
            tokio::spawn(async move {
                let mut passed = 0;
                loop {
                    if !limiter.take(tenant, Limiter::policy(&limits)).await.allowed {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    } else if limiter.take_of_month(tenant, &limits, false, now).await.unwrap().allowed {
                        passed += 1;
                        tokio::task::yield_now().await;
                    } else {
                        return passed;
                    }
                }
            })
        })
        .collect();
    let mut passed = 0;
    for client in clients {
        passed += client.await.unwrap();
    }
    assert_eq!(passed, 6_000);
    eventually(Duration::from_secs(20), "the count is written down", async || {
        let written = written(&world, tenant).await;
        if written == 6_000 { Ok(()) } else { Err(written) }
    })
    .await;
    stop.cancel();
}

/// Shown to fail: without what is written down (`base` of 0) the first part, without what a replica remembers (`known` of 0
/// in `Next::Ask`) the second.
#[tokio::test]
async fn a_flushed_redis_gives_nothing_away() {
    let world = world().await;
    let acme = world.tenant("acme").await.tenant.id;
    let globex = world.tenant("globex").await.tenant.id;
    let (redis, limits) = (extra_redis().await, limits(500));
    let url = redis.url(0);
    let flush = async || {
        let mut redis = connect(&url).unwrap();
        let () = redis::cmd("FLUSHALL").query_async(&mut redis).await.unwrap();
    };
    let old = limiter(&world, Some(&url), 2);
    for _ in 0..499 {
        assert!(take(&world, &old, acme, &limits).await);
    }
    monthly::settle_now(&old).await;
    assert_eq!(written(&world, acme).await, 499);
    flush().await;
    // Replicas that were started after it know nothing but what is written down.
    let new = [limiter(&world, Some(&url), 2), limiter(&world, Some(&url), 2)];
    assert_eq!(hundred(&world, &new, acme, &limits).await, 1);

    // And one that counted all of it needs nothing to be written down.
    for _ in 0..499 {
        assert!(take(&world, &old, globex, &limits).await);
    }
    assert_eq!(written(&world, globex).await, 0);
    flush().await;
    assert_eq!(hundred(&world, &[old], globex, &limits).await, 1);
}

/// Shown to fail: let `Count::look` never trust.
#[tokio::test]
async fn far_from_the_limit_no_request_waits_for_redis() {
    let world = world().await;
    let tenant = world.tenant("acme").await.tenant.id;
    let redis = extra_redis().await;
    let (url, limits) = (redis.url(0), limits(1_000_000_000));
    let limiter = limiter(&world, Some(&url), 2);
    for _ in 0..1_000 {
        assert!(take(&world, &limiter, tenant, &limits).await);
    }
    let mut conn = connect(&url).unwrap();
    let said: String = redis::cmd("INFO").arg("commandstats").query_async(&mut conn).await.unwrap();
    let calls = said.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls=")?.split(',').next());
    let calls: u32 = calls.expect("it was asked at first").parse().unwrap();
    assert!(calls < 10, "{calls} of 1,000");
    // Nothing is lost by it.
    monthly::settle_now(&limiter).await;
    assert_eq!(written(&world, tenant).await, 1_000);
}

/// Shown to fail: let `Months::add` add nothing; let `Count::alone` pass everything.
#[tokio::test]
async fn while_redis_is_away_the_control_database_counts() {
    let world = world().await;
    let tenant = world.tenant("acme").await.tenant.id;
    let redis = extra_redis().await;
    let proxy = Proxy::to_port(redis.port()).await;
    let limits = limits(50);
    let limiter = limiter(&world, Some(&proxy.url(&redis.url(0))), 1);
    for _ in 0..10 {
        assert!(take(&world, &limiter, tenant, &limits).await);
    }
    proxy.set(Mode::Refuse);
    let mut passed = 0;
    for _ in 0..100 {
        passed += i32::from(take(&world, &limiter, tenant, &limits).await);
    }
    assert_eq!(passed, 40);
    monthly::settle_now(&limiter).await;
    assert_eq!(written(&world, tenant).await, 50);
    // Redis is back, and is told.
    proxy.set(Mode::Pass);
    let key = monthly::key_of(tenant, Month::of(world.hands.cp.clock.now()));
    let mut direct = connect(&redis.url(0)).unwrap();
    eventually(Duration::from_secs(20), "redis counts again", async || {
        limiter.take(tenant, Limiter::policy(&limits)).await;
        assert!(!take(&world, &limiter, tenant, &limits).await);
        let kept: String = direct.get(&key).await.unwrap();
        if kept == format!("{tenant}|50") { Ok(()) } else { Err(kept) }
    })
    .await;
}

/// Shown to fail: let `Months::base` say nothing.
#[tokio::test]
async fn without_redis_a_restart_forgets_nothing() {
    let world = world().await;
    let tenant = world.tenant("acme").await.tenant.id;
    let limits = limits(150);
    let first = limiter(&world, None, 1);
    assert_eq!(hundred(&world, std::slice::from_ref(&first), tenant, &limits).await, 100);
    monthly::settle_now(&first).await;
    let second = limiter(&world, None, 1);
    assert_eq!(hundred(&world, std::slice::from_ref(&second), tenant, &limits).await, 50);
    monthly::settle_now(&second).await;
    assert_eq!(written(&world, tenant).await, 150);
}

/// Shown to fail: the month left out of the counter's key.
#[tokio::test]
async fn a_new_month_begins_at_nothing_and_the_old_one_stays_known() {
    let world = world().await;
    let tenant = world.tenant("acme").await.tenant.id;
    let (url, limits) = (Cluster::shared().await.redis_url(), limits(3));
    let limiter = limiter(&world, Some(&url), 1);
    assert_eq!(hundred(&world, std::slice::from_ref(&limiter), tenant, &limits).await, 3);
    monthly::settle_now(&limiter).await;
    let month = Month::of(world.hands.cp.clock.now());
    world.hands.cp.clock.advance(month.end() - world.hands.cp.clock.now() + TimeDelta::seconds(1));
    assert_eq!(hundred(&world, std::slice::from_ref(&limiter), tenant, &limits).await, 3);
    monthly::settle_now(&limiter).await;
    assert_eq!(requests_of(world.db(), tenant, month).await.unwrap(), 3);
    assert_eq!(written(&world, tenant).await, 3);
}
