//! Events: what producers post. Immutable once accepted; the payload is kept byte for byte.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    Error, Result,
    event_type::EventType,
    id::{EventId, SubscriptionId},
    subscription::Page,
};

/// Characters of a content type, at most.
pub const CONTENT_TYPE_CHARACTERS_MAX: usize = 255;
/// The content type of a payload that came without one (RFC 9110 §8.3).
pub const CONTENT_TYPE_DEFAULT: &str = "application/octet-stream";

/// An event about to be accepted.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// Its id.
    pub id: EventId,
    /// Whose it is.
    pub tenant_id: String,
    /// Its type.
    pub event_type: EventType,
    /// The subscription it was posted to.
    pub posted_to: Option<SubscriptionId>,
    /// What its payload is; a valid header value.
    pub content_type: String,
    /// Byte for byte what arrived.
    pub payload: Bytes,
}

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
    /// What its payload is.
    pub content_type: String,
    /// Bytes of its payload.
    pub payload_bytes: i32,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
}

/// One event.
pub async fn get(pool: &PgPool, id: EventId) -> Result<Event> {
    let event = sqlx::query_as!(
        Event,
        r#"SELECT id, tenant_id, event_type, subscription_id, content_type, length(payload) AS "payload_bytes!",
                  created_at
             FROM events WHERE id = $1"#,
        id.0
    );
    event.fetch_optional(pool).await?.ok_or(Error::NotFound("event"))
}

/// The content type and the bytes of an event's payload.
pub async fn payload(pool: &PgPool, id: EventId) -> Result<(String, Vec<u8>)> {
    let event = sqlx::query!("SELECT content_type, payload FROM events WHERE id = $1", id.0);
    let event = event.fetch_optional(pool).await?.ok_or(Error::NotFound("event"))?;
    Ok((event.content_type, event.payload))
}

/// Events, the newest first, optionally of one type.
pub async fn list(pool: &PgPool, event_type: Option<&EventType>, page: Page) -> Result<Vec<Event>> {
    let events = sqlx::query_as!(
        Event,
        r#"SELECT id, tenant_id, event_type, subscription_id, content_type, length(payload) AS "payload_bytes!",
                  created_at
             FROM events
            WHERE ($1::uuid IS NULL OR id < $1) AND ($2::text IS NULL OR event_type = $2)
            ORDER BY id DESC
            LIMIT $3"#,
        page.before,
        event_type.map(EventType::as_str),
        page.limit
    );
    Ok(events.fetch_all(pool).await?)
}
