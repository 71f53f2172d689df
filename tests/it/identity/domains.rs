//! Mail domains and a workspace's own sign-in: proven by DNS (a made-up zone here), and required of nobody by mistake.

use std::collections::HashMap;
use std::sync::Arc;

use freehold::identity::Identity;
use freehold::identity::accounts::{Vouched, account_enter};
use freehold::identity::domains::{
    TxtLookup, domain_add, domain_join_role, domain_list, domain_remove, domain_verify, join_by_domain,
    joinable, record_name,
};
use freehold::identity::members::By;
use freehold::identity::sessions::{Device, Proof, session_start};
use freehold::identity::sso::{
    NewSso, sso_allows, sso_allows_session, sso_enforce, sso_get, sso_method, sso_secret, sso_set,
};
use freehold::kernel::ids::{AccountId, SessionId, TenantId};
use freehold::kernel::{Error, Result, Role, codes};
use freehold::product::{Current, Product};
use freehold::testkit::{World, tester};
use parking_lot::Mutex;
use secrecy::ExposeSecret;

use super::fixture::{enter, person, seat, sign_in, vouched};
use super::invitations::identity;

/// A zone that the test writes.
#[derive(Clone, Default)]
struct Zone(Arc<Mutex<HashMap<String, Vec<String>>>>);

impl Zone {
    fn set(&self, name: String, records: &[&str]) {
        self.0.lock().insert(name, records.iter().map(|record| (*record).to_owned()).collect());
    }

    fn lookup(&self) -> TxtLookup {
        let zone = self.0.clone();
        Arc::new(move |name| {
            let found = zone.lock().get(&name).cloned().unwrap_or_default();
            Box::pin(async move { Ok(found) })
        })
    }
}

struct Town {
    world: World,
    identity: Identity,
    zone: Zone,
    acme: TenantId,
    globex: TenantId,
}

const ADMIN: By = By { account: None, role: Role::Admin };

async fn town() -> Town {
    let world = World::new(Current::migrations()).await;
    let (acme, globex) = (world.tenant("acme").await.tenant.id, world.tenant("globex").await.tenant.id);
    Town { identity: identity(&world, true), world, zone: Zone::default(), acme, globex }
}

impl Town {
    async fn verify(&self, tenant: TenantId, domain: &str) -> Result<()> {
        let lookup = self.zone.lookup();
        domain_verify(&self.identity, &lookup, &tester(), ADMIN, tenant, domain).await.map(drop)
    }

    /// Names and proves a domain.
    async fn own(&self, tenant: TenantId, domain: &str) {
        let named = domain_add(&self.identity, &tester(), ADMIN, tenant, domain).await.unwrap();
        self.zone.set(record_name(domain), &[&named.challenge]);
        self.verify(tenant, domain).await.unwrap();
    }

    async fn open_to(&self, tenant: TenantId, domain: &str, role: Option<Role>) -> Result<()> {
        domain_join_role(&self.identity, &tester(), ADMIN, tenant, domain, role).await.map(drop)
    }

    async fn with_address(&self, subject: &str, email: &str, verified: bool) -> AccountId {
        let mut tx = self.world.db().begin().await.unwrap();
        let vouched = Vouched { email: Some(email.to_owned()), email_verified: verified, ..vouched(subject) };
        let now = self.world.hands.cp.clock.now();
        let (account, _) = account_enter(&mut tx, &vouched, now).await.unwrap();
        tx.commit().await.unwrap();
        account
    }

    async fn join(&self, account: AccountId, tenant: TenantId) -> Result<()> {
        join_by_domain(&self.identity, &tester(), account, tenant).await
    }
}

fn code<T>(outcome: Result<T>) -> &'static str {
    outcome.err().map_or("ok", |error: Error| error.code().name)
}

