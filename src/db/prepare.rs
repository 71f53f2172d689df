//! Making a PostgreSQL database fit to be a shard: the `freehold` schema, the owner role, and everything closed that
//! one tenant's login could use to see another.

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};

use crate::db::admin::{batch, owner_role, shard_error};
use crate::db::hardening::{self, Opening};
use crate::db::ident::{quote_ident, quote_literal};
use crate::db::migrations::{self, Migrated};
use crate::kernel::{Error, Result, codes};

/// The oldest PostgreSQL that is supported, as `server_version_num`.
const OLDEST: i32 = 150_000;

/// What preparing a shard did and could not do.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Prepared {
    pub migrated: Migrated,
    /// What PUBLIC can still do; see `docs/SECURITY.md` for what each means.
    pub open: Vec<Opening>,
}

/// Prepares a shard database. Safe to repeat, and from two places at once.
pub async fn prepare(options: &PgConnectOptions) -> Result<Prepared> {
    let mut conn = options.connect().await.map_err(shard_error)?;
    let version: i32 = sqlx::query_scalar("SELECT current_setting('server_version_num')::int")
        .fetch_one(&mut conn)
        .await
        .map_err(shard_error)?;
    if version < OLDEST {
        return Err(Error::new(&codes::STATE_CONFLICT)
            .detail(format!("this server is PostgreSQL {}", version / 10_000))
            .hint("a shard needs PostgreSQL 15 or newer"));
    }
    let database: String = sqlx::query_scalar("SELECT current_database()::text")
        .fetch_one(&mut conn)
        .await
        .map_err(shard_error)?;
    // One preparation at a time on each database. Two databases of one server may still meet over the access lists that
    // the server's databases share; what that refuses is tried again one by one (see hardening::close).
    sqlx::query("SELECT pg_advisory_lock(hashtextextended('freehold.prepare', 0))")
        .execute(&mut conn)
        .await
        .map_err(shard_error)?;
    let prepared = prepare_locked(&mut conn, options, &database).await;
    conn.close().await.ok();
    prepared
}

async fn prepare_locked(
    conn: &mut PgConnection,
    options: &PgConnectOptions,
    database: &str,
) -> Result<Prepared> {
    batch(conn, "CREATE SCHEMA IF NOT EXISTS freehold".to_owned()).await.map_err(shard_error)?;
    let migrated =
        migrations::migrate(&migrations::SHARD, &options.clone().options([("search_path", "freehold")]))
            .await?;
    batch(conn, owner_sql(database)).await.map_err(shard_error)?;
    let open = hardening::close(conn).await.map_err(shard_error)?;
    Ok(Prepared { migrated, open })
}

/// The owner of all tenant schemas: nobody logs in as it; the admin becomes it to do DDL.
fn owner_sql(database: &str) -> String {
    let owner = owner_role(database);
    format!(
        "DO $do$ BEGIN
           IF to_regrole({ident}) IS NULL THEN
             CREATE ROLE {owner} NOLOGIN NOINHERIT NOCREATEDB NOCREATEROLE;
           END IF;
           -- From 16 on, whoever makes a role is its member at once, and yet may not become it.
           IF current_setting('server_version_num')::int >= 160000 THEN
             EXECUTE format('GRANT %I TO %I WITH SET TRUE, INHERIT TRUE', {name}, current_user);
           ELSIF NOT pg_has_role(current_user, {name}, 'MEMBER') THEN
             EXECUTE format('GRANT %I TO %I', {name}, current_user);
           END IF;
         END $do$",
        ident = quote_literal(&quote_ident(&owner)),
        name = quote_literal(&owner),
        owner = quote_ident(&owner),
    )
}
