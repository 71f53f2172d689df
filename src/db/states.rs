//! The database that Terraform keeps its states in, as its `pg` backend lays it out, and beside them the journal of what
//! applies have made.
//!
//! One schema for each root. A new state's row is made here, before Terraform looks: its backend would lock the whole
//! database for as long as the first run of a new state takes.

use std::time::Duration;

use secrecy::SecretString;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};
use uuid::Uuid;

use super::control;
use crate::kernel::{Error, Result, codes};

/// Longer than a database that is well takes to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What stands before a root's name in the name of its schema.
const SCHEMA: &str = "tf_";

/// A state that was changed this long ago and is not finished is nobody's work any more, unless somebody says that it is.
const UNSETTLED: &str = "1 day";

/// Where the states are.
#[derive(Clone, Debug)]
pub struct States {
    options: PgConnectOptions,
}

/// A resource that an apply has begun or made, as the journal keeps it.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Made {
    pub address: String,
    pub kind: String,
    /// None when it was only begun.
    pub id: Option<String>,
}

/// Who has a state locked.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct LockHolder {
    /// Of the session in the state database.
    pub pid: i32,
    pub client: Option<String>,
    pub since: chrono::DateTime<chrono::Utc>,
}

/// The last snapshot of a server that was removed, and the key that it cannot be read without.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Kept {
    /// ARN.
    pub key: String,
    /// Its name.
    pub snapshot: String,
}

/// The schema of a root's states: `PG_SCHEMA_NAME`. A root's name is lower-case letters; anything else is dropped.
pub fn schema_of(root: &str) -> String {
    let bare: String = root.chars().filter(char::is_ascii_lowercase).collect();
    format!("{SCHEMA}{bare}")
}

impl States {
    /// Reads the address; nothing is connected yet.
    ///
    /// # Errors
    /// `bad_request` when it is none of a PostgreSQL database.
    pub fn at(url: &SecretString) -> Result<Self> {
        let options = control::options(url, "freehold-states")?;
        Ok(Self { options: options.disable_statement_logging() })
    }

    /// # Errors
    /// `infra_unavailable` when the database does not answer.
    pub async fn connect(&self) -> Result<PgConnection> {
        match tokio::time::timeout(PATIENCE, PgConnection::connect_with(&self.options)).await {
            Ok(Ok(conn)) => Ok(conn),
            Ok(Err(error)) => Err(unreachable().source(error)),
            Err(late) => Err(unreachable().source(late)),
        }
    }
}

fn unreachable() -> Error {
    Error::new(&codes::INFRA_UNAVAILABLE)
        .detail("the database of Terraform's states is not reachable")
        .hint("nothing was lost: what was begun is taken up when it is back")
        .retry_after(Duration::from_secs(5))
}

/// Makes what is missing of the layout of these roots.
pub async fn prepare(conn: &mut PgConnection, roots: &[&str]) -> Result<()> {
    let mut tx = conn.begin().await?;
    // Of two that come first, one makes it.
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('freehold.states', 0))")
        .execute(&mut *tx)
        .await?;
    let mut script = String::from(
        "SET LOCAL client_min_messages = warning;
         CREATE SEQUENCE IF NOT EXISTS public.global_states_id_seq AS bigint;
         CREATE SCHEMA IF NOT EXISTS freehold;
         CREATE TABLE IF NOT EXISTS freehold.terraform_journal (
             root text NOT NULL, workspace text NOT NULL, address text NOT NULL,
             kind text NOT NULL, id text, made_at timestamptz NOT NULL DEFAULT clock_timestamp(),
             PRIMARY KEY (root, workspace, address));
         CREATE TABLE IF NOT EXISTS freehold.terraform_gone (
             root text NOT NULL, workspace text NOT NULL, gone_at timestamptz NOT NULL DEFAULT clock_timestamp(),
             PRIMARY KEY (root, workspace));
         CREATE TABLE IF NOT EXISTS freehold.terraform_waning (
             arn text PRIMARY KEY, since timestamptz NOT NULL DEFAULT clock_timestamp());
         CREATE TABLE IF NOT EXISTS freehold.terraform_kept (
             key text PRIMARY KEY, snapshot text NOT NULL, since timestamptz NOT NULL DEFAULT clock_timestamp());",
    );
    for root in roots {
        let schema = schema_of(root);
        // As the backend would make it itself.
        script.push_str(&format!(
            "CREATE SCHEMA IF NOT EXISTS {schema};
             CREATE TABLE IF NOT EXISTS {schema}.states (
                 id bigint NOT NULL DEFAULT nextval('public.global_states_id_seq') PRIMARY KEY,
                 name text UNIQUE, data text);
             CREATE UNIQUE INDEX IF NOT EXISTS states_by_name ON {schema}.states (name);"
        ));
    }
    sqlx::raw_sql(AssertSqlSafe(script)).execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}

