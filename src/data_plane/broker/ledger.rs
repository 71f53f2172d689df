//! Who may use which connection: the shard's budget, the tenants' ceilings and the order of those who wait.
//!
//! Pure bookkeeping: no I/O, no clock, no locks. One structure holds the tenants' gates and the shard's budget
//! together, because two would have to agree about every waiter that gives up half-way.
//!
//! The rules:
//! - A tenant runs at most `ceiling` requests at a time; the shard has at most `budget` connections.
//! - FIFO within a tenant; round-robin between the tenants that wait for a connection.
//! - A tenant without a connection may take anyone's idle one. A tenant that has some takes an idle one only from a
//!   tenant with clearly more, or from one that has gone quiet: a noisy tenant cannot take its neighbours' connections.
//!   And only when it has waited for its own as long as a login takes, which it mostly gets back sooner.
//! - Of the connections that may be taken, the one goes whose last use is the least often and lately needed. What a
//!   tenant was worth is remembered when its last connection goes.
//! - When a connection comes back while a poorer tenant waits, its tenant may keep it for its own waiters for one
//!   quantum, since a login costs milliseconds. A tenant with more connections than the poorer one yields at once.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::worth::{Demand, History};

/// Tenants without a connection whose past use is remembered: about half a megabyte per shard.
const HISTORY: usize = 4096;

/// However long logins take, nobody waits longer than this for its own connections while others' are idle.
const GROW_LIMIT: Duration = Duration::from_millis(100);

/// How a granted seat gets its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source<P> {
    /// An idle one of the tenant's own.
    Warm,
    /// By logging in, on a free permit.
    Cold,
    /// By logging in, after closing an idle connection of this other tenant.
    Evict(P),
}

/// A seat handed to one who waited.
#[derive(Debug)]
pub struct Grant<P, W> {
    pub waiter: W,
    pub pool: P,
    pub source: Source<P>,
    /// When the tenant got this connection in its present turn.
    pub turn: Instant,
}

/// The answer to a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer<P> {
    Granted {
        pool: P,
        source: Source<P>,
    },
    /// Wait; the number is for [`Ledger::cancel`].
    Queued {
        id: u64,
        at_ceiling: bool,
    },
    /// Too many of this tenant's requests wait already.
    Full,
}

/// The numbers of one shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub budget: usize,
    /// Permits nobody holds.
    pub free: usize,
    /// Open connections that nobody uses.
    pub idle: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Tenants with a connection or a waiter.
    pub tenants: usize,
}

struct Waiting<W> {
    id: u64,
    since: Instant,
    waiter: W,
}

struct Entry<P, W> {
    pool: P,
    ceiling: usize,
    /// Permits held: idle, in use, or being opened.
    conns: usize,
    idle: usize,
    waiters: VecDeque<Waiting<W>>,
    in_round: bool,
    demand: Demand,
    used: Instant,
}

impl<P, W> Entry<P, W> {
    fn running(&self) -> usize {
        self.conns - self.idle
    }

    /// Waits for a connection and not merely for its own ceiling.
    fn wants(&self) -> bool {
        !self.waiters.is_empty() && self.running() < self.ceiling
    }
}

/// See the module's words. `P` is a tenant's pool, `W` whatever wakes a waiter.
pub struct Ledger<P, W> {
    budget: usize,
    free: usize,
    idle: usize,
    waiting: usize,
    next_id: u64,
    rules: Rules,
    tenants: HashMap<Arc<str>, Entry<P, W>>,
    /// The tenants that want a connection, next first. Exactly those whose `in_round` is set.
    round: VecDeque<Arc<str>>,
    history: History,
    /// What a login takes these days.
    login: Duration,
}

/// The figures the rules need.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub quantum: Duration,
    /// A tenant whose connection was used less than this ago has not gone quiet.
    pub quiet_after: Duration,
    /// How long at least a tenant with connections waits for one of them before another tenant's is closed for it. While
    /// logins take longer than this, it waits as long as they take.
    pub grow_after: Duration,
    /// Most waiters per tenant.
    pub queue_limit: usize,
}

impl<P: Clone, W> Ledger<P, W> {
    pub fn new(budget: usize, rules: Rules) -> Self {
        Self {
            budget,
            free: budget,
            idle: 0,
            waiting: 0,
            next_id: 0,
            rules,
            tenants: HashMap::new(),
            round: VecDeque::new(),
            history: History::new(HISTORY),
            login: Duration::ZERO,
        }
    }

    /// The tenant's pool, if it has an entry.
    pub fn pool(&self, role: &str) -> Option<&P> {
        self.tenants.get(role).map(|entry| &entry.pool)
    }

