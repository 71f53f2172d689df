//! The whole way in a browser: an operator begins, looks, the owner sees it and ends it.

use freehold::identity::operators::OperatorRole;
use freehold::kernel::Role;

use super::fixture::{DESK, get, on_duty, site};
use crate::oidc::fixture::{seat_for, signed_in};

/// Shown to fail: the banner taken out of `workspace.html`; the section of sessions taken out of `audit.html`.
#[tokio::test]
async fn an_operator_looks_in_under_a_banner_and_the_owner_ends_it() {
    let (app, rogue) = site().await;
    let acme = app.world.tenant("acme").await;
    let owner = signed_in(&app, &rogue, "rogue", "owner").await;
    seat_for(&app, &rogue, "owner", &acme, Role::Owner).await;
    assert_eq!(owner.open("http://acme.localhost/projects").await.status, 200);
    let desk = on_duty(&app, &rogue, "grace", OperatorRole::Operator).await;
    let page = get(&desk, &format!("{DESK}/tenants/{}", acme.tenant.id)).await;
    let form = page.forms().into_iter().find(|form| form.action.path().ends_with("/support")).unwrap();
    let begun = desk.submit(&page, &form, &[("reason", "ticket <4711>"), ("minutes", "15")]).await;
    assert_eq!(begun.status, 200, "{}", begun.body);
    let (_, rest) =
        begun.body.split_once("href=\"http://acme.localhost/enter/support?code=").expect("the link");
    let code = rest.split('"').next().unwrap();
    let inside = desk.open(&format!("http://acme.localhost/enter/support?code={code}")).await;
    assert_eq!((inside.status, inside.url.path()), (200, "/projects"), "{}", inside.body);
    for path in ["/projects", "/members"] {
        let page = desk.open(&format!("http://acme.localhost{path}")).await;
        assert_eq!(page.status, 200, "{path}: {}", page.body);
        assert!(page.body.contains("Support session</strong> of grace"), "{path}: {}", page.body);
        assert!(
            page.body.contains("ticket &#60;4711&#62;") || page.body.contains("ticket &lt;4711&gt;"),
            "{path}"
        );
        assert!(!page.body.contains("/members/invite"), "{path}");
    }

    let log = owner.open("http://acme.localhost/audit").await;
    assert_eq!(log.status, 200, "{}", log.body);
    for said in ["grace (support)", "support.start", "support.enter", "session.enter", "owner"] {
        assert!(log.body.contains(said), "{said}: {}", log.body);
    }
    assert!(!log.body.contains("Support session</strong>"), "no banner for the owner");
    let filtered = owner.open("http://acme.localhost/audit?action=support.&from=2020-01-01").await;
    assert!(filtered.body.contains("support.enter") && !filtered.body.contains("session.enter</code>"));
    let end = log.forms().into_iter().find(|form| form.action.path() == "/audit/support/end").unwrap();
    let ended = owner.submit(&log, &end, &[]).await;
    assert!(ended.body.contains("support.end"), "{}", ended.body);
    freehold::testkit::eventually(std::time::Duration::from_secs(5), "the operator is out", async || {
        let page = get(&desk, "http://acme.localhost/projects").await;
        match page.status {
            303 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    // The download is the same log.
    let csv = owner.open("http://acme.localhost/api/v1/audit/export?action=support.&format=jsonl").await;
    let lines: Vec<serde_json::Value> =
        csv.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3, "{}", csv.body);
    assert_eq!(lines[0]["action"], "support.end");
}
