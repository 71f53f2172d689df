//! Single flight: however many ask at once, one looks.

use std::collections::HashMap;
use std::hash::Hash;

use futures_util::future::{BoxFuture, FutureExt, Shared};
use parking_lot::Mutex;

type Flight<T> = Shared<BoxFuture<'static, T>>;

/// Lookups under way, by key. A flight is joined only by those who know of no change that it may have missed: each
/// flight remembers the count of changes at its start.
pub struct Flights<K, T: Clone>(Mutex<HashMap<K, (u64, Flight<T>)>>);

impl<K, T: Clone> Default for Flights<K, T> {
    fn default() -> Self {
        Self(Mutex::new(HashMap::new()))
    }
}

impl<K: Eq + Hash + Clone, T: Clone + Send + Sync + 'static> Flights<K, T> {
    /// The flight to wait for. It runs in a task of its own: a caller that gives up stops nobody else.
    pub fn join<F>(&self, key: &K, changes: u64, work: impl FnOnce(K) -> F) -> Flight<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut flights = self.0.lock();
        if let Some((began, flight)) = flights.get(key)
            && *began >= changes
        {
            return flight.clone();
        }
        let task = tokio::spawn(work(key.clone()));
        let flight = async move {
            match task.await {
                Ok(value) => value,
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                // Cancelled: the runtime is going away, and this caller with it.
                Err(_) => std::future::pending().await,
            }
        }
        .boxed()
        .shared();
        flights.insert(key.clone(), (changes, flight.clone()));
        flight
    }

    /// The flight that began at this count has landed: the next caller starts a new one.
    pub fn land(&self, key: &K, changes: u64) {
        let mut flights = self.0.lock();
        if flights.get(key).is_some_and(|(began, _)| *began == changes) {
            flights.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_burst_is_one_flight_and_a_change_starts_another() {
        let flights = Arc::new(Flights::<u8, u32>::default());
        let runs = Arc::new(AtomicU32::new(0));
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let fly = |changes| {
            let (runs, gate) = (runs.clone(), gate.clone());
            flights.join(&1, changes, move |_| async move {
                let run = runs.fetch_add(1, Ordering::SeqCst) + 1;
                let _permit = gate.acquire().await;
                run
            })
        };
        let first: Vec<_> = (0..50).map(|_| fly(0)).collect();
        let later = fly(1);
        let old = fly(0);
        gate.add_permits(10);
        for flight in first {
            assert_eq!(flight.await, 1);
        }
        assert_eq!((later.await, old.await), (2, 2));
        flights.land(&1, 1);
        assert_eq!(fly(1).await, 3);
    }
}
