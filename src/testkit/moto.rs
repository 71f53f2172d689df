//! A stand-in for AWS, asked past Terraform. Nothing it says of permissions counts: it enforces none.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::local;

/// What an environment has in the cloud: names, and ids of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    pub roles: Vec<String>,
    /// Tenants' and servers'.
    pub secrets: Vec<String>,
    /// Tenants' alone.
    pub log_groups: Vec<String>,
    pub keys: Vec<String>,
    pub buckets: Vec<String>,
    /// The cloud's own number of each by its name: one that was replaced has another.
    pub servers: BTreeMap<String, String>,
}

impl Inventory {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A cloud. One for all tests of a process: starting it takes seconds. They tell themselves apart by their environment,
/// which is the first part of every name.
#[derive(Debug)]
pub struct Moto {
    /// `http://127.0.0.1:PORT`
    pub url: String,
    env: BTreeMap<String, String>,
    network: Value,
    client: reqwest::Client,
}

impl Moto {
    /// # Panics
    /// Without Python 3 with venv, or when moto cannot be had from PyPI; says how to get it.
    pub async fn shared() -> Self {
        static STARTED: OnceCell<(local::Moto, Value)> = OnceCell::const_new();
        let (started, network) = STARTED
            .get_or_init(|| async {
                let project = Path::new(env!("CARGO_MANIFEST_DIR"));
                let log = project.join("target").join(format!("moto-{}.log", std::process::id()));
                let started =
                    local::Moto::start(project, &log).await.expect("moto: see scripts/install-moto.sh");
                // It goes on writing there; nobody else finds it.
                std::fs::remove_file(&log).expect("its log");
                let network = started.network().await.expect("a network");
                (started, network)
            })
            .await;
        // A client belongs to the runtime that it was made in.
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        Self { url: started.url().to_owned(), env: started.env(), network: network.clone(), client }
    }

    /// What Terraform is to be told, so that it comes here.
    pub fn env(&self) -> BTreeMap<String, String> {
        self.env.clone()
    }

    /// What the root `shard` takes as `network`.
    pub fn network(&self) -> &Value {
        &self.network
    }

    /// What an environment has, by the cloud's own word.
    pub async fn inventory(&self, environment: &str) -> Inventory {
        let mine = |names: Vec<String>, start: String| -> Vec<String> {
            names.into_iter().filter(|name| name.starts_with(&start)).collect()
        };
        let roles = self.form("iam", "Action=ListRoles&Version=2010-05-08&MaxItems=1000").await;
        let filter = json!({ "MaxResults": 100, "Filters": [{ "Key": "name", "Values": [format!("{environment}/")] }] });
        let secrets = self.ask("secretsmanager", "secretsmanager.ListSecrets", &filter).await;
        let prefix = json!({ "logGroupNamePrefix": format!("/{environment}/"), "limit": 50 });
        let groups = self.ask("logs", "Logs_20140328.DescribeLogGroups", &prefix).await;
        Inventory {
            roles: mine(texts(&roles, "RoleName"), format!("{environment}-")),
            secrets: mine(fields(&secrets["SecretList"], "Name"), format!("{environment}/")),
            log_groups: fields(&groups["logGroups"], "logGroupName"),
            keys: self.keys(environment).await,
            buckets: mine(texts(&self.buckets().await, "Name"), format!("{environment}-")),
            servers: self.servers(environment).await,
        }
    }

    /// An environment's servers: the cloud's own number of each by its name.
    pub async fn servers(&self, environment: &str) -> BTreeMap<String, String> {
        let all = self.form("rds", "Action=DescribeDBInstances&Version=2014-10-31").await;
        let numbers = texts(&all, "DbiResourceId").into_iter();
        let servers = texts(&all, "DBInstanceIdentifier").into_iter().zip(numbers);
        servers.filter(|(name, _)| name.starts_with(&format!("{environment}-"))).collect()
    }

