//! What finance asks: reports as files, invoices walked down, corrections by two people; and who may.

use chrono::{DurationRound, TimeDelta};
use freehold::billing::customers;
use freehold::billing::finance::csv;
use freehold::billing::finance::explain::{ExplainFilter, explain};
use freehold::billing::finance::preview::preview;
use freehold::billing::finance::quarantine::{Settle, SettleAs, quarantine_settle};
use freehold::billing::finance::report::{COLUMNS, ReportFilter, ReportRow, report};
use freehold::billing::finance::standing::{standing, watch};
use freehold::billing::finance::tenant::usage;
use freehold::billing::reconcile::settle::Fate;
use freehold::billing::reconcile::{Ask, Class, Level, close, reconcile_run};
use freehold::control_plane::audit::Caller;
use freehold::identity::operators::{OperatorRole, actor_of};
use freehold::testkit::tester;
use http::StatusCode;
use serde_json::json;

use super::office::{Api, Office};
use super::shop::Shop;

/// What finance opens in a spreadsheet, to the byte: columns, money in major units, nothing that is taken for a formula.
///
/// Shown to fail: `csv::harmless` that lets every cell through; a column of `report::COLUMNS` with another's cells.
#[test]
fn the_report_s_file_is_what_it_always_was() {
    let row = ReportRow {
        period: "2026-11-01/2026-12-01".to_owned(),
        tenant: "acme".to_owned(),
        customer: Some("cus_1".to_owned()),
        subscription: Some("sub_1".to_owned()),
        meter: Some("tasks_created".to_owned()),
        unit: Some("task".to_owned()),
        ledger_qty: 1234,
        delivered_qty: 1230,
        stripe_qty: Some(1230),
        invoiced_qty: None,
        diff: -4,
        diff_class: Some(Class::Pending),
        unit_price_minor: Some(2),
        amount_minor: None,
        currency: Some("eur".to_owned()),
        invoice: None,
        invoice_status: None,
        paid_at: None,
        credit_notes_minor: None,
        tax_minor: None,
    };
    let invoiced = ReportRow {
        tenant: "=cmd|' /C calc'!A0".to_owned(),
        meter: None,
        unit: None,
        ledger_qty: 0,
        delivered_qty: 0,
        stripe_qty: None,
        invoiced_qty: Some(1),
        diff: 0,
        diff_class: None,
        unit_price_minor: Some(4900),
        amount_minor: Some(-4900),
        invoice: Some("in_1".to_owned()),
        invoice_status: Some("paid".to_owned()),
        paid_at: Some("2026-12-01T01:02:03Z".parse().unwrap()),
        credit_notes_minor: Some(0),
        tax_minor: Some(931),
        ..row.clone()
    };
    let yen = ReportRow {
        currency: Some("jpy".to_owned()),
        customer: Some("a,\"b\"".to_owned()),
        ..invoiced.clone()
    };
    let text = csv::file(COLUMNS, [&row, &invoiced, &yen]).unwrap();
    assert_eq!(text, include_str!("golden/report.csv").replace('\n', "\r\n"));
    // The API says the same in minor units, by name.
    let value = serde_json::to_value(&invoiced).unwrap();
    assert_eq!((&value["amount_minor"], &value["tax_minor"]), (&json!(-4900), &json!(931)));
    for (column, _) in COLUMNS {
        assert!(value.get(column.replace("_major", "_minor")).is_some(), "{column}");
    }
}

