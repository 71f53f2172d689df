//! From signing up on a paid plan, by Checkout and a payment that fails, to read-only, to suspended, and back by paying: with
//! a browser, two servers and Stripe's webhooks.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use freehold::billing::access::{self, Access, Override, override_clear, override_set};
use freehold::billing::inbox::signature;
use freehold::data_plane::tenancy::cookie::SESSION_COOKIE;
use freehold::kernel::Role;
use freehold::kernel::ids::{AccountId, TenantId};
use freehold::product::Current;
use freehold::testkit::stripe::{AfterRetries, StripeStandIn};
use freehold::testkit::{AppOptions, Browser, Form, Page, TestApp, eventually, tester};
use reqwest::Method;
use secrecy::ExposeSecret;
use serde_json::json;

use crate::identity::fixture::{person, sign_in};

pub const WAIT: Duration = Duration::from_secs(60);
pub const DAY: Duration = Duration::from_secs(86_400);

async fn start(stripe: &StripeStandIn, replicas: usize) -> TestApp {
    TestApp::start::<Current>(AppOptions { stripe: Some(stripe), replicas, ..AppOptions::of::<Current>() })
        .await
}

pub fn form(page: &Page, action: &str, plan: Option<&str>) -> Form {
    let fits = |form: &Form| {
        let field = |value: &str| form.fields.iter().any(|(name, is)| name == "plan" && is == value);
        form.action.path().ends_with(action) && plan.is_none_or(field)
    };
    page.forms()
        .into_iter()
        .find(fits)
        .unwrap_or_else(|| panic!("no form {action} {plan:?} on {}", page.body))
}

/// What a page says of the status.
pub fn status(page: &Page) -> &str {
    let (_, rest) = page.body.split_once("data-status>").unwrap_or_else(|| panic!("{}", page.body));
    rest.split('<').next().unwrap_or_default()
}

/// A project is made, and read, with a key: the two answers' statuses, of one server.
pub async fn try_out(app: &TestApp, replica: usize, key: &str) -> (u16, u16) {
    let body = json!({ "name": format!("p{}", freehold::kernel::Entropy::default().base32::<5>()) });
    let (made, _) =
        app.send(app.on(replica, Method::POST, "acme", key, "/api/v1/projects").json(&body)).await;
    let (read, _) = app.send(app.on(replica, Method::GET, "acme", key, "/api/v1/projects")).await;
    (made, read)
}

async fn all_done(app: &TestApp, stripe: &StripeStandIn) {
    eventually(WAIT, "all events are delivered and worked off", async || {
        let open: i64 =
            sqlx::query_scalar("SELECT count(*) FROM webhook_inbox WHERE state NOT IN ('done', 'ignored')")
                .fetch_one(app.world.db())
                .await
                .unwrap();
        if stripe.is_all_delivered() && open == 0 { Ok(()) } else { Err(format!("{open} open")) }
    })
    .await;
}

pub async fn looks(app: &TestApp, tenant: TenantId, want: Access) {
    eventually(WAIT, &format!("access is {want}"), async || {
        access::round(&app.billing).await.map_err(|error| error.to_string())?;
        let now: Access = sqlx::query_scalar("SELECT access FROM billing_account WHERE tenant = $1")
            .bind(tenant)
            .fetch_one(app.world.db())
            .await
            .map_err(|error| error.to_string())?;
        if now == want { Ok(()) } else { Err(now.to_string()) }
    })
    .await;
}

/// Somebody who has made a workspace on a paid plan, and paid.
pub struct Signed {
    pub browser: Browser,
    pub tenant: TenantId,
    /// The address of its page about plan and payment.
    pub mine: String,
    /// At Stripe.
    pub customer: String,
    /// That page, after the payment.
    pub page: Page,
}

/// A session of now: the one before may have run out.
pub async fn come_back(app: &TestApp, browser: &Browser, person: AccountId) {
    let session = sign_in(&app.world, person).await;
    browser.plant("localhost", SESSION_COOKIE, session.token.expose_secret());
}

