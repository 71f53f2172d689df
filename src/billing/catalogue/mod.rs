//! Plans, prices and meters, brought to Stripe. The control database says what is sold; `stripe_object` says what of it is
//! at Stripe. A price is never changed: another amount is another price, which takes over the lookup key, and who has the
//! old one keeps it. Doing it again does nothing.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::Billing;
use super::ledger::meters::meter_list;
use super::stripe::{PriceItem, Stripe, Trouble};
use crate::control_plane::ControlPlane;
use crate::control_plane::plans::{Plan, plan_by_id, plan_list};
use crate::kernel::{Error, Result, codes};
use wanted::{Content, Wanted};

mod wanted;

pub use wanted::{Action, Kind, meter_name, metered_name, monthly_name};

const TRIES: u32 = 5;
const WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// One thing that is done at Stripe, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Step {
    pub action: Action,
    pub kind: Kind,
    /// Ours: `plan:team:monthly:4900:eur`.
    pub name: String,
    /// For people: `49.00 EUR a month`.
    pub says: String,
}

/// What it takes to bring Stripe to the plans.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Diff {
    pub livemode: bool,
    pub steps: Vec<Step>,
    /// What is as it should be.
    pub unchanged: usize,
}

impl Diff {
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

/// A line for each step.
impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = if self.livemode { "live" } else { "test" };
        for step in &self.steps {
            let Step { action, kind, name, says } = step;
            writeln!(f, "{:<8}{:<9}{name}: {says}", action.as_str(), kind.as_str())?;
        }
        write!(f, "Stripe ({mode} mode): {} to do, {} unchanged", self.steps.len(), self.unchanged)
    }
}

#[derive(sqlx::FromRow)]
struct Known {
    kind: String,
    name: String,
    stripe_id: String,
    hash: Vec<u8>,
}

type There = HashMap<(String, String), (String, Vec<u8>)>;

async fn there(conn: &mut PgConnection, livemode: bool) -> Result<There> {
    let rows: Vec<Known> =
        sqlx::query_as("SELECT kind, name, stripe_id, hash FROM stripe_object WHERE livemode = $1")
            .bind(livemode)
            .fetch_all(conn)
            .await?;
    Ok(rows.into_iter().map(|known| ((known.kind, known.name), (known.stripe_id, known.hash))).collect())
}

/// What would be done to sell these plans, as far as the control database knows.
///
/// # Errors
/// `bad_request` and `state_conflict` for plans that cannot be brought to Stripe.
pub async fn preview(conn: &mut PgConnection, livemode: bool, plans: &[Plan]) -> Result<Diff> {
    let meters = meter_list(conn).await?;
    let there = there(conn, livemode).await?;
    Ok(steps(livemode, &wanted::wanted(plans, &meters)?, &there)?.0)
}

fn steps<'w>(livemode: bool, all: &'w [Wanted], there: &There) -> Result<(Diff, Vec<&'w Wanted>)> {
    let (mut diff, mut to_do) = (Diff { livemode, ..Diff::default() }, Vec::new());
    for wanted in all {
        let known = there.get(&(wanted.kind.as_str().to_owned(), wanted.name.clone()));
        match wanted::action(wanted, known.map(|(_, hash)| hash.as_slice()))? {
            None => diff.unchanged += 1,
            Some(action) => {
                let (name, says) = (wanted.name.clone(), wanted.says.clone());
                diff.steps.push(Step { action, kind: wanted.kind, name, says });
                to_do.push(wanted);
            }
        }
    }
    Ok((diff, to_do))
}

/// Brings Stripe to the plans on sale and the meters that there are. With `dry_run`, only says what would be done.
///
/// # Errors
/// As [`preview`], and when Stripe does not answer or refuses: what was done until then is written down, and the next call
/// goes on from there. `conflict` while another does the same.
pub async fn sync(cp: &ControlPlane, stripe: &Stripe, dry_run: bool) -> Result<Diff> {
    let livemode = stripe.livemode();
    // A session's lock, not a transaction's: none is open while Stripe is asked. It goes with the connection.
    let mut conn = cp.db.acquire().await?.detach();
    let (plans, meters) = (plan_list(&mut conn).await?, meter_list(&mut conn).await?);
    let all = wanted::wanted(&plans, &meters)?;
    if dry_run {
        return Ok(steps(livemode, &all, &there(&mut conn, livemode).await?)?.0);
    }
    let mine: bool =
        sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtextextended('freehold.catalogue', 0))")
            .fetch_one(&mut conn)
            .await?;
    if !mine {
        return Err(Error::new(&codes::CONFLICT).detail("somebody else brings the plans to Stripe right now"));
    }
    let mut there = there(&mut conn, livemode).await?;
    let (diff, to_do) = steps(livemode, &all, &there)?;
    for wanted in to_do {
        let stripe_id = put(stripe, wanted, &there).await?;
        remember(&mut conn, livemode, wanted, &stripe_id, cp.clock.now()).await?;
        tracing::info!(kind = wanted.kind.as_str(), name = wanted.name, stripe_id, "brought to Stripe");
        there.insert((wanted.kind.as_str().to_owned(), wanted.name.clone()), (stripe_id, wanted.hash()));
    }
    Ok(diff)
}