    /// But for those that are to be removed: that takes days.
    async fn keys(&self, environment: &str) -> Vec<String> {
        let all = self.ask("kms", "TrentService.ListKeys", &json!({ "Limit": 1000 })).await;
        let mut mine = Vec::new();
        for id in fields(&all["Keys"], "KeyId") {
            let key = self.ask("kms", "TrentService.DescribeKey", &json!({ "KeyId": id })).await;
            let about = key["KeyMetadata"]["Description"].as_str().unwrap_or_default().to_owned();
            if about.contains(&format!("{environment}-"))
                && key["KeyMetadata"]["KeyState"] != "PendingDeletion"
            {
                mine.push(id);
            }
        }
        mine
    }

    async fn buckets(&self) -> String {
        let asked = self.client.get(format!("{}/", self.url)).header("authorization", authorization("s3"));
        asked.send().await.expect("an answer").text().await.expect("a body")
    }

    /// Asks a service as AWS is asked: `logs`, `Logs_20140328.DeleteLogGroup`.
    pub async fn ask(&self, service: &str, target: &str, body: &Value) -> Value {
        let answer = self
            .client
            .post(&self.url)
            .header("authorization", authorization(service))
            .header("x-amz-target", target)
            .header("content-type", "application/x-amz-json-1.1")
            .body(body.to_string())
            .send()
            .await
            .expect("an answer");
        assert!(answer.status().is_success(), "{target}: {}", answer.status());
        serde_json::from_str(&answer.text().await.expect("a body")).unwrap_or(Value::Null)
    }

    /// Asks a service that takes forms: `rds`, `Action=CreateDBInstance&…`. Its answer is XML.
    pub async fn form(&self, service: &str, form: &str) -> String {
        let answer = self
            .client
            .post(&self.url)
            .header("authorization", authorization(service))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form.to_owned())
            .send()
            .await
            .expect("an answer");
        let status = answer.status();
        let text = answer.text().await.expect("a body");
        assert!(status.is_success(), "{form}: {text}");
        text
    }
}

/// What stands in every element of this name, in their order.
fn texts(xml: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let parts = xml.split(open.as_str()).skip(1);
    parts.filter_map(|part| part.split_once(close.as_str())).map(|(text, _)| text.to_owned()).collect()
}

fn fields(list: &Value, name: &str) -> Vec<String> {
    let all = list.as_array().into_iter().flatten();
    all.filter_map(|one| one[name].as_str().map(str::to_owned)).collect()
}

/// Signed by nobody: the stand-in only reads which service is meant.
fn authorization(service: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential=test/20250101/us-east-1/{service}/aws4_request, SignedHeaders=host, Signature=0"
    )
}

/// The folder on this disk that mirrors Terraform's provider, if there is one: what `scripts/plugin-mirror.sh` says.
///
/// # Panics
/// When the script cannot be run.
pub fn plugin_mirror() -> Option<PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let look = || {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/plugin-mirror.sh");
        let said = std::process::Command::new(script).output().expect("scripts/plugin-mirror.sh");
        let folder = String::from_utf8(said.stdout).expect("a path").trim().to_owned();
        (!folder.is_empty()).then(|| PathBuf::from(folder))
    };
    FOUND.get_or_init(look).clone()
}

/// Fails with what to do where Terraform is missing. A machine that cannot have it says so: `FREEHOLD_TEST_TERRAFORM=none`
/// leaves these tests out, loudly. False then.
///
/// # Panics
/// Without Terraform.
pub fn terraform_is_here() -> bool {
    if std::env::var("FREEHOLD_TEST_TERRAFORM").is_ok_and(|said| said == "none") {
        eprintln!("NOT TESTED: Terraform's driver (FREEHOLD_TEST_TERRAFORM=none)");
        return false;
    }
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths).any(|folder| folder.join("terraform").is_file());
    assert!(
        found,
        "terraform is not on the PATH: https://developer.hashicorp.com/terraform/install. Where it cannot be had, \
         FREEHOLD_TEST_TERRAFORM=none leaves its tests out, and says so."
    );
    true
}
