//! An operator at a tenant's door: let in until the time is over, and not without a trace.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request};
use serde_json::{Value, json};

use super::{Tenancy, unauthenticated};
use crate::control_plane::audit::{Caller, audit_add};
use crate::data_plane::context::RequestId;
use crate::data_plane::directory::Support;
use crate::kernel::credentials::KeyHash;
use crate::kernel::{Result, Role};

impl Tenancy {
    /// The session of this cookie, until it is ended or its time is over.
    pub(super) async fn by_support(&self, token: KeyHash) -> Result<Arc<Support>> {
        let found = self.directory.support(token).await?;
        found.filter(|support| support.live(self.clock.now())).ok_or_else(unauthenticated)
    }

    /// A change is in the tenant's log before it is made; if it cannot be written down, it is not made.
    pub(super) async fn note_change(
        &self,
        support: &Support,
        (caller, detail): (Caller, Value),
    ) -> Result<()> {
        let (now, tenant) = (self.clock.now(), Some(support.tenant));
        let mut conn = self.directory.control().acquire().await?;
        audit_add(&mut conn, &caller, now, "support.change", tenant, &support.id.to_string(), detail).await
    }
}

/// What there is to be written down of a request. A session that only reads changes nothing.
pub(super) fn change_by(support: &Support, request: &Request) -> Option<(Caller, Value)> {
    if request.method().is_safe() || support.role <= Role::Viewer {
        return None;
    }
    let extensions = request.extensions();
    let request_id = extensions.get::<RequestId>().map(|id| id.0.to_string());
    let detail = json!({
        "operator": support.operator,
        "reason": support.reason,
        "method": request.method().as_str(),
        "route": extensions.get::<MatchedPath>().map(MatchedPath::as_str),
        "path": request.uri().path(),
    });
    Some((Caller { actor: support.actor.clone(), request_id }, detail))
}
