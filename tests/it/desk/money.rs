//! Money at the desk, and in a workspace: who sees what, and who may do something about it.

use freehold::billing::incidents;
use freehold::billing::ledger::{Fact, NewCorrection, correction_ask, months, record_many};
use freehold::data_plane::tenancy::cookie::csrf_proof;
use freehold::http::desk::COOKIE;
use freehold::identity::operators::OperatorRole;
use freehold::kernel::Role;
use freehold::testkit::tester;
use reqwest::Method;
use serde_json::json;

use super::fixture::{DESK, get, on_duty, site};
use crate::oidc::fixture::{seat_for, signed_in};

/// Shown to fail: `MoneyChange` that takes a viewer, `Change` that takes the finance role.
#[tokio::test]
async fn finance_does_something_about_money_and_about_nothing_else() {
    let (app, rogue) = site().await;
    let acme = app.world.tenant("acme").await.tenant.id;
    let cp = &app.world.hands.cp;
    freehold::app::meters::<freehold::product::Current>(cp).await.unwrap();
    let mut conn = app.world.db().acquire().await.unwrap();
    let detail = json!({ "why": "<b>planted</b>" });
    incidents::open(&mut conn, "draft_held", "in_1", Some(acme), detail, cp.clock.now()).await.unwrap();
    let new = NewCorrection {
        tenant: acme,
        meter: "tasks_created".to_owned(),
        quantity: -3,
        occurred_at: cp.clock.now(),
        corrects: None,
        reason: "imported twice".to_owned(),
    };
    let asked = correction_ask(cp, &tester(), &new).await.unwrap();

    let viewer = on_duty(&app, &rogue, "vic", OperatorRole::Viewer).await;
    let money = format!("{DESK}/money");
    let page = get(&viewer, &money).await;
    assert_eq!(page.status, 200, "{}", page.body);
    for said in ["draft_held", "imported twice", "tasks_created"] {
        assert!(page.body.contains(said), "{said}: {}", page.body);
    }
    assert!(!page.body.contains("<b>planted</b>"), "what is in a detail is text");
    assert!(page.forms().iter().all(|form| form.action.path() == "/operator/sign-out"), "a viewer reads");
    let proof = csrf_proof(&viewer.cookie("localhost", COOKIE).unwrap());
    let (id, correction) = ("inc_06fqv3k1s9t4m7b2n8c5v0r6e4", asked.id.to_string());
    let sent: [(&str, Vec<(&str, &str)>); 3] = [
        ("incident", vec![("incident", id), ("csrf", &proof)]),
        ("correction", vec![("correction", &correction), ("agree", "true"), ("csrf", &proof)]),
        ("release", vec![("invoice", "in_1"), ("reason", "because"), ("csrf", &proof)]),
    ];
    for (path, fields) in &sent {
        let url = format!("{money}/{path}").parse().unwrap();
        let page = viewer.ask(Method::POST, &url, Some("http://localhost"), Some(fields)).await;
        assert_eq!(page.status, 403, "{path}");
    }

    let finance = on_duty(&app, &rogue, "ada", OperatorRole::Finance).await;
    let page = get(&finance, &money).await;
    let form =
        |path: &str| page.forms().into_iter().filter(|form| form.action.path() == path).collect::<Vec<_>>();
    let settled = finance.submit(&page, &form("/operator/money/incident")[0], &[]).await;
    assert!(settled.status == 200 && !settled.body.contains("draft_held"), "{}", settled.body);
    let agree = form("/operator/money/correction")
        .into_iter()
        .find(|form| form.fields.contains(&("agree".to_owned(), "true".to_owned())))
        .unwrap();
    let agreed = finance.submit(&page, &agree, &[]).await;
    assert!(agreed.status == 200 && !agreed.body.contains("imported twice"), "{}", agreed.body);
    let state: String =
        sqlx::query_scalar("SELECT state FROM usage_correction").fetch_one(&mut *conn).await.unwrap();
    assert_eq!(state, "approved");
    let proof = csrf_proof(&finance.cookie("localhost", COOKIE).unwrap());
    let url = format!("{DESK}/tenants/{acme}/support").parse().unwrap();
    let fields = [("reason", "ticket 1"), ("minutes", "5"), ("csrf", proof.as_str())];
    assert_eq!(finance.ask(Method::POST, &url, Some("http://localhost"), Some(&fields)).await.status, 403);

    let file = get(&finance, &format!("{money}/report.csv")).await;
    assert_eq!(file.status, 200, "{}", file.body);
    assert!(file.headers["content-type"].to_str().unwrap().starts_with("text/csv"));
    assert!(file.body.starts_with("period,tenant,customer,"), "{}", file.body);
    assert!(file.body.contains(",acme,") && file.body.contains(",-3,"), "{}", file.body);
}

#[tokio::test]
async fn a_workspace_sees_its_own_use() {
    let (app, rogue) = site().await;
    let acme = app.world.tenant("acme").await;
    let cp = &app.world.hands.cp;
    freehold::app::meters::<freehold::product::Current>(cp).await.unwrap();
    months::months_make(cp).await.unwrap();
    let fact = |tenant, quantity, key: &str| Fact {
        tenant,
        meter: "tasks_created".into(),
        source: "test".into(),
        key: key.to_owned(),
        quantity,
        occurred_at: cp.clock.now(),
        received_at: cp.clock.now(),
    };
    let globex = app.world.tenant("globex").await;
    let facts = [fact(acme.tenant.id, 1234, "a"), fact(globex.tenant.id, 98_765, "b")];
    record_many(&mut app.world.db().acquire().await.unwrap(), &facts).await.unwrap();
    let owner = signed_in(&app, &rogue, "rogue", "owner").await;
    seat_for(&app, &rogue, "owner", &acme, Role::Admin).await;
    let page = owner.open("http://acme.localhost/usage").await;
    assert_eq!(page.status, 200, "{}", page.body);
    assert!(page.body.contains("1,234") && page.body.contains("<svg"), "{}", page.body);
    assert!(!page.body.contains("98,765"), "another workspace's use");
    assert!(!page.body.contains("style="), "nothing is styled in place");
    let csp = page.headers["content-security-policy"].to_str().unwrap();
    assert!(!csp.contains("unsafe-inline"), "{csp}");
    assert!(page.body.contains(&format!("/billing/{}", acme.tenant.id)), "the way to plan and payment");
    let member = signed_in(&app, &rogue, "rogue", "member").await;
    seat_for(&app, &rogue, "member", &acme, Role::Member).await;
    assert_eq!(member.open("http://acme.localhost/usage").await.status, 403);
}
