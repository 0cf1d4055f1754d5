//! `/dead-letters`: deliveries that were given up, and what a person may do about them.

use chrono::{DateTime, Utc};
use poem_openapi::{
    Object, OpenApi,
    param::{Path, Query},
    payload::Json,
};
use postrider_core::{
    dead_letter::{self, DeadLetter, Filter, Resolved},
    delivery,
    id::{DeliveryId, SubscriptionId},
};
use serde::Deserialize;

use crate::{
    App, Tag,
    auth::Admin,
    body::JsonBody,
    deliveries::{DeliveryView, view as delivery_view},
    find,
    list::{List, Wanted},
    problem::ApiError,
};

/// The dead-letter routes.
pub struct DeadLettersApi(pub App);

/// A delivery that was given up.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
pub struct DeadLetterView {
    /// The delivery's id, by which the dead letter is addressed.
    id: String,
    /// The delivery as it stands.
    delivery: DeliveryView,
    /// When it was given up.
    dead_at: DateTime<Utc>,
    /// When somebody marked it resolved.
    resolved_at: Option<DateTime<Utc>>,
}

/// Which dead letters are meant; all that still want attention where nothing is said.
#[derive(Debug, Default, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub struct DeadLetterFilter {
    /// Only this subscription's.
    subscription_id: Option<String>,
    /// Only those that died at this time or later (RFC 3339).
    since: Option<DateTime<Utc>>,
    /// Only those that died before this time (RFC 3339).
    until: Option<DateTime<Utc>>,
    /// Whether those marked resolved are meant too; false where absent.
    include_resolved: Option<bool>,
}

/// Which dead letters are to be forgotten. At least `until` must be said: purging is by age.
#[derive(Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub struct PurgeFilter {
    /// Only those that died before this time (RFC 3339).
    until: DateTime<Utc>,
    /// Only this subscription's.
    subscription_id: Option<String>,
}

/// How many a bulk call has changed.
#[derive(Debug, Object)]
pub struct Count {
    /// 10000 at most; call again while it is so many.
    count: u64,
}

type One = Result<Json<DeadLetterView>, ApiError>;

#[OpenApi(tag = "Tag::DeadLetters")]
impl DeadLettersApi {
    /// List dead letters
    #[oai(path = "/dead-letters", method = "get", operation_id = "list_dead_letters")]
    async fn list(
        &self,
        _admin: Admin,
        /// Only this subscription's.
        subscription_id: Query<Option<String>>,
        /// Only those that died at this time or later (RFC 3339).
        since: Query<Option<DateTime<Utc>>>,
        /// Only those that died before this time (RFC 3339).
        until: Query<Option<DateTime<Utc>>>,
        /// Whether those marked resolved are listed too; false where absent.
        include_resolved: Query<Option<bool>>,
        /// Items of a page, 1 to 250; 50 where absent.
        limit: Query<Option<u32>>,
        /// The `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Json<List<DeadLetterView>>, ApiError> {
        let filter = filter(subscription_id.0.as_deref(), since.0, until.0, include_resolved.0)?;
        let wanted = Wanted::parse(limit.0, cursor.0.as_deref(), |id: DeliveryId| id.0)?;
        let found = dead_letter::list(&self.0.pool, filter, wanted.page()).await?;
        Ok(Json(wanted.list(found, |one| one.delivery.id, view)))
    }

    /// Get a dead letter
    #[oai(path = "/dead-letters/:id", method = "get", operation_id = "get_dead_letter")]
    async fn get(&self, _admin: Admin, id: Path<String>) -> One {
        Ok(Json(view(&dead_letter::get(&self.0.pool, find(&id.0, "dead letter")?).await?)))
    }

    /// Retry a dead letter
    ///
    /// It gets a fresh round of attempts by its subscription's policy, and leaves this list.
    #[oai(path = "/dead-letters/:id/retry", method = "post", operation_id = "retry_dead_letter")]
    async fn retry(&self, _admin: Admin, id: Path<String>) -> Result<Json<DeliveryView>, ApiError> {
        let id = find(&id.0, "dead letter")?;
        dead_letter::get(&self.0.pool, id).await?;
        Ok(Json(delivery_view(&delivery::retry(&self.0.pool, id).await?)))
    }

    /// Mark a dead letter resolved
    ///
    /// It stays dead, and is not listed any more unless asked for.
    #[oai(path = "/dead-letters/:id/resolve", method = "post", operation_id = "resolve_dead_letter")]
    async fn resolve(&self, _admin: Admin, id: Path<String>) -> One {
        Ok(Json(view(&dead_letter::resolve(&self.0.pool, find(&id.0, "dead letter")?).await?)))
    }

    /// Retry many dead letters
    ///
    /// The oldest first, at most 10000 a call. Those whose event or subscription is gone are left.
    #[oai(path = "/dead-letters/retry", method = "post", operation_id = "retry_dead_letters")]
    async fn retry_many(&self, _admin: Admin, body: JsonBody<DeadLetterFilter>) -> Result<Json<Count>, ApiError> {
        let wanted = body.0;
        let filter = filter(wanted.subscription_id.as_deref(), wanted.since, wanted.until, wanted.include_resolved)?;
        let count = dead_letter::retry_many(&self.0.pool, filter).await?;
        Ok(Json(Count { count: count as u64 }))
    }

    /// Forget old dead letters
    ///
    /// Takes those that died before a time off this list, resolved ones too, at most 10000 a call. The deliveries and
    /// their attempts stay until retention removes them.
    #[oai(path = "/dead-letters/purge", method = "post", operation_id = "purge_dead_letters")]
    async fn purge(&self, _admin: Admin, body: JsonBody<PurgeFilter>) -> Result<Json<Count>, ApiError> {
        let filter = filter(body.0.subscription_id.as_deref(), None, Some(body.0.until), Some(true))?;
        Ok(Json(Count { count: dead_letter::purge(&self.0.pool, filter).await? }))
    }
}

fn filter(
    subscription: Option<&str>,
    since: Option<DateTime<Utc>>,
    until: Option<DateTime<Utc>>,
    include_resolved: Option<bool>,
) -> Result<Filter, ApiError> {
    let subscription = subscription.map(str::parse::<SubscriptionId>).transpose();
    let subscription = subscription.map_err(|why| ApiError::invalid("subscription_id", why.to_string()))?;
    let resolved = if include_resolved.unwrap_or(false) { Resolved::Included } else { Resolved::Excluded };
    Ok(Filter { subscription, since, until, resolved })
}

fn view(letter: &DeadLetter) -> DeadLetterView {
    DeadLetterView {
        id: letter.delivery.id.to_string(),
        delivery: delivery_view(&letter.delivery),
        dead_at: letter.dead_at,
        resolved_at: letter.resolved_at,
    }
}
