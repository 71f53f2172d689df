//! API keys of tenants and keys of operators: made, listed, revoked. Only a key's hash is kept.

use chrono::{DateTime, Utc};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use super::members::{By, seat_role};
use super::operators::{OperatorRef, OperatorRole, actor_of_key, operator_lock};
use super::support::support_end_all_of;
use crate::control_plane::ControlPlane;
use crate::control_plane::approvals::person_of;
use crate::control_plane::audit::{Caller, audit_add};
use crate::control_plane::changes::{self, Change};
use crate::control_plane::tenants::{TenantRef, TenantState, tenant_find, tenant_hold};
use crate::kernel::credentials::{self, KeyKind, NewKey};
use crate::kernel::ids::{AccountId, ApiKeyId, OperatorId, OperatorKeyId, TenantId};
use crate::kernel::page::{Asked, Page};
use crate::kernel::{Error, Result, Role, codes};

/// Keys of one workspace that are good at a time.
const MOST_LIVE: i64 = 200;

/// A tenant's API key: the record, not the secret.
#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct ApiKey {
    pub id: ApiKeyId,
    pub tenant: TenantId,
    pub name: String,
    pub role: Role,
    /// What it may touch, as `tasks:read`; null for all that its role may.
    pub scopes: Option<Vec<String>>,
    /// The person who made it, themselves or with another key; null for a key made by an operator. It goes with their seat.
    pub created_by: Option<AccountId>,
    /// The key's last characters.
    pub tail: String,
    pub created_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
    pub last_used_at: Option<DateTime<Utc>>,
}

/// An operator's key: the record, not the secret.
#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct OperatorKey {
    pub id: OperatorKeyId,
    pub name: String,
    pub role: OperatorRole,
    /// The operator whose key it is; null for nobody's, which agrees to no correction of money.
    pub owner: Option<OperatorId>,
    pub owner_email: Option<String>,
    pub tail: String,
    pub created_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
    pub last_used_at: Option<DateTime<Utc>>,
}

/// A new key with its secret, which is shown this once.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WithSecret<T> {
    #[serde(flatten)]
    pub record: T,
    /// The key itself. It cannot be shown again.
    pub key: String,
}

/// What a new API key is to be.
#[derive(Clone, Debug, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewApiKey {
    #[garde(length(chars, min = 1, max = 120))]
    pub name: String,
    #[garde(skip)]
    pub role: Role,
    #[garde(skip)]
    pub expires_at: Option<DateTime<Utc>>,
}

fn check_expiry(expires_at: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Result<()> {
    match expires_at {
        Some(at) if at <= now => Err(Error::field("expires_at", "must be in the future")),
        _ => Ok(()),
    }
}

/// What each key is read as.
macro_rules! key_columns {
    ($before:literal, $after:literal) => {
        concat!(
            $before,
            " id, tenant, name, role, scopes, created_by, tail, created_at, expires_at, revoked_at, last_used_at ",
            $after
        )
    };
}

/// Makes an API key for a tenant.
pub async fn api_key_create(
    cp: &ControlPlane,
    caller: &Caller,
    tenant: &TenantRef,
    new: &NewApiKey,
) -> Result<WithSecret<ApiKey>> {
    let now = cp.clock.now();
    check_expiry(new.expires_at, now)?;
    let secret = credentials::make(KeyKind::Tenant, &cp.entropy);
    let mut tx = cp.db.begin().await?;
    let tenant = tenant_find(&mut tx, tenant).await?;
    if tenant.state == TenantState::Deleted {
        return Err(Error::new(&codes::STATE_CONFLICT).detail(format!("tenant {} is deleted", tenant.slug)));
    }
    let record = key_insert(&mut tx, caller, tenant.id, new, &secret, (None, None), now).await?;
    tx.commit().await?;
    Ok(WithSecret { record, key: secret.key.expose_secret().to_owned() })
}

/// Writes a new key down: with its hash, never itself.
async fn key_insert(
    conn: &mut PgConnection,
    caller: &Caller,
    tenant: TenantId,
    new: &NewApiKey,
    secret: &NewKey,
    (scopes, created_by): (Option<&[String]>, Option<AccountId>),
    now: DateTime<Utc>,
) -> Result<ApiKey> {
    let record: ApiKey = sqlx::query_as(key_columns!(
        "INSERT INTO api_key (id, tenant, name, role, scopes, created_by, key_hash, tail, created_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) RETURNING",
        ""
    ))
    .bind(ApiKeyId::new())
    .bind(tenant)
    .bind(&new.name)
    .bind(new.role)
    .bind(scopes)
    .bind(created_by)
    .bind(&secret.hash[..])
    .bind(&secret.tail)
    .bind(now)
    .bind(new.expires_at)
    .fetch_one(&mut *conn)
    .await?;
    let mut detail = json!({ "name": record.name, "role": record.role });
    if let Some(scopes) = scopes {
        detail["scopes"] = json!(scopes);
    }
    audit_add(conn, caller, now, "api_key.create", Some(tenant), &record.id.to_string(), detail).await?;
    Ok(record)
}

/// What a new key of one's own workspace is to be.
#[derive(Clone, Debug, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewOwnKey {
    #[garde(length(chars, min = 1, max = 120))]
    pub name: String,
    #[garde(skip)]
    pub role: Role,
    /// What it may touch, as `tasks:read`: see `security` of each operation. Left out: all that its role may.
    #[garde(skip)]
    #[serde(default)]
    pub scopes: Option<Vec<String>>,
    #[garde(skip)]
    pub expires_at: Option<DateTime<Utc>>,
}