/// Shown to fail: with the end of the period left out of what `explain` asks for, the next period's batches are on it too.
#[tokio::test]
async fn an_invoice_is_walked_down_to_single_facts() {
    let office = Office::new().await;
    let begin = office.shop.now().duration_trunc(TimeDelta::minutes(5)).unwrap();
    office.shop.pass(TimeDelta::hours(1));
    office.tasks(7, begin + TimeDelta::minutes(20)).await;
    office.tasks(5, begin + TimeDelta::minutes(40)).await;
    office.deliver().await;
    let invoice = office.draft().await;
    let mut conn = office.shop.db().acquire().await.unwrap();
    let all = explain(&mut conn, &invoice, &ExplainFilter::default()).await.unwrap();
    let lines: Vec<_> =
        all.lines.iter().filter(|line| line.meter.as_deref() == Some("tasks_created")).collect();
    let line = lines.first().expect("a line of tasks");
    assert_eq!((line.lines_quantity, line.batches_quantity), (12, 12), "{all:?}");
    assert_eq!(line.batches.iter().map(|one| one.batch.quantity).collect::<Vec<_>>(), [7, 5]);
    let facts: Vec<_> = line.batches.iter().flat_map(|one| &one.because_of).collect();
    assert_eq!((facts.len(), facts.iter().map(|fact| fact.quantity).sum::<i64>()), (12, 12));
    assert!(facts.iter().all(|fact| fact.source == "outbox:test" && fact.key.starts_with("tsk:")));
    let few = explain(&mut conn, &invoice, &ExplainFilter { line: Some(line.id.clone()), facts: Some(3) })
        .await
        .unwrap();
    let shown: usize = few.lines[0].batches.iter().map(|one| one.because_of.len()).sum();
    let left: i64 = few.lines[0].batches.iter().map(|one| one.facts_left_out).sum();
    assert_eq!((shown, left), (3, 9));
    // What is used in the next period is none of this invoice's.
    office.tasks(2, office.shop.now() - TimeDelta::minutes(2)).await;
    office.shop.pass(TimeDelta::minutes(10));
    office.deliver().await;
    let again = explain(&mut conn, &invoice, &ExplainFilter::default()).await.unwrap();
    let again = again.lines.iter().find(|one| one.id == line.id).unwrap();
    assert_eq!((again.batches_quantity, again.batches.len()), (12, 2), "{again:?}");
    let wrong = ExplainFilter { line: Some("il_none".to_owned()), facts: None };
    assert!(explain(&mut conn, &invoice, &wrong).await.is_err());
    assert!(explain(&mut conn, "in_none", &ExplainFilter::default()).await.is_err());

    // The report says the same, and so do the page and the preview.
    let filter = ReportFilter {
        tenant: Some("acme".to_owned()),
        from: Some(begin.date_naive()),
        ..ReportFilter::default()
    };
    let rows = report(&mut conn, false, &filter, office.shop.now()).await.unwrap().items;
    let row = rows.iter().find(|row| row.meter.as_deref() == Some("tasks_created") && row.invoice.is_some());
    let row = row.unwrap_or_else(|| panic!("{rows:?}"));
    assert_eq!((row.ledger_qty, row.delivered_qty, row.invoiced_qty), (12, 12, Some(12)), "{row:?}");
    assert_eq!((row.diff, row.diff_class), (0, None), "{row:?}");
    let used = usage(&mut conn, office.tenant, office.shop.now()).await.unwrap();
    assert!(used.meters.iter().any(|one| one.meter == "tasks_created" && one.included.is_some()), "{used:?}");
    let next = preview(&office.shop.billing, "acme").await.unwrap();
    assert_eq!(next.tenant, office.tenant);
}

