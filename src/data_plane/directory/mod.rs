//! The directory: which tenant is meant, where it lives, what it may use, whose key this is. An in-process cache over
//! the control database, kept true by notifications, with a bounded age as the net below.
//!
//! - A warm answer asks nobody. A cold one is one statement, however many requests wait for it.
//! - A change drops or doubts what it names before the next request looks (see [`Directory::apply`]).
//! - While the control database is away, known tenants and keys keep being served from memory; unknown ones get 503,
//!   never 404 or 401: nobody is told that a thing is gone because we cannot look.

mod amends;
mod cache;
mod entry;
mod flight;
mod freshness;
#[cfg(feature = "testkit")]
mod learn;
mod listener;
mod load;
mod notes;
mod person;
mod support;

use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use moka::sync::Cache;
use sqlx::PgPool;
use tokio::sync::Semaphore;

pub use entry::{Key, Tenant};
pub use person::{LiveSession, Person};
pub use support::Support;

use crate::control_plane::changes::Change;
use crate::kernel::credentials::KeyHash;
use crate::kernel::ids::{AccountId, TenantId};
use crate::kernel::{Clock, Error, Result, Slug, codes};
use cache::{Held, Signals};
use flight::Flights;
use freshness::Verdict;
use load::LoadError;

/// The longest a request waits for the control database; and before that, as long again for its turn.
const LOAD_LIMIT: Duration = Duration::from_secs(1);
/// Lookups at once: a flood of unknown keys must not take every connection of the control database. Half of them.
const LOADS_AT_ONCE: usize = 8;
/// How long "there is no such thing" is believed.
const UNKNOWN_FOR: Duration = Duration::from_secs(5);

/// How many entries are kept. The defaults hold 50,000 tenants and 100,000 keys in about 100 MB.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    pub tenants: u64,
    pub keys: u64,
    pub people: u64,
    pub unknown: u64,
}

impl Default for Capacity {
    fn default() -> Self {
        Self { tenants: 50_000, keys: 100_000, people: 100_000, unknown: 10_000 }
    }
}

/// One question to the directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Lookup {
    Tenant(TenantId),
    Slug(Slug),
    Domain(Box<str>),
    Key(KeyHash),
    Account(AccountId),
    /// By the hash of a session's token.
    Session(KeyHash),
    /// An operator's look into a tenant, by the hash of its token.
    Support(KeyHash),
}

#[derive(Clone)]
enum Found {
    Tenant(Arc<Tenant>),
    Key(Arc<Key>),
    Person(Arc<Person>),
    Support(Arc<Support>),
    Nothing,
}

/// The directory. Cheap to clone.
#[derive(Clone)]
pub struct Directory(Arc<Inner>);

struct Inner {
    db: PgPool,
    clock: Clock,
    tenants: Cache<TenantId, Arc<Held<Tenant>>>,
    keys: Cache<KeyHash, Arc<Held<Key>>>,
    people: Cache<AccountId, Arc<Held<Person>>>,
    supports: Cache<KeyHash, Arc<Held<Support>>>,
    /// Hints, as `names`: whose session a token is.
    holders: Cache<KeyHash, AccountId>,
    /// Hints only: a name leads to a tenant that is then asked whether it still has that name.
    names: Cache<Lookup, TenantId>,
    /// What was not there, with the count of changes at that time.
    unknown: Cache<Lookup, u64>,
    signals: Signals,
    flights: Flights<Lookup, Result<Found, Arc<LoadError>>>,
    loads: Semaphore,
    shared: load::Shared,
    notes: notes::Notes,
    amends: amends::Amends,
}

