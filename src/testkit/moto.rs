//! A stand-in for AWS: moto, in a process of its own. Nothing it says of permissions counts: it enforces none.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::{Child, Command};

use super::eventually;
use super::process::free_port;

/// Ends with its stdin, and so with whoever started it, however that ends.
const PROGRAM: &str = "
import os, sys, threading
def until_alone():
    sys.stdin.read()
    os._exit(0)
threading.Thread(target=until_alone, daemon=True).start()
from moto.server import main
main(['-H', '127.0.0.1', '-p', sys.argv[1]])
";

/// A cloud with nothing in it.
#[derive(Debug)]
pub struct Moto {
    /// `http://127.0.0.1:PORT`
    pub url: String,
    client: reqwest::Client,
    _process: Child,
}

fn project() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

impl Moto {
    /// # Panics
    /// Without Python 3 with venv, or when moto cannot be had from PyPI; says how to get it.
    pub async fn start() -> Self {
        let installed =
            Command::new(project().join("scripts/install-moto.sh")).status().await.expect("the script");
        assert!(installed.success(), "no moto: see scripts/install-moto.sh");
        let port = free_port();
        let process = Command::new(project().join("target/moto/venv/bin/python"))
            .args(["-c", PROGRAM, &port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("moto");
        let client = reqwest::Client::builder().build().expect("a client");
        let url = format!("http://127.0.0.1:{port}");
        let moto = Self { url, client, _process: process };
        let page = format!("{}/moto-api/data.json", moto.url);
        eventually(Duration::from_secs(60), "moto answers", async || {
            moto.client.get(&page).send().await.map(drop)
        })
        .await;
        moto
    }

    /// What Terraform is to be told, so that it comes here.
    pub fn env(&self) -> Vec<(String, String)> {
        [
            ("AWS_ENDPOINT_URL", self.url.as_str()),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("AWS_MAX_ATTEMPTS", "3"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    /// All that is there of a kind (`iam`, `Role`), by the cloud's own inventory.
    pub async fn all(&self, service: &str, kind: &str) -> Vec<Value> {
        let answer =
            self.client.get(format!("{}/moto-api/data.json", self.url)).send().await.expect("an answer");
        let data: Value = serde_json::from_str(&answer.text().await.expect("a body")).expect("JSON");
        data[service][kind].as_array().cloned().unwrap_or_default()
    }

    /// Asks a service as AWS is asked: `logs`, `Logs_20140328.DeleteLogGroup`.
    pub async fn ask(&self, service: &str, target: &str, body: &Value) -> Value {
        let scope = format!(
            "AWS4-HMAC-SHA256 Credential=test/20250101/us-east-1/{service}/aws4_request, SignedHeaders=host, Signature=0"
        );
        let answer = self
            .client
            .post(&self.url)
            .header("authorization", scope)
            .header("x-amz-target", target)
            .header("content-type", "application/x-amz-json-1.1")
            .body(body.to_string())
            .send()
            .await
            .expect("an answer");
        assert!(answer.status().is_success(), "{target}: {}", answer.status());
        serde_json::from_str(&answer.text().await.expect("a body")).unwrap_or(Value::Null)
    }
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
