//! Many facts in one go: the two statements that write them, writers at once, writers that are given up.

use std::time::Duration as StdDuration;

use chrono::{DateTime, Duration, DurationRound};
use freehold::billing::ledger::events::{Ready, record_ready};
use freehold::billing::ledger::{Fact, Recorded, books, record_many};
use futures_util::future::join_all;

use super::ledger::{EVENTS, KEYS, Scene};

/// Facts are written by one statement when all are new, and by another when some are known: both write what was said, to the
/// microsecond, with their keys.
///
/// Shown to fail: leave `quarantined` out of one of the two.
#[tokio::test]
async fn both_ways_of_writing_write_what_was_said() {
    let scene = Scene::new().await;
    let mut conn = scene.world.db().acquire().await.unwrap();
    let now = scene.now().duration_trunc(Duration::microseconds(1)).unwrap();
    let old = DateTime::from_timestamp_micros(-1).unwrap();
    let said = |way: &str| {
        [
            ("plain".to_owned(), 0, now),
            ("\t\\N\n\"ünïcode\" 🦀 ".to_owned(), -7, now + Duration::microseconds(1)),
            ("ß".repeat(190), i64::MAX, now + Duration::days(400)),
            ("1969".to_owned(), i64::MIN, old),
            ("1999".to_owned(), 1, DateTime::from_timestamp_micros(946_684_799_999_999).unwrap()),
        ]
        .map(|(key, quantity, at)| Fact {
            received_at: now,
            ..scene.fact(&format!("{way}:{key}"), quantity, at)
        })
    };
    let new = said("new");
    let mut inserted = said("insert").to_vec();
    let first = record_many(&mut conn, &new).await.unwrap();
    inserted.push(new[0].clone());
    let second = record_many(&mut conn, &inserted).await.unwrap();
    assert!(matches!((first[0], second[5]), (Recorded::New(new), Recorded::Same(same)) if new == same));
    for (fact, recorded) in new.iter().zip(&first).chain(inserted[..5].iter().zip(&second)) {
        let Recorded::New(id) = recorded else { panic!("{recorded:?}") };
        let line = books::fact_by_id(&mut conn, *id).await.unwrap().unwrap();
        assert_eq!(
            (
                line.tenant,
                &*line.meter,
                &*line.source,
                line.key,
                line.quantity,
                line.occurred_at,
                line.received_at
            ),
            (
                fact.tenant,
                &*fact.meter,
                &*fact.source,
                fact.key.clone(),
                fact.quantity,
                fact.occurred_at,
                now
            )
        );
        let aside = (fact.occurred_at - now).abs() > Duration::days(1);
        assert_eq!((line.quarantined.is_some(), line.batch), (aside, None), "{fact:?}");
    }
    let keyed = "SELECT count(*) FROM usage_event e JOIN usage_fact_key k USING (tenant, source, key)
                  WHERE k.event = e.id AND k.month = date_trunc('month', e.occurred_at AT TIME ZONE 'UTC')";
    let counts = (scene.count(EVENTS).await, scene.count(KEYS).await, scene.count(keyed).await);
    assert_eq!(counts, (10, 10, 10));
}

/// Two write the same facts in opposite orders: one waits for the other, and neither is refused.
///
/// Shown to fail: write the keys in the order in which the facts are given (deadlocks).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_facts_from_both_ends_at_once() {
    let scene = Scene::new().await;
    let db = scene.world.db();
    let (mut one, mut other) = (db.acquire().await.unwrap(), db.acquire().await.unwrap());
    for round in 0..10 {
        let facts: Vec<Fact> =
            (0..1_000).map(|n| scene.fact(&format!("{round}:{n}"), 1, scene.now())).collect();
        let backwards: Vec<Fact> = facts.iter().rev().cloned().collect();
        // All that takes time before the statements is done before.
        let (ready, ready_backwards) = (Ready::of(&facts).unwrap(), Ready::of(&backwards).unwrap());
        let (a, b) = tokio::join!(
            record_ready(&mut one, &facts, &ready),
            record_ready(&mut other, &backwards, &ready_backwards)
        );
        let said = [a.unwrap(), b.unwrap()].concat();
        assert_eq!(said.iter().filter(|said| matches!(said, Recorded::New(_))).count(), 1_000);
    }
    assert_eq!((scene.count(EVENTS).await, scene.count(KEYS).await), (10_000, 10_000));
}

/// Whoever writes may be given up at any moment: all of it is there or nothing, and no connection is lost by it.
///
/// Shown to fail: write keys and facts by two statements outside of a transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_is_given_up_leaves_nothing_half_done() {
    let scene = Scene::new().await;
    let db = scene.world.db();
    for round in 0..40 {
        let facts: Vec<Fact> =
            (0..500).map(|n| scene.fact(&format!("{round}:{n}"), 1, scene.now())).collect();
        let limit = StdDuration::from_micros(250 * round);
        let write = async { record_many(&mut db.acquire().await.unwrap(), &facts).await.unwrap().len() };
        tokio::time::timeout(limit, write).await.ok();
    }
    // Every connection that the pool may have.
    let all = join_all((0..db.options().get_max_connections()).map(|_| db.acquire()));
    let mut all = tokio::time::timeout(StdDuration::from_secs(60), all).await.expect("none is stuck");
    for conn in &mut all {
        let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(&mut **conn.as_mut().unwrap()).await.unwrap();
        assert_eq!(one, 1);
    }
    drop(all);
    let (events, keys) = (scene.count(EVENTS).await, scene.count(KEYS).await);
    assert_eq!((events % 500, events), (0, keys));
}
