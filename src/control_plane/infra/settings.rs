//! How the cloud is provisioned: one TOML file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::kernel::{Error, Result, SecretRef, codes};

/// Who makes what SQL cannot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Provisioner {
    /// Nobody: tenants are schemas and nothing else, and plans with a shard of their own are refused.
    #[default]
    None,
    Terraform,
}

/// The file's content. Without a file nothing is provisioned.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InfraSettings {
    pub provisioner: Provisioner,
    /// The first part of every name in the cloud; never to be changed.
    pub environment: String,
    /// The program. A bare name is looked for on the PATH.
    pub terraform: PathBuf,
    /// The version that is expected: `1.11` is any 1.11.x. A state that a newer one has written is not read by an older.
    pub terraform_version: String,
    /// The folder with `modules/`, `platform/`, `shard/` and `tenant/`.
    pub roots: PathBuf,
    /// Where runs have their copies, and the provider is unpacked (about 0.7 GB).
    pub work: PathBuf,
    /// The database of the states: `env:NAME` or `file:/path`. One of its own, not through a pooler.
    pub state_url: Option<SecretRef>,
    /// A folder with the provider, where the registry is out of reach. `TF_PLUGIN_MIRROR` when not given.
    pub mirror: Option<PathBuf>,
    /// Resources that one run works at side by side.
    pub parallelism: u16,
    /// Runs of Terraform at once, by this process: each takes about 0.7 GB.
    pub at_once: u16,
    /// How long a run waits for the lock of its state.
    pub lock_timeout_seconds: u32,
    /// After this long a run is asked, once, to stop.
    pub limit_minutes: u32,
    /// Environment for Terraform, beside `AWS_*` and proxy settings, which are handed on. No secrets: they have
    /// references.
    pub env: BTreeMap<String, String>,
    /// What the environment has for all tenants: the outputs of the `platform` root that the others take as inputs.
    pub platform: serde_json::Value,
    pub network: serde_json::Value,
    /// `[platform_root]`: what the platform root takes, for looking at its drift.
    pub platform_root: RootSettings,
    /// `[shard.<name>]`: the servers that there are to be.
    pub shard: BTreeMap<String, RootSettings>,
    /// `[dedicated]`: the server that each dedicated tenant gets.
    pub dedicated: DedicatedSettings,
    /// `[stand_in]`: beside a stand-in for AWS on this machine, whose servers have nothing behind them.
    pub stand_in: Option<StandInSettings>,
}

/// What the root `shard` takes for a server of a tenant's own. Its password is no matter of settings: it follows from the
/// master key.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DedicatedSettings {
    /// Variables, as the root names them.
    pub inputs: serde_json::Map<String, serde_json::Value>,
}

/// Where the databases of a stand-in's servers really are. It is refused unless the cloud is on this machine.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StandInSettings {
    /// The superuser's address of a PostgreSQL server on this machine: `env:NAME` or `file:/path`.
    pub server: SecretRef,
}

/// What a root takes that an operator applies.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RootSettings {
    /// Variables, as the root names them. No secrets.
    pub inputs: serde_json::Map<String, serde_json::Value>,
    /// Ephemeral variables: `admin_password = "file:/run/secrets/…"`.
    pub secrets: BTreeMap<String, SecretRef>,
}

impl Default for InfraSettings {
    fn default() -> Self {
        Self {
            provisioner: Provisioner::None,
            environment: "dev".to_owned(),
            terraform: "terraform".into(),
            terraform_version: "1.11".to_owned(),
            roots: "terraform".into(),
            work: ".freehold/terraform".into(),
            state_url: None,
            mirror: None,
            parallelism: 10,
            at_once: 4,
            lock_timeout_seconds: 300,
            limit_minutes: 60,
            env: BTreeMap::new(),
            platform: serde_json::Value::Null,
            network: serde_json::Value::Null,
            platform_root: RootSettings::default(),
            shard: BTreeMap::new(),
            dedicated: DedicatedSettings::default(),
            stand_in: None,
        }
    }
}

impl InfraSettings {
    /// # Errors
    /// `bad_request` with what is wrong.
    pub fn parse(text: &str) -> Result<Self> {
        let settings: Self = toml::from_str(text).map_err(|error| wrong(error.to_string()))?;
        settings.check()?;
        Ok(settings)
    }

    /// What the file says; without a file, the defaults.
    ///
    /// # Errors
    /// As [`InfraSettings::parse`], and when the file cannot be read.
    pub fn of(file: Option<&Path>) -> Result<Self> {
        let Some(file) = file else { return Ok(Self::default()) };
        let text = std::fs::read_to_string(file).map_err(|error| {
            Error::new(&codes::BAD_REQUEST)
                .detail(format!("the infrastructure settings {} cannot be read", file.display()))
                .source(error)
        })?;
        Self::parse(&text)
    }

    fn check(&self) -> Result<()> {
        let named = self.environment.len() <= 12
            && self.environment.starts_with(|c: char| c.is_ascii_lowercase())
            && self.environment.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        if !named {
            return Err(wrong(format!(
                "environment: {:?} is not up to 12 lower-case letters and digits that begin with a letter",
                self.environment
            )));
        }
        for (name, value) in [
            ("parallelism", u32::from(self.parallelism)),
            ("at_once", u32::from(self.at_once)),
            ("limit_minutes", self.limit_minutes),
            ("lock_timeout_seconds", self.lock_timeout_seconds),
        ] {
            if value == 0 {
                return Err(wrong(format!("{name}: 0 would let nothing happen")));
            }
        }
        if self.provisioner == Provisioner::Terraform && self.state_url.is_none() {
            return Err(wrong("state_url: Terraform needs a database for its states".to_owned()));
        }
        if let Some(name) = self.env.keys().find(|name| name.starts_with("TF_VAR_") || name.starts_with("PG"))
        {
            return Err(wrong(format!("env: {name} is set by Freehold itself")));
        }
        if self.shard.contains_key("control") {
            return Err(wrong(
                "shard.control: that is what the control database's own server is called".to_owned(),
            ));
        }
        if self.stand_in.is_some() {
            self.check_stand_in()?;
        }
        Ok(())
    }

