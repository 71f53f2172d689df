//! How tenants' logins protect their connection to a shard. They are held to more than its admin is: encrypted, and the
//! server's name and certificate checked; or said to be off.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection};

use crate::db::admin::shard_error;
use crate::kernel::{Error, Result, codes};

/// Says who it is: a login that there is none of.
const NOBODY: &str = "freehold_looks_at_tls";
/// Longest look.
const PATIENCE: Duration = Duration::from_secs(5);
/// Certificates of authorities are some kilobytes. The text is read with each tenant that is looked up, so the bundle of all
/// regions of a cloud is too much.
const LARGEST: u64 = 1 << 16;

/// What a shard's admin DSN means for its tenants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantTls {
    /// `disable` or `verify-full`.
    pub mode: &'static str,
    /// The authorities that the server's certificate is checked against, as PEM; none for the public ones.
    pub ca: Option<String>,
}

/// The file of authorities that a DSN names.
pub fn root_cert(options: &PgConnectOptions) -> Option<PathBuf> {
    beside_environment(options, std::env::var_os("PGSSLROOTCERT").as_deref())
}

/// Options hold what `PGSSLROOTCERT` says where the DSN says nothing. That file is each process's own, servers' too, and may be
/// the bundle of a whole cloud: it is not kept with the shard.
fn beside_environment(options: &PgConnectOptions, environment: Option<&OsStr>) -> Option<PathBuf> {
    let url = options.to_url_lossy();
    let said = url.query_pairs().find(|(name, _)| name == "sslrootcert")?.1;
    // The driver writes before a file's name that it is one.
    let file = PathBuf::from(said.strip_prefix("file: ").unwrap_or(&said));
    (environment != Some(file.as_os_str())).then_some(file)
}

impl TenantTls {
    /// Nothing is assumed for a host elsewhere.
    ///
    /// # Errors
    /// `bad_request` for a DSN that does not say how its connections are protected, or names a file that cannot be read.
    pub fn of(options: &PgConnectOptions) -> Result<Self> {
        let host = options.get_host();
        let near = matches!(host, "localhost" | "127.0.0.1" | "::1") || host.starts_with('/');
        match options.get_ssl_mode() {
            PgSslMode::Disable => Ok(Self { mode: "disable", ca: None }),
            PgSslMode::Allow | PgSslMode::Prefer if near => Ok(Self { mode: "disable", ca: None }),
            PgSslMode::Allow | PgSslMode::Prefer => Err(Error::new(&codes::BAD_REQUEST)
                .detail("the shard's DSN does not say how its connections are protected")
                .hint("add ?sslmode=verify-full to it (or sslmode=disable on a network you trust)")),
            PgSslMode::Require | PgSslMode::VerifyCa | PgSslMode::VerifyFull => {
                let ca = root_cert(options).map(read).transpose()?;
                Ok(Self { mode: "verify-full", ca })
            }
        }
    }

    /// How a login protects its connection.
    pub fn apply(mode: Option<&str>, ca: Option<&str>, options: PgConnectOptions) -> PgConnectOptions {
        match (mode, ca) {
            (Some("disable"), _) => options.ssl_mode(PgSslMode::Disable),
            (_, None) => options.ssl_mode(PgSslMode::VerifyFull),
            (_, Some(ca)) => options.ssl_mode(PgSslMode::VerifyFull).ssl_root_cert_from_pem(ca.into()),
        }
    }

    /// Connects as a tenant would, as far as that goes without being one: a server that refuses the login was reached. The
    /// admin may get in where no tenant does, for less is asked of its connection.
    ///
    /// # Errors
    /// `bad_request` when the connection cannot be protected so; `shard_unavailable`.
    pub async fn look(&self, options: &PgConnectOptions) -> Result<()> {
        let database = options.get_database().unwrap_or(options.get_username());
        let login = PgConnectOptions::new_without_pgpass()
            .host(options.get_host())
            .port(options.get_port())
            .database(database)
            .username(NOBODY)
            .password(NOBODY)
            .application_name("freehold");
        let login = Self::apply(Some(self.mode), self.ca.as_deref(), login);
        let unprotected = |why: String| {
            Error::new(&codes::BAD_REQUEST)
                .detail(format!(
                    "tenants' logins cannot connect to {} with sslmode={}, though the admin can: {why}",
                    options.get_host(),
                    self.mode
                ))
                .hint("the server's certificate has to be for that name; name its authority's file: sslmode=verify-full&sslrootcert=/path")
        };
        match tokio::time::timeout(PATIENCE, login.connect()).await {
            Ok(Ok(conn)) => {
                conn.close().await.ok();
                Ok(())
            }
            Ok(Err(sqlx::Error::Database(_))) => Ok(()),
            Ok(Err(sqlx::Error::Tls(why))) => Err(unprotected(why.to_string())),
            // A certificate that is not accepted ends the handshake like this.
            Ok(Err(sqlx::Error::Io(why))) if why.kind() == std::io::ErrorKind::InvalidData => {
                Err(unprotected(why.to_string()))
            }
            Ok(Err(error)) => Err(shard_error(error)),
            Err(_) => Err(shard_error(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()))),
        }
    }
}

fn read(file: PathBuf) -> Result<String> {
    let bad = |why: String| {
        Error::new(&codes::BAD_REQUEST)
            .detail(format!("the shard's sslrootcert {} cannot be read: {why}", file.display()))
            .hint("the worker that prepares the shard reads it, and keeps what is in it beside the shard")
    };
    let size = std::fs::metadata(&file).map_err(|error| bad(error.to_string()))?.len();
    if size > LARGEST {
        return Err(bad("it is larger than 64 KiB: give it the authorities of this server alone".to_owned()));
    }
    let text = std::fs::read_to_string(&file).map_err(|error| bad(error.to_string()))?;
    if text.contains("-----BEGIN CERTIFICATE-----") {
        Ok(text)
    } else {
        Err(bad("it holds no certificate".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shown to fail: without the comparison, the bundle that the image for AWS names is too large for every shard.
    #[test]
    fn what_the_environment_names_is_not_the_shards() {
        let (file, dsn) =
            ("/etc/freehold/databases.pem", "postgres://u:p@db.example.com/d?sslmode=verify-full");
        let options: PgConnectOptions = format!("{dsn}&sslrootcert={file}").parse().unwrap();
        assert_eq!(beside_environment(&options, Some(OsStr::new(file))), None);
        assert_eq!(beside_environment(&options, Some(OsStr::new("/other.pem"))), Some(file.into()));
        assert_eq!(beside_environment(&options, None), Some(file.into()));
    }

    #[test]
    fn a_dsn_says_what_holds_for_tenants() {
        let of = |dsn: &str| TenantTls::of(&dsn.parse().expect(dsn));
        assert_eq!(of("postgres://u@127.0.0.1/d").unwrap().mode, "disable");
        assert_eq!(of("postgres://u@db.internal/d?sslmode=disable").unwrap().mode, "disable");
        assert_eq!(of("postgres://u@db.internal/d?sslmode=require").unwrap().mode, "verify-full");
        assert!(of("postgres://u@db.internal/d?sslmode=prefer").is_err());
        let missing = of("postgres://u@db.internal/d?sslmode=verify-full&sslrootcert=/nowhere/ca.pem");
        assert!(missing.unwrap_err().to_string().contains("/nowhere/ca.pem"));
        let options: PgConnectOptions = "postgres://u@h/d?sslrootcert=/a%20b/ca.pem".parse().unwrap();
        assert_eq!(root_cert(&options), Some(PathBuf::from("/a b/ca.pem")));
    }
}
