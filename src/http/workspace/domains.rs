//! Mail domains of this workspace.

use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;

use super::{by, caller};
use crate::data_plane::As;
use crate::data_plane::context::Admin;
use crate::http::vocabulary::{Json, Path, Query};
use crate::identity::Identity;
use crate::identity::domains::{
    DomainFilter, EmailDomain, domain_add, domain_join_role, domain_list, domain_remove, domain_verify,
    record_name,
};
use crate::kernel::page::Page;
use crate::kernel::{Result, Role};
use crate::operations;

pub fn routes() -> OpenApiRouter<Identity> {
    operations!(OpenApiRouter::new(), add, list, change, verify, remove)
}

/// A domain to name.
#[derive(Debug, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct NewDomain {
    /// As `example.com`.
    #[garde(skip)]
    domain: String,
}

/// What becomes of people of the domain.
#[derive(Debug, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct DomainChange {
    /// The role of those who join by themselves: viewer or member. Null: nobody does.
    #[garde(skip)]
    // So that leaving it out is no answer.
    #[serde(deserialize_with = "Option::deserialize")]
    #[schema(required = true)]
    join_role: Option<Role>,
}

/// A mail domain, and the record that proves it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Domain {
    #[serde(flatten)]
    domain: EmailDomain,
    /// The name of the TXT record whose value has to be `challenge`.
    record: String,
}

fn shown(domain: EmailDomain) -> Domain {
    Domain { record: record_name(&domain.domain), domain }
}

/// Name a mail domain
///
/// The answer says which TXT record proves it. Naming it again changes nothing.
#[utoipa::path(post, path = "/api/v1/domains", operation_id = "add_domain", tag = "domains",
    request_body = NewDomain,
    responses((status = 201, description = "The domain, not proven yet.", body = Domain)))]
async fn add(
    ctx: As<Admin>,
    State(identity): State<Identity>,
    Json(new): Json<NewDomain>,
) -> Result<(StatusCode, Json<Domain>)> {
    let domain = domain_add(&identity, &caller(&ctx), by(&ctx), ctx.tenant_id, &new.domain).await?;
    Ok((StatusCode::CREATED, Json(shown(domain))))
}

/// List mail domains
#[utoipa::path(get, path = "/api/v1/domains", operation_id = "list_domains", tag = "domains",
    params(DomainFilter),
    responses((status = 200, description = "Domains, by name.", body = Page<Domain>)))]
async fn list(
    ctx: As<Admin>,
    State(identity): State<Identity>,
    Query(filter): Query<DomainFilter>,
) -> Result<Json<Page<Domain>>> {
    filter.check()?;
    let mut conn = identity.cp.db.acquire().await?;
    let all = domain_list(&mut conn, ctx.tenant_id).await?;
    Ok(Json(Page::whole(all.into_iter().map(shown).collect())))
}

/// Say who may join by domain
///
/// People with a verified address of a proven domain may take a seat by themselves, with this role.
#[utoipa::path(patch, path = "/api/v1/domains/{domain}", operation_id = "change_domain", tag = "domains",
    params(("domain" = String, Path)), request_body = DomainChange,
    responses((status = 200, description = "The domain.", body = Domain)))]
async fn change(
    ctx: As<Admin>,
    State(identity): State<Identity>,
    Path(domain): Path<String>,
    Json(new): Json<DomainChange>,
) -> Result<Json<Domain>> {
    let (caller, by) = (caller(&ctx), by(&ctx));
    let changed = domain_join_role(&identity, &caller, by, ctx.tenant_id, &domain, new.join_role).await?;
    Ok(Json(shown(changed)))
}

/// Prove a mail domain
///
/// Looks for the TXT record now. 409 while it is not there.
#[utoipa::path(post, path = "/api/v1/domains/{domain}/verify", operation_id = "verify_domain", tag = "domains",
    params(("domain" = String, Path)),
    responses((status = 200, description = "The domain, proven.", body = Domain)))]
async fn verify(
    ctx: As<Admin>,
    State(identity): State<Identity>,
    Path(domain): Path<String>,
) -> Result<Json<Domain>> {
    let (caller, by) = (caller(&ctx), by(&ctx));
    let proven = domain_verify(&identity, &identity.txt, &caller, by, ctx.tenant_id, &domain).await?;
    Ok(Json(shown(proven)))
}

/// Give a mail domain up
#[utoipa::path(delete, path = "/api/v1/domains/{domain}", operation_id = "remove_domain", tag = "domains",
    params(("domain" = String, Path)), responses((status = 204, description = "It is nobody's here any more.")))]
async fn remove(
    ctx: As<Admin>,
    State(identity): State<Identity>,
    Path(domain): Path<String>,
) -> Result<StatusCode> {
    domain_remove(&identity, &caller(&ctx), by(&ctx), ctx.tenant_id, &domain).await?;
    Ok(StatusCode::NO_CONTENT)
}
