//! What `POST /events` and `POST /events/batch` do: they read the request, have the core publish it, and write the
//! answer.

use chrono::Utc;
use poem_openapi::{ApiResponse, Object, payload::Json};
use postrider_core::accept::{AcceptedEvent, RequestKey};

use crate::{
    access::Access,
    app::App,
    events::body::{BatchInput, EventInput},
    serve::{body::JsonBody, idempotency::KEY_NAME, problem::ApiError, request_trace::RequestTrace},
};

/// An event that was accepted.
#[derive(Debug, Object)]
#[oai(rename = "PublishedEvent")]
pub struct Published {
    /// The event's id, such as `evt_0198c0de2f3a7b1c9d4e5f60718293a4`. Its receivers see it as the header `webhook-id`.
    event_id: String,
    /// The ids of the deliveries that the event caused; empty where no subscription wants it.
    delivery_ids: Vec<String>,
}

/// Events that were accepted.
#[derive(Debug, Object)]
pub struct PublishedBatch {
    /// One entry for each event, in the order in which they were sent.
    data: Vec<Published>,
}

/// The answer to an accepted event.
#[derive(Debug, ApiResponse)]
pub enum PublishResponse {
    /// The event is on disk, with all its deliveries. Nothing that was answered so is lost.
    #[oai(status = 202)]
    Accepted(Json<Published>),
}

/// The answer to accepted events.
#[derive(Debug, ApiResponse)]
pub enum BatchResponse {
    /// The events are on disk, with all their deliveries. Nothing that was answered so is lost.
    #[oai(status = 202)]
    Accepted(Json<PublishedBatch>),
}

/// Publishes the one event of `POST /events`.
///
/// # Errors
/// Those of the route `POST /events`.
pub async fn one(
    app: &App,
    access: &Access,
    header: Option<&str>,
    trace: &RequestTrace,
    body: JsonBody<EventInput>,
) -> Result<Published, ApiError> {
    let tenant = access.creates_for(body.value.tenant_id.as_deref())?;
    let event = body.value.into_core(tenant, &body.bytes, trace);
    let accepted = app.acceptor.publish(event, header, Utc::now()).await.map_err(|error| error.renamed(&[KEY_NAME]))?;
    trace.accepted(&accepted);
    Ok(Published::of(&accepted))
}

/// Publishes all events of `POST /events/batch` in one transaction: all of them or none.
///
/// # Errors
/// Those of the route `POST /events/batch`.
pub async fn many(
    app: &App,
    access: &Access,
    header: Option<&str>,
    trace: &RequestTrace,
    body: JsonBody<BatchInput>,
) -> Result<PublishedBatch, ApiError> {
    let events = body.value.events.into_iter().map(|event| {
        let tenant = access.creates_for(event.tenant_id.as_deref())?;
        Ok(event.into_core(tenant, &body.bytes, trace))
    });
    let events = events.collect::<Result<Vec<_>, ApiError>>()?;
    let key = header.map(|text| RequestKey { text, asked: &body.bytes });
    let accepted = app.acceptor.publish_many(events, key, Utc::now()).await;
    let accepted = accepted.map_err(|error| error.renamed(&[KEY_NAME]))?;
    trace.accepted_many(accepted.len());
    Ok(PublishedBatch { data: accepted.iter().map(Published::of).collect() })
}

impl Published {
    fn of(accepted: &AcceptedEvent) -> Self {
        Self {
            event_id: accepted.event_id.to_string(),
            delivery_ids: accepted.delivery_ids.iter().map(ToString::to_string).collect(),
        }
    }
}
