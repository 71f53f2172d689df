//! The operators' API, asked over HTTP.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Patience, unfinished};
use crate::cli::progress::Progress;
use crate::cli::{Globals, http};
use crate::control_plane::runs;
use crate::http::problem::Problem;
use crate::jobs::run::Run;
use crate::kernel::ids::RunId;
use crate::kernel::{Error, Result, codes};

/// Longer than the server waits for a run before it answers.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server's operators' API.
pub struct OperatorClient {
    http: reqwest::Client,
    base: Url,
    key: SecretString,
    progress: Progress,
}

/// What a change came to.
pub enum Reply<T> {
    Done(T),
    Underway(Run),
}

impl OperatorClient {
    pub fn new(globals: &Globals, server: &str) -> Result<Self> {
        let bad = || {
            Error::new(&codes::BAD_REQUEST)
                .detail(format!("{server:?} is not a server's address"))
                .hint("it looks like https://freehold.example.com")
        };
        let mut base: Url = server.parse().map_err(|_| bad())?;
        if !matches!(base.scheme(), "http" | "https") || base.cannot_be_a_base() {
            return Err(bad());
        }
        base.path_segments_mut().map_err(|()| bad())?.pop_if_empty().extend(["operator", "v1"]);
        let key = globals.operator_key.clone().ok_or_else(|| {
            Error::new(&codes::UNAUTHENTICATED).detail("no operator's key is given").hint(
                "set FREEHOLD_OPERATOR_KEY; make one beside the databases with: freehold operator-key create",
            )
        })?;
        Ok(Self { http: http::client(PATIENCE)?, base, key, progress: globals.progress() })
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &[&str], query: &impl Serialize) -> Result<T> {
        read(self.send(self.request(Method::GET, path)?.query(query)).await?).await
    }

    pub async fn post<T: DeserializeOwned>(&self, path: &[&str], body: &impl Serialize) -> Result<T> {
        read(self.send(self.request(Method::POST, path)?.json(body)).await?).await
    }

    pub async fn patch<T: DeserializeOwned>(&self, path: &[&str], body: &impl Serialize) -> Result<T> {
        read(self.send(self.request(Method::PATCH, path)?.json(body)).await?).await
    }

    pub async fn delete<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T> {
        read(self.send(self.request(Method::DELETE, path)?).await?).await
    }

    /// A file, in pieces as they come. It may take as long as it takes.
    pub async fn stream(
        &self,
        path: &[&str],
        query: &impl Serialize,
    ) -> Result<BoxStream<'static, Result<Vec<u8>>>> {
        let request = self.request(Method::GET, path)?.query(query).timeout(Duration::from_secs(24 * 3600));
        let pieces = self.send(request).await?.bytes_stream();
        let broken = |error| {
            Error::new(&codes::TIMEOUT).detail("the server's answer broke off in the middle").source(error)
        };
        Ok(pieces.map(move |piece| piece.map(|bytes| bytes.to_vec()).map_err(broken)).boxed())
    }

    /// A change that may still be under way when the server answers.
    pub async fn change<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<Reply<T>> {
        let response = self.send(request).await?;
        match response.status() {
            StatusCode::ACCEPTED => read(response).await.map(Reply::Underway),
            _ => read(response).await.map(Reply::Done),
        }
    }

    /// A request with the key. Each part of the path is one segment, whatever it holds.
    pub fn request(&self, method: Method, path: &[&str]) -> Result<RequestBuilder> {
        let mut url = self.base.clone();
        url.path_segments_mut().map_err(|()| Error::internal("a base address without a path"))?.extend(path);
        Ok(self.http.request(method, url).bearer_auth(self.key.expose_secret()))
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let response = request.send().await.map_err(|error| self.unreachable(error))?;
        if response.status().is_success() { Ok(response) } else { Err(refused(response).await) }
    }

    fn unreachable(&self, error: reqwest::Error) -> Error {
        let why = if error.is_timeout() { "it does not answer in time" } else { "no connection" };
        Error::new(&codes::TIMEOUT)
            .detail(format!("cannot reach {}: {why}", self.base.origin().ascii_serialization()))
            .hint("is the server running, and is --server right?")
            .source(error)
    }

    /// Follows a run to its end, and shows how far it is.
    ///
    /// # Errors
    /// The run's own; or that it is not finished yet.
    pub async fn follow(&self, id: RunId) -> Result<Run> {
        let bar = self.progress.run();
        let patience = Patience::begin();
        loop {
            let path = ["runs", &id.to_string(), "events"];
            let events = self.request(Method::GET, &path)?.timeout(Duration::from_secs(600));
            let mut stream = self.send(events).await?.bytes_stream();
            let mut text = Vec::new();
            // A stream that breaks off is begun again: each begins with the run as it is.
            while let Some(Ok(bytes)) = stream.next().await {
                text.extend_from_slice(&bytes);
                while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = text.drain(..=end).collect();
                    let Some(data) = line.strip_prefix(b"data:") else { continue };
                    let run: Run = serde_json::from_slice(data).map_err(Error::internal)?;
                    bar.show(&run);
                    if !run.state.is_open() {
                        return runs::succeeded(&run).map(|()| run);
                    }
                    if patience.is_over(&run) {
                        return Err(unfinished(&run));
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

async fn read<T: DeserializeOwned>(response: Response) -> Result<T> {
    response.json().await.map_err(|error| {
        Error::internal(error)
            .detail("the server's answer is not what this version expects")
            .hint("do the server and this program have the same version?")
    })
}

/// The server's problem, as an error of our own.
async fn refused(response: Response) -> Error {
    let status = response.status().as_u16();
    let Ok(problem) = response.json::<Problem>().await else {
        return Error::internal(format!("status {status}"))
            .detail(format!("the server answered {status}, and not as Freehold does"))
            .hint("is --server the address of a Freehold server?");
    };
    let known = codes::ALL.iter().copied().find(|code| code.name == problem.code);
    let code = known.or_else(|| codes::ALL.iter().copied().find(|code| code.status == status));
    let mut error = match problem.errors.is_empty() {
        true => Error::new(code.unwrap_or(&codes::INTERNAL)),
        false => Error::fields(problem.errors),
    };
    if known.is_none() || problem.detail.is_some() {
        error = error.detail(problem.detail.unwrap_or(problem.title));
    }
    match (problem.hint, problem.request_id) {
        (Some(hint), _) => error.hint(hint),
        (None, Some(id)) if status >= 500 => {
            error.hint(format!("the server's log knows more, by request id {id}"))
        }
        _ => error,
    }
}