/// Which keys to list.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct KeyFilter {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// Makes a key for the caller's own workspace. Whether the caller may give these scopes is the door's to say.
///
/// # Errors
/// `forbidden` for a role above one's own; `rate_limited` when there are too many keys.
pub async fn own_key_create(
    cp: &ControlPlane,
    caller: &Caller,
    by: By,
    tenant: TenantId,
    new: &NewOwnKey,
) -> Result<WithSecret<ApiKey>> {
    if by.role < Role::Admin || new.role > by.role {
        return Err(Error::new(&codes::FORBIDDEN).detail("nobody makes a key with a role above their own"));
    }
    let now = cp.clock.now();
    check_expiry(new.expires_at, now)?;
    let secret = credentials::make(KeyKind::Tenant, &cp.entropy);
    let mut tx = cp.db.begin().await?;
    // As a change of seats has it locked: a key that is made while its maker's seat goes is either seen and goes with it, or
    // is not made.
    tenant_hold(&mut tx, tenant).await?;
    let live: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM api_key
          WHERE tenant = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2)",
    )
    .bind(tenant)
    .bind(now)
    .fetch_one(&mut *tx)
    .await?;
    if live >= MOST_LIVE {
        return Err(Error::new(&codes::RATE_LIMITED)
            .detail(format!("the workspace has {live} keys"))
            .hint("revoke those that are no longer used"));
    }
    let plain = NewApiKey { name: new.name.clone(), role: new.role, expires_at: new.expires_at };
    // A key that a key makes has the same person behind it: it goes with that one's seat too.
    let maker = match by.account {
        Some(account) => Some(account),
        None => maker_of(&mut tx, tenant, &caller.actor).await?,
    };
    if let Some(maker) = maker
        && seat_role(&mut tx, tenant, maker).await?.is_none_or(|role| role < Role::Admin || role < new.role)
    {
        return Err(Error::new(&codes::FORBIDDEN).detail("nobody makes a key with a role above their own"));
    }
    let given = (new.scopes.as_deref(), maker);
    let record = key_insert(&mut tx, caller, tenant, &plain, &secret, given, now).await?;
    tx.commit().await?;
    Ok(WithSecret { record, key: secret.key.expose_secret().to_owned() })
}

/// Who made the key that asks, if a person did.
async fn maker_of(conn: &mut PgConnection, tenant: TenantId, actor: &str) -> Result<Option<AccountId>> {
    let Ok(key) = actor.parse::<ApiKeyId>() else { return Ok(None) };
    let maker: Option<Option<AccountId>> =
        sqlx::query_scalar("SELECT created_by FROM api_key WHERE id = $1 AND tenant = $2")
            .bind(key)
            .bind(tenant)
            .fetch_optional(conn)
            .await?;
    Ok(maker.flatten())
}

