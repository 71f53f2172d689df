//! Webhooks as they came: what they were, how often, what became of them. Their payloads name people and stay where they
//! are.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::kernel::page::{self, Page};
use crate::kernel::{Error, Result, codes};

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct InboxEvent {
    pub event_id: String,
    pub livemode: bool,
    /// `snapshot` or `thin`.
    pub shape: String,
    /// Empty when it could not be read.
    #[sqlx(rename = "type")]
    #[serde(rename = "type")]
    pub kind: String,
    /// What it is about: `sub_…`, `in_…`, `cus_…`.
    pub object: Option<String>,
    pub api_version: Option<String>,
    pub happened_at: Option<DateTime<Utc>>,
    pub received_at: DateTime<Utc>,
    /// How often Stripe delivered it.
    pub deliveries: i32,
    /// `webhook`, or `sweep` when it never came and was found in Stripe's list.
    pub found_by: String,
    /// `ready`, `done`, `dead` or `ignored`.
    pub state: String,
    pub attempts: i32,
    pub error: Option<String>,
    pub done_at: Option<DateTime<Utc>>,
}

/// The states that an event may be in.
pub const STATES: [&str; 4] = ["ready", "done", "dead", "ignored"];

/// One event.
///
/// # Errors
/// `not_found`.
pub async fn inbox_event(conn: &mut PgConnection, livemode: bool, id: &str) -> Result<InboxEvent> {
    sqlx::query_as(
        "SELECT event_id, livemode, shape, type, object, api_version, happened_at, received_at, deliveries, found_by, state,
                attempts, error, done_at FROM webhook_inbox WHERE livemode = $1 AND event_id = $2",
    )
    .bind(livemode)
    .bind(id)
    .fetch_optional(conn)
    .await?
    .ok_or_else(|| Error::new(&codes::NOT_FOUND).detail(format!("there is no event {id}")))
}

/// Which events to list.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct InboxFilter {
    /// `ready`, `done`, `dead` or `ignored`.
    pub state: Option<String>,
    /// Of this type, as in `invoice.paid`, or of all that begin so, as in `invoice.`
    pub kind: Option<String>,
    /// About this object.
    pub object: Option<String>,
    pub limit: Option<u32>,
    pub cursor: Option<String>,
}

/// Events, newest first.
///
/// # Errors
/// `invalid_fields`; `bad_cursor`.
pub async fn inbox_list(
    conn: &mut PgConnection,
    livemode: bool,
    filter: &InboxFilter,
) -> Result<Page<InboxEvent>> {
    let limit = page::limit(filter.limit)?;
    if filter.state.as_deref().is_some_and(|state| !STATES.contains(&state)) {
        return Err(Error::field("state", format!("is one of {}", STATES.join(", "))));
    }
    let before: Option<(DateTime<Utc>, String)> = filter.cursor.as_deref().map(page::decode).transpose()?;
    let rows = sqlx::query_as(
        "SELECT event_id, livemode, shape, type, object, api_version, happened_at, received_at, deliveries, found_by, state,
                attempts, error, done_at FROM webhook_inbox
          WHERE livemode = $1 AND ($2::text IS NULL OR state = $2) AND ($3::text IS NULL OR starts_with(type, $3))
            AND ($4::text IS NULL OR object = $4)
            AND ($5::timestamptz IS NULL OR (received_at, event_id) < ($5, $6))
          ORDER BY received_at DESC, event_id DESC LIMIT $7",
    )
    .bind(livemode)
    .bind(&filter.state)
    .bind(&filter.kind)
    .bind(&filter.object)
    .bind(before.as_ref().map(|(at, _)| *at))
    .bind(before.as_ref().map(|(_, id)| id.as_str()))
    .bind(i64::from(limit) + 1)
    .fetch_all(conn)
    .await?;
    Ok(Page::build(rows, limit, |event: &InboxEvent| (event.received_at, event.event_id.clone())))
}
