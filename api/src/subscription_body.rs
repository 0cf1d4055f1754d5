//! Subscriptions as JSON: what callers send, what they get back, and the one place where the first becomes
//! [`Settings`], with every broken rule named.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use poem_openapi::{Enum, Object};
use postrider_core::{
    Result,
    event_type::EventTypePattern,
    network::AddressPolicy,
    retry_policy::{ATTEMPTS_MAX, ClientErrors, DELAY_SECONDS_MAX, RetryPolicy, Schedule},
    settings::{
        CustomHeaders, EVENT_TYPES_MAX, NAME_CHARACTERS_MAX, Settings, TENANT_CHARACTERS_MAX, TENANT_DEFAULT,
        TIMEOUT_MS_DEFAULT, TIMEOUT_MS_MAX, TIMEOUT_MS_MIN, parse_metadata,
    },
    signature::SigningSecret,
    subscription::{State, Subscription},
    target_url::TargetUrl,
    validation::{self, Problems},
};
use serde::{Deserialize, Serialize};

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
    /// What deliveries are signed with: `whsec_` and 24 to 64 bytes as base64. Made for you where absent; kept as it
    /// is where absent in a change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// For people; at most 200 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whose it is; at most 64 characters, `default` where absent. It cannot be changed later.
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
    secret: Option<String>,
    name: Option<String>,
    headers: Option<BTreeMap<String, String>>,
    metadata: Option<BTreeMap<String, String>>,
    retry_policy: Option<RetryPolicyBody>,
    timeout_ms: Option<u32>,
}

/// When a failed delivery is tried again: either `delays_seconds`, or all of `max_attempts`, `initial_seconds`,
/// `factor` and `max_seconds`. Each wait is lengthened by up to a tenth at random, and never shortened.
#[derive(Clone, Debug, Default, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields, skip_serializing_if_is_none)]
pub struct RetryPolicyBody {
    /// Seconds to wait after each failed attempt but the last: n waits mean n + 1 attempts. At most 99 waits of at
    /// most 7 days.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delays_seconds: Option<Vec<u32>>,
    /// Attempts in all, 1 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u16>,
    /// Seconds of the first wait, at least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_seconds: Option<u32>,
    /// What each wait is multiplied by, 1 to 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub factor: Option<f64>,
    /// Seconds of the longest wait, at most 7 days.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_seconds: Option<u32>,
    /// Whether a 4xx answer is worth a retry (408, 409, 425 and 429 always are, 410 never is); true where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_client_errors: Option<bool>,
}

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

impl SubscriptionInput {
    /// What a subscription is now, as if somebody had sent it: the ground that a patch is applied to. Its secret is
    /// left out, so it stays.
    #[must_use]
    pub fn of(subscription: &Subscription) -> Self {
        let settings = &subscription.settings;
        Self {
            target_url: settings.target_url.as_str().to_owned(),
            event_types: settings.event_types.iter().map(ToString::to_string).collect(),
            secret: None,
            name: settings.name.clone(),
            tenant_id: None,
            headers: settings.headers.redacted(),
            metadata: settings.metadata.clone(),
            retry_policy: Some(RetryPolicyBody::of(&settings.retry_policy)),
            timeout_ms: Some(settings.timeout_ms),
        }
    }

    /// The tenant that a new subscription is to belong to.
    ///
    /// # Errors
    /// What is wrong with its name.
    pub fn tenant(&self) -> Result<String> {
        let tenant = self.tenant_id.as_deref().unwrap_or(TENANT_DEFAULT);
        let mut problems = Problems::default();
        problems.take("tenant_id", validation::text(tenant, TENANT_CHARACTERS_MAX));
        problems.into_result()?;
        Ok(tenant.to_owned())
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
        let secret = self.secret.and_then(|secret| problems.take("secret", SigningSecret::parse(&secret)));
        let retry_policy = self.retry_policy.map_or_else(RetryPolicy::default, |body| body.parse(&mut problems));
        problems.into_result()?;
        let (Some(target_url), Some(headers), Some(metadata)) = (target_url, headers, metadata) else {
            unreachable!("each of them is there, or noted as a problem");
        };
        let settings =
            Settings { name: self.name, target_url, event_types, headers, metadata, retry_policy, timeout_ms };
        Ok((settings, secret))
    }
}

impl RetryPolicyBody {
    fn of(policy: &RetryPolicy) -> Self {
        let retry_client_errors = Some(policy.client_errors == ClientErrors::Retry);
        match &policy.schedule {
            Schedule::Delays(delays) => {
                Self { delays_seconds: Some(delays.clone()), retry_client_errors, ..Self::default() }
            }
            Schedule::Exponential { max_attempts, initial_seconds, factor, max_seconds } => Self {
                delays_seconds: None,
                max_attempts: Some(*max_attempts),
                initial_seconds: Some(*initial_seconds),
                factor: Some(*factor),
                max_seconds: Some(*max_seconds),
                retry_client_errors,
            },
        }
    }

    /// The policy; where a rule is broken it is noted, and the default stands in.
    fn parse(self, problems: &mut Problems) -> RetryPolicy {
        let client_errors =
            if self.retry_client_errors.unwrap_or(true) { ClientErrors::Retry } else { ClientErrors::GiveUp };
        let exponential = (self.max_attempts, self.initial_seconds, self.factor, self.max_seconds);
        let schedule = match (self.delays_seconds, exponential) {
            (None, (None, None, None, None)) => RetryPolicy::default().schedule,
            (Some(delays), (None, None, None, None)) => {
                let field = "retry_policy.delays_seconds";
                problems.require(delays.len() < ATTEMPTS_MAX.into(), field, "must be at most 99 waits");
                let longest = delays.iter().max().copied().unwrap_or(0);
                problems.require(longest <= DELAY_SECONDS_MAX, field, "a wait must be at most 604800 seconds (7 days)");
                Schedule::Delays(delays)
            }
            (None, (Some(max_attempts), Some(initial_seconds), Some(factor), Some(max_seconds))) => {
                let mut require = |holds, field: &str, message: &str| {
                    problems.require(holds, &format!("retry_policy.{field}"), message);
                };
                require((1..=ATTEMPTS_MAX).contains(&max_attempts), "max_attempts", "must be from 1 to 100");
                require(
                    (1..=max_seconds).contains(&initial_seconds),
                    "initial_seconds",
                    "must be from 1 to max_seconds",
                );
                require((1.0..=10.0).contains(&factor), "factor", "must be from 1 to 10");
                require(max_seconds <= DELAY_SECONDS_MAX, "max_seconds", "must be at most 604800 (7 days)");
                Schedule::Exponential { max_attempts, initial_seconds, factor, max_seconds }
            }
            _ => {
                let message =
                    "must have either delays_seconds, or all of max_attempts, initial_seconds, factor and max_seconds";
                problems.add("retry_policy", message);
                RetryPolicy::default().schedule
            }
        };
        RetryPolicy { schedule, client_errors }
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
            headers: settings.headers.redacted(),
            metadata: settings.metadata.clone(),
            retry_policy: RetryPolicyBody::of(&settings.retry_policy),
            timeout_ms: settings.timeout_ms,
            state: match subscription.state {
                State::Active => StateName::Active,
                State::Paused => StateName::Paused,
                State::Disabled => StateName::Disabled,
            },
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