/// The keys of one workspace, newest first, revoked ones included.
pub async fn own_key_list(
    conn: &mut PgConnection,
    tenant: TenantId,
    filter: &KeyFilter,
) -> Result<Page<ApiKey>> {
    let asked: Asked<ApiKeyId> = Asked::of(filter.limit, filter.cursor.as_deref())?;
    let rows = sqlx::query_as(key_columns!(
        "SELECT",
        "FROM api_key WHERE tenant = $1 AND ($2::uuid IS NULL OR id < $2) ORDER BY id DESC LIMIT $3"
    ))
    .bind(tenant)
    .bind(asked.after)
    .bind(asked.rows())
    .fetch_all(conn)
    .await?;
    Ok(asked.page(rows, |key: &ApiKey| key.id))
}

/// Revokes a key of the caller's own workspace; every server refuses it within a second. Twice changes nothing.
///
/// # Errors
/// `not_found` for a key of another workspace, as for none; `forbidden` for one with a role above one's own.
pub async fn own_key_revoke(
    cp: &ControlPlane,
    caller: &Caller,
    by: By,
    tenant: TenantId,
    id: ApiKeyId,
) -> Result<()> {
    let role: Option<Role> = sqlx::query_scalar("SELECT role FROM api_key WHERE id = $1 AND tenant = $2")
        .bind(id)
        .bind(tenant)
        .fetch_optional(&cp.db)
        .await?;
    match role {
        None => Err(Error::new(&codes::NOT_FOUND)),
        Some(role) if by.role < Role::Admin || role > by.role => {
            Err(Error::new(&codes::FORBIDDEN).detail("nobody revokes a key with a role above their own"))
        }
        Some(_) => api_key_revoke(cp, caller, id).await.map(drop),
    }
}

/// Revokes the keys that a person made in a workspace, when their seat goes or shrinks: all of them, or those with a role
/// above the one they have now. Whoever makes a key sees it once and may have kept it, so that a key which outlived the
/// seat would be a way back in that nobody can see.
pub(super) async fn keys_go_with_seat(
    conn: &mut PgConnection,
    caller: &Caller,
    tenant: TenantId,
    maker: AccountId,
    left: Option<Role>,
    now: DateTime<Utc>,
) -> Result<()> {
    // Only admins make keys: below that, none is left.
    let kept: Vec<&str> = match left {
        Some(left) if left >= Role::Admin => {
            Role::ALL.into_iter().filter(|role| *role <= left).map(Role::as_str).collect()
        }
        _ => Vec::new(),
    };
    let gone: Vec<(ApiKeyId, Vec<u8>)> = sqlx::query_as(
        "UPDATE api_key SET revoked_at = $3
          WHERE tenant = $1 AND created_by = $2 AND revoked_at IS NULL AND NOT role = ANY($4)
         RETURNING id, key_hash",
    )
    .bind(tenant)
    .bind(maker)
    .bind(now)
    .bind(kept)
    .fetch_all(&mut *conn)
    .await?;
    for (id, hash) in gone {
        let detail = json!({ "made_by": maker, "with": "seat" });
        audit_add(&mut *conn, caller, now, "api_key.revoke", Some(tenant), &id.to_string(), detail).await?;
        let hash = hash.try_into().map_err(|_| Error::internal("a key hash that is not 32 bytes"))?;
        changes::notify(&mut *conn, Change::Key(hash)).await?;
    }
    Ok(())
}

/// A tenant's keys, newest first, revoked ones included.
pub async fn api_key_list(
    conn: &mut PgConnection,
    tenant: &TenantRef,
    filter: &KeyFilter,
) -> Result<Page<ApiKey>> {
    let tenant = tenant_find(&mut *conn, tenant).await?;
    own_key_list(conn, tenant.id, filter).await
}

