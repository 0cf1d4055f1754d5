//! Subscriptions as callers send them. The rules for them stand in [`postrider_core::subscription::settings_input`],
//! and what answers show in [`crate::subscriptions::view`].

use std::collections::BTreeMap;

use poem_openapi::{Object, types::MaybeUndefined};
use postrider_core::{
    Result,
    access::ingest_limit::RateLimit,
    event::filter::Filters,
    name::Name,
    subscription::{
        Subscription,
        flow_settings::{DeliveryRate, DisableAfter, FlowInput, FlowSettings, MaxInFlight},
        settings::TIMEOUT_MS_DEFAULT,
        settings_input::{Checked, SettingsInput},
    },
    trust::target_policy::TargetPolicy,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    serve::body::{self, Input},
    subscriptions::{
        flow_body::{CircuitBody, OrderingName, choice},
        retry_policy_body::RetryPolicyBody,
        signature_body::{IngestAuthName, IngestSignatureInput, SignatureSchemeName},
    },
};

/// What a subscription should be.
#[derive(Clone, Debug, Default, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields, example)]
pub struct SubscriptionInput {
    /// Where deliveries go: an absolute http or https URL such as `https://example.com/webhooks`; at most 2048 bytes,
    /// without user name and fragment.
    pub target_url: String,
    /// Patterns of the event types that the subscription wants, at most 100: `order.created` is exactly that type,
    /// `order.*` everything below `order` (likewise `orders/*` and `user:*`), `*` every type. An empty list means every
    /// type, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[oai(default)]
    pub event_types: Vec<String>,
    /// What else an event must be like; nothing where absent.
    #[serde(default, deserialize_with = "body::object", skip_serializing_if = "FiltersBody::is_empty")]
    #[oai(default)]
    pub filters: FiltersBody,
    /// How deliveries are signed; `standard` where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature_scheme: Option<SignatureSchemeName>,
    /// What deliveries are signed with: `whsec_` and 24 to 64 bytes as base64; for `standard_v1a`, `whsk_` and an
    /// Ed25519 key pair of 64 bytes as base64. Made for you where absent. In a change, an absent secret stays, and one
    /// that is given replaces all earlier ones at once; `rotate-secret` lets them overlap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// What the subscription is called by people, such as `Order service`; at most 200 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The tenant that the subscription belongs to, such as `acme`; at most 64 characters. Where absent, the key's own
    /// tenant, or else `default`. It cannot be changed later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    /// Headers that are sent with each attempt, such as `{"x-team": "blue"}`: at most 32, and 8 KiB in all. They are
    /// stored sealed. Values of headers that sound secret, such as `authorization`, are shown as `[redacted]`, which
    /// sent back leaves them as they are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[oai(default)]
    pub headers: BTreeMap<String, String>,
    /// Your own notes, such as `{"region": "eu"}`: at most 50 entries, keys of 64 and values of 512 characters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[oai(default)]
    pub metadata: BTreeMap<String, String>,
    /// When a failed delivery is tried again; 10 attempts over about 75 hours where absent.
    #[serde(default, deserialize_with = "body::maybe_object", skip_serializing_if = "Option::is_none")]
    pub retry_policy: Option<RetryPolicyBody>,
    /// Milliseconds that an attempt may take, 1000 to 60000; 15000 where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u32>,
    /// What opens `POST /webhooks/ingest/{id}`; `key_or_signature` where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingest_auth: Option<IngestAuthName>,
    /// Whose signatures `POST /webhooks/ingest/{id}` takes; where absent, `X-Hub-Signature-256` made with the text of
    /// `secret`.
    #[serde(default, deserialize_with = "body::maybe_object", skip_serializing_if = "Option::is_none")]
    pub ingest_signature: Option<IngestSignatureInput>,
    /// The header from which `POST /webhooks/ingest/{id}` takes an event's type, such as `X-GitHub-Event`; at most 64
    /// characters. Where a request lacks it, or it holds no event type, and where this setting is absent, the type is
    /// the one in `X-Event-Type`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingest_event_type_header: Option<String>,
    /// How many requests a second `POST /webhooks/ingest/{id}` takes, and as many at once; 1 to 100000. There is no
    /// limit where absent. Every api process counts by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingest_rate_limit_per_second: Option<u32>,
    /// When deliveries are held back because the receiver keeps failing. Where absent, each of its fields has its
    /// default; `null` switches the circuit off.
    #[serde(default, deserialize_with = "body::object_or_null", skip_serializing_if = "MaybeUndefined::is_undefined")]
    pub circuit: MaybeUndefined<CircuitBody>,
    /// How many attempts a second the receiver gets, over all workers, such as 5 or 0.5 (one every two seconds): from
    /// 0.01 to 10000. In any time of w seconds there are at most w times this number and `rate_limit_burst` attempts.
    /// There is no limit where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit_per_second: Option<f64>,
    /// How many attempts may come at once after a pause, such as 10: from 1 to 100000. Where absent, it is what
    /// `rate_limit_per_second` allows in one second, at least 1. It has a meaning only together with that setting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit_burst: Option<u32>,
    /// How many attempts may be under way at the same time, over all workers, such as 4: from 1 to 10000. There is no
    /// limit where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_in_flight: Option<u32>,
    /// The order in which deliveries are made; `none` where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ordering: Option<OrderingName>,
    /// After how many days of nothing but failures, and at least 20 of these, Postrider disables the subscription, such
    /// as 14: from 1 to 365; 5 where absent. `null` means never.
    #[serde(default, skip_serializing_if = "MaybeUndefined::is_undefined")]
    pub disable_after_days: MaybeUndefined<u32>,
}

