//! A cache whose entries are dropped when the database announces a change. It does not listen: see
//! [`crate::announce::changes`].

use std::{
    hash::{BuildHasher, Hash, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use moka::future::Cache;

use crate::{
    Error, Result,
    database::{ANSWER_TIMEOUT, in_time},
};

/// How long an entry is used without being loaded again: it bounds the harm of an announcement that was lost.
const TIME_TO_LIVE: Duration = Duration::from_secs(30);

/// How many counters the keys share.
const COUNTERS: usize = 1024;

/// Values by key, each loaded when it is first asked for.
pub struct AnnouncedCache<K, V> {
    entries: Cache<K, V>,
    /// Counts announcements; keys share the counters by their hash. A value is not kept if the count of its key changed
    /// while it was being loaded: it may be outdated.
    announcements: Arc<[AtomicU64]>,
    hasher: RandomState,
}

impl<K, V> Clone for AnnouncedCache<K, V> {
    /// Another handle of the same cache.
    fn clone(&self) -> Self {
        Self {
            entries: self.entries.clone(),
            announcements: Arc::clone(&self.announcements),
            hasher: self.hasher.clone(),
        }
    }
}

impl<K: Hash + Eq + Clone + Send + Sync + 'static, V: Clone + Send + Sync + 'static> AnnouncedCache<K, V> {
    /// An empty cache whose values together have at most the weight `weight_max`.
    #[must_use]
    pub fn new(weight_max: u64, weigh: impl Fn(&V) -> u32 + Send + Sync + 'static) -> Self {
        let entries = Cache::builder()
            .max_capacity(weight_max)
            .weigher(move |_: &K, value: &V| weigh(value))
            .time_to_live(TIME_TO_LIVE)
            .build();
        let announcements = std::iter::repeat_with(AtomicU64::default).take(COUNTERS).collect();
        Self { entries, announcements, hasher: RandomState::new() }
    }

    /// The value under this key, loaded if it is not there. Concurrent callers share one load.
    ///
    /// # Errors
    /// When the value has to be loaded and cannot be.
    pub async fn get(&self, key: &K, load: impl Future<Output = Result<V>>) -> Result<V> {
        if let Some(entry) = self.entries.get(key).await {
            return Ok(entry);
        }
        let announcements = self.announcements_of(key);
        let before = announcements.load(Ordering::SeqCst);
        let loaded =
            self.entries.try_get_with(key.clone(), Box::pin(in_time(ANSWER_TIMEOUT, load))).await.map_err(|error| {
                match &*error {
                    Error::Unavailable(why) => Error::Unavailable(why),
                    // The error is shared by all who waited for the load, so only its text can be passed on.
                    other => {
                        Error::internal(std::error::Error::source(other).map_or(other.to_string(), ToString::to_string))
                    }
                }
            });
        if announcements.load(Ordering::SeqCst) != before {
            self.entries.invalidate(key).await;
        }
        loaded
    }

    /// Loads the values under those of these keys that are not there, all together; a key for which `load` has none is
    /// left to [`Self::get`].
    ///
    /// # Errors
    /// When they cannot be loaded.
    pub async fn prepare<F>(&self, keys: impl IntoIterator<Item = K>, load: impl FnOnce(Vec<K>) -> F) -> Result<()>
    where
        F: Future<Output = Result<Vec<(K, V)>>>,
    {
        let absent: Vec<_> = keys.into_iter().filter(|key| !self.entries.contains_key(key)).collect();
        if absent.is_empty() {
            return Ok(());
        }
        let before: Vec<_> = self.announcements.iter().map(|count| count.load(Ordering::SeqCst)).collect();
        for (key, value) in in_time(ANSWER_TIMEOUT, load(absent)).await? {
            self.entries.insert(key.clone(), value).await;
            let counter = self.counter_of(&key);
            if self.announcements[counter].load(Ordering::SeqCst) != before[counter] {
                self.entries.invalidate(&key).await;
            }
        }
        Ok(())
    }

    /// Drops the value under this key.
    pub async fn remove(&self, key: &K) {
        self.announcements_of(key).fetch_add(1, Ordering::SeqCst);
        self.entries.invalidate(key).await;
    }

    /// Drops all values.
    pub fn clear(&self) {
        for counter in &*self.announcements {
            counter.fetch_add(1, Ordering::SeqCst);
        }
        self.entries.invalidate_all();
    }

    fn announcements_of(&self, key: &K) -> &AtomicU64 {
        &self.announcements[self.counter_of(key)]
    }

    fn counter_of(&self, key: &K) -> usize {
        usize::try_from(self.hasher.hash_one(key) % COUNTERS as u64).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Loads a value under "a" while a change of this key is announced, and returns whether the value was kept.
    async fn is_kept_while(changed: &str) -> bool {
        let cache = AnnouncedCache::new(10, |_: &u32| 1);
        let load = async {
            cache.remove(&changed.to_owned()).await;
            Ok(1)
        };
        assert_eq!(cache.get(&"a".to_owned(), load).await.expect("loaded"), 1);
        cache.get(&"a".to_owned(), async { Ok(2) }).await.expect("there or loaded") == 1
    }

    #[tokio::test]
    async fn what_is_not_there_is_loaded_together_unless_it_changes_meanwhile() {
        let cache = AnnouncedCache::new(10, |_: &u32| 1);
        let [a, b, c] = ["a", "b", "c"].map(str::to_owned);
        assert_eq!(cache.get(&a, async { Ok(1) }).await.expect("loaded"), 1);
        let load = async |absent: Vec<String>| {
            assert_eq!(absent, [b.clone(), c.clone()]);
            cache.remove(&b).await;
            Ok(absent.into_iter().map(|key| (key, 2)).collect())
        };
        cache.prepare([a.clone(), b.clone(), c.clone()], load).await.expect("loaded");
        assert_eq!(cache.get(&b, async { Ok(3) }).await.expect("loaded"), 3, "it changed meanwhile");
        // Keys share counters by a random hash, so "c" may happen to have the counter of "b".
        let kept = cache.get(&c, async { Ok(4) }).await.expect("there or loaded");
        assert!(kept == 2 || cache.counter_of(&b) == cache.counter_of(&c), "{kept}");
    }

    #[tokio::test]
    async fn a_load_is_spoiled_by_changes_of_its_own_key_only() {
        assert!(!is_kept_while("a").await);
        // Keys share counters by a random hash, so one foreign key may happen to have the counter of "a".
        assert!(is_kept_while("b").await || is_kept_while("b").await || is_kept_while("b").await);
    }
}
