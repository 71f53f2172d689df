//! `Idempotency-Key`: a POST that is sent again gets the first one's answer, and its work is done once. The answer is
//! kept in the tenant's own schema, in the transaction of the work: there is no moment at which one exists without the
//! other.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde::Serialize;
use sqlx::{FromRow, PgConnection};

use super::context::TenantContext;
use crate::jobs::regular::RegularJob;
use crate::kernel::secret::sha256;
use crate::kernel::{Error, Result, codes};

/// How long an answer is kept for a repeat.
pub const KEPT: Duration = Duration::from_secs(24 * 3600);

/// The daily job that takes what a quiet tenant has left: one that writes does so by itself, see [`keep`].
pub const TIDY: RegularJob = RegularJob { kind: "forget_answers", every: KEPT };

/// Answers that are forgotten in one transaction.
const FORGOTTEN_AT_ONCE: i64 = 1_000;

pub const HEADER: &str = "idempotency-key";
const REPLAYED: &str = "idempotency-replayed";
const LONGEST: usize = 200;

/// A key and what it was sent with.
#[derive(Clone)]
pub struct Once {
    key: String,
    request_hash: [u8; 32],
}

/// The key a request carries.
///
/// # Errors
/// `invalid_fields` when it is sent twice, is empty, too long, or not printable ASCII.
pub fn key_of(headers: &HeaderMap) -> Result<Option<&str>> {
    let mut values = headers.get_all(HEADER).iter();
    let (Some(value), rest) = (values.next(), values.next()) else { return Ok(None) };
    let text = value.to_str().ok().filter(|text| text.bytes().all(|b| (b' '..=b'~').contains(&b)));
    match text {
        Some(text) if rest.is_none() && (1..=LONGEST).contains(&text.len()) => Ok(Some(text)),
        _ => Err(Error::field(
            "Idempotency-Key",
            format!("send one key of 1 to {LONGEST} printable ASCII characters"),
        )),
    }
}

impl Once {
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Method, address and body, as one.
    pub fn request_hash(&self) -> &[u8; 32] {
        &self.request_hash
    }

    /// Binds a key to one request: the same key with another method, address or body is a conflict.
    pub fn new(key: &str, method: &Method, path: &str, body: &[u8]) -> Self {
        let text = [method.as_str().as_bytes(), path.as_bytes(), body].join(&0u8);
        Self { key: key.to_owned(), request_hash: sha256(&text) }
    }
}

/// A finished answer to a POST: what is sent, and what is kept for a repeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    status: StatusCode,
    location: Option<String>,
    etag: Option<String>,
    body: Bytes,
    replayed: bool,
}

impl Answer {
    /// 201 with the address, the entity tag and the row of what was made.
    ///
    /// # Errors
    /// `internal` when the row does not serialise.
    pub fn created<T: Serialize>(address: String, version: i64, row: &T) -> Result<Self> {
        Ok(Self {
            status: StatusCode::CREATED,
            location: Some(address),
            etag: Some(format!("\"{version}\"")),
            body: serde_json::to_vec(row).map_err(Error::internal)?.into(),
            replayed: false,
        })
    }

    /// 200 with a JSON body, for a POST that makes nothing that has an address.
    ///
    /// # Errors
    /// `internal` when the value does not serialise.
    pub fn ok<T: Serialize>(value: &T) -> Result<Self> {
        Ok(Self {
            status: StatusCode::OK,
            location: None,
            etag: None,
            body: serde_json::to_vec(value).map_err(Error::internal)?.into(),
            replayed: false,
        })
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in [(header::LOCATION, self.location), (header::ETAG, self.etag)] {
            if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
                headers.insert(name, value);
            }
        }
        if self.replayed {
            headers.insert(REPLAYED, HeaderValue::from_static("true"));
        }
        response
    }
}

impl TenantContext {
    /// [`TenantContext::write`] for a POST that makes something: with an `Idempotency-Key`, a repeat gets the first
    /// one's answer. Two at once: the second waits for the first's transaction. A failed attempt keeps nothing.
    ///
    /// # Errors
    /// `idempotency_conflict` when the key was used for another request; else as for `write`.
    pub async fn write_once(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<Answer>,
    ) -> Result<Answer> {
        let Some(once) = &self.once else { return self.write(work).await };
        let actor = self.actor.id.as_str();
        self.write(async move |conn| match claim(conn, actor, once).await? {
            Some(kept) => Ok(kept),
            None => {
                let answer = work(conn).await?;
                keep(conn, actor, once, &answer).await?;
                Ok(answer)
            }
        })
        .await
    }

    /// Forgets kept answers that are past their time, the oldest first: the work of [`TIDY`].
    ///
    /// # Errors
    /// As for `write`.
    pub async fn forget_answers(&self) -> Result<()> {
        while self.forget_some().await? == FORGOTTEN_AT_ONCE.unsigned_abs() {}
        Ok(())
    }

