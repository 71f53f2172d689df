//! What a second look at logins, slots and tenants found.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use freehold::control_plane::access::{tenant_delete, tenant_suspend, tenant_undelete};
use freehold::control_plane::plan_change::tenant_plan_set;
use freehold::control_plane::provisioning::ALIGN_LOGIN;
use freehold::control_plane::shards::{NewShard, shard_add};
use freehold::control_plane::slots::new_schema_name;
use freehold::control_plane::tenants::{TenantRef, TenantState};
use freehold::control_plane::{reconcile, trim};
use freehold::db::schema::{LoginLimits, Schema};
use freehold::jobs::queue;
use freehold::jobs::run::RunState;
use freehold::kernel::{Role, SecretRef};
use freehold::local::PostgresOptions;
use freehold::product::{Current, Product};
use freehold::testkit::{AppOptions, TestApp, World, WorldOptions, eventually, extra_postgres, tester};
use reqwest::Method;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

fn acme() -> TenantRef {
    TenantRef::Slug("acme".to_owned())
}

async fn said(conn: &mut PgConnection, sql: String) {
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
    freehold::control_plane::provisioning::align_later(
        &mut world.db().acquire().await.unwrap(),
        tenant.tenant.id,
        now,
    )
    .await
    .unwrap();
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

/// Shown to fail: whether there is a login decided before the lock in `drop`.
#[tokio::test]
async fn a_slot_that_is_dropped_while_it_is_made_leaves_no_login() {
    let world =
        World::with(WorldOptions { shards: 1, tenant_cap: 10, slots: 0, tables: Current::migrations() })
            .await;
    let shard = &world.shards[0];
    let database = shard.database.as_deref().unwrap();
    let name = new_schema_name(&world.hands.cp);
    let schema = Schema { name: &name, database, credential_version: 1, fence: Some(7) };
    let verifier = world.hands.master.scram_verifier(&name, 1);
    let mut making = world.shard_conn(0).await;
    let sql = schema.create_sql(&verifier, world.hands.cp.tables, LoginLimits::SPARE);
    let turn = format!("SELECT pg_advisory_xact_lock(hashtextextended('{name}', 0))");
    said(&mut making, format!("BEGIN; {turn}; {sql}")).await;
    let dropping = async {
        let mut conn = world.shard_conn(0).await;
        schema.drop(&mut conn).await.unwrap();
    };
    tokio::join!(dropping, async {
        let mut looking = world.shard_conn(0).await;
        eventually(Duration::from_secs(10), "the drop waits for its turn", async || {
            let waits: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                  WHERE d.datname = current_database() AND l.locktype = 'advisory' AND NOT l.granted",
            )
            .fetch_one(&mut *looking)
            .await
            .unwrap();
            if waits > 0 { Ok(()) } else { Err("not yet") }
        })
        .await;
        said(&mut making, "COMMIT".to_owned()).await;
    });
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_roles WHERE rolname = $1")
        .bind(&name)
        .fetch_one(&mut *making)
        .await
        .unwrap();
    assert_eq!(left, 0);

    // One that was left before is at least seen.
    said(&mut making, format!("CREATE ROLE {name} LOGIN; GRANT CONNECT ON DATABASE {database} TO {name}"))
        .await;
    let found = reconcile::drift(&world.hands, shard).await.unwrap();
    assert!(found.iter().any(|drift| drift.role == name && drift.what.contains("no schema")), "{found:?}");
    said(&mut making, format!("REVOKE CONNECT ON DATABASE {database} FROM {name}; DROP ROLE {name}")).await;
    assert!(reconcile::drift(&world.hands, shard).await.unwrap().is_empty());
}

/// A row of a kind that nobody reads would stay for ever. Shown to fail: the constraint taken out of the migration.
#[tokio::test]
async fn only_what_is_read_gets_into_the_outbox() {
    let world = World::new(Current::migrations()).await;
    let tenant = world.tenant("acme").await;
    let mut own = PgConnection::connect_with(&world.tenant_login(&tenant)).await.unwrap();
    for (kind, goes) in [("usage", true), ("Usage", false), ("event", false)] {
        let added = sqlx::query("INSERT INTO freehold.outbox (kind, key, payload) VALUES ($1, 'k', '{}')")
            .bind(kind)
            .execute(&mut own)
            .await;
        assert_eq!(added.is_ok(), goes, "{kind}");
    }
}

