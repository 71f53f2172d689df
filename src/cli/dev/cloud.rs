//! `freehold dev --with-cloud`: the real Terraform against a stand-in for AWS on this machine. Servers that the stand-in says
//! it has made are databases of the second local PostgreSQL server.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::{fleet, screen};
use crate::app;
use crate::control_plane::Hands;
use crate::control_plane::infra::dedicated;
use crate::control_plane::infra::settings::InfraSettings;
use crate::control_plane::plans::{self, Tier};
use crate::control_plane::shards::{NewPool, pool_add, pool_list};
use crate::kernel::{Error, Result, codes};
use crate::local::{Moto, Stack, write_private};

/// What `freehold infra` is told: `FREEHOLD_INFRA`.
const SETTINGS: &str = "infra.toml";

/// The cloud, as long as this lives.
pub struct DevCloud {
    moto: Moto,
    settings: PathBuf,
}

impl DevCloud {
    /// Starts the stand-in and gives `hands` what provisions in it; puts a plan of the dedicated tier on sale.
    ///
    /// # Errors
    /// `infra_unavailable` where Terraform or the stand-in cannot be had.
    pub async fn provide(hands: &mut Hands, home: &Path, stack: &Stack) -> Result<Self> {
        require_terraform()?;
        let home = std::path::absolute(home).map_err(Error::internal)?;
        screen::say("starting a stand-in for AWS");
        let moto = Moto::start(Path::new("."), &home.join("moto.log")).await?;
        let states = home.join("states.dsn");
        write_private(&states, &stack.states_url().await?)?;
        let servers = home.join("servers.dsn");
        write_private(&servers, &stack.servers()[1].url("postgres"))?;
        let roots = std::path::absolute("terraform").map_err(Error::internal)?;
        let text = settings(&home, &roots, &moto.env(), &moto.network().await?)?;
        let file = home.join(SETTINGS);
        write_private(&file, &text)?;
        hands.cloud = app::cloud(InfraSettings::parse(&text)?)?;

        plans::apply(&hands.cp, &fleet::caller(), &plans::with_dedicated_example()?, false).await?;
        let pools = pool_list(&mut *hands.cp.db.acquire().await?).await?;
        if !pools.iter().any(|pool| pool.name == "dedicated") {
            let pool =
                NewPool { name: "dedicated".to_owned(), region: "local".to_owned(), tier: Tier::Dedicated };
            pool_add(&hands.cp, &fleet::caller(), &pool).await?;
        }
        dedicated::seen(hands).await?;
        Ok(Self { moto, settings: file })
    }

    /// What to try with it.
    pub fn note(&self) {
        screen::note(&format!(
            "AWS is a stand-in at {}, which forgets everything when it stops. Tenants of --plan business get a role, a \
             secret and a log group; one of --plan dedicated a server too, in about two minutes. What there is: \
             FREEHOLD_INFRA={} freehold infra show tenant/<slug>",
            self.moto.url(),
            self.settings.display()
        ));
    }
}

fn require_terraform() -> Result<()> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&paths).any(|folder| folder.join("terraform").is_file()) {
        return Ok(());
    }
    Err(Error::new(&codes::INFRA_UNAVAILABLE).detail("--with-cloud needs Terraform 1.11 on the PATH").hint(
        "https://developer.hashicorp.com/terraform/install; without --with-cloud nothing is provisioned",
    ))
}

/// The file that says where the cloud is. A text of JSON is one of TOML too, and so is a list of them.
fn settings(
    home: &Path,
    roots: &Path,
    env: &BTreeMap<String, String>,
    network: &serde_json::Value,
) -> Result<String> {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let path = |path: PathBuf| quoted(&path.to_string_lossy());
    let file = |name: &str| quoted(&format!("file:{}", home.join(name).display()));
    let mut text = String::from("# Written by `freehold dev --with-cloud`, anew at each start.\n");
    let mut line = |line: std::fmt::Arguments<'_>| {
        text.write_fmt(line).ok();
        text.push('\n');
    };
    line(format_args!("provisioner = \"terraform\"\nenvironment = \"dev\"\nlock_timeout_seconds = 60"));
    line(format_args!("roots = {}\nwork = {}", path(roots.to_owned()), path(home.join("terraform"))));
    line(format_args!("state_url = {}\n[env]", file("states.dsn")));
    for (name, value) in env {
        line(format_args!("{name} = {}", quoted(value)));
    }
    line(format_args!(
        "[platform]\naccount_id = \"123456789012\"\nregion = \"us-east-1\"\nshared_bucket = \"dev-freehold\"\napp_task_role_id = \"dev-app\""
    ));
    line(format_args!("[network]\nvpc_id = {}", network["vpc_id"]));
    line(format_args!("data_subnet_ids = {}", network["data_subnet_ids"]));
    line(format_args!(
        "client_security_group_ids = {{ app = {} }}",
        network["client_security_group_ids"]["app"]
    ));
    line(format_args!(
        "[dedicated.inputs.shard]\nmulti_az = false\n[stand_in]\nserver = {}",
        file("servers.dsn")
    ));
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control_plane::infra::settings::Provisioner;

    #[test]
    fn the_file_that_is_written_can_be_read() {
        let env = BTreeMap::from([
            ("AWS_ENDPOINT_URL".to_owned(), "http://127.0.0.1:5000".to_owned()),
            ("AWS_REGION".to_owned(), "us-east-1".to_owned()),
        ]);
        let network = serde_json::json!({
            "vpc_id": "vpc-1", "data_subnet_ids": ["subnet-1", "subnet-2"], "client_security_group_ids": { "app": "sg-1" }
        });
        let text = settings(Path::new("/h\"x"), Path::new("/r"), &env, &network).expect("a text");
        let read = InfraSettings::parse(&text).expect(&text);
        assert_eq!(read.provisioner, Provisioner::Terraform);
        assert_eq!(read.network, network);
        assert_eq!(read.work, Path::new("/h\"x/terraform"));
        assert_eq!(read.env, env);
        assert_eq!(read.dedicated.inputs["shard"]["multi_az"], false);
        assert!(read.stand_in.is_some());
    }
}