/// Makes the row of a state that is new. One that is there stays as it is.
///
/// # Errors
/// `infra_refused` when it was removed for good: a worker that was overtaken must not make anew what a purge has removed. And
/// when it is [somewhere else](misplaced): all that it has would be made a second time.
pub async fn row_add(conn: &mut PgConnection, root: &str, workspace: &str, version: &str) -> Result<()> {
    misplaced(conn, root, workspace).await?;
    let empty = serde_json::json!({ "version": 4, "terraform_version": version, "serial": 0,
        "lineage": Uuid::now_v7(), "outputs": {}, "resources": [] });
    let schema = schema_of(root);
    let statement = format!(
        "WITH gone AS (SELECT 1 FROM freehold.terraform_gone WHERE root = $3 AND workspace = $1),
              added AS (INSERT INTO {schema}.states (name, data) SELECT $1, $2 WHERE NOT EXISTS (SELECT FROM gone)
                        ON CONFLICT DO NOTHING)
         SELECT EXISTS (SELECT FROM gone)"
    );
    let gone: bool = sqlx::query_scalar(AssertSqlSafe(statement))
        .bind(workspace)
        .bind(empty.to_string())
        .bind(root)
        .fetch_one(conn)
        .await?;
    if gone {
        return Err(
            Error::new(&codes::INFRA_REFUSED).detail(format!("the state {workspace} was removed for good"))
        );
    }
    Ok(())
}

/// Looks for a state that was written by Terraform alone, without `PG_SCHEMA_NAME`: it is in the schema that the backend takes
/// then, with the states of all other roots.
///
/// # Errors
/// `infra_refused` when it is there, and not where it belongs.
pub async fn misplaced(conn: &mut PgConnection, root: &str, workspace: &str) -> Result<()> {
    let schema = schema_of(root);
    let statement = format!(
        "SELECT to_regclass('terraform_remote_state.states') IS NOT NULL
            AND NOT EXISTS (SELECT FROM {schema}.states WHERE name = $1)"
    );
    let perhaps: bool =
        sqlx::query_scalar(AssertSqlSafe(statement)).bind(workspace).fetch_one(&mut *conn).await?;
    if !perhaps {
        return Ok(());
    }
    let there: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM terraform_remote_state.states WHERE name = $1)")
            .bind(workspace)
            .fetch_one(conn)
            .await?;
    if !there {
        return Ok(());
    }
    Err(Error::new(&codes::INFRA_REFUSED)
        .detail(format!(
            "the state {workspace} is in the schema terraform_remote_state, where Terraform puts it without \
             PG_SCHEMA_NAME={schema}"
        ))
        .hint(format!(
            "if it is one of the root {root}, move it before anything else is done: INSERT INTO {schema}.states (name, data) \
             SELECT name, data FROM terraform_remote_state.states WHERE name = '{workspace}'; if not, call this one otherwise"
        )))
}

/// Makes sure that a state is there which only Terraform itself may begin.
///
/// # Errors
/// `not_found` when it is not; as [`row_add`] when it is somewhere else.
pub async fn row_need(conn: &mut PgConnection, root: &str, workspace: &str) -> Result<()> {
    misplaced(conn, root, workspace).await?;
    if read(conn, root, workspace).await?.is_some() {
        return Ok(());
    }
    Err(Error::new(&codes::NOT_FOUND)
        .detail(format!("there is no state {workspace} of the root {root}"))
        .hint("it is made with Terraform itself, as docs/DEPLOY.md shows"))
}

