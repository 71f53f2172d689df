//! Lines, and hands that could change them.

use freehold::control_plane::audit::verify::{Verified, Verify, audit_verify};
use freehold::control_plane::audit::{Caller, audit_add};
use freehold::control_plane::provisioning::NewTenant;
use freehold::kernel::ids::TenantId;
use freehold::testkit::{World, tester};
use serde_json::json;

/// A tenant that is recorded, with the first line of its chain.
pub async fn tenant(world: &World, slug: &str) -> TenantId {
    let new = NewTenant { slug: slug.to_owned(), name: None, plan: None };
    world.create(&new).await.unwrap();
    world.show(slug).await.tenant.id
}

/// One more line, in a transaction of its own.
pub async fn line(world: &World, tenant: Option<TenantId>, subject: &str) {
    line_by(world, &tester(), tenant, subject).await;
}

pub async fn line_by(world: &World, caller: &Caller, tenant: Option<TenantId>, subject: &str) {
    let mut tx = world.db().begin().await.unwrap();
    let detail =
        json!({ "n": 1.5, "email": format!("{subject}@example.com"), "deep": { "b": [1, null], "a": "é" } });
    let now = world.hands.cp.clock.now();
    audit_add(&mut tx, caller, now, "test.line", tenant, subject, detail).await.unwrap();
    tx.commit().await.unwrap();
}

/// What a verifier finds, in all its calls.
pub async fn verified(world: &World, tenant: Option<TenantId>) -> Verified {
    let mut conn = world.db().acquire().await.unwrap();
    let (mut all, mut wish) = (Verified::default(), Verify { tenant, cursor: None });
    loop {
        let part = audit_verify(&mut conn, &wish).await.unwrap();
        all.chains += part.chains;
        all.lines += part.lines;
        all.forgotten += part.forgotten;
        all.broken.extend(part.broken);
        match part.next_cursor {
            None => return all,
            next => wish.cursor = next,
        }
    }
}

/// As somebody who can do anything to the database: no trigger, no right stands in the way.
pub async fn as_superuser(world: &World, statements: &[&'static str], chain: TenantId) {
    let mut tx = world.db().begin().await.unwrap();
    sqlx::query("SET LOCAL session_replication_role = replica").execute(&mut *tx).await.unwrap();
    for statement in statements {
        let done = sqlx::query(*statement).bind(chain).execute(&mut *tx).await.unwrap();
        assert!(done.rows_affected() > 0, "it changes nothing: {statement}");
    }
    tx.commit().await.unwrap();
}
