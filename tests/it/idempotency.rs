//! A POST that is sent again.

use std::sync::Arc;

use axum::body::Body;
use freehold::kernel::Role;
use http::Request;
use sqlx::{Connection, PgConnection};

use super::edge::{Reply, Site};

const EFFECTS: &str = "/api/v1/effects";

fn post(host: &str, key: &str, idempotency: &str, body: &str) -> Request<Body> {
    Request::post(EFFECTS)
        .header("host", host)
        .header("authorization", format!("Bearer {key}"))
        .header("idempotency-key", idempotency)
        .body(Body::from(body.to_owned()))
        .unwrap()
}

async fn site() -> (Arc<Site>, String) {
    let site = Site::new().await;
    site.world.tenant("acme").await;
    let key = site.key("acme", Role::Owner).await;
    (Arc::new(site), key)
}

async fn effects(site: &Site, key: &str) -> i64 {
    site.get("acme.localhost", EFFECTS, key).await.json().as_i64().unwrap()
}

fn same_answer(first: &Reply, again: &Reply) {
    assert_eq!((first.status, &first.body), (again.status, &again.body));
    for name in ["location", "etag", "content-type"] {
        assert_eq!(first.header(name), again.header(name));
        assert_ne!(first.header(name), "");
    }
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(first.header("idempotency-replayed"), "");
}

#[tokio::test]
async fn the_same_request_gets_the_same_answer_and_another_a_conflict() {
    let (site, key) = site().await;
    let first = site.send(post("acme.localhost", &key, "a", "x")).await;
    assert_eq!(first.status, 201);
    let again = site.send(post("acme.localhost", &key, "a", "x")).await;
    same_answer(&first, &again);
    assert_eq!(effects(&site, &key).await, 1);

    let other = site.send(post("acme.localhost", &key, "a", "y")).await;
    assert_eq!(other.code(), (409, "idempotency_conflict".to_owned()));
    assert_eq!(site.send(post("acme.localhost", &key, "b", "x")).await.status, 201);
    assert_eq!(effects(&site, &key).await, 2);

    // Another caller's key of the same text is another key, in this tenant and in another.
    let second = site.key("acme", Role::Member).await;
    assert_eq!(site.send(post("acme.localhost", &second, "a", "y")).await.status, 201);
    site.world.tenant("globex").await;
    let foreign = site.key("globex", Role::Owner).await;
    let there = site.send(post("globex.localhost", &foreign, "a", "y")).await;
    assert_eq!((there.status.as_u16(), there.header("idempotency-replayed")), (201, ""));
}

/// Guard: the key's row is inserted before the work, in its transaction. Without it, both do the work.
#[tokio::test]
async fn two_at_once_do_it_once() {
    let (site, key) = site().await;
    let racers: Vec<_> = (0..8)
        .map(|_| {
            let (site, key) = (site.clone(), key.clone());
            tokio::spawn(async move { site.send(post("acme.localhost", &key, "race", "wait")).await })
        })
        .collect();
    let mut replies = Vec::new();
    for racer in racers {
        replies.push(racer.await.unwrap());
    }
    let (first, others): (Vec<_>, Vec<_>) =
        replies.into_iter().partition(|reply| reply.header("idempotency-replayed").is_empty());
    assert_eq!((first.len(), others.len()), (1, 7), "{first:#?}");
    for other in &others {
        same_answer(&first[0], other);
    }
    assert_eq!(effects(&site, &key).await, 1);
}

#[tokio::test]
async fn a_failed_attempt_keeps_nothing() {
    let (site, key) = site().await;
    let failed = site.send(post("acme.localhost", &key, "a", "fail")).await;
    assert_eq!(failed.code(), (422, "invalid_fields".to_owned()));
    assert_eq!(effects(&site, &key).await, 0);
    assert_eq!(site.send(post("acme.localhost", &key, "a", "now it works")).await.status, 201);
    let long = "k".repeat(201);
    for bad in ["", long.as_str()] {
        assert_eq!(site.send(post("acme.localhost", &key, bad, "x")).await.code().0, 422);
    }
    let big = "x".repeat(1024 * 1024 + 1);
    assert_eq!(site.send(post("acme.localhost", &key, "big", &big)).await.code().0, 413);
}

#[tokio::test]
async fn old_answers_are_forgotten() {
    let (site, key) = site().await;
    site.send(post("acme.localhost", &key, "old", "x")).await;
    site.send(post("acme.localhost", &key, "new", "x")).await;
    let tenant = site.world.show("acme").await;
    let mut conn = PgConnection::connect_with(&site.world.tenant_login(&tenant)).await.unwrap();
    let aged = "UPDATE idempotency SET created_at = now() - interval '25 hours' WHERE key = 'old'";
    assert_eq!(sqlx::query(aged).execute(&mut conn).await.unwrap().rows_affected(), 1);
    // The next answer that is kept takes the old one with it.
    site.send(post("acme.localhost", &key, "next", "x")).await;
    let left: Vec<String> =
        sqlx::query_scalar("SELECT key FROM idempotency ORDER BY key").fetch_all(&mut conn).await.unwrap();
    assert!(!left.contains(&"old".to_owned()) && left.contains(&"new".to_owned()), "{left:?}");
    let again = site.send(post("acme.localhost", &key, "new", "x")).await;
    assert_eq!(again.header("idempotency-replayed"), "true");
}
