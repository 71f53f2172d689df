//! What the directory knows of a person: the sessions that are live and the seats that are held. One entry for each
//! account, so that one notification ends everything that changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Utc};
use serde::Deserialize;
use sqlx::types::Json;
use sqlx::{FromRow, PgPool};
use uuid::Uuid;

use crate::identity::sso;
use crate::kernel::Role;
use crate::kernel::credentials::KeyHash;
use crate::kernel::ids::{AccountId, SessionId, TenantId};

/// A person with an account that was not erased.
#[derive(Debug)]
pub struct Person {
    pub id: AccountId,
    pub name: Arc<str>,
    seats: Box<[Seat]>,
    sessions: Box<[LiveSession]>,
}

/// A membership.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Seat {
    tenant: Uuid,
    role: Role,
}

/// A session that was neither revoked nor over when it was looked up.
#[derive(Debug)]
pub struct LiveSession {
    pub id: SessionId,
    /// The tenant whose host its cookie is for; none for the sign-in host and for terminals.
    pub tenant: Option<TenantId>,
    /// The tenant whose own provider began it, and which alone it may enter.
    pub only: Option<TenantId>,
    token_hash: Option<KeyHash>,
    expires_at: DateTime<Utc>,
    /// When it was last noted as seen, in milliseconds since 1970.
    noted_ms: AtomicI64,
}

/// Uses within this time of the last one noted are not noted again.
const NOTE_EVERY_MS: i64 = 60_000;

impl Person {
    /// The role held in a tenant, if any.
    pub fn role_in(&self, tenant: TenantId) -> Option<Role> {
        self.seats.iter().find(|seat| seat.tenant == tenant.0).map(|seat| seat.role)
    }

    pub fn session(&self, id: SessionId, now: DateTime<Utc>) -> Option<&LiveSession> {
        self.sessions.iter().find(|session| session.id == id && session.live(now))
    }

    pub fn session_of(&self, token: &KeyHash, now: DateTime<Utc>) -> Option<&LiveSession> {
        self.sessions.iter().find(|session| session.token_hash.as_ref() == Some(token) && session.live(now))
    }
}

impl LiveSession {
    /// Whether it may be used in this tenant. What a tenant's own provider began opens no other.
    pub fn enters(&self, tenant: TenantId) -> bool {
        self.only.is_none_or(|only| only == tenant)
    }

    /// Looked at on every use: a cached session ends on time.
    fn live(&self, now: DateTime<Utc>) -> bool {
        now < self.expires_at
    }

    /// Whether this use is worth writing down; true for one caller a minute.
    pub(super) fn worth_noting(&self, now: DateTime<Utc>) -> bool {
        let now = now.timestamp_millis();
        let noted = self.noted_ms.load(Ordering::Relaxed);
        now - noted >= NOTE_EVERY_MS
            && self.noted_ms.compare_exchange(noted, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

#[derive(FromRow)]
struct PersonRow {
    id: AccountId,
    name: String,
    seats: Json<Vec<Seat>>,
    sessions: Json<Vec<SessionRow>>,
}

#[derive(Deserialize)]
struct SessionRow {
    id: Uuid,
    tenant: Option<Uuid>,
    method: String,
    token_hash: Option<String>,
    expires_at: DateTime<Utc>,
    last_seen_at: DateTime<Utc>,
}

macro_rules! person_where {
    ($condition:literal) => {
        concat!(
            "SELECT a.id, a.name,
                    coalesce((SELECT jsonb_agg(jsonb_build_object('tenant', m.tenant, 'role', m.role))
                                FROM membership m WHERE m.account = a.id), '[]') AS seats,
                    coalesce((SELECT jsonb_agg(jsonb_build_object(
                                  'id', s.id, 'tenant', s.tenant, 'method', s.method, 'token_hash', encode(s.token_hash, 'hex'),
                                  'expires_at', s.expires_at, 'last_seen_at', s.last_seen_at))
                                FROM session s LEFT JOIN session p ON p.id = s.parent
                               WHERE s.account = a.id AND s.revoked_at IS NULL AND p.revoked_at IS NULL
                                 AND least(s.expires_at, p.expires_at) > $2), '[]') AS sessions
               FROM account a WHERE a.deleted_at IS NULL AND ",
            $condition
        )
    };
}

pub async fn by_id(
    db: &PgPool,
    id: AccountId,
    now: DateTime<Utc>,
) -> Result<Option<Arc<Person>>, sqlx::Error> {
    let row: Option<PersonRow> =
        sqlx::query_as(person_where!("a.id = $1")).bind(id).bind(now).fetch_optional(db).await?;
    Ok(row.map(person))
}

pub async fn by_session(
    db: &PgPool,
    token: &KeyHash,
    now: DateTime<Utc>,
) -> Result<Option<Arc<Person>>, sqlx::Error> {
    let row: Option<PersonRow> = sqlx::query_as(person_where!(
        "a.id = (SELECT account FROM session WHERE token_hash = $1 AND revoked_at IS NULL)"
    ))
    .bind(token.as_slice())
    .bind(now)
    .fetch_optional(db)
    .await?;
    Ok(row.map(person))
}

fn person(row: PersonRow) -> Arc<Person> {
    let session = |row: SessionRow| LiveSession {
        id: SessionId(row.id),
        tenant: row.tenant.map(TenantId),
        only: sso::tenant_of(&row.method),
        token_hash: row.token_hash.and_then(|hex| {
            data_encoding::HEXLOWER.decode(hex.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok())
        }),
        expires_at: row.expires_at,
        noted_ms: AtomicI64::new(row.last_seen_at.timestamp_millis()),
    };
    Arc::new(Person {
        id: row.id,
        name: row.name.into(),
        seats: row.seats.0.into(),
        sessions: row.sessions.0.into_iter().map(session).collect(),
    })
}

/// Notes when sessions were last seen, all in one statement. A later time is never replaced by an earlier one.
pub async fn sessions_seen(db: &PgPool, seen: &[(SessionId, DateTime<Utc>)]) -> Result<(), sqlx::Error> {
    let (ids, times): (Vec<Uuid>, Vec<DateTime<Utc>>) = seen.iter().map(|(id, at)| (id.0, *at)).unzip();
    sqlx::query(
        "UPDATE session s SET last_seen_at = greatest(s.last_seen_at, seen.at)
         FROM unnest($1::uuid[], $2::timestamptz[]) AS seen (id, at)
         WHERE s.id = seen.id",
    )
    .bind(ids)
    .bind(times)
    .execute(db)
    .await
    .map(drop)
}