/// What should change about a subscription, as a JSON merge patch (RFC 7396): a setting that is absent stays as it is,
/// and `null` sets it to its default, but switches `circuit` and `disable_after_days` off. The fields mean what they
/// mean when a subscription is created.
#[derive(Debug, Default, Object)]
#[oai(example)]
pub struct SubscriptionPatch {
    /// Where deliveries go: an absolute http or https URL such as `https://example.com/webhooks`; at most 2048 bytes,
    /// without user name and fragment.
    target_url: Option<String>,
    /// It cannot be changed: only the tenant that it is already will do.
    tenant_id: Option<String>,
    /// Patterns of the event types that the subscription wants, such as `order.*`; at most 100. An empty list means
    /// every type.
    event_types: Option<Vec<String>>,
    /// What else an event must be like. Replaced as a whole.
    filters: Option<FiltersBody>,
    /// A new secret, which replaces all earlier ones at once; `rotate-secret` lets them overlap.
    secret: Option<String>,
    /// What the subscription is called by people; at most 200 characters.
    name: Option<String>,
    /// Headers that are sent with each attempt, such as `{"x-team": "blue"}`: at most 32, and 8 KiB in all. They are
    /// stored sealed.
    headers: Option<BTreeMap<String, String>>,
    /// Your own notes, such as `{"region": "eu"}`: at most 50 entries, keys of 64 and values of 512 characters.
    metadata: Option<BTreeMap<String, String>>,
    /// When a failed delivery is tried again. Replaced as a whole.
    retry_policy: Option<RetryPolicyBody>,
    /// Milliseconds that an attempt may take, 1000 to 60000.
    timeout_ms: Option<u32>,
    /// How deliveries are signed.
    signature_scheme: Option<SignatureSchemeName>,
    /// What opens `POST /webhooks/ingest/{id}`.
    ingest_auth: Option<IngestAuthName>,
    /// Whose signatures `POST /webhooks/ingest/{id}` takes. Replaced as a whole, but for its secrets, which stay when
    /// they are absent.
    ingest_signature: Option<IngestSignatureInput>,
    /// The header from which `POST /webhooks/ingest/{id}` takes an event's type, such as `X-GitHub-Event`; at most 64
    /// characters.
    ingest_event_type_header: Option<String>,
    /// How many requests a second `POST /webhooks/ingest/{id}` takes, 1 to 100000.
    ingest_rate_limit_per_second: Option<u32>,
    /// When deliveries are held back because the receiver keeps failing. A field of it that is absent stays as it is,
    /// and `null` sets that field to its default; `null` for the whole circuit switches it off, and `{}` switches it on
    /// again.
    circuit: Option<CircuitBody>,
    /// How many attempts a second the receiver gets, over all workers, such as 5 or 0.5: from 0.01 to 10000. `null`
    /// ends the limit, and its burst with it.
    rate_limit_per_second: Option<f64>,
    /// How many attempts may come at once after a pause, such as 10: from 1 to 100000. `null` means what
    /// `rate_limit_per_second` allows in one second, at least 1.
    rate_limit_burst: Option<u32>,
    /// How many attempts may be under way at the same time, over all workers, such as 4: from 1 to 10000. `null` ends
    /// the limit.
    max_in_flight: Option<u32>,
    /// The order in which deliveries are made.
    ordering: Option<OrderingName>,
    /// After how many days of nothing but failures, and at least 20 of these, Postrider disables the subscription: from
    /// 1 to 365. `null` means never.
    disable_after_days: Option<u32>,
}

/// What an event must be like, besides its type.
#[derive(Clone, Debug, Default, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields, skip_serializing_if_is_none, skip_serializing_if_is_empty, rename = "Filters")]
pub struct FiltersBody {
    /// Entries that the event's metadata must have, such as `{"region": "eu"}`; all of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[oai(default)]
    pub metadata: BTreeMap<String, String>,
    /// Conditions on a JSON payload, such as `{"order.total": {"$gte": 100}, "currency": "EUR"}`. Operators are `$eq
    /// $ne $gt $gte $lt $lte $in $nin $exists $startsWith $endsWith`, and `$and $or $not` around conditions. At most
    /// 200 conditions, each value of `$in` and `$nin` counted, 16 deep, 16 KiB. Of an array, the first 1000 items are
    /// looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<Value>,
}