/// The state as Terraform wrote it, if there is one.
pub async fn read(conn: &mut PgConnection, root: &str, workspace: &str) -> Result<Option<String>> {
    let schema = schema_of(root);
    let statement = format!("SELECT data FROM {schema}.states WHERE name = $1");
    Ok(sqlx::query_scalar(AssertSqlSafe(statement)).bind(workspace).fetch_optional(conn).await?)
}

/// Removes a state that holds nothing but keys that are [kept](kept_add), with its journal. `forever` when no state of this
/// name may ever be again.
///
/// # Errors
/// `infra_refused` when it holds resources; `infra_unavailable` when somebody has it locked.
pub async fn row_delete(conn: &mut PgConnection, root: &str, workspace: &str, forever: bool) -> Result<()> {
    let schema = schema_of(root);
    let mut tx = conn.begin().await?;
    let statement =
        format!("SELECT data, pg_try_advisory_xact_lock(id) FROM {schema}.states WHERE name = $1 FOR UPDATE");
    let found: Option<(String, bool)> =
        sqlx::query_as(AssertSqlSafe(statement)).bind(workspace).fetch_optional(&mut *tx).await?;
    if let Some((data, free)) = found {
        if !free {
            return Err(Error::new(&codes::INFRA_UNAVAILABLE)
                .detail(format!("the state {workspace} is locked by a run"))
                .retry_after(Duration::from_secs(5)));
        }
        let state: serde_json::Value = serde_json::from_str(&data).map_err(Error::internal)?;
        let kept: Vec<String> =
            sqlx::query_scalar("SELECT key FROM freehold.terraform_kept").fetch_all(&mut *tx).await?;
        let is_kept = |one: &serde_json::Value| {
            let instances = one["instances"].as_array().map_or(&[][..], Vec::as_slice);
            let mut arns = instances.iter().map(|one| one["attributes"]["arn"].as_str());
            !instances.is_empty() && arns.all(|arn| arn.is_some_and(|arn| kept.iter().any(|key| key == arn)))
        };
        let managed = state["resources"]
            .as_array()
            .map_or(0, |all| all.iter().filter(|one| one["mode"] == "managed" && !is_kept(one)).count());
        if managed > 0 {
            return Err(Error::new(&codes::INFRA_REFUSED)
                .detail(format!("the state {workspace} still holds {managed} resources")));
        }
    }
    let statement = format!("DELETE FROM {schema}.states WHERE name = $1");
    sqlx::query(AssertSqlSafe(statement)).bind(workspace).execute(&mut *tx).await?;
    sqlx::query("DELETE FROM freehold.terraform_journal WHERE root = $1 AND workspace = $2")
        .bind(root)
        .bind(workspace)
        .execute(&mut *tx)
        .await?;
    if forever {
        sqlx::query(
            "INSERT INTO freehold.terraform_gone (root, workspace) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        )
        .bind(root)
        .bind(workspace)
        .execute(&mut *tx)
        .await?;
    }
    Ok(tx.commit().await?)
}

/// Whether a state was removed for good.
pub async fn is_gone(conn: &mut PgConnection, root: &str, workspace: &str) -> Result<bool> {
    Ok(sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM freehold.terraform_gone WHERE root = $1 AND workspace = $2)",
    )
    .bind(root)
    .bind(workspace)
    .fetch_one(conn)
    .await?)
}

/// Notes what stays in the cloud for days after it was removed: a key is only scheduled to go, and is nobody's meanwhile.
pub async fn waning_add(conn: &mut PgConnection, arns: &[String]) -> Result<()> {
    // The longest that a key may wait is 30 days.
    sqlx::query(
        "WITH gone AS (DELETE FROM freehold.terraform_waning WHERE since < clock_timestamp() - interval '60 days')
         INSERT INTO freehold.terraform_waning (arn) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING",
    )
    .bind(arns)
    .execute(conn)
    .await?;
    Ok(())
}

