//! Single sign-on: the workspace's mail domains, its own provider, and whether that is the only way in.

use askama::Template;
use axum::Router;
use axum::extract::{Form, State};
use axum::response::Response;
use axum::routing::{get, post};
use http::StatusCode;
use secrecy::SecretString;
use serde::Deserialize;

use super::workspace::{Chrome, Here};
use super::{Frame, page, words};
use crate::data_plane::TenantContext;
use crate::data_plane::context::{Admin, OfPerson, Owner};
use crate::http::browser::{see_other, with_query};
use crate::http::workspace::sso::{SsoStatus, status};
use crate::http::workspace::{by, caller};
use crate::identity::Identity;
use crate::identity::domains::{
    EmailDomain, domain_add, domain_join_role, domain_list, domain_remove, domain_verify, record_name,
};
use crate::identity::sso::{NewSso, sso_connect, sso_enforce, sso_remove};
use crate::kernel::{Error, Result, Role};

const HERE: &str = "/sign-on";

pub fn routes(identity: Identity) -> Router {
    Router::new()
        .route(HERE, get(show))
        .route("/sign-on/domains", post(add))
        .route("/sign-on/domains/verify", post(verify))
        .route("/sign-on/domains/join", post(join))
        .route("/sign-on/domains/remove", post(remove))
        .route("/sign-on/provider", post(provider))
        .route("/sign-on/provider/remove", post(provider_remove))
        .route("/sign-on/require", post(require))
        .with_state(identity)
}

#[derive(Template)]
#[template(path = "pages/sign_on.html")]
struct Page {
    frame: Frame,
    chrome: Chrome,
    /// Whether the visitor may change the provider: an owner, and no key.
    owner: bool,
    /// Each with the name of its record.
    domains: Vec<(EmailDomain, String)>,
    proven: bool,
    status: SsoStatus,
    /// Where an owner tries it, and comes back from.
    attempt: String,
    wrong: Option<String>,
}

async fn show(here: Here<Admin>, State(identity): State<Identity>) -> Result<Response> {
    shown(&here, &here.chrome, &identity, None).await
}

async fn shown(
    ctx: &TenantContext,
    chrome: &Chrome,
    identity: &Identity,
    wrong: Option<String>,
) -> Result<Response> {
    let status = status(identity, ctx).await?;
    let mut conn = identity.cp.db.acquire().await?;
    let domains = domain_list(&mut conn, ctx.tenant_id).await?;
    let back = with_query(&format!("/go/{}", ctx.slug), &[("return_to", HERE)]);
    Ok(page(&Page {
        frame: chrome.frame,
        owner: ctx.actor.role >= Role::Owner && ctx.actor.person.is_some(),
        proven: domains.iter().any(|domain| domain.verified_at.is_some()),
        domains: domains.into_iter().map(with_record).collect(),
        attempt: with_query(&format!("{}/connect", status.sign_in_url), &[("return_to", &back)]),
        status,
        chrome: chrome.clone(),
        wrong,
    }))
}

fn with_record(domain: EmailDomain) -> (EmailDomain, String) {
    let record = record_name(&domain.domain);
    (domain, record)
}

/// Back to the page; with what is wrong, if something is.
async fn finish(
    ctx: &TenantContext,
    chrome: &Chrome,
    identity: &Identity,
    outcome: Result<()>,
) -> Result<Response> {
    match outcome {
        Ok(()) => Ok(see_other(HERE)),
        Err(error) if error.code().status < 500 => {
            let mut response = shown(ctx, chrome, identity, Some(words(&error))).await?;
            *response.status_mut() = StatusCode::from_u16(error.code().status).map_err(Error::internal)?;
            Ok(response)
        }
        Err(error) => Err(error),
    }
}

#[derive(Deserialize)]
struct Domain {
    domain: String,
}

async fn add(
    here: Here<Admin>,
    State(identity): State<Identity>,
    Form(new): Form<Domain>,
) -> Result<Response> {
    let added = domain_add(&identity, &caller(&here), by(&here), here.tenant_id, &new.domain).await;
    finish(&here, &here.chrome, &identity, added.map(drop)).await
}

async fn verify(
    here: Here<Admin>,
    State(identity): State<Identity>,
    Form(which): Form<Domain>,
) -> Result<Response> {
    let (who, caller) = (by(&here), caller(&here));
    let proven = domain_verify(&identity, &identity.txt, &caller, who, here.tenant_id, &which.domain).await;
    finish(&here, &here.chrome, &identity, proven.map(drop)).await
}

#[derive(Deserialize)]
struct Joining {
    domain: String,
    /// Empty: nobody joins by themselves.
    join_role: String,
}

async fn join(
    here: Here<Admin>,
    State(identity): State<Identity>,
    Form(new): Form<Joining>,
) -> Result<Response> {
    let changed = match role_of(&new.join_role) {
        Ok(role) => {
            let (who, caller) = (by(&here), caller(&here));
            domain_join_role(&identity, &caller, who, here.tenant_id, &new.domain, role).await
        }
        Err(error) => Err(error),
    };
    finish(&here, &here.chrome, &identity, changed.map(drop)).await
}

/// A choice of a role, or of none.
fn role_of(text: &str) -> Result<Option<Role>> {
    if text.is_empty() {
        return Ok(None);
    }
    let role = Role::ALL.into_iter().find(|role| role.as_str() == text);
    role.map(Some).ok_or_else(|| Error::field("join_role", "is viewer or member"))
}

async fn remove(
    here: Here<Admin>,
    State(identity): State<Identity>,
    Form(which): Form<Domain>,
) -> Result<Response> {
    let gone = domain_remove(&identity, &caller(&here), by(&here), here.tenant_id, &which.domain).await;
    finish(&here, &here.chrome, &identity, gone).await
}

#[derive(Deserialize)]
struct NewProvider {
    issuer: String,
    client_id: String,
    client_secret: String,
    join_role: String,
}

async fn provider(
    here: Here<OfPerson<Owner>>,
    State(identity): State<Identity>,
    Form(new): Form<NewProvider>,
) -> Result<Response> {
    let set = match role_of(&new.join_role) {
        Ok(join_role) => {
            let new = NewSso {
                issuer: new.issuer.trim().to_owned(),
                client_id: new.client_id.trim().to_owned(),
                client_secret: SecretString::from(new.client_secret.trim().to_owned()),
                join_role,
            };
            sso_connect(&identity, &caller(&here), by(&here), here.tenant_id, &new).await
        }
        Err(error) => Err(error),
    };
    finish(&here, &here.chrome, &identity, set.map(drop)).await
}

async fn provider_remove(here: Here<OfPerson<Owner>>, State(identity): State<Identity>) -> Result<Response> {
    let gone = sso_remove(&identity, &caller(&here), by(&here), here.tenant_id).await;
    finish(&here, &here.chrome, &identity, gone).await
}

#[derive(Deserialize)]
struct Rule {
    required: String,
}

async fn require(
    here: Here<OfPerson<Owner>>,
    State(identity): State<Identity>,
    Form(rule): Form<Rule>,
) -> Result<Response> {
    let who = (by(&here), Some(here.person()?.session));
    let set = match rule.required.as_str() {
        "yes" => sso_enforce(&identity, &caller(&here), who, here.tenant_id, true).await,
        "no" => sso_enforce(&identity, &caller(&here), who, here.tenant_id, false).await,
        _ => Err(Error::field("required", "is yes or no")),
    };
    finish(&here, &here.chrome, &identity, set.map(drop)).await
}
