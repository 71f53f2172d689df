//! Redis killed, behind a bad network, emptied, set back to an old copy, under load: requests go on, limits still bind,
//! and a revoked key stays revoked. Redis holds the rate limits and nothing else.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use serde::Serialize;

use super::{Ask, Event, Group, Town, Traffic, Window};
use crate::control_plane::tenants::TenantRef;
use crate::data_plane::limits::Limiter;
use crate::identity::keys::{api_key_list, api_key_revoke};
use crate::kernel::Role;
use crate::local::RedisServer;
use crate::product::{Current, Product};
use crate::testkit::figures::Spread;
use crate::testkit::proxy::Counts;
use crate::testkit::{AppOptions, Mode, TestApp, Through, WorldOptions, eventually, extra_redis, tester};

/// How long and how much.
#[derive(Clone, Copy, Debug)]
pub struct Measure {
    pub tenants: usize,
    /// Requests a second of tenants that keep to their limits, together.
    pub rate: f64,
    /// How many times its limit the flooding tenant asks.
    pub flood: f64,
    pub fault: Duration,
}

/// What is done to Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    Nothing,
    /// The process is killed and started again, empty.
    Killed,
    Network(Mode),
    /// `FLUSHALL`, five times.
    Flushed,
    /// Every key as it was at the beginning of the trouble, five times.
    SetBack,
}

/// Every trouble, by name.
pub const TROUBLES: &[(&str, Trouble)] = &[
    ("none", Trouble::Nothing),
    ("killed and restarted", Trouble::Killed),
    ("refuse", Trouble::Network(Mode::Refuse)),
    ("blackhole", Trouble::Network(Mode::Blackhole)),
    ("slow 20 ms", Trouble::Network(Mode::Latency(Duration::from_millis(20)))),
    ("slow 300 ms", Trouble::Network(Mode::Latency(Duration::from_millis(300)))),
    (
        "flap",
        Trouble::Network(Mode::Flap { up: Duration::from_millis(700), down: Duration::from_millis(700) }),
    ),
    ("flushed", Trouble::Flushed),
    ("set back to an old copy", Trouble::SetBack),
];

/// How often buckets are emptied or set back within one trouble.
const TIMES: u32 = 5;

/// What a trouble came to.
#[derive(Debug, Serialize)]
pub struct Seen {
    pub trouble: &'static str,
    pub wire: Counts,
    /// Keys that were deleted or set back.
    pub keys: usize,
    pub requests: usize,
    pub wrong: usize,
    /// Those of them that say that a shard was slow or busy: on a machine with too much to do, that is not about Redis.
    pub of_shards: usize,
    pub answers: BTreeMap<String, usize>,
    pub served: Spread,
    /// The flooding tenant: asked, let in, and what its plan grants for that time: rate × time + burst.
    pub flood_asked: usize,
    pub flood_let_in: usize,
    pub granted: f64,
    /// The most that could be let in: each change of who decides, and each loss of the bucket, grants one burst more.
    pub bound: f64,
    /// Answers other than success and 429 to the flooding tenant, those of shards left out.
    pub flood_wrong: usize,
    /// Successes of a revoked key.
    pub let_in: usize,
}

/// A world with a Redis of its own behind a proxy.
pub struct Stage {
    pub town: Town,
    pub server: RedisServer,
    flooder: Ask,
    revoked: Ask,
}

impl Stage {
    /// # Panics
    /// When anything goes wrong.
    pub async fn set(tenants: usize) -> Self {
        let server = extra_redis().await;
        let app = TestApp::start::<Current>(AppOptions {
            world: WorldOptions { shards: 2, tenant_cap: 1_000, slots: 4, tables: Current::migrations() },
            through: Through { redis: true, ..Through::default() },
            redis_url: Some(server.url(0)),
            ..AppOptions::of::<Current>()
        })
        .await;
        let mut asks = Vec::new();
        for slug in ["flooder", "revoked"] {
            app.world.tenant_with(slug, "free").await;
            asks.push(Ask {
                method: reqwest::Method::GET,
                url: app.replicas[0].url("/api/v1/projects"),
                host: format!("{slug}.localhost"),
                key: app.key(slug, Role::Owner).await,
                body: None,
                once: None,
            });
        }
        let [flooder, revoked] = asks.try_into().expect("two");
        let cp = &app.world.hands.cp;
        let mut conn = cp.db.acquire().await.expect("the control database");
        let keys = api_key_list(&mut conn, &TenantRef::Slug("revoked".to_owned()), &Default::default())
            .await
            .expect("its keys")
            .items;
        drop(conn);
        api_key_revoke(cp, &tester(), keys[0].id).await.expect("revoked");
        Self { town: Town::settle(app, tenants.div_ceil(2)).await, server, flooder, revoked }
    }

