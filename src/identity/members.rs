//! Seats in tenants. An owner stays: whatever is asked, and however many ask at once.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use super::invitations::invitations_go_with_seat;
use super::keys::keys_go_with_seat;
use crate::control_plane::audit::{Caller, audit_add};
use crate::control_plane::changes::{self, Change};
use crate::control_plane::tenants::tenant_hold;
use crate::kernel::ids::{AccountId, TenantId};
use crate::kernel::page::{Asked, Page};
use crate::kernel::{Error, Result, Role, codes};

/// A person's seat in a tenant.
#[derive(Clone, Debug, Serialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct Member {
    pub account: AccountId,
    pub name: String,
    pub email: Option<String>,
    pub role: Role,
    pub joined_at: DateTime<Utc>,
}

/// Who asks for a change among members: the role decides what they may do. A key has no account.
#[derive(Clone, Copy, Debug)]
pub struct By {
    pub account: Option<AccountId>,
    pub role: Role,
}

/// Which members to list.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct MemberFilter {
    pub limit: Option<u32>,
    pub cursor: Option<String>,
}

/// A tenant's members, by account.
pub async fn member_list(
    conn: &mut PgConnection,
    tenant: TenantId,
    filter: &MemberFilter,
) -> Result<Page<Member>> {
    let asked: Asked<AccountId> = Asked::of(filter.limit, filter.cursor.as_deref())?;
    let rows = sqlx::query_as(
        "SELECT m.account, a.name, a.email, m.role, m.joined_at
           FROM membership m JOIN account a ON a.id = m.account
          WHERE m.tenant = $1 AND ($2::uuid IS NULL OR m.account > $2)
          ORDER BY m.account LIMIT $3",
    )
    .bind(tenant)
    .bind(asked.after)
    .bind(asked.rows())
    .fetch_all(conn)
    .await?;
    Ok(asked.page(rows, |member: &Member| member.account))
}

/// One member.
///
/// # Errors
/// `not_found` for one who is none, whoever they are.
pub async fn member_get(conn: &mut PgConnection, tenant: TenantId, account: AccountId) -> Result<Member> {
    sqlx::query_as(
        "SELECT m.account, a.name, a.email, m.role, m.joined_at
           FROM membership m JOIN account a ON a.id = m.account
          WHERE m.tenant = $1 AND m.account = $2",
    )
    .bind(tenant)
    .bind(account)
    .fetch_optional(conn)
    .await?
    .ok_or_else(|| Error::new(&codes::NOT_FOUND))
}

/// The role that an account has in a tenant at this moment. For what must not rest on what a request began with: asked with
/// the tenant's row locked, it stays so until the transaction ends.
pub(super) async fn seat_role(
    conn: &mut PgConnection,
    tenant: TenantId,
    account: AccountId,
) -> Result<Option<Role>> {
    Ok(sqlx::query_scalar("SELECT role FROM membership WHERE tenant = $1 AND account = $2")
        .bind(tenant)
        .bind(account)
        .fetch_optional(conn)
        .await?)
}

/// Gives an account a seat. One who has a seat keeps the one they have; tells whether it is new.
pub async fn member_add(
    conn: &mut PgConnection,
    caller: &Caller,
    tenant: TenantId,
    account: AccountId,
    role: Role,
    invited_by: Option<AccountId>,
    now: DateTime<Utc>,
) -> Result<bool> {
    let added = sqlx::query(
        "INSERT INTO membership (tenant, account, role, joined_at, invited_by) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT DO NOTHING",
    )
    .bind(tenant)
    .bind(account)
    .bind(role)
    .bind(now)
    .bind(invited_by)
    .execute(&mut *conn)
    .await?
    .rows_affected()
        == 1;
    if added {
        audit_add(
            &mut *conn,
            caller,
            now,
            "member.join",
            Some(tenant),
            &account.to_string(),
            json!({ "role": role }),
        )
        .await?;
        changes::notify(conn, Change::Account(account)).await?;
    }
    Ok(added)
}

/// Gives a member another role. Keys that they made and could not make any more are revoked, and so are their invitations to
/// more than they are now.
///
/// # Errors
/// `forbidden` for a role above one's own, given or taken; `state_conflict` when no owner would be left.
pub async fn member_change(
    conn: &mut PgConnection,
    caller: &Caller,
    by: By,
    tenant: TenantId,
    account: AccountId,
    role: Role,
    now: DateTime<Utc>,
) -> Result<Member> {
    let owners = owners_locked(&mut *conn, tenant).await?;
    let before = member_get(&mut *conn, tenant, account).await?;
    may_touch(by, before.role)?;
    may_touch(by, role)?;
    if by.role < Role::Admin {
        return Err(Error::new(&codes::FORBIDDEN));
    }
    if before.role == role {
        return Ok(before);
    }
    if before.role == Role::Owner {
        someone_stays(&owners, account)?;
    }
    sqlx::query("UPDATE membership SET role = $3 WHERE tenant = $1 AND account = $2")
        .bind(tenant)
        .bind(account)
        .bind(role)
        .execute(&mut *conn)
        .await?;
    let detail = json!({ "from": before.role, "to": role });
    audit_add(&mut *conn, caller, now, "member.role", Some(tenant), &account.to_string(), detail).await?;
    goes_with_seat(&mut *conn, caller, tenant, account, Some(role), now).await?;
    changes::notify(conn, Change::Account(account)).await?;
    Ok(Member { role, ..before })
}

