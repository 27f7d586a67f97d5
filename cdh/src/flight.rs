//! One fetch for all who ask for the same at the same time.
//!
//! Whoever comes first fetches, the others wait for his result; if he goes away, one of them takes over. Nothing is kept
//! beyond that: who asks after the result is there starts anew. It is NOT an access decision: who may not have the secret
//! must not come here.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OnceCell;

/// The fetches under way, by what they fetch.
#[derive(Debug)]
pub struct Flights<K, V> {
    open: Mutex<HashMap<K, Arc<OnceCell<V>>>>,
}

impl<K, V> Default for Flights<K, V> {
    fn default() -> Self {
        Self { open: Mutex::default() }
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Flights<K, V> {
    /// The result of the fetch of `key` that is under way, or else of `fetch`.
    pub async fn join(&self, key: &K, fetch: impl Future<Output = V>) -> V {
        let cell = Arc::clone(self.lock().entry(key.clone()).or_default());
        let mine = Seat { flights: self, key, cell };
        mine.cell.get_or_init(|| fetch).await.clone()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Arc<OnceCell<V>>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who waits.
struct Seat<'a, K: Eq + Hash + Clone, V: Clone> {
    flights: &'a Flights<K, V>,
    key: &'a K,
    cell: Arc<OnceCell<V>>,
}

impl<K: Eq + Hash + Clone, V: Clone> Drop for Seat<'_, K, V> {
    /// The entry goes with the result, or with the last who waited: the table and he hold it then.
    fn drop(&mut self) {
        let mut open = self.flights.lock();
        let over = self.cell.initialized() || Arc::strong_count(&self.cell) <= 2;
        if over && open.get(self.key).is_some_and(|cell| Arc::ptr_eq(cell, &self.cell)) {
            open.remove(self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_thousand_share_one_fetch_and_the_next_starts_anew() {
        let flights = Arc::new(Flights::<&str, u32>::default());
        let fetches = Arc::new(AtomicU32::new(0));
        let ask = || {
            let (flights, fetches) = (Arc::clone(&flights), Arc::clone(&fetches));
            tokio::spawn(async move {
                let fetch = async {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    fetches.fetch_add(1, Ordering::SeqCst)
                };
                flights.join(&"key", fetch).await
            })
        };
        for round in 0..2 {
            let asks: Vec<_> = (0..1000).map(|_| ask()).collect();
            for ask in asks {
                assert_eq!(ask.await.unwrap(), round);
            }
            assert!(flights.lock().is_empty());
        }
        assert_eq!(fetches.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn when_the_first_goes_away_another_takes_over() {
        let flights = Arc::new(Flights::<&str, u32>::default());
        let spawn = |result: u32, pause: u64| {
            let flights = Arc::clone(&flights);
            tokio::spawn(async move {
                let fetch = async {
                    tokio::time::sleep(Duration::from_secs(pause)).await;
                    result
                };
                flights.join(&"key", fetch).await
            })
        };
        let first = spawn(1, 3600);
        tokio::time::sleep(Duration::from_millis(1)).await;
        let second = spawn(2, 1);
        tokio::time::sleep(Duration::from_millis(1)).await;
        first.abort();
        assert_eq!(second.await.unwrap(), 2);
        assert!(flights.lock().is_empty());
        let gone = spawn(3, 3600);
        tokio::time::sleep(Duration::from_millis(1)).await;
        gone.abort();
        assert!(gone.await.is_err());
        assert!(flights.lock().is_empty(), "nobody waits any more");
    }
}
