//! Events: what producers post. An event is never changed once accepted; its payload is kept byte for byte.

pub mod audience;
pub mod content_encoding;
pub mod event_type;
pub mod filter;
pub mod find;
pub mod idempotency;
pub mod json;
pub mod metadata;
pub mod new_event;
pub mod operational;
pub mod trace_context;

use chrono::{DateTime, Utc};
use sqlx::{PgExecutor, PgPool, types::Json};
use uuid::Uuid;

use crate::{
    Error, Result,
    event::{
        content_encoding::ContentEncoding, event_type::EventType, metadata::Metadata, trace_context::TraceContext,
    },
    id::{EventId, SubscriptionId},
    page::{EXAMINED_MAX, Found, Page, Range, Span, bounds},
};

/// The content type of a payload that came without one (RFC 9110 §8.3).
pub const CONTENT_TYPE_DEFAULT: &str = "application/octet-stream";
/// The content type of a payload that came as a JSON value within a larger JSON document.
pub const CONTENT_TYPE_JSON: &str = "application/json";

/// An accepted event, without its payload.
#[derive(Clone, Debug)]
pub struct Event {
    /// Identifies the event; receivers see it as `webhook-id`.
    pub id: Uuid,
    /// The tenant to which the event belongs.
    pub tenant_id: String,
    /// The type by which subscriptions choose events, such as `order.created`.
    pub event_type: String,
    /// The subscription to which the event was posted; `None` where it was published or is inline.
    pub subscription_id: Option<Uuid>,
    /// Whether the event is for one URL, without a subscription.
    pub is_inline: bool,
    /// The media type of the payload.
    pub content_type: String,
    /// How the payload was packed before it was posted; `None` where it was not.
    pub content_encoding: Option<String>,
    /// Length of the payload in bytes.
    pub payload_bytes: i32,
    /// The producer's notes on the event.
    pub metadata: Option<Json<Metadata>>,
    /// The producer's own id for the event, if it gave one.
    pub external_id: Option<String>,
    /// Events with the same ordering key are to be delivered in order.
    pub ordering_key: Option<String>,
    /// When the event's deliveries are due; `None` means at once.
    pub deliver_at: Option<DateTime<Utc>>,
    /// When deliveries that have not succeeded are canceled; `None` means never.
    pub expires_at: Option<DateTime<Utc>>,
    /// The value of the header `traceparent` that receivers get where their attempts are not recorded as spans.
    pub traceparent: Option<String>,
    /// The value of the header `tracestate` that belongs to it.
    pub tracestate: Option<String>,
    /// When the event was accepted, by the database's clock.
    pub created_at: DateTime<Utc>,
}

impl Event {
    /// The trace to which the event belongs, if it belongs to one.
    #[must_use]
    pub fn trace(&self) -> Option<TraceContext> {
        TraceContext::from_stored(self.traceparent.clone(), self.tracestate.clone())
    }
}

/// Which events a list shows; an absent field means no restriction.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only events of this tenant.
    pub tenant_id: Option<String>,
    /// Only events of exactly this type.
    pub event_type: Option<EventType>,
    /// Only events that were posted to this subscription.
    pub subscription: Option<SubscriptionId>,
    /// Only events with these entries in their metadata.
    pub metadata: Option<Metadata>,
    /// Only events to which their producers gave this id.
    pub external_id: Option<String>,
    /// Which events are meant by their deliveries.
    pub deliveries: Deliveries,
    /// Only events that were accepted in this span of time.
    pub span: Span,
}

/// Which events are meant by their deliveries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Deliveries {
    /// Events with deliveries, and those without.
    #[default]
    Any,
    /// Events of which there is no delivery: nobody wanted them, or their fan-out is to come.
    None,
}

/// Reads one event, without its payload.
pub async fn get(pool: &PgPool, id: EventId) -> Result<Event> {
    views(pool, &[id.0]).await?.pop().ok_or(Error::NotFound("event"))
}

/// The payload of an event.
#[derive(Clone, Debug)]
pub struct Payload {
    /// The media type of the payload.
    pub content_type: String,
    /// How the payload was packed before it was posted; `None` where it was not.
    pub content_encoding: Option<ContentEncoding>,
    /// The payload, byte for byte as it arrived.
    pub bytes: Vec<u8>,
}

