//! Settings: one struct per section, read from flags and environment. `--help` is their documentation.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use secrecy::SecretString;

use crate::billing::settings::Settings as StripeSettings;
use crate::control_plane::Addresses;
use crate::identity::settings::Settings;
use crate::kernel::{Error, MasterKey, Result, SecretRef, codes};

pub mod home;

/// Where the control database is. Every command needs it.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Control plane")]
pub struct ControlConfig {
    /// The control database: postgres://user:password@host:5432/database, or file:/path of a file that holds this
    ///
    /// The default is taken from the state folder of `freehold dev`.
    #[arg(
        long,
        global = true,
        env = "FREEHOLD_CONTROL_URL",
        hide_env_values = true,
        value_name = "URL",
        value_parser = secret
    )]
    pub control_url: Option<SecretString>,

    /// The master key from which the passwords of tenants' logins are derived: 64 hexadecimal digits, or file:/path
    ///
    /// Set it in the environment or in a file, not on the command line, where other users of the machine can read it.
    #[arg(
        long,
        global = true,
        env = "FREEHOLD_MASTER_KEY",
        hide_env_values = true,
        value_name = "HEX",
        value_parser = secret
    )]
    pub master_key: Option<SecretString>,

    /// The folder where `freehold dev` keeps its state, and where other commands look for it
    #[arg(long, global = true, env = "FREEHOLD_HOME", default_value = ".freehold", value_name = "DIR")]
    pub home: PathBuf,

    /// Tenants live under this domain: acme.<base domain>
    #[arg(
        long,
        global = true,
        env = "FREEHOLD_BASE_DOMAIN",
        default_value = "localhost",
        value_name = "DOMAIN"
    )]
    pub base_domain: String,

    /// The scheme of tenants' addresses, and the port if it is not the scheme's own: https, or http:8080
    #[arg(
        long,
        global = true,
        env = "FREEHOLD_PUBLIC_SCHEME",
        default_value = "https",
        value_name = "SCHEME[:PORT]"
    )]
    pub public_scheme: String,
}

impl ControlConfig {
    pub fn control_url(&self) -> Result<&SecretString> {
        self.control_url.as_ref().ok_or_else(|| {
            Error::new(&codes::BAD_REQUEST)
                .detail("no control database is given")
                .hint("set FREEHOLD_CONTROL_URL, or start a local stack with: freehold dev")
        })
    }

    pub fn master_key(&self) -> Result<MasterKey> {
        use secrecy::ExposeSecret;
        let hex = self.master_key.as_ref().ok_or_else(|| {
            Error::new(&codes::BAD_REQUEST)
                .detail("no master key is given")
                .hint("set FREEHOLD_MASTER_KEY; make one with: openssl rand -hex 32")
        })?;
        MasterKey::from_hex(hex.expose_secret())
    }

    pub fn addresses(&self) -> Result<Addresses> {
        let (scheme, port) = match self.public_scheme.split_once(':') {
            None => (self.public_scheme.as_str(), None),
            Some((scheme, port)) => (scheme, Some(port.parse::<u16>().ok())),
        };
        match (scheme, port) {
            ("http" | "https", None | Some(Some(_))) => Ok(Addresses {
                scheme: scheme.to_owned(),
                base_domain: self.base_domain.to_ascii_lowercase(),
                port: port.flatten(),
            }),
            _ => Err(Error::new(&codes::BAD_REQUEST)
                .detail(format!("{:?} is not a public scheme", self.public_scheme))
                .hint("say https, http, or one of them with a port: http:8080")),
        }
    }
}

/// A secret as it is, or by reference (`file:/path`, `env:NAME`): what is mounted as a file is then in no environment,
/// which child processes and whoever may look at a container can read.
fn secret(text: &str) -> Result<SecretString, String> {
    match text.parse::<SecretRef>() {
        Ok(reference) => {
            reference.read().map_err(|error| format!("{reference} cannot be read: {}", cause(&error)))
        }
        Err(_) => Ok(SecretString::from(text)),
    }
}

