//! Tenant schemas and their logins: made, migrated, fenced and dropped, each in one transaction and one round trip.
//!
//! Every change first raises the schema's fencing number (`freehold.raise_fence`), so a worker that lost its lease
//! cannot undo what its successor did.

use sqlx::migrate::Migrator;
use sqlx::{Connection, PgConnection};

use crate::db::admin::{self, owner_role};
use crate::db::ident::{is_schema_name, quote_ident, quote_literal};
use crate::db::migrations;
use crate::kernel::{Error, MasterKey, Result};

/// One tenant schema on one shard. Its login has the same name.
pub struct Schema<'a> {
    pub name: &'a str,
    pub database: &'a str,
    pub credential_version: i32,
    /// The changer's fencing number. None for what may be done twice or late and does no harm: then nobody with a number
    /// is held up either.
    pub fence: Option<i64>,
}

/// Settings of a tenant's login that its plan decides. The broker enforces the tighter, exact limits; these hold even
/// for someone who has the password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoginLimits {
    pub connections: i32,
    pub statement_timeout_ms: i32,
}

/// A session that waits inside a transaction keeps locks and old rows: it is ended after this long.
pub const IDLE_IN_TRANSACTION_MS: i32 = 15_000;

/// A backend whose client is gone notices this often in the middle of a statement, and ends.
pub const CLIENT_CHECK_MS: i32 = 2_000;

impl LoginLimits {
    /// What a spare slot's login has until a tenant claims it. The time is the smallest that a plan is likely to give: a
    /// connection that is opened before the plan's own settings are there is not to be the one without a limit.
    pub const SPARE: Self = Self { connections: 64, statement_timeout_ms: 5_000 };
}

