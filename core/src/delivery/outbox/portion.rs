//! What one transaction of a fan-out stores.

use std::{collections::HashMap, sync::Arc};

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use uuid::Uuid;

use crate::{
    Error, Result,
    event::{
        CONTENT_TYPE_JSON,
        audience::{Audience, FilterVerdicts},
        event_type::EventType,
        metadata::Metadata,
        new_event::NewEvent,
        trace_context::TraceContext,
    },
    id::{EventId, SubscriptionId},
};

/// Deliveries that one transaction makes, at most.
pub(super) const DELIVERIES_PER_STEP_MAX: usize = 10_000;

/// A row of the outbox.
pub(super) struct Row {
    pub(super) event_id: Uuid,
    pub(super) tenant_id: String,
    pub(super) event_type: String,
    pub(super) payload: Vec<u8>,
    pub(super) metadata: Option<Json<Metadata>>,
    pub(super) ordering_key: Option<String>,
    pub(super) deliver_at: Option<DateTime<Utc>>,
    pub(super) expires_at: Option<DateTime<Utc>>,
    pub(super) traceparent: Option<String>,
    pub(super) tracestate: Option<String>,
    pub(super) fanned_out_to: Option<Uuid>,
}

/// Tenants' audiences, by the tenants.
pub(super) type Audiences = HashMap<String, Arc<Audience>>;

/// An event, and the decisions of the filters.
pub(super) struct Judged {
    pub(super) event: NewEvent,
    pub(super) verdicts: FilterVerdicts,
}

/// What one transaction stores.
pub(super) enum Portion {
    /// Events with all their deliveries.
    Whole(Vec<Judged>),
    /// The next part of an event that is too wide for one transaction: its deliveries to these subscriptions and on.
    Part { begun_to: Option<Uuid>, judged: Box<Judged>, wanting: Vec<SubscriptionId> },
}

/// What one transaction stores of these events: as many of them, from the first on, as fit with all their deliveries;
/// or else a part of the first one. The next step begins with the event that did not fit.
pub(super) fn portion(rows: Vec<Row>, audiences: &Audiences) -> Result<Portion> {
    let mut whole = Vec::new();
    let mut room = DELIVERIES_PER_STEP_MAX;
    for row in rows {
        let (begun_to, mut event) = (row.fanned_out_to, event_of(row)?);
        let Some(audience) = audiences.get(&event.tenant_id) else {
            return Err(Error::internal("an event was taken whose tenant's audience has not been read"));
        };
        let (mut wanting, verdicts) = audience.judge(&event.facts(), usize::MAX);
        wanting.retain(|id| begun_to.is_none_or(|to| id.0 > to));
        if begun_to.is_none() && wanting.len() <= room {
            room -= wanting.len();
            event.deliver_to(wanting);
            whole.push(Judged { event, verdicts });
        } else if whole.is_empty() {
            return Ok(Portion::Part { begun_to, judged: Box::new(Judged { event, verdicts }), wanting });
        } else {
            break;
        }
    }
    Ok(Portion::Whole(whole))
}

fn event_of(row: Row) -> Result<NewEvent> {
    let event_type: EventType = row.event_type.parse().map_err(Error::internal)?;
    // publish() has stored what its caller named, whatever it is.
    let trace = row.traceparent.and_then(|parent| TraceContext::parse(&parent, row.tracestate.as_deref()));
    Ok(NewEvent {
        id: EventId(row.event_id),
        metadata: row.metadata.map(|metadata| metadata.0).unwrap_or_default(),
        ordering_key: row.ordering_key,
        deliver_at: row.deliver_at,
        expires_at: row.expires_at,
        trace,
        ..NewEvent::new(row.tenant_id, event_type, CONTENT_TYPE_JSON.to_owned(), row.payload.into())
    })
}
