//! Signing in with a workspace's own provider.
//!
//! Somebody who has a seat by another way in connects the two first, from a session of their own that is fresh; otherwise
//! the provider's word would make them a second account, or, worse, an address would lead it into the first.

use askama::Template;
use axum::extract::{Query, State};
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;

use super::flow::{begin, come_back, with_flow_cookie};
use super::page;
use crate::control_plane::tenants::TenantRef;
use crate::http::browser::{Answer, AnyVisitor, Meant, Site, Visitor, see_other, with_query};
use crate::http::pages::{Frame, page as html};
use crate::http::vocabulary::Path;
use crate::identity::accounts::link_list;
use crate::identity::domains::domain_of;
use crate::identity::oidc::CallbackQuery;
use crate::identity::oidc::settings::Registration;
use crate::identity::own::{Workspace, own_by_domain, own_is_linked};
use crate::identity::return_to::path_of;
use crate::identity::sessions::{Asking, session_is_fresh};
use crate::identity::sign_in::{Purpose, Wish};
use crate::kernel::{Error, Result, codes};

type Asked<T> = std::result::Result<Query<T>, axum::extract::rejection::QueryRejection>;

#[derive(Default, Deserialize)]
pub(super) struct Find {
    /// A workspace's address, with or without our domain, or a mail address.
    at: Option<String>,
    return_to: Option<String>,
}

#[derive(Template)]
#[template(path = "pages/sign_in_unknown.html")]
struct Unknown<'a> {
    frame: Frame,
    at: &'a str,
    return_to: &'a str,
}

/// `GET /sign-in/sso`: the form of the sign-in page. A page and not a redirect comes of it: a form may not lead to another
/// host.
pub(super) async fn find(State(site): State<Site>, query: Asked<Find>) -> Answer {
    let Query(find) = query.unwrap_or_default();
    let at = find.at.as_deref().unwrap_or_default().trim().to_lowercase();
    let return_to = path_of(find.return_to.as_deref());
    let found = match of(&site, &at).await? {
        Some(tenant) => site.identity.own_provider(&tenant).await,
        None => Err(Error::new(&codes::NOT_FOUND)),
    };
    match found {
        Ok((workspace, _)) => Ok(page::leads_to(&start_url(&workspace, return_to), &workspace.name)),
        Err(error) if error.is(&codes::NOT_FOUND) => {
            let at: String = at.chars().take(100).collect();
            let mut response = html(&Unknown { frame: Frame::default(), at: &at, return_to });
            *response.status_mut() = StatusCode::NOT_FOUND;
            Ok(response)
        }
        Err(error) => Err(error.into()),
    }
}

/// Whom an address means: the workspace that has proven a mail address's domain, or the workspace of that name.
async fn of(site: &Site, at: &str) -> Result<Option<TenantRef>> {
    if at.is_empty() || at.len() > 254 {
        return Ok(None);
    }
    if at.contains('@') {
        let Some(domain) = domain_of(at) else { return Ok(None) };
        let mut conn = site.identity.cp.db.acquire().await?;
        return Ok(own_by_domain(&mut conn, &domain).await?.map(TenantRef::Id));
    }
    let name = at.trim_start_matches("https://").trim_start_matches("http://");
    let name = name.split(['/', ':']).next().unwrap_or_default();
    let slug = name.strip_suffix(&*site.base_domain).and_then(|rest| rest.strip_suffix('.')).unwrap_or(name);
    Ok(Some(TenantRef::Slug(slug.to_owned())))
}

fn start_url(workspace: &Workspace, return_to: &str) -> String {
    with_query(&format!("/sign-in/sso/{}", workspace.slug), &[("return_to", return_to)])
}

#[derive(Default, Deserialize)]
pub(super) struct Start {
    return_to: Option<String>,
}

/// `GET /sign-in/sso/{tenant}`: by slug or id.
pub(super) async fn start(
    State(site): State<Site>,
    Path(tenant): Path<String>,
    query: Asked<Start>,
    asking: Asking,
    headers: HeaderMap,
) -> Answer {
    let (workspace, provider) = own(&site, &tenant).await?;
    let Query(start) = query.unwrap_or_default();
    // On to the workspace: this session opens no other.
    let home = format!("/go/{}", workspace.slug);
    let return_to = Some(path_of(start.return_to.as_deref())).filter(|to| *to != "/").unwrap_or(&home);
    let wish = Wish {
        purpose: Purpose::SignIn,
        account: None,
        tenant: Some(workspace.id),
        return_to: Some(return_to),
    };
    let begun = begin(&site, &provider, &wish, &asking, &headers).await?;
    Ok(with_flow_cookie(&site, &begun, see_other(&begun.url)))
}

