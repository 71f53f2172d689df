//! Requests to Stripe over one pooled client, and what its answers mean. A call is made once: whether it is repeated, and
//! with which idempotency key, is for those to decide who know what they asked.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Response, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use stripe_client_core::{
    CustomizedStripeRequest, RequestBuilder, StripeClient, StripeClientErr, StripeMethod,
};

use crate::billing::settings::Settings;
use crate::billing::stripe::Trouble;
use crate::kernel::{Clock, Error, Result};

/// The version of Stripe's API that this build was written for; every request names it.
pub const VERSION: &str = "2026-09-30.endive";

const CONNECT: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(60);
/// No answer to a question of ours is nearly as long.
const LONGEST: usize = 8 * 1024 * 1024;
/// Of what Stripe says about an error, in our log and database.
const WORDS: usize = 300;
/// The longest wait that is believed.
const LONGEST_WAIT: u64 = 3600;

/// What an exchange said beside its body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Seconds that Stripe's clock is ahead of ours. None without a Date.
    pub skew_seconds: Option<i32>,
    /// For asking Stripe's support.
    pub request_id: Option<String>,
}

/// The client. Cheap to clone.
#[derive(Clone)]
pub struct Wire {
    client: Client,
    base: Url,
    key: Option<SecretString>,
    clock: Clock,
}

/// A body, or a trouble, and what came with it.
pub type Exchange = (std::result::Result<Bytes, Trouble>, Said);

impl Wire {
    /// # Errors
    /// `internal` when the TLS stack cannot be set up.
    pub fn new(settings: &Settings, clock: Clock) -> Result<Self> {
        let client = Client::builder()
            .connect_timeout(CONNECT)
            .timeout(settings.patience)
            .pool_idle_timeout(IDLE)
            .redirect(Policy::none())
            .no_proxy()
            .user_agent("freehold")
            .build()
            .map_err(Error::internal)?;
        Ok(Self { client, base: settings.base_url.clone(), key: settings.key.clone(), clock })
    }

    /// Makes one call. `path` begins with `v1/` or `v2/`.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        query: Option<&str>,
        form: Option<String>,
        key: Option<&str>,
    ) -> Exchange {
        let Some(secret) = &self.key else {
            let message = "no key is set: give the settings by FREEHOLD_STRIPE".to_owned();
            return (Err(Trouble::Key { status: 401, message }), Said::default());
        };
        let mut url = match self.base.join(path) {
            Ok(url) => url,
            Err(_) => return (Err(refused_here("the path is no address")), Said::default()),
        };
        url.set_query(query.filter(|query| !query.is_empty()));
        let mut request = self
            .client
            .request(method.clone(), url)
            .bearer_auth(secret.expose_secret())
            .header("Stripe-Version", VERSION)
            .header("Accept", "application/json");
        if let Some(form) = form {
            request = request.header("Content-Type", "application/x-www-form-urlencoded").body(form);
        } else if method == Method::POST {
            request = request.header("Content-Type", "application/x-www-form-urlencoded").body("");
        }
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        let asked_at = self.clock.now();
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return (Err(silence(&error)), Said::default()),
        };
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let said = Said {
            skew_seconds: skew(&headers, asked_at, self.clock.now()),
            request_id: text(&headers, "request-id").map(|id| id.chars().take(100).collect()),
        };
        let answer = match read(response).await {
            Ok(body) => judge(status, &headers, body, &said),
            // The beginning of an answer came: whatever was asked may well be done.
            Err(what) => Err(Trouble::Broken { status, what }),
        };
        if let Err(trouble) = &answer {
            tracing::debug!(path, status, request_id = said.request_id, %trouble, "Stripe");
        }
        (answer, said)
    }

    /// Makes the call of a typed request.
    pub async fn ask(&self, request: RequestBuilder, key: Option<&str>) -> Exchange {
        let method = match request.method {
            StripeMethod::Get => Method::GET,
            StripeMethod::Post => Method::POST,
            StripeMethod::Delete => Method::DELETE,
        };
        let path = format!("v1/{}", request.path.trim_start_matches('/'));
        let form = request.body.map(|form| in_order(&form));
        self.call(method, &path, request.query.as_deref(), form, key).await
    }
}

/// The same fields in the same order each time: the typed requests hold maps, and a request that is repeated with its
/// idempotency key has to be the same request.
fn in_order(form: &str) -> String {
    let place = |pair: &str| -> Vec<(u32, String)> {
        let name = pair.split('=').next().unwrap_or_default();
        // An element's number is a number: 10 comes after 2.
        let parts = name.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        parts.map(|part| part.parse().map_or_else(|_| (0, part.to_owned()), |n| (n, String::new()))).collect()
    };
    let mut pairs: Vec<&str> = form.split('&').collect();
    pairs.sort_by_cached_key(|pair| place(pair));
    pairs.join("&")
}

