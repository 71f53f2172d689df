//! B13: each sign-in, invitation, role, key, export and deletion is one line of the log, and its own tenant's alone.

use std::collections::BTreeSet;

use freehold::control_plane::access::tenant_delete;
use freehold::control_plane::audit::Caller;
use freehold::control_plane::tenants::{TenantDetail, TenantRef};
use freehold::data_plane::tenancy::cookie::SESSION_COOKIE;
use freehold::identity::arrive::Here;
use freehold::identity::operators::{OperatorRef, OperatorRole, operator_remove, operator_set_role};
use freehold::kernel::Role;
use freehold::kernel::ids::{AccountId, AuditId, TenantId};
use freehold::testkit::{Browser, TestApp, tester};
use reqwest::Method;
use serde_json::{Value, json};

use super::fixture::verified;
use crate::desk::fixture::{arrive, hire, site};
use crate::identity::fixture::{self, enter, identity, person, seat, sign_in};
use crate::oidc::fixture::{post, seat_for, sign_in_again, signed_in};

struct Watch {
    app: TestApp,
    acme: TenantDetail,
    seen: BTreeSet<AuditId>,
    actions: BTreeSet<String>,
}

impl Watch {
    async fn new_lines(&mut self) -> Vec<(String, Option<TenantId>)> {
        let rows: Vec<(AuditId, String, Option<TenantId>)> =
            sqlx::query_as("SELECT id, action, tenant FROM audit ORDER BY id")
                .fetch_all(self.app.world.db())
                .await
                .unwrap();
        let new = rows.into_iter().filter(|(id, ..)| self.seen.insert(*id));
        new.map(|(_, action, tenant)| (action, tenant)).collect()
    }

    /// What was done since the last look is this one line, in this log.
    async fn one(&mut self, action: &str, tenant: Option<TenantId>) {
        assert_eq!(self.new_lines().await, [(action.to_owned(), tenant)], "{action}");
        self.actions.insert(action.to_owned());
    }

    async fn of_acme(&mut self, action: &str) {
        self.one(action, Some(self.acme.tenant.id)).await;
    }

    async fn ok(&self, by: &fixture::Browser, method: Method, path: &str, body: Option<Value>) -> Value {
        let mut request = by.ask(&self.app, method, path);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let (status, answer) = self.app.send(request).await;
        assert!((200..300).contains(&status), "{path}: {status} {answer}");
        answer
    }

    async fn operator(&self, method: Method, path: &str, body: Value) -> Value {
        let (status, answer) = self.app.send(self.app.operator(method, path).json(&body)).await;
        assert!((200..300).contains(&status), "{path}: {status} {answer}");
        answer
    }

    async fn member(&self, name: &str, role: Role) -> (AccountId, fixture::Browser) {
        let account = person(&self.app.world, name).await;
        seat(&self.app.world, &self.acme, account, role).await;
        let browser = enter(&self.app.world, sign_in(&self.app.world, account).await.id, &self.acme).await;
        (account, browser)
    }
}

/// Somebody new with a seat.
async fn seat_for_new(watch: &Watch, name: &str) -> AccountId {
    let account = person(&watch.app.world, name).await;
    seat(&watch.app.world, &watch.acme, account, Role::Member).await;
    account
}