/// Reads an event's payload.
pub async fn payload(executor: impl PgExecutor<'_>, id: EventId) -> Result<Payload> {
    let event = sqlx::query!("SELECT content_type, content_encoding, payload FROM events WHERE id = $1", id.0);
    let event = event.fetch_optional(executor).await?.ok_or(Error::NotFound("event"))?;
    let content_encoding = event.content_encoding.map(ContentEncoding::from_stored);
    Ok(Payload { content_type: event.content_type, content_encoding, bytes: event.payload })
}

/// Lists events, the newest first. An index finds tenant and type; the other conditions are checked row by row.
pub async fn list(pool: &PgPool, filter: &Filter, page: Page) -> Result<Found<Event>> {
    let asks_more = filter.subscription.is_some()
        || filter.metadata.is_some()
        || filter.external_id.is_some()
        || filter.deliveries == Deliveries::None;
    let examined_max = if asks_more { EXAMINED_MAX } else { page.limit };
    let (mut found, mut room) = (Vec::new(), page.limit);
    for range in page.ranges(filter.span) {
        let rows = look(pool, filter, range, examined_max, room).await?;
        let has_stopped = rows.last().is_some_and(|(_, is_last)| *is_last);
        found.extend(rows);
        room = page.limit.saturating_sub_unsigned(found.len() as u64);
        if has_stopped || room <= 0 {
            break;
        }
    }
    let (ids, examined_to) = page.split(found.into_iter());
    Ok(Found { items: views(pool, &ids).await?, examined_to })
}

/// Looks at events, at most `examined_max`: those that fit, at most `limit`, and where there is room the one at which
/// the scan stopped, marked so.
async fn look(
    pool: &PgPool,
    filter: &Filter,
    range: Range,
    examined_max: i64,
    limit: i64,
) -> Result<Vec<(Uuid, bool)>> {
    let rows = sqlx::query!(
        r#"WITH looked_at AS NOT MATERIALIZED (
               SELECT id, subscription_id, metadata, external_id FROM events
                WHERE ($1::text IS NULL OR tenant_id = $1) AND ($2::text IS NULL OR event_type = $2)
                  AND id >= $3 AND id < $4
                ORDER BY id DESC LIMIT $5)
           (SELECT x.id AS "id!", false AS "last!" FROM looked_at x
             WHERE ($6::uuid IS NULL OR x.subscription_id = $6) AND ($7::jsonb IS NULL OR x.metadata @> $7)
               AND ($9::text IS NULL OR x.external_id = $9)
               -- Those that were made with the event stand beside it; only where there is none, replays are looked for.
               AND (NOT $10::boolean
                    OR coalesce((SELECT true FROM deliveries d
                                  WHERE d.id >= (left(x.id::text, 19) || '8000-000000000000')::uuid
                                    AND d.id <= (left(x.id::text, 19) || 'bfff-ffffffffffff')::uuid
                                    AND d.event_id = x.id LIMIT 1),
                                (SELECT true FROM deliveries d
                                  WHERE d.event_id = x.id AND d.is_replay LIMIT 1)) IS NULL)
             ORDER BY x.id DESC LIMIT $8)
           UNION ALL
           (SELECT id, true FROM looked_at ORDER BY id DESC OFFSET $5 - 1 LIMIT 1)
            LIMIT $8"#,
        filter.tenant_id,
        filter.event_type.as_ref().map(EventType::as_str),
        range.first,
        range.end,
        examined_max,
        filter.subscription.map(|id| id.0),
        filter.metadata.as_ref().map(Json) as _,
        limit,
        filter.external_id,
        filter.deliveries == Deliveries::None,
    );
    Ok(rows.fetch_all(pool).await?.into_iter().map(|row| (row.id, row.last)).collect())
}

async fn views(pool: &PgPool, ids: &[Uuid]) -> Result<Vec<Event>> {
    let (first, last) = bounds(ids.iter().copied());
    let events = sqlx::query_as!(
        Event,
        r#"SELECT e.id, e.tenant_id, e.event_type, e.subscription_id, e.is_inline, e.content_type,
                  e.content_encoding, length(e.payload) AS "payload_bytes!", e.metadata AS "metadata: _", e.external_id,
                  e.ordering_key, e.deliver_at, e.expires_at, e.traceparent, e.tracestate, e.created_at
             FROM unnest($1::uuid[]) AS i (id)
            CROSS JOIN LATERAL (SELECT * FROM events x
                                 WHERE x.id = i.id AND x.id >= $2 AND x.id <= $3 OFFSET 0) e
            ORDER BY e.id DESC
            LIMIT 1000"#,
        ids,
        first,
        last
    );
    Ok(events.fetch_all(pool).await?)
}
