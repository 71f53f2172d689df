//! What is left of a purged workspace: its row, its runs, its lines in the log. Nothing else, in no table that there is.

use std::sync::Arc;

use freehold::control_plane::access::{tenant_delete, tenant_purge};
use freehold::control_plane::infra::Cloud;
use freehold::control_plane::tenants::TenantRef;
use freehold::jobs::run::RunState;
use freehold::kernel::Role;
use freehold::kernel::ids::TenantId;
use freehold::product::{Current, Product};
use freehold::testkit::{World, tester};

use super::fixture::{enter, person, seat, sign_in};
use crate::infra::InMemory;

/// Tables whose rows stay, each with its reason.
const STAY: [(&str, &str); 14] = [
    ("audit", "append-only: what was done is not undone by the workspace's end"),
    ("run", "the purge is one of them; they hold ids and no names"),
    ("usage_event", "what was used, on which an invoice rests"),
    ("usage_fact_key", "a fact that is said again late is still known"),
    ("usage_batch", "what Stripe was told, or is still to be told"),
    ("usage_lane", "batches that are still to be sent are sent in turn"),
    ("usage_correction", "who corrected what was used, and who agreed"),
    ("billing_account", "whose invoices they are; without its address"),
    ("subscription", "what was sold"),
    ("invoice", "what was asked for and paid"),
    ("billing_incident", "what somebody has to look at does not go by itself"),
    ("reconcile_run", "what was compared"),
    ("reconcile_difference", "what differed"),
    ("reconcile_decision", "what finance decided about it, and why"),
];

/// A row in each table that a tenant has no row in by itself. A new table with a tenant in it fails the test below until
/// it has one here, and then until a purge removes it.
const ROWS: [&str; 25] = [
    "INSERT INTO tenant_domain (domain, tenant, created_at) VALUES ('work.example.org', $1, now())",
    "INSERT INTO idempotency (scope, key, request_hash, tenant, created_at) VALUES ('test', $1::text, '\\x00', $1, now())",
    "INSERT INTO invitation (id, tenant, email, role, invited_by, created_at, expires_at)
         SELECT gen_random_uuid(), $1, 'canary@example.com', 'viewer', id, now(), now() FROM account LIMIT 1",
    "INSERT INTO email_domain (tenant, domain, challenge, created_at) VALUES ($1, 'example.org', 'x', now())",
    "INSERT INTO tenant_sso (tenant, issuer, client_id, client_secret, created_at, updated_at)
         VALUES ($1, 'https://id.example.org', 'x', '\\x00', now(), now())",
    "INSERT INTO sign_in (state_hash, browser_hash, provider, tenant, secrets, purpose, return_to, created_at, expires_at)
         VALUES (sha256($1::text::bytea), sha256('b'), 'sso', $1, '\\x00', 'sign_in', '/', now(), now())",
    "INSERT INTO support_session (id, actor, operator, tenant, role, reason, code_hash, created_at, expires_at)
         VALUES (gen_random_uuid(), 'operator:x', 'x', $1, 'viewer', 'a reason', sha256($1::text::bytea), now(), now())",
    "INSERT INTO account_identity (issuer, subject, account, provider, tenant, linked_at, last_used_at)
         SELECT 'https://id.example.org', 'x', id, 'sso', $1, now(), now() FROM account LIMIT 1",
    "INSERT INTO erasure (tenant, account, asked_at) SELECT $1, id, now() FROM account LIMIT 1",
    "INSERT INTO tenant_resources (tenant, state, updated_at) VALUES ($1, 'pending', now())",
    "INSERT INTO infra_look (kind, name, tenant, looked_at) VALUES ('tenant', $1::text, $1, now())",
    "INSERT INTO usage_event (id, tenant, meter, source, key, quantity, occurred_at, received_at)
         VALUES (gen_random_uuid(), $1, 'seats', 'test', 'k', 1, now(), now())",
    "INSERT INTO usage_fact_key (tenant, source, key, hash, month, event)
         VALUES ($1, 'test', 'k', decode(md5(''), 'hex'), current_date, gen_random_uuid())",
    "INSERT INTO usage_batch (id, tenant, meter, window_start, seq, quantity, facts, identifier, event_at, state, not_before, sealed_at)
         VALUES (gen_random_uuid(), $1, 'seats', now(), 0, 1, 1, 'ub:' || $1, now(), 'ready', now(), now())",
    "INSERT INTO usage_lane (tenant, meter) VALUES ($1, 'seats')",
    "INSERT INTO usage_correction (id, tenant, meter, quantity, occurred_at, reason, asked_by, asked_at, state)
         VALUES (gen_random_uuid(), $1, 'seats', 1, now(), 'a reason', 'operator:x', now(), 'asked')",
    "INSERT INTO quota_level (tenant, quota, period, used, updated_at)
         VALUES ($1, 'requests_per_month', current_date, 1, now())
         ON CONFLICT DO NOTHING",
    "INSERT INTO quota_notice (tenant, quota, period, percent, at) VALUES ($1, 'seats', current_date, 80, now())",
    "INSERT INTO billing_account (tenant, livemode, customer, email, access_since, created_at, updated_at)
         VALUES ($1, false, 'cus_' || $1, 'canary@example.com', now(), now(), now())",
    "INSERT INTO subscription (id, tenant, customer, plan, status, period_start, period_end, fetched_at)
         VALUES ('sub_' || $1, $1, 'cus_' || $1, 'team', 'active', now(), now(), now())",
    "INSERT INTO invoice (id, tenant, status, currency, total_minor, period_start, period_end, created_at, fetched_at)
         VALUES ('in_' || $1, $1, 'paid', 'eur', 0, now(), now(), now(), now())",
    "INSERT INTO billing_incident (id, kind, subject, tenant, opened_at) VALUES (gen_random_uuid(), 'x', $1::text, $1, now())",
    "WITH r AS (INSERT INTO reconcile_run (id, livemode, why, tenant, from_at, to_at, state, started_at)
                VALUES (gen_random_uuid(), false, 'on_demand', $1, now(), now(), 'red', now()) RETURNING id)
     INSERT INTO reconcile_difference (run, level, tenant, subject, ours, theirs, class)
     SELECT id, 'L1', $1, 'x', 1, 2, 'rounding' FROM r",
    "INSERT INTO reconcile_decision (subject, tenant, units, reason, decided_by, decided_at)
         VALUES ('x:' || $1, $1, 1, 'a reason', 'operator:x', now())",
    "INSERT INTO reconcile_summary (livemode, tenant, meter, day, value, asked_at)
         VALUES (false, $1, 'seats', current_date, 1, now())",
];

