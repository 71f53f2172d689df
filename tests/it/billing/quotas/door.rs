//! The month's limit, and a plan's change, as clients of two replicas see them.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use freehold::billing::quotas::Month;
use freehold::control_plane::plans;
use freehold::kernel::Role;
use freehold::product::Current;
use freehold::testkit::{AppOptions, Replica, TestApp, eventually};
use futures_util::future::join_all;
use reqwest::Method;

use super::{counted, move_to, sell};
use crate::identity::fixture::{enter, person, seat, sign_in};

const PROJECTS: &str = "/api/v1/projects";

async fn app() -> TestApp {
    TestApp::start::<Current>(AppOptions { replicas: 2, worker: false, ..AppOptions::of::<Current>() }).await
}

/// Waits until both replicas say so; fails when one does not within a second.
async fn within_a_second(what: &str, says: impl AsyncFn(usize) -> Result<(), String>) {
    let deadline = Instant::now() + Duration::from_secs(1);
    for replica in 0..2 {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        eventually(left, what, async || says(replica).await).await;
    }
}

/// Shown to fail: the refusal in `tenancy::admit`; `passes` for a browser; `changes::notify` in `tenant_plan_set`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_month_that_is_used_up_is_refused_with_all_there_is_to_say() {
    let app = app().await;
    sell(&app.world, |plan| {
        if plan.id == "business" {
            plan.entitlements.requests_per_month = Some(60);
        }
    })
    .await;
    // A Redis that did not answer in time makes a replica decide alone, which is not what this is about.
    let mut tries = 0;
    let (acme, key, mut refused) = loop {
        let slug = format!("acme-{tries}");
        let acme = app.world.tenant_with(&slug, "business").await;
        counted(&app.world, acme.tenant.id, 59).await;
        let key = app.key(&slug, Role::Viewer).await;
        let seen: Vec<u64> = app.replicas.iter().map(|replica| replica.http.limiter.switches()).collect();
        let answers =
            join_all((0..100).map(|n| app.on(n % 2, Method::GET, &slug, &key, PROJECTS).send())).await;
        let (good, refused): (Vec<_>, Vec<_>) =
            answers.into_iter().map(Result::unwrap).partition(|answer| answer.status() == 200);
        let steady = |(replica, seen): (&Replica, &u64)| {
            !replica.http.limiter.is_local() && replica.http.limiter.switches() == *seen
        };
        if app.replicas.iter().zip(&seen).all(steady) {
            assert_eq!((good.len(), refused.len()), (1, 99));
            break (acme, key, refused);
        }
        tries += 1;
        assert!(tries < 5, "redis is slow all the time");
    };
    let slug = acme.tenant.slug.clone();
    let end = Month::of(app.world.hands.cp.clock.now()).end();
    let answer = refused.pop().unwrap();
    assert_eq!(answer.status(), 429);
    let header = |name: &str| {
        let all = answer.headers().get_all(name).iter();
        all.map(|value| value.to_str().unwrap()).collect::<Vec<_>>().join(", ")
    };
    let left = end - app.world.hands.cp.clock.now();
    let after: i64 = header("retry-after").parse().unwrap();
    assert!((0..=10).contains(&(after - left.num_seconds())), "{after} {left}");
    assert!(header("ratelimit-policy").ends_with("\"month\";q=60"), "{}", header("ratelimit-policy"));
    assert!(header("ratelimit").contains("\"month\";r=0;t="), "{}", header("ratelimit"));
    let body: serde_json::Value = answer.json().await.unwrap();
    assert_eq!(body["code"], "quota_exceeded");
    assert_eq!(body["quota"]["name"], "requests_per_month");
    assert_eq!((body["quota"]["limit"].as_u64(), body["quota"]["used"].as_u64()), (Some(60), Some(60)));
    let resets: DateTime<Utc> = body["quota"]["resets_at"].as_str().unwrap().parse().unwrap();
    assert_eq!(resets, end);
    assert!(body["detail"].as_str().unwrap().starts_with("60 of 60 requests of "), "{body}");
    assert!(body["hint"].as_str().unwrap().contains("/usage"), "{body}");

    // Who runs the workspace sees it on each page, and what can be done; pages go on working.
    let ada = person(&app.world, "ada").await;
    seat(&app.world, &acme, ada, Role::Owner).await;
    let browser = enter(&app.world, sign_in(&app.world, ada).await.id, &acme).await;
    let page = browser.bare(&app, Method::GET, "/projects").send().await.unwrap();
    assert_eq!(page.status(), 200);
    let page = page.text().await.unwrap();
    for words in ["of 60 requests of", "refused until the month ends", "href=\"/usage\""] {
        assert!(page.contains(words), "{words}: {page}");
    }

    // A larger plan is in effect everywhere at once.
    move_to(&app.world, acme.tenant.id, "enterprise").await;
    within_a_second("a larger plan is in effect", async |replica| {
        let answer = app.on(replica, Method::GET, &slug, &key, PROJECTS).send().await.unwrap();
        if answer.status() == 200 { Ok(()) } else { Err(format!("replica {replica}: {}", answer.status())) }
    })
    .await;
}

/// A neighbour is not touched, and a change of the plan itself is in effect on every replica within a second.
///
/// Shown to fail: `changes::notify` in `plans::apply`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_plan_is_in_effect_on_every_replica_within_a_second() {
    let app = app().await;
    app.world.tenant_with("acme", "free").await;
    app.world.tenant_with("globex", "team").await;
    let key = app.key("acme", Role::Viewer).await;
    let other = app.key("globex", Role::Viewer).await;
    let policy = async |replica: usize, slug: &str, key: &str| {
        let answer = app.on(replica, Method::GET, slug, key, PROJECTS).send().await.unwrap();
        answer.headers()["ratelimit-policy"].to_str().unwrap().to_owned()
    };
    for replica in 0..2 {
        assert_eq!(policy(replica, "acme", &key).await, "\"requests\";q=40;w=2");
        assert_eq!(policy(replica, "globex", &other).await, "\"requests\";q=200;w=2");
    }
    sell(&app.world, |plan| {
        if plan.id == "free" {
            plan.entitlements.burst = 60;
        }
    })
    .await;
    within_a_second("the plan's new burst", async |replica| {
        let said = policy(replica, "acme", &key).await;
        if said == "\"requests\";q=60;w=3" { Ok(()) } else { Err(said) }
    })
    .await;
    for replica in 0..2 {
        assert_eq!(policy(replica, "globex", &other).await, "\"requests\";q=200;w=2");
    }
    // And the plans as they were.
    let shipped = plans::parse(plans::SHIPPED).unwrap();
    assert_eq!(shipped[0].entitlements.burst, 40);
}
