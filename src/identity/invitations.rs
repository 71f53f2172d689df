//! Invitations to a tenant: by mail, for one address, once.
//!
//! The link's secret is derived from the master key, the invitation and its version, so that no table holds it. It proves
//! that the mail was read; that the reader is whom it was written to is the account's verified address.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use super::Identity;
use super::accounts::{account_by_id, addresses_of};
use super::letters::{Letter, letter_post, mail_is_set_up};
use super::members::{By, member_add, seat_role};
use super::oidc::plausible;
use crate::control_plane::audit::{Caller, audit_add};
use crate::control_plane::plans::Entitlements;
use crate::control_plane::tenants::{TenantState, tenant_hold};
use crate::db::on_constraint;
use crate::kernel::ids::{AccountId, InvitationId, TenantId};
use crate::kernel::page::{Asked, Page};
use crate::kernel::{Error, QuotaState, Result, Role, codes};

/// How long an invitation holds.
const LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Open invitations of one tenant.
const MOST_OPEN: i64 = 500;
/// What a link's secret is derived for.
pub const LINK: &str = "invitation";

/// An invitation, as the tenant sees it.
#[derive(Clone, Debug, Serialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct Invitation {
    pub id: InvitationId,
    pub email: String,
    pub role: Role,
    pub invited_by: AccountId,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub accepted_at: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
}

/// Whom to invite.
#[derive(Clone, Debug, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewInvitation {
    #[garde(custom(an_address))]
    #[schema(example = "grace@example.com", max_length = 254)]
    pub email: String,
    #[garde(skip)]
    pub role: Role,
}

fn an_address(text: &str, (): &()) -> garde::Result {
    if plausible(text.trim()) { Ok(()) } else { Err(garde::Error::new("is not an e-mail address")) }
}

/// Which invitations to list.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct InvitationFilter {
    pub limit: Option<u32>,
    pub cursor: Option<String>,
}

/// What somebody with the link is shown.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Invited {
    pub tenant: TenantId,
    pub slug: String,
    pub workspace: String,
    pub inviter: String,
    pub email: String,
    pub role: Role,
}

/// A tenant's invitations, newest first; accepted and revoked ones stay listed.
pub async fn invitation_list(
    conn: &mut PgConnection,
    tenant: TenantId,
    filter: &InvitationFilter,
) -> Result<Page<Invitation>> {
    let asked: Asked<InvitationId> = Asked::of(filter.limit, filter.cursor.as_deref())?;
    let rows = sqlx::query_as(
        "SELECT id, email, role, invited_by, created_at, expires_at, accepted_at, revoked_at
           FROM invitation WHERE tenant = $1 AND ($2::uuid IS NULL OR id < $2)
          ORDER BY id DESC LIMIT $3",
    )
    .bind(tenant)
    .bind(asked.after)
    .bind(asked.rows())
    .fetch_all(conn)
    .await?;
    Ok(asked.page(rows, |invitation: &Invitation| invitation.id))
}

