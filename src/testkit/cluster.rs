//! One set of real servers for a whole test binary.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::sync::OnceCell;

use crate::local::{PostgresOptions, PostgresServer, RedisOptions, RedisServer};

/// Enough for every test to have one of its own.
const REDIS_DATABASES: u32 = 4096;

static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();

/// Two PostgreSQL servers and a Redis, shared by all tests of this process. They end, and their folders go, when the
/// process ends, even if it is killed.
#[derive(Debug)]
pub struct Cluster {
    servers: [Server; 2],
    redis: RedisServer,
    redis_databases: AtomicU32,
    durable: bool,
}

impl Cluster {
    /// The cluster, started by the first test that asks. It keeps nothing that belongs to a runtime (pools, tasks),
    /// since each `#[tokio::test]` has a runtime of its own.
    ///
    /// # Panics
    /// When the servers do not start: no test can do without.
    pub async fn shared() -> &'static Self {
        CLUSTER.get_or_init(|| Self::start(false)).await
    }

    /// Starts the cluster with fsync on, as a bench needs it, whose figures must hold where data matters.
    ///
    /// # Panics
    /// When the servers do not start, or something has started the cluster without fsync already.
    pub async fn durable() -> &'static Self {
        let cluster = CLUSTER.get_or_init(|| Self::start(true)).await;
        assert!(cluster.durable, "the cluster runs already, without fsync");
        cluster
    }

    async fn start(fsync: bool) -> Self {
        let options = PostgresOptions { fsync, max_connections: 400, ..PostgresOptions::default() };
        let (first, second, redis) =
            tokio::join!(extra_postgres(options.clone()), extra_postgres(options), extra_redis());
        let servers = [Server { postgres: first }, Server { postgres: second }];
        Self { servers, redis, redis_databases: AtomicU32::new(0), durable: fsync }
    }

    /// One of the two servers.
    ///
    /// # Panics
    /// When `index` is not 0 or 1.
    pub fn server(&self, index: usize) -> &Server {
        &self.servers[index]
    }

    /// The DSN of a Redis database that nobody else in this process was given.
    pub fn redis_url(&self) -> String {
        let database = self.redis_databases.fetch_add(1, Ordering::Relaxed);
        assert!(database < REDIS_DATABASES, "more than {REDIS_DATABASES} Redis databases were asked for");
        self.redis.url(database)
    }
}

/// A PostgreSQL server of the cluster. Do not stop or freeze it: other tests use it at the same time. A test that
/// wants to do so starts an [`extra_postgres`].
#[derive(Debug)]
pub struct Server {
    postgres: PostgresServer,
}

impl Server {
    /// The superuser's DSN for a database.
    pub fn admin_url(&self, database: &str) -> String {
        self.postgres.url(database)
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.postgres.port()
    }

    /// Makes a database whose name begins with `prefix` and is used nowhere else, and gives the name. With a
    /// `template` it is a copy of that database, to which nobody may be connected.
    ///
    /// # Panics
    /// When PostgreSQL refuses.
    pub async fn create_database(&self, prefix: &str, template: Option<&str>) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{prefix}_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let template = template.unwrap_or("template1");
        self.execute(format!("CREATE DATABASE \"{name}\" TEMPLATE \"{template}\"")).await;
        name
    }

    /// Removes a database, ending its sessions. Tests need not call it: all goes with the cluster.
    pub async fn drop_database(&self, name: &str) {
        self.execute(format!("DROP DATABASE IF EXISTS \"{name}\" WITH (FORCE)")).await;
    }

    async fn execute(&self, statement: String) {
        let run = async {
            let options = self.postgres.connect_options("postgres");
            let mut connection = PgConnection::connect_with(&options).await?;
            sqlx::raw_sql(AssertSqlSafe(statement.clone())).execute(&mut connection).await?;
            connection.close().await
        };
        if let Err(error) = run.await {
            panic!("{statement}: {error}");
        }
    }
}

/// A server for one test, which may stop, freeze, crash and restart it on its port. Ends with the value at the latest.
///
/// # Panics
/// When it does not start.
pub async fn extra_postgres(options: PostgresOptions) -> PostgresServer {
    let options = PostgresOptions { throwaway: true, ..options };
    match PostgresServer::start(&temporary_folder(), options).await {
        Ok(server) => server,
        Err(error) => panic!("no PostgreSQL for this test: {error:?}"),
    }
}

/// As [`extra_postgres`], for Redis.
///
/// # Panics
/// When it does not start.
pub async fn extra_redis() -> RedisServer {
    let options =
        RedisOptions { save: false, databases: REDIS_DATABASES, throwaway: true, ..RedisOptions::default() };
    match RedisServer::start(&temporary_folder(), options).await {
        Ok(server) => server,
        Err(error) => panic!("no Redis for this test: {error:?}"),
    }
}

/// Its removal is the server's part from here on (`throwaway`).
fn temporary_folder() -> PathBuf {
    match tempfile::Builder::new().prefix("freehold-test-").tempdir() {
        Ok(folder) => folder.keep(),
        Err(error) => panic!("no temporary folder: {error}"),
    }
}