/// Revokes a key; every server refuses it within a second. Revoking twice changes nothing.
pub async fn api_key_revoke(cp: &ControlPlane, caller: &Caller, id: ApiKeyId) -> Result<ApiKey> {
    let now = cp.clock.now();
    let mut tx = cp.db.begin().await?;
    let revoked: Option<(TenantId, Vec<u8>)> = sqlx::query_as(
        "UPDATE api_key SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL RETURNING tenant, key_hash",
    )
    .bind(id)
    .bind(now)
    .fetch_optional(&mut *tx)
    .await?;
    if let Some((tenant, hash)) = revoked {
        audit_add(&mut tx, caller, now, "api_key.revoke", Some(tenant), &id.to_string(), json!({})).await?;
        let hash = hash.try_into().map_err(|_| Error::internal("a key hash that is not 32 bytes"))?;
        changes::notify(&mut tx, Change::Key(hash)).await?;
    }
    let key = sqlx::query_as(key_columns!("SELECT", "FROM api_key WHERE id = $1"))
        .bind(id)
        .fetch_optional(&mut *tx)
        .await?
        .ok_or_else(|| Error::new(&codes::NOT_FOUND).detail(format!("there is no API key {id}")))?;
    tx.commit().await?;
    Ok(key)
}

/// What each operator's key is read as.
macro_rules! operator_key_columns {
    ($before:literal, $after:literal) => {
        concat!(
            $before,
            " id, name, role, owner, (SELECT o.email FROM operator o WHERE o.id = operator_key.owner) AS owner_email, tail, \
             created_at, expires_at, revoked_at, last_used_at ",
            $after
        )
    };
}

/// Makes an operator's key that may do everything.
pub async fn operator_key_create(
    cp: &ControlPlane,
    caller: &Caller,
    name: &str,
    expires_at: Option<DateTime<Utc>>,
) -> Result<WithSecret<OperatorKey>> {
    operator_key_create_as(cp, caller, name, OperatorRole::Operator, expires_at).await
}

/// Makes an operator's key with a role. It is the caller's own.
pub async fn operator_key_create_as(
    cp: &ControlPlane,
    caller: &Caller,
    name: &str,
    role: OperatorRole,
    expires_at: Option<DateTime<Utc>>,
) -> Result<WithSecret<OperatorKey>> {
    operator_key_create_for(cp, caller, name, role, None, expires_at).await
}

/// Makes an operator's key for somebody; when nobody is named, for the operator who makes it, if one does.
///
/// # Errors
/// `invalid_fields`, also for a role above the owner's; `not_found` for an owner who is none; `forbidden` for an operator
/// who makes one for somebody else: whoever has it could then be two people.
pub async fn operator_key_create_for(
    cp: &ControlPlane,
    caller: &Caller,
    name: &str,
    role: OperatorRole,
    owner: Option<&OperatorRef>,
    expires_at: Option<DateTime<Utc>>,
) -> Result<WithSecret<OperatorKey>> {
    if name.is_empty() || name.chars().count() > 120 {
        return Err(Error::field("name", "has 1 to 120 characters"));
    }
    let now = cp.clock.now();
    check_expiry(expires_at, now)?;
    let secret = credentials::make(KeyKind::Operator, &cp.entropy);
    let mut tx = cp.db.begin().await?;
    let owner = owner_of_new(&mut tx, caller, owner, role).await?;
    let record: OperatorKey = sqlx::query_as(operator_key_columns!(
        "INSERT INTO operator_key (id, name, key_hash, tail, created_at, expires_at, role, owner)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING",
        ""
    ))
    .bind(OperatorKeyId::new())
    .bind(name)
    .bind(&secret.hash[..])
    .bind(&secret.tail)
    .bind(now)
    .bind(expires_at)
    .bind(role)
    .bind(owner)
    .fetch_one(&mut *tx)
    .await?;
    let detail = json!({ "name": name, "role": role, "owner": owner });
    audit_add(&mut tx, caller, now, "operator_key.create", None, &record.id.to_string(), detail).await?;
    tx.commit().await?;
    Ok(WithSecret { record, key: secret.key.expose_secret().to_owned() })
}

