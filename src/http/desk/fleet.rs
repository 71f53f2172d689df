//! All tenants.

use askama::Template;
use axum::extract::{Query, State};
use serde::Deserialize;

use super::HOME;
use super::staff::Staff;
use crate::control_plane::tenants::{Tenant, TenantFilter, TenantState, tenant_list};
use crate::http::browser::{Answer, Site, with_query};
use crate::http::pages::account_day as day;
use crate::http::pages::{Frame, page};

/// Tenants on a page.
const ROWS: u32 = 50;

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub struct Wanted {
    search: String,
    state: String,
    cursor: String,
}

#[derive(Template)]
#[template(path = "desk/fleet.html")]
struct Fleet {
    frame: Frame,
    who: String,
    csrf: String,
    wanted: Wanted,
    states: Vec<&'static str>,
    tenants: Vec<Row>,
    more: Option<String>,
}

struct Row {
    tenant: Tenant,
    made: String,
}

/// `GET /operator`
pub async fn show(staff: Staff, State(site): State<Site>, Query(wanted): Query<Wanted>) -> Answer {
    use TenantState::{Active, Deleted, Deleting, Provisioning, Suspended};
    let states = [Provisioning, Active, Suspended, Deleting, Deleted];
    let text = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
    let filter = TenantFilter {
        search: text(&wanted.search),
        state: states.into_iter().find(|state| state.as_str() == wanted.state),
        limit: Some(ROWS),
        cursor: text(&wanted.cursor),
        ..TenantFilter::default()
    };
    let found = tenant_list(&site.identity.cp, &filter).await?;
    let more = found.next_cursor.as_deref().map(|cursor| {
        with_query(HOME, &[("search", &wanted.search), ("state", &wanted.state), ("cursor", cursor)])
    });
    let row = |tenant: Tenant| Row { made: day(tenant.created_at), tenant };
    Ok(page(&Fleet {
        frame: Frame::default(),
        who: staff.who.name.clone(),
        csrf: staff.csrf(),
        states: states.iter().map(|state| state.as_str()).collect(),
        tenants: found.items.into_iter().map(row).collect(),
        more,
        wanted,
    }))
}
