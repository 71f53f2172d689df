//! Registers handlers as documented operations. What the document says about access is read off the handler's own
//! signature, so the two cannot drift apart; the problems an operation can answer with follow from its shape.

use utoipa::openapi::extensions::Extensions;
use utoipa::openapi::path::{Operation, ParameterIn};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{Content, Ref, RefOr, Response};
use utoipa::{PartialSchema, ToSchema};
use utoipa_axum::router::UtoipaMethodRouter;

use super::Problem;
use crate::data_plane::As;
use crate::data_plane::context::MinRole;
use crate::kernel::Role;

/// A handler whose first argument is [`As<R>`]. A function that asks for no role is not one, and does not register.
pub trait Guarded<Args> {
    /// The lowest role that reaches the handler.
    const ROLE: Role;
    /// Whether only a person reaches it.
    const PERSON: bool;
}

/// The security scheme of operations that are for people only.
pub const PERSON: &str = "person";

/// What a handler demands of its caller.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    pub role: Role,
    /// A person, and no key.
    pub person: bool,
}

macro_rules! guarded {
    ($($arg:ident),*) => {
        impl<F, Fut, R: MinRole, $($arg),*> Guarded<(R, $($arg,)*)> for F
        where
            F: Fn(As<R>, $($arg),*) -> Fut,
        {
            const ROLE: Role = R::ROLE;
            const PERSON: bool = R::PERSON;
        }
    };
}
guarded!();
guarded!(A);
guarded!(A, B);
guarded!(A, B, C);

/// What a handler demands, read off its signature.
pub fn access<F: Guarded<Args>, Args>(_: F) -> Access {
    Access { role: F::ROLE, person: F::PERSON }
}

/// Adds handlers to an `OpenApiRouter`, each with `x-min-role` (and, for people only, `security` without keys) and its problem answers:
/// `operations!(router, create, list)`.
#[macro_export]
macro_rules! operations {
    ($router:expr, $($handler:path),+ $(,)?) => {
        $router$(.routes($crate::http::vocabulary::operation::documented(
            utoipa_axum::routes!($handler),
            $crate::http::vocabulary::operation::access($handler),
        )))+
    };
}

/// Completes one handler's document.
pub fn documented<S>(
    (mut schemas, mut paths, router): UtoipaMethodRouter<S>,
    access: Access,
) -> UtoipaMethodRouter<S>
where
    S: Clone + Send + Sync + 'static,
{
    for item in paths.paths.values_mut() {
        let posts = item.post.is_some();
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.patch, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            let extension = Extensions::from_iter([("x-min-role", access.role.as_str())]);
            operation.extensions.get_or_insert_default().merge(extension);
            if access.person {
                operation.security = Some(vec![SecurityRequirement::new(PERSON, [""; 0])]);
            }
            for (status, text) in problems(operation, access, posts) {
                operation.responses.responses.entry(status.to_owned()).or_insert_with(|| problem(text));
            }
        }
    }
    schemas.push((Problem::name().into_owned(), Problem::schema()));
    Problem::schemas(&mut schemas);
    (schemas, paths, router)
}

fn problems(operation: &Operation, access: Access, posts: bool) -> Vec<(&'static str, &'static str)> {
    let takes = |place: ParameterIn| {
        operation.parameters.iter().flatten().any(|parameter| match parameter {
            RefOr::T(parameter) => parameter.parameter_in == place,
            RefOr::Ref(_) => false,
        })
    };
    let body = operation.request_body.is_some();
    let mut problems = vec![
        ("401", "No credential, or one that is not valid."),
        ("429", "Too many requests, or too many at once."),
        ("503", "The tenant's database is busy or cannot be reached."),
    ];
    if access.role > Role::Viewer || access.person {
        problems.push(("403", "The role does not allow it, or it is for people only."));
    }
    if takes(ParameterIn::Path) {
        problems.push(("404", "It does not exist, or not for this tenant."));
    }
    if takes(ParameterIn::Query) {
        problems.push(("400", "The cursor is not one of this list and sort."));
        problems.push(("422", "Some parameters are not valid."));
    }
    if takes(ParameterIn::Header) {
        problems.push(("409", "Someone changed it meanwhile."));
        problems.push(("412", "The header is not an entity tag."));
    }
    if posts {
        problems.push((
            "409",
            "It collides with the present state, or the Idempotency-Key was used for another request.",
        ));
    }
    if body {
        problems.push(("400", "The body is not JSON."));
        problems.push(("422", "Some fields are not valid."));
        problems.push(("413", "The body is too large."));
        problems.push(("415", "The body is not declared as JSON."));
    }
    problems
}

fn problem(text: &str) -> RefOr<Response> {
    let content = Content::new(Some(Ref::from_schema_name(Problem::name())));
    let mut response = Response::new(text);
    response.content.insert("application/problem+json".to_owned(), content.into());
    RefOr::T(response)
}
