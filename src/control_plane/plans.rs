//! Plans: what is sold and what it grants. `plans.toml` is the source; the control database holds what was applied.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use sqlx::types::Json;

use super::ControlPlane;
use super::audit::{Caller, audit_add};
use super::changes::{self, Change};
use crate::db::schema::LoginLimits;
use crate::kernel::{Error, Result, codes};

/// The plans this build ships with.
pub const SHIPPED: &str = include_str!("../../plans.toml");

/// Whether tenants share a shard.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Tier {
    /// Many tenants on one shard.
    Pooled,
    /// A shard of its own.
    Dedicated,
}

impl Tier {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pooled => "pooled",
            Self::Dedicated => "dedicated",
        }
    }
}

/// What a plan grants a tenant: the numbers the data plane enforces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Entitlements {
    /// Sustained requests per second.
    pub requests_per_second: u32,
    /// Requests that may come at once on top.
    pub burst: u32,
    /// Connections in use at once, per server process.
    pub connections: u32,
    /// The longest a statement may run, in milliseconds.
    pub statement_timeout_ms: u32,
    /// Live projects.
    pub projects: u32,
    /// Members.
    pub seats: u32,
}

impl Entitlements {
    /// What the tenant's login itself is held to: twice the connections, for a second replica and rolling restarts.
    pub fn login_limits(&self) -> LoginLimits {
        LoginLimits {
            connections: i32::try_from(self.connections.saturating_mul(2)).unwrap_or(i32::MAX).max(4),
            statement_timeout_ms: i32::try_from(self.statement_timeout_ms).unwrap_or(i32::MAX),
        }
    }
}

/// One plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    pub id: String,
    pub name: String,
    pub tier: Tier,
    /// The shard pool its tenants are placed in.
    pub shard_pool: String,
    /// Whether its tenants get a role, a secret and a log group of their own in the cloud, where one is provisioned.
    #[serde(default)]
    pub resources: bool,
    #[sqlx(json)]
    pub entitlements: Entitlements,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanFile {
    plan: Vec<Plan>,
}

/// The shipped plans and one of the dedicated tier, `dedicated`, for `freehold dev --with-cloud` and the tests: none is shipped, since its tenants cost a
/// server each. What it grants is what the largest one does.
///
/// # Errors
/// Those of [`parse`], of what is shipped.
pub fn with_dedicated_example() -> Result<Vec<Plan>> {
    let mut plans = parse(SHIPPED)?;
    let example = plans.last().cloned().map(|largest| Plan {
        id: "dedicated".to_owned(),
        name: "Dedicated".to_owned(),
        tier: Tier::Dedicated,
        shard_pool: "dedicated".to_owned(),
        resources: true,
        ..largest
    });
    plans.extend(example);
    Ok(plans)
}

/// What applying a file changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PlanChanges {
    pub added: Vec<String>,
    pub changed: Vec<String>,
    /// No longer sold; tenants that have it keep it.
    pub retired: Vec<String>,
    pub unchanged: Vec<String>,
}

/// Reads and checks a plan file.
pub fn parse(text: &str) -> Result<Vec<Plan>> {
    let bad =
        |why: String| Error::new(&codes::BAD_REQUEST).detail(format!("the plan file is not valid: {why}"));
    let file: PlanFile = toml::from_str(text).map_err(|error| bad(error.to_string()))?;
    let mut seen = BTreeMap::new();
    for plan in &file.plan {
        if seen.insert(&plan.id, ()).is_some() {
            return Err(bad(format!("plan {} appears twice", plan.id)));
        }
        let e = &plan.entitlements;
        if e.requests_per_second == 0 || e.connections == 0 || e.statement_timeout_ms == 0 {
            return Err(bad(format!("plan {} grants nothing to work with: a limit is 0", plan.id)));
        }
    }
    Ok(file.plan)
}

