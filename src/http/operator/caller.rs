//! Who is asking. The control plane is reached through this extractor alone: a handler that forgets it has nothing to
//! work with.

use axum::extract::FromRequestParts;
use http::request::Parts;

use super::Inside;
use crate::billing::Billing;
use crate::control_plane::ControlPlane;
use crate::control_plane::audit::Caller;
use crate::control_plane::tenants::TenantRef;
use crate::data_plane::RequestId;
use crate::data_plane::tenancy::decide::bearer;
use crate::http::vocabulary::Path;
use crate::identity::keys::operator_authenticate;
use crate::identity::operators::{OperatorRole, actor_of_key};
use crate::jobs::feed::RunFeed;
use crate::kernel::{Error, Result, codes};

/// An operator with a valid key, and what they may work with.
pub struct Operator {
    pub cp: ControlPlane,
    pub caller: Caller,
    /// The key's name, for tenants to read.
    pub name: String,
    pub feed: RunFeed,
    billing: Option<Billing>,
}

impl Operator {
    /// What asks Stripe.
    ///
    /// # Errors
    /// `state_conflict` where there is none.
    pub fn billing(&self) -> Result<&Billing> {
        self.billing.as_ref().ok_or_else(|| {
            Error::new(&codes::STATE_CONFLICT)
                .detail("this server was given no settings for Stripe")
                .hint("name their file in FREEHOLD_STRIPE")
        })
    }

    /// Which of Stripe's modes this server is in.
    pub fn livemode(&self) -> bool {
        self.billing.as_ref().is_some_and(|billing| billing.settings.livemode())
    }

    async fn who(parts: &Parts, state: &Inside, changes: OperatorRole) -> Result<Self> {
        let key = bearer(&parts.headers).ok_or_else(|| Error::new(&codes::UNAUTHENTICATED))?;
        let holder = operator_authenticate(&state.cp, key).await?;
        // What is safe by its method is reading, all else is changing: no route can forget to ask.
        if !parts.method.is_safe() {
            holder.role.require(changes)?;
        }
        let caller = Caller { actor: actor_of_key(holder.id), request_id: request_id(parts) };
        let (cp, feed, billing) = (state.cp.clone(), state.feed.clone(), state.billing.clone());
        Ok(Self { cp, caller, name: holder.name, feed, billing })
    }
}

impl FromRequestParts<Inside> for Operator {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &Inside) -> Result<Self> {
        Self::who(parts, state, OperatorRole::Operator).await
    }
}

/// An operator who may correct money: of the finance role, or above it. For the changes below `/operator/v1/billing`, and
/// for no others.
pub struct Accountant(pub Operator);

impl FromRequestParts<Inside> for Accountant {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &Inside) -> Result<Self> {
        Operator::who(parts, state, OperatorRole::Finance).await.map(Self)
    }
}

/// The id that the outermost layer gave the request.
fn request_id(parts: &Parts) -> Option<String> {
    parts.extensions.get::<RequestId>().map(|id| id.0.to_string())
}

/// The tenant that a path names, by slug or id.
pub struct Which(pub TenantRef);

impl<S: Send + Sync> FromRequestParts<S> for Which {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let Path(text): Path<String> = Path::from_request_parts(parts, state).await?;
        match text.parse() {
            Ok(tenant) => Ok(Self(tenant)),
            Err(never) => match never {},
        }
    }
}
