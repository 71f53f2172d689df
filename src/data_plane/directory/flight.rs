//! Single flight: however many ask at once, one looks.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt, Shared};
use parking_lot::Mutex;

/// What came of a lookup; none when it panicked.
type Flight<T> = Shared<BoxFuture<'static, Option<T>>>;

type Flying<K, T> = HashMap<K, (u64, Flight<T>)>;

/// Lookups under way, by key. A flight is joined only by those who know of no change that it may have missed: each
/// flight remembers the count of changes at its start.
pub struct Flights<K: Eq + Hash, T: Clone>(Arc<Mutex<Flying<K, T>>>);

impl<K: Eq + Hash, T: Clone> Default for Flights<K, T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(HashMap::new())))
    }
}

impl<K, T> Flights<K, T>
where
    K: Eq + Hash + Clone + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// The flight to wait for. It runs in a task of its own: a caller that gives up stops nobody else. Once it has ended,
    /// however it did, the next caller starts a new one.
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
        let (all, own, work) = (self.0.clone(), key.clone(), work(key.clone()));
        let task = tokio::spawn(async move {
            let _landing = Landing { flights: all, key: own, changes };
            work.await
        });
        let flight = async move {
            match task.await {
                Ok(value) => Some(value),
                Err(error) if error.is_panic() => None,
                // Cancelled: the runtime is going away, and this caller with it.
                Err(_) => std::future::pending().await,
            }
        }
        .boxed()
        .shared();
        flights.insert(key.clone(), (changes, flight.clone()));
        flight
    }
}

/// Takes a flight out of the map when it is over: when its task ends, panics or is dropped.
struct Landing<K: Eq + Hash, T: Clone> {
    flights: Arc<Mutex<Flying<K, T>>>,
    key: K,
    changes: u64,
}

impl<K: Eq + Hash, T: Clone> Drop for Landing<K, T> {
    fn drop(&mut self) {
        let mut flights = self.flights.lock();
        let landed = flights.get(&self.key).is_some_and(|(began, _)| *began == self.changes);
        // Dropped after the lock is given back: it may be the last to hold the task.
        let flight = if landed { flights.remove(&self.key) } else { None };
        drop(flights);
        drop(flight);
    }
}

#[cfg(test)]
mod tests {
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
            assert_eq!(flight.await, Some(1));
        }
        assert_eq!((later.await, old.await), (Some(2), Some(2)));
        assert_eq!(fly(1).await, Some(3), "those have landed");
        assert!(flights.0.lock().is_empty());
    }

    /// Should fail: without `Landing`, everybody who asks for the key from then on is told of the same panic.
    #[tokio::test]
    async fn a_flight_that_panics_is_over() {
        let flights = Flights::<u8, u32>::default();
        let crash = flights.join(&1, 0, |_| async { panic!("a row that nobody thought of") });
        assert_eq!(crash.clone().await, None);
        assert_eq!(crash.await, None);
        assert_eq!(flights.join(&1, 0, |_| async { 7 }).await, Some(7));
    }
}