    /// Asks for a seat. `waiter` is only called when the answer is to wait.
    pub fn request(
        &mut self,
        role: &Arc<str>,
        ceiling: usize,
        now: Instant,
        pool: impl FnOnce() -> P,
        waiter: impl FnOnce() -> W,
    ) -> Answer<P> {
        let history = &mut self.history;
        let entry = self.tenants.entry(role.clone()).or_insert_with(|| Entry {
            pool: pool(),
            ceiling: 1,
            conns: 0,
            idle: 0,
            waiters: VecDeque::new(),
            in_round: false,
            demand: history.recall(role).map_or_else(|| Demand::new(now), Demand::from),
            used: now,
        });
        entry.ceiling = ceiling.clamp(1, self.budget);
        if entry.waiters.is_empty()
            && entry.running() < entry.ceiling
            && let Some(source) = self.source_for(role, now, now)
        {
            let source = self.take(role, source, now);
            return Answer::Granted { pool: self.entry(role).pool.clone(), source };
        }
        let (limit, id) = (self.rules.queue_limit, self.next_id);
        let entry = self.entry(role);
        if entry.waiters.len() >= limit {
            return Answer::Full;
        }
        let at_ceiling = entry.running() >= entry.ceiling;
        entry.waiters.push_back(Waiting { id, since: now, waiter: waiter() });
        self.next_id += 1;
        self.waiting += 1;
        self.settle(role);
        Answer::Queued { id, at_ceiling }
    }

    /// One who waited gave up. Whether it was still in the queue.
    pub fn cancel(&mut self, role: &str, id: u64, now: Instant) -> bool {
        let Some(entry) = self.tenants.get_mut(role) else { return false };
        let Some(at) = entry.waiters.iter().position(|other| other.id == id) else { return false };
        entry.waiters.remove(at);
        self.waiting -= 1;
        self.settle(role);
        self.forget_unused(role, now);
        true
    }

    /// A seat comes back: with its connection idle in the tenant's pool (`warm`), or without one. `turn` is what the
    /// grant said, or when the connection was opened. Returns the seats this frees for others.
    pub fn release(&mut self, role: &str, warm: bool, turn: Instant, now: Instant) -> Vec<Grant<P, W>> {
        let Some(entry) = self.tenants.get_mut(role) else { return Vec::new() };
        entry.used = now;
        if warm {
            entry.idle += 1;
            self.idle += 1;
        } else {
            entry.conns -= 1;
            self.free += 1;
        }
        self.settle(role);
        let mut grants = Vec::new();
        if warm && self.tenants[role].in_round {
            match self.turn_left(role, turn, now) {
                Some(turn) => grants.push(self.grant(role, Source::Warm, turn, now)),
                None => self.put_last(role),
            }
        }
        self.dispatch_into(now, &mut grants);
        self.forget_unused(role, now);
        grants
    }

    /// Learns what a login took.
    pub fn login_took(&mut self, took: Duration) {
        self.login = (self.login * 7 + took) / 8;
    }

    /// How long a tenant with connections waits before another tenant's is closed for it. To wait for what is in use as
    /// long as a new one would take costs at most twice the better choice, which nobody knows beforehand; and a login
    /// costs processor time that a wait does not.
    pub fn grow_after(&self) -> Duration {
        self.login.clamp(self.rules.grow_after, GROW_LIMIT.max(self.rules.grow_after))
    }

    /// Hands out what can be handed out. Needed from outside only for what time alone changes (a tenant going quiet).
    pub fn dispatch(&mut self, now: Instant) -> Vec<Grant<P, W>> {
        let mut grants = Vec::new();
        self.dispatch_into(now, &mut grants);
        grants
    }

    /// Takes a tenant's idle connections out of the books so that they can be looked at; [`Ledger::restore_idle`] must
    /// follow under the same lock.
    pub fn borrow_idle(&mut self, role: &str) -> usize {
        let Some(entry) = self.tenants.get_mut(role) else { return 0 };
        let idle = std::mem::take(&mut entry.idle);
        self.idle -= idle;
        idle
    }

    /// Ends [`Ledger::borrow_idle`]: `kept` are idle again, `closed` are gone.
    pub fn restore_idle(&mut self, role: &str, kept: usize, closed: usize, now: Instant) -> Vec<Grant<P, W>> {
        let Some(entry) = self.tenants.get_mut(role) else { return Vec::new() };
        entry.idle += kept;
        entry.conns -= closed;
        self.idle += kept;
        self.free += closed;
        self.settle(role);
        let grants = self.dispatch(now);
        self.forget_unused(role, now);
        grants
    }

    /// Whether the tenant holds at least as much as an equal share, so that more is its own affair.
    pub fn has_its_share(&self, role: &str) -> bool {
        let share = (self.budget / self.tenants.len().max(1)).max(1);
        self.tenants.get(role).is_some_and(|entry| entry.conns >= share.min(entry.ceiling))
    }

    pub fn counts(&self) -> Counts {
        Counts {
            budget: self.budget,
            free: self.free,
            idle: self.idle,
            waiting: self.waiting,
            tenants: self.tenants.len(),
        }
    }

    /// Tenants with idle connections.
    pub fn with_idle(&self) -> Vec<Arc<str>> {
        self.tenants.iter().filter(|(_, e)| e.idle > 0).map(|(role, _)| role.clone()).collect()
    }

    fn entry(&mut self, role: &str) -> &mut Entry<P, W> {
        self.tenants.get_mut(role).expect("callers have looked the entry up under the same lock")
    }

