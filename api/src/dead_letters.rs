//! `/dead-letters`: deliveries that were given up, and what a person may do with them.

pub mod groups;

use chrono::{DateTime, Utc};
use poem_openapi::{
    Object, OpenApi,
    param::{Path, Query},
    payload::Json,
};
use postrider_core::{
    delivery::{
        self,
        dead_letter::{self, DeadLetter, Filter, Resolved},
        dead_letter_groups,
        job::filter::cause,
    },
    id::DeliveryId,
    page::Span,
};
use serde::Deserialize;

use crate::{
    access::{
        Access,
        auth::{Key, Manage, Read},
    },
    app::{App, Tag},
    dead_letters::groups::DeadLetterGroups,
    deliveries::view::{DeliveryView, view as delivery_view},
    serve::{
        body::{Input, JsonBody},
        list::{self, List, Wanted},
        problem::ApiError,
    },
};

/// The routes of `/dead-letters`.
pub struct DeadLettersApi(pub App);

/// A delivery that was given up and wants a person to look at it.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none, rename = "DeadLetter")]
pub struct DeadLetterView {
    /// The delivery's id, by which the dead letter is addressed, such as `dlv_0198c0de2f3a7b1c9d4e5f60718293a4`.
    id: String,
    /// The delivery as it stands.
    delivery: DeliveryView,
    /// When the delivery was given up (RFC 3339).
    dead_at: DateTime<Utc>,
    /// When somebody marked the dead letter resolved; absent where nobody has (RFC 3339).
    resolved_at: Option<DateTime<Utc>>,
}

/// Which dead letters are meant. An empty filter, or no body at all, means all that are not marked resolved.
#[derive(Debug, Default, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub struct DeadLetterFilter {
    /// Only dead letters of this tenant, such as `acme`.
    tenant_id: Option<String>,
    /// Only dead letters of this subscription, such as `sub_0198c0de2f3a7b1c9d4e5f60718293a4`.
    subscription_id: Option<String>,
    /// Only deliveries that were given up at this time or later, such as `2026-01-31T09:00:00Z` (RFC 3339).
    since: Option<DateTime<Utc>>,
    /// Only deliveries that were given up before this time (RFC 3339).
    until: Option<DateTime<Utc>>,
    /// Whether those that are marked resolved are meant too; false where absent.
    include_resolved: Option<bool>,
    /// Only deliveries whose last attempt failed for this cause: an `error_kind` of the log of attempts, such as
    /// `timeout`.
    error_kind: Option<String>,
    /// Only deliveries whose last attempt was answered with this status, such as 503.
    status_code: Option<u16>,
}

/// Which dead letters are to be forgotten, by their age.
#[derive(Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub struct PurgeFilter {
    /// Only deliveries that were given up before this time, such as `2026-01-31T09:00:00Z` (RFC 3339).
    until: DateTime<Utc>,
    /// Only dead letters of this subscription.
    subscription_id: Option<String>,
    /// Only dead letters of this tenant, such as `acme`.
    tenant_id: Option<String>,
}

impl Input for DeadLetterFilter {
    const MAY_BE_EMPTY: bool = true;
}
impl Input for PurgeFilter {}

/// How many dead letters a call has changed.
#[derive(Debug, Object)]
pub struct Count {
    /// At most 10000. Where it is 10000, there may be more: call again.
    count: u64,
}

type One = Result<Json<DeadLetterView>, ApiError>;

#[OpenApi(tag = "Tag::DeadLetters")]
impl DeadLettersApi {
    /// List dead letters
    ///
    /// The newest first.
    #[oai(path = "/dead-letters", method = "get", operation_id = "list_dead_letters")]
    async fn list(
        &self,
        key: Key<Read>,
        tenant_id: Query<Option<String>>,
        subscription_id: Query<Option<String>>,
        /// Only deliveries that were given up at this time or later, such as `2026-01-31T09:00:00Z` (RFC 3339).
        since: Query<Option<DateTime<Utc>>>,
        /// Only deliveries that were given up before this time (RFC 3339).
        until: Query<Option<DateTime<Utc>>>,
        /// Whether dead letters that are marked resolved are listed too; false where absent.
        include_resolved: Query<Option<bool>>,
        error_kind: Query<Option<String>>,
        status_code: Query<Option<u16>>,
        limit: Query<Option<u32>>,
        cursor: Query<Option<String>>,
    ) -> Result<Json<List<DeadLetterView>>, ApiError> {
        let meant = DeadLetterFilter {
            tenant_id: tenant_id.0,
            subscription_id: subscription_id.0,
            since: since.0,
            until: until.0,
            include_resolved: include_resolved.0,
            error_kind: error_kind.0,
            status_code: status_code.0,
        };
        let filter = self.filter(&key, meant).await?;
        let wanted = Wanted::parse(limit.0, cursor.0.as_deref(), |id: DeliveryId| id.0)?;
        let found = dead_letter::list(&self.0.pool, &filter, wanted.page()).await?;
        Ok(Json(wanted.found(found, |one| one.delivery.id, |id| DeliveryId(id).to_string(), view)))
    }

