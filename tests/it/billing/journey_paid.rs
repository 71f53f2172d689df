//! From signing up to an invoice of which every unit is explained; from a payment that fails to read-only, and back through the
//! portal.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use freehold::billing::access::{self, Access};
use freehold::billing::ledger::{relay, sealer};
use freehold::billing::reconcile::{Ask, reconcile_run};
use freehold::billing::{catalogue, inbox, sender};
use freehold::control_plane::plans::{SHIPPED, apply, parse};
use freehold::kernel::ids::TenantId;
use freehold::kernel::{Error, Role};
use freehold::product::Current;
use freehold::testkit::stripe::{AfterRetries, StripeStandIn};
use freehold::testkit::{AppOptions, TestApp, eventually, tester};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::process::Command;

use super::journey::{DAY, Signed, WAIT, come_back, field, form, looks, sign_up, status, try_out};
use crate::identity::fixture::person;

/// Tasks that are made, and how many of them the plan holds.
const TASKS: i64 = 12;
const INCLUDED: i64 = 5;

/// The command, on the databases, as finance would run it.
async fn freehold(app: &TestApp, args: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_freehold"))
        .args(args)
        .args(["--output", "json"])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("FREEHOLD_HOME", app.world.folder.path())
        .env("FREEHOLD_CONTROL_URL", &app.world.control_url)
        .env("FREEHOLD_MASTER_KEY", &app.world.master_hex)
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The plan `team` holds so few tasks that some cost something.
async fn sell_less(app: &TestApp) {
    let mut plans = parse(SHIPPED).unwrap();
    let team = plans.iter_mut().find(|plan| plan.id == "team").unwrap();
    team.meters.iter_mut().find(|meter| meter.meter == "tasks_created").unwrap().included = INCLUDED;
    let cp = &app.world.hands.cp;
    apply(cp, &tester(), &plans, false).await.unwrap();
    catalogue::sync(cp, &app.billing.stripe, false).await.unwrap();
}

/// Makes tasks by the API. Gives their ids.
async fn make_tasks(app: &TestApp, key: &str) -> BTreeSet<String> {
    let new = json!({ "name": "Everything" });
    let (status, project) =
        app.send(app.request(Method::POST, "acme", key, "/api/v1/projects").json(&new)).await;
    assert_eq!(status, 201, "{project}");
    let mut made = BTreeSet::new();
    for number in 0..TASKS {
        let new = json!({ "project_id": project["id"], "title": format!("Task {number}") });
        let (status, task) =
            app.send(app.request(Method::POST, "acme", key, "/api/v1/tasks").json(&new)).await;
        assert_eq!(status, 201, "{task}");
        made.insert(task["id"].as_str().unwrap().to_owned());
    }
    made
}

/// What a worker does again and again, until everything that happened is heard, and all use of the last hours is told.
async fn work(app: &TestApp, stripe: &StripeStandIn) {
    let (billing, cp) = (&app.billing, &app.billing.cp);
    eventually(WAIT, "everything is heard and told", async || {
        let said = |error: Error| format!("{error:?}");
        relay::relay(cp, &app.world.hands.admins, "test").await.map_err(said)?;
        sealer::seal(cp).await.map_err(said)?;
        sender::send_due(billing).await.map_err(said)?;
        inbox::work_off(billing).await.map_err(said)?;
        access::round(billing).await.map_err(said)?;
        let (events, facts, batches): (i64, i64, i64) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM webhook_inbox WHERE state NOT IN ('done', 'ignored')),
                    (SELECT count(*) FROM usage_event WHERE batch IS NULL AND occurred_at < $1),
                    (SELECT count(*) FROM usage_batch WHERE state IN ('ready', 'sending', 'unknown'))",
        )
        .bind(cp.clock.now() - TimeDelta::minutes(6))
        .fetch_one(app.world.db())
        .await
        .map_err(|error| error.to_string())?;
        if stripe.is_all_delivered() && (events, facts, batches) == (0, 0, 0) {
            Ok(())
        } else {
            Err(format!("{events} events, {facts} facts, {batches} batches"))
        }
    })
    .await;
}

/// The calls that a server counted in its memory are in the ledger: it records them some seconds after their minute.
async fn calls_are_recorded(app: &TestApp, tenant: TenantId, calls: i64) {
    eventually(WAIT, "the calls are recorded", async || {
        let there: i64 = sqlx::query_scalar(
            "SELECT coalesce(sum(quantity), 0)::bigint FROM usage_event WHERE tenant = $1 AND meter = 'api_calls'",
        )
        .bind(tenant)
        .fetch_one(app.world.db())
        .await
        .unwrap();
        if there == calls { Ok(()) } else { Err(there) }
    })
    .await;
}

