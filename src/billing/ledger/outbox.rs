//! What a row of a shard's outbox says. Whoever holds a tenant's login can write any row there, in that tenant's name: what
//! makes no sense is kept aside, and holds up nobody else's. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::events::Fact;
use super::meters::Aggregation;
use crate::kernel::ids::TenantId;

/// The kind of outbox rows that are facts.
pub const KIND: &str = "usage";

/// What a product's transaction writes as the row's payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload<'a> {
    #[serde(borrow)]
    pub meter: std::borrow::Cow<'a, str>,
    pub quantity: i64,
    /// When it happened, in microseconds since 1970: by the server's clock, and not by the shard's, so that one clock rules
    /// all windows. Without it, the row's own time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<i64>,
}

/// One row.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Row {
    pub id: i64,
    pub role_name: String,
    pub key: String,
    pub payload: String,
    pub at: DateTime<Utc>,
}

/// Why a row is no fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    UnknownRole,
    Unreadable,
    UnknownMeter,
    BadQuantity,
    OtherBody,
}

impl Why {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnknownRole => "unknown_role",
            Self::Unreadable => "unreadable",
            Self::UnknownMeter => "unknown_meter",
            Self::BadQuantity => "bad_quantity",
            Self::OtherBody => "other_body",
        }
    }
}

/// The fact that a row says.
///
/// # Errors
/// Why it says none.
pub fn fact_of(
    row: &Row,
    tenants: &HashMap<String, TenantId>,
    meters: &HashMap<Arc<str>, Aggregation>,
    source: &Arc<str>,
    received_at: DateTime<Utc>,
) -> Result<Fact, Why> {
    let tenant = *tenants.get(&row.role_name).ok_or(Why::UnknownRole)?;
    let said: Payload<'_> = serde_json::from_str(&row.payload).map_err(|_| Why::Unreadable)?;
    let (meter, aggregation) = meters.get_key_value(&*said.meter).ok_or(Why::UnknownMeter)?;
    if !(0..=aggregation.most()).contains(&said.quantity) {
        return Err(Why::BadQuantity);
    }
    let occurred_at = match said.at {
        Some(micros) => {
            DateTime::from_timestamp_micros(micros).filter(|at| in_reach(*at)).ok_or(Why::Unreadable)?
        }
        None => row.at,
    };
    Ok(Fact {
        tenant,
        meter: meter.clone(),
        source: source.clone(),
        key: row.key.clone(),
        quantity: said.quantity,
        occurred_at,
        received_at,
    })
}

/// Whether the databases can hold a time, with room for sums.
fn in_reach(at: DateTime<Utc>) -> bool {
    (1970..3000).contains(&chrono::Datelike::year(&at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(role: &str, payload: &str) -> Result<Fact, Why> {
        let row = Row {
            id: 1,
            role_name: role.to_owned(),
            key: "k".to_owned(),
            payload: payload.to_owned(),
            at: DateTime::UNIX_EPOCH,
        };
        let tenants = HashMap::from([("t_known".to_owned(), TenantId(uuid::Uuid::nil()))]);
        let meters = HashMap::from([("tasks".into(), Aggregation::Sum)]);
        fact_of(&row, &tenants, &meters, &"outbox:x".into(), DateTime::UNIX_EPOCH)
    }

    #[test]
    fn a_row_is_a_fact_or_says_why_not() {
        let good = judged("t_known", r#"{"meter":"tasks","quantity":3,"at":1000000}"#).unwrap();
        assert_eq!((good.quantity, good.occurred_at.timestamp(), &*good.source), (3, 1, "outbox:x"));
        let no_time = judged("t_known", r#"{"meter":"tasks","quantity":0}"#).unwrap();
        assert_eq!(no_time.occurred_at, DateTime::UNIX_EPOCH);
        for (role, payload, why) in [
            ("t_other", r#"{"meter":"tasks","quantity":3}"#, Why::UnknownRole),
            ("t_known", r#"{"meter":"other","quantity":3}"#, Why::UnknownMeter),
            ("t_known", r#"{"meter":"tasks","quantity":-1}"#, Why::BadQuantity),
            ("t_known", r#"{"meter":"tasks","quantity":1000000000001}"#, Why::BadQuantity),
            ("t_known", r#"{"meter":"tasks","quantity":1.5}"#, Why::Unreadable),
            ("t_known", r#"{"meter":"tasks","quantity":99999999999999999999}"#, Why::Unreadable),
            ("t_known", r#"{"meter":"tasks","quantity":1,"at":9223372036854775807}"#, Why::Unreadable),
            ("t_known", r#"{"meter":"tasks","quantity":1,"at":-9000000000000000}"#, Why::Unreadable),
            ("t_known", r#"[1]"#, Why::Unreadable),
            ("t_known", r#""text""#, Why::Unreadable),
            ("t_known", r#"{}"#, Why::Unreadable),
        ] {
            assert_eq!(judged(role, payload).unwrap_err(), why, "{payload}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let payload = Payload { meter: "tasks".into(), quantity: 7, at: Some(12) };
        let text = serde_json::to_string(&payload).unwrap();
        assert_eq!(serde_json::from_str::<Payload<'_>>(&text).unwrap(), payload);
    }
}
