//! A shard with a number of tenants, each with one row that says whose it is.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use freehold::data_plane::broker::{Broker, BrokerConfig, Endpoint, Failure, Login, ShardStats, Tls};
use freehold::kernel::ids::{ShardId, TenantId};
use freehold::kernel::{Error, MasterKey, Result};
use freehold::local::{PostgresOptions, PostgresServer};
use freehold::testkit::{Cluster, eventually, extra_postgres};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

pub const DEADLINE: Duration = Duration::from_secs(20);

pub struct Shard {
    admin_url: String,
    database: String,
    pub id: ShardId,
    pub broker: Broker,
    pub logins: Vec<Login>,
}

/// Limits for tests that are about something else than waiting: long enough to never run out.
pub fn patient(budget: usize) -> BrokerConfig {
    BrokerConfig {
        budget,
        gate_timeout: DEADLINE,
        budget_timeout: DEADLINE,
        connect_timeout: DEADLINE,
        ..BrokerConfig::default()
    }
}

impl Shard {
    /// A database of its own on the shared cluster.
    pub async fn start(tenants: usize, ceiling: u32, config: BrokerConfig) -> Self {
        let server = Cluster::shared().await.server(0);
        let database = server.create_database("broker", None).await;
        Self::with(server.admin_url(&database), server.port(), database, tenants, ceiling, config).await
    }

    /// A server of its own, which the test may stop and freeze.
    pub async fn alone(ceiling: u32, config: BrokerConfig) -> (Self, PostgresServer) {
        let server = extra_postgres(PostgresOptions { fsync: false, ..PostgresOptions::default() }).await;
        let (url, port) = (server.url("postgres"), server.port());
        (Self::with(url, port, "postgres".to_owned(), 2, ceiling, config).await, server)
    }

    async fn with(
        admin_url: String,
        port: u16,
        database: String,
        tenants: usize,
        ceiling: u32,
        config: BrokerConfig,
    ) -> Self {
        let (key, id) = (MasterKey::from_bytes([7; 32]), ShardId::new());
        let endpoint =
            Arc::new(Endpoint { host: "127.0.0.1".into(), port, database: database.clone(), tls: Tls::Off });
        let logins: Vec<Login> = (0..tenants)
            .map(|_| Login {
                shard: id,
                endpoint: endpoint.clone(),
                role: TenantId::new().to_string().replace("ten_", "t_").into(),
                credential_version: 1,
                epoch: 1,
                ceiling,
            })
            .collect();
        let mut sql = String::new();
        for Login { role, .. } in &logins {
            let verifier = key.scram_verifier(role, 1);
            write!(
                sql,
                "CREATE ROLE {role} LOGIN NOINHERIT PASSWORD '{verifier}';
                 ALTER ROLE {role} SET search_path = {role};
                 CREATE SCHEMA {role};
                 CREATE TABLE {role}.mark (tenant text NOT NULL);
                 INSERT INTO {role}.mark VALUES ('{role}');
                 CREATE TABLE {role}.note (tenant text NOT NULL, half int NOT NULL);
                 GRANT USAGE ON SCHEMA {role} TO {role};
                 GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA {role} TO {role};"
            )
            .expect("writing to a String");
        }
        let shard = Self { admin_url, database, id, broker: Broker::new(config, key), logins };
        shard.execute(sql).await;
        shard
    }

    pub async fn admin(&self) -> PgConnection {
        PgConnection::connect(&self.admin_url).await.expect("the superuser may connect")
    }