/// Shown to fail: a line taken out (`api_key.revoke`), one written twice (`member.role`).
#[tokio::test]
async fn each_event_is_one_line_of_its_own_tenant() {
    let (app, rogue) = site().await;
    let (acme, globex) = (app.world.tenant("acme").await, app.world.tenant("globex").await);
    let globex_admin = app.key("globex", Role::Admin).await;
    let acme_admin = app.key("acme", Role::Admin).await;
    let mut watch = Watch { app, acme, seen: BTreeSet::new(), actions: BTreeSet::new() };
    let (_, owner) = watch.member("olga", Role::Owner).await;
    let (bob, bobs) = watch.member("bob", Role::Member).await;
    let (carol, carols) = watch.member("carol", Role::Member).await;
    watch.new_lines().await;

    // Signing in, coming to a workspace, going.
    let dora = signed_in(&watch.app, &rogue, "rogue", "dora").await;
    watch.one("session.start", None).await;
    seat_for(&watch.app, &rogue, "dora", &watch.acme, Role::Member).await;
    watch.of_acme("member.join").await;
    assert_eq!(dora.open("http://acme.localhost/projects").await.status, 200);
    watch.of_acme("session.enter").await;
    assert!(dora.cookie("acme.localhost", SESSION_COOKIE).is_some());
    sign_in_again(&dora, &rogue, "rogue", "dora").await;
    watch.one("session.start", None).await;
    assert_eq!(post(&dora, "/sign-out", &[]).await.status, 303);
    watch.one("session.end", None).await;
    let others = watch.ok(&bobs, Method::GET, "/api/v1/sessions", None).await;
    let other = sign_in(&watch.app.world, bob).await.id;
    assert_eq!(others["items"].as_array().unwrap().len(), 1);
    watch.ok(&bobs, Method::DELETE, &format!("/api/v1/sessions/{other}"), None).await;
    watch.one("session.revoke", None).await;
    watch.ok(&bobs, Method::POST, "/api/v1/sessions/revoke-others", None).await;
    watch.one("session.revoke_others", None).await;

    // Invitations.
    let new = json!({ "email": "erin@example.com", "role": "viewer" });
    let invitation = watch.ok(&owner, Method::POST, "/api/v1/invitations", Some(new)).await;
    watch.of_acme("invitation.create").await;
    let at = format!("/api/v1/invitations/{}", invitation["id"].as_str().unwrap());
    watch.ok(&owner, Method::POST, &format!("{at}/resend"), None).await;
    watch.of_acme("invitation.resend").await;
    watch.ok(&owner, Method::DELETE, &at, None).await;
    watch.of_acme("invitation.revoke").await;

    // Roles and seats.
    let to = json!({ "role": "manager" });
    watch.ok(&owner, Method::PATCH, &format!("/api/v1/members/{bob}"), Some(to.clone())).await;
    watch.of_acme("member.role").await;
    watch.ok(&owner, Method::PATCH, &format!("/api/v1/members/{bob}"), Some(to)).await;
    assert_eq!(watch.new_lines().await, [], "nothing changed");
    watch.ok(&owner, Method::DELETE, &format!("/api/v1/members/{bob}"), None).await;
    watch.of_acme("member.remove").await;
    watch.ok(&carols, Method::DELETE, &format!("/api/v1/members/{carol}"), None).await;
    watch.of_acme("member.leave").await;
    let (frank, _) = watch.member("frank", Role::Member).await;
    watch.of_acme("member.join").await;
    watch.ok(&owner, Method::POST, "/api/v1/ownership/transfer", Some(json!({ "account": frank }))).await;
    watch.of_acme("owner.transfer").await;

    // Keys, exports.
    let new = json!({ "name": "ci", "role": "viewer" });
    let admin = watch.member("gina", Role::Admin).await.1;
    watch.of_acme("member.join").await;
    let key = watch.ok(&admin, Method::POST, "/api/v1/api-keys", Some(new)).await;
    watch.of_acme("api_key.create").await;
    let at = format!("/api/v1/api-keys/{}", key["id"].as_str().unwrap());
    watch.ok(&admin, Method::DELETE, &at, None).await;
    watch.of_acme("api_key.revoke").await;
    watch.ok(&admin, Method::DELETE, &at, None).await;
    assert_eq!(watch.new_lines().await, [], "revoked before");
    watch.ok(&admin, Method::GET, "/api/v1/audit/export", None).await;
    watch.of_acme("audit.export").await;

    // Looks by the provider's staff, and the staff itself.
    let path = "/operator/v1/tenants/acme/support-sessions";
    let started = watch.operator(Method::POST, path, json!({ "reason": "ticket 1" })).await;
    watch.of_acme("support.start").await;
    assert_eq!(Browser::new(&watch.app).open(started["link"].as_str().unwrap()).await.status, 200);
    watch.of_acme("support.enter").await;
    let id = started["id"].as_str().unwrap();
    for lines in [1, 0] {
        watch.operator(Method::POST, &format!("/operator/v1/support-sessions/{id}/end"), json!({})).await;
        match lines {
            1 => watch.of_acme("support.end").await,
            _ => assert_eq!(watch.new_lines().await, [], "ended before"),
        }
    }
    let made = watch.operator(Method::POST, "/operator/v1/operator-keys", json!({ "name": "ci" })).await;
    watch.one("operator_key.create", None).await;
    let at = format!("/operator/v1/operator-keys/{}", made["id"].as_str().unwrap());
    watch.operator(Method::DELETE, &at, json!({})).await;
    watch.one("operator_key.revoke", None).await;
    hire(&watch.app, "hal", OperatorRole::Viewer).await;
    watch.one("operator.add", None).await;
    assert_eq!(arrive(&Browser::new(&watch.app), &rogue, "hal").await.status, 200);
    watch.one("operator.sign_in", None).await;
    let (cp, hal) = (watch.app.world.hands.cp.clone(), OperatorRef::Email("hal@example.com".into()));
    operator_set_role(&cp, &tester(), &hal, OperatorRole::Operator).await.unwrap();
    watch.one("operator.role", None).await;
    operator_remove(&cp, &tester(), &hal).await.unwrap();
    watch.one("operator.remove", None).await;

    // A person's own account: what is theirs, and their going.
    let account = seat_for_new(&watch, "ines").await;
    watch.of_acme("member.join").await;
    let here = Here { account, session: sign_in(&watch.app.world, account).await.id };
    let me = Caller { actor: account.to_string(), request_id: None };
    let identity = identity(&watch.app.world);
    assert!(identity.account_export(&me, here).await.is_ok());
    watch.one("account.export", None).await;
    identity.account_erase(&me, here, "ines@example.com").await.unwrap();
    let gone = watch.new_lines().await;
    let wanted =
        [("account.erase".to_owned(), None), ("member.leave".to_owned(), Some(watch.acme.tenant.id))];
    assert_eq!(gone.into_iter().collect::<BTreeSet<_>>(), wanted.into_iter().collect::<BTreeSet<_>>());

    // The tenant itself, to its end.
    let name = json!({ "name": "Acme & Co." });
    watch.operator(Method::PATCH, "/operator/v1/tenants/acme", name).await;
    watch.of_acme("tenant.rename").await;
    let mine = watch.app.send(watch.app.request(Method::GET, "acme", &acme_admin, "/api/v1/audit?limit=100"));
    let (_, mine) = mine.await;
    tenant_delete(&cp, &tester(), &TenantRef::Id(watch.acme.tenant.id), "over").await.unwrap();
    watch.of_acme("tenant.delete").await;

    // Each tenant reads its own, all of its own, and nothing else.
    let listed = mine["items"].as_array().unwrap();
    assert!(listed.iter().all(|line| line["tenant"] == watch.acme.tenant.id.to_string()));
    for action in
        ["session.enter", "invitation.create", "member.role", "api_key.revoke", "audit.export", "support.end"]
    {
        let found = listed.iter().filter(|line| line["action"] == action).count();
        assert_eq!(found, 1, "{action}");
    }
    let theirs = watch.app.request(Method::GET, "globex", &globex_admin, "/api/v1/audit?limit=100");
    let (_, theirs) = watch.app.send(theirs).await;
    let theirs = theirs["items"].as_array().unwrap();
    assert!(theirs.iter().all(|line| line["tenant"] == globex.tenant.id.to_string()), "{theirs:?}");
    let actions: BTreeSet<&str> = theirs.iter().filter_map(|line| line["action"].as_str()).collect();
    assert_eq!(actions.into_iter().collect::<Vec<_>>(), ["api_key.create", "tenant.create"]);
    assert_eq!(verified(&watch.app.world, None).await.broken, []);
    assert!(watch.actions.len() >= 28, "{:?}", watch.actions);
}