/// What lies under the error: it names no secret, only why a file or a variable is not there.
fn cause(error: &Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(next) = deepest.source() {
        deepest = next;
    }
    deepest.to_string()
}

/// How requests are served.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Serving")]
pub struct ServeConfig {
    /// The address to listen on
    #[arg(long, env = "FREEHOLD_HTTP_ADDR", default_value = "127.0.0.1:8080", value_name = "ADDR")]
    pub http_addr: SocketAddr,

    /// Redis, for rate limits: redis://:password@host:6379/ or file:/path. Without it, limits are counted in this
    /// process alone
    #[arg(long, env = "FREEHOLD_REDIS_URL", hide_env_values = true, value_name = "URL", value_parser = secret)]
    pub redis_url: Option<SecretString>,

    /// Connections this process may hold on each shard
    #[arg(long, env = "FREEHOLD_BROKER_BUDGET", default_value_t = 40, value_name = "N")]
    pub broker_budget: usize,

    /// How many server processes share the tenants' limits
    #[arg(long, env = "FREEHOLD_REPLICAS", default_value_t = 1, value_name = "N")]
    pub replicas: u32,

    /// Serve /metrics and the health pages on this address, for monitoring only. Without it there is no /metrics
    #[arg(long, env = "FREEHOLD_METRICS_ADDR", value_name = "ADDR")]
    pub metrics_addr: Option<SocketAddr>,

    /// How people sign in, and how mail is sent: a TOML file (docs/IDENTITY.md, infra/identity.example.toml). Without it
    /// only keys get in
    #[arg(long, env = "FREEHOLD_IDENTITY", value_name = "FILE")]
    pub identity: Option<PathBuf>,

    /// How Stripe is reached: a TOML file (docs/STRIPE.md, infra/stripe.example.toml). Without it, use is recorded and
    /// nobody is billed
    #[arg(long, env = "FREEHOLD_STRIPE", value_name = "FILE")]
    pub stripe: Option<PathBuf>,

    /// How long requests in flight may take to finish after a stop signal
    #[arg(long, env = "FREEHOLD_DRAIN_SECONDS", default_value_t = 20, value_name = "SECONDS")]
    pub drain_seconds: u64,

    /// How long to keep serving after a stop signal while /health/ready already says no, so that the load balancer
    /// stops sending requests first
    #[arg(long, env = "FREEHOLD_GRACE_SECONDS", default_value_t = 0, value_name = "SECONDS")]
    pub grace_seconds: u64,
}

impl ServeConfig {
    pub fn identity(&self) -> Result<Settings> {
        self.identity.as_deref().map_or_else(|| Ok(Settings::default()), Settings::read)
    }

    pub fn stripe(&self) -> Result<StripeSettings> {
        StripeSettings::of(self.stripe.as_deref())
    }

    pub fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }

    pub fn grace(&self) -> Duration {
        Duration::from_secs(self.grace_seconds)
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn a_secret_is_itself_or_what_its_file_holds() {
        let read = |text: &str| secret(text).map(|secret| secret.expose_secret().to_owned());
        assert_eq!(
            read("postgres://freehold:pw@host/freehold").unwrap(),
            "postgres://freehold:pw@host/freehold"
        );
        assert_eq!(read("redis://:pw@host:6379/").unwrap(), "redis://:pw@host:6379/");
        let file = std::env::temp_dir().join(format!("freehold-secret-{}", std::process::id()));
        std::fs::write(&file, "postgres://from:file@host/freehold\n").unwrap();
        let found = read(&format!("file:{}", file.display()));
        std::fs::remove_file(&file).unwrap();
        assert_eq!(found.unwrap(), "postgres://from:file@host/freehold");
        let missing = read(&format!("file:{}", file.display())).unwrap_err();
        assert!(missing.contains("cannot be read: No such file"), "{missing}");
    }
}
