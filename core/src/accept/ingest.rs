//! Ingest: an event is posted to one subscription, and that subscription decides who may post. The event is stored even
//! if the subscription does not want it or is disabled, because a provider that relays its webhooks should not see
//! errors because of a filter.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};

use crate::{
    Error, Result,
    accept::{
        AcceptedEvent, Acceptor, KEY_FIELD, Source,
        event_input::{EventInput, Rules},
    },
    event::{
        CONTENT_TYPE_DEFAULT,
        audience::{FilterVerdicts, Judgement, judge},
        content_encoding::ContentEncoding,
        event_type::EventType,
        idempotency::{KeyNamespace, fingerprint, key},
        new_event::{EventKey, NewEvent, Verdict},
        trace_context::TraceContext,
    },
    id::SubscriptionId,
    subscription::{State, Subscription},
};

/// The label with which an ingest fingerprint begins. Stored keys hold fingerprints, so it must never change.
const LABEL: &[u8] = b"POST /webhooks/ingest";

/// A request to a subscription's ingest.
#[derive(Clone, Debug)]
pub struct Posted {
    /// The event's type; [`crate::event::event_type::EVENT_TYPE_DEFAULT`] where absent.
    pub event_type: Option<String>,
    /// The value of the header that the subscription's settings name for event types, as the provider sent it. Where it
    /// is an event type, it comes before `event_type`.
    pub provider_event_type: Option<String>,
    /// The payload's content type; [`CONTENT_TYPE_DEFAULT`] where absent.
    pub content_type: Option<String>,
    /// How the payload was packed before it was posted, if it was: the value of a `Content-Encoding`.
    pub content_encoding: Option<String>,
    /// Events with the same ordering key are to be delivered in order.
    pub ordering_key: Option<String>,
    /// The payload, byte for byte.
    pub payload: Bytes,
    /// The trace to which the event belongs, if it belongs to one.
    pub trace: Option<TraceContext>,
}

/// The two keys by which a repeated request is recognized.
#[derive(Clone, Copy, Debug)]
pub struct IngestKeys<'a> {
    /// The idempotency key that the sender chose, if it sent one.
    pub chosen: Option<&'a str>,
    /// The identity that the request's signature proves ([`crate::trust::inbound_signature::Verified`]), if it was
    /// signed.
    pub signed: Option<&'a str>,
}

impl Acceptor {
    /// Stores an event that is posted to a subscription, and a delivery to it if the subscription wants the event.
    ///
    /// # Errors
    /// Every broken rule; a key that was used for something else; or unavailable.
    pub async fn ingest(
        &self,
        subscription: &Subscription,
        posted: Posted,
        keys: IngestKeys<'_>,
        now: DateTime<Utc>,
    ) -> Result<AcceptedEvent> {
        let content_type = posted.content_type.unwrap_or_else(|| CONTENT_TYPE_DEFAULT.to_owned());
        let input = EventInput {
            content_encoding: posted.content_encoding,
            event_type: event_type_of(subscription, posted.provider_event_type.as_deref(), posted.event_type),
            ordering_key: posted.ordering_key,
            trace: posted.trace,
            ..EventInput::new(subscription.tenant_id.clone(), content_type, posted.payload)
        };
        let rules = Rules { payload_bytes_max: self.payload_bytes_max, now, is_repeated: false };
        let event = input.parse(rules)?;
        let verdict = verdict(subscription, &event);
        let key = key_of(subscription.id, keys).map_err(|why| Error::invalid(KEY_FIELD, why))?;
        let key = key.map(|text| EventKey { text, fingerprint: fingerprint_of(subscription.id, &event), verdict });
        let mut event = NewEvent { posted_to: Some(subscription.id), key, ..event };
        match verdict {
            Verdict::Pending => event.deliver_to([subscription.id]),
            Verdict::Filtered | Verdict::Disabled | Verdict::Unreadable => {}
        }
        let if_new = AcceptedEvent::if_new(&event, verdict);
        let accepted = self.intake.accept(vec![event]).await?.into_iter().next();
        let told = accepted.map(|accepted| if_new.told(accepted, Source::Ingest));
        told.ok_or_else(|| Error::internal("nothing was stored"))
    }
}

/// The event's type as the provider names it, if the subscription's settings say so. Where the provider names none, or
/// something that is no event type, the event is taken all the same, with the type that the request has otherwise: a
/// provider does not send it again in another form.
fn event_type_of(
    subscription: &Subscription,
    named_by_provider: Option<&str>,
    otherwise: Option<String>,
) -> Option<String> {
    if subscription.settings.ingest_event_type_header.is_none() {
        return otherwise;
    }
    let named = named_by_provider.and_then(EventType::named_by_provider);
    if named.is_none() {
        metrics::counter!("postrider_ingest_event_types_missing_total").increment(1);
    }
    named.map(|event_type| event_type.as_str().to_owned()).or(otherwise)
}

fn verdict(subscription: &Subscription, event: &NewEvent) -> Verdict {
    match subscription.state {
        State::Disabled => return Verdict::Disabled,
        State::Active | State::Paused => {}
    }
    let settings = &subscription.settings;
    if !settings.event_types.match_any(&event.event_type) {
        return Verdict::Filtered;
    }
    let judgement = judge(&settings.filters, &event.facts());
    let mut verdicts = FilterVerdicts::default();
    verdicts.note(&settings.filters, &judgement);
    verdicts.count();
    match judgement {
        Judgement::Passed => Verdict::Pending,
        Judgement::Filtered => Verdict::Filtered,
        Judgement::Unreadable(why) => {
            let (event_id, subscription_id) = (event.id, subscription.id);
            let trace_id = event.trace.as_ref().map(TraceContext::trace_id);
            tracing::info!(%event_id, %subscription_id, trace_id, %why, "a filter cannot read the payload of an event");
            Verdict::Unreadable
        }
    }
}

/// The key under which a repeated request is found: the sender's own key, or the one from the signature. The sender's
/// key is not covered by the signature, so it cannot take that one's place where a signature must keep replays out.
fn key_of(subscription: SubscriptionId, keys: IngestKeys<'_>) -> std::result::Result<Option<String>, String> {
    match (keys.chosen, keys.signed) {
        (None, None) => Ok(None),
        (Some(chosen), None) => key(KeyNamespace::EventHeader, chosen).map(Some),
        (None, Some(signed)) => {
            key(KeyNamespace::Signature(subscription), &hex::encode(Sha256::digest(signed))).map(Some)
        }
        (Some(_), Some(_)) => Err("cannot be used beside a signature with a timestamp, which makes a request that is \
                                   sent again the same by itself"
            .to_owned()),
    }
}

fn fingerprint_of(subscription: SubscriptionId, event: &NewEvent) -> [u8; 32] {
    fingerprint([
        LABEL,
        subscription.0.as_bytes().as_slice(),
        event.event_type.as_str().as_bytes(),
        event.content_type.as_bytes(),
        event.ordering_key.as_deref().unwrap_or_default().as_bytes(),
        &event.payload,
        event.content_encoding.as_ref().map_or("", ContentEncoding::as_str).as_bytes(),
    ])
}
