//! Processes whose wall clock is wrong. A server's steps by an hour, ahead and back, while it serves; two workers are an
//! hour ahead and an hour behind all the time. Keys expire by the server's own clock, so at most its error early or
//! late; nothing else may change.

use std::time::Duration;

use chrono::TimeDelta;
use serde_json::json;
use tokio::time::Instant;

use super::client::{Wire, request};
use super::front::Front;
use super::load::{Load, samples};
use super::preload::Preload;
use super::stage::Stage;
use crate::control_plane::tenants::TenantRef;
use crate::identity::keys::{NewApiKey, api_key_create};
use crate::kernel::Role;
use crate::testkit::figures::Goal;
use crate::testkit::process::Launch;
use crate::testkit::program::Outcome;
use crate::testkit::tester;

const HOUR: i64 = 3_600;
/// The server's clock, step by step, in seconds.
const STEPS: [i64; 4] = [0, HOUR, -HOUR, 0];
/// Minutes until keys expire.
const KEYS: [i64; 4] = [-90, -30, 30, 90];

pub struct Plan {
    pub lanes: usize,
    /// Tenants made, suspended, resumed and deleted at each step.
    pub changes: usize,
}

/// # Panics
/// When a process does not start.
pub async fn run(binary: &str, plan: &Plan) -> Outcome {
    let preload = Preload::build();
    let knob = preload.knob("serve");
    let mut launch = Launch::serve();
    launch.env.extend(knob.env());
    let mut stage = Stage::new(binary).await;
    let server = stage.programs.start(launch).await;
    let keys = keys(&mut stage).await;
    stage.world.probe().await;
    let limited = stage.tenant(&server, "limited", "free").await;
    let stage = stage.people(&server, 4).await;
    let mut workers = Vec::new();
    for error in [HOUR, -HOUR] {
        let knob = preload.knob(&format!("worker{error}"));
        knob.clock(error);
        let mut launch = Launch::worker();
        launch.env.extend(knob.env());
        workers.push(stage.programs.start(launch).await);
    }
    let front = Front::new(&[server.addr]);
    let load = Load::begin(&stage, &front, plan.lanes);
    let mut wire = Wire::open(server.addr).await.expect("it listens");
    let (mut wrong_keys, mut wrong_limits, mut wrong_changes, mut asked) = (vec![], vec![], vec![], 0);
    for step in STEPS {
        knob.clock(step);
        for (minutes, key) in &keys {
            let ask = request("GET", "/api/v1/projects", "keys.localhost", key, None);
            let status = wire.ask(&ask).await.map_or(0, |answer| answer.status);
            let live = minutes * 60 > step;
            asked += 1;
            if status != if live { 200 } else { 401 } {
                wrong_keys.push(format!("clock {step:+} s, key of {minutes:+} min: {status}"));
            }
        }
        wrong_limits.extend(within_limits(&mut wire, &limited.read(), step).await);
        for number in 0..plan.changes {
            let slug = format!("clock-{}-{number}", asked);
            wrong_changes.extend(change(&stage, &mut wire, &slug).await);
        }
    }
    let report = load.end().await;
    let audit = report.books.audit(&stage).await;
    let repeated: Vec<String> = sqlx::query_scalar(
        "SELECT kind || ' was begun ' || attempts || ' times: ' || coalesce(error, '') FROM run WHERE attempts > 1 AND error IS NULL",
    )
    .fetch_all(stage.world.db())
    .await
    .expect("an answer");
    let orphans = stage.world.orphans().await;
    let open = stage.open_runs().await;
    let mut lines = vec![format!(
        "{} requests while the server's clock went {STEPS:?} s; {asked} uses of keys that expire within 90 minutes; {} changes of tenants by workers at +1 h and -1 h",
        report.requests,
        STEPS.len() * plan.changes * 4
    )];
    let all = [&wrong_keys, &wrong_limits, &wrong_changes, &repeated, &orphans, &open];
    lines.extend(all.into_iter().flatten().take(8).cloned());
    lines.extend(samples(&report.failures));
    drop(workers);
    Outcome {
        lines,
        series: vec![("request".to_owned(), report.latency)],
        goals: vec![
            Goal::never("keys taken or refused by more than the clock's error", wrong_keys.len()),
            Goal::never("tenants locked out, or let past their rate", wrong_limits.len()),
            Goal::never("changes that went wrong", wrong_changes.len() + orphans.len()),
            Goal::never("runs begun twice or left open", repeated.len() + open.len()),
            Goal::never("requests that failed", report.failures.len()),
            Goal::never("acknowledged writes lost", audit.lost),
        ],
        facts: json!({ "requests": report.requests, "audit": audit }),
    }
}