impl FiltersBody {
    fn is_empty(&self) -> bool {
        self.metadata.is_empty() && self.payload.is_none()
    }

    /// The filters as JSON, from those that are stored.
    #[must_use]
    pub fn of(filters: &Filters) -> Self {
        let payload = filters.payload.as_ref().map(|filter| filter.source().clone());
        Self { metadata: filters.metadata.clone().into_entries(), payload }
    }
}

impl Input for SubscriptionInput {}

impl SubscriptionInput {
    /// The subscription as a caller would send it, which is what a patch is applied to. The secret is left out, so it
    /// stays as it is.
    #[must_use]
    pub fn of(subscription: &Subscription) -> Self {
        let settings = &subscription.settings;
        let FlowSettings { circuit, rate, max_in_flight, ordering, disable_after } = settings.flow;
        Self {
            target_url: settings.target_url.as_str().to_owned(),
            event_types: settings.event_types.to_texts(),
            filters: FiltersBody::of(&settings.filters),
            secret: None,
            name: settings.name.as_ref().map(Name::as_str).map(str::to_owned),
            tenant_id: None,
            headers: settings.headers.redacted(),
            metadata: settings.metadata.clone().into_entries(),
            retry_policy: Some(RetryPolicyBody::of(&settings.retry_policy)),
            timeout_ms: Some(settings.timeout.ms()),
            signature_scheme: Some(settings.signature_scheme.into()),
            ingest_auth: Some(settings.ingest_auth.into()),
            ingest_signature: settings.ingest_signature.as_ref().map(IngestSignatureInput::of),
            ingest_event_type_header: settings.ingest_event_type_header.as_ref().map(ToString::to_string),
            ingest_rate_limit_per_second: settings.ingest_rate_limit.map(RateLimit::per_second),
            circuit: MaybeUndefined::from_opt_null(circuit.as_ref().map(CircuitBody::of)),
            rate_limit_per_second: rate.map(DeliveryRate::per_second),
            rate_limit_burst: rate.and_then(DeliveryRate::chosen_burst),
            max_in_flight: max_in_flight.map(MaxInFlight::attempts),
            ordering: Some(ordering.into()),
            disable_after_days: MaybeUndefined::from_opt_null(disable_after.map(DisableAfter::days)),
        }
    }

    /// Checks all fields. `current` is the subscription that is being changed; `None` where a new one is created.
    ///
    /// # Errors
    /// All broken rules together.
    pub fn parse(self, policy: &TargetPolicy, current: Option<&Subscription>) -> Result<Checked> {
        let input = SettingsInput {
            target_url: self.target_url,
            event_types: self.event_types,
            metadata_filter: self.filters.metadata,
            payload_filter: self.filters.payload,
            secret: self.secret,
            name: self.name,
            tenant_id: self.tenant_id,
            headers: self.headers,
            metadata: self.metadata,
            retry_policy: self.retry_policy.map(RetryPolicyBody::into_core),
            timeout_ms: self.timeout_ms,
            signature_scheme: self.signature_scheme.map(Into::into),
            ingest_auth: self.ingest_auth.map(Into::into),
            ingest_signature: self.ingest_signature.map(IngestSignatureInput::into_core),
            ingest_event_type_header: self.ingest_event_type_header,
            ingest_rate_limit_per_second: self.ingest_rate_limit_per_second,
            flow: FlowInput {
                circuit: choice(self.circuit.map_value(CircuitBody::into_core)),
                rate_limit_per_second: self.rate_limit_per_second,
                rate_limit_burst: self.rate_limit_burst,
                max_in_flight: self.max_in_flight,
                ordering: self.ordering.map(Into::into),
                disable_after_days: choice(self.disable_after_days),
            },
        };
        input.parse(policy, current)
    }
}

impl poem_openapi::types::Example for SubscriptionInput {
    fn example() -> Self {
        Self {
            target_url: "https://example.com/webhooks".to_owned(),
            event_types: vec!["order.*".to_owned()],
            name: Some("Order service".to_owned()),
            headers: BTreeMap::from([("x-team".to_owned(), "blue".to_owned())]),
            metadata: BTreeMap::from([("region".to_owned(), "eu".to_owned())]),
            timeout_ms: Some(TIMEOUT_MS_DEFAULT),
            ..Self::default()
        }
    }
}

impl poem_openapi::types::Example for SubscriptionPatch {
    fn example() -> Self {
        Self { name: Some("Renamed".to_owned()), timeout_ms: Some(5000), ..Self::default() }
    }
}
