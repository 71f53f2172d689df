//! What an event says of itself. Only what we work with is looked for, so that an event of another API version is read as
//! well; the rest stays in the stored bytes.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::Value;

/// Longest id of an event.
const LONGEST: usize = 255;

/// The little that is read at the door.
#[derive(Debug, PartialEq, Eq)]
pub struct Event<'a> {
    pub id: Cow<'a, str>,
    pub livemode: bool,
    pub kind: Cow<'a, str>,
    /// The id of what it is about.
    pub object: Option<Cow<'a, str>>,
    pub api_version: Option<Cow<'a, str>>,
    pub happened_at: Option<DateTime<Utc>>,
}

#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    livemode: bool,
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    api_version: Option<Cow<'a, str>>,
    /// Seconds in a snapshot, a text in a thin event.
    #[serde(default)]
    created: Value,
    #[serde(borrow, default)]
    data: Option<Data<'a>>,
    #[serde(borrow, default)]
    related_object: Option<Named<'a>>,
}

#[derive(Deserialize)]
struct Data<'a> {
    #[serde(borrow, default)]
    object: Option<Named<'a>>,
}

#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
}

/// Reads one.
///
/// # Errors
/// Why it cannot be read: it is to be stored as it came, and somebody is to look at it.
pub fn read(body: &[u8]) -> Result<Event<'_>, String> {
    let raw: Raw = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    if raw.id.is_empty() || raw.id.len() > LONGEST || raw.kind.is_empty() || raw.kind.len() > LONGEST {
        return Err("its id or its type is empty or too long".to_owned());
    }
    // No column can hold it, in whatever field it is.
    if body.windows(6).any(|six| six == br"\u0000") {
        return Err("it holds U+0000".to_owned());
    }
    let object = raw.data.and_then(|data| data.object).or(raw.related_object).and_then(|object| object.id);
    Ok(Event {
        happened_at: moment(&raw.created),
        id: raw.id,
        livemode: raw.livemode,
        kind: raw.kind,
        object: object.filter(|id| !id.is_empty() && id.len() <= LONGEST),
        api_version: raw.api_version,
    })
}

/// Seconds since 1970, or a text.
pub fn moment(created: &Value) -> Option<DateTime<Utc>> {
    match created {
        Value::Number(seconds) => DateTime::from_timestamp(seconds.as_i64()?, 0),
        Value::String(text) => DateTime::parse_from_rfc3339(text).ok().map(|at| at.to_utc()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_and_thin_events_are_read_whatever_else_they_hold() {
        let snapshot = br#"{"id":"evt_1","object":"event","livemode":false,"type":"invoice.paid","created":1700000000,
            "api_version":"2031-01-01.other","data":{"object":{"id":"in_1","new":[1,{"deep":true}]}},"request":null}"#;
        let event = read(snapshot).unwrap();
        assert_eq!((&*event.id, &*event.kind, event.livemode), ("evt_1", "invoice.paid", false));
        assert_eq!(event.object.as_deref(), Some("in_1"));
        assert_eq!(event.api_version.as_deref(), Some("2031-01-01.other"));
        assert_eq!(event.happened_at.unwrap().timestamp(), 1_700_000_000);

        let thin = br#"{"id":"evt_2","object":"v2.core.event","type":"v1.billing.meter.error_report_triggered",
            "livemode":true,"created":"2026-01-02T03:04:05.678Z","related_object":{"id":"mtr_1","type":"billing.meter","url":"/v1"}}"#;
        let event = read(thin).unwrap();
        assert!(event.livemode);
        assert_eq!(event.object.as_deref(), Some("mtr_1"));
        assert_eq!(event.happened_at.unwrap().to_rfc3339(), "2026-01-02T03:04:05.678+00:00");

        let preview = br#"{"id":"evt_3","livemode":false,"type":"invoice.upcoming","data":{"object":{"customer":"cus_1"}}}"#;
        assert_eq!(read(preview).unwrap().object, None);
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        for bad in [
            &b""[..],
            b"{",
            b"[]",
            b"\xff\xfe",
            br#"{"id":"evt_1","type":"x"}"#,
            br#"{"id":"evt_1","type":"x","livemode":"no"}"#,
            br#"{"id":"","type":"x","livemode":true}"#,
            br#"{"id":"evt_1","type":"x","livemode":true,"data":{"object":{"name":"\u0000"}}}"#,
        ] {
            assert!(!read(bad).unwrap_err().is_empty());
        }
        assert!(
            read(format!("{{\"id\":\"{}\",\"type\":\"x\",\"livemode\":true}}", "e".repeat(256)).as_bytes())
                .is_err()
        );
    }
}
