//! Sessions end, logins are refused, servers stop and freeze: what the next request sees, and how soon.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use freehold::data_plane::broker::{BrokerConfig, Failure};
use freehold::kernel::{Error, codes};
use freehold::testkit::eventually;
use sqlx::PgConnection;
use tokio::task::JoinSet;

use super::fixture::{DEADLINE, Shard, is_refused, patient, pid, read, read_own, write_pair};

/// Opens `count` connections of the first tenant at once.
async fn warm_up(shard: &Arc<Shard>, count: usize) {
    let barrier = Arc::new(tokio::sync::Barrier::new(count));
    let mut tasks = JoinSet::new();
    for _ in 0..count {
        let (shard, barrier) = (shard.clone(), barrier.clone());
        tasks.spawn(async move {
            let together = async |pg: &mut PgConnection| {
                barrier.wait().await;
                pid(pg).await
            };
            read(&shard.broker, &shard.logins[0], together).await.expect("served")
        });
    }
    tasks.join_all().await;
    shard.settles("all idle", |s| s.idle == count).await;
}

#[tokio::test]
async fn sessions_ended_behind_our_back_are_not_noticed_by_the_next_request() {
    let shard = Arc::new(Shard::start(1, 3, patient(4)).await);
    let login = &shard.logins[0];
    warm_up(&shard, 3).await;
    shard.end_sessions().await;
    for _ in 0..3 {
        read_own(&shard.broker, login).await.expect("a read finds a fresh connection");
    }
    warm_up(&shard, 3).await;
    shard.end_sessions().await;
    for _ in 0..3 {
        write_pair(&shard.broker, login).await.expect("a write finds a fresh connection");
    }
    shard.is_left_clean().await;
}

/// The work must not run twice when it may have had an effect.
#[tokio::test]
async fn a_write_whose_connection_dies_is_not_repeated() {
    let shard = Shard::start(1, 2, patient(2)).await;
    let runs = Cell::new(0);
    let suicide = async |pg: &mut PgConnection| {
        runs.set(runs.get() + 1);
        sqlx::query("SELECT pg_terminate_backend(pg_backend_pid())").execute(pg).await?;
        Ok(())
    };
    let error =
        shard.broker.write(&shard.logins[0], suicide).await.map_err(Error::from).expect_err("it died");
    assert!(error.is(&codes::SHARD_UNAVAILABLE), "{error:?}");
    assert_eq!(runs.get(), 1);

    // A read may be repeated, once.
    let error = read(&shard.broker, &shard.logins[0], suicide).await.expect_err("it died twice");
    assert!(error.is(&codes::SHARD_UNAVAILABLE), "{error:?}");
    assert_eq!(runs.get(), 3);
    shard.is_left_clean().await;
}

/// Guard: PostgreSQL's own fence (NOLOGIN and the end of the sessions), reported as such, with the work unspent.
#[tokio::test]
async fn a_login_that_may_not_come_in_is_refused_and_the_work_comes_back() {
    let shard = Shard::start(1, 2, patient(2)).await;
    let login = &shard.logins[0];
    read_own(&shard.broker, login).await.expect("served");
    shard.execute(format!("ALTER ROLE {} NOLOGIN", login.role)).await;
    shard.end_sessions().await;

    assert!(is_refused(&shard.broker.read(login, pid).await));
    let write = async |pg: &mut PgConnection| pid(pg).await;
    let Err(Failure::Refused { work, error }) = shard.broker.write(login, write).await else {
        panic!("the fence did not hold")
    };
    assert!(error.is(&codes::SHARD_UNAVAILABLE));
    assert!(!shard.stats().breaker_open, "a refusal is an answer");

    shard.execute(format!("ALTER ROLE {} LOGIN", login.role)).await;
    shard.broker.write(login, work).await.map_err(Error::from).expect("the same work, after another look");
    shard.is_left_clean().await;
}

#[tokio::test]
async fn the_roles_own_connection_limit_means_the_tenant_is_busy() {
    let shard = Arc::new(Shard::start(1, 2, patient(2)).await);
    shard.execute(format!("ALTER ROLE {} CONNECTION LIMIT 1", shard.logins[0].role)).await;
    let inner = shard.clone();
    let nested = async |_: &mut PgConnection| {
        let error = read_own(&inner.broker, &inner.logins[0]).await.expect_err("beyond the limit");
        assert!(error.is(&codes::TENANT_BUSY), "{error:?}");
        Ok(())
    };
    read(&shard.broker, &shard.logins[0], nested).await.expect("served");
    shard.is_left_clean().await;
}

/// A stopped server, then a frozen one (connections open, no answer): an error within a second each time, also for
/// what is already running, and service again soon after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_does_not_answer_is_said_to_be_unavailable_within_a_second() {
    let (shard, server) = Shard::alone(4, BrokerConfig::default()).await;
    let shard = Arc::new(shard);
    let [warm, cold] = [0, 1].map(|n| shard.logins[n].clone());
    read_own(&shard.broker, &warm).await.expect("served");

    server.stop().await.expect("stopped");
    for login in [&warm, &cold, &warm, &cold, &cold] {
        fails_in_time(&shard, login).await;
    }
    assert!(shard.stats().breaker_open, "{:?}", shard.stats());
    server.start_again().await.expect("started");
    recovers(&shard).await;

    server.pause().await;
    for login in [&warm, &cold, &warm] {
        fails_in_time(&shard, login).await;
    }
    server.resume().await;
    recovers(&shard).await;

    // In the middle of a statement.
    let running = tokio::spawn({
        let (shard, login) = (shard.clone(), warm.clone());
        async move {
            let slow = async |pg: &mut PgConnection| {
                sqlx::query("SELECT pg_sleep(30)").execute(pg).await?;
                Ok(())
            };
            read(&shard.broker, &login, slow).await
        }
    });
    let mut admin = shard.admin().await;
    eventually(DEADLINE, "the statement runs", async || {
        match shard.sessions(&mut admin, "state = 'active'").await {
            1 => Ok(()),
            n => Err(format!("{n} active")),
        }
    })
    .await;
    server.pause().await;
    let paused = Instant::now();
    let error = running.await.expect("no panic").expect_err("the server is frozen");
    assert!(error.is(&codes::SHARD_UNAVAILABLE), "{error:?}");
    assert!(paused.elapsed() < Duration::from_millis(1_500), "noticed after {:?}", paused.elapsed());
    server.resume().await;
    recovers(&shard).await;
}

async fn fails_in_time(shard: &Shard, login: &freehold::data_plane::broker::Login) {
    let started = Instant::now();
    let error = read_own(&shard.broker, login).await.expect_err("nobody answers");
    assert!(error.is(&codes::SHARD_UNAVAILABLE), "{error:?}");
    assert_eq!(error.retry_after_secs(), Some(1));
    assert!(started.elapsed() < Duration::from_secs(1), "after {:?}", started.elapsed());
}

async fn recovers(shard: &Shard) {
    eventually(DEADLINE, "the shard serves again", async || {
        for login in &shard.logins {
            read_own(&shard.broker, login).await.map_err(|error| format!("{error:?}"))?;
        }
        Ok::<_, String>(())
    })
    .await;
}
