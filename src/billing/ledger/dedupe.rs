//! What makes two facts one: tenant, source and key. What they say must then be the same. Pure.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::Fact;
use crate::kernel::secret::sha256;

/// What a fact says, as 16 bytes: meter and quantity. Not when: a repeat is said later than the first.
pub fn hash_of(meter: &str, quantity: i64) -> [u8; 16] {
    let mut text = [0; 40];
    let (name, number) = (meter.as_bytes(), quantity.to_be_bytes());
    let length = name.len().min(text.len() - 8);
    text[..8].copy_from_slice(&number);
    text[8..8 + length].copy_from_slice(&name[..length]);
    let mut hash = [0; 16];
    hash.copy_from_slice(&sha256(&text[..8 + length])[..16]);
    hash
}

/// What is to be done with one of several facts that arrive together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The first with its key: to be written.
    First,
    /// Says what an earlier one of them says, which is at this place.
    Echo(usize),
    /// Has the key of an earlier one of them, and says something else.
    Contrary,
}

/// For each fact, what is to be done with it.
pub fn parts(facts: &[Fact]) -> Vec<Part> {
    let mut first = HashMap::with_capacity(facts.len());
    facts
        .iter()
        .enumerate()
        .map(|(place, fact)| match first.entry((fact.tenant, &*fact.source, fact.key.as_str())) {
            Entry::Vacant(entry) => {
                entry.insert(place);
                Part::First
            }
            Entry::Occupied(entry) => {
                let earlier: &Fact = &facts[*entry.get()];
                let same = (&*earlier.meter, earlier.quantity) == (&*fact.meter, fact.quantity);
                if same { Part::Echo(*entry.get()) } else { Part::Contrary }
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use chrono::DateTime;
    use proptest::prelude::*;

    use super::*;
    use crate::kernel::ids::TenantId;

    fn fact(tenant: u128, key: u8, meter: u8, quantity: i64) -> Fact {
        Fact {
            tenant: TenantId(uuid::Uuid::from_u128(tenant)),
            meter: format!("meter_{meter}").into(),
            source: "test".into(),
            key: format!("key {key}"),
            quantity,
            occurred_at: DateTime::UNIX_EPOCH,
            received_at: DateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn meter_and_quantity_make_the_hash() {
        let one = hash_of("tasks_created", 1);
        assert_eq!(one, hash_of("tasks_created", 1));
        for other in
            [hash_of("tasks_created", 2), hash_of("tasks_create", 1), hash_of("seats", 1), hash_of("", 1)]
        {
            assert_ne!(one, other);
        }
        assert_ne!(hash_of("a", -1), hash_of("a", 1));
    }

    proptest! {
        /// However facts are repeated and mixed: each key is written once, with what its first fact says; each repeat of that
        /// is an echo of it; whatever says something else is neither.
        ///
        /// Shown to fail: leave the quantity out of what is compared.
        #[test]
        fn each_key_once(said in prop::collection::vec((0u128..3, 0u8..6, 0u8..2, 0i64..3), 0..60)) {
            let facts: Vec<Fact> = said.iter().map(|(t, k, m, q)| fact(*t, *k, *m, *q)).collect();
            let parts = parts(&facts);
            let mut known: BTreeMap<(u128, u8), (usize, u8, i64)> = BTreeMap::new();
            for (place, ((tenant, key, meter, quantity), part)) in said.iter().zip(&parts).enumerate() {
                let expected = match known.get(&(*tenant, *key)) {
                    None => Part::First,
                    Some((first, m, q)) if (m, q) == (meter, quantity) => Part::Echo(*first),
                    Some(_) => Part::Contrary,
                };
                prop_assert_eq!(*part, expected);
                if expected == Part::First {
                    known.insert((*tenant, *key), (place, *meter, *quantity));
                }
            }
            prop_assert_eq!(parts.len(), facts.len());
        }
    }
}
