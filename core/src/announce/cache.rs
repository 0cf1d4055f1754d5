//! A cache whose entries are dropped when the database announces a change. It does not listen: see
//! [`crate::announce::changes`].

use std::{
    hash::Hash,
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

/// How long an entry is believed without an announcement: bounds what a lost one can do.
const TIME_TO_LIVE: Duration = Duration::from_secs(30);

/// Values by key, each loaded when it is first asked for.
pub struct AnnouncedCache<K, V> {
    entries: Cache<K, V>,
    /// Counts announcements, so that a load that was overtaken by one is not kept.
    announcements: Arc<AtomicU64>,
}

impl<K, V> Clone for AnnouncedCache<K, V> {
    /// Another handle of the same cache.
    fn clone(&self) -> Self {
        Self { entries: self.entries.clone(), announcements: Arc::clone(&self.announcements) }
    }
}

impl<K: Hash + Eq + Clone + Send + Sync + 'static, V: Clone + Send + Sync + 'static> AnnouncedCache<K, V> {
    /// An empty one that keeps values up to a weight in all.
    #[must_use]
    pub fn new(weight_max: u64, weigh: impl Fn(&V) -> u32 + Send + Sync + 'static) -> Self {
        let entries = Cache::builder()
            .max_capacity(weight_max)
            .weigher(move |_: &K, value: &V| weigh(value))
            .time_to_live(TIME_TO_LIVE)
            .build();
        Self { entries, announcements: Arc::default() }
    }

    /// The value, loaded where it is not there. Concurrent misses load it once.
    ///
    /// # Errors
    /// When it has to be loaded and cannot be.
    pub async fn get(&self, key: &K, load: impl Future<Output = Result<V>>) -> Result<V> {
        if let Some(entry) = self.entries.get(key).await {
            return Ok(entry);
        }
        let before = self.announcements.load(Ordering::SeqCst);
        let loaded =
            self.entries.try_get_with(key.clone(), Box::pin(in_time(ANSWER_TIMEOUT, load))).await.map_err(|error| {
                match &*error {
                    Error::Unavailable(why) => Error::Unavailable(why),
                    // Shared by all who waited for it, so only its words can go on.
                    other => {
                        Error::internal(std::error::Error::source(other).map_or(other.to_string(), ToString::to_string))
                    }
                }
            });
        if self.announcements.load(Ordering::SeqCst) != before {
            self.entries.invalidate(key).await;
        }
        loaded
    }

    /// Drops one value.
    pub async fn remove(&self, key: &K) {
        self.announcements.fetch_add(1, Ordering::SeqCst);
        self.entries.invalidate(key).await;
    }

    /// Drops all values.
    pub fn clear(&self) {
        self.announcements.fetch_add(1, Ordering::SeqCst);
        self.entries.invalidate_all();
    }
}
