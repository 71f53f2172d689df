//! Bringing the control database and each shard's `freehold` schema to this build's version.

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};

use crate::kernel::{Error, Result, codes};

/// The control database's migrations.
pub static CONTROL: Migrator = sqlx::migrate!("./control-plane-migrations");
/// Each shard's `freehold` schema.
pub static SHARD: Migrator = sqlx::migrate!("./shard-migrations");

/// What a migration run changed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Migrated {
    pub from: i64,
    pub to: i64,
}

/// Brings a database to the migrator's newest version. Two at once are safe: the second waits for the first's lock.
pub async fn migrate(migrator: &Migrator, options: &PgConnectOptions) -> Result<Migrated> {
    // A connection of its own, closed at the end: sqlx keeps its lock when a migration fails.
    let mut conn = options.connect().await?;
    let from = version(&mut conn).await?;
    let outcome = migrator.run_direct(None, &mut conn, false).await;
    let to = version(&mut conn).await;
    conn.close().await.ok();
    outcome.map_err(migrate_error)?;
    Ok(Migrated { from, to: to? })
}

fn migrate_error(error: MigrateError) -> Error {
    let conflict = Error::new(&codes::STATE_CONFLICT);
    match error {
        MigrateError::VersionMissing(version) => conflict
            .detail(format!("the database has migration {version}, which this build does not know"))
            .hint("a newer freehold migrated it: run that version or a later one"),
        MigrateError::VersionMismatch(version) => conflict
            .detail(format!("migration {version} was changed after it was applied"))
            .hint("migrations are forward-only: restore the file and add a new one"),
        MigrateError::Dirty(version) => conflict
            .detail(format!("migration {version} stopped half-way"))
            .hint("look at table _sqlx_migrations, repair by hand, then migrate again"),
        other => Error::internal(other),
    }
}

/// The newest applied version; 0 when nothing was.
pub async fn version(conn: &mut PgConnection) -> Result<i64> {
    let exists: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *conn)
        .await?;
    if !exists {
        return Ok(0);
    }
    Ok(sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM _sqlx_migrations WHERE success")
        .fetch_one(conn)
        .await?)
}

/// The version a migrator leads to.
pub fn target(migrator: &Migrator) -> i64 {
    migrator.iter().map(|migration| migration.version).max().unwrap_or(0)
}

/// Refuses to go on with a control database that this build does not fit.
pub async fn require_control(conn: &mut PgConnection) -> Result<()> {
    let (have, want) = (version(conn).await?, target(&CONTROL));
    if have < want {
        return Err(Error::new(&codes::STATE_CONFLICT)
            .detail(format!("the control database is at version {have}, this build needs {want}"))
            .hint("run: freehold migrate control"));
    }
    Ok(())
}