/// What a worker does now and then: whoever applied plans, and from wherever, Stripe follows.
///
/// # Errors
/// As [`sync`], but that another does the same is none.
pub async fn tend(billing: &Billing) -> Result<()> {
    match sync(&billing.cp, &billing.stripe, false).await {
        Err(error) if error.is(&codes::CONFLICT) => Ok(()),
        done => done.map(drop),
    }
}

/// Makes it, or brings it up to date. Stripe's own names for the parts are in `there` by now: they came before.
async fn put(stripe: &Stripe, wanted: &Wanted, there: &There) -> Result<String> {
    let mut content = wanted.content.clone();
    if let Content::Price { new, meter: Some((meter, included)) } = &mut content {
        let at_stripe = there
            .get(&(Kind::Meter.as_str().to_owned(), meter_name(meter)))
            .ok_or_else(|| Error::internal(format!("the meter {meter} was not brought to Stripe")))?;
        new.meter = Some((at_stripe.0.clone(), *included));
    }
    for _ in 0..TRIES {
        let asked = match &content {
            Content::Meter(new) => stripe.meter_create(new).await,
            Content::Product(new) => stripe.product_put(new).await,
            Content::Price { new, .. } => stripe.price_create(new).await,
        };
        match asked {
            // A catalogue is made faster than Stripe likes.
            Err(Trouble::Later { after, .. }) => {
                tokio::time::sleep(after.unwrap_or(WAIT).clamp(WAIT, LONGEST_WAIT)).await;
            }
            asked => return asked.map_err(|trouble| refused(wanted, trouble)),
        }
    }
    Err(refused(wanted, Trouble::Later { status: 429, after: None }))
}

fn refused(wanted: &Wanted, trouble: Trouble) -> Error {
    let code = match &trouble {
        Trouble::Refused { .. } => &codes::BAD_REQUEST,
        _ => &codes::PAYMENTS_UNAVAILABLE,
    };
    Error::new(code)
        .detail(format!("{} {} could not be brought to Stripe: {trouble}", wanted.kind.as_str(), wanted.name))
        .hint("what was done until then stays; do it again")
        .source(trouble)
}

async fn remember(
    conn: &mut PgConnection,
    livemode: bool,
    wanted: &Wanted,
    stripe_id: &str,
    now: DateTime<Utc>,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO stripe_object (livemode, kind, name, stripe_id, hash, synced_at) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (livemode, kind, name) DO UPDATE SET stripe_id = EXCLUDED.stripe_id, hash = EXCLUDED.hash,
            synced_at = EXCLUDED.synced_at",
    )
    .bind(livemode)
    .bind(wanted.kind.as_str())
    .bind(&wanted.name)
    .bind(stripe_id)
    .bind(wanted.hash())
    .bind(now)
    .execute(conn)
    .await?;
    Ok(())
}

/// The prices that a new subscription to a plan has: its month, then what it charges for use. Empty for a plan that is
/// free of charge.
///
/// # Errors
/// `not_found` for a plan that there never was; `state_conflict` for one that was not brought to Stripe yet.
pub async fn prices_of(conn: &mut PgConnection, livemode: bool, plan: &str) -> Result<Vec<PriceItem>> {
    let plan = plan_by_id(conn, plan)
        .await?
        .ok_or_else(|| Error::new(&codes::NOT_FOUND).detail(format!("there is no plan {plan:?}")))?;
    let Some(price) = &plan.price else { return Ok(Vec::new()) };
    let names: Vec<String> = std::iter::once(monthly_name(&plan.id, price))
        .chain(plan.meters.iter().map(|meter| metered_name(&plan.id, meter, &price.currency)))
        .collect();
    let found: Vec<(String, String)> = sqlx::query_as(
        "SELECT name, stripe_id FROM stripe_object WHERE livemode = $1 AND kind = 'price' AND name = ANY($2)",
    )
    .bind(livemode)
    .bind(&names)
    .fetch_all(conn)
    .await?;
    let found: HashMap<String, String> = found.into_iter().collect();
    names
        .iter()
        .enumerate()
        .map(|(place, name)| {
            let price = found.get(name).cloned().ok_or_else(|| {
                Error::new(&codes::STATE_CONFLICT)
                    .detail(format!("the plan {} was not brought to Stripe yet", plan.id))
                    .hint("an operator does that with: freehold plan apply")
            })?;
            Ok(PriceItem { price, metered: place > 0 })
        })
        .collect()
}

/// Where a meter is at Stripe.
pub async fn meter_at_stripe(conn: &mut PgConnection, livemode: bool, meter: &str) -> Result<Option<String>> {
    Ok(sqlx::query_scalar(
        "SELECT stripe_id FROM stripe_object WHERE livemode = $1 AND kind = 'meter' AND name = $2",
    )
    .bind(livemode)
    .bind(meter_name(meter))
    .fetch_optional(conn)
    .await?)
}
