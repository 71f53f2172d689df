//! `serve` and `worker` are killed again and again while tenants are made, suspended, resumed and deleted and others
//! write. Afterwards every run is done or undone, nothing is left over, and whatever was acknowledged is so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::front::{Front, Lane};
use super::load::{Load, samples};
use super::stage::Stage;
use crate::control_plane::doctor;
use crate::testkit::eventually;
use crate::testkit::figures::{Goal, Spread};
use crate::testkit::process::Launch;
use crate::testkit::program::Outcome;

pub struct Plan {
    /// Of each of the two processes.
    pub kills: usize,
    pub lanes: usize,
    /// Operators who change tenants at the same time.
    pub operators: usize,
    /// The longest pause between two kills; the moments are spread evenly below it.
    pub pause: Duration,
}

/// What operators were told, by slug: the state that the last acknowledged change left a tenant in, or nothing while the
/// outcome of one is not known.
#[derive(Default)]
struct Told {
    tenants: Mutex<BTreeMap<String, Option<&'static str>>>,
    acknowledged: AtomicUsize,
    unknown: AtomicUsize,
    refused: Mutex<Vec<String>>,
}

/// # Panics
/// When a process does not start.
pub async fn run(binary: &str, plan: &Plan) -> Outcome {
    let stage = Stage::new(binary).await;
    stage.agree().await;
    let mut serve = stage.programs.start(Launch::serve()).await;
    let stage = stage.people(&serve, 4).await;
    let mut worker = stage.programs.start(Launch::worker()).await;
    let front = Front::new(&[serve.addr]);
    let load = Load::begin(&stage, &front, plan.lanes);
    let (told, stop, mut operators) = (Arc::new(Told::default()), CancellationToken::new(), JoinSet::new());
    for number in 0..plan.operators {
        operators.spawn(operate(stage.clone(), front.clone(), told.clone(), number, stop.clone()));
    }
    let mut starts = Vec::new();
    for number in 0..plan.kills * 2 {
        // Not in step with anything that repeats: the golden ratio spreads the moments evenly.
        tokio::time::sleep(plan.pause.mul_f64((number as f64 * 0.618_034).fract())).await;
        let victim = if number % 2 == 0 { &mut serve } else { &mut worker };
        victim.kill().await;
        let begun = Instant::now();
        *victim = stage.programs.start(victim.launch.clone()).await;
        starts.push(begun.elapsed());
    }
    stop.cancel();
    while let Some(operator) = operators.join_next().await {
        operator.expect("an operator ends well");
    }
    let report = load.end().await;
    let settling = Instant::now();
    eventually(Duration::from_secs(60), "every run is done or undone", async || {
        let open = stage.open_runs().await;
        if open.is_empty() { Ok(()) } else { Err(format!("{open:?}")) }
    })
    .await;
    let settled = settling.elapsed();
    let wrong = told.compare(&stage).await;
    eventually(Duration::from_secs(60), "everything is as it should be", async || {
        let report =
            doctor::examine(&stage.world.hands, |_| {}).await.map_err(|error| format!("{error:?}"))?;
        if report.healthy() { Ok(()) } else { Err(format!("{:#?}", report.findings)) }
    })
    .await;
    let orphans = stage.world.orphans().await;
    let audit = report.books.audit(&stage).await;
    let unclean = report.failures.iter().filter(|f| f.status.is_some_and(|status| status != 503)).count();
    let refused = told.refused.lock().clone();
    let mut lines = vec![
        format!(
            "{} kills of each; {} requests, {} lost with their server; {} writes acknowledged",
            plan.kills,
            report.requests,
            report.failures.len(),
            audit.acknowledged
        ),
        format!(
            "{} changes of {} tenants acknowledged, {} whose outcome nobody was told",
            told.acknowledged.load(Ordering::Relaxed),
            told.tenants.lock().len(),
            told.unknown.load(Ordering::Relaxed)
        ),
        format!(
            "{audit:?}; every run was done or undone {:.1} s after the last start",
            settled.as_secs_f64()
        ),
    ];
    lines.extend(wrong.iter().chain(&orphans).chain(&refused).take(10).cloned());
    if unclean > 0 {
        lines.extend(samples(&report.failures));
    }
    Outcome {
        lines,
        series: vec![("start until ready".to_owned(), Spread::of(&starts))],
        goals: vec![
            Goal::never("tenants that are not as was acknowledged", wrong.len()),
            Goal::never("schemas and logins that belong to nobody", orphans.len()),
            Goal::never("acknowledged writes lost", audit.lost),
            Goal::never("half writes", audit.half),
            Goal::never("writes carried out twice", audit.doubled),
            Goal::never("answers that were neither right nor a 503", unclean + refused.len()),
            Goal::at_most("every run done or undone after", settled.as_secs_f64(), 30.0, "s").must(),
        ],
        facts: json!({ "kills": plan.kills * 2, "audit": audit, "settled_seconds": settled.as_secs_f64() }),
    }
}

/// Makes tenants and changes them, one after the other, until told to stop.
async fn operate(
    stage: Arc<Stage>,
    front: Arc<Front>,
    told: Arc<Told>,
    operator: usize,
    stop: CancellationToken,
) {
    let mut lane = Lane::new(&front);
    let mut number = 0;
    while !stop.is_cancelled() {
        number += 1;
        let slug = format!("c{operator}-{number}");
        let new = json!({ "slug": slug, "plan": "free" });
        let path = |end: &str| format!("tenants/{slug}{end}");
        let reason = json!({ "reason": "chaos" });
        let mut course = vec![("active", stage.operator("POST", "tenants", Some(&new)))];
        if number % 2 == 0 {
            course.push(("suspended", stage.operator("POST", &path("/suspend"), Some(&reason))));
        }
        if number % 4 == 0 {
            course.push(("active", stage.operator("POST", &path("/resume"), None)));
        }
        if number % 3 == 0 {
            course.push(("deleting", stage.operator("DELETE", &path(""), None)));
            if number % 6 == 0 {
                let now = json!({ "now": true });
                course.push(("deleted", stage.operator("POST", &path("/purge"), Some(&now))));
            }
        }
        for (state, request) in course {
            // From here to the answer nobody knows.
            told.tenants.lock().insert(slug.clone(), None);
            match lane.ask(&request).await.1 {
                Ok(answer) if matches!(answer.status, 200 | 201) => {
                    told.acknowledged.fetch_add(1, Ordering::Relaxed);
                    told.tenants.lock().insert(slug.clone(), Some(state));
                }
                // Recorded and under way, or not known: either way it will be one or the other.
                Ok(answer) if matches!(answer.status, 202 | 503) => {
                    told.unknown.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                Err(_) => {
                    told.unknown.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                Ok(answer) => {
                    told.refused.lock().push(format!("{slug} {state}: {} {}", answer.status, answer.json()));
                    break;
                }
            }
        }
    }
}

impl Told {
    /// Tenants that are not as was acknowledged.
    async fn compare(&self, stage: &Stage) -> Vec<String> {
        let rows: Vec<(String, String)> = sqlx::query_as("SELECT slug, state FROM tenant")
            .fetch_all(stage.world.db())
            .await
            .expect("an answer");
        let there: BTreeMap<String, String> = rows.into_iter().collect();
        let told = self.tenants.lock();
        told.iter()
            .filter_map(|(slug, state)| {
                let (wanted, found) = ((*state)?, there.get(slug).map(String::as_str));
                (found != Some(wanted)).then(|| format!("{slug}: acknowledged {wanted}, is {found:?}"))
            })
            .collect()
    }
}