#[tokio::test]
async fn a_domain_is_proven_by_its_own_record_and_by_one_workspace() {
    let town = town().await;
    let ours = domain_add(&town.identity, &tester(), ADMIN, town.acme, "Example.COM.").await.unwrap();
    let theirs = domain_add(&town.identity, &tester(), ADMIN, town.globex, "example.com").await.unwrap();
    assert_ne!(ours.challenge, theirs.challenge);
    let again = domain_add(&town.identity, &tester(), ADMIN, town.acme, "example.com").await.unwrap();
    assert_eq!(again, ours, "naming it twice keeps the record that may be on its way");

    let prefix = ours.challenge[..ours.challenge.len() - 1].to_owned();
    let longer = format!("{}x", ours.challenge);
    for records in [&[][..], &["v=spf1 -all"], &[""], &[prefix.as_str()], &[longer.as_str()]] {
        town.zone.set(record_name("example.com"), records);
        assert_eq!(code(town.verify(town.acme, "example.com").await), "state_conflict", "{records:?}");
    }
    // Right, but at another name: whoever may write there has not shown that the domain is theirs.
    town.zone.set("example.com".to_owned(), &[&ours.challenge]);
    town.zone.set("_freehold.evil.example.com".to_owned(), &[&ours.challenge]);
    town.zone.set(record_name("example.com"), &[&theirs.challenge]);
    assert_eq!(code(town.verify(town.acme, "example.com").await), "state_conflict", "another's record");
    town.zone.set(record_name("example.com"), &["v=spf1 -all", &ours.challenge, &theirs.challenge]);
    town.verify(town.acme, "example.com").await.unwrap();
    assert_eq!(code(town.verify(town.globex, "example.com").await), "conflict", "one domain, one workspace");
    assert_eq!(code(town.verify(town.globex, "unnamed.com").await), "not_found");
    let member = By { account: None, role: Role::Manager };
    assert_eq!(code(domain_add(&town.identity, &tester(), member, town.acme, "b.com").await), "forbidden");

    // Looking up is throttled: nobody asks name servers through us as fast as they like.
    domain_add(&town.identity, &tester(), ADMIN, town.acme, "slow.com").await.unwrap();
    let mut codes = Vec::new();
    for _ in 0..12 {
        codes.push(code(town.verify(town.acme, "slow.com").await));
    }
    assert_eq!(codes.last(), Some(&"rate_limited"), "{codes:?}");

    // Given up, it is free for the other.
    domain_remove(&town.identity, &tester(), ADMIN, town.acme, "example.com").await.unwrap();
    town.verify(town.globex, "example.com").await.unwrap();
    let mut conn = town.world.db().acquire().await.unwrap();
    assert_eq!(domain_list(&mut conn, town.acme).await.unwrap().len(), 1);
}

#[tokio::test]
async fn who_joins_by_domain_has_its_verified_address() {
    let town = town().await;
    town.own(town.acme, "example.com").await;
    domain_add(&town.identity, &tester(), ADMIN, town.globex, "globex.com").await.unwrap();
    let ada = town.with_address("ada", "Ada@Example.com", true).await;
    assert_eq!(code(town.join(ada, town.acme).await), "not_found", "not before the workspace wants it");
    assert_eq!(code(town.open_to(town.globex, "globex.com", Some(Role::Viewer)).await), "state_conflict");
    assert_eq!(code(town.open_to(town.acme, "example.com", Some(Role::Admin)).await), "invalid_fields");
    // Named and not proven, whatever the row says.
    sqlx::query("UPDATE email_domain SET join_role = 'member' WHERE tenant = $1")
        .bind(town.globex)
        .execute(town.world.db())
        .await
        .unwrap();
    let hank = town.with_address("hank", "hank@globex.com", true).await;
    assert_eq!(code(town.join(hank, town.globex).await), "not_found", "not proven");

    town.open_to(town.acme, "example.com", Some(Role::Viewer)).await.unwrap();
    for (subject, email, verified) in [
        ("e1", "e1@example.com", false),
        ("e2", "e2@sub.example.com", true),
        ("e3", "e3@example.com.evil.io", true),
        ("e4", "e4@evilexample.com", true),
        ("e5", "example.com@evil.io", true),
    ] {
        let account = town.with_address(subject, email, verified).await;
        assert_eq!(code(town.join(account, town.acme).await), "not_found", "{email} {verified}");
    }
    assert_eq!(code(town.join(ada, town.globex).await), "not_found", "another workspace");
    let mut conn = town.world.db().acquire().await.unwrap();
    let open = joinable(&mut conn, ada).await.unwrap();
    assert_eq!(open.iter().map(|one| one.slug.as_str()).collect::<Vec<_>>(), ["acme"]);
    town.join(ada, town.acme).await.unwrap();
    let role: Role = sqlx::query_scalar("SELECT role FROM membership WHERE account = $1")
        .bind(ada)
        .fetch_one(&mut *conn)
        .await
        .unwrap();
    assert_eq!(role, Role::Viewer);
    assert_eq!(code(town.join(ada, town.acme).await), "not_found", "there already");

    town.open_to(town.acme, "example.com", None).await.unwrap();
    let grace = town.with_address("grace", "grace@example.com", true).await;
    assert_eq!(code(town.join(grace, town.acme).await), "not_found", "shut again");
}