/// For callers that want a typed answer too: `request.send(&wire)`.
impl StripeClient for Wire {
    type Err = Failed;

    async fn execute(&self, request: CustomizedStripeRequest) -> std::result::Result<Bytes, Failed> {
        let (request, settings) = request.into_pieces();
        let key = settings.request_strategy.and_then(|strategy| strategy.get_key());
        self.ask(request, key.as_ref().map(|key| key.as_str())).await.0.map_err(Failed)
    }
}

/// [`Trouble`], as the typed requests want it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct Failed(pub Trouble);

impl StripeClientErr for Failed {
    fn deserialize_err(what: impl std::fmt::Display) -> Self {
        Self(Trouble::Broken { status: 200, what: what.to_string().chars().take(WORDS).collect() })
    }
}

fn refused_here(message: &str) -> Trouble {
    Trouble::Refused { status: 400, code: "bad_request".to_owned(), message: message.to_owned() }
}

/// Why no answer came, without the address: it may name a customer.
fn silence(error: &reqwest::Error) -> Trouble {
    if error.is_connect() {
        return Trouble::Unreached("no connection could be made".to_owned());
    }
    if error.is_builder() {
        return refused_here("the request cannot be written");
    }
    Trouble::Silent(if error.is_timeout() { "it took too long" } else { "the connection broke" }.to_owned())
}

async fn read(response: Response) -> std::result::Result<Bytes, String> {
    let mut all = BytesMut::new();
    let mut chunks = response.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| "the body was cut".to_owned())?;
        if all.len() + chunk.len() > LONGEST {
            return Err("the body is too long".to_owned());
        }
        all.extend_from_slice(&chunk);
    }
    Ok(all.freeze())
}

#[derive(Deserialize)]
struct Envelope {
    error: Words,
}

/// Both shapes: v1 has `type`, `code`, `message`; v2 as well.
#[derive(Deserialize)]
struct Words {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    message: Option<String>,
}

/// What a status and a body mean.
fn judge(status: u16, headers: &HeaderMap, body: Bytes, said: &Said) -> std::result::Result<Bytes, Trouble> {
    let words = || {
        let words = serde_json::from_slice::<Envelope>(&body).ok().map(|envelope| envelope.error);
        let message = words.as_ref().and_then(|words| words.message.clone());
        let code = words.and_then(|words| words.code.or(words.kind));
        let mut message: String = message.unwrap_or_default().chars().take(WORDS).collect();
        if let Some(id) = &said.request_id {
            message.push_str(&format!(" [{id}]"));
        }
        (code.unwrap_or_else(|| "unknown".to_owned()), message)
    };
    match status {
        200..=299 => match serde_json::from_slice::<serde::de::IgnoredAny>(&body) {
            Ok(_) => Ok(body),
            Err(_) => Err(Trouble::Broken { status, what: "the body is no JSON".to_owned() }),
        },
        401 | 403 => Err(Trouble::Key { status, message: without_keys(&words().1) }),
        409 | 424 | 429 => Err(Trouble::Later { status, after: wait(headers) }),
        // A proxy's timeout, or its page: whether Stripe was asked, nobody knows.
        408 => Err(Trouble::Broken { status, what: "the way to Stripe took too long".to_owned() }),
        400..=499 if !is_stripes(&body) => {
            Err(Trouble::Broken { status, what: "the refusal is not in Stripe's words".to_owned() })
        }
        400..=499 => {
            let (code, message) = words();
            Err(Trouble::Refused { status, code, message: without_keys(&message) })
        }
        // 3xx too: Stripe redirects nothing.
        _ => Err(Trouble::Broken { status, what: words().1 }),
    }
}

/// Whether a refusal is Stripe's own: it says of what kind it is.
fn is_stripes(body: &[u8]) -> bool {
    serde_json::from_slice::<Envelope>(body)
        .is_ok_and(|envelope| envelope.error.kind.is_some() || envelope.error.code.is_some())
}

/// Stripe repeats a part of a refused key. None of it is for our log.
fn without_keys(message: &str) -> String {
    message
        .split_inclusive(' ')
        .map(|word| if ["sk_", "rk_", "whsec_"].iter().any(|key| word.contains(key)) { "… " } else { word })
        .collect()
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// Stripe says it in seconds.
fn wait(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = text(headers, RETRY_AFTER.as_str())?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(LONGEST_WAIT)))
}

