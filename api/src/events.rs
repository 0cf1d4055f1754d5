//! `/events`: what was accepted, and its payload as it came.

use chrono::{DateTime, Utc};
use poem_openapi::{
    ApiResponse, Object, OpenApi,
    param::{Path, Query},
    payload::{Binary, Json},
};
use postrider_core::{
    event::{self, Event},
    id::{EventId, SubscriptionId},
};

use crate::{
    App, Tag,
    auth::Admin,
    find,
    list::{List, Wanted},
    problem::ApiError,
};

/// The event routes.
pub struct EventsApi(pub App);

/// An accepted event, without its payload.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
pub struct EventView {
    /// Its id; receivers see it as `webhook-id`.
    id: String,
    /// Whose it is.
    tenant_id: String,
    /// Its type.
    event_type: String,
    /// The subscription it was posted to, where it was posted to one.
    subscription_id: Option<String>,
    /// What its payload is.
    content_type: String,
    /// Bytes of its payload.
    payload_bytes: u32,
    /// When it was accepted.
    created_at: DateTime<Utc>,
}

/// An event's payload.
#[derive(Debug, ApiResponse)]
pub enum PayloadResponse {
    /// Byte for byte what was accepted.
    #[oai(status = 200)]
    Payload(
        Binary<Vec<u8>>,
        /// The content type it came with. The answer itself is sent as a download of no particular type, so that no
        /// browser runs it.
        #[oai(header = "X-Payload-Content-Type")]
        String,
    ),
}

#[OpenApi(tag = "Tag::Events")]
impl EventsApi {
    /// List events
    #[oai(path = "/events", method = "get", operation_id = "list_events")]
    async fn list(
        &self,
        _admin: Admin,
        /// Only events of exactly this type.
        event_type: Query<Option<String>>,
        /// Items of a page, 1 to 250; 50 where absent.
        limit: Query<Option<u32>>,
        /// The `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Json<List<EventView>>, ApiError> {
        let event_type = event_type.0.map(|text| text.parse()).transpose();
        let event_type = event_type.map_err(|why: String| ApiError::invalid("event_type", why))?;
        let wanted = Wanted::parse(limit.0, cursor.0.as_deref(), |id: EventId| id.0)?;
        let found = event::list(&self.0.pool, event_type.as_ref(), wanted.page()).await?;
        Ok(Json(wanted.list(found, |one| EventId(one.id), view)))
    }

    /// Get an event
    #[oai(path = "/events/:id", method = "get", operation_id = "get_event")]
    async fn get(&self, _admin: Admin, id: Path<String>) -> Result<Json<EventView>, ApiError> {
        Ok(Json(view(&event::get(&self.0.pool, find(&id.0, "event")?).await?)))
    }

    /// Get an event's payload
    #[oai(path = "/events/:id/payload", method = "get", operation_id = "get_event_payload")]
    async fn payload(&self, _admin: Admin, id: Path<String>) -> Result<PayloadResponse, ApiError> {
        let (content_type, payload) = event::payload(&self.0.pool, find(&id.0, "event")?).await?;
        Ok(PayloadResponse::Payload(Binary(payload), content_type))
    }
}

fn view(event: &Event) -> EventView {
    EventView {
        id: EventId(event.id).to_string(),
        tenant_id: event.tenant_id.clone(),
        event_type: event.event_type.clone(),
        subscription_id: event.subscription_id.map(|id| SubscriptionId(id).to_string()),
        content_type: event.content_type.clone(),
        payload_bytes: event.payload_bytes.unsigned_abs(),
        created_at: event.created_at,
    }
}
