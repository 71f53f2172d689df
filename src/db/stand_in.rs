//! A database on this machine in the place of a server that a stand-in for AWS says it has made: its servers have addresses
//! and nothing behind them. For development alone; whoever calls this has made sure that the cloud is a stand-in.

use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};

use super::admin::{batch, owner_role, shard_error};
use super::control;
use super::ident::{quote_ident, quote_literal};
use crate::kernel::{Error, Result, codes};

/// What stands before the names of such databases and logins.
const MADE: &str = "made_";

/// Where such a server is said to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    pub host: String,
    pub port: u16,
    pub database: String,
    pub admin: String,
}

impl Made {
    fn of(server: &PgConnectOptions, name: &str) -> Self {
        let database = format!("{MADE}{}", name.replace('-', "_"));
        let admin = format!("{database}_admin");
        Self { host: server.get_host().to_owned(), port: server.get_port(), database, admin }
    }
}

/// The superuser's address of a server on this machine.
///
/// # Errors
/// `bad_request` when it is anywhere else.
pub fn server(url: &SecretString) -> Result<PgConnectOptions> {
    let options = control::options(url, "freehold-stand-in")?.disable_statement_logging();
    let host = options.get_host();
    if matches!(host, "127.0.0.1" | "::1" | "[::1]" | "localhost") || host.starts_with('/') {
        return Ok(options);
    }
    Err(Error::new(&codes::BAD_REQUEST)
        .detail(format!("a stand-in's servers are on this machine, and {host} is not"))
        .hint("leave [stand_in] out where the cloud is one"))
}

/// Makes the database with its admin, or sets what is there right. The admin is what a managed server gives: it makes
/// roles and owns the database, and is no superuser.
///
/// # Errors
/// What the server says.
pub async fn make(server: &PgConnectOptions, name: &str, password: &SecretString) -> Result<Made> {
    let made = Made::of(server, name);
    let mut conn = server.connect().await.map_err(shard_error)?;
    let (role, database) = (quote_ident(&made.admin), quote_ident(&made.database));
    let login = format!(
        "DO $do$ BEGIN
           IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {name}) THEN CREATE ROLE {role}; END IF;
         END $do$;
         ALTER ROLE {role} LOGIN CREATEROLE PASSWORD {password};
         GRANT pg_signal_backend, pg_read_all_stats TO {role}",
        name = quote_literal(&made.admin),
        password = quote_literal(password.expose_secret()),
    );
    batch(&mut conn, login).await.map_err(shard_error)?;
    if !there(&mut conn, &made.database).await? {
        batch(&mut conn, format!("CREATE DATABASE {database} OWNER {role}")).await.map_err(shard_error)?;
    }
    let mut inside = server.clone().database(&made.database).connect().await.map_err(shard_error)?;
    batch(&mut inside, format!("ALTER SCHEMA public OWNER TO {role}")).await.map_err(shard_error)?;
    Ok(made)
}

/// Removes the database and every login that could reach it, as its server would have gone.
///
/// # Errors
/// What the server says.
pub async fn remove(server: &PgConnectOptions, name: &str) -> Result<()> {
    let made = Made::of(server, name);
    let mut conn = server.connect().await.map_err(shard_error)?;
    let mut roles: Vec<String> = Vec::new();
    if there(&mut conn, &made.database).await? {
        roles = sqlx::query_scalar(
            // Those with a grant on it or in it. Not those that may connect: before it is prepared, everybody may.
            "SELECT DISTINCT r.rolname::text
               FROM pg_database d
               JOIN pg_shdepend s ON s.dbid = d.oid OR (s.classid = 'pg_database'::regclass AND s.objid = d.oid)
               JOIN pg_roles r ON s.refclassid = 'pg_authid'::regclass AND r.oid = s.refobjid
              WHERE d.datname = $1 AND r.rolname ~ '^t_[0-9a-v]{26}$'",
        )
        .bind(&made.database)
        .fetch_all(&mut conn)
        .await
        .map_err(shard_error)?;
    }
    batch(&mut conn, format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quote_ident(&made.database)))
        .await
        .map_err(shard_error)?;
    roles.extend([owner_role(&made.database), made.admin]);
    for role in roles {
        let drop = format!("DROP ROLE IF EXISTS {}", quote_ident(&role));
        batch(&mut conn, drop).await.map_err(shard_error)?;
    }
    Ok(())
}

async fn there(conn: &mut PgConnection, database: &str) -> Result<bool> {
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
        .bind(database)
        .fetch_one(conn)
        .await
        .map_err(shard_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shown to fail: with the comparison of the host taken out.
    #[test]
    fn a_server_elsewhere_is_refused() {
        for near in ["postgres://u:p@127.0.0.1:5432/d", "postgres://u@localhost/d", "postgres://u@[::1]/d"] {
            server(&SecretString::from(near)).expect(near);
        }
        for far in [
            "postgres://u:p@db.internal/d",
            "postgres://u@10.0.0.1/d",
            "postgres://u@127.0.0.1.example.com/d",
        ] {
            let error = server(&SecretString::from(far)).expect_err(far);
            assert!(error.public_detail().expect("a detail").contains("on this machine"));
        }
    }

    #[test]
    fn names_say_what_they_are() {
        let server = server(&SecretString::from("postgres://u:p@127.0.0.1:5432/d")).expect("here");
        let made = Made::of(&server, "d-0abc");
        assert_eq!((made.database.as_str(), made.admin.as_str()), ("made_d_0abc", "made_d_0abc_admin"));
    }
}
