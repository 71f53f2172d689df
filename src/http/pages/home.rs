//! The first page: the way in for a stranger, the workspaces of a person; at a tenant's host, on to its work.

use askama::Template;
use axum::extract::{Query, State};
use axum::response::Response;
use http::{HeaderMap, Uri};
use serde::Deserialize;

use super::{Frame, Pages, page};
use crate::http::browser::{Answer, AnyVisitor, Meant, Site, is_base, see_other, with_cookies};
use crate::http::mark::Mark;
use crate::identity::domains::{Joinable, join_by_domain, joinable};
use crate::identity::oidc::settings::Registration;
use crate::identity::return_to;
use crate::identity::sign_up::{Workspace, workspace_list};
use crate::kernel::ids::TenantId;

#[derive(Template)]
#[template(path = "pages/landing.html")]
struct Landing {
    frame: Frame,
    may_make: bool,
}

#[derive(Template)]
#[template(path = "pages/home.html")]
struct Home {
    frame: Frame,
    who: String,
    csrf: String,
    may_make: bool,
    base_domain: String,
    workspaces: Vec<Workspace>,
    /// Those of the person's own mail domain that they may join by themselves.
    joinable: Vec<Joinable>,
}

/// `GET /`
pub async fn root(
    visitor: Option<AnyVisitor>,
    State(pages): State<Pages>,
    headers: HeaderMap,
    uri: Uri,
) -> Answer {
    if !is_base(&headers, &uri, &pages.site.base_domain) {
        return Ok(see_other(Frame::default().begins()));
    }
    let identity = &pages.site.identity;
    let (frame, may_make) = (Frame::default(), identity.settings.sign_up);
    let Some(AnyVisitor(visitor)) = visitor else { return Ok(page(&Landing { frame, may_make })) };
    let mut conn = identity.cp.db.acquire().await?;
    let mut workspaces = workspace_list(&mut conn, visitor.person.id).await?;
    // Sent by a workspace's own provider: that workspace, and nothing of the others.
    workspaces.retain(|one| visitor.only.is_none_or(|only| only == one.tenant));
    let joinable = match visitor.only {
        Some(_) => Vec::new(),
        None => joinable(&mut conn, visitor.person.id).await?,
    };
    Ok(page(&Home {
        frame,
        who: visitor.person.name.to_string(),
        csrf: visitor.csrf(),
        may_make: may_make && visitor.only.is_none(),
        joinable,
        base_domain: identity.cp.addresses.base_domain.clone(),
        workspaces,
    }))
}

#[derive(Deserialize)]
pub struct Which {
    tenant: TenantId,
}

/// `POST /join`: a seat in a workspace of one's own mail domain.
pub async fn join(State(pages): State<Pages>, Meant(visitor, which): Meant<Which>) -> Answer {
    join_by_domain(&pages.site.identity, &visitor.caller(), visitor.person.id, which.tenant).await?;
    Ok(see_other("/"))
}

#[derive(Template)]
#[template(path = "pages/sign_in.html")]
struct SignIn<'a> {
    frame: Frame,
    providers: Vec<&'a Registration>,
    return_to: &'a str,
    /// Whether an address and a password are a way in.
    password: bool,
    csrf: String,
    email: &'a str,
    wrong: Option<&'a str>,
}

/// `GET /signup`: a workspace of one's own, by way of signing in.
pub async fn sign_up() -> Response {
    see_other("/new")
}

#[derive(Deserialize)]
pub struct Wanted {
    return_to: Option<String>,
}

/// `GET /sign-in`
pub async fn sign_in(
    visitor: Option<AnyVisitor>,
    State(pages): State<Pages>,
    Query(wanted): Query<Wanted>,
    headers: HeaderMap,
) -> Response {
    let return_to = return_to::path_of(wanted.return_to.as_deref());
    if visitor.is_some() {
        return see_other(return_to);
    }
    let mark = Mark::of(&headers, &pages.site.identity.cp.entropy);
    sign_in_page(&pages.site, &mark, return_to, "", None)
}

/// The ways in. `wrong`: why the last try was none.
pub fn sign_in_page(site: &Site, mark: &Mark, return_to: &str, email: &str, wrong: Option<&str>) -> Response {
    let identity = &site.identity;
    let password = identity.passwords_are_on().is_ok();
    let shown = page(&SignIn {
        frame: Frame::default(),
        providers: identity.providers.registrations().collect(),
        return_to,
        password,
        csrf: mark.csrf(),
        email,
        wrong,
    });
    // Only where there is a form that it is needed for.
    with_cookies(shown, password.then(|| mark.cookie(identity.cp.clock.now())))
}
