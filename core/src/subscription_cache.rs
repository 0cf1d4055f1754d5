//! Subscriptions in memory, so that neither ingest nor delivery asks the database for what hardly changes. Every
//! change is announced by the database and drops the entry at once in all processes; a short time-to-live bounds what
//! a lost announcement can do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use moka::future::Cache;
use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    Error, Result,
    id::SubscriptionId,
    notify::{Heard, listen},
    subscription::{Subscription, Subscriptions},
};

/// Subscriptions kept in memory, at most.
const ENTRIES_MAX: u64 = 50_000;
/// How long one is believed without an announcement.
const TIME_TO_LIVE: Duration = Duration::from_secs(30);
/// What the channel's name ends in.
pub const CHANNEL: &str = "subscriptions";

/// A cache over [`Subscriptions`]. Ids that are nobody's are remembered too.
#[derive(Clone)]
pub struct SubscriptionCache {
    store: Subscriptions,
    entries: Cache<Uuid, Option<Arc<Subscription>>>,
    /// Counts announcements, so that a load that was overtaken by one is not kept.
    announcements: Arc<AtomicU64>,
}

impl SubscriptionCache {
    /// An empty one.
    #[must_use]
    pub fn new(store: Subscriptions) -> Self {
        Self {
            store,
            entries: Cache::builder().max_capacity(ENTRIES_MAX).time_to_live(TIME_TO_LIVE).build(),
            announcements: Arc::default(),
        }
    }

    /// The subscription, or `None` where there is none. Concurrent misses load it once.
    ///
    /// # Errors
    /// When it has to be loaded and cannot be.
    pub async fn get(&self, id: SubscriptionId) -> Result<Option<Arc<Subscription>>> {
        if let Some(entry) = self.entries.get(&id.0).await {
            return Ok(entry);
        }
        let before = self.announcements.load(Ordering::SeqCst);
        let load = async {
            match self.store.get(id).await {
                Ok(subscription) => Ok(Some(Arc::new(subscription))),
                Err(Error::NotFound(_)) => Ok(None),
                Err(error) => Err(error),
            }
        };
        let loaded = self.entries.try_get_with(id.0, load).await.map_err(|error| match &*error {
            Error::Unavailable(why) => Error::Unavailable(why),
            other => Error::internal(other.to_string()),
        });
        if self.announcements.load(Ordering::SeqCst) != before {
            self.entries.invalidate(&id.0).await;
        }
        loaded
    }

    /// Keeps the cache true for as long as the task lives.
    pub async fn follow(self, pool: PgPool, channel: String) {
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        let listener = listen(pool, channel, move |heard| {
            // Unbounded, but drained at once: an invalidation takes no I/O.
            let _ = sender.send(match heard {
                Heard::Notification(payload) => payload.parse::<Uuid>().ok(),
                Heard::Gap => None,
            });
        });
        let invalidate = async {
            while let Some(id) = receiver.recv().await {
                self.announcements.fetch_add(1, Ordering::SeqCst);
                match id {
                    Some(id) => self.entries.invalidate(&id).await,
                    None => self.entries.invalidate_all(),
                }
            }
        };
        tokio::join!(listener, invalidate);
    }
}
