//! What a workspace uses, and what that comes to: today, this period, and where it leads.

use askama::Template;
use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;

use super::account::day;
use super::invoices::{Invoice, MOST};
use super::plot::Plot;
use super::workspace::{Chrome, Here};
use super::{Frame, page};
use crate::billing::customers::{invoices_of, page_of};
use crate::billing::finance::money::{amount, grouped};
use crate::billing::finance::tenant::{MeterUse, usage};
use crate::data_plane::context::Admin;
use crate::identity::Identity;
use crate::kernel::Result;

pub fn routes(identity: Identity) -> Router {
    Router::new().route("/usage", get(show)).with_state(identity)
}

#[derive(Template)]
#[template(path = "pages/usage.html")]
struct Page {
    frame: Frame,
    chrome: Chrome,
    plan: String,
    /// What the plan costs a month; none when it costs nothing.
    monthly: Option<String>,
    from: String,
    to: String,
    trial: bool,
    meters: Vec<Meter>,
    /// What use beyond the plan comes to, so far and at the end.
    so_far: Option<String>,
    forecast: Option<String>,
    invoices: Vec<Invoice>,
    /// Plan, payments and the portal, at the sign-in host.
    plan_page: String,
}

/// A meter as the page shows it.
struct Meter {
    name: String,
    today: String,
    period: String,
    forecast: String,
    /// What the plan holds, and how much of it is used, in percent.
    included: Option<(String, i64)>,
    over: bool,
    price: Option<String>,
    so_far: Option<String>,
    plot: Plot,
}

async fn show(here: Here<Admin>, State(identity): State<Identity>) -> Result<Response> {
    let (now, tenant) = (identity.cp.clock.now(), here.tenant_id);
    let mut conn = identity.cp.db.acquire().await?;
    let all = usage(&mut conn, tenant, now).await?;
    let invoices = invoices_of(&mut conn, tenant, MOST).await?;
    drop(conn);
    let currency = all.currency.clone().unwrap_or_default();
    let money = |minor: i64| amount(minor, &currency);
    let total = |of: fn(&MeterUse) -> Option<i64>| {
        let charged = all.meters.iter().filter(|one| one.unit_price_minor.is_some_and(|price| price > 0));
        let amounts: Vec<i64> = charged.filter_map(of).collect();
        (!amounts.is_empty() && all.currency.is_some()).then(|| money(amounts.iter().sum()))
    };
    let (so_far, forecast) = (total(|one| one.amount_minor), total(|one| one.forecast_minor));
    let meters = all.meters.iter().map(|one| meter(one, all.currency.as_deref(), now.date_naive())).collect();
    Ok(page(&Page {
        plan: all.plan,
        monthly: all.monthly_minor.map(money),
        from: day(all.period_start),
        to: day(all.period_end),
        trial: all.trial,
        meters,
        so_far,
        forecast,
        invoices: invoices.into_iter().map(Invoice::from).collect(),
        plan_page: format!("{}{}", here.chrome.home, page_of(tenant)),
        frame: here.chrome.frame,
        chrome: here.chrome,
    }))
}

fn meter(one: &MeterUse, currency: Option<&str>, today: chrono::NaiveDate) -> Meter {
    let charged = one.unit_price_minor.filter(|price| *price > 0).zip(currency);
    let share = |included: i64| if included > 0 { one.period.saturating_mul(100) / included } else { 0 };
    Meter {
        name: one.name.clone(),
        today: grouped(one.today),
        period: grouped(one.period),
        forecast: grouped(one.forecast),
        included: one.included.map(|included| (grouped(included), share(included))),
        over: one.included.is_some_and(|included| one.period > included),
        price: charged.map(|(price, currency)| amount(price, currency)),
        so_far: charged.and_then(|(_, currency)| one.amount_minor.map(|minor| amount(minor, currency))),
        plot: Plot::of_days(&one.days, today, &one.unit),
    }
}
