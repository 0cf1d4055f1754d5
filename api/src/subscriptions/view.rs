//! Subscriptions as answers show them. Only the answers that create or rotate a secret show it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use poem_openapi::{Enum, Object};
use postrider_core::{
    access::ingest_limit::RateLimit,
    name::Name,
    subscription::{
        State, Subscription,
        counts::Counts,
        flow_settings::{DeliveryRate, DisableAfter, FlowSettings, MaxInFlight},
    },
};

use crate::subscriptions::{
    body::FiltersBody,
    flow_body::{CircuitBody, OrderingName},
    retry_policy_body::RetryPolicyBody,
    signature_body::{IngestAuthName, IngestSignatureView, SignatureSchemeName},
};

/// Whether deliveries are made: `active` accepts and delivers events; `paused` accepts events, which wait; `disabled`
/// stores new events and does not deliver them, and what was waiting waits on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case", rename = "SubscriptionState")]
pub enum StateName {
    /// Events are accepted and delivered.
    Active,
    /// Events are accepted and wait.
    Paused,
    /// Events are stored and not delivered; what was waiting waits on.
    Disabled,
}

/// What waits for a subscription, and what was given up.
#[derive(Clone, Copy, Debug, Object)]
#[oai(rename = "SubscriptionCounts")]
pub struct CountsView {
    /// Deliveries that are not finished; 1000 means that many or more.
    waiting: u32,
    /// Dead letters that nobody has resolved, among the newest 1000.
    dead_letters: u32,
}

impl CountsView {
    fn of(counts: Counts) -> Self {
        let small = |count: i64| u32::try_from(count).unwrap_or(u32::MAX);
        Self { waiting: small(counts.waiting), dead_letters: small(counts.dead) }
    }
}

/// A subscription: which events go to which URL, and how.
#[derive(Debug, Object)]
#[oai(rename = "Subscription")]
pub struct SubscriptionView {
    /// The subscription's id, such as `sub_0198c0de2f3a7b1c9d4e5f60718293a4`.
    pub id: String,
    /// The tenant that the subscription belongs to.
    pub tenant_id: String,
    /// What the subscription is called by people.
    #[oai(skip_serializing_if_is_none)]
    pub name: Option<String>,
    /// Where deliveries go.
    pub target_url: String,
    /// Patterns of the event types that the subscription wants, such as `order.*`. An empty list means every type.
    pub event_types: Vec<String>,
    /// What else an event must be like.
    pub filters: FiltersBody,
    /// Headers that are sent with each attempt; the values of those that sound secret as `[redacted]`.
    pub headers: BTreeMap<String, String>,
    /// Your own notes.
    pub metadata: BTreeMap<String, String>,
    /// When a failed delivery is tried again.
    pub retry_policy: RetryPolicyBody,
    /// Milliseconds that an attempt may take.
    pub timeout_ms: u32,
    /// Whether deliveries are made.
    pub state: StateName,
    /// Why the subscription is disabled, where Postrider has done it.
    #[oai(skip_serializing_if_is_none)]
    pub disabled_reason: Option<String>,
    /// Until when deliveries wait because the receiver answered 429 or 503, with or without `Retry-After` (RFC 3339);
    /// absent where they do not. It ends at once with a new `target_url`, and with a retry by hand.
    #[oai(skip_serializing_if_is_none)]
    pub rests_until: Option<DateTime<Utc>>,
    /// How deliveries are signed.
    pub signature_scheme: SignatureSchemeName,
    /// What deliveries are signed with; only in the answer that has created or rotated it.
    #[oai(skip_serializing_if_is_none)]
    pub secret: Option<String>,
    /// What verifies the deliveries, `whpk_` and base64; only with the scheme `standard_v1a`.
    #[oai(skip_serializing_if_is_none)]
    pub public_key: Option<String>,
    /// What opens `POST /webhooks/ingest/{id}`.
    pub ingest_auth: IngestAuthName,
    /// Whose signatures `POST /webhooks/ingest/{id}` takes; absent where that was not said.
    #[oai(skip_serializing_if_is_none)]
    pub ingest_signature: Option<IngestSignatureView>,
    /// The header from which `POST /webhooks/ingest/{id}` takes an event's type; absent where that is `X-Event-Type`.
    #[oai(skip_serializing_if_is_none)]
    pub ingest_event_type_header: Option<String>,
    /// How many requests a second `POST /webhooks/ingest/{id}` takes; absent where there is no limit.
    #[oai(skip_serializing_if_is_none)]
    pub ingest_rate_limit_per_second: Option<u32>,
    /// When deliveries are held back because the receiver keeps failing; `null` where the circuit is switched off.
    #[oai(nullable)]
    pub circuit: Option<CircuitBody>,
    /// How many attempts a second the receiver gets, over all workers, such as 0.5; absent where there is no limit.
    #[oai(skip_serializing_if_is_none)]
    pub rate_limit_per_second: Option<f64>,
    /// How many attempts may come at once after a pause; absent where there is no rate limit.
    #[oai(skip_serializing_if_is_none)]
    pub rate_limit_burst: Option<u32>,
    /// How many attempts may be under way at the same time, over all workers; absent where there is no limit.
    #[oai(skip_serializing_if_is_none)]
    pub max_in_flight: Option<u32>,
    /// The order in which deliveries are made.
    pub ordering: OrderingName,
    /// After how many days of nothing but failures Postrider disables the subscription; `null` means never.
    #[oai(nullable)]
    pub disable_after_days: Option<u32>,
    /// When the subscription was created (RFC 3339).
    pub created_at: DateTime<Utc>,
    /// When the subscription last changed (RFC 3339).
    pub updated_at: DateTime<Utc>,
    /// What waits for it and what was given up; only in a list that was asked for with `counts=true`.
    #[oai(skip_serializing_if_is_none)]
    pub counts: Option<CountsView>,
    /// Attempts that failed in the last hour, through the receiver or its target; only in a list with `sort=failures`.
    #[oai(skip_serializing_if_is_none)]
    pub failed_attempts: Option<u64>,
}

