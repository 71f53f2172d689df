//! Support sessions: an operator's look into a tenant, for a reason and for a time. The tenant sees in its own log who came
//! and why, can see it while it lasts, and can end it.
//!
//! ```text
//! operator      start            a link, good once, for ten minutes
//! tenant's host /enter/support   the link: a cookie of this host, until the session ends
//! ```
//!
//! A session reads. What the tables would allow beyond that (a higher role, within the product) waits for a setting that
//! lets a tenant say so. Members, keys, sign-in and money are out of reach whatever the role (`http::support`).

use chrono::{DateTime, TimeDelta, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use crate::control_plane::ControlPlane;
use crate::control_plane::audit::{Caller, audit_add};
use crate::control_plane::changes::{self, Change};
use crate::control_plane::tenants::{TenantRef, TenantState, tenant_find};
use crate::kernel::credentials::{self, KeyHash, KeyKind};
use crate::kernel::ids::{SupportId, TenantId};
use crate::kernel::page::{Asked, Page};
use crate::kernel::{Entropy, Error, Result, Role, codes};

/// Minutes of a session when nobody says how long.
const MINUTES: u32 = 60;
/// Most minutes of a session.
pub const MOST_MINUTES: u32 = 240;
/// How long its link can be opened.
const LINK: TimeDelta = TimeDelta::minutes(10);

/// A look into a tenant by an operator.
#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct SupportSession {
    pub id: SupportId,
    pub tenant: TenantId,
    /// As the audit log names them: `operator:opr_…`, `operator:opk_…`.
    pub actor: String,
    /// The operator's name.
    pub operator: String,
    pub role: Role,
    pub reason: String,
    pub created_at: DateTime<Utc>,
    /// When its link was opened.
    pub entered_at: Option<DateTime<Utc>>,
    pub expires_at: DateTime<Utc>,
    /// When it was ended, by somebody or by time.
    pub ended_at: Option<DateTime<Utc>>,
}

macro_rules! support_columns {
    ($before:literal, $after:literal) => {
        concat!(
            $before,
            " id, tenant, actor, operator, role, reason, created_at, entered_at, expires_at, ended_at ",
            $after
        )
    };
}

/// Why, and for how long.
#[derive(Clone, Debug, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSupport {
    /// The tenant reads it.
    #[garde(length(chars, min = 3, max = 500))]
    #[schema(example = "ticket 4711: import fails")]
    pub reason: String,
    /// How long, at most 240; an hour when not given.
    #[garde(inner(range(min = 1, max = MOST_MINUTES)))]
    #[serde(default)]
    pub minutes: Option<u32>,
}

/// A session just started.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StartedSupport {
    #[serde(flatten)]
    pub session: SupportSession,
    /// To be opened in a browser: once, within ten minutes. It cannot be shown again.
    pub link: String,
}

/// Which sessions to list.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SupportFilter {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// Only those that go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// Which sessions of one's own tenant to list.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct OwnSupportFilter {
    /// Only those that go on.
    pub live: Option<bool>,
    pub limit: Option<u32>,
    pub cursor: Option<String>,
}

/// Starts a session. `operator` is the name that the tenant reads.
///
/// # Errors
/// `tenant_not_found`; `state_conflict` for a tenant that is not active.
pub async fn support_start(
    cp: &ControlPlane,
    caller: &Caller,
    operator: &str,
    tenant: &TenantRef,
    new: &NewSupport,
) -> Result<StartedSupport> {
    let reason = new.reason.trim();
    if !(3..=500).contains(&reason.chars().count()) {
        return Err(Error::field("reason", "has 3 to 500 characters"));
    }
    let minutes = new.minutes.unwrap_or(MINUTES);
    if !(1..=MOST_MINUTES).contains(&minutes) {
        return Err(Error::field("minutes", format!("1 to {MOST_MINUTES}")));
    }
    let (now, code) = (cp.clock.now(), credentials::make(KeyKind::Support, &cp.entropy));
    let mut tx = cp.db.begin().await?;
    let tenant = tenant_find(&mut tx, tenant).await?;
    if tenant.state != TenantState::Active {
        return Err(Error::new(&codes::STATE_CONFLICT)
            .detail(format!("tenant {} is {}: there is nothing to look at", tenant.slug, tenant.state)));
    }
    let session: SupportSession = sqlx::query_as(support_columns!(
        "INSERT INTO support_session (id, actor, operator, tenant, role, reason, code_hash, created_at, expires_at)
         VALUES ($1, $2, left($3, 120), $4, $5, $6, $7, $8, $9) RETURNING",
        ""
    ))
    .bind(SupportId::new())
    .bind(&caller.actor)
    .bind(operator)
    .bind(tenant.id)
    .bind(Role::Viewer)
    .bind(reason)
    .bind(&code.hash[..])
    .bind(now)
    .bind(now + TimeDelta::minutes(i64::from(minutes)))
    .fetch_one(&mut *tx)
    .await?;
    note(&mut tx, caller, &session, "support.start", now).await?;
    tx.commit().await?;
    let host = cp.addresses.tenant_url(&tenant.slug);
    let link = format!("{host}/enter/support?code={}", code.key.expose_secret());
    Ok(StartedSupport { session, link })
}

