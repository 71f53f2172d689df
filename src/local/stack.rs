//! Everything `freehold dev` stands on: two PostgreSQL servers and a Redis in one state folder.

use std::path::{Path, PathBuf};

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::kernel::{Error, Result};

use super::lock::Lock;
use super::postgres::{PostgresOptions, PostgresServer};
use super::redis::{RedisOptions, RedisServer};
use super::user::ServerUser;
use super::{folder, leftover};

const CONTROL: &str = "control";
/// What Terraform keeps its states in.
const STATES: &str = "terraform_states";

/// The shard databases, each with the server it lives on: two on the first, beside the control database, and one on
/// the second.
pub const SHARDS: [(usize, &str); 3] = [(0, "shard_1"), (0, "shard_2"), (1, "shard_3")];

const SERVERS: [&str; 2] = ["postgres-1", "postgres-2"];
const REDIS: &str = "redis";

/// How to run a [`Stack`].
#[derive(Clone, Debug)]
pub struct StackOptions {
    /// As in [`PostgresOptions::fsync`].
    pub fsync: bool,
    /// Of each PostgreSQL server.
    pub max_connections: u32,
}

impl Default for StackOptions {
    fn default() -> Self {
        Self { fsync: true, max_connections: 200 }
    }
}

/// The running servers of one state folder, which is locked as long as this lives.
#[derive(Debug)]
pub struct Stack {
    servers: [PostgresServer; 2],
    redis: RedisServer,
    // Fields are dropped in order: the folder is free only after the servers were told to stop.
    _lock: Locks,
}

/// The state folder's lock, and that of the servers' folder where it is another one: a *copied* state folder points to
/// the servers of the original.
#[derive(Debug)]
struct Locks {
    _home: Lock,
    _servers: Option<Lock>,
}

impl Stack {
    /// Locks `home` (made if it is not there), starts the servers side by side and makes the databases that are
    /// missing. Ports, passwords and data are kept from one start to the next.
    ///
    /// # Errors
    /// `state_conflict` when another process has the folder; else as [`PostgresServer::start`].
    pub async fn start(home: &Path, options: &StackOptions) -> Result<Self> {
        let user = ServerUser::choose()?;
        let (locks, base) = open(home, user)?;
        let postgres = || PostgresOptions {
            fsync: options.fsync,
            max_connections: options.max_connections,
            ..PostgresOptions::default()
        };
        let dirs = SERVERS.map(|name| base.join(name));
        let redis_dir = base.join(REDIS);
        let (first, second, redis) = tokio::try_join!(
            PostgresServer::start(&dirs[0], postgres()),
            PostgresServer::start(&dirs[1], postgres()),
            RedisServer::start(&redis_dir, RedisOptions::default()),
        )?;
        let stack = Self { servers: [first, second], redis, _lock: locks };
        stack.make_databases().await?;
        Ok(stack)
    }

    /// The superuser's DSN of the control database.
    pub fn control_url(&self) -> String {
        self.servers[0].url(CONTROL)
    }

    /// The superuser's DSN of the database for Terraform's states, which is made by the first who asks, and is nobody else's.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn states_url(&self) -> Result<String> {
        make_databases(&self.servers[0], vec![STATES]).await?;
        let unavailable = |error: sqlx::Error| Error::internal(error).detail("a database cannot be closed");
        let options = self.servers[0].connect_options(STATES);
        let mut connection = PgConnection::connect_with(&options).await.map_err(unavailable)?;
        let close = format!("REVOKE ALL ON DATABASE {STATES} FROM PUBLIC");
        sqlx::raw_sql(AssertSqlSafe(close)).execute(&mut connection).await.map_err(unavailable)?;
        connection.close().await.map_err(unavailable)?;
        Ok(self.servers[0].url(STATES))
    }

    /// The superuser's DSN of a shard database, by its place in [`SHARDS`].
    ///
    /// # Panics
    /// When there is no such place.
    pub fn shard_admin_url(&self, shard: usize) -> String {
        let (server, database) = SHARDS[shard];
        self.servers[server].url(database)
    }

    pub fn redis_url(&self) -> String {
        self.redis.url(0)
    }

    /// The PostgreSQL servers.
    pub fn servers(&self) -> &[PostgresServer; 2] {
        &self.servers
    }

    /// Stops all servers side by side and frees the folder. Data stays.
    pub async fn stop(self) -> Result<()> {
        let (first, second, redis) =
            tokio::join!(self.servers[0].stop(), self.servers[1].stop(), self.redis.stop());
        first.and(second).and(redis)
    }

    /// Removes all servers of the state folder `home` with their data, wherever it is. Other files in `home` stay:
    /// the variable that names it may point anywhere.
    ///
    /// # Errors
    /// `state_conflict` when a process has the folder.
    pub async fn reset(home: &Path) -> Result<()> {
        if !home.exists() {
            return Ok(());
        }
        let (_locks, base) = open(home, ServerUser::choose()?)?;
        for name in SERVERS.iter().chain([&REDIS]) {
            let dir = base.join(name);
            // Nothing is to be saved, so there is no reason to be gentle.
            let now = [(nix::sys::signal::Signal::SIGKILL, std::time::Duration::from_secs(10))];
            leftover::stop(&dir.join("data"), &["postgres", "redis", "valkey"], &now).await?;
            folder::remove(&dir)?;
        }
        folder::remove_elsewhere(home)
    }

    async fn make_databases(&self) -> Result<()> {
        let wanted = |server: usize| {
            let shards = SHARDS.iter().filter(move |(at, _)| *at == server).map(|(_, name)| *name);
            let own = (server == 0).then_some(CONTROL);
            own.into_iter().chain(shards).collect::<Vec<_>>()
        };
        tokio::try_join!(
            make_databases(&self.servers[0], wanted(0)),
            make_databases(&self.servers[1], wanted(1)),
        )?;
        Ok(())
    }
}

/// Locks `home` and finds the servers' folder.
fn open(home: &Path, user: ServerUser) -> Result<(Locks, PathBuf)> {
    folder::make(home, user)?;
    let home = home.canonicalize().map_err(|error| folder::cannot("open", home, error))?;
    let home_lock = Lock::take(&home)?;
    let base = folder::of_servers(&home, user)?;
    let servers = if base == home { None } else { Some(Lock::take(&base)?) };
    Ok((Locks { _home: home_lock, _servers: servers }, base))
}

async fn make_databases(server: &PostgresServer, wanted: Vec<&str>) -> Result<()> {
    let unavailable = |error: sqlx::Error| Error::internal(error).detail("a database cannot be made");
    let mut connection =
        PgConnection::connect_with(&server.connect_options("postgres")).await.map_err(unavailable)?;
    let there: Vec<String> = sqlx::query_scalar("SELECT datname FROM pg_database")
        .fetch_all(&mut connection)
        .await
        .map_err(unavailable)?;
    for name in wanted.into_iter().filter(|name| !there.iter().any(|other| other == name)) {
        let statement = format!("CREATE DATABASE {name}");
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await.map_err(unavailable)?;
    }
    connection.close().await.map_err(unavailable)
}