/// A tenant's keys, by the minutes until they expire: made when the world's own clock was so far back that they all had
/// time.
async fn keys(stage: &mut Stage) -> Vec<(i64, String)> {
    let tenant = stage.world.tenant("keys").await;
    let (cp, mut keys) = (&stage.world.hands.cp, Vec::new());
    let now = cp.clock.now();
    cp.clock.advance(TimeDelta::hours(-2));
    for minutes in KEYS {
        let new = NewApiKey {
            name: format!("{minutes} minutes"),
            role: Role::Owner,
            expires_at: Some(now + TimeDelta::minutes(minutes)),
        };
        let made = api_key_create(cp, &tester(), &TenantRef::Id(tenant.tenant.id), &new).await;
        keys.push((minutes, made.expect("a key").key));
    }
    cp.clock.advance(TimeDelta::hours(2));
    keys
}

/// Asks faster than a tenant's rate of 20 a second with a burst of 40 allows.
async fn within_limits(wire: &mut Wire, ask: &[u8], step: i64) -> Option<String> {
    // A full bucket again: what one step used up is not the next one's.
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    let (begun, mut passed) = (Instant::now(), 0);
    for _ in 0..80 {
        passed += usize::from(wire.ask(ask).await.is_ok_and(|answer| answer.status == 200));
    }
    let most = 41.0 + 20.0 * begun.elapsed().as_secs_f64();
    let fine = passed >= 40 && passed as f64 <= most;
    (!fine).then(|| format!("clock {step:+} s: {passed} of 80 passed, 40 to {most:.0} should have"))
}

/// Makes, suspends, resumes and deletes a tenant; gives what went wrong.
async fn change(stage: &Stage, wire: &mut Wire, slug: &str) -> Vec<String> {
    let new = json!({ "slug": slug, "plan": "free" });
    let reason = json!({ "reason": "chaos" });
    let path = |end: &str| format!("tenants/{slug}{end}");
    let course = [
        ("active", stage.operator("POST", "tenants", Some(&new))),
        ("suspended", stage.operator("POST", &path("/suspend"), Some(&reason))),
        ("active", stage.operator("POST", &path("/resume"), None)),
        ("deleting", stage.operator("DELETE", &path(""), None)),
    ];
    let mut wrong = Vec::new();
    for (state, ask) in course {
        let mut answer = wire.ask(&ask).await;
        // On a busy machine a change may be under way when its request has waited long enough, or be refused with 503.
        for _ in 0..50 {
            match &answer {
                Ok(said) if matches!(said.status, 202 | 503) => {}
                _ => break,
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            answer = wire.ask(&stage.operator("GET", &path(""), None)).await;
            if matches!(&answer, Ok(said) if said.status == 404 || said.json()["state"] != state) {
                answer = wire.ask(&ask).await;
            }
        }
        match answer {
            Ok(answer) if answer.json()["state"] == state => {}
            Ok(answer) => wrong.push(format!("{slug} {state}: {} {}", answer.status, answer.json())),
            Err(lost) => wrong.push(format!("{slug} {state}: {lost:?}")),
        }
    }
    wrong
}
