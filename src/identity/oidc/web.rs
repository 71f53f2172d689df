//! Questions to providers over HTTP: short, small, never redirected. A provider that a workspace names is asked on the
//! open internet only: its name must not lead into our own network (`public`).

use std::time::Duration;

use bytes::BytesMut;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use reqwest::redirect::Policy;
use reqwest::{Client, Request, Response, Url};
use serde::de::DeserializeOwned;

use super::public::{self, PublicOnly};

const CONNECT: Duration = Duration::from_secs(3);
const WHOLE: Duration = Duration::from_secs(8);
/// No document of a provider is nearly as long.
const LONGEST: usize = 256 * 1024;

/// Why a question has no answer. The texts are for the log.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    #[error("{0:?} is no address that may be asked: https is required, and a place on the open internet")]
    Address(String),
    #[error(transparent)]
    Transport(#[from] reqwest::Error),
    #[error("the answer is longer than {LONGEST} bytes")]
    TooLong,
    #[error("the answer has status {0}")]
    Status(u16),
    /// Where, not what: serde's words quote the answer.
    #[error("the answer is not what it should be, at line {} column {}", .0.line(), .0.column())]
    Nonsense(serde_json::Error),
    #[error("the answer makes no HTTP response: {0}")]
    Http(#[from] http::Error),
}

/// A client for providers.
#[derive(Clone, Debug)]
pub struct Web {
    client: Client,
    /// Whether `http://127.0.0.1` and `http://localhost` may be asked: for development.
    plain_on_loopback: bool,
    /// Whether only the open internet may be asked (in development, this machine too).
    public_only: bool,
}

impl Web {
    /// For providers of the configuration: they may be in our own network.
    ///
    /// # Panics
    /// When the TLS stack cannot be set up; then nothing else works either.
    pub fn new(plain_on_loopback: bool) -> Self {
        Self::with(plain_on_loopback, false)
    }

    /// For providers that workspaces name: whatever their names lead to, nothing in our own network is asked.
    ///
    /// # Panics
    /// As [`Web::new`].
    pub fn for_strangers(plain_on_loopback: bool) -> Self {
        Self::with(plain_on_loopback, true)
    }

    fn with(plain_on_loopback: bool, public_only: bool) -> Self {
        let mut builder = Client::builder()
            .connect_timeout(CONNECT)
            .timeout(WHOLE)
            .redirect(Policy::none())
            .no_proxy()
            .user_agent("freehold");
        if public_only {
            // The addresses that are judged are those that are connected to: a name that changes in between gains nothing.
            builder = builder.dns_resolver(PublicOnly { loopback: plain_on_loopback });
        }
        let client = builder.build().expect("a client with rustls");
        Self { client, plain_on_loopback, public_only }
    }

    /// An address that may be asked: https, or http to this machine in development.
    pub fn address(&self, text: &str) -> Result<Url, WebError> {
        let refused = || WebError::Address(text.chars().take(200).collect());
        let url: Url = text.parse().map_err(|_| refused())?;
        let on_loopback = matches!(url.host_str(), Some("127.0.0.1" | "[::1]" | "localhost"));
        let plain = url.scheme() == "http" && on_loopback && self.plain_on_loopback;
        let clean = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
        // An address in place of a name is asked without looking anything up.
        let open = !self.public_only || public::may_be_asked(&url, self.plain_on_loopback);
        if clean && open && url.has_host() && (url.scheme() == "https" || plain) {
            Ok(url)
        } else {
            Err(refused())
        }
    }

    /// Asks for a JSON document.
    pub async fn get_json<T: DeserializeOwned>(
        &self,
        url: &str,
        bearer: Option<&str>,
    ) -> Result<T, WebError> {
        let mut request = self.client.get(self.address(url)?).header("accept", "application/json");
        if let Some(token) = bearer {
            request = request.bearer_auth(token);
        }
        let response = request.send().await?;
        let status = response.status();
        let body = read(response).await?;
        if !status.is_success() {
            return Err(WebError::Status(status.as_u16()));
        }
        serde_json::from_slice(&body).map_err(WebError::Nonsense)
    }

    /// Carries one request of the `oauth2` crate.
    async fn carry(self, request: oauth2::HttpRequest) -> Result<oauth2::HttpResponse, WebError> {
        self.address(&request.uri().to_string())?;
        let request: Request = request.try_into()?;
        let response = self.client.execute(request).await?;
        let mut answer = http::Response::builder().status(response.status());
        for (name, value) in response.headers() {
            answer = answer.header(name, value);
        }
        Ok(answer.body(read(response).await?.into())?)
    }
}

/// Not a closure, which the crate takes as well: a future that holds one is `Send` for one lifetime only, and no handler.
impl<'c> oauth2::AsyncHttpClient<'c> for Web {
    type Error = WebError;
    type Future = BoxFuture<'c, Result<oauth2::HttpResponse, WebError>>;

    fn call(&'c self, request: oauth2::HttpRequest) -> Self::Future {
        Box::pin(self.clone().carry(request))
    }
}

async fn read(response: Response) -> Result<BytesMut, WebError> {
    let mut all = BytesMut::new();
    let mut chunks = response.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?;
        if all.len() + chunk.len() > LONGEST {
            return Err(WebError::TooLong);
        }
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_is_asked_but_for_this_machine_in_development() {
        let (strict, relaxed) = (Web::new(false), Web::new(true));
        assert!(strict.address("https://id.example.com/x").is_ok());
        for bad in [
            "http://id.example.com",
            "http://127.0.0.1:1",
            "ftp://x",
            "https://u:p@x",
            "https://x/#y",
            "file:///etc/passwd",
            "",
        ] {
            assert!(strict.address(bad).is_err(), "{bad}");
        }
        assert!(relaxed.address("http://127.0.0.1:1/x").is_ok());
        assert!(relaxed.address("http://id.example.com").is_err());
        assert!(relaxed.address("http://127.0.0.1.example.com").is_err());
    }
}
