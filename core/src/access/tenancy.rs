//! The tenant of every thing that has an id. A thing keeps its tenant for ever, so a check before an action is as good
//! as a check during it.

use sqlx::PgPool;

use crate::{
    Error, Result,
    id::{DeliveryId, EmitterId, EventId, JobId, KeyId, SubscriptionId},
    validation,
};

/// The tenant of those who never name one.
pub const TENANT_DEFAULT: &str = "default";
/// Characters of a tenant's id, at most.
const TENANT_CHARACTERS_MAX: usize = 64;

/// Checks a tenant's id: any text of 1 to 64 characters without control characters.
///
/// # Errors
/// What is wrong with it.
pub fn check_tenant(id: &str) -> std::result::Result<(), String> {
    validation::text(id, TENANT_CHARACTERS_MAX)
}

/// The id of a thing that belongs to a tenant.
pub trait Owned: Copy + Send {
    /// The noun for such a thing in an error, such as `subscription`.
    const WHAT: &'static str;

    /// The thing's tenant; `None` where it belongs to no single tenant. An error where there is no such thing.
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

impl Owned for JobId {
    const WHAT: &'static str = "job";

    async fn tenant(self, pool: &PgPool) -> Result<Option<String>> {
        let tenant = sqlx::query_scalar!("SELECT tenant_id FROM jobs WHERE id = $1", self.0);
        tenant.fetch_optional(pool).await?.ok_or(Error::NotFound(Self::WHAT))
    }
}

impl Owned for EmitterId {
    const WHAT: &'static str = "emitter";

    async fn tenant(self, pool: &PgPool) -> Result<Option<String>> {
        let tenant = sqlx::query_scalar!("SELECT tenant_id FROM emitters WHERE id = $1", self.0);
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
