//! What somebody has to look at: one open incident for each kind and subject, however often it is seen. `freehold billing`
//! lists them, the doctor counts them, and the counter `billing_incidents_total` is for whoever wants to be woken.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgConnection;

use crate::kernel::ids::TenantId;
use crate::kernel::page::{Asked, Page};
use crate::kernel::{Error, Result, codes};

crate::define_id!(IncidentId, "inc", "Something about money that somebody has to look at.");

/// The kinds that webhooks, customers and access open. Others' kinds are theirs to name.
pub mod kind {
    /// A signature that no secret of ours makes.
    pub const SIGNATURE: &str = "webhook_signature";
    /// Signed with the previous secret: it must not go away yet.
    pub const PREVIOUS_SECRET: &str = "webhook_previous_secret";
    /// A test event at a live endpoint, or the other way round; an object of the other mode.
    pub const LIVEMODE: &str = "livemode_mismatch";
    /// Signed by Stripe, and not to be read.
    pub const UNREADABLE: &str = "webhook_unreadable";
    /// Failed too often; kept.
    pub const DEAD: &str = "webhook_dead";
    /// An event that Stripe lists and that never came.
    pub const GAP: &str = "webhook_gap";
    /// Events wait too long.
    pub const LAG: &str = "webhook_lag";
    /// Events of another API version than the one that this build was written for.
    pub const API_VERSION: &str = "api_version_mismatch";
    /// Stripe could not use meter events.
    pub const METER_ERROR: &str = "meter_error";
    /// A customer of a living tenant was deleted at Stripe.
    pub const CUSTOMER_DELETED: &str = "customer_deleted";
    /// A subscription that names no plan of ours.
    pub const NO_PLAN: &str = "subscription_without_plan";
    /// A plan that is paid for and cannot be given: another pool of shards, no longer sold.
    pub const PLAN_NOT_GIVEN: &str = "plan_not_given";
    /// A tenant on a paid plan, made by an operator, with nobody in it who could pay.
    pub const UNBILLED: &str = "unbilled_tenant";
    /// A tenant was deleted and brought back, and its subscription had ended before.
    pub const RETURNED: &str = "returned_without_subscription";
    /// A tenant with more than one living subscription.
    pub const TWO_SUBSCRIPTIONS: &str = "two_subscriptions";
    /// A draft invoice that waits, because a period does not agree.
    pub const DRAFT_HELD: &str = "draft_held";
    /// An invoice that Stripe could not finalize.
    pub const NOT_FINALIZED: &str = "invoice_not_finalized";
    /// A customer's bank takes a payment back.
    pub const DISPUTE: &str = "dispute";
    /// One of Stripe's own usage alerts.
    pub const ALERT: &str = "billing_alert";
}

/// One incident.
#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct Incident {
    pub id: IncidentId,
    pub kind: String,
    /// What it is about: a batch's identifier, an event, an object at Stripe.
    pub subject: String,
    pub tenant: Option<TenantId>,
    #[schema(value_type = Object)]
    pub detail: Value,
    pub opened_at: DateTime<Utc>,
    /// How often it was seen since.
    pub seen: i32,
    pub settled_at: Option<DateTime<Utc>>,
    pub settled_by: Option<String>,
}

/// Opens one, or sees it again; the newest detail stays. Says whether it is new.
pub async fn open(
    conn: &mut PgConnection,
    kind: &str,
    subject: &str,
    tenant: Option<TenantId>,
    detail: Value,
    now: DateTime<Utc>,
) -> Result<bool> {
    let seen: i32 = sqlx::query_scalar(
        "INSERT INTO billing_incident (id, kind, subject, tenant, detail, opened_at) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (kind, subject) WHERE settled_at IS NULL
         DO UPDATE SET seen = billing_incident.seen + 1, detail = EXCLUDED.detail
         RETURNING seen",
    )
    .bind(IncidentId::new())
    .bind(kind)
    .bind(subject)
    .bind(tenant)
    .bind(&detail)
    .bind(now)
    .fetch_one(conn)
    .await?;
    metrics::counter!("billing_incidents_total", "kind" => kind.to_owned()).increment(1);
    if seen == 1 {
        tracing::error!(kind, subject, %detail, "an incident was opened");
    }
    Ok(seen == 1)
}

/// Settles the open one of this kind and subject, if there is one. Says whether there was.
pub async fn settle(
    conn: &mut PgConnection,
    kind: &str,
    subject: &str,
    by: &str,
    now: DateTime<Utc>,
) -> Result<bool> {
    let settled = sqlx::query(
        "UPDATE billing_incident SET settled_at = $3, settled_by = $4
          WHERE kind = $1 AND subject = $2 AND settled_at IS NULL",
    )
    .bind(kind)
    .bind(subject)
    .bind(now)
    .bind(by)
    .execute(conn)
    .await?;
    Ok(settled.rows_affected() > 0)
}

/// Settles one by its id, as a person does who has looked at it.
///
/// # Errors
/// `not_found` for one that there is not, or that is settled already.
pub async fn settle_by_id(
    conn: &mut PgConnection,
    id: IncidentId,
    by: &str,
    now: DateTime<Utc>,
) -> Result<Incident> {
    sqlx::query_as(
        "UPDATE billing_incident SET settled_at = $2, settled_by = $3 WHERE id = $1 AND settled_at IS NULL
         RETURNING id, kind, subject, tenant, detail, opened_at, seen, settled_at, settled_by",
    )
    .bind(id)
    .bind(now)
    .bind(by)
    .fetch_optional(conn)
    .await?
    .ok_or_else(|| Error::new(&codes::NOT_FOUND).detail(format!("there is no open incident {id}")))
}

/// A page of incidents, newest first; the settled ones too when asked for.
///
/// # Errors
/// `invalid_fields`; `bad_cursor`.
pub async fn page(
    conn: &mut PgConnection,
    settled_too: bool,
    limit: Option<u32>,
    cursor: Option<&str>,
) -> Result<Page<Incident>> {
    let asked = Asked::<(DateTime<Utc>, IncidentId)>::of(limit, cursor)?;
    let rows = sqlx::query_as(
        "SELECT id, kind, subject, tenant, detail, opened_at, seen, settled_at, settled_by FROM billing_incident
          WHERE ($1 OR settled_at IS NULL) AND ($2::timestamptz IS NULL OR (opened_at, id) < ($2, $3))
          ORDER BY opened_at DESC, id DESC LIMIT $4",
    )
    .bind(settled_too)
    .bind(asked.after.map(|(at, _)| at))
    .bind(asked.after.map(|(_, id)| id))
    .bind(asked.rows())
    .fetch_all(conn)
    .await?;
    Ok(asked.page(rows, |one: &Incident| (one.opened_at, one.id)))
}

/// Incidents, newest first; the settled ones too when asked for. At most `limit`.
pub async fn list(conn: &mut PgConnection, settled_too: bool, limit: i64) -> Result<Vec<Incident>> {
    Ok(sqlx::query_as(
        "SELECT id, kind, subject, tenant, detail, opened_at, seen, settled_at, settled_by FROM billing_incident
          WHERE $1 OR settled_at IS NULL ORDER BY opened_at DESC, id DESC LIMIT $2",
    )
    .bind(settled_too)
    .bind(limit)
    .fetch_all(conn)
    .await?)
}