/// One line of the tenant's log, with what it has to know.
async fn note(
    conn: &mut PgConnection,
    caller: &Caller,
    session: &SupportSession,
    action: &str,
    now: DateTime<Utc>,
) -> Result<()> {
    let detail = json!({
        "operator": session.operator,
        "reason": session.reason,
        "role": session.role,
        "expires_at": session.expires_at,
    });
    audit_add(conn, caller, now, action, Some(session.tenant), &session.id.to_string(), detail).await
}

/// Sessions of all tenants, newest first.
pub async fn support_list(
    conn: &mut PgConnection,
    filter: &SupportFilter,
    now: DateTime<Utc>,
) -> Result<Page<SupportSession>> {
    let asked: Asked<SupportId> = Asked::of(filter.limit, filter.cursor.as_deref())?;
    let rows = sqlx::query_as(support_columns!(
        "SELECT",
        "FROM support_session
          WHERE ($1::uuid IS NULL OR tenant = $1) AND ($2::uuid IS NULL OR id < $2)
            AND (NOT $3 OR (ended_at IS NULL AND expires_at > $4))
          ORDER BY id DESC LIMIT $5"
    ))
    .bind(filter.tenant)
    .bind(asked.after)
    .bind(filter.live.unwrap_or(false))
    .bind(now)
    .bind(asked.rows())
    .fetch_all(conn)
    .await?;
    Ok(asked.page(rows, |session: &SupportSession| session.id))
}

/// Sessions of one tenant, newest first.
pub async fn own_support_list(
    conn: &mut PgConnection,
    tenant: TenantId,
    filter: &OwnSupportFilter,
    now: DateTime<Utc>,
) -> Result<Page<SupportSession>> {
    let OwnSupportFilter { live, limit, cursor } = filter.clone();
    support_list(conn, &SupportFilter { tenant: Some(tenant), live, limit, cursor }, now).await
}

/// Ends a session; every server refuses it within a second. Twice changes nothing. `of`: only one of this tenant.
///
/// # Errors
/// `not_found`.
pub async fn support_end(
    cp: &ControlPlane,
    caller: &Caller,
    of: Option<TenantId>,
    id: SupportId,
) -> Result<SupportSession> {
    let now = cp.clock.now();
    let mut tx = cp.db.begin().await?;
    let ended = end_where(&mut tx, caller, End { id: Some(id), of, ..End::default() }, now).await?;
    let session = match ended.into_iter().next() {
        Some(session) => session,
        None => sqlx::query_as(support_columns!(
            "SELECT",
            "FROM support_session WHERE id = $1 AND ($2::uuid IS NULL OR tenant = $2)"
        ))
        .bind(id)
        .bind(of)
        .fetch_optional(&mut *tx)
        .await?
        .ok_or_else(|| Error::new(&codes::NOT_FOUND))?,
    };
    tx.commit().await?;
    Ok(session)
}

/// Which sessions to end; of those that have not ended.
#[derive(Default)]
struct End<'a> {
    id: Option<SupportId>,
    of: Option<TenantId>,
    actor: Option<&'a str>,
    token: Option<&'a [u8]>,
}

