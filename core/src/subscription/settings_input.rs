//! A subscription as its owner sends it, and how that becomes [`Settings`], with every broken rule reported. The bounds
//! of each field are defined beside its type; the rules here are about how the fields depend on each other.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    Result,
    access::ingest_limit::RateLimit,
    event::{
        event_type::EventTypePatterns,
        filter::{Filters, PayloadFilter},
        metadata::Metadata,
    },
    name::Name,
    queue::retry_policy::{RetryPolicy, RetryPolicyInput},
    subscription::{
        Subscription,
        event_type_header::EventTypeHeader,
        flow_settings::FlowInput,
        previous_secret::{Overlap, SecretReplacement},
        settings::{CustomHeaders, Settings, Timeout},
    },
    trust::{
        ingest_auth::{IngestAuth, IngestSignatureInput},
        signature::SignatureScheme,
        signing_secret::SigningSecret,
        target_policy::TargetPolicy,
        target_url::TargetUrl,
    },
    validation::Problems,
};

/// The settings of a subscription as its owner sends them, before they are checked. An absent field means the default.
/// It holds secrets, so it has no `Debug` form.
#[derive(Clone)]
pub struct SettingsInput {
    /// The URL to which deliveries are sent.
    pub target_url: String,
    /// Patterns of the event types that it wants.
    pub event_types: Vec<String>,
    /// Entries that an event's metadata must have.
    pub metadata_filter: BTreeMap<String, String>,
    /// Conditions on an event's payload.
    pub payload_filter: Option<Value>,
    /// The secret that signs deliveries; absent means a fresh one, or that the current one stays.
    pub secret: Option<String>,
    /// A name by which people recognize the subscription.
    pub name: Option<String>,
    /// The tenant to which the subscription belongs; it cannot be changed.
    pub tenant_id: Option<String>,
    /// Headers that are sent with each attempt.
    pub headers: BTreeMap<String, String>,
    /// The owner's own notes; Postrider does not interpret them.
    pub metadata: BTreeMap<String, String>,
    /// When a failed attempt is repeated, and how often.
    pub retry_policy: Option<RetryPolicyInput>,
    /// Milliseconds that one attempt may take.
    pub timeout_ms: Option<u32>,
    /// The way in which deliveries are signed.
    pub signature_scheme: Option<SignatureScheme>,
    /// The proof that a request to its ingest must bring.
    pub ingest_auth: Option<IngestAuth>,
    /// The provider whose signatures its ingest accepts.
    pub ingest_signature: Option<IngestSignatureInput>,
    /// The header from which its ingest takes an event's type; absent means none of the provider's.
    pub ingest_event_type_header: Option<String>,
    /// Requests a second that its ingest accepts; absent means no limit.
    pub ingest_rate_limit_per_second: Option<u32>,
    /// How the flow of its deliveries is controlled.
    pub flow: FlowInput,
}

/// A checked input.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The settings in valid form.
    pub settings: Settings,
    /// A new secret, where one was given, or where the current secret cannot sign in the new scheme.
    pub secret: Option<SecretReplacement>,
}

