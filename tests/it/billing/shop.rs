//! A control plane with a Stripe of our own, whose webhooks a test delivers by hand.

use chrono::{DateTime, TimeDelta, Utc};
use freehold::app;
use freehold::billing::access::Access;
use freehold::billing::customers::{customer_ensure, refresh_subscription};
use freehold::billing::inbox::{Door, Shape, Taken, work_off};
use freehold::billing::stripe::{NewCheckout, Subscription};
use freehold::billing::{Billing, catalogue};
use freehold::identity::keys::{OperatorKey, WithSecret, operator_key_create_for};
use freehold::identity::operators::{NewOperator, Operator, OperatorRef, OperatorRole, operator_add};
use freehold::kernel::Result;
use freehold::kernel::ids::{AccountId, TenantId};
use freehold::product::{Current, Product};
use freehold::testkit::stripe::{Card, Held, Manner, Options, Rates, Shape as Sent, StripeStandIn};
use freehold::testkit::{World, WorldOptions, tester};
use sqlx::PgPool;

pub struct Shop {
    pub world: World,
    pub stripe: StripeStandIn,
    pub billing: Billing,
    pub door: Door,
}

impl Shop {
    /// Plans and meters are at Stripe; there are no tenants.
    pub async fn open() -> Self {
        let options = WorldOptions { shards: 1, tenant_cap: 200, slots: 0, tables: Current::migrations() };
        let world = World::with(options).await;
        let cp = world.hands.cp.clone();
        let options = Options { clock: cp.clock.clone(), rates: Rates::NONE, ..Options::default() };
        let stripe = StripeStandIn::start_with(options).await;
        stripe.deliver(Manner { held: true, ..Manner::default() });
        // Nothing is ever sent there.
        stripe.deliver_to_freehold("http://127.0.0.1:9");
        app::meters::<Current>(&cp).await.unwrap();
        let billing = app::billing(&cp, world.hands.admins.clone(), stripe.settings(), None).unwrap();
        catalogue::sync(&cp, &billing.stripe, false).await.unwrap();
        let door = Door::new(billing.clone());
        Self { world, stripe, billing, door }
    }

    pub fn db(&self) -> &PgPool {
        self.world.db()
    }

    pub fn now(&self) -> DateTime<Utc> {
        self.billing.cp.clock.now()
    }

    /// Time passes, here and at Stripe.
    pub fn pass(&self, time: TimeDelta) {
        self.stripe.clock_advance(time.to_std().unwrap());
    }

    /// A tenant with an owner; no customer yet.
    pub async fn tenant(&self, slug: &str, plan: &str) -> TenantId {
        let tenant = self.world.tenant_with(slug, plan).await.tenant.id;
        let account = AccountId::new();
        sqlx::query("INSERT INTO account (id, name, email, email_verified, created_at, updated_at) VALUES ($1, $2, $3, true, $4, $4)")
            .bind(account)
            .bind(slug)
            .bind(format!("owner@{slug}.example"))
            .bind(self.now())
            .execute(self.db())
            .await
            .unwrap();
        sqlx::query("INSERT INTO membership (tenant, account, role, joined_at) VALUES ($1, $2, 'owner', $3)")
            .bind(tenant)
            .bind(account)
            .bind(self.now())
            .execute(self.db())
            .await
            .unwrap();
        tenant
    }

    /// A tenant that pays for its plan by Checkout, without a trial. Nothing of it has been heard here yet.
    pub async fn paying(&self, slug: &str, plan: &str) -> (TenantId, String, Subscription) {
        let tenant = self.tenant(slug, plan).await;
        let customer = customer_ensure(&self.billing, tenant).await.unwrap();
        let mut conn = self.db().acquire().await.unwrap();
        let prices = catalogue::prices_of(&mut conn, false, plan).await.unwrap();
        drop(conn);
        let new = NewCheckout {
            customer: customer.clone(),
            plan: plan.to_owned(),
            prices,
            trial_days: 0,
            // Their periods begin when they do: what a test does in one does not depend on the time of day.
            anchor: None,
            expires_at: None,
            promotion_code: None,
            reference: "shop".to_owned(),
            success_url: "http://localhost/done".to_owned(),
            cancel_url: "http://localhost/".to_owned(),
        };
        let session = self.billing.stripe.checkout(&new, format!("checkout:{tenant}")).await.unwrap().id;
        self.stripe.checkout_complete(&session, Card::Works);
        let mut there = self.billing.stripe.subscriptions_of(&customer).await.unwrap();
        (tenant, customer, there.pop().expect("a subscription"))
    }