/// Takes a member's seat away, and with it the keys that they made and the invitations that they sent; leaving is removing
/// oneself.
///
/// # Errors
/// `forbidden` for someone above oneself; `state_conflict` for the last owner.
pub async fn member_remove(
    conn: &mut PgConnection,
    caller: &Caller,
    by: By,
    tenant: TenantId,
    account: AccountId,
    now: DateTime<Utc>,
) -> Result<()> {
    let owners = owners_locked(&mut *conn, tenant).await?;
    let before = member_get(&mut *conn, tenant, account).await?;
    if by.account != Some(account) {
        may_touch(by, before.role)?;
        if by.role < Role::Admin {
            return Err(Error::new(&codes::FORBIDDEN));
        }
    }
    if before.role == Role::Owner {
        someone_stays(&owners, account)?;
    }
    sqlx::query("DELETE FROM membership WHERE tenant = $1 AND account = $2")
        .bind(tenant)
        .bind(account)
        .execute(&mut *conn)
        .await?;
    let action = if by.account == Some(account) { "member.leave" } else { "member.remove" };
    let detail = json!({ "role": before.role });
    audit_add(&mut *conn, caller, now, action, Some(tenant), &account.to_string(), detail).await?;
    goes_with_seat(&mut *conn, caller, tenant, account, None, now).await?;
    Ok(changes::notify(conn, Change::Account(account)).await?)
}

/// Hands the workspace over: the other member becomes an owner, and the one who hands over an admin, or neither.
///
/// # Errors
/// `forbidden` for one who is no owner (any more); `not_found` for somebody who is no member; `state_conflict` for oneself
/// or another owner.
pub async fn ownership_transfer(
    conn: &mut PgConnection,
    caller: &Caller,
    tenant: TenantId,
    from: AccountId,
    to: AccountId,
    now: DateTime<Utc>,
) -> Result<Member> {
    let owners = owners_locked(&mut *conn, tenant).await?;
    if !owners.contains(&from) {
        return Err(Error::new(&codes::FORBIDDEN).detail("only an owner can hand the workspace over"));
    }
    let before = member_get(&mut *conn, tenant, to).await?;
    if owners.contains(&to) {
        return Err(Error::new(&codes::STATE_CONFLICT).detail("this is an owner already"));
    }
    for (account, role) in [(to, Role::Owner), (from, Role::Admin)] {
        sqlx::query("UPDATE membership SET role = $3 WHERE tenant = $1 AND account = $2")
            .bind(tenant)
            .bind(account)
            .bind(role)
            .execute(&mut *conn)
            .await?;
        changes::notify(&mut *conn, Change::Account(account)).await?;
    }
    goes_with_seat(&mut *conn, caller, tenant, from, Some(Role::Admin), now).await?;
    let detail = json!({ "from": from, "to": to, "was": before.role });
    audit_add(conn, caller, now, "owner.transfer", Some(tenant), &to.to_string(), detail).await?;
    Ok(Member { role: Role::Owner, ..before })
}

/// What would be a way back to a seat that is gone, or to the role that it had: keys and invitations. `left` is the role
/// that stays. With the tenant's row locked.
pub(super) async fn goes_with_seat(
    conn: &mut PgConnection,
    caller: &Caller,
    tenant: TenantId,
    account: AccountId,
    left: Option<Role>,
    now: DateTime<Utc>,
) -> Result<()> {
    keys_go_with_seat(&mut *conn, caller, tenant, account, left, now).await?;
    invitations_go_with_seat(conn, caller, tenant, account, left, now).await
}

/// The owners, with every change of members of this tenant held off until the transaction ends.
async fn owners_locked(conn: &mut PgConnection, tenant: TenantId) -> Result<Vec<AccountId>> {
    tenant_hold(&mut *conn, tenant).await?;
    Ok(sqlx::query_scalar("SELECT account FROM membership WHERE tenant = $1 AND role = 'owner'")
        .bind(tenant)
        .fetch_all(conn)
        .await?)
}

/// Nobody touches a seat above their own, nor makes one.
fn may_touch(by: By, role: Role) -> Result<()> {
    if role > by.role {
        return Err(Error::new(&codes::FORBIDDEN).detail(format!("only an {} may do that", Role::Owner)));
    }
    Ok(())
}

fn someone_stays(owners: &[AccountId], going: AccountId) -> Result<()> {
    if owners.iter().any(|owner| *owner != going) {
        return Ok(());
    }
    Err(Error::new(&codes::STATE_CONFLICT)
        .detail("this is the last owner")
        .hint("make someone else an owner first"))
}