impl SettingsInput {
    /// Checks all fields at once. `current` is the subscription that is being changed; `None` for a new one.
    ///
    /// # Errors
    /// Every broken rule.
    pub fn parse(self, policy: &TargetPolicy, current: Option<&Subscription>) -> Result<Checked> {
        let mut problems = Problems::default();
        if let (Some(current), Some(tenant)) = (current, &self.tenant_id) {
            problems.require(*tenant == current.tenant_id, "tenant_id", "cannot be changed");
        }
        let name = self.name.and_then(|name| problems.take("name", Name::parse(name)));
        let event_types = problems.take_part("event_types", EventTypePatterns::parse(&self.event_types));
        let timeout = self.timeout_ms.map_or_else(|| Ok(Timeout::default()), Timeout::parse);
        let timeout = problems.take("timeout_ms", timeout);
        let no_headers = CustomHeaders::default();
        let current_headers = current.map_or(&no_headers, |current| &current.settings.headers);
        let target_url = problems.take("target_url", TargetUrl::parse(&self.target_url, policy));
        let headers = problems.take("headers", CustomHeaders::parse(self.headers, current_headers));
        let metadata = problems.take("metadata", Metadata::parse(self.metadata));
        let filters = parse_filters(self.metadata_filter, self.payload_filter.as_ref(), &mut problems);
        let signature_scheme = self.signature_scheme.unwrap_or_default();
        let secret = parse_secret(self.secret.as_deref(), signature_scheme, current, &mut problems);
        let ingest_auth = self.ingest_auth.unwrap_or_default();
        let names_signature = self.ingest_signature.is_some();
        let current_signature = current.and_then(|current| current.settings.ingest_signature.as_ref());
        let ingest_signature = self.ingest_signature.map(|input| input.parse(current_signature));
        let ingest_signature = ingest_signature.and_then(|parsed| problems.take_part("ingest_signature", parsed));
        problems.require(
            signature_scheme.opens_own_ingest() || names_signature || ingest_auth != IngestAuth::Signature,
            "ingest_signature",
            format!("must be given: the secret of the scheme `{signature_scheme}` opens no ingest"),
        );
        let ingest_event_type_header = self.ingest_event_type_header.map(EventTypeHeader::parse);
        let ingest_event_type_header =
            ingest_event_type_header.and_then(|parsed| problems.take("ingest_event_type_header", parsed));
        let ingest_rate_limit = self.ingest_rate_limit_per_second.map(RateLimit::parse);
        let ingest_rate_limit =
            ingest_rate_limit.and_then(|parsed| problems.take("ingest_rate_limit_per_second", parsed));
        let retry_policy = self.retry_policy.map_or_else(|| Ok(RetryPolicy::default()), RetryPolicyInput::parse);
        let retry_policy = problems.take_part("retry_policy", retry_policy);
        let flow = self.flow.parse(&mut problems);
        problems.into_result()?;
        let (Some(target_url), Some(event_types), Some(timeout), Some(headers), Some(metadata), Some(retry_policy)) =
            (target_url, event_types, timeout, headers, metadata, retry_policy)
        else {
            unreachable!("each of them is there, or noted as a problem");
        };
        let settings = Settings {
            name,
            target_url,
            event_types,
            filters,
            headers,
            metadata,
            retry_policy,
            timeout,
            signature_scheme,
            ingest_auth,
            ingest_signature,
            ingest_event_type_header,
            ingest_rate_limit,
            flow,
        };
        Ok(Checked { settings, secret })
    }
}

fn parse_filters(metadata: BTreeMap<String, String>, payload: Option<&Value>, problems: &mut Problems) -> Filters {
    let metadata = problems.take("filters.metadata", Metadata::parse(metadata)).unwrap_or_default();
    let payload = payload.map(PayloadFilter::parse);
    let payload = payload.and_then(|parsed| problems.take("filters.payload", parsed));
    Filters { metadata, payload }
}

/// The secret that was given, or a fresh one where the scheme makes that necessary: not every kind of secret can sign
/// in every scheme.
fn parse_secret(
    given: Option<&str>,
    scheme: SignatureScheme,
    current: Option<&Subscription>,
    problems: &mut Problems,
) -> Option<SecretReplacement> {
    match (given.map(|text| scheme.parse_secret(text)), current) {
        (Some(parsed), _) => {
            let secret = problems.take("secret", parsed)?;
            Some(SecretReplacement { secret, overlap: Overlap::NONE })
        }
        (None, Some(current)) if scheme.check(&current.secrets.current).is_err() => {
            let secret = SigningSecret::generate(scheme.secret_kind());
            Some(SecretReplacement { secret, overlap: Overlap::default() })
        }
        (None, _) => None,
    }
}