    async fn direct(&self) -> MultiplexedConnection {
        let client = redis::Client::open(self.server.url(0)).expect("a URL");
        let patient = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(20)));
        client.get_multiplexed_async_connection_with_config(&patient).await.expect("Redis")
    }

    /// Load, trouble, and the end of it.
    ///
    /// # Panics
    /// When Redis does not decide again afterwards.
    pub async fn trouble(&self, (name, trouble): (&'static str, Trouble), measure: Measure) -> Seen {
        let free = self.town.app.world.show("flooder").await.tenant.id;
        let tenant =
            self.town.app.replicas[0].http.directory.tenant(free).await.expect("known").expect("there");
        let (rate, burst) = (f64::from(tenant.limits.requests_per_second), f64::from(tenant.limits.burst));
        let limiter = &self.town.app.replicas[0].http.limiter;
        // Full buckets at the start, on both sides: what is granted counts them.
        eventually(Duration::from_secs(20), "Redis decides", async || {
            if limiter.is_local() {
                limiter.take(free, Limiter::policy(&tenant.limits)).await;
                Err("still decided here")
            } else {
                Ok(())
            }
        })
        .await;
        tokio::time::sleep(Duration::from_secs_f64(burst / rate + 0.5)).await;

        let (flooder, revoked) = (self.flooder.clone(), self.revoked.clone());
        let proxy = self.town.app.proxies.redis.as_ref().expect("a proxy was asked for");
        let (before, switched) = (proxy.counts(), limiter.switches());
        let begun = Instant::now();
        let traffic = Traffic::start(vec![
            self.town.reading("within limits", measure.rate, &self.town.app.replicas[0].url("")),
            Group { name: "flood", rate: rate * measure.flood, make: Box::new(move |_| flooder.clone()) },
            Group { name: "revoked", rate: 5.0, make: Box::new(move |_| revoked.clone()) },
        ]);
        let calm = measure.fault / 4;
        tokio::time::sleep(calm).await;
        let (keys, losses) = self.make(trouble, measure.fault).await;
        tokio::time::sleep(calm).await;
        let seen = traffic.finish().await;
        let lasted = begun.elapsed().as_secs_f64();
        let [within, flood, revoked]: [Window; 3] = seen.try_into().expect("three groups");
        let switches = (limiter.switches() - switched) as f64;
        Seen {
            trouble: name,
            wire: proxy.counts() - before,
            keys,
            requests: within.requests(),
            wrong: within.wrong(),
            of_shards: within.events.iter().filter(|event| is_of_shard(event)).count(),
            answers: within.answers(),
            served: within.latency(),
            flood_asked: flood.requests(),
            flood_let_in: flood.requests() - flood.wrong(),
            granted: rate * lasted + burst,
            bound: rate * lasted + burst * (1.0 + switches + f64::from(losses)),
            flood_wrong: flood
                .events
                .iter()
                .filter(|event| !event.is_right() && event.status != 429 && !is_of_shard(event))
                .count(),
            let_in: revoked.events.iter().filter(|event| event.is_right()).count(),
        }
    }

    /// Makes the trouble for that long. Gives how many keys it changed, and how often buckets were lost.
    async fn make(&self, trouble: Trouble, lasts: Duration) -> (usize, u32) {
        let proxy = self.town.app.proxies.redis.as_ref().expect("a proxy was asked for");
        match trouble {
            Trouble::Nothing => tokio::time::sleep(lasts).await,
            Trouble::Killed => {
                self.server.crash().await;
                tokio::time::sleep(lasts).await;
                self.server.start_again().await.expect("Redis starts again");
                return (0, 1);
            }
            Trouble::Network(mode) => {
                proxy.set(mode);
                tokio::time::sleep(lasts).await;
                proxy.set(Mode::Pass);
            }
            Trouble::Flushed => {
                let (mut redis, mut keys) = (self.direct().await, 0);
                for _ in 0..TIMES {
                    tokio::time::sleep(lasts / TIMES).await;
                    keys += redis::cmd("DBSIZE").query_async::<usize>(&mut redis).await.expect("a size");
                    redis::cmd("FLUSHALL").query_async::<()>(&mut redis).await.expect("flushed");
                }
                return (keys, TIMES);
            }
            Trouble::SetBack => {
                let (mut redis, mut keys) = (self.direct().await, 0);
                let copy = copy(&mut redis).await;
                for _ in 0..TIMES {
                    tokio::time::sleep(lasts / TIMES).await;
                    for (key, left, value) in &copy {
                        let mut restore = redis::cmd("RESTORE");
                        restore.arg(key).arg(left.max(&1)).arg(value).arg("REPLACE");
                        restore.query_async::<()>(&mut redis).await.expect("restored");
                        keys += 1;
                    }
                }
                return (keys, TIMES);
            }
        }
        (0, 0)
    }
}

fn is_of_shard(event: &Event) -> bool {
    event.code.starts_with("shard_")
}

/// Every key with the milliseconds it has left and its contents.
async fn copy(redis: &mut MultiplexedConnection) -> Vec<(Vec<u8>, i64, Vec<u8>)> {
    let keys: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query_async(redis).await.expect("keys");
    let mut copy = Vec::new();
    for key in keys {
        let left: i64 = redis::cmd("PTTL").arg(&key).query_async(redis).await.expect("a time");
        let value: Option<Vec<u8>> = redis::cmd("DUMP").arg(&key).query_async(redis).await.expect("a dump");
        copy.extend(value.map(|value| (key, left, value)));
    }
    copy
}
