//! Signing keys: made once, published before they sign, retired after all they signed has expired.

use std::time::Duration;

use chrono::TimeDelta;
use freehold::identity::access_token::Audience;
use freehold::identity::signing::{
    Phase, signing_key_ensure, signing_key_list, signing_key_rotate, signing_key_tend,
};
use freehold::kernel::{Role, codes};
use freehold::product::{Current, Product};
use freehold::testkit::{AppOptions, TestApp, World, eventually, tester};
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::Value;

use super::fixture::{identity, person, seat, sign_in, terminal};

async fn phases(world: &World) -> Vec<(String, Phase)> {
    let mut conn = world.db().acquire().await.unwrap();
    let keys = signing_key_list(&mut conn, world.hands.cp.clock.now()).await.unwrap();
    keys.into_iter().map(|key| (key.kid, key.phase)).collect()
}

fn kid_of(token: &str) -> String {
    freehold::identity::access_token::kid_of(token).unwrap()
}

/// Shown to fail: without the lock in `signing_key_ensure` each of the servers makes a key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_start_together_make_one_key() {
    let world = World::new(Current::migrations()).await;
    let (cp, master) = (&world.hands.cp, &world.hands.master);
    // Reading goes on, writing waits: whoever reads first and writes then would find nothing and write all the same.
    let mut gate = world.db().begin().await.unwrap();
    sqlx::query("LOCK TABLE signing_key IN SHARE MODE").execute(&mut *gate).await.unwrap();
    let servers = join_all([(), ()].map(|()| signing_key_ensure(cp, master)));
    let open = async {
        let waiting =
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'signing_key'::regclass";
        eventually(Duration::from_secs(10), "both servers wait", async || {
            let count: i64 = sqlx::query_scalar(waiting).fetch_one(&mut *gate).await.unwrap();
            if count == 2 { Ok(()) } else { Err(count) }
        })
        .await;
        gate.commit().await.unwrap();
    };
    let (made, ()) = tokio::join!(servers, open);
    assert!(made.iter().all(Result::is_ok), "{made:?}");
    assert_eq!(phases(&world).await.len(), 1);
}

/// The whole life of a key, as servers and readers of the published set see it. Shown to fail: `signs_from` in the choice
/// of the signer; RETIRES_AFTER of zero.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_published_signs_and_goes() {
    let app = TestApp::start::<Current>(AppOptions::of::<Current>()).await;
    let (world, cp) = (&app.world, &app.world.hands.cp);
    let identity_of = || identity(world);
    let acme = world.tenant("acme").await;
    let ada = person(world, "ada").await;
    seat(world, &acme, ada, Role::Owner).await;
    let here = identity_of();
    let mut laptop = terminal(&here, ada, sign_in(world, ada).await.id).await;
    let old = laptop.token(&here, "acme").await;
    let first = kid_of(&old);

    let answer = app
        .client
        .get(app.replicas[0].url("/.well-known/jwks.json"))
        .header("host", "localhost")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.headers()["cache-control"], "public, max-age=300");
    let set: Value = answer.json().await.unwrap();
    let keys = set["keys"].as_array().unwrap();
    assert_eq!((keys.len(), &keys[0]["kid"], &keys[0]["crv"]), (1, &first.clone().into(), &"Ed25519".into()));
    assert!(keys[0]["d"].is_null(), "the private half stays here");
    let mut conn = world.db().acquire().await.unwrap();
    let sealed: Vec<u8> =
        sqlx::query_scalar("SELECT private_key FROM signing_key").fetch_one(&mut *conn).await.unwrap();
    let plain = here.keyring.signer().await.unwrap();
    assert!(!sealed.windows(16).any(|part| plain.key.as_bytes().windows(16).any(|secret| secret == part)));

    let next = signing_key_rotate(cp, &world.hands.master, &tester(), false).await.unwrap();
    assert_eq!(next.phase, Phase::Published);
    let twice = signing_key_rotate(cp, &world.hands.master, &tester(), false).await.unwrap_err();
    assert!(twice.is(&codes::STATE_CONFLICT));
    let there = identity_of();
    assert_eq!(there.keyring.published().await.unwrap().len(), 2, "published at once");
    assert_eq!(there.keyring.signer().await.unwrap().kid, first, "but it does not sign yet");
    cp.clock.advance(TimeDelta::minutes(16));
    assert_eq!(there.keyring.signer().await.unwrap().kid, next.kid);
    // A server that learned of the key before it signed is never surprised by it.
    let mut phone = terminal(&there, ada, sign_in(world, ada).await.id).await;
    let new = phone.token(&there, "acme").await;
    assert_eq!(kid_of(&new), next.kid);
    signing_key_tend(cp, &world.hands.master).await.unwrap();
    assert_eq!(phases(world).await, [(next.kid.clone(), Phase::Signing), (first.clone(), Phase::Verifying)]);
    // This server looked a moment ago, before the clock was moved; it may look again after five seconds.
    eventually(Duration::from_secs(20), "the new key is known", async || {
        match app.send(app.request(Method::GET, "acme", &new, "/api/v1/me")).await.0 {
            200 => Ok(()),
            status => Err(status),
        }
    })
    .await;
    assert_eq!(app.send(app.request(Method::GET, "acme", &old, "/api/v1/me")).await.0, 401, "expired");
    cp.clock.advance(TimeDelta::minutes(20));
    signing_key_tend(cp, &world.hands.master).await.unwrap();
    assert_eq!(phases(world).await, [(next.kid.clone(), Phase::Signing), (first, Phase::Retired)]);
    cp.clock.advance(TimeDelta::days(30));
    signing_key_tend(cp, &world.hands.master).await.unwrap();
    signing_key_tend(cp, &world.hands.master).await.unwrap();
    let after = phases(world).await;
    assert_eq!((after.len(), after[0].1, after[1].1), (3, Phase::Published, Phase::Signing), "one next key");
}

/// A key leaked: everything that it signed is refused, though it has not expired. Shown to fail: without
/// `knows` in `Tokens::believed` a token that was seen before goes on; without the retirement in `signing_key_rotate` all do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leaked_key_is_dead_within_a_minute() {
    let app = TestApp::start::<Current>(AppOptions { replicas: 2, ..AppOptions::of::<Current>() }).await;
    let world = &app.world;
    let here = identity(world);
    let acme = world.tenant("acme").await;
    let ada = person(world, "ada").await;
    seat(world, &acme, ada, Role::Owner).await;
    let mut laptop = terminal(&here, ada, sign_in(world, ada).await.id).await;
    let old = laptop.token(&here, "acme").await;
    let status = async |replica, token: &str| {
        app.send(app.on(replica, Method::GET, "acme", token, "/api/v1/me")).await.0
    };
    for replica in 0..2 {
        assert_eq!(status(replica, &old).await, 200);
    }
    let next = signing_key_rotate(&world.hands.cp, &world.hands.master, &tester(), true).await.unwrap();
    assert_eq!(next.phase, Phase::Signing);
    let there = identity(world);
    assert!(there.keyring.verify(&old, Audience::Tenant).await.unwrap().is_none());
    let new = laptop.token(&there, "acme").await;
    for replica in 0..2 {
        eventually(Duration::from_secs(60), "the new key is known and the old one is not", async || {
            match (status(replica, &new).await, status(replica, &old).await) {
                (200, 401) => Ok(()),
                seen => Err(format!("{seen:?}")),
            }
        })
        .await;
    }
}
