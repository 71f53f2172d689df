//! Pages at a tenant's host. They pass the same door as its API (`data_plane::tenancy`), so a page can show nothing that
//! the API would not; only the manners differ: a form's proof travels in a field, and a refusal is a page or the way to
//! sign in.
//!
//! A handler takes [`Here<R>`], which is `As<R>` with the frame around the page.

use std::ops::Deref;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use serde::Deserialize;

use super::account::moment;
use super::{Frame, failure};
use crate::billing::access::Access;
use crate::billing::customers::page_of;
use crate::billing::quotas::Stage;
use crate::data_plane::context::{As, MinRole};
use crate::data_plane::tenancy::cookie::{self, CSRF_HEADER};
use crate::data_plane::tenancy::host::{self, Host};
use crate::data_plane::tenancy::{self, Tenancy};
use crate::http::browser::{Site, is_form, read_form, see_other, with_query};
use crate::identity::return_to;
use crate::kernel::ids::TenantId;
use crate::kernel::{Error, Result, Role, codes};

/// The longest form that is read.
const LONGEST_FORM: usize = 128 * 1024;

/// Puts pages behind the door of their tenant.
pub fn behind_the_door(pages: Router, tenancy: Arc<Tenancy>, site: Site) -> Router {
    if !pages.has_routes() {
        return pages;
    }
    pages
        .route_layer(from_fn_with_state(tenancy, tenancy::admit))
        .route_layer(from_fn(proof_from_form))
        .route_layer(from_fn_with_state(site, as_pages))
}

/// What every form of ours carries beside its own fields.
#[derive(Deserialize)]
struct Carried {
    csrf: String,
    /// Stands for one sending of the form: sent twice, it changes things once.
    once: Option<String>,
}

/// A form says in fields what a script says in headers. The door looks at the headers.
async fn proof_from_form(request: Request, next: Next) -> Response {
    if request.method().is_safe() {
        return next.run(request).await;
    }
    let (mut parts, body) = request.into_parts();
    let bytes = match axum::body::to_bytes(body, LONGEST_FORM).await {
        Ok(bytes) => bytes,
        Err(error) => return failure(Error::new(&codes::BODY_TOO_LARGE).source(error)),
    };
    parts.headers.remove(CSRF_HEADER);
    // Another kind of body is none of a form of ours, whatever it looks like.
    let carried = if is_form(&parts.headers) { read_form(bytes.clone()).await.ok() } else { None };
    if let Some(Carried { csrf, once }) = carried {
        let carried = [(CSRF_HEADER, Some(csrf)), ("idempotency-key", once)];
        for (name, value) in carried {
            if let Some(Ok(value)) = value.map(|value| HeaderValue::from_str(&value)) {
                parts.headers.insert(name, value);
            }
        }
    }
    next.run(Request::from_parts(parts, Body::from(bytes))).await
}

/// Refusals for people: to the sign-in host when nobody is signed in here, else the problem as a page.
async fn as_pages(State(site): State<Site>, mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(Home(site.identity.cp.addresses.base_url()));
    let (safe, uri, headers) = (request.method().is_safe(), request.uri().clone(), request.headers().clone());
    let response = next.run(request).await;
    let problem =
        response.headers().get(header::CONTENT_TYPE).is_some_and(|k| k == "application/problem+json");
    if !problem {
        return response;
    }
    if response.status() == StatusCode::UNAUTHORIZED {
        // Not to another host after a form (`form-action 'self'`), and what was filled in is lost either way.
        let signed_out = || failure(Error::new(&codes::SIGN_IN_REQUIRED));
        return if safe { to_sign_in(&site, &headers, &uri) } else { signed_out() };
    }
    match response.extensions().get::<std::sync::Arc<Error>>() {
        Some(error) => failure(error.clone()),
        None => response,
    }
}

/// The sign-in host lets in whoever has a seat, and brings them back here.
fn to_sign_in(site: &Site, headers: &HeaderMap, uri: &Uri) -> Response {
    let base = site.identity.cp.addresses.base_url();
    let wanted = return_to::path_of(uri.path_and_query().map(|path| path.as_str()));
    match host::of_request(headers, uri, &site.base_domain) {
        Ok(Host::Slug(slug)) => {
            see_other(&with_query(&format!("{base}/go/{slug}"), &[("return_to", wanted)]))
        }
        Ok(Host::Other(domain)) => {
            see_other(&with_query(&format!("{base}/go"), &[("host", &*domain), ("return_to", wanted)]))
        }
        _ => see_other(&base),
    }
}