#[tokio::test]
async fn its_own_sign_in_is_required_only_where_it_is_known_to_work() {
    let town = town().await;
    let (identity, acme) = (&town.identity, town.world.show("acme").await);
    let new = NewSso {
        issuer: "https://id.acme.example".to_owned(),
        client_id: "freehold".to_owned(),
        client_secret: "hush-hush".to_owned().into(),
        join_role: None,
    };
    sso_set(identity, &tester(), ADMIN, town.acme, &new).await.unwrap();
    let raw: String = sqlx::query_scalar("SELECT to_jsonb(s)::text FROM tenant_sso s")
        .fetch_one(town.world.db())
        .await
        .unwrap();
    assert!(!raw.contains("hush") && !raw.contains(&data_encoding::HEXLOWER.encode(b"hush-hush")), "sealed");
    assert_eq!(sso_secret(identity, town.acme).await.unwrap().expose_secret(), "hush-hush");
    assert_eq!(code(sso_secret(identity, town.globex).await), "not_found");
    // Moved to another workspace's row it does not open.
    sqlx::query("INSERT INTO tenant_sso SELECT $1, issuer, client_id, client_secret, false, NULL, now(), now() FROM tenant_sso")
        .bind(town.globex)
        .execute(town.world.db())
        .await
        .unwrap();
    assert_eq!(code(sso_secret(identity, town.globex).await), "internal");

    let boss = person(&town.world, "boss").await;
    seat(&town.world, &acme, boss, Role::Owner).await;
    let by = By { account: Some(boss), role: Role::Owner };
    let session = async |account: AccountId, method: &str| -> SessionId {
        let mut conn = town.world.db().acquire().await.unwrap();
        let at = town.world.hands.cp.clock.now();
        let proof = Proof { account, method: method.to_owned(), second_factor: false, at };
        session_start(&mut conn, &identity.cp.entropy, &proof, &Device::default()).await.unwrap().id
    };
    let enforce = async |by: By, session: SessionId, enforced: bool| {
        sso_enforce(identity, &tester(), (by, Some(session)), town.acme, enforced).await
    };
    let (google, ours) = (session(boss, "oidc:google").await, session(boss, &sso_method(town.acme)).await);
    assert_eq!(code(enforce(by, ours, true).await), "state_conflict", "no proven domain");
    town.own(town.acme, "example.com").await;
    assert_eq!(code(enforce(by, google, true).await), "state_conflict", "nobody knows that it works");
    let admin = By { role: Role::Admin, ..by };
    assert_eq!(code(enforce(admin, ours, true).await), "forbidden");

    // People who are here when it begins to be required: of the domain, and not of it.
    let (ada, gus) = (person(&town.world, "ada").await, town.with_address("gus", "gus@guest.io", true).await);
    for account in [ada, gus] {
        seat(&town.world, &acme, account, Role::Member).await;
        enter(&town.world, sign_in(&town.world, account).await.id, &acme).await;
    }
    enforce(by, ours, true).await.unwrap();
    let live: Vec<AccountId> = sqlx::query_scalar(
        "SELECT account FROM session WHERE kind = 'tenant' AND tenant = $1 AND revoked_at IS NULL",
    )
    .bind(town.acme)
    .fetch_all(town.world.db())
    .await
    .unwrap();
    assert_eq!(live, [gus], "whoever is of the domain and came another way is out");

    let mut conn = town.world.db().acquire().await.unwrap();
    for (account, method, wanted) in [
        (ada, sso_method(town.acme), "ok"),
        (ada, "oidc:google".to_owned(), "forbidden"),
        (ada, "password".to_owned(), "forbidden"),
        (ada, "sso".to_owned(), "forbidden"),
        (ada, sso_method(town.globex), "forbidden"),
        (gus, "oidc:google".to_owned(), "ok"),
    ] {
        assert_eq!(code(sso_allows(&mut conn, town.acme, account, &method).await), wanted, "{method}");
        // What a workspace's provider began opens that workspace only, also where nothing is required.
        let elsewhere = if method == sso_method(town.acme) { "forbidden" } else { "ok" };
        let got = code(sso_allows(&mut conn, town.globex, account, &method).await);
        assert_eq!(got, elsewhere, "{method} at another workspace");
    }
    let stray = sso_allows_session(&mut conn, town.acme, ada, google).await.unwrap_err();
    assert!(stray.is(&codes::SIGN_IN_REQUIRED), "another person's session: {stray:?}");
    let removed = domain_remove(identity, &tester(), ADMIN, town.acme, "example.com").await;
    assert_eq!(code(removed), "state_conflict", "the last domain stays while it is required");

    // Another provider has to be tried again first; no longer required, all ways are open.
    sso_set(identity, &tester(), ADMIN, town.acme, &new).await.unwrap();
    assert!(!sso_get(&mut conn, town.acme).await.unwrap().enforced);
    sso_allows(&mut conn, town.acme, ada, "oidc:google").await.unwrap();
}
