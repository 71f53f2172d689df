//! The sign-in host, asked over HTTP.

use std::time::Duration;

use reqwest::{RequestBuilder, Response, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::cli::http;
use crate::http::oauth::{DEVICE, REVOKE, TOKEN, Tokens, USERINFO};
use crate::identity::tokens::CLIENT;
use crate::identity::userinfo::UserInfo;
use crate::kernel::{Error, Result, codes};

const PATIENCE: Duration = Duration::from_secs(20);

/// A server's sign-in host.
pub struct AuthServer {
    http: reqwest::Client,
    name: String,
}

/// What the server makes of a well-formed question.
pub enum Answer<T> {
    Yes(T),
    /// In the words of the standard.
    No(String),
}

/// A sign-in that has begun.
#[derive(Deserialize)]
pub struct Started {
    pub device_code: String,
    pub user_code: String,
    pub verification_uri_complete: String,
    pub expires_in: i64,
    pub interval: i64,
}

#[derive(Deserialize)]
struct Refused {
    error: String,
}

/// A server's address as it is kept: scheme, host and port.
///
/// # Errors
/// When it is none, or would send a person's tokens in the clear over a network.
pub fn origin(text: &str) -> Result<String> {
    let bad = |why: &str| {
        Error::new(&codes::BAD_REQUEST)
            .detail(format!("{text:?} {why}"))
            .hint("it looks like https://freehold.example.com")
    };
    let url: Url = text.parse().map_err(|_| bad("is not a server's address"))?;
    if !matches!(url.scheme(), "http" | "https") || !matches!(url.path(), "" | "/") || url.query().is_some() {
        return Err(bad("is not a server's address"));
    }
    let host = url.host_str().unwrap_or_default();
    let here = host == "localhost" || host.ends_with(".localhost") || host == "[::1]" || host == "127.0.0.1";
    if url.scheme() == "http" && !here {
        return Err(bad("is not encrypted: tokens are sent over https only, but for this machine"));
    }
    Ok(url.origin().ascii_serialization())
}

impl AuthServer {
    pub fn new(name: &str) -> Result<Self> {
        Ok(Self { http: http::client(PATIENCE)?, name: origin(name)? })
    }

    /// Scheme, host and port.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub async fn start(&self) -> Result<Started> {
        let form = [("client_id", CLIENT), ("client_name", &client_name())];
        match self.ask(self.form(DEVICE, &form)?).await? {
            Answer::Yes(started) => Ok(started),
            Answer::No(error) => Err(strange(&error)),
        }
    }

    pub async fn poll(&self, device_code: &str) -> Result<Answer<Tokens>> {
        let grant = "urn:ietf:params:oauth:grant-type:device_code";
        let form = [("client_id", CLIENT), ("grant_type", grant), ("device_code", device_code)];
        self.ask(self.form(TOKEN, &form)?).await
    }

    /// For a tenant, or (empty) for the person alone.
    pub async fn refresh(&self, token: &str, tenant: &str) -> Result<Answer<Tokens>> {
        let mut form = vec![("client_id", CLIENT), ("grant_type", "refresh_token"), ("refresh_token", token)];
        if !tenant.is_empty() {
            form.push(("tenant", tenant));
        }
        self.ask(self.form(TOKEN, &form)?).await
    }

    pub async fn revoke(&self, token: &str) -> Result<()> {
        let answer = self.send(self.form(REVOKE, &[("client_id", CLIENT), ("token", token)])?).await?;
        if answer.status().is_success() { Ok(()) } else { Err(unexpected(answer.status().as_u16())) }
    }

    pub async fn userinfo(&self, access_token: &str) -> Result<UserInfo> {
        let request = self.http.get(format!("{}{USERINFO}", self.name)).bearer_auth(access_token);
        let answer = self.send(request).await?;
        match answer.status().as_u16() {
            200 => read(answer).await,
            401 => Err(Error::new(&codes::UNAUTHENTICATED)
                .detail(format!("your session at {} has ended", self.name))
                .hint("run: freehold login")),
            status => Err(unexpected(status)),
        }
    }

    fn form(&self, path: &str, fields: &[(&str, &str)]) -> Result<RequestBuilder> {
        let encoded = Url::parse_with_params("form:", fields).map_err(Error::internal)?;
        let body = encoded.query().unwrap_or_default().to_owned();
        let request = self.http.post(format!("{}{path}", self.name));
        Ok(request.header("content-type", "application/x-www-form-urlencoded").body(body))
    }

    async fn ask<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<Answer<T>> {
        let answer = self.send(request).await?;
        match answer.status().as_u16() {
            200 => read(answer).await.map(Answer::Yes),
            400 | 401 => read::<Refused>(answer).await.map(|refused| Answer::No(refused.error)),
            429 | 503 => Err(Error::new(&codes::TIMEOUT)
                .detail(format!("{} is busy", self.name))
                .hint("try again in a moment")),
            status => Err(unexpected(status)),
        }
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response> {
        request.send().await.map_err(|error| {
            let why = if error.is_timeout() { "it does not answer in time" } else { "no connection" };
            Error::new(&codes::TIMEOUT)
                .detail(format!("cannot reach {}: {why}", self.name))
                .hint("is the server running, and is --server right?")
                .source(error)
        })
    }
}

async fn read<T: DeserializeOwned>(answer: Response) -> Result<T> {
    answer.json().await.map_err(|error| {
        Error::internal(error)
            .detail("the server's answer is not what this version expects")
            .hint("is --server the address of a Freehold server, of the same version?")
    })
}

fn unexpected(status: u16) -> Error {
    Error::internal(format!("status {status}"))
        .detail(format!("the server answered {status}"))
        .hint("is --server the address where people sign in, not a tenant's?")
}

/// A refusal that no good client meets.
pub fn strange(error: &str) -> Error {
    let error: String = error.chars().filter(|c| !c.is_control()).take(60).collect();
    Error::new(&codes::BAD_REQUEST).detail(format!("the server refused: {error}"))
}

/// What the page calls this terminal.
fn client_name() -> String {
    let user = std::env::var("USER").ok().filter(|user| !user.is_empty());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .or_else(|_| std::fs::read_to_string("/etc/hostname"));
    let host = host.ok().map(|host| host.trim().to_owned()).filter(|host| !host.is_empty());
    match (user, host) {
        (Some(user), Some(host)) => format!("freehold command line, {user}@{host}"),
        (None, Some(host)) => format!("freehold command line, {host}"),
        _ => "freehold command line".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_go_over_https_or_stay_on_this_machine() {
        for (text, want) in [
            ("https://freehold.example.com/", "https://freehold.example.com"),
            ("HTTPS://Freehold.example.com:8443", "https://freehold.example.com:8443"),
            ("http://localhost:8080", "http://localhost:8080"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ] {
            assert_eq!(origin(text).unwrap(), want);
        }
        for bad in [
            "http://freehold.example.com",
            "http://127.0.0.1.evil.io",
            "https://x/path",
            "ftp://localhost",
            "freehold.example.com",
            "",
        ] {
            assert!(origin(bad).is_err(), "{bad}");
        }
    }
}