/// The paid invoice that the tasks are on.
async fn invoice(app: &TestApp, tenant: TenantId) -> String {
    eventually(WAIT, "an invoice with the tasks is paid", async || {
        let found: Option<String> = sqlx::query_scalar(
            "SELECT i.id FROM invoice i
              WHERE i.tenant = $1 AND i.status = 'paid'
                AND (SELECT sum((line->>'quantity')::bigint) FROM jsonb_array_elements(i.lines) AS line
                      WHERE line->>'meter' = 'tasks_created') = $2",
        )
        .bind(tenant)
        .bind(TASKS)
        .fetch_optional(app.world.db())
        .await
        .unwrap();
        found.ok_or("none")
    })
    .await
}

fn sum<'a>(rows: impl IntoIterator<Item = &'a Value>, field: &str) -> i64 {
    rows.into_iter().map(|row| row[field].as_i64().unwrap_or_else(|| panic!("no {field} in {row}"))).sum()
}

fn items(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap_or_else(|| panic!("a list: {value}"))
}

/// Each line down to the single facts: what is charged is what was done, one fact for each task that was made.
async fn is_explained(app: &TestApp, stripe: &StripeStandIn, invoice: &str, tasks: &BTreeSet<String>) {
    let all = freehold(app, &["billing", "explain", invoice, "--facts", "10000"]).await;
    let at_stripe = stripe.object(invoice).unwrap();
    assert_eq!(all["total_minor"], at_stripe["total"], "{all}");
    let lines = items(&all["lines"]);
    assert_eq!(Some(sum(lines, "amount_minor")), at_stripe["total"].as_i64(), "{all}");
    let of_tasks: Vec<&Value> = lines.iter().filter(|line| line["meter"] == "tasks_created").collect();
    let said: Vec<(i64, i64)> = of_tasks
        .iter()
        .map(|line| (line["quantity"].as_i64().unwrap(), line["amount_minor"].as_i64().unwrap()))
        .collect();
    assert_eq!(said, [(INCLUDED, 0), (TASKS - INCLUDED, (TASKS - INCLUDED) * 2)], "a line for each tier");
    let line = of_tasks[0];
    assert_eq!(
        (&line["lines_quantity"], &line["batches_quantity"]),
        (&json!(TASKS), &json!(TASKS)),
        "{line}"
    );
    let batches = items(&line["batches"]);
    assert_eq!((sum(batches, "quantity"), sum(batches, "facts")), (TASKS, TASKS), "{line}");
    let facts: Vec<&Value> = batches.iter().flat_map(|batch| items(&batch["because_of"])).collect();
    assert_eq!(sum(facts.iter().copied(), "quantity"), TASKS);
    let keys: BTreeSet<String> = facts
        .iter()
        .map(|fact| fact["key"].as_str().unwrap().rsplit(':').next().unwrap().to_owned())
        .collect();
    assert_eq!(&keys, tasks, "a fact for each task, and none else");
}

/// The report has the same numbers in a row.
async fn is_reported(app: &TestApp, invoice: &str) {
    let (from, to): (String, String) = sqlx::query_as(
        "SELECT to_char(period_start AT TIME ZONE 'UTC', 'YYYY-MM-DD'), to_char(period_end AT TIME ZONE 'UTC', 'YYYY-MM-DD')
           FROM invoice WHERE id = $1",
    )
    .bind(invoice)
    .fetch_one(app.world.db())
    .await
    .unwrap();
    let args =
        ["billing", "report", "--tenant", "acme", "--from", from.as_str(), "--to", to.as_str(), "--all"];
    let report = freehold(app, &args).await;
    let row = items(&report["items"])
        .iter()
        .find(|row| row["meter"] == "tasks_created" && row["invoice"] == invoice)
        .unwrap_or_else(|| panic!("{report}"));
    for quantity in ["ledger_qty", "delivered_qty", "invoiced_qty"] {
        assert_eq!(row[quantity], json!(TASKS), "{quantity}: {row}");
    }
    assert_eq!((&row["diff"], &row["amount_minor"]), (&json!(0), &json!((TASKS - INCLUDED) * 2)), "{row}");
}