    /// A stand-in's databases are for a stand-in: with the real cloud, a tenant that pays for a server would silently get a
    /// database on the worker's machine.
    fn check_stand_in(&self) -> Result<()> {
        let endpoint = self.env.get("AWS_ENDPOINT_URL").map_or("", String::as_str);
        if !is_here(endpoint) {
            return Err(wrong(format!(
                "stand_in: it needs AWS_ENDPOINT_URL = \"http://127.0.0.1:<port>\" in [env], and that is {endpoint:?}"
            )));
        }
        let other = |name: &&String| name.starts_with("AWS_") && !OF_A_STAND_IN.contains(&name.as_str());
        if let Some(name) = self.env.keys().find(other) {
            return Err(wrong(format!("stand_in: {name} could lead elsewhere")));
        }
        Ok(())
    }

    pub fn lock_timeout(&self) -> Duration {
        Duration::from_secs(self.lock_timeout_seconds.into())
    }

    pub fn limit(&self) -> Duration {
        Duration::from_secs(u64::from(self.limit_minutes) * 60)
    }
}

/// What a stand-in is told. Anything else of the kind could name another cloud.
const OF_A_STAND_IN: &[&str] = &[
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_EC2_METADATA_DISABLED",
    "AWS_MAX_ATTEMPTS",
];

/// Whether an endpoint is a port of this machine, without TLS. No cloud is.
fn is_here(endpoint: &str) -> bool {
    let authority = endpoint.strip_prefix("http://").map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    authority.and_then(|authority| authority.rsplit_once(':')).is_some_and(|(host, port)| {
        port.parse::<u16>().is_ok() && matches!(host, "127.0.0.1" | "[::1]" | "localhost")
    })
}

fn wrong(why: String) -> Error {
    Error::new(&codes::BAD_REQUEST).detail(format!("the infrastructure settings: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_word_nothing_is_provisioned() {
        let settings = InfraSettings::parse("").expect("an empty file");
        assert_eq!(settings.provisioner, Provisioner::None);
        assert_eq!(InfraSettings::of(None).expect("no file").provisioner, Provisioner::None);
    }

    #[test]
    fn terraform_is_chosen_by_name() {
        let text = "provisioner = \"terraform\"\nenvironment = \"prod\"\nstate_url = \"env:STATES\"\n[platform]\nregion = \"x\"";
        let settings = InfraSettings::parse(text).expect("settings");
        assert_eq!(settings.provisioner, Provisioner::Terraform);
        assert_eq!(settings.platform["region"], "x");
        assert_eq!(settings.lock_timeout(), Duration::from_secs(300));
    }

    /// Shown to fail: without the call of `check_stand_in`, or with `contains("127.0.0.1")` in `is_here`.
    #[test]
    fn a_stand_ins_databases_are_for_a_stand_in() {
        let settings = |env: &str| {
            let text =
                "provisioner = \"terraform\"\nstate_url = \"env:S\"\n[stand_in]\nserver = \"env:P\"\n[env]\n";
            InfraSettings::parse(&format!("{text}{env}"))
        };
        for endpoint in ["http://127.0.0.1:5000", "http://localhost:5000", "http://[::1]:5000/"] {
            settings(&format!("AWS_ENDPOINT_URL = \"{endpoint}\"")).expect(endpoint);
        }
        for endpoint in [
            "",
            "https://127.0.0.1:5000",
            "http://127.0.0.1",
            "http://127.0.0.1:80@rds.amazonaws.com:80",
            "http://127.0.0.1.example.com:80",
            "http://rds.eu-central-1.amazonaws.com:80/127.0.0.1:80",
            "http://10.0.0.1:5000",
        ] {
            let error = settings(&format!("AWS_ENDPOINT_URL = \"{endpoint}\"")).expect_err(endpoint);
            assert!(error.public_detail().expect("a detail").contains("stand_in"), "{endpoint}");
        }
        settings("").expect_err("no endpoint is AWS itself");
        for more in ["AWS_ENDPOINT_URL_RDS = \"https://rds.example.com\"", "AWS_PROFILE = \"prod\""] {
            settings(&format!("AWS_ENDPOINT_URL = \"http://127.0.0.1:1\"\n{more}")).expect_err(more);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, what) in [
            ("provisioner = \"pulumi\"", "pulumi"),
            ("provisioner = \"terraform\"", "state_url"),
            ("environment = \"Prod\"", "environment"),
            ("environment = \"production-eu-1\"", "environment"),
            ("parallelism = 0", "parallelism"),
            ("parallel = 3", "parallel"),
            ("[env]\nTF_VAR_secret = \"x\"", "TF_VAR_secret"),
            ("[dedicated]\nsecrets = 1", "secrets"),
            // Guards `shard.contains_key("control")`: it would be imported by its name into a shard's state.
            ("[shard.control.inputs]\nx = 1", "shard.control"),
        ] {
            let error = InfraSettings::parse(text).expect_err(text);
            let detail = error.public_detail().expect("a detail");
            assert!(detail.contains(what), "{text}: {detail}");
        }
    }
}
