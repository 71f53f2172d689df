//! What is in the cloud and not as it was made: looked for once a day, a few at a time, and kept for `doctor`, the metrics
//! and the operators' API. Nothing is put right by itself: somebody may have had a reason.

use chrono::{DateTime, Duration, Utc};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use sqlx::types::Json;

use super::{Changed, Target, owners, targets};
use crate::control_plane::Hands;
use crate::kernel::Result;
use crate::kernel::ids::TenantId;

/// Each is looked at this often.
const EVERY_HOURS: i64 = 24;
/// One that could not be looked at is tried again after this long: the cloud may have been away, and others wait.
const AGAIN_HOURS: i64 = 1;
/// Tenants of one round: at two at a time and 5 s each it is over before the next begins.
const ROUND: i64 = 20;
const AT_ONCE: usize = 2;
/// Findings that are listed at most, and resources in each.
const LISTED: i64 = 1_000;
const KEPT: usize = 200;

/// The last look at something in the cloud.
#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct Look {
    /// `platform`, `shard`, `tenant` or `orphans`: what belongs to nothing that is known.
    pub kind: String,
    /// A shard's name, a tenant's slug; empty for the platform and for orphans.
    pub name: String,
    pub tenant: Option<TenantId>,
    pub looked_at: DateTime<Utc>,
    /// What was changed behind our back, or belongs to nobody.
    #[sqlx(json)]
    pub found: Vec<Changed>,
    /// Why the last look saw nothing; `found` is then of the look before.
    pub error: Option<String>,
}

/// Which looks to list.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct LookFilter {
    /// All of them, and not only those that found something or failed.
    pub all: Option<bool>,
}

/// Something to look at.
struct Due {
    kind: &'static str,
    name: String,
    /// What an operator would call it. Not for orphans.
    word: String,
}

/// Looks at what was not looked at for a day. Returns at how many things.
///
/// # Errors
/// Those of the control database. What the cloud says against a look is kept with it.
pub async fn look(hands: &Hands) -> Result<usize> {
    if !hands.cloud.is_there() {
        return Ok(0);
    }
    let due = due(hands).await?;
    let looks: Vec<_> = due.iter().map(|due| look_at(hands, due)).collect();
    futures_util::stream::iter(looks).buffer_unordered(AT_ONCE).collect::<()>().await;
    gauge(hands).await?;
    Ok(due.len())
}

/// Claimed before it is looked at: of two workers each takes others, and one that always fails is not always first.
async fn due(hands: &Hands) -> Result<Vec<Due>> {
    let now = hands.cp.clock.now();
    let before = now - Duration::hours(EVERY_HOURS);
    let mut control = hands.cp.db.acquire().await?;
    let tenants: Vec<TenantId> = sqlx::query_scalar(
        "WITH due AS (
           SELECT r.tenant FROM tenant_resources r
             LEFT JOIN infra_look l ON l.kind = 'tenant' AND l.name = r.tenant::text
            WHERE r.state = 'ready' AND coalesce(l.looked_at, r.updated_at) < $2
            ORDER BY coalesce(l.looked_at, r.updated_at) LIMIT $3 FOR UPDATE OF r SKIP LOCKED)
         INSERT INTO infra_look (kind, name, tenant, looked_at)
         SELECT 'tenant', due.tenant::text, due.tenant, $1 FROM due
         ON CONFLICT (kind, name) DO UPDATE SET looked_at = EXCLUDED.looked_at
         RETURNING tenant",
    )
    .bind(now)
    .bind(before)
    .bind(ROUND)
    .fetch_all(&mut *control)
    .await?;
    let mut due: Vec<Due> = tenants
        .iter()
        .map(|tenant| Due { kind: "tenant", name: tenant.0.to_string(), word: format!("tenant/{tenant}") })
        .collect();
    let standing = standing(hands, &mut control).await?;
    forget_others(&mut control, &standing).await?;
    for (kind, name, tenant) in standing {
        let claimed: Option<i32> = sqlx::query_scalar(
            "INSERT INTO infra_look (kind, name, tenant, looked_at) VALUES ($1, $2, $3, $4)
             ON CONFLICT (kind, name) DO UPDATE SET looked_at = EXCLUDED.looked_at, tenant = EXCLUDED.tenant
             WHERE infra_look.looked_at < $5
             RETURNING 1",
        )
        .bind(kind)
        .bind(&name)
        .bind(tenant)
        .bind(now)
        .bind(before)
        .fetch_optional(&mut *control)
        .await?;
        if claimed.is_some() {
            let word = if kind == "shard" { format!("shard/{name}") } else { kind.to_owned() };
            due.push(Due { kind, name, word });
        }
    }
    Ok(due)
}