/// A page of a workspace: a caller whose role is at least `R`, and what the frame shows.
pub struct Here<R> {
    ctx: As<R>,
    pub chrome: Chrome,
}

impl<R> Deref for Here<R> {
    type Target = As<R>;
    fn deref(&self) -> &As<R> {
        &self.ctx
    }
}

/// What every page of a workspace shows around its own content.
#[derive(Clone, Debug)]
pub struct Chrome {
    pub frame: Frame,
    pub workspace: String,
    pub who: String,
    pub role: Role,
    /// For the hidden field `csrf` of every form.
    pub csrf: String,
    /// The page's own path, to mark it in the navigation.
    pub path: String,
    /// All workspaces of the person, at the sign-in host.
    pub home: String,
    /// For the hidden field `once` of a form that must not change things twice.
    pub once: String,
    /// On every page of a support session.
    pub support: Option<Banner>,
    /// What is owed, and what follows from it.
    pub money: Option<MoneyNotice>,
    /// Limits of the plan of which 80 percent or more is used.
    pub limits: Vec<LimitNotice>,
}

/// A limit of the plan that is near, or reached.
#[derive(Clone, Debug)]
pub struct LimitNotice {
    pub text: String,
    pub consequence: &'static str,
}

/// What is owed, and where it can be paid.
#[derive(Clone, Debug)]
pub struct MoneyNotice {
    pub text: &'static str,
    /// The page of the workspace's plan, at the sign-in host.
    pub page: String,
}

impl MoneyNotice {
    fn of(access: Access, tenant: TenantId, home: &str) -> Option<Self> {
        let text = match access {
            Access::Trialing | Access::Active => return None,
            Access::Grace => "A payment is due.",
            Access::PastDue => "A payment is overdue: nothing new can be added until it is paid.",
            Access::Restricted => "A payment is overdue: this workspace is read-only until it is paid.",
            Access::Suspended => "This workspace is unpaid and is being suspended.",
            Access::Canceled => "The subscription has ended: this workspace is read-only.",
        };
        Some(Self { text, page: format!("{home}{}", page_of(tenant)) })
    }
}

/// Who looks in, why, and until when.
#[derive(Clone, Debug)]
pub struct Banner {
    pub operator: String,
    pub reason: String,
    pub until: String,
}

impl Chrome {
    /// Whether members and keys are theirs to run.
    pub fn runs(&self) -> bool {
        self.role >= Role::Admin
    }

    /// Whether they may do the work, and not only read it.
    pub fn works(&self) -> bool {
        self.role >= Role::Member
    }

    /// Whether the plan is theirs to choose.
    pub fn owns(&self) -> bool {
        self.role == Role::Owner
    }

    pub fn leads(&self) -> bool {
        self.role >= Role::Manager
    }

    /// `page` on the entry of the page one is on.
    pub fn current(&self, path: &str) -> &'static str {
        if self.path == path || self.path.starts_with(&format!("{path}/")) { "page" } else { "false" }
    }
}

impl<R: MinRole, S: Send + Sync> FromRequestParts<S> for Here<R> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let ctx = As::<R>::from_request_parts(parts, state).await?;
        let token = cookie::session_of(&parts.headers).or_else(|| cookie::support_of(&parts.headers));
        let csrf = token.map(|(token, _)| cookie::csrf_proof(token));
        let support = ctx.actor.support.as_deref().map(|support| Banner {
            operator: support.operator.clone(),
            reason: support.reason.clone(),
            until: moment(support.expires_at),
        });
        let near = ctx.levels().filter(|level| level.stage() > Stage::Fine);
        let limits =
            near.map(|level| LimitNotice { text: level.text(), consequence: level.consequence() }).collect();
        let home = parts.extensions.get::<Home>().map(|home| home.0.clone()).unwrap_or_default();
        let money = MoneyNotice::of(ctx.access(), ctx.tenant_id, &home);
        let chrome = Chrome {
            frame: Frame::default(),
            workspace: ctx.workspace_name().to_owned(),
            who: ctx.actor.name.clone(),
            role: ctx.actor.role,
            csrf: csrf.unwrap_or_default(),
            path: parts.uri.path().to_owned(),
            home,
            once: FormId::new().to_string(),
            support,
            money,
            limits,
        };
        Ok(Self { ctx, chrome })
    }
}

crate::define_id!(FormId, "frm", "One showing of a form.");

/// The sign-in host's address, for the frame.
#[derive(Clone)]
pub struct Home(pub String);
