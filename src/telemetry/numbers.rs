//! Metrics in Prometheus' format. No time series is per tenant: there may be tens of thousands, and a tenant's own
//! numbers are in the logs (by id) and on its shard. Routes are templates, methods and statuses are few.

use std::time::Duration;

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

/// Bucket limits for everything that is measured in seconds: finest where answers usually fall.
const SECONDS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];
const UPKEEP: Duration = Duration::from_secs(5);

/// Installs the process's recorder. `None` when there is one already, as in tests that share a process.
///
/// Call it inside a runtime: a task drains the histograms now and then, so that memory stays flat when nobody scrapes.
pub fn install() -> Option<PrometheusHandle> {
    let recorder = recorder()?;
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).ok()?;
    describe();
    let upkeep = handle.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP).await;
            upkeep.run_upkeep();
        }
    });
    Some(handle)
}

fn recorder() -> Option<PrometheusRecorder> {
    // Without explicit buckets the exporter renders summaries, which cannot be added up over replicas.
    let buckets = Matcher::Suffix("_seconds".to_owned());
    Some(PrometheusBuilder::new().set_buckets_for_metric(buckets, &SECONDS).ok()?.build_recorder())
}

fn describe() {
    describe_counter!("http_requests_total", "Requests answered, by route template, method and status.");
    describe_histogram!("http_request_seconds", Unit::Seconds, "Time until the answer's head.");
    describe_counter!("directory_lookups_total", "Questions to the control database.");
    describe_counter!("directory_reloads_total", "Tenants looked up again after a refused login.");
    describe_counter!("rate_limited_total", "Requests refused with 429 by a tenant's rate limit.");
    describe_counter!("rate_limit_local_total", "Rate decisions made without Redis.");
    describe_counter!(
        "rate_limit_foreign_total",
        "Rate limits in Redis that bore another tenant's id. Should be 0."
    );
    describe_broker();
    describe_counter!(
        "log_lines_dropped_total",
        "Log lines that nobody took in time, or that could not be written."
    );
    describe_counter!(
        "tasks_restarted_total",
        "Tasks that should run all the time and did not: begun again. Should be 0."
    );
    describe_counter!(
        "worker_attempts_total",
        "Attempts at runs, by kind and the state they left the run in."
    );
    describe_histogram!(
        "tenant_from_slot_seconds",
        Unit::Seconds,
        "Making a tenant of a spare slot: from its slug to the commit."
    );
    describe_counter!("worker_jobs_total", "Jobs carried out, by kind and outcome.");
    describe_counter!("worker_rounds_total", "Periodic work, billing's included, by name and outcome.");
    describe_gauge!("infra_drifted", "States in the cloud that somebody else has changed, by kind.");
    describe_gauge!("infra_orphans", "What is in the cloud and in no state.");
    describe_gauge!("infra_looks_failed", "What could not be looked at the last time, by kind.");
    describe_counter!(
        "quota_refused_total",
        "Requests refused because a month's requests, or the stored bytes, of a plan are used up."
    );
    describe_counter!("quota_notices_total", "Limits of which owners were told.");
    describe_gauge!("usage_outbox_oldest_seconds", "The oldest fact that waits in the shard's outbox.");
    describe_counter!("usage_rows_relayed_total", "Outbox rows carried into the ledger.");
    describe_counter!("usage_facts_sealed_total", "Facts put into batches.");
    describe_counter!("usage_batches_sealed_total", "Batches made.");
    describe_counter!(
        "api_calls_lost_total",
        "Calls that were counted and not recorded: they are not billed."
    );
    describe_counter!("billing_meter_events_total", "Meter events sent to Stripe, by what became of them.");
    describe_gauge!(
        "billing_oldest_undelivered_seconds",
        "How long the oldest batch waits; 900 wants a look, 7200 a person."
    );
    describe_gauge!("billing_clock_skew_seconds", "How far Stripe's clock is ahead of ours.");
    describe_gauge!(
        "billing_waiting",
        "Batches that are undelivered, unknown, rejected or quarantined; quarantined_facts; drafts_held; corrections_asked; differences of the last comparison. Rejected, quarantined, drafts_held and differences should be 0."
    );
    describe_gauge!("billing_reconciled_seconds_ago", "The last whole comparison of all tenants.");
    describe_counter!("reconcile_differences_total", "Differences found: see BILLING.md.");
    describe_gauge!("billing_incidents_open", "What somebody has to look at. Should be 0.");
    describe_counter!("billing_incidents_total", "Incidents opened or seen again.");
    describe_counter!("webhooks_total", "Stripe's webhooks that were taken.");
    describe_counter!("webhook_refused_total", "Webhooks that were not: a wrong signature, the other mode.");
    describe_counter!(
        "webhook_previous_secret_total",
        "Webhooks signed with the previous secret: it must stay until this is quiet."
    );
    describe_counter!("webhooks_worked_total", "Webhooks that were worked off.");
    describe_counter!("webhooks_dead_total", "Webhooks that were given up.");
    describe_counter!("webhook_gaps_total", "Events that never came and were found in Stripe's list.");
    describe_gauge!("webhook_inbox_ready", "Events that wait.");
    describe_gauge!("webhook_inbox_dead", "Events that were given up and not looked at. Should be 0.");
    describe_gauge!("webhook_inbox_lag_seconds", "How long the oldest event waits.");
    describe_counter!("meter_errors_total", "Events that Stripe could not use after it had taken them.");
    describe_counter!("access_changes_total", "Tenants whose access changed with what they owe.");
}

fn describe_broker() {
    describe_gauge!("broker_connections", "Connections open, by shard.");
    describe_gauge!("broker_waiting", "Requests that wait for a connection, by shard.");
    describe_counter!("broker_logins_total", "Connections opened, by shard.");
    describe_histogram!("broker_login_seconds", Unit::Seconds, "Time a login took, by shard.");
    describe_counter!("broker_evictions_total", "Idle connections closed for another tenant, by shard.");
    describe_counter!(
        "broker_retries_total",
        "Pieces of work begun a second time because their connection was dead, by shard."
    );
    describe_counter!("broker_refused_total", "Requests refused for want of a connection, by shard.");
    describe_gauge!("broker_breaker_open", "1 while the shard counts as down.");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_histograms_that_can_be_added_up() {
        let recorder = recorder().unwrap();
        metrics::with_local_recorder(&recorder, || {
            metrics::histogram!("http_request_seconds", "route" => "/a").record(0.003);
            metrics::counter!("http_requests_total", "route" => "/a").increment(1);
        });
        let text = recorder.handle().render();
        assert!(text.contains("# TYPE http_request_seconds histogram"), "{text}");
        assert!(text.contains("http_request_seconds_bucket{route=\"/a\",le=\"0.005\"} 1"), "{text}");
        assert!(text.contains("http_request_seconds_bucket{route=\"/a\",le=\"0.0025\"} 0"), "{text}");
        assert!(text.contains("http_requests_total{route=\"/a\"} 1"), "{text}");
    }
}
