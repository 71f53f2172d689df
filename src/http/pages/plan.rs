//! A workspace's plan, and how it is paid: at the sign-in host, where it can be reached also when the workspace itself is
//! shut. For its owners and admins.
//!
//! | address | does |
//! |---|---|
//! | `GET /billing/{tenant}` | shows plan, status and choices |
//! | `POST …/checkout` | to Stripe's Checkout, with a plan |
//! | `GET …/done` | back from it: what Stripe says counts, not what the browser brings |
//! | `POST …/portal` | to Stripe's Billing Portal |
//! | `POST …/plan`, `…/cancel`, `…/keep`, `…/free` | changes the subscription |

use askama::Template;
use axum::Router;
use axum::extract::{FromRef, Query, State};
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::{get, post};
use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::account::day;
use super::invoices::{Invoice, MOST};
use super::{Frame, page, words};
use crate::billing::Billing;
use crate::billing::access::Access;
use crate::billing::customers::{self, KeptSubscription, page_of};
use crate::control_plane::plans::{Plan, money_text, plan_by_id, plan_list};
use crate::control_plane::tenants::{TenantRef, TenantRow, TenantState, tenant_find};
use crate::http::browser::{Answer, AnyVisitor, MeantByAny, Site, Visitor, at_base, see_other};
use crate::http::sign_in::page::leads_to;
use crate::http::vocabulary::Path;
use crate::identity::members::member_get;
use crate::kernel::ids::TenantId;
use crate::kernel::{Error, Result, Role, codes};

/// What these pages work with.
#[derive(Clone)]
pub struct PlanPages {
    pub site: Site,
    pub billing: Billing,
}

impl FromRef<PlanPages> for Site {
    fn from_ref(pages: &PlanPages) -> Self {
        pages.site.clone()
    }
}

/// The routes, with their state.
pub fn routes(pages: PlanPages) -> Router {
    Router::new()
        .route("/billing/{tenant}", get(show))
        .route("/billing/{tenant}/checkout", post(checkout))
        .route("/billing/{tenant}/done", get(done))
        .route("/billing/{tenant}/portal", post(portal))
        .route("/billing/{tenant}/plan", post(change))
        .route("/billing/{tenant}/cancel", post(cancel))
        .route("/billing/{tenant}/keep", post(keep))
        .route("/billing/{tenant}/free", post(free))
        .route_layer(from_fn_with_state(pages.site.clone(), at_base))
        .with_state(pages)
}

#[derive(Template)]
#[template(path = "pages/plan.html")]
struct Page {
    frame: Frame,
    who: String,
    csrf: String,
    workspace: String,
    /// The page's own address, which its forms begin with.
    here: String,
    /// Into the workspace; none while it is shut.
    open: Option<String>,
    plan: String,
    status: Status,
    /// Whether there is a subscription that stands.
    subscribed: bool,
    cancels: Option<String>,
    /// Whether payments can be made here at all.
    pays: bool,
    /// Whether there is a customer to open the portal for.
    portal: bool,
    plans: Vec<Offer>,
    invoices: Vec<Invoice>,
    wrong: Option<String>,
}

/// How things stand, in a word and a sentence.
struct Status {
    word: &'static str,
    bad: bool,
    text: String,
}

/// A plan that can be chosen.
struct Offer {
    id: String,
    name: String,
    price: String,
    seats: u32,
    paid: bool,
    /// The one that the workspace has.
    own: bool,
    trial_days: u32,
}

/// The tenant, for a person who may speak for it in matters of money. For others there is nothing.
async fn look(pages: &PlanPages, visitor: &Visitor, tenant: TenantId) -> Result<TenantRow> {
    if visitor.only.is_some_and(|only| only != tenant) {
        return Err(Error::new(&codes::NOT_FOUND));
    }
    let mut conn = pages.billing.cp.db.acquire().await?;
    let member = member_get(&mut conn, tenant, visitor.person.id).await?;
    if member.role < Role::Admin {
        return Err(Error::new(&codes::FORBIDDEN).detail("this needs the role admin or higher"));
    }
    let row = tenant_find(&mut conn, &TenantRef::Id(tenant)).await?;
    match row.state {
        TenantState::Deleted => Err(Error::new(&codes::NOT_FOUND)),
        _ => Ok(row),
    }
}