/// How far Stripe's Date lies outside the time that the call took; a Date is cut to seconds.
fn skew(headers: &HeaderMap, asked_at: DateTime<Utc>, answered_at: DateTime<Utc>) -> Option<i32> {
    let theirs = DateTime::parse_from_rfc2822(text(headers, DATE.as_str())?).ok()?.timestamp();
    let (from, to) = (asked_at.timestamp() - 1, answered_at.timestamp());
    let skew = (theirs - to).max(0) + (theirs - from).min(0);
    Some(i32::try_from(skew).unwrap_or(if skew < 0 { i32::MIN } else { i32::MAX }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    fn judged(
        status: u16,
        body: &'static str,
        headers: &[(&'static str, &'static str)],
    ) -> Result<Bytes, Trouble> {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect::<HeaderMap>();
        judge(status, &headers, Bytes::from_static(body.as_bytes()), &Said::default())
    }

    #[test]
    fn what_is_no_answer_of_theirs_is_broken() {
        assert!(judged(200, r#"{"id": "cus_1"}"#, &[]).is_ok());
        for (status, body) in
            [(200, r#"{"id": "cus_"#), (200, ""), (502, "<html>Bad Gateway</html>"), (500, "{}"), (302, "")]
        {
            assert!(matches!(judged(status, body, &[]), Err(Trouble::Broken { .. })), "{status} {body}");
        }
    }

    #[test]
    fn a_refusal_keeps_its_words_and_no_key() {
        let body = r#"{"error": {"type": "invalid_request_error", "code": "resource_missing", "message": "No such customer"}}"#;
        let Err(Trouble::Refused { status: 404, code, message }) = judged(404, body, &[]) else { panic!() };
        assert_eq!((code.as_str(), message.as_str()), ("resource_missing", "No such customer"));
        let body = r#"{"error": {"type": "invalid_request_error", "message": "Invalid API Key provided: sk_test_abc1"}}"#;
        let Err(trouble) = judged(401, body, &[]) else { panic!() };
        assert!(matches!(trouble, Trouble::Key { status: 401, .. }));
        assert!(!format!("{trouble} {trouble:?}").contains("sk_test"), "{trouble:?}");
    }

    /// Shown to fail: with any 4xx taken for Stripe's, what a proxy says settles whether Stripe has a batch.
    #[test]
    fn a_proxy_s_refusal_is_none_of_stripe_s() {
        let own = r#"{"error": {"type": "invalid_request_error", "message": "no"}}"#;
        assert!(matches!(judged(400, own, &[]), Err(Trouble::Refused { .. })));
        for (status, body) in [
            (400, "<html><h1>400 Bad Request</h1>"),
            (404, ""),
            (400, r#"{"error": "bad request"}"#),
            (413, r#"{"error": {"message": "too large"}}"#),
            (408, own),
        ] {
            assert!(matches!(judged(status, body, &[]), Err(Trouble::Broken { .. })), "{status} {body}");
        }
    }

    #[test]
    fn not_now_says_how_long() {
        for status in [409, 424, 429] {
            let Err(Trouble::Later { after, .. }) = judged(status, "{}", &[("retry-after", "7")]) else {
                panic!()
            };
            assert_eq!(after, Some(Duration::from_secs(7)));
        }
        let Err(Trouble::Later { after: None, .. }) = judged(429, "", &[("retry-after", "soon")]) else {
            panic!()
        };
    }

    /// Shown to fail: unsorted, a meter event that is repeated is refused: another request with the same key.
    #[test]
    fn a_request_that_is_repeated_is_the_same() {
        assert_eq!(in_order("b[y]=1&b[x]=2&a=3"), "a=3&b[x]=2&b[y]=1");
        assert_eq!(in_order("i[10][p]=b&i[2][q]=1&i[2][p]=a"), "i[2][p]=a&i[2][q]=1&i[10][p]=b");
        assert_eq!(in_order("p%5Bv%5D=1&p%5Bc%5D=2"), "p%5Bc%5D=2&p%5Bv%5D=1");
        assert_eq!(in_order(""), "");
    }

    #[test]
    fn the_way_is_not_taken_for_a_wrong_clock() {
        let at = DateTime::parse_from_rfc2822("Sat, 21 Nov 2026 12:00:00 GMT").unwrap().to_utc();
        let headers: HeaderMap =
            [(DATE, "Sat, 21 Nov 2026 12:00:00 GMT".parse().unwrap())].into_iter().collect();
        let seen = |asked: i64, answered: i64| {
            skew(&headers, at + TimeDelta::seconds(asked), at + TimeDelta::seconds(answered)).unwrap()
        };
        assert_eq!(seen(-20, 5), 0, "a slow call");
        assert_eq!(seen(0, 0), 0);
        assert_eq!(seen(-361, -360), 360, "Stripe is ahead");
        assert_eq!(seen(361, 362), -360, "Stripe is behind");
        assert_eq!(skew(&HeaderMap::new(), at, at), None);
    }
}