/// What was seen of what there is no more, or nobody names any more. It would be counted as a finding for ever.
async fn forget_others(
    control: &mut PgConnection,
    standing: &[(&'static str, String, Option<TenantId>)],
) -> Result<()> {
    let (kinds, names): (Vec<&str>, Vec<&str>) =
        standing.iter().map(|(kind, name, _)| (*kind, name.as_str())).unzip();
    sqlx::query(
        "DELETE FROM infra_look l WHERE l.kind IN ('platform', 'shard')
            AND NOT EXISTS (SELECT FROM unnest($1::text[], $2::text[]) AS s (kind, name)
                             WHERE s.kind = l.kind AND s.name = l.name)",
    )
    .bind(kinds)
    .bind(names)
    .execute(control)
    .await?;
    Ok(())
}

/// What there is beside tenants' own: the platform and the servers that the settings name, the servers of dedicated
/// tenants, and whatever belongs to nobody.
async fn standing(
    hands: &Hands,
    control: &mut PgConnection,
) -> Result<Vec<(&'static str, String, Option<TenantId>)>> {
    let mut all = vec![("orphans", String::new(), None)];
    for target in hands.cloud.get()?.standing() {
        match target {
            Target::Platform => all.push(("platform", String::new(), None)),
            Target::Shard(shard) => all.push(("shard", shard.name, None)),
            Target::Tenant(_) => {}
        }
    }
    let servers: Vec<(String, TenantId)> = sqlx::query_as(
        "SELECT server, tenant FROM tenant_resources WHERE server_outputs IS NOT NULL ORDER BY server",
    )
    .fetch_all(control)
    .await?;
    all.extend(servers.into_iter().map(|(server, tenant)| ("shard", server, Some(tenant))));
    Ok(all)
}

async fn look_at(hands: &Hands, due: &Due) {
    let looked = async {
        let found: Vec<Changed> = if due.kind == "orphans" {
            let orphans = owners::orphans(hands).await?.into_iter();
            orphans.map(|address| Changed { address, action: "orphan".to_owned() }).collect()
        } else {
            let target = targets::target(hands, &due.word).await?;
            hands.cloud.get()?.plan(&target).await?.drift
        };
        keep(hands, due.kind, &due.name, &found).await
    };
    let looked: Result<()> = looked.await;
    let Err(error) = looked else { return };
    tracing::warn!(kind = due.kind, name = due.name, ?error, "whether it has drifted is not known");
    let again = hands.cp.clock.now() - Duration::hours(EVERY_HOURS - AGAIN_HOURS);
    let kept = sqlx::query("UPDATE infra_look SET error = $3, looked_at = $4 WHERE kind = $1 AND name = $2")
        .bind(due.kind)
        .bind(&due.name)
        .bind(error.to_string())
        .bind(again)
        .execute(&hands.cp.db)
        .await;
    if let Err(error) = kept {
        tracing::warn!(%error, "what a look at the cloud came to could not be kept");
    }
}

async fn keep(hands: &Hands, kind: &str, name: &str, found: &[Changed]) -> Result<()> {
    sqlx::query(
        "UPDATE infra_look SET found = $3, error = NULL, looked_at = $4 WHERE kind = $1 AND name = $2",
    )
    .bind(kind)
    .bind(name)
    .bind(Json(&found[..found.len().min(KEPT)]))
    .bind(hands.cp.clock.now())
    .execute(&hands.cp.db)
    .await?;
    Ok(())
}

/// Keeps what somebody found who looked by hand, or that what was found has been put right.
///
/// # Errors
/// Those of the control database.
pub async fn found(hands: &Hands, target: &Target, found: &[Changed]) -> Result<()> {
    match target {
        Target::Platform => keep(hands, "platform", "", found).await,
        Target::Shard(shard) => keep(hands, "shard", &shard.name, found).await,
        Target::Tenant(whose) => keep(hands, "tenant", &whose.tenant.0.to_string(), found).await,
    }
}

async fn gauge(hands: &Hands) -> Result<()> {
    let counts: Vec<(String, i64, i64)> = sqlx::query_as(
        "SELECT kind, coalesce(sum(CASE WHEN kind = 'orphans' THEN jsonb_array_length(found)
                                        WHEN found <> '[]' THEN 1 ELSE 0 END), 0)::bigint,
                count(error)
           FROM infra_look GROUP BY kind",
    )
    .fetch_all(&hands.cp.db)
    .await?;
    // What has no row any more is gone from the gauges too.
    for kind in ["platform", "shard", "tenant", "orphans"] {
        let of_kind = counts.iter().find(|(counted, ..)| counted == kind);
        let (found, failed) = of_kind.map_or((0, 0), |(_, found, failed)| (*found, *failed));
        if kind == "orphans" {
            metrics::gauge!("infra_orphans").set(found as f64);
        } else {
            metrics::gauge!("infra_drifted", "kind" => kind).set(found as f64);
        }
        metrics::gauge!("infra_looks_failed", "kind" => kind).set(failed as f64);
    }
    Ok(())
}

/// What the last looks came to.
///
/// # Errors
/// Those of the control database.
pub async fn looks(conn: &mut PgConnection, filter: &LookFilter) -> Result<Vec<Look>> {
    Ok(sqlx::query_as(
        "SELECT l.kind, CASE WHEN l.kind = 'tenant' THEN coalesce(t.slug, l.name) ELSE l.name END AS name, l.tenant,
                l.looked_at, l.found, l.error
           FROM infra_look l LEFT JOIN tenant t ON t.id = l.tenant
          WHERE $1 OR l.found <> '[]' OR l.error IS NOT NULL
          ORDER BY l.kind, 2 LIMIT $2",
    )
    .bind(filter.all.unwrap_or(false))
    .bind(LISTED)
    .fetch_all(conn)
    .await?)
}