impl Schema<'_> {
    fn check(&self) -> Result<()> {
        if is_schema_name(self.name) {
            Ok(())
        } else {
            Err(Error::internal(format!("not a schema name: {}", self.name)))
        }
    }

    fn fence_sql(&self) -> String {
        // Two changes of one login at once would make one fail ("tuple concurrently updated"): they take turns.
        let name = quote_literal(self.name);
        let turn = format!("SELECT pg_advisory_xact_lock(hashtextextended({name}, 0));");
        match self.fence {
            Some(fence) => format!("{turn} SELECT freehold.raise_fence({name}, {fence});"),
            None => turn,
        }
    }

    /// Makes login, schema, tables and grants, or finds them made. Returns the schema's version.
    pub async fn create(
        &self,
        conn: &mut PgConnection,
        master: &MasterKey,
        tables: &Migrator,
        limits: LoginLimits,
    ) -> Result<i64> {
        self.check()?;
        let target = migrations::target(tables);
        let sql = format!(
            "BEGIN; {fence} {statements} COMMIT",
            fence = self.fence_sql(),
            statements =
                self.create_sql(&master.scram_verifier(self.name, self.credential_version), tables, limits),
        );
        match admin::batch(conn, sql).await {
            Ok(()) => Ok(target),
            // The login exists: an earlier attempt committed and its answer was lost.
            Err(sqlx::Error::Database(e)) if matches!(e.code().as_deref(), Some("42710" | "42P06")) => self
                .version(conn)
                .await?
                .ok_or_else(|| Error::internal(format!("login {} exists without its schema", self.name))),
            Err(error) => Err(admin::shard_error(error)),
        }
    }

    /// The bare statements that make a tenant's place, without fence or transaction. The benchmark runs the same.
    pub fn create_sql(&self, verifier: &str, tables: &Migrator, limits: LoginLimits) -> String {
        let (schema, database) = (quote_ident(self.name), quote_ident(self.database));
        let owner = quote_ident(&owner_role(self.database));
        let tables_sql =
            tables.iter().map(|migration| migration.sql.as_str()).collect::<Vec<_>>().join("\n;\n");
        format!(
            "CREATE ROLE {schema} LOGIN NOINHERIT NOCREATEDB NOCREATEROLE CONNECTION LIMIT {connections} PASSWORD {password};
             {settings}
             CREATE SCHEMA {schema} AUTHORIZATION {owner};
             SET LOCAL search_path = {schema};
             SET LOCAL ROLE {owner};
             {tables_sql};
             {grants}
             RESET ROLE;
             INSERT INTO freehold.schema_version (schema_name, version) VALUES ({name}, {version});
             -- One access list for the whole database: changes to it take turns.
             SELECT pg_advisory_xact_lock(hashtextextended('freehold.connect', 0));
             GRANT CONNECT ON DATABASE {database} TO {schema};",
            connections = limits.connections,
            password = quote_literal(verifier),
            settings = self.settings_sql(limits),
            grants = self.grants_sql(),
            name = quote_literal(self.name),
            version = migrations::target(tables),
        )
    }

    fn settings_sql(&self, limits: LoginLimits) -> String {
        let role = quote_ident(self.name);
        format!(
            "ALTER ROLE {role} SET search_path = {role};
             ALTER ROLE {role} SET statement_timeout = {statement};
             ALTER ROLE {role} SET idle_in_transaction_session_timeout = {IDLE_IN_TRANSACTION_MS};
             ALTER ROLE {role} SET client_connection_check_interval = {CLIENT_CHECK_MS};",
            statement = limits.statement_timeout_ms,
        )
    }

    fn grants_sql(&self) -> String {
        let schema = quote_ident(self.name);
        format!(
            "GRANT USAGE ON SCHEMA {schema} TO {schema};
             GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {schema};
             GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {schema};
             REVOKE ALL ON ALL ROUTINES IN SCHEMA {schema} FROM PUBLIC;
             GRANT EXECUTE ON ALL ROUTINES IN SCHEMA {schema} TO {schema};"
        )
    }

    /// Brings the schema to the newest version; nothing to do when it is there. Returns the version. Two at once are safe:
    /// the second finds the first one's work done.
    pub async fn migrate(&self, conn: &mut PgConnection, tables: &Migrator) -> Result<i64> {
        self.check()?;
        let target = migrations::target(tables);
        // A look without a lock first: most are there already.
        if let Some(have) = self.version(conn).await?
            && have >= target
        {
            return Ok(have);
        }
        let mut tx = conn.begin().await.map_err(admin::shard_error)?;
        let fence = self.fence_sql();
        admin::statements(&mut tx, format!("{fence} SET LOCAL lock_timeout = '2s'")).await?;
        let have = self
            .version(&mut tx)
            .await?
            .ok_or_else(|| Error::internal(format!("no schema {}", self.name)))?;
        if have >= target {
            return Ok(have);
        }
        let (schema, owner) = (quote_ident(self.name), quote_ident(&owner_role(self.database)));
        let pending = tables.iter().filter(|migration| migration.version > have);
        let sql = format!(
            "SET LOCAL search_path = {schema}; SET LOCAL ROLE {owner};
             {statements}; {grants} RESET ROLE;
             UPDATE freehold.schema_version SET version = {target}, migrated_at = clock_timestamp() WHERE schema_name = {name}",
            statements = pending.map(|migration| migration.sql.as_str()).collect::<Vec<_>>().join("\n;\n"),
            grants = self.grants_sql(),
            name = quote_literal(self.name),
        );
        admin::statements(&mut tx, sql).await?;
        tx.commit().await.map_err(admin::shard_error)?;
        Ok(target)
    }

    /// The schema's version, or nothing when it does not exist on this shard.
    pub async fn version(&self, conn: &mut PgConnection) -> Result<Option<i64>> {
        sqlx::query_scalar("SELECT version FROM freehold.schema_version WHERE schema_name = $1")
            .bind(self.name)
            .fetch_optional(conn)
            .await
            .map_err(admin::shard_error)
    }

    /// Refuses new logins and ends the ones there are. When this returns, the tenant's login has no session.
    pub async fn fence(&self, conn: &mut PgConnection) -> Result<()> {
        self.set_login(conn, "NOLOGIN").await?;
        // A login that was past the check when the role changed appears a moment later: look until two looks in a row
        // find nobody.
        let mut quiet = 0;
        for _ in 0..200 {
            let ended: i64 = sqlx::query_scalar(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = $1",
            )
            .bind(self.name)
            .fetch_one(&mut *conn)
            .await
            .map_err(admin::shard_error)?;
            quiet = if ended == 0 { quiet + 1 } else { 0 };
            if quiet == 2 {
                return Ok(());
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        Err(Error::new(&crate::kernel::codes::TIMEOUT).detail("the tenant's sessions do not end"))
    }

    /// Lets the login in again.
    pub async fn unfence(&self, conn: &mut PgConnection) -> Result<()> {
        self.set_login(conn, "LOGIN").await
    }

    async fn set_login(&self, conn: &mut PgConnection, login: &str) -> Result<()> {
        self.check()?;
        let sql =
            format!("BEGIN; {} ALTER ROLE {} {login}; COMMIT", self.fence_sql(), quote_ident(self.name));
        admin::batch(conn, sql).await.map_err(admin::shard_error)
    }

    /// Sets what the plan decides on the login, and repairs what its holder may have changed, the password included.
    pub async fn align(
        &self,
        conn: &mut PgConnection,
        master: &MasterKey,
        limits: LoginLimits,
    ) -> Result<()> {
        self.check()?;
        let role = quote_ident(self.name);
        let sql = format!(
            "BEGIN; {fence}
             ALTER ROLE {role} NOINHERIT NOCREATEDB NOCREATEROLE CONNECTION LIMIT {connections} PASSWORD {password};
             ALTER ROLE {role} RESET ALL;
             {elsewhere}
             {settings} COMMIT",
            fence = self.fence_sql(),
            connections = limits.connections,
            password = quote_literal(&master.scram_verifier(self.name, self.credential_version)),
            elsewhere = self.reset_in_databases_sql(),
            settings = self.settings_sql(limits),
        );
        admin::batch(conn, sql).await.map_err(admin::shard_error)
    }

    /// A login may give itself settings for one database, which outrank those it has everywhere; and for any database of the
    /// server, whether it can reach it or not.
    fn reset_in_databases_sql(&self) -> String {
        format!(
            "DO $do$ DECLARE place name; BEGIN
               FOR place IN SELECT d.datname FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase
                             WHERE s.setrole = {role}::regrole LOOP
                 EXECUTE format('ALTER ROLE %I IN DATABASE %I RESET ALL', {name}, place);
               END LOOP;
             END $do$;",
            role = quote_literal(&quote_ident(self.name)),
            name = quote_literal(self.name),
        )
    }

    /// The settings that the login has now, in whatever database, as `name=value`; in order.
    ///
    /// # Errors
    /// What the shard says.
    pub async fn settings(&self, conn: &mut PgConnection) -> Result<Vec<String>> {
        let mut settings: Vec<String> = sqlx::query_scalar(
            "SELECT unnest(s.setconfig) FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole
              WHERE r.rolname = $1",
        )
        .bind(self.name)
        .fetch_all(conn)
        .await
        .map_err(admin::shard_error)?;
        settings.sort();
        Ok(settings)
    }

    /// Removes schema, login and grants. Doing it again changes nothing.
    pub async fn drop(&self, conn: &mut PgConnection) -> Result<()> {
        self.check()?;
        let exists: bool = sqlx::query_scalar("SELECT to_regrole($1) IS NOT NULL")
            .bind(quote_ident(self.name))
            .fetch_one(&mut *conn)
            .await
            .map_err(admin::shard_error)?;
        let schema = quote_ident(self.name);
        if exists {
            self.fence(conn).await?;
        }
        // Not DROP OWNED, which an admin that is no superuser may not. All that the login has are its schema's grants,
        // which go with the schema, and the right to connect. Whether there is one is asked when it is our turn: the making
        // of it may have been under way at the look above.
        let sql = format!(
            "BEGIN; {fence} DROP SCHEMA IF EXISTS {schema} CASCADE;
             SELECT pg_advisory_xact_lock(hashtextextended('freehold.connect', 0));
             DO $do$ BEGIN
               IF to_regrole({ident}) IS NOT NULL THEN
                 REVOKE CONNECT ON DATABASE {database} FROM {schema};
                 DROP ROLE {schema};
               END IF;
             END $do$;
             DELETE FROM freehold.schema_version WHERE schema_name = {name}; COMMIT",
            fence = self.fence_sql(),
            ident = quote_literal(&schema),
            database = quote_ident(self.database),
            name = quote_literal(self.name),
        );
        admin::batch(conn, sql).await.map_err(admin::shard_error)
    }
}
