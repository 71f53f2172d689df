//! What has changed in the cloud behind our back: looked for once a day, a few tenants at a time, and kept for `doctor`
//! and the metrics. Nothing is put right by itself: somebody may have had a reason.

use chrono::Duration;
use futures_util::StreamExt;
use sqlx::PgConnection;
use sqlx::types::Json;

use super::resources::whose;
use super::{Changed, Target};
use crate::control_plane::Hands;
use crate::control_plane::tenants::{TenantRef, tenant_find};
use crate::kernel::Result;
use crate::kernel::ids::TenantId;

/// Each tenant is looked at this often.
const EVERY_HOURS: i64 = 24;
/// Tenants of one round: at two at a time and 5 s each it is over before the next begins.
const ROUND: i64 = 20;
const AT_ONCE: usize = 2;

/// Looks at the tenants that were not looked at for a day. A look that fails is made again the next day: the cloud may be
/// away, and others wait.
pub async fn look(hands: &Hands) -> Result<usize> {
    if !hands.cloud.is_there() {
        return Ok(0);
    }
    let now = hands.cp.clock.now();
    // Claimed before it is looked at: of two workers each takes others, and one that always fails is not always first.
    let due: Vec<TenantId> = sqlx::query_scalar(
        "UPDATE tenant_resources SET looked_at = $1
          WHERE tenant IN (SELECT tenant FROM tenant_resources
                            WHERE state = 'ready' AND coalesce(looked_at, updated_at) < $2
                            ORDER BY coalesce(looked_at, updated_at) LIMIT $3 FOR UPDATE SKIP LOCKED)
         RETURNING tenant",
    )
    .bind(now)
    .bind(now - Duration::hours(EVERY_HOURS))
    .bind(ROUND)
    .fetch_all(&hands.cp.db)
    .await?;
    let looks: Vec<_> = due.iter().map(|tenant| look_at(hands, *tenant)).collect();
    futures_util::stream::iter(looks).buffer_unordered(AT_ONCE).collect::<()>().await;
    let drifted: i64 = sqlx::query_scalar("SELECT count(*) FROM tenant_resources WHERE drift <> '[]'")
        .fetch_one(&hands.cp.db)
        .await?;
    metrics::gauge!("infra_drifted_tenants").set(drifted as f64);
    Ok(due.len())
}

async fn look_at(hands: &Hands, tenant: TenantId) {
    let looked = async {
        let row = tenant_find(&mut *hands.cp.db.acquire().await?, &TenantRef::Id(tenant)).await?;
        let planned = hands.cloud.get()?.plan(&Target::Tenant(whose(hands, &row))).await?;
        drift_set(hands, tenant, &planned.drift).await
    };
    let looked: Result<()> = looked.await;
    if let Err(error) = looked {
        tracing::warn!(%tenant, ?error, "whether its resources have drifted is not known");
    }
}

/// Keeps what a look has found.
pub async fn drift_set(hands: &Hands, tenant: TenantId, drift: &[Changed]) -> Result<()> {
    sqlx::query("UPDATE tenant_resources SET drift = $2, looked_at = $3 WHERE tenant = $1")
        .bind(tenant)
        .bind(Json(drift))
        .bind(hands.cp.clock.now())
        .execute(&hands.cp.db)
        .await?;
    Ok(())
}

/// Tenants whose resources have drifted, by slug, with what has: for `doctor`.
pub async fn drifted(conn: &mut PgConnection) -> Result<Vec<(String, Vec<Changed>)>> {
    let rows: Vec<(String, Json<Vec<Changed>>)> = sqlx::query_as(
        "SELECT t.slug, r.drift FROM tenant_resources r JOIN tenant t ON t.id = r.tenant
          WHERE r.drift <> '[]' ORDER BY t.slug LIMIT 100",
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|(slug, drift)| (slug, drift.0)).collect())
}