/// Brings the control database to these plans. With `dry_run`, only says what would change.
pub async fn apply(cp: &ControlPlane, caller: &Caller, plans: &[Plan], dry_run: bool) -> Result<PlanChanges> {
    let mut tx = cp.db.begin().await?;
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('freehold.plans', 0))")
        .execute(&mut *tx)
        .await?;
    let known: BTreeMap<String, Plan> =
        plan_list(&mut tx).await?.into_iter().map(|plan| (plan.id.clone(), plan)).collect();
    for plan in plans {
        if let Some(old) = known.get(&plan.id).filter(|old| old.tier != plan.tier) {
            nobody_has(&mut tx, old, plan.tier).await?;
        }
    }
    let mut changes = PlanChanges::default();
    for (position, plan) in (0i32..).zip(plans) {
        match known.get(&plan.id) {
            None => changes.added.push(plan.id.clone()),
            Some(old) if old == plan => changes.unchanged.push(plan.id.clone()),
            Some(_) => changes.changed.push(plan.id.clone()),
        }
        sqlx::query(
            "INSERT INTO plan (id, name, tier, shard_pool, entitlements, position, retired, updated_at, resources)
             VALUES ($1, $2, $3, $4, $5, $6, false, $7, $8)
             ON CONFLICT (id) DO UPDATE SET name = EXCLUDED.name, tier = EXCLUDED.tier,
                resources = EXCLUDED.resources, shard_pool = EXCLUDED.shard_pool, entitlements = EXCLUDED.entitlements,
                position = EXCLUDED.position, retired = false, updated_at = EXCLUDED.updated_at",
        )
        .bind(&plan.id)
        .bind(&plan.name)
        .bind(plan.tier)
        .bind(&plan.shard_pool)
        .bind(Json(&plan.entitlements))
        .bind(position)
        .bind(cp.clock.now())
        .bind(plan.resources)
        .execute(&mut *tx)
        .await?;
    }
    changes.retired = known.into_keys().filter(|id| !plans.iter().any(|plan| &plan.id == id)).collect();
    sqlx::query("UPDATE plan SET retired = true WHERE id = ANY($1)")
        .bind(&changes.retired)
        .execute(&mut *tx)
        .await?;
    let quiet = changes.added.is_empty() && changes.changed.is_empty() && changes.retired.is_empty();
    if dry_run || quiet {
        return Ok(changes);
    }
    let detail = serde_json::to_value(&changes).map_err(Error::internal)?;
    audit_add(&mut tx, caller, cp.clock.now(), "plan.apply", None, "plans", detail).await?;
    changes::notify(&mut tx, Change::All).await?;
    tx.commit().await?;
    Ok(changes)
}

/// Refuses a change of tier under tenants that have the plan: none of them would move by it.
async fn nobody_has(conn: &mut PgConnection, plan: &Plan, tier: Tier) -> Result<()> {
    let tenants: i64 =
        sqlx::query_scalar("SELECT count(*) FROM tenant WHERE plan = $1 AND state <> 'deleted'")
            .bind(&plan.id)
            .fetch_one(conn)
            .await?;
    if tenants == 0 {
        return Ok(());
    }
    same_tier(plan.tier, tier).map_err(|error| {
        error.detail(format!("plan {} is {}, and {tenants} tenants have it", plan.id, plan.tier.as_str()))
    })
}

/// Whether a tenant may change from a plan of this tier to one of that. Between tiers it would have to move to another
/// server, and nothing moves tenants yet.
///
/// # Errors
/// `tier_change_unavailable`.
pub fn same_tier(from: Tier, to: Tier) -> Result<()> {
    if from == to {
        return Ok(());
    }
    Err(Error::new(&codes::TIER_CHANGE_UNAVAILABLE)
        .detail(format!("from {} to {}", from.as_str(), to.as_str()))
        .hint("make a new workspace on the other plan, and bring the data over by export and import"))
}

/// The plans on sale, in the file's order.
pub async fn plan_list(conn: &mut PgConnection) -> Result<Vec<Plan>> {
    Ok(sqlx::query_as(
        "SELECT id, name, tier, shard_pool, resources, entitlements FROM plan WHERE NOT retired ORDER BY position",
    )
    .fetch_all(conn)
    .await?)
}

/// A plan on sale.
pub async fn plan_on_sale(conn: &mut PgConnection, id: &str) -> Result<Plan> {
    sqlx::query_as(
        "SELECT id, name, tier, shard_pool, resources, entitlements FROM plan WHERE id = $1 AND NOT retired",
    )
    .bind(id)
    .fetch_optional(conn)
    .await?
    .ok_or_else(|| {
        Error::field("plan", format!("there is no plan {id:?}")).hint("see them with: freehold plan list")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_plans_are_valid_and_grow() {
        let plans = parse(SHIPPED).unwrap();
        assert_eq!(
            plans.iter().map(|p| p.id.as_str()).collect::<Vec<_>>(),
            ["free", "team", "business", "enterprise"]
        );
        for pair in plans.windows(2) {
            assert!(pair[0].entitlements.requests_per_second < pair[1].entitlements.requests_per_second);
            assert!(pair[0].entitlements.connections <= pair[1].entitlements.connections);
        }
    }

    #[test]
    fn a_wrong_file_says_what_is_wrong() {
        let twice = format!("{SHIPPED}\n{SHIPPED}");
        assert!(parse(&twice).unwrap_err().to_string().contains("twice"));
        assert!(parse("[[plan]]\nid = 'x'\nprice = 1").is_err());
    }
}