impl Directory {
    pub fn new(db: PgPool, clock: Clock, capacity: Capacity) -> Self {
        Self(Arc::new(Inner {
            db,
            clock,
            tenants: Cache::new(capacity.tenants),
            keys: Cache::new(capacity.keys),
            people: Cache::new(capacity.people),
            // Operators are few.
            supports: Cache::new(1_000),
            holders: Cache::new(capacity.people.saturating_mul(2)),
            names: Cache::new(capacity.tenants.saturating_mul(2)),
            unknown: Cache::builder().max_capacity(capacity.unknown).time_to_live(UNKNOWN_FOR).build(),
            signals: Signals::default(),
            flights: Flights::default(),
            loads: Semaphore::new(LOADS_AT_ONCE),
            shared: load::Shared::default(),
            notes: notes::Notes::default(),
            amends: amends::Amends::default(),
        }))
    }

    /// The tenant of this id, unless it is purged or never was.
    ///
    /// # Errors
    /// `control_unavailable` when it is not known and cannot be looked up. The same for all lookups here.
    pub async fn tenant(&self, id: TenantId) -> Result<Option<Arc<Tenant>>> {
        self.find_tenant(Lookup::Tenant(id), Some(id), |_| true).await
    }

    /// The tenant of this slug.
    pub async fn tenant_by_slug(&self, slug: &Slug) -> Result<Option<Arc<Tenant>>> {
        let lookup = Lookup::Slug(slug.clone());
        let hint = self.0.names.get(&lookup);
        self.find_tenant(lookup, hint, |tenant| tenant.slug == *slug).await
    }

    /// The tenant of this custom domain, given in lower case.
    pub async fn tenant_by_domain(&self, domain: &str) -> Result<Option<Arc<Tenant>>> {
        let lookup = Lookup::Domain(domain.into());
        let hint = self.0.names.get(&lookup);
        self.find_tenant(lookup, hint, |tenant| tenant.has_domain(domain)).await
    }

    /// The key of this hash, unless it is revoked or never was. Its expiry is the caller's to check.
    pub async fn key(&self, hash: KeyHash) -> Result<Option<Arc<Key>>> {
        let lookup = Lookup::Key(hash);
        if let Some(held) = self.0.keys.get(&hash) {
            if held.age() > freshness::KEY_UNCONFIRMED {
                self.0.keys.invalidate(&hash);
            } else if let Some(found) = self.settle(&lookup, &held).await {
                return Ok(found.key());
            } else {
                return Ok(Some(held.value.clone()));
            }
        }
        Ok(self.look_up(&lookup).await?.key())
    }

    /// The support session of this token's hash, unless it was ended or never was. Whether its time is over is the
    /// caller's to check.
    pub async fn support(&self, token: KeyHash) -> Result<Option<Arc<Support>>> {
        let lookup = Lookup::Support(token);
        if let Some(held) = self.0.supports.get(&token) {
            if held.age() > freshness::KEY_UNCONFIRMED {
                self.0.supports.invalidate(&token);
            } else if let Some(found) = self.settle(&lookup, &held).await {
                return Ok(found.support());
            } else {
                return Ok(Some(held.value.clone()));
            }
        }
        Ok(self.look_up(&lookup).await?.support())
    }

    /// The control database, for what has to be written down before it is done.
    pub(super) fn control(&self) -> &PgPool {
        &self.0.db
    }

    /// The person of this account, unless it is erased or never was.
    pub async fn person(&self, id: AccountId) -> Result<Option<Arc<Person>>> {
        self.find_person(Lookup::Account(id), Some(id), |_| true).await
    }

    /// The person whose live session has a token of this hash.
    pub async fn person_of_session(&self, token: KeyHash) -> Result<Option<Arc<Person>>> {
        let now = self.0.clock.now();
        let hint = self.0.holders.get(&token);
        let is_it = |person: &Person| person.session_of(&token, now).is_some();
        let found = self.find_person(Lookup::Session(token), hint, is_it).await?;
        Ok(found.filter(|person| is_it(person)))
    }

    /// Notes that a session was used, as [`Directory::note_use`] does for keys.
    pub fn note_seen(&self, session: &LiveSession) {
        let now = self.0.clock.now();
        if session.worth_noting(now) {
            self.0.notes.seen(session.id, now);
        }
    }

