//! However a request ends, its connection comes back clean or not at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use freehold::data_plane::broker::Login;
use freehold::kernel::{Error, Result, codes};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::task::JoinSet;

use super::fixture::{Shard, is_refused, patient, pid, read, read_own, write_pair};

/// A small generator, so that a failure can be repeated from the seed it prints.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Guard: the rollback of a connection whose request was dropped. Without it (a dropped guard gives the connection
/// back as it is) sessions stay in their transactions and halves of pairs are committed by the next request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_dropped_at_any_moment_leave_nothing_behind() {
    let seed = u64::from(std::process::id()) | 1 << 40;
    println!("seed {seed}");
    // Room for all: a connection lives on, and the next request would inherit what was left on it.
    drop_requests(seed, 24, Duration::from_millis(4)).await;
    // Far too little room: the drops hit waiting, evicting and logging in as well.
    drop_requests(seed, 4, Duration::from_millis(60)).await;
}

async fn drop_requests(seed: u64, budget: usize, longest_life: Duration) {
    // A short life that only ever hits logins proves nothing: some requests must live.
    const DROPS: usize = 1_500;
    const SERVED: usize = 400;
    let shard = Arc::new(Shard::start(8, 3, patient(budget)).await);
    let (dropped, served) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    for login in &shard.logins {
        read_own(&shard.broker, login).await.expect("served");
    }
    let mut tasks = JoinSet::new();
    for number in 0..16 {
        let (shard, dropped, served) = (shard.clone(), dropped.clone(), served.clone());
        let mut random = Random(seed.wrapping_mul(number * 2 + 1));
        tasks.spawn(async move {
            while dropped.load(Ordering::Relaxed) < DROPS || served.load(Ordering::Relaxed) < SERVED {
                let login = &shard.logins[random.below(8) as usize];
                // On a machine so busy that hardly one is served in time, lives grow longer until enough are.
                let patience = 1 + dropped.load(Ordering::Relaxed) / DROPS;
                let life = random.below(longest_life.as_micros() as u64 * patience as u64);
                let life = Duration::from_micros(life);
                let request = async {
                    match random.below(3) {
                        0 => write_pair(&shard.broker, login).await,
                        1 => read(&shard.broker, login, half_open).await.or(Ok(())),
                        _ => read_own(&shard.broker, login).await,
                    }
                };
                match tokio::time::timeout(life, request).await {
                    Ok(done) => {
                        done.expect("served");
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(_) => drop(dropped.fetch_add(1, Ordering::Relaxed)),
                }
            }
        });
    }
    tasks.join_all().await;
    shard.settles("all seats come back", |s| s.waiting == 0 && s.free + s.idle == budget).await;
    assert_eq!(
        shard.sessions(&mut shard.admin().await, "state <> 'idle'").await,
        0,
        "a transaction stays open"
    );

    for login in &shard.logins {
        read_own(&shard.broker, login).await.expect("still served");
        let role = &login.role;
        let sql = format!(
            "SELECT count(*) FILTER (WHERE tenant <> '{role}'), count(*) FILTER (WHERE half = 1), count(*) FILTER (WHERE half = 2)
             FROM {role}.note"
        );
        let (foreign, first, second): (i64, i64, i64) =
            sqlx::query_as(AssertSqlSafe(sql)).fetch_one(&mut shard.admin().await).await.expect("counts");
        assert_eq!((foreign, first), (0, second), "foreign rows, halves of pairs (seed {seed})");
    }
    shard.is_left_clean().await;
}

/// Badly behaved work: leaves a transaction open that sqlx knows nothing of, and fails.
async fn half_open(pg: &mut PgConnection) -> Result<()> {
    sqlx::raw_sql("BEGIN; INSERT INTO note (tenant, half) VALUES (current_user, 1)").execute(pg).await?;
    Err(Error::new(&codes::CONFLICT))
}

/// Guard: the release step after an error.
#[tokio::test]
async fn work_that_fails_inside_its_own_transaction_is_rolled_back() {
    let shard = Shard::start(1, 1, patient(1)).await;
    let login = &shard.logins[0];
    let before = read(&shard.broker, login, pid).await.expect("served");
    let error = read(&shard.broker, login, half_open).await.expect_err("it fails");
    assert!(error.is(&codes::CONFLICT));
    let notes = async |pg: &mut PgConnection| {
        Ok((
            sqlx::query_scalar::<_, i64>("SELECT count(*) FROM note").fetch_one(&mut *pg).await?,
            pid(pg).await?,
        ))
    };
    assert_eq!(
        read(&shard.broker, login, notes).await.expect("served"),
        (0, before),
        "the same connection, clean"
    );
    shard.is_left_clean().await;
}

#[tokio::test]
async fn a_transaction_is_committed_on_ok_and_rolled_back_on_error() {
    let shard = Shard::start(1, 2, patient(2)).await;
    let login = &shard.logins[0];
    write_pair(&shard.broker, login).await.expect("written");
    let failing = async |pg: &mut PgConnection| {
        sqlx::query("INSERT INTO note (tenant, half) VALUES (current_user, 1)").execute(&mut *pg).await?;
        Err::<(), _>(Error::new(&codes::CONFLICT))
    };
    let error = shard.broker.write(login, failing).await.map_err(Error::from).expect_err("it fails");
    assert!(error.is(&codes::CONFLICT));
    let count = async |pg: &mut PgConnection| {
        Ok(sqlx::query_scalar::<_, i64>("SELECT count(*) FROM note").fetch_one(pg).await?)
    };
    assert_eq!(read(&shard.broker, login, count).await.expect("served"), 2);
    shard.is_left_clean().await;
}

/// A write whose statement failed is not kept, whatever the work says of it; one that went back to a savepoint is. Guard:
/// `WHOLE`. Without it the answer is a success, and nothing is kept.
#[tokio::test]
async fn a_failure_that_the_work_hides_is_not_answered_as_done() {
    let shard = Shard::start(1, 2, patient(2)).await;
    let login = &shard.logins[0];
    let hiding = async |pg: &mut PgConnection| {
        sqlx::query("INSERT INTO note (tenant, half) VALUES (current_user, 1)").execute(&mut *pg).await?;
        let _ = sqlx::query("INSERT INTO note (tenant, half) VALUES (current_user, 1 / 0)").execute(pg).await;
        Ok(())
    };
    let error = shard.broker.write(login, hiding).await.map_err(Error::from).expect_err("it is not kept");
    assert!(error.is(&codes::INTERNAL), "{error:?}");
    let ending = async |pg: &mut PgConnection| {
        sqlx::raw_sql("ROLLBACK").execute(pg).await?;
        Ok(())
    };
    let error = shard.broker.write(login, ending).await.map_err(Error::from).expect_err("it is not kept");
    assert!(error.is(&codes::INTERNAL), "{error:?}");

    // Going back to a savepoint, said or by dropping it, is no failure.
    let careful = async |pg: &mut PgConnection| {
        for said in [true, false] {
            sqlx::query("INSERT INTO note (tenant, half) VALUES (current_user, 2)").execute(&mut *pg).await?;
            let mut part = pg.begin().await?;
            let failed = sqlx::query("INSERT INTO note (tenant, half) VALUES (current_user, 1 / 0)");
            failed.execute(&mut *part).await.expect_err("a division by nothing");
            if said {
                part.rollback().await?;
            }
        }
        Ok(())
    };
    shard.broker.write(login, careful).await.map_err(Error::from).expect("written");
    let notes = async |pg: &mut PgConnection| {
        Ok(sqlx::query_scalar::<_, Vec<i32>>("SELECT array_agg(half) FROM note").fetch_one(pg).await?)
    };
    assert_eq!(read(&shard.broker, login, notes).await.expect("served"), [2, 2]);
    shard.is_left_clean().await;
}

/// Guard: the generation check at checkout. A newer epoch opens a connection of its own; the older epoch is refused.
#[tokio::test]
async fn a_newer_epoch_retires_the_older_ones_connections() {
    let shard = Shard::start(1, 2, patient(2)).await;
    let old = shard.logins[0].clone();
    let new = Login { epoch: 2, ..old.clone() };
    let first = read(&shard.broker, &old, pid).await.expect("served");
    let second = read(&shard.broker, &new, pid).await.expect("served");
    assert_ne!(first, second, "an older epoch's connection was used");
    assert!(is_refused(&shard.broker.read(&old, pid).await), "an older placement was accepted");
    assert_eq!(read(&shard.broker, &new, pid).await.expect("served"), second);

    shard.broker.retire(&new.role);
    shard.settles("retired", |s| s.open == 0 && s.tenants == 0).await;
    shard.is_left_clean().await;
}
