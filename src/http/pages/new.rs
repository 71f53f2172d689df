//! A new workspace: named, made, watched while it comes to be.

use std::convert::Infallible;
use std::time::Duration;

use askama::Template;
use axum::Json;
use axum::extract::{Query, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use data_encoding::BASE64URL_NOPAD;
use futures_util::stream::{self, Stream};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool};
use tokio::time::Instant;

use super::{Frame, Pages, page};
use crate::billing::customers;
use crate::control_plane::plans::{Plan, money_text, plan_list};
use crate::control_plane::provisioning::NewTenant;
use crate::control_plane::tenants::{TenantRef, TenantRow, TenantState, slug_is_free, tenant_find};
use crate::http::browser::{Answer, Meant, Visitor, see_other};
use crate::http::vocabulary::Path;
use crate::identity::members::member_get;
use crate::identity::sign_up::slug_of;
use crate::jobs::feed::News;
use crate::jobs::run::{Run, StepState, run_by_id};
use crate::kernel::ids::{RunId, TenantId};
use crate::kernel::{Error, Result, Slug, codes};

/// How long one stream of progress lasts; the browser opens another.
const STREAM: Duration = Duration::from_secs(120);
/// A notification may be missed: look at least this often.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Template)]
#[template(path = "pages/new.html")]
struct New {
    frame: Frame,
    who: String,
    csrf: String,
    /// Stands for one sending of this form.
    token: String,
    message: Option<String>,
    name: String,
    slug: String,
    chosen: String,
    /// Each with what it costs.
    plans: Vec<(Plan, Option<String>)>,
    base_domain: String,
}

#[derive(Deserialize)]
pub struct Form {
    name: String,
    slug: String,
    plan: Option<String>,
    token: String,
}

/// `GET /new`
pub async fn form(visitor: Visitor, State(pages): State<Pages>) -> Answer {
    let token = BASE64URL_NOPAD.encode(&pages.site.identity.cp.entropy.bytes::<16>());
    let empty = Form { name: String::new(), slug: String::new(), plan: None, token };
    show(&visitor, &pages, empty, None).await
}

async fn show(visitor: &Visitor, pages: &Pages, form: Form, message: Option<String>) -> Answer {
    let cp = &pages.site.identity.cp;
    let plans = plan_list(&mut *cp.db.acquire().await?).await?;
    let chosen = form.plan.or_else(|| plans.first().map(|plan| plan.id.clone())).unwrap_or_default();
    let priced = |plan: Plan| {
        let price = plan.price.as_ref().map(|price| money_text(price.monthly_minor, &price.currency));
        (plan, price)
    };
    Ok(page(&New {
        frame: Frame::default(),
        who: visitor.person.name.to_string(),
        csrf: visitor.csrf(),
        token: form.token,
        message,
        name: form.name,
        slug: form.slug,
        chosen,
        plans: plans.into_iter().map(priced).collect(),
        base_domain: cp.addresses.base_domain.clone(),
    }))
}

/// `POST /new`: what the person typed stays when it cannot be taken.
pub async fn make(State(pages): State<Pages>, Meant(visitor, form): Meant<Form>) -> Answer {
    let new = NewTenant {
        slug: form.slug.trim().to_lowercase(),
        name: Some(form.name.trim().to_owned()).filter(|name| !name.is_empty()),
        plan: form.plan.clone(),
    };
    let identity = &pages.site.identity;
    match identity.workspace_make(&visitor.caller(), visitor.person.id, &new, &form.token).await {
        Ok(tenant) => Ok(see_other(&format!("/new/{tenant}"))),
        Err(error) if error.code().status < 500 => {
            let said = error.field_errors().iter().map(|e| format!("{}: {}", e.field, e.message)).next();
            let said = said.or_else(|| error.public_detail().map(str::to_owned));
            let message = match error.is(&codes::SLUG_TAKEN) {
                true => "Another workspace has this address already.".to_owned(),
                false => said.unwrap_or_else(|| error.code().title.to_owned()),
            };
            let mut response = show(&visitor, &pages, form, Some(message)).await?;
            *response.status_mut() = http::StatusCode::UNPROCESSABLE_ENTITY;
            Ok(response)
        }
        Err(error) => Err(error.into()),
    }
}

/// What the form asks while it is filled in.
#[derive(Deserialize)]
pub struct Proposal {
    name: Option<String>,
    slug: Option<String>,
}

#[derive(Serialize)]
struct Proposed {
    slug: String,
    free: bool,
    hint: String,
}

/// `GET /new/slug?name=` or `?slug=`: an address for a name, and whether it is free at the moment.
pub async fn slug(
    _visitor: Visitor,
    State(pages): State<Pages>,
    Query(asked): Query<Proposal>,
) -> Result<Response> {
    let slug = match (asked.slug, asked.name) {
        (Some(slug), _) => slug.trim().to_lowercase(),
        (None, name) => slug_of(&name.unwrap_or_default()),
    };
    let (free, hint) = match Slug::parse(&slug) {
        Err(bad) => (slug.is_empty(), bad.to_string()),
        Ok(parsed) => {
            let free = slug_is_free(&mut *pages.site.identity.cp.db.acquire().await?, &parsed).await?;
            (free, if free { "This address is free." } else { "This address is taken." }.to_owned())
        }
    };
    Ok(Json(Proposed { slug, free, hint }).into_response())
}

#[derive(Template)]
#[template(path = "pages/progress.html")]
struct Progress {
    frame: Frame,
    who: String,
    csrf: String,
    tenant: TenantId,
    name: String,
    go: String,
    ready: bool,
    over: bool,
    steps: Vec<StepShown>,
}

