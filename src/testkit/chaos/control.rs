//! The control database away for long: one server loses it, another of the same world keeps it, and both serve the same
//! tenants under the same load at the same time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde::Serialize;
use serde_json::json;

use super::{Ask, Group, Town, Traffic, Window};
use crate::control_plane::access::tenant_suspend;
use crate::control_plane::tenants::TenantRef;
use crate::identity::keys::{api_key_list, api_key_revoke};
use crate::kernel::Role;
use crate::product::{Current, Product};
use crate::testkit::figures::Spread;
use crate::testkit::proxy::Counts;
use crate::testkit::{AppOptions, Mode, TestApp, Through, WorldOptions, eventually, tester};

/// How long and how much.
#[derive(Clone, Copy, Debug)]
pub struct Measure {
    pub tenants: usize,
    /// Requests a second to each of the two servers.
    pub rate: f64,
    pub healthy: Duration,
    pub refused: Duration,
    pub hung: Duration,
}

/// What a part of the outage came to.
#[derive(Debug, Serialize)]
pub struct Part {
    pub mode: &'static str,
    pub seconds: f64,
    pub wire: Counts,
    pub requests: usize,
    pub wrong: usize,
    pub served: Spread,
    /// The server that lost nothing, at the same time.
    pub beside: Spread,
    pub beside_wrong: usize,
    /// Sign-ups and how they were answered.
    pub signups: BTreeMap<String, usize>,
    pub signup_took: Spread,
    /// Answers to a suspended tenant and to a revoked key.
    pub shut: BTreeMap<String, usize>,
}

/// What the whole came to.
#[derive(Debug, Serialize)]
pub struct Outage {
    pub parts: Vec<Part>,
    /// Successes of a suspended tenant or a revoked key, ever.
    pub let_in: usize,
    /// From the end until a sign-up succeeds, its worker included.
    pub recovered_seconds: f64,
    /// Hanging requests, of any group.
    pub hung: usize,
    pub samples: Vec<String>,
}

const GROUPS: usize = 4;
/// The longest that a sign-up waits for the control database.
const PATIENCE: Duration = Duration::from_millis(3_500);

/// Runs the whole: healthy, refused, hung, and back.
///
/// # Panics
/// When it does not come back.
pub async fn outage(measure: Measure) -> Outage {
    let app = TestApp::start::<Current>(AppOptions {
        world: WorldOptions { shards: 2, tenant_cap: 5_000, slots: 4, tables: Current::migrations() },
        through: Through { control: true, ..Through::default() },
        ..AppOptions::of::<Current>()
    })
    .await;
    let beside = app.beside::<Current>().await;
    let town = Town::settle(app, measure.tenants.div_ceil(2)).await;
    let proxy = town.app.proxies.control.as_ref().expect("a proxy was asked for");
    let shut = shut_doors(&town).await;

    let traffic = Traffic::start(vec![
        town.reading("away", measure.rate, &town.app.replicas[0].url("")),
        town.reading("beside", measure.rate, &beside.url("")),
        signups(&town, 0.5),
        Group { name: "shut", rate: 2.0, make: Box::new(move |number| shut[number as usize % 2].clone()) },
    ]);
    let mut parts = Vec::new();
    for (mode, name, lasts) in [
        (Mode::Pass, "there", measure.healthy),
        (Mode::Refuse, "refused", measure.refused),
        (Mode::Blackhole, "hung", measure.hung),
    ] {
        let before = proxy.counts();
        proxy.set(mode);
        let from = Instant::now();
        tokio::time::sleep(lasts).await;
        parts.push((name, from, Instant::now(), proxy.counts() - before));
    }
    proxy.set(Mode::Pass);
    let ended = Instant::now();
    let again = |number| json!({ "slug": format!("again-{number}") });
    let mut tries = 0;
    eventually(Duration::from_secs(60), "sign-up is back", async || {
        tries += 1;
        let ask = town.app.operator(Method::POST, "/operator/v1/tenants").json(&again(tries));
        match town.app.send(ask).await {
            (201, _) => Ok(()),
            (status, body) => Err(format!("{status} {body}")),
        }
    })
    .await;
    let recovered_seconds = ended.elapsed().as_secs_f64();
    let seen = traffic.finish().await;
    beside.stop().await;
    Outage {
        parts: parts.iter().map(|(mode, from, to, wire)| part(mode, *from, *to, *wire, &seen)).collect(),
        let_in: seen[3].events.iter().filter(|event| event.is_right()).count(),
        recovered_seconds,
        hung: seen.iter().flat_map(|group| &group.events).filter(|event| event.status == 0).count(),
        samples: seen[..2]
            .iter()
            .flat_map(|group| group.events.iter().filter(|event| !event.is_right()).take(3))
            .map(|event| format!("{event:?}"))
            .collect(),
    }
}

