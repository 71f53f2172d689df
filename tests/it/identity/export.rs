//! All that is kept about a person, for them.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use freehold::control_plane::audit::{Caller, audit_add};
use freehold::identity::invitations::{NewInvitation, invite};
use freehold::identity::members::By;
use freehold::kernel::Role;
use freehold::testkit::tester;
use serde_json::{Value, json};

use super::fixture::{person, seat};
use super::invitations;
use super::password_fixture::{BASE, fill, sign_up, site};
use crate::oidc::fixture::account_in;

const ADA: &str = "ada@example.com";

/// Shown to fail: `actor = $2` taken out (grace's lines are in it); `AT_A_TIME` lines only; the throttle taken out.
#[tokio::test]
async fn a_person_takes_along_what_is_theirs_and_nothing_else() {
    let app = site(vec![]).await;
    let world = &app.world;
    let browser = sign_up(&app, ADA).await;
    let ada = account_in(&app, &browser).await.unwrap();
    let grace = person(world, "grace").await;
    let acme = world.tenant("acme").await;
    seat(world, &acme, ada, Role::Admin).await;
    seat(world, &acme, grace, Role::Owner).await;
    let mailing = invitations::identity(world, true);
    for (by, role, email) in
        [(ada, Role::Admin, "invited@example.com"), (grace, Role::Owner, "other@example.com")]
    {
        let by = By { account: Some(by), role };
        let new = NewInvitation { email: email.to_owned(), role: Role::Viewer };
        invite(&mailing, &tester(), by, acme.tenant.id, &new).await.unwrap();
    }
    let globex = world.tenant("globex").await;
    seat(world, &globex, grace, Role::Owner).await;
    let new = NewInvitation { email: ADA.to_owned(), role: Role::Viewer };
    let by = By { account: Some(grace), role: Role::Owner };
    invite(&mailing, &tester(), by, globex.tenant.id, &new).await.unwrap();
    let mut tx = world.db().begin().await.unwrap();
    let now = world.hands.cp.clock.now();
    for (who, many) in [(ada, 1_234), (grace, 3)] {
        let caller = Caller { actor: who.to_string(), request_id: None };
        for n in 0..many {
            let detail = json!({ "of": who });
            audit_add(&mut tx, &caller, now, "test.line", Some(acme.tenant.id), &n.to_string(), detail)
                .await
                .unwrap();
        }
    }
    tx.commit().await.unwrap();

    let page = browser.open(&format!("{BASE}/account")).await;
    let answer = fill(&browser, &page, "/account/export", &[]).await;
    assert_eq!((answer.status, answer.headers["content-type"].to_str().unwrap()), (200, "application/json"));
    assert!(answer.headers["content-disposition"].to_str().unwrap().starts_with("attachment"));
    assert!(answer.headers["cache-control"].to_str().unwrap().contains("no-store"));
    let all: Value = serde_json::from_str(&answer.body).expect("JSON");
    let parts: BTreeSet<&str> = all.as_object().unwrap().keys().map(String::as_str).collect();
    let wanted = [
        "account",
        "api_keys",
        "audit",
        "exported_at",
        "invitations_received",
        "invitations_sent",
        "memberships",
        "password",
        "sessions",
        "ways_to_sign_in",
    ];
    assert_eq!(parts, BTreeSet::from(wanted));
    assert_eq!(all["account"][0]["email"], ADA);
    assert_eq!(all["account"][0]["written_as"], ada.to_string());
    assert_eq!(all["ways_to_sign_in"][0]["issuer"], BASE);
    assert_eq!(
        all["memberships"],
        json!([{
            "workspace": "acme", "name": acme.tenant.name, "role": "admin", "joined_at": all["memberships"][0]["joined_at"],
        }])
    );
    assert_eq!(all["invitations_sent"].as_array().unwrap().len(), 1);
    assert_eq!(all["invitations_sent"][0]["email"], "invited@example.com");
    assert_eq!(all["invitations_received"][0]["workspace"], "globex");
    let lines = all["audit"].as_array().unwrap();
    assert_eq!(lines.iter().filter(|line| line["action"] == "test.line").count(), 1_234);
    assert!(lines.iter().any(|line| line["action"] == "account.export"), "the export itself");
    assert!(!answer.body.contains("grace") && !answer.body.contains("other@example.com"));
    assert!(!answer.body.contains(&grace.to_string()));
    // Nothing in it lets anybody in.
    let secrets: Vec<String> = sqlx::query_scalar(
        "SELECT hash FROM account_password UNION ALL SELECT encode(token_hash, 'hex') FROM session",
    )
    .fetch_all(world.db())
    .await
    .unwrap();
    assert!(secrets.len() >= 2 && secrets.iter().all(|secret| !answer.body.contains(secret)));

    // Three, then one each twenty minutes; and a fresh sign-in.
    for status in [200, 200, 429] {
        assert_eq!(fill(&browser, &page, "/account/export", &[]).await.status, status);
    }
    world.hands.cp.clock.advance(TimeDelta::seconds(301));
    let asked = fill(&browser, &page, "/account/export", &[]).await;
    assert_eq!(asked.url.path(), "/account/confirm");
}