/// Makes the workspace `acme` on the plan `team`, is led to Checkout, and pays with a card that works.
pub async fn sign_up(app: &TestApp, stripe: &StripeStandIn, person: AccountId) -> Signed {
    let browser = Browser::new(app);
    come_back(app, &browser, person).await;
    let new = browser.open("http://localhost/new").await;
    assert!(new.body.contains("49.00 EUR a month"), "{}", new.body);
    let sign_up = form(&new, "/new", None);
    let ready = browser.submit(&new, &sign_up, &[("name", "Acme"), ("slug", "acme"), ("plan", "team")]).await;
    let tenant: TenantId = ready.url.path().rsplit('/').next().unwrap().parse().unwrap();
    let mine = format!("http://localhost/billing/{tenant}");
    assert!(
        ready.body.contains(&format!("/billing/{tenant}")),
        "a paid workspace begins by paying: {}",
        ready.body
    );

    let plan = browser.open(&mine).await;
    assert_eq!(status(&plan), "Not paid yet");
    let checkout = browser.submit(&plan, &form(&plan, "/checkout", Some("team")), &[]).await;
    assert!(checkout.url.as_str().starts_with(&stripe.base_url), "{}", checkout.url);
    let pay = field(&checkout, "card", "works");
    let page = browser.submit(&checkout, &pay, &[]).await;
    assert_eq!(page.url.as_str(), mine, "{:?}", page.visited);
    assert_eq!(status(&page), "Trial");
    let customer = sqlx::query_scalar("SELECT customer FROM billing_account WHERE tenant = $1")
        .bind(tenant)
        .fetch_one(app.world.db())
        .await
        .unwrap();
    Signed { browser, tenant, mine, customer, page }
}

/// The form of a page with this in a field.
pub fn field(page: &Page, name: &str, value: &str) -> Form {
    let fits = |form: &Form| form.fields.iter().any(|(is, of)| is == name && of == value);
    page.forms().into_iter().find(fits).unwrap_or_else(|| panic!("no {name}={value} on {}", page.body))
}