    /// The same, and we know of it.
    pub async fn known(&self, slug: &str, plan: &str) -> (TenantId, String, Subscription) {
        let all = self.paying(slug, plan).await;
        refresh_subscription(&self.billing, &all.2.id).await.unwrap();
        all
    }

    /// An operator, with a key of their own.
    pub async fn operator(&self, name: &str, role: OperatorRole) -> (Operator, WithSecret<OperatorKey>) {
        let (cp, caller) = (&self.billing.cp, tester());
        let new = NewOperator { email: format!("{name}@example.com"), name: name.to_owned(), role };
        let operator = operator_add(cp, &caller, &new).await.unwrap();
        let owner = Some(OperatorRef::Id(operator.id));
        let key = operator_key_create_for(cp, &caller, name, role, owner.as_ref(), None).await.unwrap();
        (operator, key)
    }

    /// Somebody does something in Stripe's dashboard.
    pub async fn at_stripe(&self, path: &str, fields: &[(&str, &str)]) -> serde_json::Value {
        let mut body = reqwest::Url::parse("http://form/").unwrap();
        body.query_pairs_mut().extend_pairs(fields);
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let asked = client
            .post(format!("{}{path}", self.stripe.base_url))
            .bearer_auth(&self.stripe.key)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body.query().unwrap_or_default().to_owned());
        let text = asked.send().await.unwrap().text().await.unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// An event arrives.
    pub async fn deliver(&self, held: &Held) -> Result<Taken> {
        let shape = if held.shape == Sent::Thin { Shape::Thin } else { Shape::Snapshot };
        self.door.take(shape, Some(&held.signature), held.body.as_bytes()).await
    }

    /// All that is on its way arrives, and is worked off.
    pub async fn hear(&self) {
        for held in self.stripe.take_held() {
            self.deliver(&held).await.unwrap();
        }
        work_off(&self.billing).await.unwrap();
    }

    pub async fn access(&self, tenant: TenantId) -> Access {
        sqlx::query_scalar("SELECT access FROM billing_account WHERE tenant = $1")
            .bind(tenant)
            .fetch_one(self.db())
            .await
            .unwrap()
    }

    pub async fn plan(&self, tenant: TenantId) -> String {
        sqlx::query_scalar("SELECT plan FROM tenant WHERE id = $1")
            .bind(tenant)
            .fetch_one(self.db())
            .await
            .unwrap()
    }

    /// Letters that were asked for, in order.
    pub async fn letters(&self, tenant: TenantId) -> Vec<String> {
        sqlx::query_scalar(
            "SELECT payload->>'letter' FROM job WHERE kind = 'billing_letter' AND tenant = $1 ORDER BY id",
        )
        .bind(tenant)
        .fetch_all(self.db())
        .await
        .unwrap()
    }

    /// Kinds and subjects of the incidents that are open.
    pub async fn incidents(&self) -> Vec<(String, String)> {
        sqlx::query_as(
            "SELECT kind, subject FROM billing_incident WHERE settled_at IS NULL ORDER BY kind, subject",
        )
        .fetch_all(self.db())
        .await
        .unwrap()
    }

    /// An event in the inbox: its state, attempts, deliveries.
    pub async fn inbox(&self, event: &str) -> (String, i32, i32) {
        sqlx::query_as("SELECT state, attempts, deliveries FROM webhook_inbox WHERE event_id = $1")
            .bind(event)
            .fetch_one(self.db())
            .await
            .unwrap()
    }
}
