//! A paying tenant with use, and finance in front of it.

use std::time::Duration;

use axum::Router;
use axum::body::to_bytes;
use chrono::{DateTime, TimeDelta};
use freehold::billing::ledger::{Fact, months, record_many, sealer};
use freehold::billing::sender::{Sender, breaker::Breaker};
use freehold::billing::{Billing, customers};
use freehold::http::operator;
use freehold::identity::keys::operator_key_create_as;
use freehold::identity::operators::OperatorRole;
use freehold::kernel::ids::TenantId;
use freehold::testkit::tester;
use http::StatusCode;
use serde_json::Value;
use tower::ServiceExt;

use super::shop::Shop;
use crate::operator::request;

/// A paying tenant with use; everything is delivered, and Stripe's count holds it.
pub struct Office {
    pub shop: Shop,
    pub tenant: TenantId,
    pub customer: String,
}

impl Office {
    pub async fn new() -> Self {
        let shop = Shop::open().await;
        months::months_make(&shop.billing.cp).await.unwrap();
        let (tenant, customer, _) = shop.known("acme", "team").await;
        Self { shop, tenant, customer }
    }

    pub async fn tasks(&self, count: i64, at: DateTime<chrono::Utc>) {
        let fact = |n: i64| Fact {
            tenant: self.tenant,
            meter: "tasks_created".into(),
            source: "outbox:test".into(),
            key: format!("tsk:{}:{n}", at.timestamp()),
            quantity: 1,
            occurred_at: at + TimeDelta::seconds(n % 60),
            received_at: at + TimeDelta::seconds(n % 60),
        };
        let facts: Vec<Fact> = (0..count).map(fact).collect();
        record_many(&mut self.shop.db().acquire().await.unwrap(), &facts).await.unwrap();
    }

    pub async fn deliver(&self) {
        while sealer::seal(&self.shop.billing.cp).await.unwrap().batches > 0 {}
        for _ in 0..20 {
            let fresh = Billing { breaker: Breaker::default(), ..self.shop.billing.clone() };
            Sender::of(&fresh).round(Duration::from_secs(20)).await.unwrap();
            let waiting: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM usage_batch WHERE state IN ('ready', 'sending', 'unknown')",
            )
            .fetch_one(self.shop.db())
            .await
            .unwrap();
            if waiting == 0 {
                return;
            }
            self.shop.pass(TimeDelta::minutes(1));
        }
        panic!("batches wait");
    }

    /// A month passes from the beginning of the period; gives the invoice that it ends with, a draft.
    pub async fn draft(&self) -> String {
        let end: DateTime<chrono::Utc> =
            sqlx::query_scalar("SELECT period_end FROM subscription WHERE tenant = $1")
                .bind(self.tenant)
                .fetch_one(self.shop.db())
                .await
                .unwrap();
        self.shop.pass(end - self.shop.now() + TimeDelta::minutes(5));
        customers::refresh_invoices_of(&self.shop.billing, &self.customer).await.unwrap();
        sqlx::query_scalar(
            "SELECT id FROM invoice WHERE tenant = $1 AND status = 'draft' ORDER BY created_at DESC LIMIT 1",
        )
        .bind(self.tenant)
        .fetch_one(self.shop.db())
        .await
        .unwrap()
    }

    pub async fn held(&self, invoice: &str) -> bool {
        sqlx::query_scalar("SELECT held FROM invoice WHERE id = $1")
            .bind(invoice)
            .fetch_one(self.shop.db())
            .await
            .unwrap()
    }
}

/// The operators' API with a key of each role.
pub struct Api {
    router: Router,
    api: utoipa::openapi::OpenApi,
}

impl Api {
    pub fn of(office: &Office) -> Self {
        let billing = office.shop.billing.clone();
        let (router, api) = operator::routes_with(billing.cp.clone(), Some(billing)).split_for_parts();
        Self { router, api }
    }

    pub async fn key(office: &Office, name: &str, role: OperatorRole) -> String {
        operator_key_create_as(&office.shop.billing.cp, &tester(), name, role, None).await.unwrap().key
    }

    pub async fn send(
        &self,
        key: &str,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let request = request(key, method, path, &[], body);
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// Every operation: method, path, whether it is about money.
    pub fn operations(&self) -> Vec<(&'static str, String, bool)> {
        let mut all = Vec::new();
        for (path, item) in &self.api.paths.paths {
            for (method, operation) in [
                ("GET", &item.get),
                ("POST", &item.post),
                ("PUT", &item.put),
                ("PATCH", &item.patch),
                ("DELETE", &item.delete),
            ] {
                let Some(operation) = operation else { continue };
                let tags = operation.tags.clone().unwrap_or_default();
                all.push((
                    method,
                    path.replace(['{', '}'], "x"),
                    tags.iter().any(|tag| tag == "Operator: billing"),
                ));
            }
        }
        all
    }
}
