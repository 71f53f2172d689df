//! Who is in a workspace, and who is asked in.

use askama::Template;
use axum::Router;
use axum::extract::{Form, State};
use axum::response::Response;
use axum::routing::{get, post};
use serde::Deserialize;

use super::account::day;
use super::workspace::{Chrome, Here};
use super::{Frame, page};
use crate::billing::quotas::{Level, Quota, levels_of};
use crate::data_plane::context::{Admin, Viewer};
use crate::http::browser::see_other;
use crate::http::sign_in::page::leads_to;
use crate::http::vocabulary::validate;
use crate::http::workspace::{by, caller};
use crate::identity::Identity;
use crate::identity::invitations::{
    InvitationFilter, NewInvitation, invitation_list, invitation_resend, invitation_revoke, invite,
};
use crate::identity::members::{Member, MemberFilter, member_change, member_list, member_remove};
use crate::kernel::ids::{AccountId, InvitationId};
use crate::kernel::{Result, Role};

/// Rows on the page.
const MOST: u32 = 100;

pub fn routes(identity: Identity) -> Router {
    Router::new()
        .route("/members", get(show))
        .route("/members/invite", post(ask_in))
        .route("/members/role", post(change))
        .route("/members/remove", post(remove))
        .route("/members/invitations/resend", post(resend))
        .route("/members/invitations/revoke", post(revoke))
        .with_state(identity)
}

#[derive(Template)]
#[template(path = "pages/members.html")]
struct Page {
    frame: Frame,
    chrome: Chrome,
    /// Whether the visitor is a person, and not a key.
    person: bool,
    /// Each with whether it is the visitor.
    members: Vec<(Member, bool)>,
    invitations: Vec<Asked>,
    /// Roles that the visitor may give.
    roles: Vec<Role>,
    /// How many seats the plan has, and how many are taken: for those who fill them.
    seats: Option<String>,
}

/// An open invitation, as the page shows it.
struct Asked {
    id: InvitationId,
    email: String,
    role: Role,
    until: String,
}

async fn show(here: Here<Viewer>, State(identity): State<Identity>) -> Result<Response> {
    let mut conn = identity.cp.db.acquire().await?;
    let filter = MemberFilter { limit: Some(MOST), cursor: None };
    let members = member_list(&mut conn, here.tenant_id, &filter).await?.items;
    let (mut invitations, mut seats) = (Vec::new(), None);
    if here.chrome.runs() {
        let levels = levels_of(&mut conn, here.tenant_id, identity.cp.clock.now()).await?;
        seats = levels.iter().find(|level| level.quota == Quota::Seats).map(Level::text);
        let (filter, now) = (InvitationFilter { limit: Some(MOST), cursor: None }, identity.cp.clock.now());
        let all = invitation_list(&mut conn, here.tenant_id, &filter).await?.items;
        let open = all
            .into_iter()
            .filter(|one| one.accepted_at.is_none() && one.revoked_at.is_none() && one.expires_at > now);
        invitations = open
            .map(|one| Asked { id: one.id, email: one.email, role: one.role, until: day(one.expires_at) })
            .collect();
    }
    let roles = Role::ALL.into_iter().filter(|role| *role <= here.actor.role).collect();
    let me = here.actor.person.map(|person| person.account);
    let mark = |member: Member| {
        let mine = me == Some(member.account);
        (member, mine)
    };
    let members = members.into_iter().map(mark).collect();
    let frame = here.chrome.frame;
    Ok(page(&Page { frame, chrome: here.chrome, person: me.is_some(), members, invitations, roles, seats }))
}

async fn ask_in(
    here: Here<Admin>,
    State(identity): State<Identity>,
    Form(new): Form<Invite>,
) -> Result<Response> {
    let new = NewInvitation { email: new.email, role: new.role };
    validate(&new)?;
    invite(&identity, &caller(&here), by(&here), here.tenant_id, &new).await?;
    Ok(see_other("/members"))
}

#[derive(Deserialize)]
struct Invite {
    email: String,
    role: Role,
}

#[derive(Deserialize)]
struct NewRole {
    account: AccountId,
    role: Role,
}

async fn change(
    here: Here<Admin>,
    State(identity): State<Identity>,
    Form(new): Form<NewRole>,
) -> Result<Response> {
    let mut tx = identity.cp.db.begin().await?;
    let now = identity.cp.clock.now();
    member_change(&mut tx, &caller(&here), by(&here), here.tenant_id, new.account, new.role, now).await?;
    tx.commit().await?;
    Ok(see_other("/members"))
}

#[derive(Deserialize)]
struct Going {
    account: AccountId,
}

/// Leaving is removing oneself; whoever has left has nothing to see here.
async fn remove(
    here: Here<Viewer>,
    State(identity): State<Identity>,
    Form(going): Form<Going>,
) -> Result<Response> {
    let mut tx = identity.cp.db.begin().await?;
    let now = identity.cp.clock.now();
    member_remove(&mut tx, &caller(&here), by(&here), here.tenant_id, going.account, now).await?;
    tx.commit().await?;
    // Not by a redirect: a form may not lead to the sign-in host (`form-action 'self'`).
    let left = here.actor.person.is_some_and(|person| person.account == going.account);
    Ok(if left { leads_to(&here.chrome.home, "your workspaces") } else { see_other("/members") })
}

#[derive(Deserialize)]
struct Which {
    invitation: InvitationId,
}

async fn resend(
    here: Here<Admin>,
    State(identity): State<Identity>,
    Form(which): Form<Which>,
) -> Result<Response> {
    invitation_resend(&identity, &caller(&here), by(&here), here.tenant_id, which.invitation).await?;
    Ok(see_other("/members"))
}

async fn revoke(
    here: Here<Admin>,
    State(identity): State<Identity>,
    Form(which): Form<Which>,
) -> Result<Response> {
    invitation_revoke(&identity, &caller(&here), here.tenant_id, which.invitation).await?;
    Ok(see_other("/members"))
}
