//! What a product handler is given: one tenant, one caller, and the only way to that tenant's rows.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRequestParts;
use http::request::Parts;
use sqlx::PgConnection;

use super::broker::{Broker, Failure, Login, faults};
use super::directory::{Directory, Support, Tenant};
use super::idempotency::Once;
use super::tenancy::decide;
use super::tenancy::scopes::{Held, Scopes};
use crate::billing::access::Access;
use crate::billing::quotas::{Level, Quota, Stage};
use crate::control_plane::plans::Entitlements;
use crate::kernel::ids::{AccountId, SessionId, TenantId};
use crate::kernel::{Clock, Error, Result, Role, Slug, codes};

/// Who is asking.
#[derive(Clone, Debug)]
pub struct Actor {
    /// The credential's or person's id, as it is written into rows and logs: `key_…`.
    pub id: String,
    /// A name for people.
    pub name: String,
    pub role: Role,
    /// None when a key or the platform asks.
    pub person: Option<SignedIn>,
    /// The support session, when an operator looks in.
    pub support: Option<Arc<Support>>,
}

/// The person behind a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedIn {
    pub account: AccountId,
    pub session: SessionId,
}

/// The id of one request: answered, logged, and written beside what the request changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(pub Arc<str>);

/// One request's tenant, caller and connection. Made only by the tenancy middleware, after the credential and the
/// host have agreed, and by [`TenantContext::of_platform`] for the platform's own work.
#[derive(Clone)]
pub struct TenantContext {
    pub tenant_id: TenantId,
    pub slug: Slug,
    pub limits: Arc<Entitlements>,
    pub actor: Actor,
    pub request_id: String,
    pub clock: Clock,
    pub(super) tenant: Arc<Tenant>,
    pub(super) directory: Directory,
    pub(super) broker: Broker,
    /// The client's `Idempotency-Key`, if it sent one. See [`TenantContext::write_once`].
    pub(super) once: Option<Once>,
    /// What the key is confined to, and what there is to be confined to.
    pub(super) scopes: Held,
    pub(super) known_scopes: Arc<Scopes>,
    /// How the month's requests stand. None outside a request.
    pub(super) month: Option<Level>,
    /// Whether what it writes needs no room: it deletes, or the platform itself tidies up.
    pub(super) needs_no_room: bool,
}

impl TenantContext {
    /// The platform itself at work in a tenant, outside any request.
    pub fn of_platform(tenant: Arc<Tenant>, directory: Directory, broker: Broker, clock: Clock) -> Self {
        Self {
            tenant_id: tenant.id,
            slug: tenant.slug.clone(),
            limits: tenant.limits.clone(),
            actor: Actor {
                id: "platform".to_owned(),
                name: "Freehold".to_owned(),
                role: Role::Owner,
                person: None,
                support: None,
            },
            request_id: String::new(),
            clock,
            tenant,
            directory,
            broker,
            once: None,
            scopes: None,
            known_scopes: Arc::default(),
            month: None,
            needs_no_room: true,
        }
    }

    /// The limits of the plan that are counted over time, as they stand.
    pub fn levels(&self) -> impl Iterator<Item = Level> {
        self.month.into_iter().chain([self.stored()])
    }

    /// What is stored, as it was last sampled.
    fn stored(&self) -> Level {
        Level::at(Quota::StoredBytes, self.tenant.stored_bytes, self.limits.stored_bytes, self.clock.now())
    }

    /// Refuses what would add to a tenant whose room is used up.
    fn room(&self) -> Result<()> {
        if self.needs_no_room || self.stored().stage() != Stage::Hard {
            return Ok(());
        }
        metrics::counter!("quota_refused_total", "quota" => Quota::StoredBytes.as_str()).increment(1);
        Err(self.stored().refusal(self.clock.now()))
    }

    /// How access stands with money.
    pub fn access(&self) -> Access {
        self.tenant.access
    }

    /// The tenant's name for people.
    pub fn workspace_name(&self) -> &str {
        &self.tenant.name
    }

    /// Whether the caller may make a key with these scopes.
    ///
    /// # Errors
    /// As [`Scopes::grant`].
    pub fn may_grant(&self, wanted: Option<&[String]>) -> Result<()> {
        self.known_scopes.grant(&self.scopes, wanted)
    }

    /// Every scope that a key may be confined to.
    pub fn scopes_there_are(&self) -> Vec<String> {
        self.known_scopes.all().into_iter().map(str::to_owned).collect()
    }

    /// The client's `Idempotency-Key` with what it was sent with, for work that is not done in the tenant's own schema.
    pub fn once(&self) -> Option<&Once> {
        self.once.as_ref()
    }