/// Invites an address. The mail is sent by a worker.
///
/// # Errors
/// `forbidden` for a role above one's own, or for a key (an invitation names a person); `conflict` when the address has an
/// open invitation or a seat; `payment_required` when the plan has no seat left; `state_conflict` where no mail is sent;
/// `rate_limited` for too many letters.
pub async fn invite(
    identity: &Identity,
    caller: &Caller,
    by: By,
    tenant: TenantId,
    new: &NewInvitation,
) -> Result<Invitation> {
    let inviter = by
        .account
        .ok_or_else(|| Error::new(&codes::FORBIDDEN).detail("only a person can invite, not a key"))?;
    if by.role < Role::Admin || new.role > by.role {
        return Err(above());
    }
    mail_is_set_up(identity)?;
    let (email, now) = (new.email.trim().to_lowercase(), identity.cp.clock.now());
    let mut tx = identity.cp.db.begin().await?;
    let seats = seats_locked(&mut tx, tenant, now).await?;
    // Read again with the tenant's row locked: a seat that was lost meanwhile invites nobody.
    if seat_role(&mut tx, tenant, inviter).await?.is_none_or(|role| role < Role::Admin || role < new.role) {
        return Err(above());
    }
    if seats.open >= MOST_OPEN {
        return Err(Error::new(&codes::RATE_LIMITED).detail(format!("{} invitations are open", seats.open)));
    }
    seats.need(seats.taken + seats.open + 1)?;
    let member: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM membership m JOIN account a ON a.id = m.account
                         WHERE m.tenant = $1 AND lower(a.email) = $2 AND a.email_verified)",
    )
    .bind(tenant)
    .bind(&email)
    .fetch_one(&mut *tx)
    .await?;
    if member {
        return Err(Error::new(&codes::CONFLICT).detail("this address has a seat already"));
    }
    // One that ran out makes room for the next.
    sqlx::query(
        "UPDATE invitation SET revoked_at = $3 WHERE tenant = $1 AND email = $2 AND expires_at <= $3
            AND accepted_at IS NULL AND revoked_at IS NULL",
    )
    .bind(tenant)
    .bind(&email)
    .bind(now)
    .execute(&mut *tx)
    .await?;
    let invitation: Invitation = sqlx::query_as(
        "INSERT INTO invitation (id, tenant, email, role, invited_by, created_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         RETURNING id, email, role, invited_by, created_at, expires_at, accepted_at, revoked_at",
    )
    .bind(InvitationId::new())
    .bind(tenant)
    .bind(&email)
    .bind(new.role)
    .bind(inviter)
    .bind(now)
    .bind(now + LIFE)
    .fetch_one(&mut *tx)
    .await
    .map_err(on_constraint("invitation_one_open", &codes::CONFLICT))?;
    let detail = json!({ "email": email, "role": new.role });
    audit_add(&mut tx, caller, now, "invitation.create", Some(tenant), &invitation.id.to_string(), detail)
        .await?;
    letter_post(&mut tx, tenant, &email, &Letter::Invitation { invitation: invitation.id }, now).await?;
    tx.commit().await?;
    Ok(invitation)
}

fn above() -> Error {
    Error::new(&codes::FORBIDDEN).detail("nobody invites to a role above their own")
}

/// The seats of a tenant's plan, and what has become of them.
pub(super) struct Seats {
    all: i64,
    pub(super) taken: i64,
    open: i64,
}

impl Seats {
    pub(super) fn need(&self, wanted: i64) -> Result<()> {
        if wanted <= self.all {
            return Ok(());
        }
        let Self { all, taken, open } = self;
        Err(Error::new(&codes::PAYMENT_REQUIRED)
            .detail(format!("the plan has {all} seats: {taken} are taken and {open} are invited to"))
            .hint("revoke an invitation, remove a member, or an owner can move to a larger plan, on the page /usage")
            .quota(QuotaState {
                name: "seats".to_owned(),
                limit: u64::try_from(*all).unwrap_or(0),
                used: u64::try_from(taken + open).unwrap_or(0),
                resets_at: None,
            }))
    }
}

/// Counts seats with the tenant's row locked, so that two who ask at once are counted one after the other.
pub(super) async fn seats_locked(
    conn: &mut PgConnection,
    tenant: TenantId,
    now: DateTime<Utc>,
) -> Result<Seats> {
    let limits: sqlx::types::Json<Entitlements> = sqlx::query_scalar(
        "SELECT plan.entitlements FROM tenant JOIN plan ON plan.id = tenant.plan
          WHERE tenant.id = $1 FOR NO KEY UPDATE OF tenant",
    )
    .bind(tenant)
    .fetch_one(&mut *conn)
    .await?;
    let (taken, open): (i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM membership WHERE tenant = $1),
                (SELECT count(*) FROM invitation
                  WHERE tenant = $1 AND accepted_at IS NULL AND revoked_at IS NULL AND expires_at > $2)",
    )
    .bind(tenant)
    .bind(now)
    .fetch_one(conn)
    .await?;
    Ok(Seats { all: i64::from(limits.seats), taken, open })
}

