//! What is in the cloud and belongs to nobody: in no state, or in a state that neither a setting nor a tenant names.

use std::collections::BTreeSet;

use sqlx::PgPool;

use super::Recorded;
use crate::control_plane::Hands;
use crate::kernel::Result;
use crate::kernel::ids::TenantId;

/// All of it, as an operator reads it.
///
/// # Errors
/// Those of the control database; what the provisioner says.
pub async fn orphans(hands: &Hands) -> Result<Vec<String>> {
    let cloud = hands.cloud.get()?;
    let mut found = cloud.orphans(&at_work(&hands.cp.db).await?).await?;
    let states = cloud.states().await?;
    let mut unnamed: Vec<Recorded> = nobodys(&hands.cp.db, states).await?;
    if !unnamed.is_empty() {
        // What was purged between the two looks is gone by the third.
        let still = cloud.states().await?;
        unnamed.retain(|state| still.contains(state));
    }
    found.extend(unnamed.into_iter().map(|state| match state {
        Recorded::Shard(name) => format!("state shard/{name}"),
        Recorded::Tenant(id) => format!("state tenant/{id}"),
    }));
    Ok(found)
}

/// The tenants that a run is open for, and their servers.
async fn at_work(db: &PgPool) -> Result<Vec<String>> {
    let open: Vec<(TenantId, Option<String>)> = sqlx::query_as(
        "SELECT DISTINCT run.tenant, r.server FROM run LEFT JOIN tenant_resources r ON r.tenant = run.tenant
          WHERE run.tenant IS NOT NULL AND run.state IN ('pending', 'running', 'undoing', 'stuck')",
    )
    .fetch_all(db)
    .await?;
    Ok(open.into_iter().flat_map(|(tenant, server)| [Some(tenant.to_string()), server]).flatten().collect())
}

/// Those of them that no row names. A row is written before anything is made, and goes after everything is removed.
async fn nobodys(db: &PgPool, states: Vec<Recorded>) -> Result<Vec<Recorded>> {
    if states.is_empty() {
        return Ok(states);
    }
    let tenants: Vec<TenantId> =
        sqlx::query_scalar("SELECT tenant FROM tenant_resources").fetch_all(db).await?;
    let tenants: BTreeSet<String> = tenants.iter().map(ToString::to_string).collect();
    // A shard that is registered is somebody's, though the settings do not say how it was made.
    let servers: BTreeSet<String> = sqlx::query_scalar(
        "SELECT server FROM tenant_resources WHERE server IS NOT NULL UNION SELECT name FROM shard",
    )
    .fetch_all(db)
    .await?
    .into_iter()
    .collect();
    let named = |state: &Recorded| match state {
        Recorded::Shard(name) => servers.contains(name),
        Recorded::Tenant(id) => tenants.contains(id),
    };
    Ok(states.into_iter().filter(|state| !named(state)).collect())
}
