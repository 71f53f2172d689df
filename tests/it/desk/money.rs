//! Money at the desk, and in a workspace: who sees what, and who may do something about it.

use freehold::billing::incidents;
use freehold::billing::ledger::{
    CorrectionId, Fact, NewCorrection, correction_ask, correction_decide, months, record_many,
};
use freehold::control_plane::audit::Caller;
use freehold::data_plane::tenancy::cookie::csrf_proof;
use freehold::http::desk::COOKIE;
use freehold::identity::keys::{OperatorKey, operator_key_create_as, operator_key_create_for};
use freehold::identity::operators::{OperatorRef, OperatorRole, actor_of, actor_of_key};
use freehold::kernel::{Role, codes};
use freehold::testkit::{Browser, tester};
use reqwest::Method;
use serde_json::json;

use super::fixture::{DESK, get, hire, on_duty, site};
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
        occurred_at: Some(cp.clock.now()),
        corrects: None,
        reason: "imported twice".to_owned(),
        reference: None,
    };
    let eve = hire(&app, "eve", OperatorRole::Finance).await;
    let by_eve = Caller { actor: actor_of(eve.id), request_id: None };
    let asked = correction_ask(cp, &by_eve, &new).await.unwrap();

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

/// Two people are two operators: a key and a browser of one person are one. What nobody known asked for is agreed to by two.
///
/// Guards the comparison of persons in `correction_decide`, and `usage_correction_two_people`.
#[tokio::test]
async fn who_asks_with_a_key_does_not_agree_in_the_browser() {
    let (app, rogue) = site().await;
    let acme = app.world.tenant("acme").await.tenant.id;
    let cp = &app.world.hands.cp;
    freehold::app::meters::<freehold::product::Current>(cp).await.unwrap();
    let ada = on_duty(&app, &rogue, "ada", OperatorRole::Finance).await;
    let bob = on_duty(&app, &rogue, "bob", OperatorRole::Finance).await;
    let owner = OperatorRef::Email("ada@example.com".to_owned());
    let with_owner =
        operator_key_create_for(cp, &tester(), "ada's", OperatorRole::Finance, Some(&owner), None)
            .await
            .unwrap();
    let nobodys =
        operator_key_create_as(cp, &tester(), "nobody's", OperatorRole::Finance, None).await.unwrap();
    let by = |key: &OperatorKey| Caller { actor: actor_of_key(key.id), request_id: None };
    let new = |reason: &str| NewCorrection {
        tenant: acme,
        meter: "tasks_created".to_owned(),
        quantity: -3,
        occurred_at: Some(cp.clock.now()),
        corrects: None,
        reason: reason.to_owned(),
        reference: None,
    };
    let state = async |id: CorrectionId| {
        sqlx::query_scalar::<_, String>("SELECT state FROM usage_correction WHERE id = $1")
            .bind(id)
            .fetch_one(app.world.db())
            .await
            .unwrap()
    };
    let money = format!("{DESK}/money");
    let says = async |browser: &Browser, id: CorrectionId, agree: &str| {
        let proof = csrf_proof(&browser.cookie("localhost", COOKIE).unwrap());
        let (url, id) = (format!("{money}/correction").parse().unwrap(), id.to_string());
        let fields = [("correction", id.as_str()), ("agree", agree), ("csrf", proof.as_str())];
        browser.ask(Method::POST, &url, Some("http://localhost"), Some(&fields)).await.status
    };

    let hers = correction_ask(cp, &by(&with_owner.record), &new("by her key")).await.unwrap();
    let page = get(&ada, &money).await;
    assert!(page.body.contains("waits for another person"), "{}", page.body);
    assert!(page.forms().iter().all(|form| form.action.path() != "/operator/money/correction"));
    for agree in ["true", "false"] {
        assert_eq!((says(&ada, hers.id, agree).await, state(hers.id).await.as_str()), (403, "asked"));
    }
    let own = correction_decide(cp, &by(&with_owner.record), hers.id, true).await.unwrap_err();
    let no_one = correction_decide(cp, &by(&nobodys.record), hers.id, true).await.unwrap_err();
    assert!(own.is(&codes::FORBIDDEN) && no_one.is(&codes::FORBIDDEN), "{own} {no_one}");
    let machine = Caller { actor: "cli:root".to_owned(), request_id: None };
    assert!(correction_decide(cp, &machine, hers.id, true).await.unwrap_err().is(&codes::FORBIDDEN));
    assert_eq!((says(&bob, hers.id, "true").await, state(hers.id).await.as_str()), (303, "approved"));

    let whose = correction_ask(cp, &by(&nobodys.record), &new("by nobody's key")).await.unwrap();
    assert_eq!((says(&ada, whose.id, "true").await, state(whose.id).await.as_str()), (303, "asked"));
    assert_eq!((says(&ada, whose.id, "true").await, state(whose.id).await.as_str()), (403, "asked"));
    assert_eq!((says(&bob, whose.id, "true").await, state(whose.id).await.as_str()), (303, "approved"));
    // The table itself knows it too.
    let forced = sqlx::query("UPDATE usage_correction SET asked_person = decided_person WHERE id = $1")
        .bind(whose.id)
        .execute(app.world.db())
        .await;
    assert!(forced.is_err());
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
