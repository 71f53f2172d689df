//! Usage that Stripe took and could not count. It says so minutes later, in thin events that hold samples, no list: the
//! samples are marked, and the meter is to be reconciled over the time that the report is about.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::read::moment;
use super::work::Taken;
use crate::billing::Billing;
use crate::billing::incidents::{self, kind};
use crate::billing::sender::decide::SKEW_AT_MOST;
use crate::kernel::Result;

/// What a report says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Report {
    /// The meter at Stripe; none when there is no such meter.
    meter: Option<String>,
    from: Option<DateTime<Utc>>,
    to: Option<DateTime<Utc>>,
    count: i64,
    /// Identifiers of some of the events that were not counted, and why.
    samples: Vec<(String, String)>,
}

/// Leniently: what is missing is missing.
fn read(event: &Value) -> Report {
    let data = &event["data"];
    let reason = &data["reason"];
    let mut samples = Vec::new();
    for kind in reason["error_types"].as_array().into_iter().flatten() {
        let code = kind["code"].as_str().unwrap_or("unknown");
        for sample in kind["sample_errors"].as_array().into_iter().flatten() {
            let message = sample["error_message"].as_str().unwrap_or_default();
            if let Some(identifier) = sample["request"]["identifier"].as_str() {
                samples.push((identifier.to_owned(), format!("{code}: {message}")));
            }
        }
    }
    Report {
        meter: event["related_object"]["id"].as_str().map(str::to_owned),
        from: moment(&data["validation_start"]),
        to: moment(&data["validation_end"]),
        count: reason["error_count"].as_i64().unwrap_or(0),
        samples,
    }
}

/// Fetches the report, marks what it names, and opens an incident.
pub(super) async fn report(billing: &Billing, event: &Taken) -> Result<()> {
    // The event that was delivered has no data.
    let whole = billing.stripe.thin_event(&event.event_id).await?;
    let report = read(&whole);
    let now = billing.cp.clock.now();
    let (identifiers, whys): (Vec<String>, Vec<String>) = report.samples.iter().cloned().unzip();
    // Our clock and Stripe's may differ by as much as senders let them.
    let until = report.to.map(|to| to + SKEW_AT_MOST);
    let mut tx = billing.cp.db.begin().await?;
    // A delivered one too: Stripe took it, and then did not count it. Not one that was sent again after what the report is
    // about: the same report may come again, days later.
    let marked: Vec<String> = sqlx::query_scalar(
        "UPDATE usage_batch b SET state = 'rejected', delivered_via = NULL, settled_at = NULL, error = said.why
           FROM (SELECT * FROM unnest($1::text[], $2::text[]) AS s (identifier, why)) said
          WHERE b.identifier = said.identifier AND b.state NOT IN ('void', 'rejected', 'quarantined')
            AND ($3::timestamptz IS NULL AND b.requeued_at IS NULL OR greatest(b.last_sent_at, b.requeued_at) <= $3)
         RETURNING b.identifier",
    )
    .bind(&identifiers)
    .bind(&whys)
    .bind(until)
    .fetch_all(&mut *tx)
    .await?;
    let subject = report.meter.clone().unwrap_or_else(|| "no meter".to_owned());
    let detail = json!({
        "event": event.event_id,
        "type": event.kind,
        "meter": report.meter,
        "from": report.from,
        "to": report.to,
        "errors": report.count,
        "samples": identifiers,
        "why": whys.first(),
        "marked": marked,
        "next": "reconcile this meter over this time: the samples are not all",
    });
    incidents::open(&mut tx, kind::METER_ERROR, &subject, None, detail, now).await?;
    tx.commit().await?;
    metrics::counter!("meter_errors_total").increment(u64::try_from(report.count).unwrap_or(0).max(1));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_as_far_as_it_goes() {
        let report = read(&json!({
            "related_object": { "id": "mtr_1", "type": "billing.meter" },
            "data": {
                "validation_start": "2026-01-01T00:00:00Z", "validation_end": "2026-01-01T00:10:00Z",
                "reason": { "error_count": 3, "error_types": [
                    { "code": "meter_event_customer_not_found", "error_count": 3, "sample_errors": [
                        { "error_message": "no such customer", "request": { "identifier": "ub:1" } },
                        { "error_message": "no such customer", "request": {} } ] } ] }
            }
        }));
        assert_eq!(report.meter.as_deref(), Some("mtr_1"));
        assert_eq!(report.count, 3);
        assert_eq!(report.samples.len(), 1);
        assert!(report.samples[0].1.starts_with("meter_event_customer_not_found"));
        assert_eq!(report.to.unwrap() - report.from.unwrap(), chrono::TimeDelta::minutes(10));
        assert_eq!(read(&json!({})), Report::default());
    }
}
