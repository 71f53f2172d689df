//! moto, a stand-in for AWS: a Python process for `freehold dev --with-cloud` and for the tests. It keeps all in memory, and
//! enforces no permissions: nothing that it allows is proved by that.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::Instant;

use super::ports;
use crate::kernel::{Error, Result, codes};

/// Ends with its stdin, and so with whoever started it, however that ends. Each server has a number of its own, by which the
/// provider looks for it: moto gives all the same, and with two servers nobody is found.
const PROGRAM: &str = "
import os, sys, threading, uuid
def until_alone():
    sys.stdin.read()
    os._exit(0)
threading.Thread(target=until_alone, daemon=True).start()
from moto.rds.models import DBInstance
init = DBInstance.__init__
def numbered(self, *args, **more):
    init(self, *args, **more)
    self.dbi_resource_id = 'db-' + uuid.uuid4().hex[:26].upper()
DBInstance.__init__ = numbered
from moto.server import main
main(['-H', '127.0.0.1', '-p', sys.argv[1]])
";

/// What it is installed by, in a checkout of Freehold.
const INSTALL: &str = "scripts/install-moto.sh";
const PYTHON: &str = "target/moto/venv/bin/python";

/// Its modules are many, and read from a disk that may be busy.
const START: Duration = Duration::from_secs(90);

/// A cloud with nothing in it. It ends with this value, or with this process.
#[derive(Debug)]
pub struct Moto {
    url: String,
    process: Child,
}

impl Moto {
    /// Installs it if it is not there, and starts it. `project` is a checkout of Freehold.
    ///
    /// # Errors
    /// `infra_unavailable` when it cannot be had, with what the installation lacks on stderr; `timeout`.
    pub async fn start(project: &Path, log: &Path) -> Result<Self> {
        let wrong = |what: &str| Error::new(&codes::INFRA_UNAVAILABLE).detail(what.to_owned());
        let install = project.join(INSTALL);
        if !install.is_file() {
            return Err(wrong("the stand-in for AWS is started in a checkout of Freehold, and this is none"));
        }
        let installed = tokio::process::Command::new(&install).status().await.map_err(Error::internal)?;
        if !installed.success() {
            return Err(
                wrong("moto, the stand-in for AWS, cannot be installed").hint("see scripts/install-moto.sh")
            );
        }
        let port = ports::choose()?;
        let log = File::create(log).map_err(Error::internal)?;
        let process = Command::new(std::path::absolute(project.join(PYTHON)).map_err(Error::internal)?)
            .args(["-c", PROGRAM, &port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            // A terminal's Ctrl-C is for us, who stop things in order.
            .process_group(0)
            .spawn()
            .map_err(Error::internal)?;
        let mut moto = Self { url: format!("http://127.0.0.1:{port}"), process };
        let begun = Instant::now();
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            if let Some(status) = moto.process.try_wait().map_err(Error::internal)? {
                return Err(wrong(&format!("moto, the stand-in for AWS, ended at once: {status}")));
            }
            if begun.elapsed() > START {
                return Err(Error::new(&codes::TIMEOUT).detail("moto, the stand-in for AWS, does not answer"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(moto)
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What Terraform is to be told, so that it comes here.
    pub fn env(&self) -> BTreeMap<String, String> {
        let all = [
            ("AWS_ENDPOINT_URL", self.url.as_str()),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("AWS_MAX_ATTEMPTS", "3"),
        ];
        all.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }
}

impl Moto {
    /// The network that a new account has: what the root `shard` takes as `network`.
    ///
    /// # Errors
    /// When it does not say.
    pub async fn network(&self) -> Result<serde_json::Value> {
        let subnets = self.ask("Action=DescribeSubnets&Version=2016-11-15").await?;
        let groups = self.ask("Action=DescribeSecurityGroups&Version=2016-11-15").await?;
        let vpc = texts(&subnets, "vpcId").into_iter().next();
        let group = texts(&groups, "groupId").into_iter().next();
        match (vpc, group) {
            (Some(vpc), Some(group)) => Ok(serde_json::json!({
                "vpc_id": vpc,
                "data_subnet_ids": texts(&subnets, "subnetId"),
                "client_security_group_ids": { "app": group },
            })),
            _ => Err(Error::internal("the stand-in for AWS has no network")),
        }
    }

    async fn ask(&self, form: &str) -> Result<String> {
        // Signed by nobody: it only reads which service is meant.
        let authorization = "AWS4-HMAC-SHA256 Credential=test/20250101/us-east-1/ec2/aws4_request, SignedHeaders=host, Signature=0";
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(30))
            .build()
            .map_err(Error::internal)?;
        let answer = client
            .post(&self.url)
            .header("authorization", authorization)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form.to_owned())
            .send()
            .await
            .map_err(Error::internal)?;
        answer.text().await.map_err(Error::internal)
    }
}

/// What stands in every element of this name. The answers are plain: no attributes, nothing escaped in ids.
fn texts(xml: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let parts = xml.split(open.as_str()).skip(1);
    parts.filter_map(|part| part.split_once(close.as_str())).map(|(text, _)| text.to_owned()).collect()
}

impl Drop for Moto {
    fn drop(&mut self) {
        // It ends by itself as well; so nobody finds it half alive.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_in_an_answer() {
        let xml = "<r><item><vpcId>vpc-1</vpcId></item><item><vpcId>vpc-2</vpcId></item><vpcId>cut";
        assert_eq!(texts(xml, "vpcId"), ["vpc-1", "vpc-2"]);
        assert_eq!(texts(xml, "subnetId"), [""; 0]);
    }
}
