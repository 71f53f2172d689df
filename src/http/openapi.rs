//! The OpenAPI document: what the routes say of themselves, plus what is true of all of them.

use http::Method;
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{Object, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Components, ContentBuilder, InfoBuilder, LicenseBuilder, OpenApi, Ref, Required};
use utoipa::{PartialSchema, ToSchema};

use super::problem::Problem;
use super::vocabulary::operation::PERSON;
use crate::data_plane::tenancy::scopes::{Scopes, scope_of};
use crate::kernel::FieldError;

const TENANT_KEY: &str = "tenant_key";
const OPERATOR_KEY: &str = "operator_key";

/// One document of both APIs: keys, the tenant header, `Idempotency-Key` on every POST of a tenant (operators' say it
/// themselves), and the problem that any operation may answer with.
pub fn describe(mut tenant: OpenApi, mut operator: OpenApi) -> OpenApi {
    for (name, api) in [(TENANT_KEY, &mut tenant), (OPERATOR_KEY, &mut operator)] {
        for (method, operation) in api.paths.paths.values_mut().flat_map(operations) {
            let responses = &mut operation.responses.responses;
            responses
                .entry("default".to_owned())
                .or_insert_with(|| Ref::from_response_name("Problem").into());
            if operation.security.is_none() {
                // The scope that a key with scopes needs. It stands here and not in an extension because extensions
                // come in no order.
                let scope = scope(method, operation).filter(|_| name == TENANT_KEY);
                operation.security = Some(vec![SecurityRequirement::new(name, scope)]);
            }
            if name == TENANT_KEY && method == "post" {
                header(
                    operation,
                    "Idempotency-Key",
                    "A repeat with the same key and body gets the first answer.",
                );
            }
            if name == TENANT_KEY {
                header(
                    operation,
                    "X-Freehold-Tenant",
                    "The tenant's slug or id, where the host does not name it. Where both do, they must agree.",
                );
            }
        }
    }
    let mut api = tenant;
    api.merge(operator);
    api.info = InfoBuilder::new()
        .title("Freehold")
        .version("1")
        .description(Some(
            "Tenants' API under `/api/v1`, at each tenant's own host; operators' API under `/operator/v1`. Errors are \
             RFC 9457 problems with a stable `code`: see `/docs/errors`.",
        ))
        .license(Some(LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build()))
        .build();
    let components = api.components.get_or_insert_with(Components::new);
    components.schemas.insert(Problem::name().into_owned(), Problem::schema());
    components.schemas.insert(FieldError::name().into_owned(), FieldError::schema());
    components.responses.insert("Problem".to_owned(), problem().into());
    for (name, what) in [
        (
            TENANT_KEY,
            "A tenant's API key: `Authorization: Bearer fhk_…`. A key with scopes needs the one that is listed.",
        ),
        (PERSON, "A person: a browser's session, or `Authorization: Bearer` with an access token. No key."),
        (OPERATOR_KEY, "An operator's API key: `Authorization: Bearer fho_…`"),
    ] {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(what)).build();
        components.add_security_scheme(name, SecurityScheme::Http(scheme));
    }
    api
}

/// What each tenant operation asks of a key with scopes.
pub fn scopes(tenant: &OpenApi) -> Scopes {
    let mut paths = tenant.paths.paths.clone();
    Scopes::new(paths.iter_mut().flat_map(|(path, item)| {
        let found = operations(item).filter_map(|(method, operation)| {
            let scope = scope(method, operation)?;
            Some((path.clone(), Method::from_bytes(method.to_uppercase().as_bytes()).ok()?, scope))
        });
        found.collect::<Vec<_>>()
    }))
}

/// By the first tag. Without one a key with scopes never reaches the operation.
fn scope(method: &str, operation: &Operation) -> Option<String> {
    let tag = operation.tags.as_ref()?.first()?;
    Some(scope_of(tag, &Method::from_bytes(method.to_uppercase().as_bytes()).ok()?))
}

fn problem() -> Response {
    let schema = Ref::from_schema_name(Problem::name());
    ResponseBuilder::new()
        .description("What went wrong, with a stable `code`.")
        .content("application/problem+json", ContentBuilder::new().schema(Some(schema)).build())
        .build()
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    [
        ("get", &mut item.get),
        ("put", &mut item.put),
        ("post", &mut item.post),
        ("delete", &mut item.delete),
        ("head", &mut item.head),
        ("patch", &mut item.patch),
    ]
    .into_iter()
    .filter_map(|(method, operation)| operation.as_mut().map(|operation| (method, operation)))
}

fn header(operation: &mut Operation, name: &str, what: &str) {
    let parameter = ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(what))
        .schema(Some(Object::with_type(Type::String)))
        .build();
    operation.parameters.get_or_insert_default().push(parameter.into());
}