    /// Notes that a key was used; written to the control database in the background, at most once a minute per key.
    pub fn note_use(&self, key: &Key) {
        let now = self.0.clock.now();
        if key.worth_noting(now) {
            self.0.notes.add(key.id, now);
        }
    }

    /// Forgets or doubts what a change names. Doubted entries are looked up again before their next use, but still
    /// serve if that fails; a key is forgotten, because a revoked key must not be served again.
    pub fn apply(&self, change: Change) {
        let inner = &self.0;
        match change {
            Change::Tenant(id) => {
                // The count first: a lookup that began before this and ends after it sees that it is out of date.
                inner.signals.count(&Lookup::Tenant(id));
                if let Some(held) = inner.tenants.get(&id) {
                    held.doubt();
                }
            }
            Change::Key(hash) => {
                inner.signals.count(&Lookup::Key(hash));
                inner.keys.invalidate(&hash);
                inner.supports.invalidate(&hash);
                inner.unknown.invalidate(&Lookup::Key(hash));
                inner.unknown.invalidate(&Lookup::Support(hash));
            }
            Change::Account(id) => {
                // Forgotten, not doubted: a revoked session must not be served again.
                inner.signals.count(&Lookup::Account(id));
                inner.people.invalidate(&id);
            }
            Change::All => self.doubt_everything(),
        }
    }

    /// The tenant as it is now: for a caller whose login was just refused, and who therefore knows more than the cache.
    pub async fn reload(&self, id: TenantId) -> Result<Option<Arc<Tenant>>> {
        if let Some(held) = self.0.tenants.get(&id) {
            held.doubt();
        }
        self.tenant(id).await
    }

    /// What readiness wants to know.
    pub fn health(&self) -> DirectoryHealth {
        let weather = self.0.signals.weather();
        // The cache counts in batches; a health page can wait for the last one.
        self.0.tenants.run_pending_tasks();
        DirectoryHealth {
            listening: weather.listening,
            reachable: weather.reachable,
            tenants: self.0.tenants.entry_count(),
            lookups: self.0.signals.lookups(),
        }
    }

    fn doubt_everything(&self) {
        self.0.signals.flush();
        self.0.unknown.invalidate_all();
    }

    async fn find_tenant(
        &self,
        lookup: Lookup,
        hint: Option<TenantId>,
        is_it: impl Fn(&Tenant) -> bool,
    ) -> Result<Option<Arc<Tenant>>> {
        if let Some(held) = hint.and_then(|id| self.0.tenants.get(&id))
            && is_it(&held.value)
        {
            let tenant = match self.settle(&Lookup::Tenant(held.value.id), &held).await {
                Some(found) => found.tenant(),
                None => Some(held.value.clone()),
            };
            // Renamed or gone meanwhile: the name may be another tenant's by now.
            if let Some(tenant) = tenant
                && is_it(&tenant)
            {
                return Ok(Some(tenant));
            }
            if matches!(lookup, Lookup::Tenant(_)) {
                return Ok(None);
            }
        }
        Ok(self.look_up(&lookup).await?.tenant())
    }

    async fn find_person(
        &self,
        lookup: Lookup,
        hint: Option<AccountId>,
        is_it: impl Fn(&Person) -> bool,
    ) -> Result<Option<Arc<Person>>> {
        if let Some(held) = hint.and_then(|id| self.0.people.get(&id))
            && is_it(&held.value)
        {
            if held.age() > freshness::KEY_UNCONFIRMED {
                self.0.people.invalidate(&held.value.id);
            } else {
                return Ok(match self.settle(&Lookup::Account(held.value.id), &held).await {
                    Some(found) => found.person(),
                    None => Some(held.value.clone()),
                });
            }
        }
        Ok(self.look_up(&lookup).await?.person())
    }

    /// Decides about a cached entry: `None` to serve it as it is, or what a fresh lookup found.
    async fn settle<T>(&self, lookup: &Lookup, held: &Held<T>) -> Option<Found> {
        let signals = &self.0.signals;
        match freshness::judge(held.age(), held.doubted(signals), signals.weather()) {
            Verdict::Serve => None,
            Verdict::ServeAndRefresh => {
                if signals.may_try() {
                    drop(self.start(lookup));
                }
                None
            }
            Verdict::Refresh => self.start(lookup).await.ok(),
        }
    }