/// Shown to fail: `of_period` without the comparison of line and count; a `close::hold` that does nothing.
#[tokio::test]
async fn an_edited_line_is_named_and_holds_its_draft_until_finance_lets_it_go() {
    let office = Office::new().await;
    let begin = office.shop.now().duration_trunc(TimeDelta::minutes(5)).unwrap();
    office.shop.pass(TimeDelta::hours(1));
    office.tasks(3, begin + TimeDelta::minutes(20)).await;
    office.deliver().await;
    office.shop.pass(TimeDelta::hours(3));
    let invoice = office.draft().await;
    let at_stripe = |field: &str| office.shop.stripe.object(&invoice).unwrap()[field].clone();
    let line = office.shop.stripe.object(&invoice).unwrap()["lines"]["data"]
        .as_array()
        .unwrap()
        .iter()
        .position(|line| line["quantity"] == 3)
        .expect("the line of tasks");
    office.shop.stripe.edit_line(&invoice, line, 2);
    customers::refresh_invoice(&office.shop.billing, &invoice).await.unwrap();
    // In its first hour Stripe itself still changes a draft.
    office.shop.pass(TimeDelta::minutes(35));
    close::close_due(&office.shop.billing).await.unwrap();
    assert!(office.held(&invoice).await, "{:?}", office.shop.incidents().await);
    assert_eq!(at_stripe("auto_advance"), false);
    assert!(
        office
            .shop
            .incidents()
            .await
            .iter()
            .any(|(kind, subject)| kind == "draft_held" && *subject == invoice)
    );
    office.shop.pass(TimeDelta::hours(3));
    assert_eq!(at_stripe("status"), "draft", "a held draft is not finalized");
    let run = reconcile_run(&office.shop.billing, &tester(), &Ask::default()).await.unwrap();
    let found: Vec<_> = run.differences.iter().filter(|one| one.level == Level::L4).collect();
    assert_eq!(found.len(), 1, "{run:?}");
    assert_eq!((found[0].class, found[0].ours, found[0].theirs), (Class::ManualStripeEdit, 3, 2), "{run:?}");
    // Finance takes it as it is.
    let why = close::Release { reason: "agreed with the customer".to_owned() };
    close::invoice_release(&office.shop.billing, &tester(), &invoice, &why).await.unwrap();
    assert!(!office.held(&invoice).await);
    assert_eq!(at_stripe("auto_advance"), true);
    assert!(close::invoice_release(&office.shop.billing, &tester(), &invoice, &why).await.is_err(), "once");
    office.shop.pass(TimeDelta::minutes(5));
    close::close_due(&office.shop.billing).await.unwrap();
    assert!(!office.held(&invoice).await, "what finance released is not held again");
}

#[tokio::test]
async fn a_whole_period_is_not_held() {
    let office = Office::new().await;
    let begin = office.shop.now().duration_trunc(TimeDelta::minutes(5)).unwrap();
    office.shop.pass(TimeDelta::hours(1));
    office.tasks(3, begin + TimeDelta::minutes(20)).await;
    office.deliver().await;
    office.shop.pass(TimeDelta::hours(3));
    let invoice = office.draft().await;
    close::close_due(&office.shop.billing).await.unwrap();
    office.shop.pass(TimeDelta::hours(2));
    customers::refresh_invoice(&office.shop.billing, &invoice).await.unwrap();
    assert!(!office.held(&invoice).await);
    let status = office.shop.stripe.object(&invoice).unwrap()["status"].clone();
    assert!(status == "paid" || status == "open", "{status}");
    let open = office.shop.incidents().await;
    assert!(!open.iter().any(|(kind, _)| kind == "draft_held"), "{open:?}");
}

/// An amount that was paid and is not what the invoice asks for.
#[tokio::test]
async fn a_payment_that_was_changed_at_stripe_is_named() {
    let office = Office::new().await;
    let first: String = office.shop.stripe.invoices(&office.customer)[0]["id"].as_str().unwrap().to_owned();
    customers::refresh_invoice(&office.shop.billing, &first).await.unwrap();
    let paid = office.shop.stripe.object(&first).unwrap()["amount_paid"].as_i64().unwrap();
    assert!(paid > 0);
    office.shop.pass(TimeDelta::hours(3));
    for (less, class) in [(1, Class::Rounding), (500, Class::ManualStripeEdit)] {
        office.shop.stripe.edit(&first, &json!({ "amount_paid": paid - less }));
        customers::refresh_invoice(&office.shop.billing, &first).await.unwrap();
        let run = reconcile_run(&office.shop.billing, &tester(), &Ask::default()).await.unwrap();
        let found: Vec<_> = run.differences.iter().filter(|one| one.level == Level::L5).collect();
        assert_eq!(found.len(), 1, "{run:?}");
        assert_eq!((found[0].class, found[0].subject.as_str()), (class, first.as_str()), "{run:?}");
    }
}

