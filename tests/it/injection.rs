//! A product with a hole: an endpoint that puts the client's text into its SQL (trust A4). Whatever is injected runs as
//! the tenant's own login, so it reaches the tenant's own rows and nothing else.

use std::future::Future;

use axum::extract::Query;
use axum::routing::get;
use freehold::data_plane::context::Viewer;
use freehold::data_plane::{As, TenantContext};
use freehold::kernel::{Result, Role};
use freehold::product::Product;
use freehold::testkit::{AppOptions, TestApp};
use reqwest::Method;
use serde::Deserialize;
use sqlx::postgres::PgRow;
use sqlx::{Connection, Executor, PgConnection};
use utoipa_axum::router::OpenApiRouter;

use crate::attacks::{CANARY, attacks, plant, words};
use crate::provisioning::TABLES;

struct Leaky;

impl Product for Leaky {
    const NAME: &'static str = "Leaky";

    fn migrations() -> &'static sqlx::migrate::Migrator {
        &TABLES
    }

    fn routes() -> OpenApiRouter {
        OpenApiRouter::new().route("/api/v1/simple", get(simple)).route("/api/v1/extended", get(extended))
    }

    fn forget_person(_: &TenantContext, _: &str) -> impl Future<Output = Result<()>> + Send {
        std::future::ready(Ok(()))
    }

    fn demo(_: &TenantContext) -> impl Future<Output = Result<()>> + Send {
        std::future::ready(Ok(()))
    }
}

#[derive(Deserialize)]
struct Hole {
    sql: String,
}

/// The simple protocol: several statements in one text. Errors are shown, as a careless product would.
async fn simple(tenant: As<Viewer>, Query(hole): Query<Hole>) -> String {
    let said = tenant.read(async move |conn| {
        let rows = conn.fetch_all(sqlx::raw_sql(sqlx::AssertSqlSafe(hole.sql))).await;
        Ok(rows.map_or_else(|error| error.to_string(), |rows: Vec<PgRow>| words(&rows)))
    });
    said.await.unwrap_or_else(|error| format!("{error:?}"))
}

/// The extended protocol, one statement after the other in one transaction.
async fn extended(tenant: As<Viewer>, Query(hole): Query<Hole>) -> String {
    let said = tenant.write(async move |conn| {
        let mut all = String::new();
        for part in hole.sql.split("; ") {
            let rows = sqlx::query(sqlx::AssertSqlSafe(part.to_owned())).fetch_all(&mut *conn).await;
            all += &rows.map_or_else(|error| error.to_string(), |rows: Vec<PgRow>| words(&rows));
        }
        Ok(all)
    });
    said.await.unwrap_or_else(|error| format!("{error:?}"))
}

/// Guard: the tenant's own login, as in `attacks`, where it is taken away and the same list finds the canary.
#[tokio::test]
async fn injected_sql_reaches_the_tenants_own_rows_only() {
    let options = AppOptions { worker: false, ..AppOptions::of::<Leaky>() };
    let app = TestApp::start::<Leaky>(options).await;
    // The most room for tenants decides, and one shard is closed: both land on the other.
    sqlx::query("UPDATE shard SET state = 'draining' WHERE name = 'shard-2'")
        .execute(app.world.db())
        .await
        .unwrap();
    let attacker = app.world.tenant("attacker").await;
    let victim = app.world.tenant("victim").await;
    let mut own = PgConnection::connect_with(&app.world.tenant_login(&victim)).await.unwrap();
    plant(&mut own).await;
    let key = app.key("attacker", Role::Owner).await;
    let owner = freehold::db::admin::owner_role(app.world.shards[0].database.as_deref().unwrap());
    let list = attacks(victim.schema.as_deref().unwrap(), attacker.schema.as_deref().unwrap(), &owner);
    for path in ["/api/v1/simple", "/api/v1/extended"] {
        // The hole is real: it shows what is the tenant's own. What an attack left half-done in the session (a failed
        // BEGIN) costs the attacker one request at the most.
        let probe = async || {
            let request = app
                .request(Method::GET, "attacker", &key, path)
                .query(&[("sql", "SELECT current_user::text")]);
            request.send().await.unwrap().text().await.unwrap()
        };
        probe().await;
        let text = probe().await;
        assert!(text.contains(attacker.role.as_deref().unwrap()), "{text}");
        for attack in &list {
            let answer = app
                .request(Method::GET, "attacker", &key, path)
                .query(&[("sql", attack)])
                .send()
                .await
                .unwrap();
            let text = answer.text().await.unwrap();
            assert!(!text.contains(CANARY), "{path}: {attack}: {text}");
        }
        // Whatever the attacker's sessions are now, the next tenant's are its own.
        let owner_key = app.key("victim", Role::Owner).await;
        let own = app.request(Method::GET, "victim", &owner_key, path);
        let text =
            own.query(&[("sql", "SELECT current_user::text")]).send().await.unwrap().text().await.unwrap();
        assert!(text.contains(victim.role.as_deref().unwrap()), "{text}");
    }
}
