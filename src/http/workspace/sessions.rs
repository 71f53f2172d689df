//! One's own signed-in devices. A person's alone: no role sees another's. Who came by the workspace's own sign-in sees and
//! ends what that sign-in began: the workspace runs it, and the person's other devices are none of its business.

use axum::extract::State;
use http::StatusCode;
use serde::Serialize;
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;

use super::caller;
use crate::control_plane::audit::audit_add;
use crate::data_plane::As;
use crate::data_plane::context::{OfPerson, Viewer};
use crate::http::vocabulary::{Json, Path, Query};
use crate::identity::Identity;
use crate::identity::sessions::{
    Session, SessionFilter, session_list_seen, session_revoke_others_seen, session_revoke_seen, session_root,
};
use crate::kernel::Result;
use crate::kernel::ids::SessionId;
use crate::kernel::page::Page;
use crate::operations;

pub fn routes() -> OpenApiRouter<Identity> {
    operations!(OpenApiRouter::new(), list, revoke, revoke_others)
}

/// A signed-in device.
#[derive(Serialize, utoipa::ToSchema)]
struct Device {
    #[serde(flatten)]
    session: Session,
    /// Whether it is the one that asks.
    current: bool,
}

/// How many sessions were ended.
#[derive(Serialize, utoipa::ToSchema)]
struct Ended {
    ended: u64,
}

/// List my sessions
///
/// A browser counts once, however many workspaces it visits.
#[utoipa::path(get, path = "/api/v1/sessions", operation_id = "list_sessions", tag = "sessions",
    params(SessionFilter),
    responses((status = 200, description = "Sessions, newest first.", body = Page<Device>)))]
async fn list(
    ctx: As<OfPerson<Viewer>>,
    State(identity): State<Identity>,
    Query(filter): Query<SessionFilter>,
) -> Result<Json<Page<Device>>> {
    filter.check()?;
    let (me, mut conn) = (ctx.person()?, identity.cp.db.acquire().await?);
    let here = session_root(&mut conn, me.account, me.session).await?;
    let all = session_list_seen(&mut conn, me.account, me.session, identity.cp.clock.now()).await?;
    let device = |session: Session| Device { current: session.id == here, session };
    Ok(Json(Page::whole(all.into_iter().map(device).collect())))
}

/// End one of my sessions
///
/// Every server refuses it within a second.
#[utoipa::path(delete, path = "/api/v1/sessions/{id}", operation_id = "revoke_session", tag = "sessions",
    params(("id" = SessionId, Path)), responses((status = 204, description = "The session has ended.")))]
async fn revoke(
    ctx: As<OfPerson<Viewer>>,
    State(identity): State<Identity>,
    Path(id): Path<SessionId>,
) -> Result<StatusCode> {
    let (me, now) = (ctx.person()?, identity.cp.clock.now());
    let mut tx = identity.cp.db.begin().await?;
    session_revoke_seen(&mut tx, me.account, me.session, id, now).await?;
    audit_add(&mut tx, &caller(&ctx), now, "session.revoke", None, &id.to_string(), json!({})).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// End all my other sessions
#[utoipa::path(post, path = "/api/v1/sessions/revoke-others", operation_id = "revoke_other_sessions",
    tag = "sessions", responses((status = 200, description = "All but this one have ended.", body = Ended)))]
async fn revoke_others(ctx: As<OfPerson<Viewer>>, State(identity): State<Identity>) -> Result<Json<Ended>> {
    let (me, now) = (ctx.person()?, identity.cp.clock.now());
    let mut tx = identity.cp.db.begin().await?;
    let ended = session_revoke_others_seen(&mut tx, me.account, me.session, now).await?;
    let (subject, detail) = (me.account.to_string(), json!({ "ended": ended }));
    audit_add(&mut tx, &caller(&ctx), now, "session.revoke_others", None, &subject, detail).await?;
    tx.commit().await?;
    Ok(Json(Ended { ended }))
}