    /// Looks up what is not cached. "There is no such thing" is remembered for a moment.
    async fn look_up(&self, lookup: &Lookup) -> Result<Found> {
        if self.0.unknown.get(lookup).is_some_and(|at| at == self.0.signals.changes(lookup)) {
            return Ok(Found::Nothing);
        }
        self.start(lookup).await.map_err(|error| {
            Error::new(&codes::CONTROL_UNAVAILABLE).retry_after(Duration::from_secs(1)).source(error)
        })
    }

    /// Joins the lookup of this key that is under way, or starts one. It runs to its end even if nobody waits.
    fn start(&self, lookup: &Lookup) -> impl Future<Output = Result<Found, Arc<LoadError>>> + use<> {
        let changes = self.0.signals.changes(lookup);
        let directory = self.clone();
        let flight = self.0.flights.join(lookup, changes, move |lookup| async move {
            directory.load(&lookup, changes).await.map_err(Arc::new)
        });
        flight.map(|found| found.unwrap_or_else(|| Err(Arc::new(LoadError::Panicked))))
    }

    async fn load(&self, lookup: &Lookup, changes: u64) -> Result<Found, LoadError> {
        let inner = &self.0;
        // A crowd that waits for itself says nothing about the control database: only what was asked and not answered is
        // a miss. The semaphore is never closed; were it, going on without a permit is right.
        let _permit = match tokio::time::timeout(LOAD_LIMIT, inner.loads.acquire()).await {
            Ok(permit) => permit,
            Err(_) => return Err(LoadError::Crowd),
        };
        let flushes = inner.signals.flushes();
        let query = async {
            Ok(match lookup {
                Lookup::Tenant(id) => found(load::tenant_by_id(&inner.db, &inner.shared, *id).await?),
                Lookup::Slug(slug) => found(load::tenant_by_slug(&inner.db, &inner.shared, slug).await?),
                Lookup::Domain(domain) => {
                    found(load::tenant_by_domain(&inner.db, &inner.shared, domain).await?)
                }
                Lookup::Key(hash) => match load::key_by_hash(&inner.db, hash).await? {
                    Some(key) => Found::Key(key),
                    None => Found::Nothing,
                },
                Lookup::Account(id) => known(person::by_id(&inner.db, *id, inner.clock.now()).await?),
                Lookup::Support(token) => match support::by_token(&inner.db, token).await? {
                    Some(support) => Found::Support(support),
                    None => Found::Nothing,
                },
                Lookup::Session(token) => {
                    known(person::by_session(&inner.db, token, inner.clock.now()).await?)
                }
            })
        };
        inner.signals.looked();
        metrics::counter!("directory_lookups_total").increment(1);
        let outcome = match tokio::time::timeout(LOAD_LIMIT, query).await {
            Ok(outcome) => outcome,
            Err(_) => Err(LoadError::Database(sqlx::Error::PoolTimedOut)),
        };
        match &outcome {
            Ok(found) => {
                inner.signals.reached();
                self.keep(lookup, found, changes, flushes);
            }
            Err(error @ LoadError::Nonsense(..)) => {
                inner.signals.reached();
                tracing::error!(%error, "the control database holds a tenant that makes no sense");
            }
            Err(LoadError::Database(error)) => {
                if inner.signals.missed() {
                    tracing::warn!(%error, "the control database cannot be asked; serving what is known");
                }
            }
            // Not from a query.
            Err(LoadError::Crowd | LoadError::Panicked) => {}
        }
        outcome
    }

