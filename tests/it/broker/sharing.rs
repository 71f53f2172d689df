//! Many tenants, few connections: everyone is served, in order, from the tenant's own connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use freehold::data_plane::broker::BrokerConfig;
use freehold::kernel::codes;
use parking_lot::Mutex;
use sqlx::PgConnection;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::fixture::{DEADLINE, Shard, patient, pid, read, read_own};

/// Guard: a connection is only ever found under its own tenant's role. With one entry for all tenants in the ledger
/// this fails at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_tenants_share_six_connections_and_see_only_their_own_rows() {
    const BUDGET: usize = 6;
    let shard = Arc::new(Shard::start(30, 4, patient(BUDGET)).await);
    let done = Arc::new(AtomicBool::new(false));
    let admin = shard.admin().await;
    let sampler = tokio::spawn(watch_sessions(shard.clone(), admin, BUDGET as i64, done.clone()));

    let mut tasks = JoinSet::new();
    for login in shard.logins.clone() {
        for _ in 0..8 {
            let (shard, login) = (shard.clone(), login.clone());
            tasks.spawn(async move {
                for _ in 0..10 {
                    read_own(&shard.broker, &login).await.expect("served in time");
                }
            });
        }
    }
    tasks.join_all().await;
    done.store(true, Ordering::Relaxed);
    let (samples, longest_excess) = sampler.await.expect("the sampler ends");

    let stats = shard.stats();
    assert!(samples > 10, "only {samples} samples");
    assert!(stats.most_open <= BUDGET, "{stats:?}");
    assert!(
        longest_excess < Duration::from_millis(250),
        "more sessions than the budget for {longest_excess:?}: longer than a closed one takes to end"
    );
    assert!(
        stats.logins < 30 * 8 * 10 / 2,
        "a login serves several requests of its tenant, even with 30 tenants on 6 connections: {stats:?}"
    );
    shard.is_left_clean().await;
}

/// Looks at the server's sessions all the time: how often, and for how long at most there were more than `budget`.
async fn watch_sessions(
    shard: Arc<Shard>,
    mut admin: PgConnection,
    budget: i64,
    done: Arc<AtomicBool>,
) -> (usize, Duration) {
    let (mut samples, mut longest, mut since) = (0, Duration::ZERO, None);
    while !done.load(Ordering::Relaxed) {
        samples += 1;
        if shard.sessions(&mut admin, "true").await <= budget {
            since = None;
        } else {
            longest = longest.max(since.get_or_insert_with(Instant::now).elapsed());
        }
    }
    (samples, longest)
}

/// A tenant with far more requests than it may run at a time, and statements that take a while; its neighbours are
/// served all along. First with a ceiling below the budget, then with none that helps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_noisy_tenant_cannot_starve_the_others() {
    for noisy_ceiling in [3, 64] {
        let shard = Arc::new(Shard::start(5, 4, patient(6)).await);
        let noisy = freehold::data_plane::broker::Login { ceiling: noisy_ceiling, ..shard.logins[0].clone() };
        let stop = Arc::new(AtomicBool::new(false));
        let mut crowd = JoinSet::new();
        for _ in 0..40 {
            let (shard, noisy, stop) = (shard.clone(), noisy.clone(), stop.clone());
            crowd.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let slow = async |pg: &mut PgConnection| {
                        sqlx::query("SELECT pg_sleep(0.02)").execute(pg).await?;
                        Ok(())
                    };
                    read(&shard.broker, &noisy, slow).await.expect("patient");
                }
            });
        }
        shard.settles("the noisy tenant is at its limit", |s| s.waiting >= 30).await;

        let mut quiet = JoinSet::new();
        for login in &shard.logins[1..] {
            let (shard, login) = (shard.clone(), login.clone());
            quiet.spawn(async move {
                let mut worst = Duration::ZERO;
                for _ in 0..50 {
                    let started = Instant::now();
                    read_own(&shard.broker, &login).await.expect("a neighbour is served");
                    worst = worst.max(started.elapsed());
                }
                worst
            });
        }
        let worst = quiet.join_all().await.into_iter().max().expect("four neighbours");
        stop.store(true, Ordering::Relaxed);
        crowd.join_all().await;
        // One statement of the noisy tenant (20 ms), a login, and much room for a busy machine; without the rules it is
        // the whole queue (40 × 20 ms / 6) each time.
        assert!(worst < Duration::from_millis(500), "a neighbour waited {worst:?} (ceiling {noisy_ceiling})");
        shard.is_left_clean().await;
    }
}