#[tokio::test]
async fn from_sign_up_to_an_explained_invoice_and_from_read_only_back_through_the_portal() {
    let stripe = StripeStandIn::start().await;
    stripe.after_retries(AfterRetries::LeavePastDue);
    // What a worker does is done by hand, so that time stands still while something is on its way.
    let options = AppOptions { stripe: Some(&stripe), worker: false, ..AppOptions::of::<Current>() };
    let app = TestApp::start::<Current>(options).await;
    sell_less(&app).await;
    let ada = person(&app.world, "ada").await;
    let Signed { browser, tenant, mine, customer, .. } = sign_up(&app, &stripe, ada).await;

    // The trial is over, and the first month is paid.
    stripe.clock_advance(DAY * 17);
    work(&app, &stripe).await;
    looks(&app, tenant, Access::Active).await;
    let key = app.key("acme", Role::Owner).await;
    let tasks = make_tasks(&app, &key).await;
    assert_eq!(tasks.len() as i64, TASKS);

    // Its use is on the page, with what it comes to beyond the plan.
    stripe.clock_advance(std::time::Duration::from_secs(600));
    calls_are_recorded(&app, tenant, TASKS + 1).await;
    work(&app, &stripe).await;
    come_back(&app, &browser, ada).await;
    let usage = browser.open("http://acme.localhost/usage").await;
    assert_eq!((usage.status, usage.url.path()), (200, "/usage"), "{}", usage.body);
    let (_, card) =
        usage.body.split_once("<h2>Tasks created</h2>").unwrap_or_else(|| panic!("{}", usage.body));
    let card = card.split("</section>").next().unwrap();
    for said in [format!("This period</td><td class=\"number\">{TASKS}<"), "beyond the plan".to_owned()] {
        assert!(card.contains(&said), "{said}: {card}");
    }

    // A month later there is an invoice, and each of its units has a reason.
    stripe.clock_advance(DAY * 31);
    work(&app, &stripe).await;
    let invoice = invoice(&app, tenant).await;
    is_explained(&app, &stripe, &invoice, &tasks).await;
    is_reported(&app, &invoice).await;
    let ask = Ask { tenant: Some("acme".to_owned()), ..Ask::default() };
    let compared = reconcile_run(&app.billing, &tester(), &ask).await.unwrap();
    assert!(!compared.differs(), "{compared:?}");

    // The next payment fails, and nobody mends it.
    stripe.card(&customer, false);
    stripe.clock_advance(DAY * 31);
    for (access, made) in [(Access::Grace, 201), (Access::PastDue, 402), (Access::Restricted, 402)] {
        if access != Access::Grace {
            stripe.clock_advance(DAY * 7);
        }
        work(&app, &stripe).await;
        looks(&app, tenant, access).await;
        eventually(WAIT, "the servers know", async || match try_out(&app, 0, &key).await {
            got if got == (made, 200) => Ok(()),
            got => Err(format!("{access}: {got:?}")),
        })
        .await;
    }

    // Through the portal: another card, and the invoice that is open.
    come_back(&app, &browser, ada).await;
    let plan = browser.open(&mine).await;
    let portal = browser.submit(&plan, &form(&plan, "/portal", None), &[]).await;
    assert!(portal.url.as_str().starts_with(&stripe.base_url), "{}", portal.url);
    let portal = browser.submit(&portal, &field(&portal, "do", "card_works"), &[]).await;
    let open: Vec<Value> =
        stripe.invoices(&customer).into_iter().filter(|invoice| invoice["status"] == "open").collect();
    assert!(!open.is_empty() && stripe.owed(&customer) > 0);
    for invoice in &open {
        let path = format!("/i/{}", invoice["id"].as_str().unwrap());
        assert!(portal.body.contains(&format!("href=\"{path}\"")), "{path}: {}", portal.body);
        let page = browser.open(&format!("{}{path}", stripe.base_url)).await;
        let paid = browser.submit(&page, &field(&page, "card", "own"), &[]).await;
        assert!(paid.status == 200 && paid.body.contains("<b>paid</b>"), "{}", paid.body);
    }
    assert_eq!(stripe.owed(&customer), 0);
    work(&app, &stripe).await;
    eventually(WAIT, "it can be written again", async || match try_out(&app, 0, &key).await {
        (201, 200) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert_eq!(status(&browser.open(&mine).await), "Active");
    assert!(stripe.refused().is_empty(), "{:?}", stripe.refused());
}