#[tokio::test]
async fn a_batch_that_was_sent_is_not_sent_again_by_hand_but_asked_about() {
    let office = Office::new().await;
    let begin = office.shop.now().duration_trunc(TimeDelta::minutes(5)).unwrap();
    office.shop.pass(TimeDelta::hours(1));
    office.tasks(4, begin + TimeDelta::minutes(20)).await;
    office.tasks(6, begin + TimeDelta::minutes(40)).await;
    office.deliver().await;
    office.shop.pass(TimeDelta::hours(3));
    let ids: Vec<(String, i64)> = sqlx::query_as(
        "UPDATE usage_batch SET state = 'quarantined', delivered_via = NULL, settled_at = NULL WHERE meter = 'tasks_created'
         RETURNING identifier, quantity",
    )
    .fetch_all(office.shop.db())
    .await
    .unwrap();
    let of = |quantity| ids.iter().find(|(_, one)| *one == quantity).unwrap().0.clone();
    office.shop.stripe.lose_usage(&of(6));
    let settle = async |identifier: &str, r#as| {
        let how = Settle { r#as, reason: "a test".to_owned() };
        quarantine_settle(&office.shop.billing, &tester(), identifier, &how).await
    };
    let refused = settle(&of(4), SettleAs::Resend).await.unwrap_err();
    assert_eq!(refused.code().name, "state_conflict");
    let there = settle(&of(4), SettleAs::Check).await.unwrap();
    assert_eq!(
        (there.batch.state.as_str(), there.batch.delivered_via.as_deref()),
        ("delivered", Some("summary_check"))
    );
    let absent = settle(&of(6), SettleAs::Check).await.unwrap();
    assert_eq!(absent.batch.state, "ready");
    assert!(settle("ub:none", SettleAs::Check).await.is_err());
    let now = standing(&mut office.shop.db().acquire().await.unwrap(), false).await.unwrap();
    assert_eq!((now.undelivered, now.quarantined), (1, 0), "{now:?}");
}