#[tokio::test]
async fn within_a_tenant_first_come_is_first_served() {
    let shard = Arc::new(Shard::start(1, 1, patient(4)).await);
    let (gate, order) = (Arc::new(Semaphore::new(0)), Arc::new(Mutex::new(Vec::new())));
    let mut tasks = JoinSet::new();
    for number in 0..20 {
        let (task_shard, gate, order) = (shard.clone(), gate.clone(), order.clone());
        tasks.spawn(async move {
            let work = async |pg: &mut PgConnection| {
                gate.acquire().await.expect("open").forget();
                order.lock().push(number);
                pid(pg).await
            };
            read(&task_shard.broker, &task_shard.logins[0], work).await.expect("served")
        });
        shard.settles("it runs or waits", |s| s.waiting == number && s.open == 1).await;
    }
    gate.add_permits(20);
    let pids = tasks.join_all().await;
    assert_eq!(*order.lock(), (0..20).collect::<Vec<_>>());
    assert!(pids.windows(2).all(|pair| pair[0] == pair[1]), "one connection served them all");
    shard.is_left_clean().await;
}

/// 429 when the tenant uses up its own share, 503 when the others use up the shard; both in bounded time.
#[tokio::test]
async fn waiting_is_bounded_and_the_code_says_whose_fault_it_is() {
    let wait = Duration::from_millis(100);
    let config = BrokerConfig { gate_timeout: wait, budget_timeout: wait, ..patient(2) };
    let shard = Arc::new(Shard::start(3, 1, config).await);
    let (held, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let mut holders = JoinSet::new();
    for login in &shard.logins[..2] {
        let (shard, login, held, gate) = (shard.clone(), login.clone(), held.clone(), gate.clone());
        holders.spawn(async move {
            let hold = async |_: &mut PgConnection| {
                held.fetch_add(1, Ordering::SeqCst);
                gate.acquire().await.expect("open").forget();
                Ok(())
            };
            read(&shard.broker, &login, hold).await.expect("served")
        });
    }
    shard.settles("both are held", |_| held.load(Ordering::SeqCst) == 2).await;
    for (login, code) in [(&shard.logins[0], &codes::TENANT_BUSY), (&shard.logins[2], &codes::SHARD_BUSY)] {
        let started = Instant::now();
        let error = read_own(&shard.broker, login).await.expect_err("nothing is free");
        assert!(error.is(code), "{error:?}");
        assert_eq!(error.retry_after_secs(), Some(1));
        assert!(started.elapsed() < DEADLINE / 4);
    }
    gate.add_permits(2);
    holders.join_all().await;
    read_own(&shard.broker, &shard.logins[2]).await.expect("a freed connection");
    shard.is_left_clean().await;
}

#[tokio::test]
async fn nothing_is_kept_for_an_idle_tenant() {
    let config = BrokerConfig { idle_close: Duration::from_millis(50), ..patient(4) };
    let shard = Shard::start(3, 2, config).await;
    for login in &shard.logins {
        read_own(&shard.broker, login).await.expect("served");
    }
    shard.settles("idle connections are closed", |s| s.open == 0 && s.tenants == 0 && s.free == 4).await;
    read_own(&shard.broker, &shard.logins[0]).await.expect("served again");
    shard.is_left_clean().await;
}

/// The closures must be usable where the futures have to be `Send`: spawned, and in an axum handler.
#[tokio::test]
async fn futures_are_send() {
    let shard = Arc::new(Shard::start(1, 2, patient(2)).await);
    let state = shard.clone();
    let handler = move |path: axum::extract::Path<i32>| {
        let shard = state.clone();
        async move {
            let bound = path.0.to_string();
            let echo = async |pg: &mut PgConnection| {
                Ok(sqlx::query_scalar::<_, String>("SELECT $1::text").bind(&bound).fetch_one(pg).await?)
            };
            let read = shard.broker.read(&shard.logins[0], echo).await.map_err(freehold::kernel::Error::from);
            let written =
                shard.broker.write(&shard.logins[0], echo).await.map_err(freehold::kernel::Error::from);
            format!("{}{}", read.unwrap_or_default(), written.unwrap_or_default())
        }
    };
    let _routes: axum::Router = axum::Router::new().route("/{id}", axum::routing::get(handler.clone()));
    let said = tokio::spawn(handler(axum::extract::Path(4))).await.expect("no panic");
    assert_eq!(said, "44");
    shard.is_left_clean().await;
}
