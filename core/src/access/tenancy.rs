//! Whose is it: the tenant of every thing that has an id. What has one owner keeps it for ever, so asking before acting
//! is as good as asking while acting.

use sqlx::PgPool;

use crate::{
    Error, Result,
    id::{DeliveryId, EventId, KeyId, ReplayId, SubscriptionId},
    validation,
};

/// The tenant of those who have only one.
pub const TENANT_DEFAULT: &str = "default";
/// Characters of a tenant's id, at most.
const TENANT_CHARACTERS_MAX: usize = 64;

/// Checks the id of a tenant; any text of a bounded length is one.
///
/// # Errors
/// What is wrong with it.
pub fn check_tenant(id: &str) -> std::result::Result<(), String> {
    validation::text(id, TENANT_CHARACTERS_MAX)
}

/// A thing that somebody owns.
pub trait Owned: Copy + Send {
    /// What it is called, in an error.
    const WHAT: &'static str;

    /// Its tenant; `None` where it is no single tenant's. Not found where there is no such thing.
    fn tenant(self, pool: &PgPool) -> impl Future<Output = Result<Option<String>>> + Send;
}

impl Owned for SubscriptionId {
    const WHAT: &'static str = "subscription";

    async fn tenant(self, pool: &PgPool) -> Result<Option<String>> {
        let tenant = sqlx::query_scalar!("SELECT tenant_id FROM subscriptions WHERE id = $1", self.0);
        tenant.fetch_optional(pool).await?.map(Some).ok_or(Error::NotFound(Self::WHAT))
    }
}

impl Owned for EventId {
    const WHAT: &'static str = "event";

    async fn tenant(self, pool: &PgPool) -> Result<Option<String>> {
        let tenant = sqlx::query_scalar!("SELECT tenant_id FROM events WHERE id = $1", self.0);
        tenant.fetch_optional(pool).await?.map(Some).ok_or(Error::NotFound(Self::WHAT))
    }
}

impl Owned for DeliveryId {
    const WHAT: &'static str = "delivery";

    async fn tenant(self, pool: &PgPool) -> Result<Option<String>> {
        let tenant = sqlx::query_scalar!("SELECT tenant_id FROM deliveries WHERE id = $1", self.0);
        tenant.fetch_optional(pool).await?.map(Some).ok_or(Error::NotFound(Self::WHAT))
    }
}

impl Owned for ReplayId {
    const WHAT: &'static str = "replay";

    async fn tenant(self, pool: &PgPool) -> Result<Option<String>> {
        let tenant = sqlx::query_scalar!("SELECT tenant_id FROM replays WHERE id = $1", self.0);
        tenant.fetch_optional(pool).await?.map(Some).ok_or(Error::NotFound(Self::WHAT))
    }
}

impl Owned for KeyId {
    const WHAT: &'static str = "API key";

    async fn tenant(self, pool: &PgPool) -> Result<Option<String>> {
        let tenant = sqlx::query_scalar!("SELECT tenant_id FROM api_keys WHERE id = $1", self.0);
        tenant.fetch_optional(pool).await?.ok_or(Error::NotFound(Self::WHAT))
    }
}