/// A step as the page shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct StepShown {
    name: String,
    #[serde(skip)]
    words: &'static str,
    class: &'static str,
}

/// `GET /new/{tenant}`
pub async fn progress(visitor: Visitor, State(pages): State<Pages>, Path(tenant): Path<TenantId>) -> Answer {
    let mut conn = pages.site.identity.cp.db.acquire().await?;
    let (row, run) = look(&mut conn, &visitor, tenant).await?;
    let (ready, over) = outcome(&row, run.as_ref());
    let unpaid = pages.billing.settings.enabled() && customers::is_to_be_paid(&mut conn, tenant).await?;
    let go = if unpaid { customers::page_of(tenant) } else { format!("/go/{}", row.slug) };
    Ok(page(&Progress {
        frame: Frame::default(),
        who: visitor.person.name.to_string(),
        csrf: visitor.csrf(),
        tenant,
        go,
        name: row.name,
        ready,
        over,
        steps: run.as_ref().map(shown).unwrap_or_default(),
    }))
}

/// The tenant and the run that makes it, for a person who has a seat there; for others there is nothing.
async fn look(
    conn: &mut PgConnection,
    visitor: &Visitor,
    tenant: TenantId,
) -> Result<(TenantRow, Option<Run>)> {
    member_get(&mut *conn, tenant, visitor.person.id).await?;
    let row = tenant_find(&mut *conn, &TenantRef::Id(tenant)).await?;
    let run = match row.run {
        Some(run) => Some(run_by_id(conn, run).await?),
        None => None,
    };
    Ok((row, run))
}

/// Whether it is ready, and whether nothing more will happen.
fn outcome(row: &TenantRow, run: Option<&Run>) -> (bool, bool) {
    let ready = row.state == TenantState::Active;
    let open = run.is_some_and(|run| run.state.is_open());
    (ready, ready || (row.state != TenantState::Provisioning) || !open)
}

fn shown(run: &Run) -> Vec<StepShown> {
    let mut before_all_done = true;
    run.steps
        .iter()
        .map(|step| {
            let done = step.state == StepState::Done;
            let class = match (done, before_all_done) {
                (true, _) => "done",
                (false, true) => "now",
                (false, false) => "",
            };
            before_all_done &= done;
            StepShown { name: step.name.clone(), words: words(&step.name), class }
        })
        .collect()
}

/// A step's name for people.
fn words(step: &str) -> &'static str {
    match step {
        "reserve" => "Finding a place",
        "schema" => "Creating the database",
        "billing" => "Opening the account",
        "activate" => "Opening the doors",
        _ => "Preparing",
    }
}

/// How far a run is, for the script on the page.
#[derive(Serialize)]
struct Said {
    over: bool,
    steps: Vec<StepShown>,
}

/// `GET /new/{tenant}/events`: the run's steps as they are done (server-sent events).
pub async fn events(
    visitor: Visitor,
    State(pages): State<Pages>,
    Path(tenant): Path<TenantId>,
) -> Result<Sse<impl Stream<Item = std::result::Result<Event, Infallible>>>> {
    let db = pages.site.identity.cp.db.clone();
    let news = pages.feed.subscribe();
    // The seat is looked at once: the stream says nothing but how far a run is.
    let (_, run) = look(&mut *db.acquire().await?, &visitor, tenant).await?;
    let run = run.ok_or_else(|| Error::new(&codes::NOT_FOUND))?.id;
    let following = Following { news, db, run, end: Instant::now() + STREAM, sent: None, over: false };
    let said = stream::unfold(following, async |mut following| {
        let said = following.next().await?;
        let event = Event::default().json_data(&said).ok()?;
        Some((Ok(event), following))
    });
    Ok(Sse::new(said).keep_alive(KeepAlive::default()))
}

/// A page that watches a run.
struct Following {
    news: News,
    db: PgPool,
    run: RunId,
    end: Instant,
    sent: Option<Vec<StepShown>>,
    over: bool,
}

impl Following {
    /// What is new; none when the run or the time is over, or the control database is away: the page asks again.
    async fn next(&mut self) -> Option<Said> {
        while !self.over && Instant::now() < self.end {
            let run = run_by_id(&mut *self.db.acquire().await.ok()?, self.run).await.ok()?;
            let (over, steps) = (!run.state.is_open(), shown(&run));
            if over || self.sent.as_ref() != Some(&steps) {
                (self.over, self.sent) = (over, Some(steps.clone()));
                return Some(Said { over, steps });
            }
            self.news.of(self.run, (Instant::now() + LOOK).min(self.end)).await;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::run::{RunState, Step};

    #[test]
    fn the_first_step_not_done_is_the_one_under_way() {
        let step = |name: &str, state| Step { name: name.to_owned(), state, finished_at: None };
        let run = Run {
            id: RunId::new(),
            kind: "provision".to_owned(),
            subject: String::new(),
            tenant: None,
            state: RunState::Running,
            error: None,
            attempts: 1,
            created_at: chrono::DateTime::UNIX_EPOCH,
            finished_at: None,
            progress: None,
            steps: vec![
                step("reserve", StepState::Done),
                step("schema", StepState::Pending),
                step("activate", StepState::Pending),
            ],
        };
        let classes: Vec<_> = shown(&run).into_iter().map(|step| step.class).collect();
        assert_eq!(classes, ["done", "now", ""]);
    }
}
