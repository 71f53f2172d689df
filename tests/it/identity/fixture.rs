//! People with seats and sessions, made through the services that sign-in uses.

use freehold::control_plane::tenants::{TenantDetail, TenantRef};
use freehold::data_plane::tenancy::cookie::{CSRF_HEADER, SESSION_COOKIE, csrf_proof};
use freehold::identity::Identity;
use freehold::identity::access_token::Audience;
use freehold::identity::accounts::{Vouched, account_enter};
use freehold::identity::device::Approver;
use freehold::identity::members::member_add;
use freehold::identity::sessions::{
    Asking, Device, Proof, Started, hand_off, hand_off_redeem, session_start,
};
use freehold::identity::settings::Settings;
use freehold::identity::sign_in::Providers;
use freehold::identity::tokens::Granted;
use freehold::kernel::credentials::{KeyKind, parse};
use freehold::kernel::ids::{AccountId, SessionId};
use freehold::kernel::{Entropy, Role};
use freehold::testkit::{TestApp, World, tester};
use reqwest::{Method, RequestBuilder};
use secrecy::ExposeSecret;

pub fn vouched(subject: &str) -> Vouched {
    Vouched {
        issuer: "https://id.example.com".to_owned(),
        subject: subject.to_owned(),
        provider: "example".to_owned(),
        name: Some(subject.to_owned()),
        email: Some(format!("{subject}@example.com")),
        email_verified: true,
    }
}

/// A person with an account.
pub async fn person(world: &World, name: &str) -> AccountId {
    let mut tx = world.db().begin().await.unwrap();
    let (account, _) = account_enter(&mut tx, &vouched(name), world.hands.cp.clock.now()).await.unwrap();
    tx.commit().await.unwrap();
    account
}

/// Gives a person a seat.
pub async fn seat(world: &World, tenant: &TenantDetail, account: AccountId, role: Role) {
    let mut tx = world.db().begin().await.unwrap();
    let now = world.hands.cp.clock.now();
    assert!(member_add(&mut tx, &tester(), tenant.tenant.id, account, role, None, now).await.unwrap());
    tx.commit().await.unwrap();
}

/// A browser at the sign-in host.
pub async fn sign_in(world: &World, account: AccountId) -> Started {
    let proof = Proof {
        account,
        method: "oidc:example".to_owned(),
        second_factor: false,
        at: world.hands.cp.clock.now(),
    };
    let mut tx = world.db().begin().await.unwrap();
    let started = session_start(&mut tx, &Entropy::default(), &proof, &device()).await.unwrap();
    tx.commit().await.unwrap();
    started
}

pub fn device() -> Device {
    Device { user_agent: "test".to_owned(), address: "127.0.0.1".to_owned() }
}

/// The same browser at a tenant's host.
pub async fn enter(world: &World, base: SessionId, tenant: &TenantDetail) -> Browser {
    let now = world.hands.cp.clock.now();
    let mut tx = world.db().begin().await.unwrap();
    let code =
        hand_off(&mut tx, &Entropy::default(), base, tenant.tenant.id, &[1; 32], "/", now).await.unwrap();
    let code = parse(KeyKind::HandOff, code.expose_secret()).unwrap();
    let (started, to) =
        hand_off_redeem(&mut tx, &Entropy::default(), &code, tenant.tenant.id, &[1; 32], &device(), now)
            .await
            .unwrap();
    assert_eq!(to, "/");
    tx.commit().await.unwrap();
    let token = started.token.expose_secret().to_owned();
    Browser { slug: tenant.tenant.slug.to_string(), token }
}

/// A browser that is signed in at one tenant's host.
pub struct Browser {
    pub slug: String,
    pub token: String,
}

impl Browser {
    /// A request as a page of the workspace would send it.
    pub fn ask(&self, app: &TestApp, method: Method, path: &str) -> RequestBuilder {
        self.bare(app, method, path)
            .header("origin", format!("http://{}.localhost", self.slug))
            .header(CSRF_HEADER, csrf_proof(&self.token))
    }

    /// The cookie alone.
    pub fn bare(&self, app: &TestApp, method: Method, path: &str) -> RequestBuilder {
        app.client
            .request(method, app.replicas[0].url(path))
            .header("host", format!("{}.localhost", self.slug))
            .header("cookie", format!("{SESSION_COOKIE}={}", self.token))
    }
}

/// The identity services over a world, as a server has them.
pub fn identity(world: &World) -> Identity {
    Identity::new(&world.hands.cp, &world.hands.master, Providers::default(), Settings::default())
}

/// A terminal that is signed in, by the code that it showed.
pub struct Terminal {
    pub session: SessionId,
    pub tokens: Granted,
}

/// Signs a terminal in from a browser.
pub async fn terminal(identity: &Identity, account: AccountId, base: SessionId) -> Terminal {
    let started = identity.device_start("a test").await.unwrap();
    let who = Approver { account, session: base };
    identity.device_answer(who, &started.user_code, true, None).await.unwrap();
    let code = started.device_code.expose_secret();
    let tokens = identity.device_poll(code, &Asking::default()).await.unwrap();
    let said = identity.keyring.verify(&tokens.access_token, Audience::Person).await.unwrap();
    Terminal { session: said.expect("a good token").session, tokens }
}

impl Terminal {
    /// An access token for a tenant. The refresh token is a new one afterwards.
    pub async fn token(&mut self, identity: &Identity, slug: &str) -> String {
        let tenant: TenantRef = slug.parse().unwrap();
        let refresh = self.tokens.refresh_token.expose_secret();
        self.tokens = identity.token_refresh(refresh, Some(&tenant), None).await.unwrap();
        self.tokens.access_token.clone()
    }
}
