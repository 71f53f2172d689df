//! Plans: what is sold and what it grants. `plans.toml` is the source; the control database holds what was applied, and
//! Stripe follows it (`billing::catalogue`).
//!
//! | file | holds |
//! |---|---|
//! | `file` | the plan file: read and checked, each error with its line |
//! | `diff` | what applying it changes, in words. Pure |

mod diff;
mod file;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use sqlx::types::Json;

use super::ControlPlane;
use super::audit::{Caller, audit_add};
use super::changes::{self, Change};
use crate::db::schema::LoginLimits;
use crate::kernel::{Error, Result, codes};

pub use diff::{Difference, bytes_text, money_text};
pub use file::parse;

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
    /// Requests in a UTC month. No limit when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_month: Option<u64>,
    /// Bytes that the tenant's tables and indexes may take up. No limit when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_bytes: Option<u64>,
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

/// What a plan costs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// For a month, in minor units of the currency.
    pub monthly_minor: i64,
    /// ISO 4217, in lower case.
    pub currency: String,
    /// Days before the first payment; 0 for none.
    #[serde(default)]
    pub trial_days: u32,
}

/// What a plan charges for use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanMeter {
    /// The meter's id.
    pub meter: String,
    /// Units in a period that cost nothing.
    pub included: i64,
    /// Each unit after that, in minor units of the plan's currency. 0: counted and shown, not charged.
    pub unit_price_minor: i64,
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
    /// None: free of charge, and no subscription at Stripe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[sqlx(json(nullable))]
    pub price: Option<Price>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[sqlx(json)]
    pub meters: Vec<PlanMeter>,
}

impl Plan {
    /// Whether somebody pays for it.
    pub fn is_paid(&self) -> bool {
        self.price.is_some()
    }

    /// What it charges for this meter, if it counts it.
    pub fn meter(&self, id: &str) -> Option<&PlanMeter> {
        self.meters.iter().find(|meter| meter.meter == id)
    }
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
    /// Of the changed plans, what changes. Of the added ones, what they are.
    #[serde(default)]
    pub differences: Vec<Difference>,
}

impl PlanChanges {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.retired.is_empty()
    }
}

/// Brings the control database to these plans. With `dry_run`, only says what would change.
///
/// # Errors
/// `bad_request` for a meter that there is not, and for another currency than a plan was sold in: then nothing changes.
pub async fn apply(cp: &ControlPlane, caller: &Caller, plans: &[Plan], dry_run: bool) -> Result<PlanChanges> {
    let mut tx = cp.db.begin().await?;
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('freehold.plans', 0))")
        .execute(&mut *tx)
        .await?;
    let known = all_plans(&mut tx).await?;
    meters_exist(&mut tx, plans).await?;
    for plan in plans {
        if let Some((old, _)) = known.get(&plan.id).filter(|(old, _)| old.tier != plan.tier) {
            nobody_has(&mut tx, old, plan.tier).await?;
        }
    }
    let mut changes = PlanChanges::default();
    for (position, plan) in (0i32..).zip(plans) {
        match known.get(&plan.id) {
            None => changes.added.push(plan.id.clone()),
            // A plan that is sold again is changed by that.
            Some((old, false)) if old == plan => changes.unchanged.push(plan.id.clone()),
            Some((old, _)) => {
                same_currency(old, plan)?;
                changes.changed.push(plan.id.clone());
            }
        }
        changes.differences.extend(diff::of(known.get(&plan.id).map(|(old, retired)| (old, *retired)), plan));
        put(&mut tx, cp, plan, position).await?;
    }
    changes.retired = known
        .into_iter()
        .filter(|(id, (_, retired))| !retired && !plans.iter().any(|plan| &plan.id == id))
        .map(|(id, _)| id)
        .collect();
    sqlx::query("UPDATE plan SET retired = true WHERE id = ANY($1)")
        .bind(&changes.retired)
        .execute(&mut *tx)
        .await?;
    if dry_run || changes.is_empty() {
        return Ok(changes);
    }
    let detail = serde_json::to_value(&changes).map_err(Error::internal)?;
    audit_add(&mut tx, caller, cp.clock.now(), "plan.apply", None, "plans", detail).await?;
    changes::notify(&mut tx, Change::All).await?;
    tx.commit().await?;
    Ok(changes)
}