#[tokio::test]
async fn from_sign_up_to_read_only_and_back_by_paying() {
    let stripe = StripeStandIn::start().await;
    stripe.after_retries(AfterRetries::LeavePastDue);
    let app = start(&stripe, 1).await;
    let ada = person(&app.world, "ada").await;
    let Signed { browser, tenant, mine, customer, page: back } = sign_up(&app, &stripe, ada).await;
    all_done(&app, &stripe).await;

    // A stranger sees nothing of it, and a member no money.
    let other = Browser::new(&app);
    let eve = person(&app.world, "eve").await;
    let token = sign_in(&app.world, eve).await;
    other.plant("localhost", SESSION_COOKIE, token.token.expose_secret());
    assert_eq!(other.open(&mine).await.status, 404);
    let portal = browser.submit(&back, &form(&back, "/portal", None), &[]).await;
    assert!(portal.url.as_str().starts_with(&stripe.base_url), "{}", portal.url);

    // The first payment after the trial fails.
    let key = app.key("acme", Role::Owner).await;
    stripe.card(&customer, false);
    stripe.clock_advance(DAY * 17);
    all_done(&app, &stripe).await;
    looks(&app, tenant, Access::Grace).await;
    assert_eq!(try_out(&app, 0, &key).await, (201, 200));
    stripe.clock_advance(DAY * 7);
    all_done(&app, &stripe).await;
    looks(&app, tenant, Access::PastDue).await;
    assert_eq!(try_out(&app, 0, &key).await, (402, 200));
    stripe.clock_advance(DAY * 7);
    all_done(&app, &stripe).await;
    looks(&app, tenant, Access::Restricted).await;
    assert_eq!(try_out(&app, 0, &key).await, (402, 200));
    stripe.clock_advance(DAY * 7);
    all_done(&app, &stripe).await;
    looks(&app, tenant, Access::Suspended).await;
    eventually(WAIT, "it is shut", async || match try_out(&app, 0, &key).await {
        (402, 402) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    // The mails were sent, and lead to the page, which still opens.
    eventually(WAIT, "the letters are sent", async || {
        let mails = app.mails();
        let about = |words: &str| mails.iter().any(|mail| mail.contains(words));
        let all = ["a payment is due", "is read-only", "suspended until"];
        if all.iter().all(|words| about(words)) { Ok(()) } else { Err(format!("{} mails", mails.len())) }
    })
    .await;
    come_back(&app, &browser, ada).await;
    let shut = browser.open(&mine).await;
    assert_eq!(status(&shut), "Suspended");

    stripe.card(&customer, true);
    for invoice in stripe.invoices(&customer) {
        if invoice["status"] == "open" {
            assert!(stripe.invoice_pay(invoice["id"].as_str().unwrap()));
        }
    }
    eventually(WAIT, "it is open again", async || match try_out(&app, 0, &key).await {
        (201, 200) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert_eq!(status(&browser.open(&mine).await), "Active");
    assert!(stripe.refused().is_empty(), "{:?}", stripe.refused());
}

/// Every server acts by a change within a second.
#[tokio::test]
async fn what_is_owed_reaches_every_server_within_a_second() {
    let stripe = StripeStandIn::start().await;
    let app = start(&stripe, 2).await;
    // A plan whose own limits the test does not reach.
    let tenant = app.world.tenant_with("acme", "enterprise").await.tenant.id;
    let key = app.key("acme", Role::Owner).await;
    let known = eventually(WAIT, "it has an account", async || {
        let there: Option<bool> = sqlx::query_scalar("SELECT true FROM billing_account WHERE tenant = $1")
            .bind(tenant)
            .fetch_optional(app.world.db())
            .await
            .unwrap();
        there.ok_or("none")
    });
    assert!(known.await);
    for replica in 0..2 {
        assert_eq!(try_out(&app, replica, &key).await, (201, 200));
    }
    let until = app.billing.cp.clock.now() + TimeDelta::days(3);
    for (access, want) in
        [(Access::PastDue, (402, 200)), (Access::Active, (201, 200)), (Access::Restricted, (402, 200))]
    {
        let word = Override { access, reason: "a test of it".to_owned(), until };
        override_set(&app.billing, &tester(), tenant, &word).await.unwrap();
        let begun = Instant::now();
        for replica in 0..2 {
            eventually(Duration::from_secs(5), &format!("{access} at server {replica}"), async || {
                match try_out(&app, replica, &key).await {
                    got if got == want => Ok(()),
                    got => Err(format!("{got:?}")),
                }
            })
            .await;
        }
        assert!(begun.elapsed() < Duration::from_secs(2), "{access}: {:?}", begun.elapsed());
    }
    // What takes a way in away is possible all the same.
    let (refused, _) = app
        .send(app.request(Method::DELETE, "acme", &key, "/api/v1/api-keys/key_06fqv3k1s9t4m7b2n8c5v0r6e4"))
        .await;
    assert_eq!(refused, 404);
    override_clear(&app.billing, &tester(), tenant).await.unwrap();
    eventually(WAIT, "the rule holds again", async || match try_out(&app, 0, &key).await {
        (201, 200) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

/// The two addresses, over HTTP: at the base host only, raw bytes, a megabyte at most.
#[tokio::test]
async fn the_endpoints_answer_stripe_and_nobody_else() {
    let stripe = StripeStandIn::start().await;
    let app = start(&stripe, 1).await;
    let body =
        r#"{"id":"evt_http","livemode":false,"type":"plan.created","data":{"object":{"id":"plan_1"}}}"#;
    let at = app.billing.cp.clock.now().timestamp();
    let post = async |path: &str, host: &str, secret: &str, body: String| {
        let signed = signature::sign(secret, at, body.as_bytes());
        let request = app.client.post(app.replicas[0].url(path)).header("host", host);
        app.send(request.header(signature::HEADER, signed).body(body)).await.0
    };
    let (snapshot, thin) = ("/webhooks/stripe/snapshot", "/webhooks/stripe/thin");
    let secret = stripe.snapshot_secret.as_str();
    for host in ["localhost", "127.0.0.1"] {
        assert_eq!(post(snapshot, host, secret, body.to_owned()).await, 200, "{host}");
    }
    assert_eq!(post(snapshot, "acme.localhost", secret, body.to_owned()).await, 404);
    assert_eq!(post(snapshot, "localhost", "whsec_else", body.to_owned()).await, 400);
    assert_eq!(post(thin, "localhost", secret, body.to_owned()).await, 400);
    assert_eq!(post(thin, "localhost", &stripe.thin_secret, body.replace("evt_http", "evt_thin")).await, 200);
    let long = "x".repeat(1024 * 1024 + 1);
    assert_eq!(post(snapshot, "localhost", secret, long).await, 413);
    let (unsigned, _) =
        app.send(app.client.post(app.replicas[0].url(snapshot)).header("host", "localhost").body(body)).await;
    assert_eq!(unsigned, 400);
    let rows: Vec<(String, String, i32)> =
        sqlx::query_as("SELECT event_id, state, deliveries FROM webhook_inbox ORDER BY event_id")
            .fetch_all(app.world.db())
            .await
            .unwrap();
    let want = [("evt_http", "ignored", 2), ("evt_thin", "ignored", 1)];
    assert_eq!(rows, want.map(|(id, state, times)| (id.to_owned(), state.to_owned(), times)));
}
