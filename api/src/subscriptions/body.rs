//! Subscriptions as callers send them, and the one place where that becomes [`Settings`], with every broken rule named.
//! What they get back stands in [`crate::subscriptions::view`].

use std::collections::BTreeMap;

use poem_openapi::Object;
use postrider_core::{
    Result,
    access::ingest_limit::PER_SECOND_MAX,
    event::{
        event_type::EventTypePattern,
        filter::{Filters, PayloadFilter},
    },
    queue::retry_policy::RetryPolicy,
    subscription::{
        Subscription,
        settings::{
            CustomHeaders, EVENT_TYPES_MAX, NAME_CHARACTERS_MAX, Settings, TIMEOUT_MS_DEFAULT, TIMEOUT_MS_MAX,
            TIMEOUT_MS_MIN, parse_metadata,
        },
    },
    trust::{
        ingest_auth::IngestAuth,
        signature::SignatureScheme,
        signing_secret::{OVERLAP_SECONDS_DEFAULT, SigningSecret},
        target_policy::TargetPolicy,
        target_url::TargetUrl,
    },
    validation::{self, Problems},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    serve::body::{self, Input},
    subscriptions::{
        retry_policy_body::RetryPolicyBody,
        signature_body::{IngestAuthName, IngestSignatureInput, SignatureSchemeName},
    },
};

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
    #[serde(default, deserialize_with = "body::object", skip_serializing_if = "FiltersBody::is_empty")]
    #[oai(default)]
    pub filters: FiltersBody,
    /// How deliveries are signed; `standard` where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature_scheme: Option<SignatureSchemeName>,
    /// What deliveries are signed with: `whsec_` and 24 to 64 bytes as base64; for `standard_v1a`, `whsk_` and an
    /// Ed25519 key pair of 64 bytes. Made for you where absent. In a change, it stays where absent, and one that is given
    /// replaces all earlier ones at once; `rotate-secret` lets them overlap.
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
    #[serde(default, deserialize_with = "body::maybe_object", skip_serializing_if = "Option::is_none")]
    pub retry_policy: Option<RetryPolicyBody>,
    /// Milliseconds an attempt may take, 1000 to 60000; 15000 where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u32>,
    /// What opens `POST /webhooks/ingest/{id}`; `key_or_signature` where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingest_auth: Option<IngestAuthName>,
    /// Whose signatures it takes; where absent, `X-Hub-Signature-256` made with the text of `secret`.
    #[serde(default, deserialize_with = "body::maybe_object", skip_serializing_if = "Option::is_none")]
    pub ingest_signature: Option<IngestSignatureInput>,
    /// Requests a second that it takes, 1 to 100000, and so many at once; unlimited where absent. Every api process
    /// counts by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingest_rate_limit_per_second: Option<u32>,
}

/// What should change about a subscription, as a JSON merge patch (RFC 7396): what is absent stays, `null` means the
/// default.
#[derive(Debug, Default, Object)]
#[oai(example)]
pub struct SubscriptionPatch {
    target_url: Option<String>,
    /// It cannot be changed: only what it is already will do.
    tenant_id: Option<String>,
    event_types: Option<Vec<String>>,
    filters: Option<FiltersBody>,
    secret: Option<String>,
    name: Option<String>,
    headers: Option<BTreeMap<String, String>>,
    metadata: Option<BTreeMap<String, String>>,
    retry_policy: Option<RetryPolicyBody>,
    timeout_ms: Option<u32>,
    signature_scheme: Option<SignatureSchemeName>,
    ingest_auth: Option<IngestAuthName>,
    ingest_signature: Option<IngestSignatureInput>,
    ingest_rate_limit_per_second: Option<u32>,
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

    /// As they are stored.
    #[must_use]
    pub fn of(filters: &Filters) -> Self {
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
            signature_scheme: Some(settings.signature_scheme.into()),
            ingest_auth: Some(settings.ingest_auth.into()),
            ingest_signature: settings.ingest_signature.as_ref().map(IngestSignatureInput::of),
            ingest_rate_limit_per_second: settings.ingest_rate_limit_per_second,
        }
    }

    /// Checks everything at once. `current` is the subscription that is being changed, if one is. A new secret comes
    /// with the seconds for which earlier ones go on signing.
    ///
    /// # Errors
    /// Every broken rule.
    pub fn parse(
        self,
        policy: &TargetPolicy,
        current: Option<&Subscription>,
    ) -> Result<(Settings, Option<(SigningSecret, u32)>)> {
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
        let signature_scheme: SignatureScheme = self.signature_scheme.map(Into::into).unwrap_or_default();
        let secret = parse_secret(self.secret.as_deref(), signature_scheme, current, &mut problems);
        let ingest_auth: IngestAuth = self.ingest_auth.map(Into::into).unwrap_or_default();
        let current_signature = current.and_then(|current| current.settings.ingest_signature.as_ref());
        let names_signature = self.ingest_signature.is_some();
        let ingest_signature = self.ingest_signature.and_then(|body| body.parse(current_signature, &mut problems));
        let has_own = matches!(signature_scheme, SignatureScheme::Standard | SignatureScheme::Timestamped);
        problems.require(
            has_own || names_signature || ingest_auth != IngestAuth::Signature,
            "ingest_signature",
            format!("must be given: the secret of the scheme `{signature_scheme}` opens no ingest"),
        );
        problems.require(
            self.ingest_rate_limit_per_second.is_none_or(|limit| (1..=PER_SECOND_MAX).contains(&limit)),
            "ingest_rate_limit_per_second",
            format!("must be from 1 to {PER_SECOND_MAX}"),
        );
        let retry_policy = self.retry_policy.map_or_else(RetryPolicy::default, |body| body.parse(&mut problems));
        problems.into_result()?;
        let (Some(target_url), Some(headers), Some(metadata)) = (target_url, headers, metadata) else {
            unreachable!("each of them is there, or noted as a problem");
        };
        let settings = Settings {
            name: self.name,
            target_url,
            event_types,
            filters,
            headers,
            metadata,
            retry_policy,
            timeout_ms,
            signature_scheme,
            ingest_auth,
            ingest_signature,
            ingest_rate_limit_per_second: self.ingest_rate_limit_per_second,
        };
        Ok((settings, secret))
    }
}

/// The secret that a request gives, or one that its scheme makes necessary: the kind of secret that the current one is
/// cannot sign in every scheme.
fn parse_secret(
    given: Option<&str>,
    scheme: SignatureScheme,
    current: Option<&Subscription>,
    problems: &mut Problems,
) -> Option<(SigningSecret, u32)> {
    let secret = given.map(|text| {
        let secret = SigningSecret::parse(text)?;
        scheme.check(&secret).map(|()| secret)
    });
    match (secret, current) {
        (Some(parsed), _) => problems.take("secret", parsed).map(|secret| (secret, 0)),
        (None, Some(current)) if scheme.check(&current.secrets.current).is_err() => {
            Some((SigningSecret::generate(scheme.secret_kind()), OVERLAP_SECONDS_DEFAULT))
        }
        (None, _) => None,
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