/// What is void takes use off a bill: one operator asks for that, another agrees. Whoever is not known asks, and stands for nothing.
///
/// Guards `void_agreed`.
#[tokio::test]
async fn a_batch_is_void_when_two_operators_say_so() {
    let office = Office::new().await;
    let shop = &office.shop;
    let begin = shop.now().duration_trunc(TimeDelta::minutes(5)).unwrap();
    shop.pass(TimeDelta::hours(1));
    for minutes in [20, 40] {
        office.tasks(4, begin + TimeDelta::minutes(minutes)).await;
    }
    office.deliver().await;
    let batches: Vec<String> = sqlx::query_scalar(
        "UPDATE usage_batch SET state = 'rejected', delivered_via = NULL, first_sent_at = NULL WHERE meter = 'tasks_created'
         RETURNING identifier",
    )
    .fetch_all(shop.db())
    .await
    .unwrap();
    let [one, other] = &batches[..] else { panic!("{batches:?}") };
    let mut people = Vec::new();
    for name in ["ada", "bob", "eve"] {
        let (operator, _) = shop.operator(name, OperatorRole::Finance).await;
        people.push(Caller { actor: actor_of(operator.id), request_id: None });
    }
    let [ada, bob, eve] = &people[..] else { panic!() };
    let void = async |who: &Caller, identifier: &str| {
        let how = Settle { r#as: SettleAs::Void, reason: "a test customer".to_owned() };
        let said = quarantine_settle(&shop.billing, who, identifier, &how).await.unwrap();
        (said.fate == Some(Fate::Asked), said.batch.state)
    };
    let (waits, done) = ((true, "rejected".to_owned()), (false, "void".to_owned()));
    assert_eq!(void(ada, one).await, waits);
    assert_eq!(void(ada, one).await, waits, "the same person twice");
    assert_eq!(void(&tester(), one).await, waits, "nobody known");
    assert_eq!(void(bob, one).await, done);
    // Asked for by nobody known: two operators agree.
    for (who, outcome) in
        [(&tester(), &waits), (&tester(), &waits), (bob, &waits), (bob, &waits), (eve, &done)]
    {
        assert_eq!(&void(who, other).await, outcome, "{}", who.actor);
    }
}

/// Guards `standing::watch`: what finance should see by itself.
#[tokio::test]
async fn an_invoice_much_higher_than_those_before_it_and_missing_comparisons_are_incidents() {
    let shop = Shop::open().await;
    let tenant = shop.tenant("acme", "team").await;
    let now = shop.now();
    for (id, total, days) in [("in_a", 100, 70), ("in_b", 120, 40), ("in_c", 500, 1), ("in_d", 130, 0)] {
        sqlx::query(
            "INSERT INTO invoice (id, tenant, status, currency, total_minor, period_start, period_end, created_at, fetched_at)
             VALUES ($1, $2, 'open', 'eur', $3, $4, $4, $4, $4)",
        )
        .bind(id)
        .bind(tenant)
        .bind(i64::from(total))
        .bind(now - TimeDelta::days(days))
        .execute(shop.db())
        .await
        .unwrap();
    }
    let watched = async || {
        watch(shop.billing.clone()).await.unwrap();
        shop.incidents().await
    };
    assert_eq!(watched().await, [("invoice_unusual".to_owned(), "in_c".to_owned())]);
    assert_eq!(watched().await.len(), 1, "once");
    // An account for two days, and nobody compared anything.
    customers::customer_ensure(&shop.billing, tenant).await.unwrap();
    shop.pass(TimeDelta::days(2));
    assert!(watched().await.iter().any(|(kind, _)| kind == "reconcile_late"));
    reconcile_run(&shop.billing, &tester(), &Ask::default()).await.unwrap();
    assert!(!watched().await.iter().any(|(kind, _)| kind == "reconcile_late"));
}

/// Every operation of the operators' API that there is, and will be: the finance role changes money and nothing else, a viewer
/// nothing at all.
///
/// Shown to fail: `Accountant` that takes a viewer, `Operator` that takes the finance role: the first arguments of every handler.
#[tokio::test]
async fn finance_corrects_money_and_operates_nothing() {
    let office = Office::new().await;
    let api = Api::of(&office);
    let finance = Api::key(&office, "ada", OperatorRole::Finance).await;
    let viewer = Api::key(&office, "vic", OperatorRole::Viewer).await;
    let (mut money, mut other) = (0, 0);
    for (method, path, is_money) in api.operations() {
        let safe = method == "GET";
        let (as_viewer, _) = api.send(&viewer, method, &path, None).await;
        let (as_finance, _) = api.send(&finance, method, &path, None).await;
        assert_eq!(as_viewer == StatusCode::FORBIDDEN, !safe, "viewer: {method} {path}: {as_viewer}");
        assert_eq!(
            as_finance == StatusCode::FORBIDDEN,
            !safe && !is_money,
            "finance: {method} {path}: {as_finance}"
        );
        if !safe {
            *(if is_money { &mut money } else { &mut other }) += 1;
        }
    }
    assert!(money >= 8 && other >= 15, "{money} and {other} changes");
}

/// Shown to fail: whoever asked may decide in `correction_decide`. Behind it the table's own rule still refuses, with a 500.
/// Shown to fail too: `asked_before` that finds nothing.
#[tokio::test]
async fn a_correction_needs_a_second_person() {
    let office = Office::new().await;
    let api = Api::of(&office);
    let ada = office.shop.operator("ada", OperatorRole::Finance).await.1.key;
    let bob = office.shop.operator("bob", OperatorRole::Finance).await.1.key;
    let asks = json!({
        "tenant": "acme", "meter": "tasks_created", "quantity": -3, "reason": "imported twice", "reference": "4711",
    });
    let corrections = "/operator/v1/billing/corrections";
    let (status, asked) = api.send(&ada, "POST", corrections, Some(asks.clone())).await;
    assert_eq!(status, StatusCode::CREATED, "{asked}");
    // Sent again, it is the same; another one under the same reference is refused; somebody else's reference is another.
    let (status, again) = api.send(&ada, "POST", corrections, Some(asks.clone())).await;
    assert_eq!((status, &again["id"]), (StatusCode::CREATED, &asked["id"]), "{again}");
    let mut other = asks.clone();
    other["quantity"] = json!(-4);
    let (status, said) = api.send(&ada, "POST", corrections, Some(other)).await;
    assert_eq!((status, &said["code"]), (StatusCode::CONFLICT, &json!("idempotency_conflict")), "{said}");
    let (_, bobs) = api.send(&bob, "POST", corrections, Some(asks)).await;
    assert_ne!(bobs["id"], asked["id"], "{bobs}");
    let decide = format!("/operator/v1/billing/corrections/{}/decide", asked["id"].as_str().unwrap());
    let facts = async || {
        sqlx::query_scalar::<_, i64>("SELECT count(*) FROM usage_event WHERE source = 'correction'")
            .fetch_one(office.shop.db())
            .await
            .unwrap()
    };
    let (status, _) = api.send(&ada, "POST", &decide, Some(json!({ "agree": true }))).await;
    assert_eq!((status, facts().await), (StatusCode::FORBIDDEN, 0));
    let (status, done) = api.send(&bob, "POST", &decide, Some(json!({ "agree": true }))).await;
    assert_eq!((status, facts().await), (StatusCode::OK, 1), "{done}");
    assert_eq!(done["state"], "approved");
    let (status, _) = api.send(&bob, "POST", &decide, Some(json!({ "agree": true }))).await;
    assert_eq!((status, facts().await), (StatusCode::CONFLICT, 1), "once");
    let bad = json!({ "tenant": "acme", "meter": "no_such", "quantity": 1, "reason": "why not" });
    let (status, _) = api.send(&ada, "POST", "/operator/v1/billing/corrections", Some(bad)).await;
    assert!(status.is_client_error(), "{status}");
}

#[tokio::test]
async fn the_api_answers_what_finance_asks() {
    let office = Office::new().await;
    let begin = office.shop.now().duration_trunc(TimeDelta::minutes(5)).unwrap();
    office.shop.pass(TimeDelta::hours(1));
    office.tasks(4, begin + TimeDelta::minutes(20)).await;
    office.deliver().await;
    office.shop.hear().await;
    let api = Api::of(&office);
    let finance = Api::key(&office, "ada", OperatorRole::Finance).await;
    let asked: Vec<(&str, &str)> = vec![
        ("standing", "undelivered"),
        ("report", "items"),
        ("invoices", "items"),
        ("batches", "items"),
        ("quarantine", "items"),
        ("quarantine/facts", "items"),
        ("inbox", "items"),
        ("incidents", "items"),
        ("corrections", "items"),
        ("reconcile", "items"),
        ("differences", "items"),
    ];
    for (path, field) in asked {
        let (status, value) = api.send(&finance, "GET", &format!("/operator/v1/billing/{path}"), None).await;
        assert_eq!(status, StatusCode::OK, "{path}: {value}");
        assert!(value.get(field).is_some(), "{path}: {value}");
    }
    let (status, run) = api.send(&finance, "POST", "/operator/v1/billing/reconcile", Some(json!({}))).await;
    assert_eq!((status, &run["state"]), (StatusCode::OK, &json!("green")), "{run}");
    let (_, batches) = api.send(&finance, "GET", "/operator/v1/billing/batches", None).await;
    let batch = batches["items"][0]["identifier"].as_str().unwrap();
    let (status, facts) =
        api.send(&finance, "GET", &format!("/operator/v1/billing/batches/{batch}/facts?limit=1"), None).await;
    assert_eq!((status, facts["items"].as_array().map(Vec::len)), (StatusCode::OK, Some(1)), "{facts}");
    let (_, inbox) = api.send(&finance, "GET", "/operator/v1/billing/inbox?state=done", None).await;
    let event = inbox["items"][0]["event_id"].as_str().unwrap().to_owned();
    let (status, again) =
        api.send(&finance, "POST", &format!("/operator/v1/billing/inbox/{event}/replay"), None).await;
    assert_eq!((status, &again["state"]), (StatusCode::OK, &json!("ready")), "{again}");
    for (path, status) in [
        ("/operator/v1/billing/invoices/in_none/explain", StatusCode::NOT_FOUND),
        ("/operator/v1/billing/batches/ub:none/facts", StatusCode::NOT_FOUND),
        ("/operator/v1/billing/inbox?state=lost", StatusCode::UNPROCESSABLE_ENTITY),
        ("/operator/v1/billing/report?from=2026-12-01&to=2026-11-01", StatusCode::UNPROCESSABLE_ENTITY),
        ("/operator/v1/tenants/nobody/usage", StatusCode::NOT_FOUND),
    ] {
        assert_eq!(api.send(&finance, "GET", path, None).await.0, status, "{path}");
    }
}