    fn dispatch_into(&mut self, now: Instant, grants: &mut Vec<Grant<P, W>>) {
        while self.free + self.idle > 0 {
            let found = self.round.iter().find_map(|role| {
                let since = self.tenants[role].waiters.front()?.since;
                Some((role.clone(), self.source_for(role, since, now)?))
            });
            let Some((role, source)) = found else { return };
            grants.push(self.grant(&role, source, now, now));
            self.put_last(&role);
        }
    }

    /// Gives the tenant's first waiter a seat.
    fn grant(&mut self, role: &str, source: Source<Arc<str>>, turn: Instant, now: Instant) -> Grant<P, W> {
        let source = self.take(role, source, now);
        let entry = self.entry(role);
        let Waiting { waiter, .. } = entry.waiters.pop_front().expect("a tenant in the round has a waiter");
        let pool = entry.pool.clone();
        self.waiting -= 1;
        self.settle(role);
        Grant { waiter, pool, source, turn }
    }

    /// Where the tenant's next connection would come from, if one who waits since `since` may have one now.
    fn source_for(&self, role: &str, since: Instant, now: Instant) -> Option<Source<Arc<str>>> {
        let entry = &self.tenants[role];
        if entry.idle > 0 {
            Some(Source::Warm)
        } else if self.free > 0 {
            Some(Source::Cold)
        } else if self.idle > 0
            && (entry.conns == 0 || now.saturating_duration_since(since) >= self.grow_after())
        {
            self.victim(role, entry.conns, now).map(Source::Evict)
        } else {
            None
        }
    }

    /// Whose idle connection goes: the least valuable of those that `role` may take.
    fn victim(&self, role: &str, conns: usize, now: Instant) -> Option<Arc<str>> {
        let quiet = |used| now.saturating_duration_since(used) >= self.rules.quiet_after;
        self.tenants
            .iter()
            .filter(|(other, entry)| entry.idle > 0 && ***other != *role)
            .filter(|(_, entry)| may_take(conns, entry.conns) || quiet(entry.used))
            .map(|(other, entry)| (other, entry.demand.of_last(entry.conns, now)))
            .min_by(|(_, left), (_, right)| left.total_cmp(right))
            .map(|(other, _)| other.clone())
    }

    fn take(&mut self, role: &str, source: Source<Arc<str>>, now: Instant) -> Source<P> {
        let taken = match source {
            Source::Warm => {
                self.idle -= 1;
                self.entry(role).idle -= 1;
                Source::Warm
            }
            Source::Cold => {
                self.free -= 1;
                self.entry(role).conns += 1;
                Source::Cold
            }
            Source::Evict(other) => {
                self.idle -= 1;
                let victim = self.entry(&other);
                victim.idle -= 1;
                victim.conns -= 1;
                let pool = victim.pool.clone();
                self.settle(&other);
                self.forget_unused(&other, now);
                self.entry(role).conns += 1;
                Source::Evict(pool)
            }
        };
        let entry = self.entry(role);
        entry.used = now;
        entry.demand.touch(entry.running(), now);
        taken
    }

    /// `Some(start of the turn)` when the tenant may keep the connection for its own next waiter.
    fn turn_left(&self, role: &str, turn: Instant, now: Instant) -> Option<Instant> {
        let mine = self.tenants[role].conns;
        let poorer = self
            .round
            .iter()
            .filter(|other| ***other != *role)
            .map(|other| self.tenants[other].conns)
            .find(|theirs| may_take(*theirs, mine));
        match poorer {
            None => Some(now),
            Some(theirs) if mine > theirs + 1 => None,
            Some(_) => (now.saturating_duration_since(turn) < self.rules.quantum).then_some(turn),
        }
    }

    /// Makes `round` agree with what the tenant wants now.
    fn settle(&mut self, role: &str) {
        let Some((key, entry)) = self.tenants.get_key_value(role) else { return };
        let (wants, listed, key) = (entry.wants(), entry.in_round, key.clone());
        if wants == listed {
            return;
        }
        if wants {
            self.round.push_back(key);
        } else {
            self.round.retain(|other| **other != *role);
        }
        self.entry(role).in_round = wants;
    }

    fn put_last(&mut self, role: &str) {
        if let Some(at) = self.round.iter().position(|other| **other == *role)
            && let Some(key) = self.round.remove(at)
        {
            self.round.push_back(key);
        }
    }

    /// Nothing but its worth is kept of a tenant that neither holds nor waits.
    fn forget_unused(&mut self, role: &str, now: Instant) {
        if self.tenants.get(role).is_some_and(|entry| entry.conns == 0 && entry.waiters.is_empty())
            && let Some((role, entry)) = self.tenants.remove_entry(role)
        {
            self.history.keep(role, entry.demand.all(), now);
        }
    }
}

/// Whether a tenant with `mine` connections may take one from a tenant with `theirs`: only when that makes the two more
/// equal, or when it has none at all.
fn may_take(mine: usize, theirs: usize) -> bool {
    mine == 0 || mine + 1 < theirs
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
