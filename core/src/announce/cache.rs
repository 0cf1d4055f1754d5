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

/// How long an entry is used without being loaded again: it bounds the harm of an announcement that was lost.
const TIME_TO_LIVE: Duration = Duration::from_secs(30);

/// Values by key, each loaded when it is first asked for.
pub struct AnnouncedCache<K, V> {
    entries: Cache<K, V>,
    /// Counts announcements. A value is not kept if the count changed while it was being loaded: it may be outdated.
    announcements: Arc<AtomicU64>,
}

impl<K, V> Clone for AnnouncedCache<K, V> {
    /// Another handle of the same cache.
    fn clone(&self) -> Self {
        Self { entries: self.entries.clone(), announcements: Arc::clone(&self.announcements) }
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
        Self { entries, announcements: Arc::default() }
    }

    /// The value under this key, loaded if it is not there. Concurrent callers share one load.
    ///
    /// # Errors
    /// When the value has to be loaded and cannot be.
    pub async fn get(&self, key: &K, load: impl Future<Output = Result<V>>) -> Result<V> {
        if let Some(entry) = self.entries.get(key).await {
            return Ok(entry);
        }
        let before = self.announcements.load(Ordering::SeqCst);
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
        if self.announcements.load(Ordering::SeqCst) != before {
            self.entries.invalidate(key).await;
        }
        loaded
    }

    /// Drops the value under this key.
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