async fn show(
    AnyVisitor(visitor): AnyVisitor,
    State(pages): State<PlanPages>,
    Path(tenant): Path<TenantId>,
) -> Answer {
    let row = look(&pages, &visitor, tenant).await?;
    shown(&pages, &visitor, row, None).await
}

async fn shown(pages: &PlanPages, visitor: &Visitor, row: TenantRow, wrong: Option<String>) -> Answer {
    let (billing, tenant) = (&pages.billing, row.id);
    let mut conn = billing.cp.db.acquire().await?;
    let account = customers::account_of(&mut conn, tenant).await?;
    let subscription = customers::current(&mut conn, tenant).await?;
    let invoices = customers::invoices_of(&mut conn, tenant, MOST).await?;
    let plans = plan_list(&mut conn).await?;
    let plan = plan_by_id(&mut conn, &row.plan).await?;
    let access = account.as_ref().map_or(Access::Active, |account| account.access);
    let unpaid_since = account.as_ref().and_then(|account| account.unpaid_since);
    let living = subscription.as_ref().filter(|one| one.is_living());
    Ok(page(&Page {
        frame: Frame::default(),
        who: visitor.person.name.to_string(),
        csrf: visitor.csrf(),
        here: page_of(tenant),
        open: (row.state == TenantState::Active).then(|| format!("/go/{}", row.slug)),
        status: status(access, living, plan.as_ref().is_some_and(Plan::is_paid), unpaid_since),
        subscribed: living.is_some_and(|one| one.status != "incomplete"),
        cancels: living.and_then(|one| one.cancel_at).map(day),
        pays: billing.settings.enabled(),
        portal: account.is_some(),
        plans: plans.into_iter().map(|plan| offer(plan, &row.plan, subscription.is_none())).collect(),
        invoices: invoices.into_iter().map(Invoice::from).collect(),
        plan: plan.map_or(row.plan, |plan| plan.name),
        workspace: row.name,
        wrong,
    }))
}

fn status(
    access: Access,
    subscription: Option<&KeptSubscription>,
    paid: bool,
    unpaid_since: Option<DateTime<Utc>>,
) -> Status {
    let since = unpaid_since.map(|at| format!(" It is owed since {}.", day(at))).unwrap_or_default();
    let none = subscription.is_none() && paid;
    let (word, bad, text) = match access {
        Access::Trialing => {
            let end = subscription.and_then(|one| one.trial_end).map(day).unwrap_or_default();
            ("Trial", false, format!("The trial lasts until {end}. After that, the plan is charged."))
        }
        Access::Active if !paid => ("Free", false, "This plan is free.".to_owned()),
        Access::Active if none => ("Not paid yet", true, "Choose how to pay for the plan.".to_owned()),
        Access::Active => {
            let end = subscription.map(|one| day(one.period_end)).unwrap_or_default();
            ("Active", false, format!("Everything is paid. The current period lasts until {end}."))
        }
        Access::Grace if none => ("Not paid yet", true, "Choose a plan below and pay for it.".to_owned()),
        Access::Grace => ("Payment due", true, format!("A payment failed.{since}")),
        Access::PastDue => ("Overdue", true, format!("Nothing new can be added until it is paid.{since}")),
        Access::Restricted => {
            ("Read-only", true, format!("Everything can be read; nothing can be changed.{since}"))
        }
        Access::Suspended => (
            "Suspended",
            true,
            format!("Your data is kept. The workspace opens again as soon as it is paid.{since}"),
        ),
        Access::Canceled => {
            ("Ended", true, "The subscription has ended. Choose a plan to continue.".to_owned())
        }
    };
    Status { word, bad, text }
}

fn offer(plan: Plan, own: &str, first: bool) -> Offer {
    let price = match &plan.price {
        Some(price) => format!("{} a month", money_text(price.monthly_minor, &price.currency)),
        None => "free".to_owned(),
    };
    let trial_days = plan.price.as_ref().filter(|_| first).map_or(0, |price| price.trial_days);
    let (own, paid, seats) = (plan.id == own, plan.is_paid(), plan.entitlements.seats);
    Offer { own, paid, seats, price, trial_days, id: plan.id, name: plan.name }
}

#[derive(Deserialize)]
struct Chosen {
    plan: String,
    coupon: Option<String>,
}