/// Shown to fail: `come_back` and `unfence_unless_suspended` as for a resume.
#[tokio::test]
async fn what_was_suspended_comes_back_suspended() {
    let world = World::new(Current::migrations()).await;
    let tenant = world.tenant("acme").await;
    let cp = &world.hands.cp;
    for (reason, state, shut) in
        [(Some("unpaid"), TenantState::Suspended, true), (None, TenantState::Active, false)]
    {
        match reason {
            Some(reason) => {
                let run = tenant_suspend(cp, &tester(), &acme(), reason).await.unwrap();
                world.finish(run).await;
            }
            None => {
                let run =
                    freehold::control_plane::access::tenant_resume(cp, &tester(), &acme()).await.unwrap();
                world.finish(run).await;
            }
        }
        let run = tenant_delete(cp, &tester(), &acme(), "contract ended").await.unwrap();
        world.finish(run).await;
        assert_eq!(world.show("acme").await.state_reason.as_deref(), Some("contract ended"));
        let run = tenant_undelete(cp, &tester(), &acme()).await.unwrap();
        assert_eq!(world.finish(run).await.state, RunState::Done);
        let back = world.show("acme").await;
        assert_eq!((back.tenant.state, back.state_reason.as_deref()), (state, reason));
        assert_eq!(back.tenant.purge_after, None);
        assert_eq!(PgConnection::connect_with(&world.tenant_login(&tenant)).await.is_err(), shut);
    }
}

/// Shown to fail: each of the two `DELETE`s taken out; its condition on the time, and on the state or the schema.
#[tokio::test]
async fn old_runs_and_old_fences_are_forgotten() {
    let world = World::new(Current::migrations()).await;
    let old = world.tenant("old").await;
    let stuck = world.tenant("stuck").await;
    for (tenant, state) in [(&old, "done"), (&stuck, "stuck")] {
        sqlx::query("UPDATE run SET state = $2, created_at = $3, finished_at = $3 WHERE tenant = $1")
            .bind(tenant.tenant.id)
            .bind(state)
            .bind(world.hands.cp.clock.now() - trim::RUNS - chrono::TimeDelta::minutes(1))
            .execute(world.db())
            .await
            .unwrap();
    }
    world.tenant("new").await;
    let mut shard = world.shard_conn(0).await;
    said(
        &mut shard,
        "INSERT INTO freehold.fence (subject, fence, at) VALUES ('gone', 1, now() - interval '31 days'), ('fresh', 1, now());
         INSERT INTO freehold.fence (subject, fence, at) VALUES ('there', 1, now() - interval '31 days');
         INSERT INTO freehold.schema_version (schema_name, version) VALUES ('there', 1)"
            .to_owned(),
    )
    .await;
    trim::trim(&world.hands).await.unwrap();
    let left: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT t.slug FROM run JOIN tenant t ON t.id = run.tenant JOIN run_step s ON s.run = run.id ORDER BY 1",
    )
    .fetch_all(world.db())
    .await
    .unwrap();
    assert_eq!(left, ["new", "stuck"]);
    assert_eq!(world.show("old").await.tenant.state, TenantState::Active, "the tenant stays");
    let fences: Vec<String> = sqlx::query_scalar(
        "SELECT subject FROM freehold.fence WHERE subject IN ('gone', 'fresh', 'there') ORDER BY 1",
    )
    .fetch_all(&mut *shard)
    .await
    .unwrap();
    assert_eq!(fences, ["fresh", "there"]);
}