    /// Runs a reading closure on the tenant's own connection. It may run twice when a connection turns out to be dead,
    /// so it only reads.
    ///
    /// `AsyncFnOnce + Clone` says "may run twice": a plain `async` closure over references is both.
    ///
    /// # Errors
    /// What the closure says; `shard_unavailable`, `shard_busy`, `tenant_busy` or `timeout` from the connection;
    /// `tenant_suspended` or `tenant_not_found` when the tenant's state has just changed.
    pub async fn read<T>(&self, work: impl AsyncFnOnce(&mut PgConnection) -> Result<T> + Clone) -> Result<T> {
        match self.broker.read(login_of(&self.tenant)?, work).await {
            Ok(done) => Ok(done),
            Err(Failure::Failed(error)) => Err(error),
            Err(Failure::Refused { work, error }) => {
                let tenant = self.look_again(error).await?;
                let again = self.broker.read(login_of(&tenant)?, work).await;
                again.map_err(|failure| self.still_refused(failure))
            }
        }
    }

    /// Runs a closure in a transaction on the tenant's own connection: committed when it returns `Ok`, rolled back
    /// when it returns `Err` or is dropped.
    ///
    /// # Errors
    /// As for [`TenantContext::read`]; `payment_required` when all that the plan lets the tenant store is stored;
    /// `internal` when a statement failed and the closure hid it: nothing is kept then. A savepoint (`conn.begin()`) that
    /// is rolled back lets it go on.
    pub async fn write<T>(&self, work: impl AsyncFnOnce(&mut PgConnection) -> Result<T>) -> Result<T> {
        self.room()?;
        match self.broker.write(login_of(&self.tenant)?, work).await {
            Ok(done) => Ok(done),
            Err(Failure::Failed(error)) => Err(error),
            Err(Failure::Refused { work, error }) => {
                let tenant = self.look_again(error).await?;
                let again = self.broker.write(login_of(&tenant)?, work).await;
                again.map_err(|failure| self.still_refused(failure))
            }
        }
    }

    /// The shard refused the tenant's login: it was suspended, moved, or its password rotated, and the directory has
    /// not heard yet. Looks it up now, and answers for its new state.
    async fn look_again(&self, refused: Error) -> Result<Arc<Tenant>> {
        tracing::debug!(error = ?refused, "a login was refused; looking the tenant up again");
        metrics::counter!("directory_reloads_total").increment(1);
        let tenant = match self.directory.reload(self.tenant_id).await {
            Ok(tenant) => tenant.ok_or_else(decide::not_found)?,
            Err(error) => return Err(unavailable().source(error)),
        };
        decide::served(&tenant)?;
        Ok(tenant)
    }

    /// Refused also where and as the control database says that the tenant is now. If it is for the password, the login's
    /// holder has given it another: a worker is asked to set it right. Where the admin may not see what passwords are
    /// checked against, no periodic look would find it.
    fn still_refused<F>(&self, failure: Failure<F>) -> Error {
        match failure {
            Failure::Refused { error, .. } => {
                if faults::is_wrong_password(&error) {
                    self.directory.login_is_wrong(self.tenant_id);
                }
                unavailable().source(error)
            }
            Failure::Failed(error) => error,
        }
    }
}

fn login_of(tenant: &Tenant) -> Result<&Login> {
    tenant.login.as_ref().ok_or_else(|| unavailable().source("an active tenant without a placement"))
}

fn unavailable() -> Error {
    Error::new(&codes::SHARD_UNAVAILABLE).retry_after(Duration::from_secs(1))
}

/// A rank at the type level: a handler that takes `As<Member>` cannot be reached by a viewer.
pub trait MinRole: Send + Sync + 'static {
    const ROLE: Role;
    /// Whether it has to be a person, and no key.
    const PERSON: bool = false;
}

/// At least `R`, and a person: for what belongs to a person, or must not be done by a key. `As<OfPerson<Admin>>`.
pub struct OfPerson<R>(PhantomData<fn() -> R>);

impl<R: MinRole> MinRole for OfPerson<R> {
    const ROLE: Role = R::ROLE;
    const PERSON: bool = true;
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
min_roles!(Viewer, Member, Manager, Admin, Owner);

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
        // Taken out and not copied: a request has one handler, and a handler one context.
        let context = parts
            .extensions
            .remove::<TenantContext>()
            .ok_or_else(|| Error::internal("a tenant route outside the tenancy middleware"))?;
        if context.actor.role < R::ROLE {
            return Err(
                Error::new(&codes::FORBIDDEN).detail(format!("this needs the role {} or higher", R::ROLE))
            );
        }
        if R::PERSON && context.actor.person.is_none() {
            return Err(not_a_person());
        }
        Ok(Self(context, PhantomData))
    }
}

impl<R> As<OfPerson<R>> {
    /// The person, and the session they speak from.
    ///
    /// # Errors
    /// None that the extractor has not answered before.
    pub fn person(&self) -> Result<SignedIn> {
        self.0.actor.person.ok_or_else(not_a_person)
    }
}

fn not_a_person() -> Error {
    Error::new(&codes::FORBIDDEN).detail("only a person can do this, not a key")
}