    pub async fn execute(&self, sql: String) {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.admin().await).await.expect("the fixture's SQL");
    }

    /// The tenants' sessions on the server, `filter` applied to pg_stat_activity.
    pub async fn sessions(&self, admin: &mut PgConnection, filter: &'static str) -> i64 {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'freehold' AND datname = $1 AND {filter}"
        );
        sqlx::query_scalar(AssertSqlSafe(sql)).bind(&self.database).fetch_one(admin).await.expect("a count")
    }

    /// Ends all of the tenants' sessions, and waits until they are gone.
    pub async fn end_sessions(&self) {
        let mut admin = self.admin().await;
        sqlx::query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'freehold' AND datname = $1",
        )
        .bind(&self.database)
        .execute(&mut admin)
        .await
        .expect("the superuser may end sessions");
        eventually(DEADLINE, "the sessions end", async || match self.sessions(&mut admin, "true").await {
            0 => Ok(()),
            left => Err(format!("{left} sessions")),
        })
        .await;
    }

    pub fn stats(&self) -> ShardStats {
        self.broker.stats(self.id)
    }

    /// Waits until the numbers are as wished.
    pub async fn settles(&self, what: &str, wish: impl Fn(&ShardStats) -> bool) {
        eventually(DEADLINE, what, async || {
            let stats = self.stats();
            if wish(&stats) { Ok(()) } else { Err(format!("{stats:?}")) }
        })
        .await;
    }

    /// Nobody uses or awaits anything, no transaction is open, and after closing every permit is back.
    pub async fn is_left_clean(&self) {
        self.settles("all seats come back", |s| s.waiting == 0 && s.free + s.idle == s.budget).await;
        let mut admin = self.admin().await;
        assert_eq!(
            self.sessions(&mut admin, "state <> 'idle'").await,
            0,
            "no open transaction, nothing running"
        );
        self.broker.close().await;
        let stats = self.stats();
        assert_eq!(
            (stats.free, stats.tenants),
            (stats.budget, 0),
            "all permits back, nothing kept: {stats:?}"
        );
        eventually(DEADLINE, "no session stays", async || match self.sessions(&mut admin, "true").await {
            0 => Ok(()),
            left => Err(format!("{left} sessions")),
        })
        .await;
    }
}

/// Whose row and which login this connection sees, and whether an earlier request has left a transaction open on it:
/// then two statements share their transaction's start.
pub async fn whose(pg: &mut PgConnection) -> Result<(String, String, bool)> {
    let began: String =
        sqlx::query_scalar("SELECT transaction_timestamp()::text").fetch_one(&mut *pg).await?;
    let sql = "SELECT tenant, current_user::text, transaction_timestamp()::text = $1 FROM mark";
    Ok(sqlx::query_as(sql).bind(began).fetch_one(pg).await?)
}

pub async fn pid(pg: &mut PgConnection) -> Result<i32> {
    Ok(sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(pg).await?)
}

/// Reads with the broker, with the closure's return thrown away on failure.
pub async fn read<T>(
    broker: &Broker,
    login: &Login,
    work: impl AsyncFnOnce(&mut PgConnection) -> Result<T> + Clone,
) -> Result<T> {
    broker.read(login, work).await.map_err(Error::from)
}

/// Reads the tenant's mark and checks that it is its own.
pub async fn read_own(broker: &Broker, login: &Login) -> Result<()> {
    let (tenant, user, inherited) = read(broker, login, whose).await?;
    assert!(!inherited, "inside a transaction that another request left open");
    assert_eq!((&*tenant, &*user), (&*login.role, &*login.role), "another tenant's row or login");
    Ok(())
}

/// Writes a pair of rows, each stamped with the login that wrote it.
pub async fn write_pair(broker: &Broker, login: &Login) -> Result<()> {
    let write = async |pg: &mut PgConnection| {
        for half in 1..=2 {
            sqlx::query("INSERT INTO note (tenant, half) VALUES (current_user, $1)")
                .bind(half)
                .execute(&mut *pg)
                .await?;
        }
        Ok(())
    };
    broker.write(login, write).await.map_err(Error::from)
}

pub fn is_refused<T, F>(result: &Result<T, Failure<F>>) -> bool {
    matches!(result, Err(Failure::Refused { .. }))
}
