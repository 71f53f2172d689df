//! What this process knows of each tenant: a value per tenant, of bounded number.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::kernel::ids::TenantId;

/// Locks, so that tenants seldom wait for each other. Each is held for some dozens of nanoseconds.
const PARTS: usize = 16;
/// Tenants in a part; of others Redis is asked. About 16 MB of buckets when all parts are full.
const TENANTS: usize = 100_000 / PARTS;

/// A value for each tenant that was asked about lately.
pub struct Known<T> {
    parts: [Mutex<Part<T>>; PARTS],
    /// Whether losing this one would lose more than knowledge that Redis has too.
    matters: fn(&T) -> bool,
}

struct Part<T> {
    values: HashMap<TenantId, T>,
    /// With so many, what does not matter goes. Twice of what was left the last time, if that was much: a part that is
    /// full of what matters is not looked through for every newcomer.
    full: usize,
}

impl<T: Default> Known<T> {
    /// What `matters` stays, also beyond the number that is kept: what is owed, or not yet written down. There is an end
    /// to that too: it is paid and written down within seconds.
    pub fn new(matters: fn(&T) -> bool) -> Self {
        let parts = std::array::from_fn(|_| Mutex::new(Part { values: HashMap::new(), full: TENANTS }));
        Self { parts, matters }
    }

    /// Does something with a tenant's value; a new one if it is not known.
    pub fn with<R>(&self, tenant: TenantId, work: impl FnOnce(&mut T) -> R) -> R {
        // The end of an id is random.
        let mut part = self.parts[tenant.0.as_bytes()[15] as usize % PARTS].lock();
        let Part { values, full } = &mut *part;
        if values.len() >= *full && !values.contains_key(&tenant) {
            values.retain(|_, value| (self.matters)(value));
            *full = TENANTS.max(2 * values.len());
        }
        work(values.entry(tenant).or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn kept(known: &Known<u8>) -> usize {
        known.parts.iter().map(|part| part.lock().values.len()).sum()
    }

    #[test]
    fn there_is_an_end_to_it_and_what_matters_stays() {
        let known = Known::<u8>::new(|value| *value > 0);
        let debtor = TenantId::new();
        known.with(debtor, |value| *value = 7);
        for _ in 0..3 * PARTS * TENANTS {
            known.with(TenantId::new(), |_| ());
        }
        assert!(kept(&known) <= PARTS * TENANTS, "{}", kept(&known));
        assert_eq!(known.with(debtor, |value| *value), 7);
    }

    /// Should fail: `full` that stays as it is. Then each newcomer to a part that is full of what matters has all of it
    /// looked through, under the lock.
    #[test]
    fn a_part_full_of_what_matters_is_not_looked_through_for_every_newcomer() {
        thread_local! {
            static LOOKS: Cell<usize> = const { Cell::new(0) };
        }
        let known = Known::<u8>::new(|value| {
            LOOKS.set(LOOKS.get() + 1);
            *value > 0
        });
        let all = 2 * PARTS * TENANTS;
        for _ in 0..all {
            known.with(TenantId::new(), |value| *value = 1);
        }
        assert_eq!(kept(&known), all, "none is lost");
        assert!(LOOKS.get() <= 2 * all, "{} looks for {all} newcomers", LOOKS.get());
        // What no longer matters goes again.
        known.parts.iter().for_each(|part| part.lock().values.values_mut().for_each(|value| *value = 0));
        for _ in 0..3 * all {
            known.with(TenantId::new(), |_| ());
        }
        assert!(kept(&known) <= PARTS * TENANTS, "{}", kept(&known));
    }
}