    /// Group dead letters
    ///
    /// By where they go and why they were given up, the largest group first. The newest 20000 are grouped; where there
    /// are more, all counts are lower bounds. A group is dealt with by `POST /jobs`.
    #[oai(path = "/dead-letters/groups", method = "get", operation_id = "group_dead_letters")]
    async fn groups(
        &self,
        key: Key<Read>,
        tenant_id: Query<Option<String>>,
        subscription_id: Query<Option<String>>,
        /// Only deliveries that were given up at this time or later, such as `2026-01-31T09:00:00Z` (RFC 3339).
        since: Query<Option<DateTime<Utc>>>,
        /// Only deliveries that were given up before this time (RFC 3339).
        until: Query<Option<DateTime<Utc>>>,
        /// Whether dead letters that are marked resolved are grouped too; false where absent.
        include_resolved: Query<Option<bool>>,
        error_kind: Query<Option<String>>,
        status_code: Query<Option<u16>>,
    ) -> Result<Json<DeadLetterGroups>, ApiError> {
        let meant = DeadLetterFilter {
            tenant_id: tenant_id.0,
            subscription_id: subscription_id.0,
            since: since.0,
            until: until.0,
            include_resolved: include_resolved.0,
            error_kind: error_kind.0,
            status_code: status_code.0,
        };
        let filter = self.filter(&key, meant).await?;
        Ok(Json(groups::view(&dead_letter_groups::groups(&self.0.pool, &filter).await?)))
    }

    /// Get a dead letter
    #[oai(path = "/dead-letters/:id", method = "get", operation_id = "get_dead_letter")]
    async fn get(&self, key: Key<Read>, id: Path<String>) -> One {
        let id = key.find(&self.0.pool, &id.0).await?;
        Ok(Json(view(&dead_letter::get(&self.0.pool, id).await?)))
    }

    /// Retry a dead letter
    ///
    /// The delivery gets a fresh round of attempts by its retry policy, and leaves the list of dead letters.
    #[oai(path = "/dead-letters/:id/retry", method = "post", operation_id = "retry_dead_letter")]
    async fn retry(&self, key: Key<Manage>, id: Path<String>) -> Result<Json<DeliveryView>, ApiError> {
        let id = key.find(&self.0.pool, &id.0).await?;
        dead_letter::get(&self.0.pool, id).await?;
        Ok(Json(delivery_view(&delivery::retry(&self.0.pool, id).await?)))
    }

    /// Mark a dead letter resolved
    ///
    /// The delivery stays given up. It is listed only where `include_resolved` asks for it.
    #[oai(path = "/dead-letters/:id/resolve", method = "post", operation_id = "resolve_dead_letter")]
    async fn resolve(&self, key: Key<Manage>, id: Path<String>) -> One {
        let id = key.find(&self.0.pool, &id.0).await?;
        Ok(Json(view(&dead_letter::resolve(&self.0.pool, id).await?.0)))
    }

    /// Retry many dead letters
    ///
    /// The oldest first, at most 10000 in a call. Those whose event or subscription does not exist any more are left.
    #[oai(path = "/dead-letters/retry", method = "post", operation_id = "retry_dead_letters")]
    async fn retry_many(&self, key: Key<Manage>, body: JsonBody<DeadLetterFilter>) -> Result<Json<Count>, ApiError> {
        let filter = self.filter(&key, body.value).await?;
        let count = dead_letter::retry_many(&self.0.pool, &filter, key.actor()).await?;
        Ok(Json(Count { count: count as u64 }))
    }

    /// Forget old dead letters
    ///
    /// Takes dead letters off the list by their age, those that are marked resolved too, at most 10000 in a call.
    /// Deliveries and attempts stay until retention removes them.
    #[oai(path = "/dead-letters/purge", method = "post", operation_id = "purge_dead_letters")]
    async fn purge(&self, key: Key<Manage>, body: JsonBody<PurgeFilter>) -> Result<Json<Count>, ApiError> {
        let PurgeFilter { until, subscription_id, tenant_id } = body.value;
        let meant = DeadLetterFilter {
            tenant_id,
            subscription_id,
            since: None,
            until: Some(until),
            include_resolved: Some(true),
            error_kind: None,
            status_code: None,
        };
        let filter = self.filter(&key, meant).await?;
        Ok(Json(Count { count: dead_letter::purge(&self.0.pool, &filter, key.actor()).await? }))
    }
}

impl DeadLettersApi {
    async fn filter(&self, access: &Access, meant: DeadLetterFilter) -> Result<Filter, ApiError> {
        let subscription = meant.subscription_id.as_deref();
        let resolved = if meant.include_resolved.unwrap_or(false) { Resolved::Included } else { Resolved::Excluded };
        let Span { since, until } = list::span(meant.since, meant.until)?;
        let error_kind = meant.error_kind.as_deref().map(cause).transpose();
        let code = |code: u16| i16::try_from(code).ok().filter(|code| (100..=999).contains(code));
        let no_status = || ApiError::invalid("status_code", "must be from 100 to 999");
        let status_code = meant.status_code.map(|given| code(given).ok_or_else(no_status)).transpose();
        Ok(Filter {
            error_kind: error_kind.map_err(|why| ApiError::invalid("error_kind", why))?,
            status_code: status_code?,
            tenant_id: access.lists(meant.tenant_id.as_deref())?,
            subscription: access.find_named(&self.0.pool, "subscription_id", subscription).await?,
            since,
            until,
            resolved,
        })
    }
}

fn view(letter: &DeadLetter) -> DeadLetterView {
    DeadLetterView {
        id: letter.delivery.id.to_string(),
        delivery: delivery_view(&letter.delivery),
        dead_at: letter.dead_at,
        resolved_at: letter.resolved_at,
    }
}