impl From<State> for StateName {
    fn from(state: State) -> Self {
        match state {
            State::Active => Self::Active,
            State::Paused => Self::Paused,
            State::Disabled => Self::Disabled,
        }
    }
}

impl From<StateName> for State {
    fn from(name: StateName) -> Self {
        match name {
            StateName::Active => Self::Active,
            StateName::Paused => Self::Paused,
            StateName::Disabled => Self::Disabled,
        }
    }
}

/// In which order subscriptions are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case", rename = "SubscriptionSort")]
pub enum SortName {
    /// The newest first.
    Newest,
    /// Those with the most failed attempts in the last hour first. Those without any are left out.
    Failures,
}

impl SubscriptionView {
    /// The same with these counts.
    #[must_use]
    pub fn with_counts(self, counts: Counts) -> Self {
        Self { counts: Some(CountsView::of(counts)), ..self }
    }

    /// A subscription without its secret.
    #[must_use]
    pub fn of(subscription: &Subscription) -> Self {
        let settings = &subscription.settings;
        let FlowSettings { circuit, rate, max_in_flight, ordering, disable_after } = settings.flow;
        Self {
            id: subscription.id.to_string(),
            tenant_id: subscription.tenant_id.clone(),
            name: settings.name.as_ref().map(Name::as_str).map(str::to_owned),
            target_url: settings.target_url.as_str().to_owned(),
            event_types: settings.event_types.to_texts(),
            filters: FiltersBody::of(&settings.filters),
            headers: settings.headers.redacted(),
            metadata: settings.metadata.clone().into_entries(),
            retry_policy: RetryPolicyBody::of(&settings.retry_policy),
            timeout_ms: settings.timeout.ms(),
            state: subscription.state.into(),
            disabled_reason: subscription.disabled_reason.clone(),
            rests_until: subscription.rests_until,
            signature_scheme: settings.signature_scheme.into(),
            secret: None,
            public_key: subscription.secrets.current.public_key_text(),
            ingest_auth: settings.ingest_auth.into(),
            ingest_signature: settings.ingest_signature.as_ref().map(IngestSignatureView::of),
            ingest_event_type_header: settings.ingest_event_type_header.as_ref().map(ToString::to_string),
            ingest_rate_limit_per_second: settings.ingest_rate_limit.map(RateLimit::per_second),
            circuit: circuit.as_ref().map(CircuitBody::of),
            rate_limit_per_second: rate.map(DeliveryRate::per_second),
            rate_limit_burst: rate.map(DeliveryRate::burst),
            max_in_flight: max_in_flight.map(MaxInFlight::attempts),
            ordering: ordering.into(),
            disable_after_days: disable_after.map(DisableAfter::days),
            created_at: subscription.created_at,
            updated_at: subscription.updated_at,
            counts: None,
            failed_attempts: None,
        }
    }

    /// A subscription with its secret, for the answer that created or rotated it.
    #[must_use]
    pub fn with_secret(subscription: &Subscription) -> Self {
        Self { secret: Some(subscription.secrets.current.reveal()), ..Self::of(subscription) }
    }
}
