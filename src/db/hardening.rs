//! What every login may see by default and no tenant's login should: found, revoked, and reported when it cannot be.
//!
//! One query finds what is still open to PUBLIC. Preparing a shard revokes each finding; `doctor` lists what is left,
//! which on a managed server may be a few that its admin does not own.

use sqlx::PgConnection;

use crate::db::ident::quote_ident;
use crate::kernel::Result;

/// Something PUBLIC can still do on a shard.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow, serde::Serialize)]
pub struct Opening {
    /// `database`, `schema`, `language`, `relation` or `function`.
    pub kind: String,
    /// Its name, as PostgreSQL spells it.
    pub name: String,
}

impl Opening {
    fn revoke(&self) -> String {
        // Names come quoted from regclass and regprocedure; the others are quoted here.
        match self.kind.as_str() {
            "relation" => format!("REVOKE ALL ON TABLE {} FROM PUBLIC", self.name),
            "function" => format!("REVOKE ALL ON ROUTINE {} FROM PUBLIC", self.name),
            kind => format!("REVOKE ALL ON {} {} FROM PUBLIC", kind.to_uppercase(), quote_ident(&self.name)),
        }
    }
}

/// Databases that a shard may close: itself, and the two that every server comes with. Whose any other is we cannot
/// know; an open one is only reported.
const OURS: [&str; 2] = ["postgres", "template1"];

/// Relations that tell one login about another.
const RELATIONS: &str = r"^pg_(roles|user|group|shadow|auth_members|database|db_role_setting|locks|prepared_xacts|shdepend|shdescription|shseclabel|seclabels|largeobject_metadata|replication_.*|publication.*|subscription.*|stat_.*|statio_.*)$";

/// Functions that take locks across tenants, read or write outside tables, run queries from text, hold a backend, or
/// tell sizes and activity.
const FUNCTIONS: &str = r"^(pg_advisory_.*|pg_try_advisory_.*|lo_.*|loread|lowrite|pg_sleep.*|.*_to_xml.*|pg_(database|relation|total_relation|table|indexes|tablespace)_size|pg_stat_get_.*|pg_lock_status|pg_prepared_xact|pg_blocking_pids|pg_safe_snapshot_blocking_pids|pg_export_snapshot|pg_logical_emit_message|pg_notify|pg_notification_queue_usage|pg_get_multixact_members|pg_xact_commit_timestamp|pg_last_committed_xact|pg_relation_filepath|pg_relation_filenode|pg_cancel_backend|pg_terminate_backend)$";

/// What PUBLIC can still do. Empty on a shard that is fully closed.
pub async fn openings(conn: &mut PgConnection) -> Result<Vec<Opening>, sqlx::Error> {
    sqlx::query_as(
        "SELECT 'database' AS kind, datname::text AS name FROM pg_database
          WHERE datallowconn
            AND (has_database_privilege('public', oid, 'CONNECT') OR has_database_privilege('public', oid, 'TEMP'))
         UNION ALL
         SELECT 'schema', nspname::text FROM pg_namespace
          WHERE nspname = 'public'
            AND (has_schema_privilege('public', oid, 'USAGE') OR has_schema_privilege('public', oid, 'CREATE'))
         UNION ALL
         SELECT 'language', lanname::text FROM pg_language
          WHERE lanpltrusted AND lanispl AND has_language_privilege('public', oid, 'USAGE')
         UNION ALL
         SELECT 'relation', c.oid::regclass::text FROM pg_class c
          WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relkind IN ('r', 'v') AND c.relname ~ $1
            AND has_any_column_privilege('public', c.oid, 'SELECT')
         UNION ALL
         SELECT 'function', p.oid::regprocedure::text FROM pg_proc p
          WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname ~ $2
            AND has_function_privilege('public', p.oid, 'EXECUTE')
         ORDER BY 1, 2",
    )
    .bind(RELATIONS)
    .bind(FUNCTIONS)
    .fetch_all(conn)
    .await
}

/// Revokes all that is ours to revoke and returns what of it could not be.
pub async fn close(conn: &mut PgConnection) -> Result<Vec<Opening>, sqlx::Error> {
    let this: String = sqlx::query_scalar("SELECT current_database()::text").fetch_one(&mut *conn).await?;
    let ours = |opening: &Opening| {
        opening.kind != "database" || opening.name == this || OURS.contains(&opening.name.as_str())
    };
    let found: Vec<Opening> = openings(conn).await?.into_iter().filter(ours).collect();
    // All at once where we may; one by one where something is refused, so that one refusal does not keep the rest.
    let all = found.iter().map(Opening::revoke).collect::<Vec<_>>().join(";");
    if sqlx::raw_sql(sqlx::AssertSqlSafe(all)).execute(&mut *conn).await.is_err() {
        for opening in &found {
            if let Err(error) = sqlx::raw_sql(sqlx::AssertSqlSafe(opening.revoke())).execute(&mut *conn).await
            {
                tracing::warn!(kind = opening.kind, name = opening.name, %error, "could not be revoked");
            }
        }
    }
    Ok(openings(conn).await?.into_iter().filter(ours).collect())
}