/// Sends the mail again, with a new link: the old one is dead, and the week begins anew. Whoever sends it again gives what it
/// gives.
///
/// # Errors
/// `not_found`; `forbidden` for a role above one's own; `state_conflict` for one that is accepted or revoked.
pub async fn invitation_resend(
    identity: &Identity,
    caller: &Caller,
    by: By,
    tenant: TenantId,
    id: InvitationId,
) -> Result<Invitation> {
    let now = identity.cp.clock.now();
    let mut tx = identity.cp.db.begin().await?;
    let found = invitation_locked(&mut tx, tenant, id).await?;
    if by.role < Role::Admin || found.role > by.role {
        return Err(above());
    }
    if found.accepted_at.is_some() || found.revoked_at.is_some() {
        return Err(Error::new(&codes::STATE_CONFLICT).detail("this invitation is no longer open"));
    }
    mail_is_set_up(identity)?;
    let invitation: Invitation = sqlx::query_as(
        "UPDATE invitation SET version = version + 1, expires_at = $2 WHERE id = $1
         RETURNING id, email, role, invited_by, created_at, expires_at, accepted_at, revoked_at",
    )
    .bind(id)
    .bind(now + LIFE)
    .fetch_one(&mut *tx)
    .await?;
    audit_add(&mut tx, caller, now, "invitation.resend", Some(tenant), &id.to_string(), json!({})).await?;
    letter_post(&mut tx, tenant, &invitation.email, &Letter::Invitation { invitation: id }, now).await?;
    tx.commit().await?;
    Ok(invitation)
}

/// Takes an invitation back. Twice changes nothing; an accepted one stays accepted.
pub async fn invitation_revoke(
    identity: &Identity,
    caller: &Caller,
    tenant: TenantId,
    id: InvitationId,
) -> Result<()> {
    let now = identity.cp.clock.now();
    let mut tx = identity.cp.db.begin().await?;
    invitation_locked(&mut tx, tenant, id).await?;
    let revoked = sqlx::query(
        "UPDATE invitation SET revoked_at = $2 WHERE id = $1 AND accepted_at IS NULL AND revoked_at IS NULL",
    )
    .bind(id)
    .bind(now)
    .execute(&mut *tx)
    .await?;
    if revoked.rows_affected() == 1 {
        audit_add(&mut tx, caller, now, "invitation.revoke", Some(tenant), &id.to_string(), json!({}))
            .await?;
    }
    tx.commit().await?;
    Ok(())
}

/// The tenant's row first, as all do that change its invitations: then nobody waits for one while holding another.
async fn invitation_locked(
    conn: &mut PgConnection,
    tenant: TenantId,
    id: InvitationId,
) -> Result<Invitation> {
    tenant_hold(&mut *conn, tenant).await?;
    sqlx::query_as(
        "SELECT id, email, role, invited_by, created_at, expires_at, accepted_at, revoked_at
           FROM invitation WHERE tenant = $1 AND id = $2 FOR UPDATE",
    )
    .bind(tenant)
    .bind(id)
    .fetch_optional(conn)
    .await?
    .ok_or_else(|| Error::new(&codes::NOT_FOUND))
}

/// Revokes what would lead a person back to a seat that is gone, or to a role that they no longer have: open invitations that
/// they sent, and those to an address of theirs. `left` is the role that they keep. With the tenant's row locked.
pub(super) async fn invitations_go_with_seat(
    conn: &mut PgConnection,
    caller: &Caller,
    tenant: TenantId,
    person: AccountId,
    left: Option<Role>,
    now: DateTime<Utc>,
) -> Result<()> {
    let kept: Vec<&str> = Role::ALL
        .into_iter()
        .filter(|role| left.is_some_and(|left| *role <= left))
        .map(Role::as_str)
        .collect();
    let addresses = addresses_of(&mut *conn, person).await?;
    let gone: Vec<InvitationId> = sqlx::query_scalar(
        "UPDATE invitation SET revoked_at = $3
          WHERE tenant = $1 AND (invited_by = $2 OR email = ANY($5)) AND NOT role = ANY($4)
            AND accepted_at IS NULL AND revoked_at IS NULL
         RETURNING id",
    )
    .bind(tenant)
    .bind(person)
    .bind(now)
    .bind(kept)
    .bind(addresses)
    .fetch_all(&mut *conn)
    .await?;
    for id in gone {
        let detail = json!({ "of": person, "with": "seat" });
        audit_add(&mut *conn, caller, now, "invitation.revoke", Some(tenant), &id.to_string(), detail)
            .await?;
    }
    Ok(())
}