/// Whose a new key is. Only with a login on the databases is one made for somebody else.
async fn owner_of_new(
    conn: &mut PgConnection,
    caller: &Caller,
    named: Option<&OperatorRef>,
    role: OperatorRole,
) -> Result<Option<OperatorId>> {
    let own = person_of(&mut *conn, &caller.actor).await?;
    let owner = match (named, own) {
        (None, None) => return Ok(None),
        (None, Some(own)) => operator_lock(conn, &OperatorRef::Id(own)).await?,
        (Some(named), own) => {
            let named = operator_lock(conn, named).await?;
            if caller.actor.starts_with("operator:") && own != Some(named.id) {
                return Err(Error::new(&codes::FORBIDDEN)
                    .detail("an operator makes keys of their own, and none for somebody else")
                    .hint("on the databases themselves: freehold operator-key create --owner"));
            }
            named
        }
    };
    if role > owner.role {
        let most = owner.role.as_str();
        return Err(Error::field("role", format!("is above that of {}, who is {most}", owner.email)));
    }
    Ok(Some(owner.id))
}

/// The operators' keys, newest first, revoked ones included.
pub async fn operator_key_list(conn: &mut PgConnection, filter: &KeyFilter) -> Result<Page<OperatorKey>> {
    let asked: Asked<OperatorKeyId> = Asked::of(filter.limit, filter.cursor.as_deref())?;
    let rows = sqlx::query_as(operator_key_columns!(
        "SELECT",
        "FROM operator_key WHERE ($1::uuid IS NULL OR id < $1) ORDER BY id DESC LIMIT $2"
    ))
    .bind(asked.after)
    .bind(asked.rows())
    .fetch_all(conn)
    .await?;
    Ok(asked.page(rows, |key: &OperatorKey| key.id))
}

/// Revokes an operator's key at once.
pub async fn operator_key_revoke(
    cp: &ControlPlane,
    caller: &Caller,
    id: OperatorKeyId,
) -> Result<OperatorKey> {
    let now = cp.clock.now();
    let mut tx = cp.db.begin().await?;
    let key = sqlx::query_as(operator_key_columns!(
        "UPDATE operator_key SET revoked_at = coalesce(revoked_at, $2) WHERE id = $1 RETURNING",
        ""
    ))
    .bind(id)
    .bind(now)
    .fetch_optional(&mut *tx)
    .await?
    .ok_or_else(|| Error::new(&codes::NOT_FOUND).detail(format!("there is no operator key {id}")))?;
    audit_add(&mut tx, caller, now, "operator_key.revoke", None, &id.to_string(), json!({})).await?;
    support_end_all_of(&mut tx, caller, &actor_of_key(id), now).await?;
    tx.commit().await?;
    Ok(key)
}

/// Who asks with an operator's key.
#[derive(Clone, Debug)]
pub struct KeyHolder {
    pub id: OperatorKeyId,
    pub name: String,
    /// The key's, and never above its owner's.
    pub role: OperatorRole,
}

/// Who holds this operator key. Asked of the database each time: operators are few, and revocation is at once.
///
/// # Errors
/// `unauthenticated` for a key that is unknown, expired or revoked.
pub async fn operator_authenticate(cp: &ControlPlane, key: &str) -> Result<KeyHolder> {
    let hash =
        credentials::parse(KeyKind::Operator, key).ok_or_else(|| Error::new(&codes::UNAUTHENTICATED))?;
    let now = cp.clock.now();
    let found: Option<(OperatorKeyId, String, OperatorRole, Option<OperatorRole>)> = sqlx::query_as(
        "SELECT k.id, k.name, k.role, o.role FROM operator_key k LEFT JOIN operator o ON o.id = k.owner
          WHERE k.key_hash = $1 AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > $2)
            AND o.disabled_at IS NULL",
    )
    .bind(&hash[..])
    .bind(now)
    .fetch_optional(&cp.db)
    .await?;
    let (id, name, role, owners) = found.ok_or_else(|| Error::new(&codes::UNAUTHENTICATED))?;
    Ok(KeyHolder { id, name, role: owners.map_or(role, |owners| owners.min(role)) })
}
