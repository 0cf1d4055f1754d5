//! Subscriptions as JSON: what callers send, what they get back, and the one place where the first becomes
//! [`Settings`], with every broken rule named.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use poem_openapi::{Enum, Object};
use postrider_core::{
    Result,
    event_type::EventTypePattern,
    filter::{Filters, PayloadFilter},
    network::AddressPolicy,
    retry_policy::RetryPolicy,
    settings::{
        CustomHeaders, EVENT_TYPES_MAX, NAME_CHARACTERS_MAX, Settings, TIMEOUT_MS_DEFAULT, TIMEOUT_MS_MAX,
        TIMEOUT_MS_MIN, parse_metadata,
    },
    signature::SigningSecret,
    subscription::{State, Subscription},
    target_url::TargetUrl,
    validation::{self, Problems},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{body::Input, retry_policy_body::RetryPolicyBody};

/// What a subscription should be.
#[derive(Clone, Debug, Default, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields, example)]
pub struct SubscriptionInput {
    /// Where deliveries go: an absolute http or https URL, at most 2048 bytes, without user name and fragment.
    pub target_url: String,
    /// Which events: `order.created` exactly, `order.*` for everything below, `*` for all. At most 100; empty or
    /// absent means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[oai(default)]
    pub event_types: Vec<String>,
    /// What else an event must be like.
    #[serde(default, skip_serializing_if = "FiltersBody::is_empty")]
    #[oai(default)]
    pub filters: FiltersBody,
    /// What deliveries are signed with: `whsec_` and 24 to 64 bytes as base64. Made for you where absent; kept as it
    /// is where absent in a change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// For people; at most 200 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whose it is; at most 64 characters. The key's own tenant where absent, or else `default`. It cannot be changed
    /// later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    /// Headers sent with each attempt; at most 32, 8 KiB in all; stored sealed. Values of headers that sound secret are
    /// shown as `[redacted]`, which sent back leaves them as they are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[oai(default)]
    pub headers: BTreeMap<String, String>,
    /// Your own notes; at most 50, keys of 64 and values of 512 characters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[oai(default)]
    pub metadata: BTreeMap<String, String>,
    /// When a failed delivery is tried again; 10 attempts over about 75 hours where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_policy: Option<RetryPolicyBody>,
    /// Milliseconds an attempt may take, 1000 to 60000; 15000 where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u32>,
}

/// What should change about a subscription, as a JSON merge patch (RFC 7396): what is absent stays, `null` means the
/// default.
#[derive(Debug, Default, Object)]
#[oai(example)]
pub struct SubscriptionPatch {
    target_url: Option<String>,
    event_types: Option<Vec<String>>,
    filters: Option<FiltersBody>,
    secret: Option<String>,
    name: Option<String>,
    headers: Option<BTreeMap<String, String>>,
    metadata: Option<BTreeMap<String, String>>,
    retry_policy: Option<RetryPolicyBody>,
    timeout_ms: Option<u32>,
}

/// What an event must be like, besides its type.
#[derive(Clone, Debug, Default, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields, skip_serializing_if_is_none, skip_serializing_if_is_empty)]
pub struct FiltersBody {
    /// Entries that its metadata must have, key by key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[oai(default)]
    pub metadata: BTreeMap<String, String>,
    /// Conditions on a JSON payload: `{"order.total": {"$gte": 100}, "currency": "EUR"}`. Operators are `$eq $ne $gt
    /// $gte $lt $lte $in $nin $exists $startsWith $endsWith`, and `$and $or $not` around conditions. At most 200
    /// conditions, each value of `$in` and `$nin` counted, 16 deep, 16 KiB. Of an array, the first 1000 items count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<Value>,
}

impl FiltersBody {
    fn is_empty(&self) -> bool {
        self.metadata.is_empty() && self.payload.is_none()
    }

    fn of(filters: &Filters) -> Self {
        let payload = filters.payload.as_ref().map(|filter| filter.source().clone());
        Self { metadata: filters.metadata.clone(), payload }
    }

    fn parse(self, problems: &mut Problems) -> Filters {
        let metadata = problems.take("filters.metadata", parse_metadata(self.metadata)).unwrap_or_default();
        let payload = self.payload.as_ref().map(PayloadFilter::parse);
        let payload = payload.and_then(|parsed| problems.take("filters.payload", parsed));
        Filters { metadata, payload }
    }
}

impl Input for SubscriptionInput {}

/// Whether deliveries are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case")]
pub enum StateName {
    /// Events are accepted and delivered.
    Active,
    /// Events are accepted and wait.
    Paused,
    /// Events are stored and not delivered; what was waiting waits on.
    Disabled,
}

/// A subscription.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
pub struct SubscriptionView {
    /// Its id.
    pub id: String,
    /// Whose it is.
    pub tenant_id: String,
    /// For people.
    pub name: Option<String>,
    /// Where deliveries go.
    pub target_url: String,
    /// Which events; empty means all.
    pub event_types: Vec<String>,
    /// What else an event must be like.
    pub filters: FiltersBody,
    /// Headers sent with each attempt; secret values as `[redacted]`.
    pub headers: BTreeMap<String, String>,
    /// Your own notes.
    pub metadata: BTreeMap<String, String>,
    /// When a failed delivery is tried again.
    pub retry_policy: RetryPolicyBody,
    /// Milliseconds an attempt may take.
    pub timeout_ms: u32,
    /// Whether deliveries are made.
    pub state: StateName,
    /// Why it is disabled, where Postrider did it.
    pub disabled_reason: Option<String>,
    /// What deliveries are signed with; only in the answer that created it.
    pub secret: Option<String>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
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

impl SubscriptionInput {
    /// What a subscription is now, as if somebody had sent it: the ground that a patch is applied to. Its secret is
    /// left out, so it stays.
    #[must_use]
    pub fn of(subscription: &Subscription) -> Self {
        let settings = &subscription.settings;
        Self {
            target_url: settings.target_url.as_str().to_owned(),
            event_types: settings.event_types.iter().map(ToString::to_string).collect(),
            filters: FiltersBody::of(&settings.filters),
            secret: None,
            name: settings.name.clone(),
            tenant_id: None,
            headers: settings.headers.redacted(),
            metadata: settings.metadata.clone(),
            retry_policy: Some(RetryPolicyBody::of(&settings.retry_policy)),
            timeout_ms: Some(settings.timeout_ms),
        }
    }

    /// Checks everything at once. `current` is the subscription that is being changed, if one is.
    ///
    /// # Errors
    /// Every broken rule.
    pub fn parse(
        self,
        policy: &AddressPolicy,
        current: Option<&Subscription>,
    ) -> Result<(Settings, Option<SigningSecret>)> {
        let mut problems = Problems::default();
        if let (Some(current), Some(tenant)) = (current, &self.tenant_id) {
            problems.require(*tenant == current.tenant_id, "tenant_id", "cannot be changed");
        }
        if let Some(name) = &self.name {
            problems.take("name", validation::text(name, NAME_CHARACTERS_MAX));
        }
        problems.require(
            self.event_types.len() <= EVENT_TYPES_MAX,
            "event_types",
            format!("must be at most {EVENT_TYPES_MAX} patterns"),
        );
        let event_types = self.event_types.iter().enumerate().filter_map(|(index, pattern)| {
            problems.take(&format!("event_types[{index}]"), pattern.parse::<EventTypePattern>())
        });
        let event_types: Vec<_> = event_types.collect();
        let timeout_ms = self.timeout_ms.unwrap_or(TIMEOUT_MS_DEFAULT);
        problems.require(
            (TIMEOUT_MS_MIN..=TIMEOUT_MS_MAX).contains(&timeout_ms),
            "timeout_ms",
            format!("must be from {TIMEOUT_MS_MIN} to {TIMEOUT_MS_MAX}"),
        );
        let no_headers = CustomHeaders::default();
        let current_headers = current.map_or(&no_headers, |current| &current.settings.headers);
        let target_url = problems.take("target_url", TargetUrl::parse(&self.target_url, policy));
        let headers = problems.take("headers", CustomHeaders::parse(self.headers, current_headers));
        let metadata = problems.take("metadata", parse_metadata(self.metadata));
        let filters = self.filters.parse(&mut problems);
        let secret = self.secret.and_then(|secret| problems.take("secret", SigningSecret::parse(&secret)));
        let retry_policy = self.retry_policy.map_or_else(RetryPolicy::default, |body| body.parse(&mut problems));
        problems.into_result()?;
        let (Some(target_url), Some(headers), Some(metadata)) = (target_url, headers, metadata) else {
            unreachable!("each of them is there, or noted as a problem");
        };
        let settings =
            Settings { name: self.name, target_url, event_types, filters, headers, metadata, retry_policy, timeout_ms };
        Ok((settings, secret))
    }
}

impl SubscriptionView {
    /// A subscription as it may be shown at any time.
    #[must_use]
    pub fn of(subscription: &Subscription) -> Self {
        let settings = &subscription.settings;
        Self {
            id: subscription.id.to_string(),
            tenant_id: subscription.tenant_id.clone(),
            name: settings.name.clone(),
            target_url: settings.target_url.as_str().to_owned(),
            event_types: settings.event_types.iter().map(ToString::to_string).collect(),
            filters: FiltersBody::of(&settings.filters),
            headers: settings.headers.redacted(),
            metadata: settings.metadata.clone(),
            retry_policy: RetryPolicyBody::of(&settings.retry_policy),
            timeout_ms: settings.timeout_ms,
            state: subscription.state.into(),
            disabled_reason: subscription.disabled_reason.clone(),
            secret: None,
            created_at: subscription.created_at,
            updated_at: subscription.updated_at,
        }
    }

    /// A subscription with its secret, for the answer that created it.
    #[must_use]
    pub fn with_secret(subscription: &Subscription) -> Self {
        Self { secret: Some(subscription.secret.reveal()), ..Self::of(subscription) }
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
