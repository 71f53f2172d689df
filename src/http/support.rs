//! What is out of an operator's reach when they look into a tenant: members, keys, sign-in, the log, money. All of it is the
//! platform's, so the rule is one for all of the platform's operations and pages at a tenant's host, and a new one is
//! within it by itself: they are read as a viewer reads them, and nothing of them is changed, whatever the session's role.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::data_plane::TenantContext;
use crate::kernel::{Error, Role, codes};

/// `axum::middleware::from_fn(reads_only)`, behind the tenant's door.
pub async fn reads_only(mut request: Request, next: Next) -> Response {
    let safe = request.method().is_safe();
    if let Some(context) = request.extensions_mut().get_mut::<TenantContext>()
        && context.actor.support.is_some()
    {
        if !safe {
            let error = Error::new(&codes::FORBIDDEN).detail("a support session cannot change this");
            return error.into_response();
        }
        context.actor.role = Role::Viewer;
    }
    next.run(request).await
}