/// Every table with a column for a tenant: named so, or referring to one.
async fn tables(world: &World) -> Vec<(String, String)> {
    sqlx::query_as(
        "SELECT table_name::text, column_name::text FROM information_schema.columns
          WHERE table_schema = 'public' AND (column_name IN ('tenant', 'tenant_id') OR (table_name, column_name) IN (
                SELECT k.table_name, k.column_name FROM information_schema.key_column_usage k
                  JOIN information_schema.referential_constraints r ON r.constraint_name = k.constraint_name
                  JOIN information_schema.table_constraints t ON t.constraint_name = r.unique_constraint_name
                 WHERE t.table_name = 'tenant' AND t.table_schema = 'public'))
          ORDER BY 1, 2",
    )
    .fetch_all(world.db())
    .await
    .unwrap()
}

async fn rows(world: &World, (table, column): &(String, String), tenant: TenantId) -> i64 {
    let count = format!("SELECT count(*) FROM {table} WHERE {column} = $1");
    sqlx::query_scalar(sqlx::AssertSqlSafe(count)).bind(tenant).fetch_one(world.db()).await.unwrap()
}

/// Shown to fail: `membership` taken out of `FORGET`.
#[tokio::test]
async fn nothing_else_is_left_of_a_purged_workspace() {
    let mut world = World::new(Current::migrations()).await;
    // What is in a cloud goes first, so there is one.
    world.hands.cloud = Cloud::new(InMemory(Arc::default()));
    let (acme, globex) = (world.tenant("acme").await, world.tenant("globex").await);
    let ada = person(&world, "ada").await;
    for tenant in [&acme, &globex] {
        seat(&world, tenant, ada, Role::Owner).await;
        let base = sign_in(&world, ada).await;
        // A session at the workspace's host, and the code that led there.
        enter(&world, base.id, tenant).await;
        let id = tenant.tenant.id;
        sqlx::query(
            "INSERT INTO api_key (id, tenant, name, role, key_hash, tail, created_at)
             VALUES (gen_random_uuid(), $1, 'x', 'viewer', sha256($1::text::bytea), 'tail', now())",
        )
        .bind(id)
        .execute(world.db())
        .await
        .unwrap();
        sqlx::query(
            "INSERT INTO job (id, kind, tenant, payload, state, created_at)
             VALUES (gen_random_uuid(), 'some_job', $1, '{}', 'dead', now())",
        )
        .bind(id)
        .execute(world.db())
        .await
        .unwrap();
        for row in ROWS {
            // Two workspaces may not have one domain.
            let row = row.replace("work.example.org", &format!("work.{}.example", tenant.tenant.slug));
            sqlx::query(sqlx::AssertSqlSafe(row)).bind(id).execute(world.db()).await.unwrap();
        }
    }
    let tables = tables(&world).await;
    assert!(tables.len() >= 14, "{tables:?}");
    for table in &tables {
        assert!(
            rows(&world, table, acme.tenant.id).await > 0,
            "the test has no row in {table:?}: add one to ROWS"
        );
    }

    let cp = &world.hands.cp;
    let id = TenantRef::Id(acme.tenant.id);
    for run in [tenant_delete(cp, &tester(), &id, "gone").await.unwrap(), {
        let ended = sqlx::query_scalar("SELECT id FROM run WHERE kind = 'delete'");
        let run = ended.fetch_one(world.db()).await.unwrap();
        assert_eq!(world.finish(run).await.state, RunState::Done);
        tenant_purge(cp, &tester(), &id, true).await.unwrap()
    }] {
        assert_eq!(world.finish(run).await.state, RunState::Done);
    }
    for table in &tables {
        let left = rows(&world, table, acme.tenant.id).await;
        match STAY.iter().find(|(stays, _)| *stays == table.0) {
            Some(_) => assert!(left > 0, "{table:?}"),
            None => assert_eq!(left, 0, "rows of a purged workspace are left in {table:?}"),
        }
        assert!(
            rows(&world, table, globex.tenant.id).await > 0,
            "another workspace's rows went from {table:?}"
        );
    }
    let written_to: i64 =
        sqlx::query_scalar("SELECT count(*) FROM billing_account WHERE tenant <> $1 AND email IS NOT NULL")
            .bind(globex.tenant.id)
            .fetch_one(world.db())
            .await
            .unwrap();
    assert_eq!(written_to, 0, "who was written to is not kept");
    let canaries: i64 = sqlx::query_scalar("SELECT count(*) FROM invitation WHERE tenant <> $1")
        .bind(globex.tenant.id)
        .fetch_one(world.db())
        .await
        .unwrap();
    assert_eq!(canaries, 0);
    let people: i64 = sqlx::query_scalar("SELECT count(*) FROM account").fetch_one(world.db()).await.unwrap();
    assert_eq!(people, 1, "people are not the workspace's");
}
