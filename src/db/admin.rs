//! Admin sessions on the shards. Only the CLI and the worker have them; the server that answers requests does not.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use secrecy::SecretString;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, PgConnection, PgPool};

use crate::db::admin_dsn::AdminDsn;
use crate::db::control;
use crate::kernel::ids::ShardId;
use crate::kernel::{Error, MasterKey, Result, codes};

/// How long an admin waits for a shard before saying that it is down.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long the word of a look that found a shard away is believed. A worker looks every two seconds and waits two for
/// the answer; should it stop looking, everybody tries for himself again.
const BELIEVED: Duration = Duration::from_secs(6);

/// One small pool per shard, opened on first use, and which shards were found away.
#[derive(Clone, Default)]
pub struct ShardAdmins(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// What the passwords of servers of our own making follow from. None where no shard is to be reached.
    master: Option<MasterKey>,
    pools: Mutex<HashMap<ShardId, (AdminDsn, PgPool)>>,
    away: Mutex<HashMap<ShardId, Instant>>,
}

impl ShardAdmins {
    /// By default there is no key, and no server whose password follows from it can be reached.
    pub fn with(master: MasterKey) -> Self {
        Self(Arc::new(Inner { master: Some(master), ..Inner::default() }))
    }

    /// Takes note of a look at a shard: whether it answered.
    pub fn seen(&self, shard: ShardId, answers: bool) {
        let mut away = self.0.away.lock();
        if answers {
            away.remove(&shard);
        } else {
            away.insert(shard, Instant::now());
        }
    }

    /// Refuses a shard that was found away a moment ago: each attempt would wait its full time, and the few places where
    /// runs are carried out would all be taken by runs of that shard.
    ///
    /// # Errors
    /// `shard_unavailable`.
    pub fn expect_answer(&self, shard: ShardId) -> Result<()> {
        match self.0.away.lock().get(&shard) {
            Some(at) if at.elapsed() < BELIEVED => {
                Err(unavailable().detail("the shard did not answer when it was last looked at"))
            }
            _ => Ok(()),
        }
    }

    /// The shard's admin pool. A changed secret reference opens a new one.
    pub fn pool(&self, shard: ShardId, dsn: &AdminDsn) -> Result<PgPool> {
        let mut pools = self.0.pools.lock();
        if let Some((known, pool)) = pools.get(&shard)
            && known == dsn
        {
            return Ok(pool.clone());
        }
        let pool = PgPoolOptions::new()
            .max_connections(4)
            .acquire_timeout(PATIENCE)
            .connect_lazy_with(options(&dsn.read(self.0.master.as_ref())?)?);
        pools.insert(shard, (dsn.clone(), pool.clone()));
        Ok(pool)
    }

    /// Ends every admin session; the next use opens new ones.
    pub async fn close(&self) {
        let pools = std::mem::take(&mut *self.0.pools.lock());
        for (_, pool) in pools.into_values() {
            pool.close().await;
        }
    }

    /// Forgets a shard's pool, so that the next use reads its secret again (after a rotation).
    pub fn forget(&self, shard: ShardId) {
        self.0.pools.lock().remove(&shard);
    }
}

/// Statements are not logged, slow ones neither: some hold what a login's password is checked against.
pub fn options(url: &SecretString) -> Result<PgConnectOptions> {
    Ok(control::options(url, "freehold-admin")?.disable_statement_logging())
}

/// The owner of every tenant schema on a database. Roles belong to the whole server, so its name carries the
/// database's.
pub fn owner_role(database: &str) -> String {
    format!("freehold_owner_{database}")
}

/// What went wrong on a shard, as far as the operator may know.
pub fn shard_error(error: sqlx::Error) -> Error {
    match &error {
        sqlx::Error::Database(e) if e.code().as_deref() == Some("FH001") => {
            Error::new(&codes::CONFLICT).detail("a newer worker has taken this over").source(error)
        }
        sqlx::Error::Database(e) if matches!(e.code().as_deref(), Some("28P01" | "28000" | "3D000")) => {
            Error::new(&codes::SHARD_UNAVAILABLE)
                .detail(format!("the shard refuses the admin login: {}", e.message()))
                .hint("check the DSN behind the shard's secret reference")
                .source(error)
        }
        sqlx::Error::Database(_) => Error::internal(error),
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::Protocol(_) => unavailable().source(error),
        _ => Error::internal(error),
    }
}

fn unavailable() -> Error {
    Error::new(&codes::SHARD_UNAVAILABLE)
        .retry_after(Duration::from_secs(1))
        .hint("is the shard's server running, and does its DSN name the right host and port?")
}

/// Runs statements inside the caller's transaction, in one round trip.
pub async fn statements(tx: &mut PgConnection, sql: String) -> Result<()> {
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(tx).await.map(drop).map_err(shard_error)
}

/// Runs a batch of statements that opens and closes its own transaction, in one round trip. Whatever happens, the
/// connection is left outside a transaction.
pub async fn batch(conn: &mut PgConnection, sql: String) -> Result<(), sqlx::Error> {
    let outcome = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut *conn).await;
    if outcome.is_err() {
        sqlx::raw_sql("ROLLBACK").execute(conn).await.ok();
    }
    outcome.map(|_| ())
}