#[derive(sqlx::FromRow)]
struct Open {
    #[sqlx(flatten)]
    invited: Invited,
    state: TenantState,
    invited_by: AccountId,
    version: i32,
    expires_at: DateTime<Utc>,
    accepted_by: Option<AccountId>,
    revoked_at: Option<DateTime<Utc>>,
}

/// What the link leads to. One answer for everything that is no open invitation: a guesser learns nothing.
///
/// # Errors
/// `not_found`.
pub async fn invitation_look(identity: &Identity, id: InvitationId, secret: &str) -> Result<Invited> {
    let mut conn = identity.cp.db.acquire().await?;
    let open = open_by_link(identity, &mut conn, id, secret).await?;
    if open.accepted_by.is_some() {
        return Err(gone());
    }
    Ok(open.invited)
}

fn gone() -> Error {
    Error::new(&codes::NOT_FOUND).detail("this invitation was used, taken back, or is too old")
}

async fn open_by_link(
    identity: &Identity,
    conn: &mut PgConnection,
    id: InvitationId,
    secret: &str,
) -> Result<Open> {
    let open: Option<Open> = sqlx::query_as(
        "SELECT i.tenant, t.slug, t.name AS workspace, t.state, a.name AS inviter, i.invited_by, i.email, i.role,
                i.version, i.expires_at, i.accepted_by, i.revoked_at
           FROM invitation i JOIN tenant t ON t.id = i.tenant JOIN account a ON a.id = i.invited_by
          WHERE i.id = $1",
    )
    .bind(id)
    .fetch_optional(conn)
    .await?;
    let now = identity.cp.clock.now();
    let open = open.filter(|open| {
        identity.master.link_is_good(LINK, &id.to_string(), open.version, secret)
            && open.revoked_at.is_none()
            && open.expires_at > now
            && open.state == TenantState::Active
    });
    open.ok_or_else(gone)
}

/// Takes the seat. The account's own verified address must be the invited one. Accepting twice by the same person
/// changes nothing; one who has a seat keeps the role they have.
///
/// # Errors
/// `not_found` for a link that is no open invitation; `forbidden` for somebody else's; `payment_required` when the plan
/// has no seat left.
pub async fn invitation_accept(
    identity: &Identity,
    caller: &Caller,
    account: AccountId,
    id: InvitationId,
    secret: &str,
) -> Result<Invited> {
    let now = identity.cp.clock.now();
    let mut tx = identity.cp.db.begin().await?;
    // The tenant's row before the invitation's: a member who is being removed takes their invitations along, and whoever
    // looks only after that finds them gone. The first look keeps strangers from that lock.
    let tenant = open_by_link(identity, &mut tx, id, secret).await?.invited.tenant;
    let seats = seats_locked(&mut tx, tenant, now).await?;
    sqlx::query("SELECT id FROM invitation WHERE id = $1 FOR UPDATE").bind(id).execute(&mut *tx).await?;
    let Open { invited, invited_by, accepted_by, .. } = open_by_link(identity, &mut tx, id, secret).await?;
    match accepted_by {
        Some(by) if by == account => return Ok(invited),
        Some(_) => return Err(gone()),
        None => {}
    }
    let person = account_by_id(&mut tx, account).await?;
    let theirs = person.email.as_deref().is_some_and(|email| email.eq_ignore_ascii_case(&invited.email));
    if !(theirs && person.email_verified) {
        return Err(Error::new(&codes::FORBIDDEN)
            .detail(format!("this invitation is for {}", invited.email))
            .hint("sign in with an account whose verified address that is, or ask for another invitation"));
    }
    let seated: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM membership WHERE tenant = $1 AND account = $2)")
            .bind(invited.tenant)
            .bind(account)
            .fetch_one(&mut *tx)
            .await?;
    // Seats that others are invited to are not kept for them: who comes first sits, up to what the plan has now.
    if !seated {
        seats.need(seats.taken + 1)?;
    }
    sqlx::query("UPDATE invitation SET accepted_at = $2, accepted_by = $3 WHERE id = $1")
        .bind(id)
        .bind(now)
        .bind(account)
        .execute(&mut *tx)
        .await?;
    member_add(&mut tx, caller, invited.tenant, account, invited.role, Some(invited_by), now).await?;
    tx.commit().await?;
    Ok(invited)
}
