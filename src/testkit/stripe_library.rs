//! Stripe's official library in a Node.js process of its own, behind the small script `tests/stripe/client.mjs`: what it
//! accepts of the stand-in and signs for us is Stripe's word, not ours.

use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;

use super::idp::npm_ci;
use super::stripe::StripeStandIn;

/// The library. Ends with the value, and with this process however it ends: its stdin closes.
pub struct StripeLibrary {
    _process: Child,
    talk: Mutex<(ChildStdin, Lines<BufReader<ChildStdout>>)>,
}

impl StripeLibrary {
    /// Starts it, connected to a stand-in.
    ///
    /// # Panics
    /// Without Node.js 20 and npm, and when the packages cannot be had.
    pub async fn start(stand_in: &StripeStandIn) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stripe");
        npm_ci(&folder);
        let mut process = Command::new("node")
            .arg("client.mjs")
            .current_dir(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("the tests need Node.js 20 or newer: {error}"));
        let stdin = process.stdin.take().expect("its stdin");
        let stdout = BufReader::new(process.stdout.take().expect("its stdout"));
        let library = Self { _process: process, talk: Mutex::new((stdin, stdout.lines())) };
        let addr = stand_in.addr();
        let at = json!({ "do": "connect", "host": addr.ip().to_string(), "port": addr.port(), "key": stand_in.key });
        library.say(at).await.expect("a connection");
        library
    }

    /// Calls a method by its name (`billing.meterEvents.create`) with these arguments.
    ///
    /// # Errors
    /// What the library throws: type, code, status, message.
    pub async fn call(&self, name: &str, args: Value) -> Result<Value, Value> {
        self.say(json!({ "do": "call", "name": name, "args": args })).await
    }

    /// The ids of all pages of a list.
    ///
    /// # Errors
    /// As [`StripeLibrary::call`].
    pub async fn all(&self, name: &str, args: Value) -> Result<Value, Value> {
        self.say(json!({ "do": "all", "name": name, "args": args })).await
    }

    /// A `Stripe-Signature` header of the library's making.
    ///
    /// # Panics
    /// When it makes none.
    pub async fn sign(&self, payload: &str, secret: &str, timestamp: i64) -> String {
        let asked = json!({ "do": "sign", "payload": payload, "secret": secret, "timestamp": timestamp });
        self.say(asked).await.expect("a signature").as_str().expect("a text").to_owned()
    }

    /// The event that the library makes of a delivery.
    ///
    /// # Errors
    /// When it refuses the signature.
    pub async fn construct(&self, payload: &str, header: &str, secret: &str) -> Result<Value, Value> {
        self.say(json!({ "do": "construct", "payload": payload, "header": header, "secret": secret })).await
    }

    async fn say(&self, command: Value) -> Result<Value, Value> {
        let mut talk = self.talk.lock().await;
        talk.0.write_all(format!("{command}\n").as_bytes()).await.expect("its stdin");
        let line = talk.1.next_line().await.expect("its stdout").expect("a line: did the library start?");
        let answer: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("not JSON: {line}"));
        match answer.get("error") {
            Some(error) => Err(error.clone()),
            None => Ok(answer["ok"].clone()),
        }
    }
}
