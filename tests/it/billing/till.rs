//! A control plane with customers at a Stripe of our own, and batches to send.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use freehold::app;
use freehold::billing::ledger::meters::{Aggregation, Meter, meters_put};
use freehold::billing::sender::breaker::Breaker;
use freehold::billing::sender::{Sender, Sent};
use freehold::billing::stripe::NewCustomer;
use freehold::billing::{Billing, catalogue};
use freehold::control_plane::provisioning::NewTenant;
use freehold::kernel::Clock;
use freehold::kernel::ids::TenantId;
use freehold::product::{Current, Product};
use freehold::testkit::stripe::{Options, Rates, StripeStandIn};
use freehold::testkit::{World, WorldOptions};
use sqlx::PgPool;
use uuid::Uuid;

/// Work, added up.
pub const WORK: Meter = Meter { id: "work", name: "Work", unit: "piece", aggregation: Aggregation::Sum };
/// What Stripe calls it.
pub const WORK_EVENT: &str = "freehold_work";

pub struct Till {
    pub world: World,
    pub stripe: StripeStandIn,
    pub billing: Billing,
    /// Each with its customer at Stripe.
    pub tenants: Vec<(TenantId, String)>,
}

impl Till {
    /// So many tenants with customers; the meter of work is at Stripe.
    pub async fn new(tenants: usize) -> Self {
        let mut till = Self::empty().await;
        for n in 0..tenants {
            till.tenant(&format!("till-{n}")).await;
        }
        catalogue::sync(&till.billing.cp, &till.billing.stripe, false).await.unwrap();
        till
    }

    /// Meters that Stripe does not have yet, and no tenants.
    pub async fn empty() -> Self {
        let options = WorldOptions { shards: 1, tenant_cap: 100, slots: 0, tables: Current::migrations() };
        let world = World::with(options).await;
        let cp = world.hands.cp.clone();
        let options = Options { clock: cp.clock.clone(), rates: Rates::NONE, ..Options::default() };
        let stripe = StripeStandIn::start_with(options).await;
        let mut settings = stripe.settings();
        settings.patience = Duration::from_millis(700);
        let billing = app::billing(&cp, world.hands.admins.clone(), settings, None).unwrap();
        let mut conn = cp.db.acquire().await.unwrap();
        meters_put(&mut conn, &[WORK]).await.unwrap();
        drop(conn);
        Self { world, stripe, billing, tenants: Vec::new() }
    }

    pub fn db(&self) -> &PgPool {
        self.world.db()
    }

    pub fn now(&self) -> DateTime<Utc> {
        self.billing.cp.clock.now()
    }

    pub fn clock(&self) -> &Clock {
        &self.billing.cp.clock
    }

    async fn tenant(&mut self, slug: &str) {
        let new = NewTenant { slug: slug.to_owned(), name: None, plan: Some("team".to_owned()) };
        self.world.create(&new).await.unwrap();
        let tenant: TenantId = sqlx::query_scalar("SELECT id FROM tenant WHERE slug = $1")
            .bind(slug)
            .fetch_one(self.db())
            .await
            .unwrap();
        let new = NewCustomer { tenant: tenant.to_string(), name: slug.to_owned(), email: None };
        let customer = self.billing.stripe.customer_create(&new, format!("customer:{tenant}")).await.unwrap();
        sqlx::query(
            "INSERT INTO billing_account (tenant, livemode, customer, access_since, created_at, updated_at)
             VALUES ($1, false, $2, $3, $3, $3)",
        )
        .bind(tenant)
        .bind(&customer.id)
        .bind(self.now())
        .execute(self.db())
        .await
        .unwrap();
        self.tenants.push((tenant, customer.id));
    }

    /// A sealed batch of work of the n-th tenant, as old as said.
    pub async fn batch(&self, tenant: usize, quantity: i64, age: TimeDelta) -> Uuid {
        let (id, now) = (Uuid::now_v7(), self.now());
        let at = DateTime::from_timestamp((now - age).timestamp(), 0).unwrap();
        sqlx::query(
            "INSERT INTO usage_batch (id, tenant, meter, window_start, seq, quantity, facts, identifier, event_at, state,
                 not_before, sealed_at)
             VALUES ($1::uuid, $2, 'work', $3, (SELECT count(*)::integer FROM usage_batch), $4, 1, 'ub:' || $1::uuid::text, $3,
                 'ready', $5, $5)",
        )
        .bind(id)
        .bind(self.tenants[tenant].0)
        .bind(at)
        .bind(quantity)
        .bind(now)
        .execute(self.db())
        .await
        .unwrap();
        id
    }

    /// One sender's round, as of a process that has just started.
    pub async fn round(&self) -> Sent {
        self.fresh().round(Duration::from_secs(20)).await.unwrap()
    }

    pub fn fresh(&self) -> Sender {
        Sender::of(&Billing { breaker: Breaker::default(), ..self.billing.clone() })
    }

    /// Rounds, with time in between, until nothing waits to be sent.
    pub async fn send_all(&self, step: TimeDelta) -> Sent {
        let mut all = Sent::default();
        for _ in 0..200 {
            all += self.round().await;
            if self.waiting().await == 0 {
                return all;
            }
            self.clock().advance(step);
        }
        panic!("after 200 rounds {} batches wait: {:?}", self.waiting().await, self.states().await);
    }

    /// Batches that are to be sent.
    pub async fn waiting(&self) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM usage_batch WHERE state IN ('ready', 'sending', 'unknown')")
            .fetch_one(self.db())
            .await
            .unwrap()
    }

    /// State and attempts of a batch.
    pub async fn state(&self, batch: Uuid) -> (String, i32, Option<String>) {
        sqlx::query_as("SELECT state, attempts, delivered_via FROM usage_batch WHERE id = $1")
            .bind(batch)
            .fetch_one(self.db())
            .await
            .unwrap()
    }

    pub async fn states(&self) -> Vec<(String, i64)> {
        sqlx::query_as("SELECT state, count(*) FROM usage_batch GROUP BY state ORDER BY state")
            .fetch_all(self.db())
            .await
            .unwrap()
    }

    /// What Stripe counted for the n-th tenant.
    pub fn counted(&self, tenant: usize) -> i64 {
        self.stripe.event_sum(&self.tenants[tenant].1, WORK_EVENT)
    }

    /// Kinds of the incidents that are open.
    pub async fn incidents(&self) -> Vec<(String, String)> {
        sqlx::query_as(
            "SELECT kind, subject FROM billing_incident WHERE settled_at IS NULL ORDER BY kind, subject",
        )
        .fetch_all(self.db())
        .await
        .unwrap()
    }

    /// What the sealed batches of the n-th tenant add up to.
    pub async fn sealed(&self, tenant: usize) -> i64 {
        sqlx::query_scalar(
            "SELECT COALESCE(sum(quantity), 0)::bigint FROM usage_batch WHERE tenant = $1 AND meter = 'work'",
        )
        .bind(self.tenants[tenant].0)
        .fetch_one(self.db())
        .await
        .unwrap()
    }
}
