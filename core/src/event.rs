//! Events: what producers post. Immutable once accepted; the payload is kept byte for byte.

pub mod audience;
pub mod event_type;
pub mod filter;
pub mod idempotency;
pub mod metadata;
pub mod new_event;

use chrono::{DateTime, Utc};
use sqlx::{PgExecutor, PgPool, types::Json};
use uuid::Uuid;

use crate::{
    Error, Result,
    event::{event_type::EventType, metadata::Metadata},
    id::{EventId, SubscriptionId},
    page::{EXAMINED_MAX, Found, Page, Span},
};

/// The content type of a payload that came without one (RFC 9110 §8.3).
pub const CONTENT_TYPE_DEFAULT: &str = "application/octet-stream";
/// The content type of a payload that came as a JSON value inside something else.
pub const CONTENT_TYPE_JSON: &str = "application/json";

/// An accepted event, without its payload.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its id.
    pub id: Uuid,
    /// Whose it is.
    pub tenant_id: String,
    /// Its type.
    pub event_type: String,
    /// The subscription it was posted to.
    pub subscription_id: Option<Uuid>,
    /// Whether it is for one URL, without a subscription.
    pub is_inline: bool,
    /// What its payload is.
    pub content_type: String,
    /// Bytes of its payload.
    pub payload_bytes: i32,
    /// Its producer's notes.
    pub metadata: Option<Json<Metadata>>,
    /// Its producer's own id for it.
    pub external_id: Option<String>,
    /// What it is to be kept in order with.
    pub ordering_key: Option<String>,
    /// When its deliveries are due; `None` for at once.
    pub deliver_at: Option<DateTime<Utc>>,
    /// From when on nobody wants it any more.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
}

/// Which events a list shows.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only this tenant's.
    pub tenant_id: Option<String>,
    /// Only those of exactly this type.
    pub event_type: Option<EventType>,
    /// Only those that were posted to this subscription.
    pub subscription: Option<SubscriptionId>,
    /// Only those with these entries in their metadata.
    pub metadata: Option<Metadata>,
    /// Only those of this time.
    pub span: Span,
}

/// One event.
pub async fn get(pool: &PgPool, id: EventId) -> Result<Event> {
    views(pool, &[id.0]).await?.pop().ok_or(Error::NotFound("event"))
}

/// The content type and the bytes of an event's payload.
pub async fn payload(executor: impl PgExecutor<'_>, id: EventId) -> Result<(String, Vec<u8>)> {
    let event = sqlx::query!("SELECT content_type, payload FROM events WHERE id = $1", id.0);
    let event = event.fetch_optional(executor).await?.ok_or(Error::NotFound("event"))?;
    Ok((event.content_type, event.payload))
}

/// Events, the newest first. Tenant and type are found by an index, the rest among the rows that are looked at.
pub async fn list(pool: &PgPool, filter: &Filter, page: Page) -> Result<Found<Event>> {
    let (first, end) = filter.span.ids();
    let asks_more = filter.subscription.is_some() || filter.metadata.is_some();
    let examined_max = if asks_more { EXAMINED_MAX } else { page.limit };
    let rows = sqlx::query!(
        r#"WITH looked_at AS MATERIALIZED (
               SELECT id, subscription_id, metadata FROM events
                WHERE ($1::text IS NULL OR tenant_id = $1) AND ($2::text IS NULL OR event_type = $2)
                  AND ($3::uuid IS NULL OR id >= $3) AND ($4::uuid IS NULL OR id < $4) AND ($5::uuid IS NULL OR id < $5)
                ORDER BY id DESC LIMIT $6)
           (SELECT id AS "id!", false AS "last!" FROM looked_at
             WHERE ($7::uuid IS NULL OR subscription_id = $7) AND ($8::jsonb IS NULL OR metadata @> $8)
             ORDER BY id DESC LIMIT $9)
           UNION ALL
           (SELECT id, true FROM looked_at ORDER BY id DESC OFFSET $6 - 1 LIMIT 1)"#,
        filter.tenant_id,
        filter.event_type.as_ref().map(EventType::as_str),
        first,
        end,
        page.before,
        examined_max,
        filter.subscription.map(|id| id.0),
        filter.metadata.as_ref().map(Json) as _,
        page.limit,
    );
    let rows = rows.fetch_all(pool).await?;
    let (ids, examined_to) = page.split(rows.into_iter().map(|row| (row.id, row.last)));
    Ok(Found { items: views(pool, &ids).await?, examined_to })
}

async fn views(pool: &PgPool, ids: &[Uuid]) -> Result<Vec<Event>> {
    let events = sqlx::query_as!(
        Event,
        r#"SELECT e.id, e.tenant_id, e.event_type, e.subscription_id, e.is_inline, e.content_type,
                  length(e.payload) AS "payload_bytes!", e.metadata AS "metadata: _", e.external_id, e.ordering_key,
                  e.deliver_at, e.expires_at, e.created_at
             FROM unnest($1::uuid[]) AS i (id)
            CROSS JOIN LATERAL (SELECT * FROM events x WHERE x.id = i.id OFFSET 0) e
            ORDER BY e.id DESC
            LIMIT 1000"#,
        ids
    );
    Ok(events.fetch_all(pool).await?)
}
