//! The span of an attempt: what it tells, by the names of the semantic conventions for HTTP clients and for messaging,
//! and our own ids. The target's path and query are left out, because the URLs of webhooks often hold secrets.

use postrider_core::{
    delivery::destination::Destination,
    id::{DeliveryId, EventId, SubscriptionId},
    queue::{
        Claimed,
        attempt::{ErrorKind, Outcome},
        payload::ClaimedEvent,
    },
};
use traces::{Beginning, Kind, Span, Traces};
use uuid::Uuid;

/// Begins the span of an attempt, in the trace to which the event belongs; `None` where traces are off.
#[must_use]
pub fn begin(traces: &Traces, claimed: &Claimed, to: Destination<'_>, event: Option<&ClaimedEvent>) -> Option<Span> {
    let beginning = Beginning {
        name: "POST",
        kind: Kind::Client,
        after: event.and_then(|event| event.trace.as_ref()),
        trace_id: Some(trace_id_of(claimed.event_id)),
    };
    let mut span = traces.begin(beginning)?;
    if span.is_recorded() {
        describe(&mut span, claimed, to, event);
    }
    Some(span)
}

fn describe(span: &mut Span, claimed: &Claimed, to: Destination<'_>, event: Option<&ClaimedEvent>) {
    let url = to.target_url.as_url();
    span.tell("http.request.method", "POST");
    span.tell("server.address", url.host_str().unwrap_or_default().to_owned());
    if let Some(port) = url.port_or_known_default() {
        span.tell("server.port", i64::from(port));
    }
    span.tell("url.scheme", url.scheme().to_owned());
    if claimed.attempt_number > 1 {
        span.tell("http.request.resend_count", i64::from(claimed.attempt_number - 1));
    }
    let event_id = EventId(claimed.event_id).to_string();
    span.tell("messaging.system", "postrider");
    span.tell("messaging.operation.name", "attempt");
    span.tell("messaging.message.id", event_id.clone());
    if let Some(event) = event {
        span.tell("messaging.destination.name", event.event_type.clone());
        span.tell("messaging.message.body.size", i64::try_from(event.payload.len()).unwrap_or(i64::MAX));
        span.tell("postrider.tenant_id", event.tenant_id.clone());
    }
    if let Some(id) = claimed.subscription_id {
        let id = SubscriptionId(id).to_string();
        span.tell("messaging.destination.subscription.name", id.clone());
        span.tell("postrider.subscription_id", id);
    }
    span.tell("postrider.event_id", event_id);
    span.tell("postrider.delivery_id", DeliveryId(claimed.delivery_id).to_string());
    span.tell("postrider.attempt", i64::from(claimed.attempt_number));
}

/// Ends the span of an attempt with what came of it.
pub fn end(mut span: Span, outcome: &Outcome) {
    if !span.is_recorded() {
        return;
    }
    if let Some(response) = &outcome.response {
        span.tell("http.response.status_code", i64::from(response.status_code));
    }
    if let Some(peer) = outcome.phases.peer {
        span.tell("network.peer.address", peer.to_string());
    }
    if let Some(failure) = &outcome.failure {
        match (&outcome.response, failure.kind) {
            // The convention wants the status, and no message beside it.
            (Some(response), ErrorKind::HttpStatus) => span.fail(response.status_code.to_string(), ""),
            (_, kind) => span.fail(kind.as_str(), failure.message.clone()),
        }
    }
}

/// The trace of an event that came without one. Made of the event's id, it is the same for all attempts of all its
/// deliveries. A sampler compares its second half with a share of all numbers, so the id's bits are mixed there: the
/// first of them are always the same.
fn trace_id_of(event: Uuid) -> u128 {
    /// 2^64 divided by the golden ratio: the product's first bits depend on all bits of the factor.
    const MIXING: u64 = 0x9E37_79B9_7F4A_7C15;
    let (first, second) = event.as_u64_pair();
    (u128::from(first) << 64) | u128::from(second.wrapping_mul(MIXING))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_of_events_without_one_are_spread_evenly() {
        let ids: Vec<_> = (0..4000).map(|_| trace_id_of(EventId::new().0)).collect();
        let low = |id: &u128| u64::try_from(id & u128::from(u64::MAX)).expect("64 bits");
        for quarter in 0..4 {
            let count = ids.iter().filter(|id| low(id) >> 62 == quarter).count();
            assert!((800..1200).contains(&count), "{count} of 4000 in quarter {quarter}");
        }
        let event = EventId::new().0;
        assert_eq!(trace_id_of(event), trace_id_of(event));
    }
}