async fn checkout(
    State(pages): State<PlanPages>,
    Path(tenant): Path<TenantId>,
    MeantByAny(visitor, chosen): MeantByAny<Chosen>,
) -> Answer {
    let row = look(&pages, &visitor, tenant).await?;
    let coupon = chosen.coupon.as_deref();
    let begun =
        customers::checkout_begin(&pages.billing, &visitor.caller(), tenant, &chosen.plan, coupon).await;
    match begun {
        Ok(url) => Ok(leads_to(&url, "the payment page")),
        Err(error) => said(&pages, &visitor, row, error).await,
    }
}

#[derive(Deserialize)]
struct Back {
    session: Option<String>,
}

/// What Stripe says is fetched now, so that the page shows it; the webhook will come too, and change nothing more.
async fn done(
    AnyVisitor(visitor): AnyVisitor,
    State(pages): State<PlanPages>,
    Path(tenant): Path<TenantId>,
    Query(back): Query<Back>,
) -> Answer {
    let row = look(&pages, &visitor, tenant).await?;
    if let Some(session) = back.session.filter(|session| session.starts_with("cs_") && session.len() <= 255) {
        let fetched = async {
            match customers::is_of(&pages.billing, tenant, &session).await? {
                true => customers::refresh_checkout(&pages.billing, &session).await.map(drop),
                false => Ok(()),
            }
        };
        if let Err(error) = fetched.await {
            return said(&pages, &visitor, row, error).await;
        }
    }
    Ok(see_other(&page_of(tenant)))
}

#[derive(Deserialize)]
struct Nothing {}

async fn portal(
    State(pages): State<PlanPages>,
    Path(tenant): Path<TenantId>,
    MeantByAny(visitor, Nothing {}): MeantByAny<Nothing>,
) -> Answer {
    let row = look(&pages, &visitor, tenant).await?;
    match customers::portal_open(&pages.billing, tenant).await {
        Ok(url) => Ok(leads_to(&url, "the payment provider")),
        Err(error) => said(&pages, &visitor, row, error).await,
    }
}

async fn change(
    State(pages): State<PlanPages>,
    Path(tenant): Path<TenantId>,
    MeantByAny(visitor, chosen): MeantByAny<Chosen>,
) -> Answer {
    let row = look(&pages, &visitor, tenant).await?;
    let changed = customers::plan_change(&pages.billing, &visitor.caller(), tenant, &chosen.plan).await;
    back(&pages, &visitor, row, changed).await
}

async fn cancel(
    State(pages): State<PlanPages>,
    Path(tenant): Path<TenantId>,
    MeantByAny(visitor, Nothing {}): MeantByAny<Nothing>,
) -> Answer {
    let row = look(&pages, &visitor, tenant).await?;
    let cancelled = customers::cancel(&pages.billing, &visitor.caller(), tenant).await;
    back(&pages, &visitor, row, cancelled).await
}

async fn keep(
    State(pages): State<PlanPages>,
    Path(tenant): Path<TenantId>,
    MeantByAny(visitor, Nothing {}): MeantByAny<Nothing>,
) -> Answer {
    let row = look(&pages, &visitor, tenant).await?;
    let kept = customers::keep(&pages.billing, &visitor.caller(), tenant).await;
    back(&pages, &visitor, row, kept).await
}

async fn free(
    State(pages): State<PlanPages>,
    Path(tenant): Path<TenantId>,
    MeantByAny(visitor, chosen): MeantByAny<Chosen>,
) -> Answer {
    let row = look(&pages, &visitor, tenant).await?;
    let freed = customers::free(&pages.billing, &visitor.caller(), tenant, &chosen.plan).await;
    back(&pages, &visitor, row, freed).await
}

async fn back(pages: &PlanPages, visitor: &Visitor, row: TenantRow, done: Result<()>) -> Answer {
    match done {
        Ok(()) => Ok(see_other(&page_of(row.id))),
        Err(error) => said(pages, visitor, row, error).await,
    }
}

/// The page again, with what is wrong; a fault of ours is a page of its own.
async fn said(pages: &PlanPages, visitor: &Visitor, row: TenantRow, error: Error) -> Answer {
    let code = error.code();
    if code.status >= 500 && !error.is(&codes::PAYMENTS_UNAVAILABLE) {
        return Err(error.into());
    }
    let mut response: Response = shown(pages, visitor, row, Some(words(&error))).await?;
    *response.status_mut() = http::StatusCode::from_u16(code.status).map_err(Error::internal)?;
    Ok(response)
}