async fn put(conn: &mut PgConnection, cp: &ControlPlane, plan: &Plan, position: i32) -> Result<()> {
    sqlx::query(
        "INSERT INTO plan (id, name, tier, shard_pool, resources, entitlements, price, meters, position, retired, updated_at)
         VALUES ($1, $2, $3, $4, $10, $5, $6, $7, $8, false, $9)
         ON CONFLICT (id) DO UPDATE SET name = EXCLUDED.name, tier = EXCLUDED.tier,
            shard_pool = EXCLUDED.shard_pool, resources = EXCLUDED.resources,
            entitlements = EXCLUDED.entitlements, price = EXCLUDED.price,
            meters = EXCLUDED.meters, position = EXCLUDED.position, retired = false,
            updated_at = EXCLUDED.updated_at",
    )
    .bind(&plan.id)
    .bind(&plan.name)
    .bind(plan.tier)
    .bind(&plan.shard_pool)
    .bind(Json(&plan.entitlements))
    .bind(plan.price.as_ref().map(Json))
    .bind(Json(&plan.meters))
    .bind(position)
    .bind(cp.clock.now())
    .bind(plan.resources)
    .execute(conn)
    .await?;
    Ok(())
}

/// A customer at Stripe has one currency for ever, so a plan has too.
fn same_currency(old: &Plan, new: &Plan) -> Result<()> {
    match (&old.price, &new.price) {
        (Some(was), Some(is)) if was.currency != is.currency => {
            Err(Error::new(&codes::BAD_REQUEST).detail(format!(
                "plan {} is sold in {}; it cannot be sold in {} from now on: make another plan",
                new.id, was.currency, is.currency
            )))
        }
        _ => Ok(()),
    }
}

/// The product brings its meters with it; a plan may only name those.
async fn meters_exist(conn: &mut PgConnection, plans: &[Plan]) -> Result<()> {
    let known: BTreeSet<String> =
        sqlx::query_scalar("SELECT id FROM meter").fetch_all(conn).await?.into_iter().collect();
    for plan in plans {
        if let Some(unknown) = plan.meters.iter().find(|meter| !known.contains(&meter.meter)) {
            return Err(Error::new(&codes::BAD_REQUEST).detail(format!(
                "plan {} charges for {}, and there is no such meter; there are: {}",
                plan.id,
                unknown.meter,
                known.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
            )));
        }
    }
    Ok(())
}

#[derive(sqlx::FromRow)]
struct PlanRow {
    #[sqlx(flatten)]
    plan: Plan,
    retired: bool,
}

/// All that were ever applied, and whether each is retired.
async fn all_plans(conn: &mut PgConnection) -> Result<BTreeMap<String, (Plan, bool)>> {
    let rows: Vec<PlanRow> = sqlx::query_as(
        "SELECT id, name, tier, shard_pool, resources, entitlements, price, meters, retired FROM plan ORDER BY position",
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.plan.id.clone(), (row.plan, row.retired))).collect())
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
        "SELECT id, name, tier, shard_pool, resources, entitlements, price, meters
           FROM plan WHERE NOT retired ORDER BY position",
    )
    .fetch_all(conn)
    .await?)
}

/// A plan on sale.
pub async fn plan_on_sale(conn: &mut PgConnection, id: &str) -> Result<Plan> {
    sqlx::query_as(
        "SELECT id, name, tier, shard_pool, resources, entitlements, price, meters FROM plan WHERE id = $1 AND NOT retired",
    )
    .bind(id)
    .fetch_optional(conn)
    .await?
    .ok_or_else(|| {
        Error::field("plan", format!("there is no plan {id:?}")).hint("see them with: freehold plan list")
    })
}

/// A plan, also one that is no longer sold.
pub async fn plan_by_id(conn: &mut PgConnection, id: &str) -> Result<Option<Plan>> {
    Ok(sqlx::query_as(
        "SELECT id, name, tier, shard_pool, resources, entitlements, price, meters FROM plan WHERE id = $1",
    )
    .bind(id)
    .fetch_optional(conn)
    .await?)
}