async fn own(
    site: &Site,
    tenant: &str,
) -> Result<(Workspace, std::sync::Arc<crate::identity::oidc::Provider>)> {
    let Ok(tenant) = tenant.parse::<TenantRef>();
    site.identity.own_provider(&tenant).await
}

/// `GET /sign-in/sso/{tenant}/callback`
pub(super) async fn callback(
    State(site): State<Site>,
    Path(tenant): Path<String>,
    query: Asked<CallbackQuery>,
    visitor: Option<AnyVisitor>,
    asking: Asking,
    headers: HeaderMap,
) -> Answer {
    let (_, provider) = own(&site, &tenant).await?;
    come_back(&site, &provider, query, visitor, &asking, &headers).await
}

#[derive(Template)]
#[template(path = "pages/own_sign_in.html")]
struct Ask<'a> {
    frame: Frame,
    who: String,
    csrf: String,
    workspace: &'a Workspace,
    start: String,
    return_to: &'a str,
    stage: Stage<'a>,
}

enum Stage<'a> {
    /// Connected already, or a stranger to the workspace: on to the provider.
    Go,
    /// The person has just proven who they are.
    Connect,
    /// They have to, by one of these, and come back.
    Confirm { providers: Vec<&'a Registration>, back: String },
}

/// `GET /sign-in/sso/{tenant}/connect`: the way in for somebody who is signed in by other means.
pub(super) async fn ask(
    State(site): State<Site>,
    Path(tenant): Path<String>,
    AnyVisitor(visitor): AnyVisitor,
    query: Asked<Start>,
) -> Answer {
    let Query(start) = query.unwrap_or_default();
    let return_to = start.return_to.as_deref();
    Ok(connect_page(&site, &tenant, &visitor, return_to).await?)
}

/// The page that says how to get into a workspace that wants its own sign-in.
pub(super) async fn connect_page(
    site: &Site,
    tenant: &str,
    visitor: &Visitor,
    return_to: Option<&str>,
) -> Result<Response> {
    let (workspace, _) = own(site, tenant).await?;
    let (me, cp) = (visitor.person.id, &site.identity.cp);
    let mut conn = cp.db.acquire().await?;
    let connected = own_is_linked(&mut conn, workspace.id, me).await?;
    let seated = visitor.person.role_in(workspace.id).is_some();
    let stage = if connected || visitor.only.is_some() || !seated {
        Stage::Go
    } else if session_is_fresh(&mut conn, me, visitor.session, cp.clock.now()).await.is_ok() {
        Stage::Connect
    } else {
        let links = link_list(&mut conn, me).await?;
        let mine = |one: &&Registration| links.iter().any(|link| link.issuer == one.issuer);
        let back = with_query(
            &format!("/sign-in/sso/{}/connect", workspace.slug),
            &[("return_to", path_of(return_to))],
        );
        Stage::Confirm { providers: site.identity.providers.registrations().filter(mine).collect(), back }
    };
    Ok(html(&Ask {
        frame: Frame::default(),
        who: visitor.person.name.to_string(),
        csrf: visitor.csrf(),
        start: start_url(&workspace, path_of(return_to)),
        return_to: path_of(return_to),
        workspace: &workspace,
        stage,
    }))
}

/// `POST /sign-in/sso/{tenant}/connect`: a link to the workspace's provider, then in by it.
pub(super) async fn connect(
    State(site): State<Site>,
    Path(tenant): Path<String>,
    asking: Asking,
    headers: HeaderMap,
    Meant(visitor, to): Meant<Start>,
) -> Answer {
    let (workspace, provider) = own(&site, &tenant).await?;
    let cp = &site.identity.cp;
    let seated = visitor.person.role_in(workspace.id);
    seated.ok_or_else(|| {
        Error::new(&codes::FORBIDDEN).detail("you have no seat in this workspace that could be connected")
    })?;
    let mut conn = cp.db.acquire().await?;
    session_is_fresh(&mut conn, visitor.person.id, visitor.session, cp.clock.now()).await?;
    drop(conn);
    let return_to = start_url(&workspace, path_of(to.return_to.as_deref()));
    let wish = Wish {
        purpose: Purpose::Link,
        account: Some(visitor.person.id),
        tenant: Some(workspace.id),
        return_to: Some(&return_to),
    };
    let begun = begin(&site, &provider, &wish, &asking, &headers).await?;
    Ok(with_flow_cookie(&site, &begun, page::leads_to(&begun.url, &workspace.name)))
}