fn part(mode: &'static str, from: Instant, to: Instant, wire: Counts, seen: &[Window]) -> Part {
    let inside = |group: &Window| {
        let events = group.events.iter().filter(|event| (from..to).contains(&event.due));
        Window::of(events.cloned().collect())
    };
    let [away, beside, mut signups, shut]: [Window; GROUPS] =
        std::array::from_fn(|group| inside(&seen[group]));
    if mode != "there" {
        // One that began just before the end may have waited for it, and be right.
        let whole = signups.events.into_iter().filter(|event| event.due + PATIENCE < to);
        signups = Window::of(whole.collect());
    }
    Part {
        mode,
        seconds: (to - from).as_secs_f64(),
        wire,
        requests: away.requests(),
        wrong: away.wrong(),
        served: away.latency(),
        beside: beside.latency(),
        beside_wrong: beside.wrong(),
        signup_took: if signups.wrong() > 0 { signups.refusals() } else { signups.latency() },
        signups: signups.answers(),
        shut: shut.answers(),
    }
}

/// A suspended tenant and a tenant whose key is revoked, both known to the servers: requests that must never succeed.
async fn shut_doors(town: &Town) -> [Ask; 2] {
    let app = &town.app;
    let mut doors = Vec::new();
    for slug in ["suspended", "revoked"] {
        app.world.tenant(slug).await;
        let key = app.key(slug, Role::Owner).await;
        let ask = Ask {
            method: Method::GET,
            url: app.replicas[0].url("/api/v1/projects"),
            host: format!("{slug}.localhost"),
            key,
            body: None,
            once: None,
        };
        eventually(Duration::from_secs(20), "it is served at first", async || {
            let (status, _) = app.send(app.request(Method::GET, slug, &ask.key, "/api/v1/projects")).await;
            if status == 200 { Ok(()) } else { Err(status) }
        })
        .await;
        doors.push(ask);
    }
    let cp = &app.world.hands.cp;
    let named = |slug: &str| TenantRef::Slug(slug.to_owned());
    let run = tenant_suspend(cp, &tester(), &named("suspended"), "abuse").await.expect("suspended");
    app.world.finish(run).await;
    let mut conn = cp.db.acquire().await.expect("the control database");
    let keys = api_key_list(&mut conn, &named("revoked"), &Default::default()).await.expect("its keys").items;
    api_key_revoke(cp, &tester(), keys[0].id).await.expect("revoked");
    for (slug, ask) in ["suspended", "revoked"].iter().zip(&doors) {
        eventually(Duration::from_secs(5), "the door is shut", async || {
            let (status, _) = app.send(app.request(Method::GET, slug, &ask.key, "/api/v1/projects")).await;
            if status == 200 { Err(status) } else { Ok(()) }
        })
        .await;
    }
    doors.try_into().expect("two")
}

fn signups(town: &Town, rate: f64) -> Group {
    let (url, key) = (town.app.replicas[0].url("/operator/v1/tenants"), town.app.operator_key.clone());
    Group {
        name: "sign-up",
        rate,
        make: Box::new(move |number| Ask {
            method: Method::POST,
            url: url.clone(),
            host: "localhost".to_owned(),
            key: key.clone(),
            body: Some(json!({ "slug": format!("newcomer-{number}") })),
            once: None,
        }),
    }
}
