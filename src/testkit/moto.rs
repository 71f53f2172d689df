//! A stand-in for AWS, asked past Terraform. Nothing it says of permissions counts: it enforces none.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use tokio::sync::OnceCell;

use crate::local;

/// A cloud. One for all tests of a process: starting it takes seconds. They tell themselves apart by their environment,
/// which is the first part of every name.
#[derive(Debug)]
pub struct Moto {
    /// `http://127.0.0.1:PORT`
    pub url: String,
    env: BTreeMap<String, String>,
    client: reqwest::Client,
}

impl Moto {
    /// # Panics
    /// Without Python 3 with venv, or when moto cannot be had from PyPI; says how to get it.
    pub async fn shared() -> Self {
        static STARTED: OnceCell<local::Moto> = OnceCell::const_new();
        let started = STARTED
            .get_or_init(|| async {
                let project = Path::new(env!("CARGO_MANIFEST_DIR"));
                let log = project.join("target").join(format!("moto-{}.log", std::process::id()));
                let started = local::Moto::start(project, &log).await.expect("moto: see scripts/install-moto.sh");
                // It goes on writing there; nobody else finds it.
                std::fs::remove_file(&log).expect("its log");
                started
            })
            .await;
        // A client belongs to the runtime that it was made in.
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        Self { url: started.url().to_owned(), env: started.env(), client }
    }

    /// What Terraform is to be told, so that it comes here.
    pub fn env(&self) -> BTreeMap<String, String> {
        self.env.clone()
    }

    /// All that is there of a kind (`iam`, `Role`) and has a text in it, by the cloud's own inventory.
    pub async fn all(&self, service: &str, kind: &str, text: &str) -> Vec<Value> {
        let answer =
            self.client.get(format!("{}/moto-api/data.json", self.url)).send().await.expect("an answer");
        let data: Value = serde_json::from_str(&answer.text().await.expect("a body")).expect("JSON");
        let mut all = data[service][kind].as_array().cloned().unwrap_or_default();
        all.retain(|one| one.to_string().contains(text));
        all
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

/// Signed by nobody: the stand-in only reads which service is meant.
fn authorization(service: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential=test/20250101/us-east-1/{service}/aws4_request, SignedHeaders=host, Signature=0"
    )
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
