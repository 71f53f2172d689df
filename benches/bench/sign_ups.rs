//! A hundred people press "Create workspace" at the same moment, over the pages of the base host: each has a session,
//! has the form open, and waits until the workspace is ready. Afterwards every tenant is looked at, here and on its shard:
//! whole or not there.
//!
//! The provisioning part is what the server itself notes (`tenant_from_slot_seconds`): from the slug to the commit,
//! waiting for a hundred others who want the same shard's row included. Beside it stands what a person waits.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use freehold::data_plane::tenancy::cookie::SESSION_COOKIE;
use freehold::identity::accounts::{Vouched, account_enter};
use freehold::identity::sessions::{Device, Proof, session_start};
use freehold::product::{Current, Product};
use freehold::testkit::figures::{Goal, Median, Spread};
use freehold::testkit::program::{Args, Outcome};
use freehold::testkit::{AppOptions, Browser, Cluster, Form, Page, TestApp, WorldOptions};
use futures_util::future::join_all;
use secrecy::ExposeSecret;
use serde_json::json;

use super::provision::worker_idle;
use super::warm::as_in_production;

const PEOPLE: usize = 100;
const ROUNDS: usize = 5;
const METRIC: &str = "tenant_from_slot_seconds";
/// A bucket's limit of that metric, in seconds.
const GOAL: &str = "0.1";

/// Somebody with the form open.
struct Person {
    browser: Browser,
    page: Page,
    form: Form,
    slug: String,
}

pub async fn measure(args: &Args) -> Outcome {
    Cluster::durable().await;
    let people = args.count(PEOPLE);
    let numbers = as_in_production();
    let app = TestApp::start::<Current>(AppOptions {
        world: WorldOptions {
            shards: 2,
            tenant_cap: 10_000,
            slots: i32::try_from(people).unwrap_or(i32::MAX) / 2 + 5,
            tables: Current::migrations(),
        },
        roomy: true,
        ..AppOptions::of::<Current>()
    })
    .await;
    let (mut waits, mut walls, mut refusals) = (Vec::new(), Vec::new(), BTreeMap::new());
    let mut ready = 0;
    // The first round opens connections and is not counted.
    for round in 0..=ROUNDS {
        worker_idle(&app).await;
        let crowd = join_all((0..people).map(|person| open_form(&app, round, person))).await;
        let before = Buckets::of(&numbers.render());
        let begun = Instant::now();
        let sent = join_all(crowd.iter().map(press)).await;
        let wall = begun.elapsed();
        if round == 0 {
            ready += before.count;
            continue;
        }
        walls.push(wall.as_secs_f64() * 1000.0);
        for outcome in sent {
            match outcome {
                Ok(wait) => waits.push(wait),
                Err(answer) => *refusals.entry(answer).or_insert(0_usize) += 1,
            }
        }
    }
    worker_idle(&app).await;
    let (made, half) = count(&app).await;
    let seen = Buckets::of(&numbers.render());
    let (slot, within) = (seen.count - ready, seen.within - ready);
    let refused: usize = refusals.values().sum();
    let share = within as f64 / slot.max(1) as f64 * 100.0;
    Outcome {
        lines: vec![
            format!("{ROUNDS} rounds of {people} people at once, two shards, a spare slot for each"),
            format!(
                "a round took {} ms until the last workspace was ready",
                Median::of(walls.iter().copied())
            ),
            format!(
                "{} workspaces were ready, {refused} people were refused {refusals:?}; {half} half made",
                waits.len()
            ),
            format!("of {slot} that took a spare slot, {share:.1} % were made within 100 ms"),
        ],
        series: vec![("pressed until ready, as a person sees it".to_owned(), Spread::of(&waits))],
        goals: vec![
            Goal::never("half-made tenants", half).must(),
            Goal::at_least(
                "workspaces that are there, of those that were said to be ready",
                made as f64,
                (waits.len() + people) as f64,
                "",
            )
            .must(),
            Goal::at_least("share of tenants made within 100 ms (p95)", share, 95.0, "%"),
        ],
        facts: json!({ "people": people, "rounds": ROUNDS, "wall_ms": walls, "refused": refusals, "half": half,
            "from_slot": slot, "within_100_ms": within }),
    }
}

