//! What `POST /events` and `POST /events/batch` do: publish once, reach everyone who wants it. The answer is sent after
//! the commit that stores the event with everything it owes.

use chrono::Utc;
use poem_openapi::{ApiResponse, Object, payload::Json};
use postrider_core::{
    Error,
    event::idempotency::{self, fingerprint},
    id::{DeliveryId, EventId},
    queue::accept::{Accepted, NewEvent},
    validation::Problems,
};

use crate::{
    access::Access,
    app::App,
    events::body::{BatchInput, EventInput, RequestKey, Rules},
    serve::{body::JsonBody, problem::ApiError},
};

/// An accepted event.
#[derive(Debug, Object)]
pub struct Published {
    /// The event's id; its receivers see it as `webhook-id`.
    event_id: String,
    /// The deliveries it caused; empty where no subscription wants it.
    delivery_ids: Vec<String>,
}

/// Accepted events, in the order in which they were sent.
#[derive(Debug, Object)]
pub struct PublishedBatch {
    /// One for each event.
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
    /// The events are on disk, with all their deliveries.
    #[oai(status = 202)]
    Accepted(Json<PublishedBatch>),
}

/// Stores one event with everything it owes.
///
/// # Errors
/// As the route.
pub async fn one(
    app: &App,
    access: &Access,
    header: Option<&str>,
    body: JsonBody<EventInput>,
) -> Result<Published, ApiError> {
    let tenant = access.creates_for(body.value.tenant_id.as_deref())?;
    let mut problems = Problems::default();
    let request_key = header.map(|text| RequestKey { text, part: None });
    let now = Utc::now();
    let is_again = is_again(app, &tenant, body.value.key_of_the_past(request_key, now)).await?;
    let rules = Rules { at: "", payload_bytes_max: app.payload_bytes_max, now, is_again };
    let event = body.value.parse(tenant, request_key, rules, &mut problems);
    problems.into_result()?;
    let accepted = accept(app, event.into_iter().collect()).await?;
    Ok(accepted.into_iter().next().ok_or_else(|| Error::internal("nothing was stored"))?)
}

/// Stores many events with everything they owe, or none of them.
///
/// # Errors
/// As the route.
pub async fn many(
    app: &App,
    access: &Access,
    header: Option<&str>,
    body: JsonBody<BatchInput>,
) -> Result<PublishedBatch, ApiError> {
    body.value.check()?;
    let whole = fingerprint([b"POST /events/batch", &*body.bytes]);
    let mut problems = Problems::default();
    let mut events = Vec::with_capacity(body.value.events.len());
    for (place, event) in body.value.events.into_iter().enumerate() {
        let tenant = access.creates_for(event.tenant_id.as_deref())?;
        let at = format!("events[{place}].");
        let now = Utc::now();
        let request_key = header.map(|text| RequestKey { text, part: Some((&whole, place)) });
        let is_again = is_again(app, &tenant, event.key_of_the_past(request_key, now)).await?;
        let rules = Rules { at: &at, payload_bytes_max: app.payload_bytes_max, now, is_again };
        events.extend(event.parse(tenant, request_key, rules, &mut problems));
    }
    problems.into_result()?;
    Ok(PublishedBatch { data: accept(app, events).await? })
}

/// Whether a request has been made before, by the key under which it would be remembered.
///
/// # Errors
/// When the database is away.
pub async fn is_again(app: &App, tenant: &str, key: Option<String>) -> Result<bool, ApiError> {
    match key {
        Some(key) => Ok(idempotency::is_known(&app.pool, tenant, &key).await?),
        None => Ok(false),
    }
}

/// Fans events out and stores them.
async fn accept(app: &App, mut events: Vec<NewEvent>) -> Result<Vec<Published>, ApiError> {
    let mut caused = 0;
    for event in &mut events {
        let audience = app.cache.audience(&event.tenant_id).await?;
        if audience.is_slow() {
            let mut moved = event.clone();
            let fanned_out =
                tokio::task::spawn_blocking(move || moved.fan_out(&audience, caused).map(|()| moved)).await;
            *event = fanned_out.map_err(Error::internal)??;
        } else {
            event.fan_out(&audience, caused)?;
        }
        caused += event.deliveries.len();
    }
    let new: Vec<_> = events
        .iter()
        .map(|event| (event.id, event.deliveries.iter().map(|delivery| delivery.id).collect::<Vec<_>>()))
        .collect();
    let accepted = app.intake.accept(events).await?;
    let published = new.into_iter().zip(accepted).map(|((id, deliveries), accepted)| match accepted {
        Accepted::New | Accepted::KeyReused => {
            metrics::counter!("postrider_events_accepted_total").increment(1);
            published(id, &deliveries)
        }
        Accepted::Repeated { event_id, verdict: _, delivery_ids } => published(event_id, &delivery_ids),
    });
    Ok(published.collect())
}

fn published(event_id: EventId, delivery_ids: &[DeliveryId]) -> Published {
    Published { event_id: event_id.to_string(), delivery_ids: delivery_ids.iter().map(ToString::to_string).collect() }
}
