//! One tenant, and looks into it.

use askama::Template;
use axum::extract::State;
use serde::Deserialize;

use super::staff::{Change, Staff};
use crate::control_plane::tenants::{TenantDetail, TenantRef, TenantState, tenant_show};
use crate::http::browser::{Answer, Site, see_other};
use crate::http::pages::account_moment as moment;
use crate::http::pages::{Frame, page};
use crate::http::vocabulary::Path;
use crate::identity::support::{
    MOST_MINUTES, NewSupport, SupportFilter, SupportSession, support_end, support_list, support_start,
};
use crate::jobs::run::{Run, RunFilter, run_list};
use crate::kernel::ids::SupportId;

/// Runs and support sessions on the page.
const ROWS: u32 = 10;

#[derive(Template)]
#[template(path = "desk/tenant.html")]
struct Page {
    frame: Frame,
    who: String,
    csrf: String,
    works: bool,
    detail: TenantDetail,
    made: String,
    /// Whether there is something to look at.
    open: bool,
    runs: Vec<Done>,
    sessions: Vec<Look>,
    most_minutes: u32,
    /// The link of a session that was started just now.
    link: Option<String>,
}

struct Done {
    run: Run,
    at: String,
    state: &'static str,
}

struct Look {
    session: SupportSession,
    from: String,
    until: String,
    live: bool,
}

/// `GET /operator/tenants/{tenant}`
pub async fn show(staff: Staff, State(site): State<Site>, Path(tenant): Path<String>) -> Answer {
    shown(&site, &staff, &named(&tenant), None).await
}

fn named(tenant: &str) -> TenantRef {
    tenant.parse().unwrap_or_else(|never| match never {})
}

async fn shown(site: &Site, staff: &Staff, tenant: &TenantRef, link: Option<String>) -> Answer {
    let cp = &site.identity.cp;
    let (detail, now) = (tenant_show(cp, tenant).await?, cp.clock.now());
    let mut conn = cp.db.acquire().await?;
    let filter = RunFilter { tenant: Some(detail.tenant.id), limit: Some(ROWS), ..RunFilter::default() };
    let runs = run_list(&mut conn, &filter).await?.items;
    let filter =
        SupportFilter { tenant: Some(detail.tenant.id), limit: Some(ROWS), ..SupportFilter::default() };
    let sessions = support_list(&mut conn, &filter, now).await?.items;
    let done = |run: Run| Done { at: moment(run.created_at), state: run.state.as_str(), run };
    let look = |session: SupportSession| Look {
        from: moment(session.created_at),
        until: moment(session.ended_at.unwrap_or(session.expires_at)),
        live: session.ended_at.is_none() && session.expires_at > now,
        session,
    };
    Ok(page(&Page {
        frame: Frame::default(),
        who: staff.who.name.clone(),
        csrf: staff.csrf(),
        works: staff.works(),
        made: moment(detail.tenant.created_at),
        open: detail.tenant.state == TenantState::Active,
        detail,
        runs: runs.into_iter().map(done).collect(),
        sessions: sessions.into_iter().map(look).collect(),
        most_minutes: MOST_MINUTES,
        link,
    }))
}

#[derive(Deserialize)]
pub struct Start {
    reason: String,
    minutes: Option<u32>,
}

/// `POST /operator/tenants/{tenant}/support`
pub async fn start(
    State(site): State<Site>,
    Path(tenant): Path<String>,
    Change(staff, form): Change<Start>,
) -> Answer {
    let (cp, tenant) = (&site.identity.cp, named(&tenant));
    let new = NewSupport { reason: form.reason, minutes: form.minutes };
    let started = support_start(cp, &staff.caller(), &staff.who.name, &tenant, &new).await?;
    shown(&site, &staff, &tenant, Some(started.link)).await
}

#[derive(Deserialize)]
pub struct Which {
    session: SupportId,
}

/// `POST /operator/support/end`
pub async fn end(State(site): State<Site>, Change(staff, which): Change<Which>) -> Answer {
    let ended = support_end(&site.identity.cp, &staff.caller(), None, which.session).await?;
    Ok(see_other(&format!("/operator/tenants/{}", ended.tenant)))
}