async fn end_where(
    conn: &mut PgConnection,
    caller: &Caller,
    which: End<'_>,
    now: DateTime<Utc>,
) -> Result<Vec<SupportSession>> {
    // In the order of tenants, as their chains in the log are then locked.
    let ended: Vec<(SupportId, Option<Vec<u8>>)> = sqlx::query_as(
        "UPDATE support_session SET ended_at = least($5, expires_at)
          WHERE ended_at IS NULL AND ($1::uuid IS NULL OR id = $1) AND ($2::uuid IS NULL OR tenant = $2)
            AND ($3::text IS NULL OR actor = $3) AND ($4::bytea IS NULL OR token_hash = $4)
         RETURNING id, token_hash",
    )
    .bind(which.id)
    .bind(which.of)
    .bind(which.actor)
    .bind(which.token)
    .bind(now)
    .fetch_all(&mut *conn)
    .await?;
    let ids: Vec<_> = ended.iter().map(|(id, _)| id.0).collect();
    let sessions: Vec<SupportSession> = sqlx::query_as(support_columns!(
        "SELECT",
        "FROM support_session WHERE id = ANY($1) ORDER BY tenant, id"
    ))
    .bind(ids)
    .fetch_all(&mut *conn)
    .await?;
    for session in &sessions {
        note(&mut *conn, caller, session, "support.end", now).await?;
    }
    for (_, token) in ended {
        if let Some(token) = token {
            let hash =
                token.try_into().map_err(|_| Error::internal("a token's hash that is not 32 bytes"))?;
            changes::notify(&mut *conn, Change::Key(hash)).await?;
        }
    }
    Ok(sessions)
}

/// Ends all sessions that somebody started.
pub async fn support_end_all_of(
    conn: &mut PgConnection,
    caller: &Caller,
    actor: &str,
    now: DateTime<Utc>,
) -> Result<()> {
    end_where(conn, caller, End { actor: Some(actor), ..End::default() }, now).await.map(drop)
}

/// Ends the session of this cookie: the operator signs out at the tenant's host.
pub async fn support_sign_out(
    conn: &mut PgConnection,
    token: &KeyHash,
    request_id: Option<String>,
    now: DateTime<Utc>,
) -> Result<()> {
    let actor: Option<String> = sqlx::query_scalar("SELECT actor FROM support_session WHERE token_hash = $1")
        .bind(&token[..])
        .fetch_optional(&mut *conn)
        .await?;
    let Some(actor) = actor else { return Ok(()) };
    let caller = Caller { actor, request_id };
    end_where(conn, &caller, End { token: Some(&token[..]), ..End::default() }, now).await.map(drop)
}

/// What the browser at the tenant's host gets for the link.
pub struct Entered {
    /// For the cookie; it is not kept.
    pub token: SecretString,
    pub expires_at: DateTime<Utc>,
}

/// Opens a link at the host of `tenant`.
///
/// # Errors
/// `sign_in_failed` for one that was opened before, is too old, another tenant's, or of a session that has ended.
pub async fn support_enter(
    conn: &mut PgConnection,
    entropy: &Entropy,
    code: &KeyHash,
    tenant: TenantId,
    request_id: Option<String>,
    now: DateTime<Utc>,
) -> Result<Entered> {
    let token = credentials::make(KeyKind::Support, entropy);
    let session: Option<SupportSession> = sqlx::query_as(support_columns!(
        "UPDATE support_session SET token_hash = $3, entered_at = $4
          WHERE code_hash = $1 AND tenant = $2 AND entered_at IS NULL AND ended_at IS NULL
            AND expires_at > $4 AND created_at > $5 RETURNING",
        ""
    ))
    .bind(&code[..])
    .bind(tenant)
    .bind(&token.hash[..])
    .bind(now)
    .bind(now - LINK)
    .fetch_optional(&mut *conn)
    .await?;
    let session = session.ok_or_else(|| {
        Error::new(&codes::SIGN_IN_FAILED)
            .detail("this link was opened before, is too old, or was taken back")
    })?;
    let caller = Caller { actor: session.actor.clone(), request_id };
    note(&mut *conn, &caller, &session, "support.enter", now).await?;
    Ok(Entered { token: token.key, expires_at: session.expires_at })
}

/// Writes down that sessions have ended by time. That they have, no server needs to be told.
pub async fn support_expire(cp: &ControlPlane) -> Result<()> {
    let now = cp.clock.now();
    let over: Vec<SupportId> = sqlx::query_scalar(
        "SELECT id FROM support_session WHERE ended_at IS NULL AND expires_at <= $1 ORDER BY id LIMIT 100",
    )
    .bind(now)
    .fetch_all(&cp.db)
    .await?;
    for id in over {
        support_end(cp, &Caller::worker(), None, id).await?;
    }
    Ok(())
}
