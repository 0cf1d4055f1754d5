//! `/stats` and `/subscriptions/{id}/stats`: what was accepted, what came of it, and why attempts failed.

mod view;

use chrono::{DateTime, Utc};
use poem_openapi::{
    OpenApi,
    param::{Path, Query},
    payload::Json,
};
use postrider_core::{
    event::event_type::EventType,
    id::SubscriptionId,
    stats::{self, Filter, Step, causes},
};

use crate::{
    access::{
        Access,
        auth::{Key, Read},
    },
    app::{App, Tag},
    serve::{
        list::{parsed, span},
        problem::ApiError,
    },
    stats::view::{CausesView, HistoryView, TotalsView},
};

/// The routes of `/stats`.
pub struct StatsApi(pub App);

/// Whose numbers a request asks for, and of which time.
struct Asked {
    tenant_id: Option<String>,
    subscription_id: Option<String>,
    event_type: Option<String>,
    since: Option<DateTime<Utc>>,
    until: Option<DateTime<Utc>>,
}

#[OpenApi(tag = "Tag::Statistics")]
impl StatsApi {
    /// Get totals
    ///
    /// The numbers of a span of time: accepted events, attempts by their outcomes, and deliveries that ended. Processes
    /// write what they have counted every 15 seconds.
    #[oai(path = "/stats", method = "get", operation_id = "get_stats")]
    async fn totals(
        &self,
        key: Key<Read>,
        tenant_id: Query<Option<String>>,
        subscription_id: Query<Option<String>>,
        /// Only accepted events of this type, such as `order.created`; attempts are not counted by type, so they are
        /// left out. It cannot be combined with `subscription_id`.
        event_type: Query<Option<String>>,
        /// The beginning of the span, such as `2026-01-31T09:00:00Z` (RFC 3339), at most 400 days ago; 24 hours before
        /// `until` where absent. It is rounded down to a full minute, and to a full hour where it is more than 3 days
        /// ago.
        since: Query<Option<DateTime<Utc>>>,
        /// The end of the span (RFC 3339); now where absent.
        until: Query<Option<DateTime<Utc>>>,
    ) -> Result<Json<TotalsView>, ApiError> {
        let (tenant_id, subscription_id, event_type) = (tenant_id.0, subscription_id.0, event_type.0);
        let asked = Asked { tenant_id, subscription_id, event_type, since: since.0, until: until.0 };
        let filter = self.filter(&key, asked).await?;
        Ok(Json(TotalsView::of(&stats::totals(&self.0.pool, &filter, Utc::now()).await?)))
    }

    /// Get a series
    ///
    /// The same numbers as `GET /stats`, one point for each minute, hour or day (UTC), the oldest first. A point where
    /// nothing happened is there as well.
    #[oai(path = "/stats/history", method = "get", operation_id = "get_stats_history")]
    async fn history(
        &self,
        key: Key<Read>,
        /// The span of a point: `1m`, `1h` or `1d`; `1h` where absent. A series has at most 1500 points.
        step: Query<Option<String>>,
        tenant_id: Query<Option<String>>,
        subscription_id: Query<Option<String>>,
        /// Only accepted events of this type, such as `order.created`; attempts are not counted by type, so they are
        /// left out. It cannot be combined with `subscription_id`.
        event_type: Query<Option<String>>,
        /// The beginning of the span (RFC 3339), at most 400 days ago, and at most 3 days for minutes; 24 hours before
        /// `until` where absent. It is rounded down to a full step.
        since: Query<Option<DateTime<Utc>>>,
        /// The end of the span (RFC 3339); now where absent. It is rounded up to a full step.
        until: Query<Option<DateTime<Utc>>>,
    ) -> Result<Json<HistoryView>, ApiError> {
        let (tenant_id, subscription_id, event_type) = (tenant_id.0, subscription_id.0, event_type.0);
        let asked = Asked { tenant_id, subscription_id, event_type, since: since.0, until: until.0 };
        let step = parsed("step", step.0.as_deref())?.unwrap_or(Step::Hour);
        let filter = self.filter(&key, asked).await?;
        Ok(Json(HistoryView::of(step, &stats::history(&self.0.pool, &filter, step, Utc::now()).await?)))
    }

    /// Get causes of failures
    ///
    /// Why attempts failed, by subscription and cause, the most frequent first, at most 100.
    #[oai(path = "/stats/causes", method = "get", operation_id = "get_stats_causes")]
    async fn causes(
        &self,
        key: Key<Read>,
        tenant_id: Query<Option<String>>,
        subscription_id: Query<Option<String>>,
        /// The beginning of the span (RFC 3339), at most 30 days ago; 24 hours before `until` where absent. It is
        /// rounded down to full ten minutes.
        since: Query<Option<DateTime<Utc>>>,
        /// The end of the span (RFC 3339); now where absent. Ten minutes that have begun before it are counted whole.
        until: Query<Option<DateTime<Utc>>>,
    ) -> Result<Json<CausesView>, ApiError> {
        let (tenant_id, subscription_id) = (tenant_id.0, subscription_id.0);
        let asked = Asked { tenant_id, subscription_id, event_type: None, since: since.0, until: until.0 };
        let filter = self.filter(&key, asked).await?;
        Ok(Json(CausesView::of(&causes::causes(&self.0.pool, &filter, Utc::now()).await?)))
    }

    /// Get totals of a subscription
    ///
    /// The same numbers as `GET /stats` with a `subscription_id`.
    #[oai(path = "/subscriptions/:id/stats", method = "get", operation_id = "get_subscription_stats")]
    async fn of_subscription(
        &self,
        key: Key<Read>,
        id: Path<String>,
        /// The beginning of the span (RFC 3339), at most 400 days ago; 24 hours before `until` where absent.
        since: Query<Option<DateTime<Utc>>>,
        /// The end of the span (RFC 3339); now where absent.
        until: Query<Option<DateTime<Utc>>>,
    ) -> Result<Json<TotalsView>, ApiError> {
        let subscription: SubscriptionId = key.find(&self.0.pool, &id.0).await?;
        let span = span(since.0, until.0)?;
        let filter = Filter { subscription: Some(subscription), span, ..Filter::default() };
        Ok(Json(TotalsView::of(&stats::totals(&self.0.pool, &filter, Utc::now()).await?)))
    }
}

impl StatsApi {
    async fn filter(&self, access: &Access, asked: Asked) -> Result<Filter, ApiError> {
        let subscription = asked.subscription_id.as_deref();
        Ok(Filter {
            tenant_id: access.lists(asked.tenant_id.as_deref())?,
            subscription: access.find_named(&self.0.pool, "subscription_id", subscription).await?,
            event_type: parsed::<EventType>("event_type", asked.event_type.as_deref())?,
            span: span(asked.since, asked.until)?,
        })
    }
}