/// Notes that a key stays although its server goes: the server's last snapshot cannot be read without it.
pub async fn kept_add(conn: &mut PgConnection, kept: &Kept) -> Result<()> {
    sqlx::query("INSERT INTO freehold.terraform_kept (key, snapshot) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(&kept.key)
        .bind(&kept.snapshot)
        .execute(conn)
        .await?;
    Ok(())
}

/// What was noted by [`kept_add`].
pub async fn kept(conn: &mut PgConnection) -> Result<Vec<Kept>> {
    Ok(sqlx::query_as("SELECT key, snapshot FROM freehold.terraform_kept ORDER BY since, key")
        .fetch_all(conn)
        .await?)
}

/// What was noted by [`waning_add`].
pub async fn waning(conn: &mut PgConnection) -> Result<Vec<String>> {
    Ok(sqlx::query_scalar("SELECT arn FROM freehold.terraform_waning").fetch_all(conn).await?)
}

/// Every state of a root, by name, as Terraform wrote it.
pub async fn read_all(conn: &mut PgConnection, root: &str) -> Result<Vec<(String, String)>> {
    let schema = schema_of(root);
    let statement = format!("SELECT name, data FROM {schema}.states ORDER BY name");
    Ok(sqlx::query_as(AssertSqlSafe(statement)).fetch_all(conn).await?)
}

/// The states that somebody is at work on, or has left half done: what they have is in the cloud before it is in the state.
/// What was left for a day is given up, but for the states that are named.
pub async fn unsettled(conn: &mut PgConnection, at_work: &[String]) -> Result<Vec<String>> {
    Ok(sqlx::query_scalar(
        "SELECT DISTINCT workspace FROM freehold.terraform_journal
          WHERE made_at > clock_timestamp() - $1::interval OR workspace = ANY ($2)",
    )
    .bind(UNSETTLED)
    .bind(at_work)
    .fetch_all(conn)
    .await?)
}

/// Who has a state locked, if anybody has. The lock is a session's: it goes with the connection of its process.
pub async fn lock_holder(conn: &mut PgConnection, root: &str, workspace: &str) -> Result<Option<LockHolder>> {
    let schema = schema_of(root);
    let statement = format!(
        "SELECT a.pid, host(a.client_addr) AS client, a.backend_start AS since
           FROM {schema}.states s
           JOIN pg_locks l ON l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
                AND (l.classid::bigint << 32) | l.objid::bigint = s.id
                AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
           JOIN pg_stat_activity a ON a.pid = l.pid
          WHERE s.name = $1"
    );
    Ok(sqlx::query_as(AssertSqlSafe(statement)).bind(workspace).fetch_optional(conn).await?)
}

/// Puts a resource down as begun or made. One that is known as made stays so when it is begun again.
pub async fn journal_add(conn: &mut PgConnection, root: &str, workspace: &str, made: &Made) -> Result<()> {
    sqlx::query(
        "INSERT INTO freehold.terraform_journal (root, workspace, address, kind, id) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (root, workspace, address)
         DO UPDATE SET kind = EXCLUDED.kind, id = coalesce(EXCLUDED.id, terraform_journal.id), made_at = clock_timestamp()",
    )
    .bind(root)
    .bind(workspace)
    .bind(&made.address)
    .bind(&made.kind)
    .bind(&made.id)
    .execute(conn)
    .await?;
    Ok(())
}

/// Forgets a resource that is gone.
pub async fn journal_remove(
    conn: &mut PgConnection,
    root: &str,
    workspace: &str,
    address: &str,
) -> Result<()> {
    sqlx::query("DELETE FROM freehold.terraform_journal WHERE root = $1 AND workspace = $2 AND address = $3")
        .bind(root)
        .bind(workspace)
        .bind(address)
        .execute(conn)
        .await?;
    Ok(())
}

/// All that the journal has of a state.
pub async fn journal(conn: &mut PgConnection, root: &str, workspace: &str) -> Result<Vec<Made>> {
    Ok(sqlx::query_as(
        "SELECT address, kind, id FROM freehold.terraform_journal WHERE root = $1 AND workspace = $2
          ORDER BY made_at, address",
    )
    .bind(root)
    .bind(workspace)
    .fetch_all(conn)
    .await?)
}

/// Forgets all of a state's journal: the state itself has everything.
pub async fn journal_clear(conn: &mut PgConnection, root: &str, workspace: &str) -> Result<()> {
    sqlx::query("DELETE FROM freehold.terraform_journal WHERE root = $1 AND workspace = $2")
        .bind(root)
        .bind(workspace)
        .execute(conn)
        .await?;
    Ok(())
}