    /// How many went.
    async fn forget_some(&self) -> Result<u64> {
        self.write(async move |conn| {
            let forgotten = sqlx::query(
                "DELETE FROM idempotency WHERE (actor, key) IN (
                     SELECT actor, key FROM idempotency WHERE created_at < now() - make_interval(secs => $1)
                     ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
            )
            .bind(KEPT.as_secs_f64())
            .bind(FORGOTTEN_AT_ONCE)
            .execute(conn)
            .await?;
            Ok(forgotten.rows_affected())
        })
        .await
    }
}

#[derive(FromRow)]
struct Kept {
    request_hash: Vec<u8>,
    status: Option<i16>,
    location: Option<String>,
    etag: Option<String>,
    body: Option<Vec<u8>>,
}

/// Claims the key for this transaction, or gives the answer that an earlier one kept.
async fn claim(conn: &mut PgConnection, actor: &str, once: &Once) -> Result<Option<Answer>> {
    // The row inserted here is what a second request waits on: ON CONFLICT lets it wait until this transaction ends,
    // and then it either sees the answer or, after a rollback, does the work itself.
    let claimed = sqlx::query(
        "INSERT INTO idempotency (actor, key, request_hash) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
    )
    .bind(actor)
    .bind(&once.key)
    .bind(once.request_hash.as_slice())
    .execute(&mut *conn)
    .await?;
    if claimed.rows_affected() == 1 {
        return Ok(None);
    }
    let kept = sqlx::query_as::<_, Kept>(
        "SELECT request_hash, status, location, etag, body FROM idempotency WHERE actor = $1 AND key = $2",
    )
    .bind(actor)
    .bind(&once.key)
    .fetch_optional(&mut *conn)
    .await?;
    match kept {
        Some(kept) if kept.request_hash != once.request_hash => {
            Err(Error::new(&codes::IDEMPOTENCY_CONFLICT).hint("use a new key for a new request"))
        }
        Some(Kept { status: Some(status), location, etag, body: Some(body), .. }) => Ok(Some(Answer {
            status: StatusCode::from_u16(status.unsigned_abs()).map_err(Error::internal)?,
            location,
            etag,
            body: body.into(),
            replayed: true,
        })),
        // Purged between the two statements, or kept without an answer by a version that is gone.
        _ => Err(Error::new(&codes::CONFLICT)
            .detail("the first request with this key is no longer known")
            .hint("send it again")),
    }
}

/// Keeps the answer. Each one kept takes up to four that are past their time with it, so the table of a tenant that
/// writes holds a day's worth. What a quiet tenant leaves goes by [`TIDY`].
async fn keep(conn: &mut PgConnection, actor: &str, once: &Once, answer: &Answer) -> Result<()> {
    sqlx::query(
        "WITH past AS (
             DELETE FROM idempotency WHERE (actor, key) IN (
                 SELECT actor, key FROM idempotency WHERE created_at < now() - make_interval(secs => $7)
                 ORDER BY created_at LIMIT 4 FOR UPDATE SKIP LOCKED))
         UPDATE idempotency SET status = $3, location = $4, etag = $5, body = $6 WHERE actor = $1 AND key = $2",
    )
    .bind(actor)
    .bind(&once.key)
    .bind(answer.status.as_u16() as i16)
    .bind(&answer.location)
    .bind(&answer.etag)
    .bind(answer.body.as_ref())
    .bind(KEPT.as_secs_f64())
    .execute(conn)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_short_printable_text() {
        let with = |values: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(HEADER, HeaderValue::from_bytes(value).unwrap());
            }
            key_of(&headers).map(|key| key.map(str::to_owned)).map_err(|error| error.code().status)
        };
        let long = [b'a'; 201];
        assert_eq!(with(&[]), Ok(None));
        assert_eq!(with(&[b"order 17"]), Ok(Some("order 17".into())));
        assert_eq!(with(&[&long[..200]]), Ok(Some("a".repeat(200))));
        for bad in [&[&b""[..]][..], &[&long], &[b"a\tb"], &["ä".as_bytes()], &[b"a", b"a"]] {
            assert_eq!(with(bad), Err(422));
        }
    }

    #[test]
    fn a_key_is_bound_to_method_address_and_body() {
        let hash = |method, path, body: &[u8]| Once::new("k", method, path, body).request_hash;
        let one = hash(&Method::POST, "/a", b"b");
        assert_eq!(one, hash(&Method::POST, "/a", b"b"));
        for other in
            [hash(&Method::PUT, "/a", b"b"), hash(&Method::POST, "/ab", b""), hash(&Method::POST, "/a", b"c")]
        {
            assert_ne!(one, other);
        }
    }
}