/// A server's certificate, of an authority that nobody else knows: both made here, so that no key is kept anywhere. Of the
/// `openssl` that PostgreSQL's packages bring along.
fn certificates(folder: &Path) {
    std::fs::write(folder.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1").unwrap();
    for arguments in [
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=tests \
         -keyout authority.key -out authority.pem",
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -keyout tls.key -out tls.csr",
        "x509 -req -in tls.csr -CA authority.pem -CAkey authority.key -CAcreateserial -days 2 -extfile names -out tls.pem",
    ] {
        let made = Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(folder)
            .output()
            .expect("openssl is on the PATH");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
}

/// A shard that is there for its admin and for no tenant is not prepared; with the authority that its certificate is of, it
/// is there for both. Shown to fail: `look` taken out of `shard_prepare`; the authority not passed on in `load`.
#[tokio::test]
async fn a_shard_is_looked_at_as_its_tenants_reach_it() {
    let server = extra_postgres(PostgresOptions::default()).await;
    let mut admin = PgConnection::connect(&server.url("postgres")).await.unwrap();
    // By the server itself, so that the files are its own.
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    for file in ["tls.pem", "tls.key"] {
        let text = std::fs::read_to_string(folder.path().join(file)).unwrap();
        said(
            &mut admin,
            format!(
                "COPY (SELECT unnest(string_to_array('{}', E'\n'))) TO PROGRAM 'umask 077 && cat > {file}'",
                text.trim_end()
            ),
        )
        .await;
    }
    for setting in ["ssl_cert_file = 'tls.pem'", "ssl_key_file = 'tls.key'", "ssl = on"] {
        said(&mut admin, format!("ALTER SYSTEM SET {setting}")).await;
    }
    said(&mut admin, "SELECT pg_reload_conf()".to_owned()).await;
    eventually(Duration::from_secs(10), "it speaks TLS", async || {
        let on: String = sqlx::query_scalar("SHOW ssl").fetch_one(&mut admin).await.unwrap();
        if on == "on" { Ok(()) } else { Err(on) }
    })
    .await;

    let mut app =
        TestApp::start::<Current>(AppOptions { worker: false, ..AppOptions::of::<Current>() }).await;
    said(&mut admin, "CREATE DATABASE shard".to_owned()).await;
    let plain = server.url("shard");
    let bare = plain.split('?').next().unwrap();
    let authority = folder.path().join("authority.pem");

    let file = app.world.folder.path().join("tls-shard");
    std::fs::write(&file, format!("{bare}?sslmode=require")).unwrap();
    let options: PgConnectOptions = format!("{bare}?sslmode=require").parse().unwrap();
    PgConnection::connect_with(&options).await.expect("the admin gets in");
    let new = NewShard {
        name: "tls".to_owned(),
        pool: "default".to_owned(),
        dsn: SecretRef::File(file.to_string_lossy().into_owned()),
        tenant_cap: 10,
        slots: 0,
    };
    let (shard, run) = shard_add(&app.world.hands.cp, &tester(), &new).await.unwrap();
    let held = freehold::jobs::saga::lease(app.world.db(), "test", Some(run)).await.unwrap().unwrap();
    freehold::control_plane::runs::drive(&app.world.hands, &held).await.unwrap();
    let error: String = sqlx::query_scalar("SELECT error FROM run WHERE id = $1")
        .bind(run)
        .fetch_one(app.world.db())
        .await
        .unwrap();
    assert!(error.contains("tenants' logins cannot connect") && error.contains("verify-full"), "{error}");
    let state: (String, Option<String>) = sqlx::query_as("SELECT state, host FROM shard WHERE id = $1")
        .bind(shard)
        .fetch_one(app.world.db())
        .await
        .unwrap();
    assert_eq!(state, ("offline".to_owned(), None), "nobody is placed there");

    std::fs::write(&file, format!("{bare}?sslmode=verify-full&sslrootcert={}", authority.display())).unwrap();
    app.world.hands.admins.forget(shard);
    assert_eq!(app.world.finish(run).await.state, RunState::Done);
    sqlx::query("UPDATE shard SET state = 'draining' WHERE id <> $1")
        .bind(shard)
        .execute(app.world.db())
        .await
        .unwrap();
    app.world.shards =
        freehold::control_plane::shards::shard_list(&mut app.world.db().acquire().await.unwrap())
            .await
            .unwrap();
    app.world.tenant("acme").await;
    let key = app.key("acme", Role::Owner).await;
    let (status, answer) = app.send(app.request(Method::GET, "acme", &key, "/api/v1/projects")).await;
    assert_eq!(status, 200, "a tenant of it is served: {answer}");
}