/// A new account with a session at the base host, and the form opened in its browser.
async fn open_form(app: &TestApp, round: usize, person: usize) -> Person {
    let cp = &app.world.hands.cp;
    let now = cp.clock.now();
    let vouched = Vouched {
        issuer: "https://id.example.com".to_owned(),
        subject: format!("{round}-{person}"),
        provider: "example".to_owned(),
        name: Some(format!("Person {person}")),
        email: None,
        email_verified: false,
    };
    let mut tx = cp.db.begin().await.expect("a transaction");
    let (account, _) = account_enter(&mut tx, &vouched, now).await.expect("an account");
    let proof = Proof { account, method: "oidc:example".to_owned(), second_factor: false, at: now };
    let started = session_start(&mut tx, &cp.entropy, &proof, &Device::default()).await.expect("a session");
    tx.commit().await.expect("a commit");
    let browser = Browser::new(app);
    browser.plant("localhost", SESSION_COOKIE, started.token.expose_secret());
    let page = browser.open("http://localhost/new").await;
    let form = page.forms().into_iter().find(|form| form.action.path() == "/new").expect("the form");
    Person { browser, page, form, slug: format!("crowd-{round}-{person}") }
}

/// From the press of the button until the progress page says that the workspace is ready; or what was said instead.
async fn press(person: &Person) -> Result<Duration, String> {
    let begun = Instant::now();
    let fill = [("name", person.slug.as_str()), ("slug", person.slug.as_str()), ("plan", "free")];
    let sent = person.browser.submit_once(&person.page, &person.form, &fill).await;
    if sent.status != 303 {
        return Err(sent.status.to_string());
    }
    let next = sent.leads_to().expect("a 303 leads somewhere");
    for _ in 0..3_000 {
        let page = person.browser.ask(reqwest::Method::GET, &next, None, None).await;
        if page.body.contains(&format!("href=\"/go/{}\"", person.slug)) {
            return Ok(begun.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err("never ready".to_owned())
}

/// Tenants of the crowd that are whole, and others: active, an owner, a schema that its own login may use.
async fn count(app: &TestApp) -> (usize, usize) {
    let rows: Vec<(String, Option<String>)> = sqlx::query_as(
        "SELECT t.slug, p.schema_name FROM tenant t
           LEFT JOIN placement p ON p.tenant = t.id AND t.state = 'active'
            AND EXISTS (SELECT FROM membership m WHERE m.tenant = t.id AND m.role = 'owner')",
    )
    .fetch_all(app.world.db())
    .await
    .expect("tenants");
    let mut there = Vec::new();
    for shard in 0..2 {
        let mut conn = app.world.shard_conn(shard).await;
        let schemas: Vec<String> = sqlx::query_scalar(
            "SELECT nspname::text FROM pg_namespace JOIN pg_roles ON rolname = nspname
              WHERE rolcanlogin AND has_schema_privilege(rolname, nspname, 'USAGE')",
        )
        .fetch_all(&mut *conn)
        .await
        .expect("schemas");
        there.extend(schemas);
    }
    let whole = |schema: &Option<String>| schema.as_ref().is_some_and(|name| there.contains(name));
    let made = rows.iter().filter(|(_, schema)| whole(schema)).count();
    (made, rows.len() - made + app.world.orphans().await.len())
}

/// What the metric has counted, by the text that Prometheus would read.
struct Buckets {
    count: u64,
    within: u64,
}

impl Buckets {
    fn of(text: &str) -> Self {
        let read = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
        };
        Self {
            count: read(&format!("{METRIC}_count")),
            within: read(&format!("{METRIC}_bucket{{le=\"{GOAL}\"}}")),
        }
    }
}
