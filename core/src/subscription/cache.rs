//! Subscriptions in memory, so that neither ingest nor delivery asks the database for data that hardly changes: each
//! subscription by its id, and for each tenant its audience. The database announces every change; all processes then
//! drop the entries that it touches.

use std::sync::Arc;

use uuid::Uuid;

use crate::{
    Error, Result,
    announce::{cache::AnnouncedCache, changes::Change},
    event::audience::Audience,
    id::SubscriptionId,
    subscription::{Subscription, store::Subscriptions},
};

/// Subscriptions kept in memory, at most.
const SUBSCRIPTIONS_MAX: u64 = 50_000;
/// Interests kept in memory over all tenants, at most. A tenant with more subscriptions than this is read anew for each
/// event.
const INTERESTS_MAX: u64 = 500_000;

/// A cache over [`Subscriptions`]. It also remembers ids for which there is no subscription.
#[derive(Clone)]
pub struct SubscriptionCache {
    store: Subscriptions,
    by_id: AnnouncedCache<Uuid, Option<Arc<Subscription>>>,
    by_tenant: AnnouncedCache<String, Arc<Audience>>,
}

impl SubscriptionCache {
    /// An empty cache over this store.
    #[must_use]
    pub fn new(store: Subscriptions) -> Self {
        let weigh = |audience: &Arc<Audience>| u32::try_from(audience.len() + 1).unwrap_or(u32::MAX);
        Self {
            store,
            by_id: AnnouncedCache::new(SUBSCRIPTIONS_MAX, |_| 1),
            by_tenant: AnnouncedCache::new(INTERESTS_MAX, weigh),
        }
    }

    /// The subscription with this id; `None` where there is none.
    ///
    /// # Errors
    /// When it has to be loaded and the database is away.
    pub async fn get(&self, id: SubscriptionId) -> Result<Option<Arc<Subscription>>> {
        let load = async {
            match self.store.get(id).await {
                Ok(subscription) => Ok(Some(Arc::new(subscription))),
                Err(Error::NotFound(_)) => Ok(None),
                Err(error) => Err(error),
            }
        };
        self.by_id.get(&id.0, load).await
    }

    /// Reads those of these subscriptions that are not in memory, in one statement, so that [`Self::get`] finds them.
    /// One that does not exist, or that cannot be read, is left to it.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn prepare(&self, ids: impl IntoIterator<Item = SubscriptionId>) -> Result<()> {
        let load = async |absent: Vec<Uuid>| {
            let found = self.store.get_all(&absent).await?;
            Ok(found.into_iter().map(|one| (one.id.0, Some(Arc::new(one)))).collect())
        };
        self.by_id.prepare(ids.into_iter().map(|id| id.0), load).await
    }

    /// The tenant's subscriptions, indexed by the events that they want.
    ///
    /// # Errors
    /// When they have to be loaded and the database is away.
    pub async fn audience(&self, tenant_id: &str) -> Result<Arc<Audience>> {
        let load = async { self.store.audience(tenant_id).await.map(Arc::new) };
        self.by_tenant.get(&tenant_id.to_owned(), load).await
    }

    /// Drops the entries that a change touches.
    pub async fn invalidate(&self, change: &Change) {
        match change {
            Change::Subscription { id, tenant_id } => {
                self.by_id.remove(id).await;
                self.by_tenant.remove(tenant_id).await;
            }
            Change::ApiKey(_) => {}
            Change::Anything => {
                self.by_id.clear();
                self.by_tenant.clear();
            }
        }
    }
}
