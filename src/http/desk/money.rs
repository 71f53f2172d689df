//! Money at the operators' desk: what waits, what differs, what is held; and the few things that are done about it here.

use askama::Template;
use axum::Extension;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use chrono::NaiveDate;
use http::{HeaderValue, header};
use serde::Deserialize;

use super::staff::{MoneyChange, Staff};
use crate::billing::Billing;
use crate::billing::finance::csv;
use crate::billing::finance::lists::{InvoiceRow, held_drafts};
use crate::billing::finance::money::{amount, grouped};
use crate::billing::finance::quarantine::{QuarantineFilter, quarantine_list};
use crate::billing::finance::report::{COLUMNS, ReportFilter, report};
use crate::billing::finance::standing::{Standing, incident_settle, standing};
use crate::billing::finance::usage_days::{MeterDays, days_of_all};
use crate::billing::incidents::{self, Incident, IncidentId};
use crate::billing::ledger::{Batch, Correction, CorrectionId, correction_decide, correction_list};
use crate::billing::reconcile::close::{Release, invoice_release};
use crate::billing::reconcile::{Difference, DifferenceFilter, difference_list};
use crate::http::browser::{Answer, Site, see_other};
use crate::http::pages::account_moment as moment;
use crate::http::pages::plot::Plot;
use crate::http::pages::{Frame, page};
use crate::http::vocabulary::validate;
use crate::kernel::page::MAX_LIMIT;

/// The page.
const HOME: &str = "/operator/money";
/// Rows of each list on it.
const ROWS: u32 = 20;

#[derive(Template)]
#[template(path = "desk/money.html")]
struct Page {
    frame: Frame,
    who: String,
    csrf: String,
    /// Whether they may correct money.
    corrects: bool,
    mode: &'static str,
    standing: Standing,
    oldest: Option<String>,
    compared: Option<(String, &'static str, bool)>,
    meters: Vec<(MeterDays, Plot)>,
    waiting: Vec<Batch>,
    differences: Vec<Difference>,
    drafts: Vec<Draft>,
    corrections: Vec<Asked>,
    incidents: Vec<Open>,
}

struct Draft {
    invoice: InvoiceRow,
    total: String,
    made: String,
}

struct Asked {
    correction: Correction,
    quantity: String,
    at: String,
    /// Whoever asked, or stands for it, does not decide.
    mine: bool,
}

struct Open {
    incident: Incident,
    since: String,
    detail: String,
}

/// `GET /operator/money`
pub async fn show(staff: Staff, State(site): State<Site>, Extension(billing): Extension<Billing>) -> Answer {
    let cp = &site.identity.cp;
    let (livemode, now) = (billing.settings.livemode(), cp.clock.now());
    let mut conn = cp.db.acquire().await?;
    let standing = standing(&mut conn, livemode).await?;
    let filter = QuarantineFilter { limit: Some(ROWS), cursor: None };
    let waiting = quarantine_list(&mut conn, &filter).await?.items;
    let filter = DifferenceFilter { limit: Some(MAX_LIMIT), ..DifferenceFilter::default() };
    let mut differences = difference_list(&mut conn, livemode, &filter).await?.items;
    differences.sort_by_key(|one| one.class.is_benign());
    differences.truncate(ROWS as usize);
    let drafts = held_drafts(&mut conn, i64::from(ROWS)).await?;
    let corrections = correction_list(&mut conn, false, i64::from(ROWS)).await?;
    let open = incidents::list(&mut conn, false, i64::from(ROWS)).await?;
    let meters = days_of_all(&mut conn, now).await?;
    drop(conn);
    let own = staff.who.id;
    let draft = |invoice: InvoiceRow| Draft {
        total: amount(invoice.total_minor, &invoice.currency),
        made: moment(invoice.created_at),
        invoice,
    };
    let asked = |correction: Correction| Asked {
        quantity: grouped(correction.quantity),
        at: moment(correction.occurred_at),
        mine: correction.asked_person == Some(own),
        correction,
    };
    let opened = |incident: Incident| Open {
        since: moment(incident.opened_at),
        detail: incident.detail.to_string(),
        incident,
    };
    let plot = |one: MeterDays| {
        let plot = Plot::of_days(&one.days, now.date_naive(), &one.unit);
        (one, plot)
    };
    Ok(page(&Page {
        frame: Frame::default(),
        who: staff.who.name.clone(),
        csrf: staff.csrf(),
        corrects: staff.corrects(),
        mode: billing.settings.mode.as_str(),
        oldest: standing.oldest_undelivered.map(moment),
        compared: standing.last_run.as_ref().map(|run| {
            (
                moment(run.started_at),
                run.state.as_str(),
                run.state != crate::billing::reconcile::RunState::Green,
            )
        }),
        standing,
        meters: meters.into_iter().map(plot).collect(),
        waiting,
        differences,
        drafts: drafts.into_iter().map(draft).collect(),
        corrections: corrections.into_iter().map(asked).collect(),
        incidents: open.into_iter().map(opened).collect(),
    }))
}

#[derive(Deserialize)]
pub struct Which {
    incident: IncidentId,
}

/// `POST /operator/money/incident`
pub async fn settle(State(site): State<Site>, MoneyChange(staff, which): MoneyChange<Which>) -> Answer {
    incident_settle(&site.identity.cp, &staff.caller(), which.incident).await?;
    Ok(see_other(HOME))
}

#[derive(Deserialize)]
pub struct Said {
    correction: CorrectionId,
    agree: bool,
}

/// `POST /operator/money/correction`
pub async fn decide(State(site): State<Site>, MoneyChange(staff, said): MoneyChange<Said>) -> Answer {
    correction_decide(&site.identity.cp, &staff.caller(), said.correction, said.agree).await?;
    Ok(see_other(HOME))
}

#[derive(Deserialize)]
pub struct LetGo {
    invoice: String,
    reason: String,
}

/// `POST /operator/money/release`
pub async fn release(
    Extension(billing): Extension<Billing>,
    MoneyChange(staff, form): MoneyChange<LetGo>,
) -> Answer {
    let why = Release { reason: form.reason };
    validate(&why)?;
    invoice_release(&billing, &staff.caller(), &form.invoice, &why).await?;
    Ok(see_other(HOME))
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub struct Days {
    from: Option<NaiveDate>,
    to: Option<NaiveDate>,
}

/// `GET /operator/money/report.csv`
pub async fn file(
    _staff: Staff,
    State(site): State<Site>,
    Extension(billing): Extension<Billing>,
    Query(days): Query<Days>,
) -> Answer {
    let (cp, livemode) = (&site.identity.cp, billing.settings.livemode());
    let mut filter =
        ReportFilter { from: days.from, to: days.to, limit: Some(MAX_LIMIT), ..ReportFilter::default() };
    let mut rows = Vec::new();
    loop {
        let found = report(&mut *cp.db.acquire().await?, livemode, &filter, cp.clock.now()).await?;
        rows.extend(found.items);
        match found.next_cursor {
            None => break,
            next => filter.cursor = next,
        }
    }
    let mut response: Response = csv::file(COLUMNS, &rows)?.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8"));
    let name = HeaderValue::from_static("attachment; filename=\"billing-report.csv\"");
    headers.insert(header::CONTENT_DISPOSITION, name);
    Ok(response)
}
