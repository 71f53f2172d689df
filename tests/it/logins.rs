//! What a tenant's login has been given, by its plan and by its own hand, and how it is set right.

use std::time::Duration;

use freehold::control_plane::plan_change::tenant_plan_set;
use freehold::control_plane::provisioning::{ALIGN_LOGIN, align_later};
use freehold::control_plane::reconcile;
use freehold::jobs::queue;
use freehold::kernel::Role;
use freehold::product::{Current, Product};
use freehold::testkit::{AppOptions, TestApp, World, eventually, tester};
use reqwest::Method;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// Carries statements out.
pub async fn said(conn: &mut PgConnection, sql: String) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(conn).await.unwrap();
}

/// A10. What a login gives itself for one database outranks what it has everywhere. Shown to fail:
/// `reset_in_databases_sql` taken out of `align`.
#[tokio::test]
async fn a_logins_settings_for_one_database_are_set_right_too() {
    let world = World::new(Current::migrations()).await;
    let tenant = world.tenant("acme").await;
    let (shard, _) = world.shard_of(&tenant);
    reconcile::repair_logins(&world.hands).await.unwrap();
    let role = tenant.role.clone().unwrap();
    let mut own = PgConnection::connect_with(&world.tenant_login(&tenant)).await.unwrap();
    let wanted: String = sqlx::query_scalar("SHOW statement_timeout").fetch_one(&mut own).await.unwrap();
    for database in [shard.database.as_deref().unwrap(), "postgres"] {
        said(&mut own, format!("ALTER ROLE {role} IN DATABASE {database} SET statement_timeout = 0")).await;
    }
    let mut free = PgConnection::connect_with(&world.tenant_login(&tenant)).await.unwrap();
    let without: String = sqlx::query_scalar("SHOW statement_timeout").fetch_one(&mut free).await.unwrap();
    assert_eq!(without, "0", "else this proves nothing");
    assert_eq!(reconcile::repair_logins(&world.hands).await.unwrap(), 1);
    assert!(reconcile::drift(&world.hands, shard).await.unwrap().is_empty());
    let mut fresh = PgConnection::connect_with(&world.tenant_login(&tenant)).await.unwrap();
    let again: String = sqlx::query_scalar("SHOW statement_timeout").fetch_one(&mut fresh).await.unwrap();
    assert_eq!(again, wanted);
    assert_eq!(reconcile::repair_logins(&world.hands).await.unwrap(), 0, "nothing is left");
}

/// A plan with less time reaches connections that are never idle for long. Shown to fail: the epoch not raised in
/// `align_login`; its look at the settings taken out.
#[tokio::test]
async fn new_settings_retire_open_connections() {
    let world = World::new(Current::migrations()).await;
    let tenant = world.tenant_with("acme", "enterprise").await;
    let align = async || {
        while let Some(job) = queue::job_lease(world.db()).await.unwrap() {
            let done = match job.kind == ALIGN_LOGIN {
                true => reconcile::do_job(&world.hands, &job).await,
                false => Ok(()),
            };
            queue::job_close(world.db(), &job, &done).await.unwrap();
            done.unwrap();
        }
        world.show("acme").await.epoch
    };
    let before = align().await;
    let mut tx = world.db().begin().await.unwrap();
    let now = world.hands.cp.clock.now();
    tenant_plan_set(&mut tx, &tester(), tenant.tenant.id, "free", now).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(
        align().await,
        before + 1,
        "connections that were opened with the old time are not used any more"
    );
    align_later(&mut world.db().acquire().await.unwrap(), tenant.tenant.id, now).await.unwrap();
    assert_eq!(align().await, before + 1, "nothing has changed");
}

/// Where the admin cannot see passwords, only the refused login tells. Shown to fail: `login_is_wrong` not called.
#[tokio::test]
async fn a_login_that_locked_its_tenant_out_is_set_right() {
    let app = TestApp::start::<Current>(AppOptions { worker: false, ..AppOptions::of::<Current>() }).await;
    let world = &app.world;
    let tenant = world.tenant("acme").await;
    let key = app.key("acme", Role::Owner).await;
    sqlx::query("DELETE FROM job").execute(world.db()).await.unwrap();
    let mut own = PgConnection::connect_with(&world.tenant_login(&tenant)).await.unwrap();
    said(&mut own, format!("ALTER ROLE {} PASSWORD 'mine now'", tenant.role.as_deref().unwrap())).await;
    let ask = async || app.send(app.request(Method::GET, "acme", &key, "/api/v1/projects")).await.0;
    assert_eq!((ask().await, ask().await), (503, 503));
    let job = eventually(Duration::from_secs(10), "a worker is asked", async || {
        queue::job_lease(world.db()).await.unwrap().ok_or("no job")
    })
    .await;
    assert_eq!((job.kind.as_str(), job.tenant), (ALIGN_LOGIN, Some(tenant.tenant.id)));
    assert!(queue::job_lease(world.db()).await.unwrap().is_none(), "once, however many are refused");
    reconcile::do_job(&world.hands, &job).await.unwrap();
    eventually(Duration::from_secs(10), "it works again", async || match ask().await {
        200 => Ok(()),
        status => Err(status),
    })
    .await;
}