    /// Puts an answer into the cache. An answer that a change has overtaken is kept only as doubtful: the check comes
    /// after the insert, and [`Directory::apply`] counts before it looks, so one of the two sees the other.
    fn keep(&self, lookup: &Lookup, found: &Found, changes: u64, flushes: u64) {
        let inner = &self.0;
        match found {
            Found::Tenant(tenant) => {
                let held = Arc::new(Held::new(tenant.clone(), flushes));
                inner.tenants.insert(tenant.id, held.clone());
                if !matches!(lookup, Lookup::Tenant(_)) {
                    inner.names.insert(lookup.clone(), tenant.id);
                }
                if inner.signals.changes(lookup) != changes {
                    held.doubt();
                }
            }
            Found::Key(key) => {
                if let (Lookup::Key(hash), key) = (lookup, key) {
                    inner.keys.insert(*hash, Arc::new(Held::new(key.clone(), flushes)));
                    if inner.signals.changes(lookup) != changes {
                        inner.keys.invalidate(hash);
                    }
                }
            }
            Found::Support(support) => {
                if let Lookup::Support(token) = lookup {
                    inner.supports.insert(*token, Arc::new(Held::new(support.clone(), flushes)));
                    if inner.signals.changes(lookup) != changes {
                        inner.supports.invalidate(token);
                    }
                }
            }
            Found::Person(person) => {
                let held = Arc::new(Held::new(person.clone(), flushes));
                inner.people.insert(person.id, held);
                if let Lookup::Session(token) = lookup {
                    inner.holders.insert(*token, person.id);
                }
                if inner.signals.changes(lookup) != changes {
                    inner.people.invalidate(&person.id);
                }
            }
            Found::Nothing => {
                match lookup {
                    Lookup::Tenant(id) => inner.tenants.invalidate(id),
                    Lookup::Key(hash) => inner.keys.invalidate(hash),
                    Lookup::Account(id) => inner.people.invalidate(id),
                    Lookup::Session(token) => inner.holders.invalidate(token),
                    Lookup::Support(token) => inner.supports.invalidate(token),
                    name => inner.names.invalidate(name),
                }
                inner.unknown.insert(lookup.clone(), changes);
            }
        }
    }
}

/// What the directory says about itself.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct DirectoryHealth {
    /// Notifications of changes arrive.
    pub listening: bool,
    /// The last lookup succeeded.
    pub reachable: bool,
    /// Tenants in memory.
    pub tenants: u64,
    /// Questions asked since the start.
    pub lookups: u64,
}

fn known(person: Option<Arc<Person>>) -> Found {
    person.map_or(Found::Nothing, Found::Person)
}

fn found(tenant: Option<Arc<Tenant>>) -> Found {
    tenant.map_or(Found::Nothing, Found::Tenant)
}

impl Found {
    fn tenant(self) -> Option<Arc<Tenant>> {
        match self {
            Self::Tenant(tenant) => Some(tenant),
            _ => None,
        }
    }

    fn person(self) -> Option<Arc<Person>> {
        match self {
            Self::Person(person) => Some(person),
            _ => None,
        }
    }

    fn support(self) -> Option<Arc<Support>> {
        match self {
            Self::Support(support) => Some(support),
            _ => None,
        }
    }

    fn key(self) -> Option<Arc<Key>> {
        match self {
            Self::Key(key) => Some(key),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Should fail: the permit taken inside what `LOAD_LIMIT` bounds as an answer.
    #[tokio::test]
    async fn a_crowd_that_waits_for_its_turn_is_no_outage() {
        let db = PgPool::connect_lazy("postgres://nobody@127.0.0.1:1/none").unwrap();
        let capacity = Capacity { tenants: 10, keys: 10, people: 10, unknown: 10 };
        let directory = Directory::new(db, Clock::System, capacity);
        let others = directory.0.loads.acquire_many(LOADS_AT_ONCE as u32).await.unwrap();
        let refused = directory.key([7; 32]).await.map(drop).unwrap_err();
        assert!(refused.is(&codes::CONTROL_UNAVAILABLE), "{refused:?}");
        let health = directory.health();
        assert!(health.reachable, "nobody has asked the control database");
        assert_eq!(health.lookups, 0);
        drop(others);
    }
}
