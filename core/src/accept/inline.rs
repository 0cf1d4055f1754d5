//! Inline deliveries: an event for one URL, without a subscription. The settings that a subscription would hold come
//! with the event, and have the same bounds.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::{
    Error, Result,
    accept::{
        AcceptedEvent, Acceptor, KEY_FIELD, RequestKey, Source,
        event_input::{EventInput, Rules},
    },
    delivery::inline::{self, InlineDelivery},
    event::{
        idempotency::{self, KeyNamespace, fingerprint, key},
        new_event::{EventKey, NewEvent, Verdict},
    },
    id::DeliveryId,
    queue::{
        accept::Accepted,
        retry_policy::{RetryPolicy, RetryPolicyInput},
    },
    subscription::settings::{CustomHeaders, Timeout},
    trust::{
        signature::SignatureScheme, signing_secret::SigningSecrets, target_policy::TargetPolicy, target_url::TargetUrl,
    },
    validation::Problems,
};

/// The label with which a request's fingerprint begins. Stored keys hold fingerprints, so it must never change.
const LABEL: &[u8] = b"POST /deliveries";

/// Where an inline delivery is to go and how, before it is checked. An absent field means the default. It holds
/// secrets, so it has no `Debug` form.
#[derive(Clone)]
pub struct InlineInput {
    /// The URL to which the event is sent.
    pub target_url: String,
    /// The secret that signs the attempts; they are unsigned where it is absent.
    pub secret: Option<String>,
    /// The way in which attempts are signed.
    pub signature_scheme: Option<SignatureScheme>,
    /// Headers that are sent with each attempt, besides Postrider's own.
    pub headers: BTreeMap<String, String>,
    /// When a failed attempt is repeated, and how often.
    pub retry_policy: Option<RetryPolicyInput>,
    /// Milliseconds that one attempt may take.
    pub timeout_ms: Option<u32>,
}

impl InlineInput {
    /// Checks all fields at once.
    fn parse(self, policy: &TargetPolicy) -> std::result::Result<InlineDelivery, Problems> {
        let mut problems = Problems::default();
        let target_url = problems.take("target_url", TargetUrl::parse(&self.target_url, policy));
        let headers = problems.take("headers", CustomHeaders::parse(self.headers, &CustomHeaders::default()));
        let signature_scheme = self.signature_scheme.unwrap_or_default();
        let secret = self.secret.map(|text| signature_scheme.parse_secret(&text));
        let secret = secret.and_then(|parsed| problems.take("secret", parsed));
        let retry_policy = self.retry_policy.map_or_else(|| Ok(RetryPolicy::default()), RetryPolicyInput::parse);
        let retry_policy = problems.take_part("retry_policy", retry_policy);
        let timeout = self.timeout_ms.map_or_else(|| Ok(Timeout::default()), Timeout::parse);
        let timeout = problems.take("timeout_ms", timeout);
        match (target_url, headers, retry_policy, timeout) {
            (Some(target_url), Some(headers), Some(retry_policy), Some(timeout)) => problems.none_or(InlineDelivery {
                target_url,
                secrets: secret.map(SigningSecrets::only),
                signature_scheme,
                headers,
                retry_policy,
                timeout,
            }),
            (_, _, _, _) => Err(problems),
        }
    }
}

impl Acceptor {
    /// Stores an event and its delivery to one URL.
    ///
    /// # Errors
    /// Every broken rule; a key that was used for something else; or unavailable.
    pub async fn deliver_inline(
        &self,
        event: EventInput,
        to: InlineInput,
        request_key: Option<RequestKey<'_>>,
        now: DateTime<Utc>,
    ) -> Result<AcceptedEvent> {
        let key = request_key.map(key_of).transpose()?;
        let is_repeated = match &key {
            Some(key) if event.has_expired(now) => {
                idempotency::is_known(&self.pool, &event.tenant_id, &key.text).await?
            }
            Some(_) | None => false,
        };
        let mut problems = Problems::default();
        let rules = Rules { payload_bytes_max: self.payload_bytes_max, now, is_repeated };
        let event = problems.take_part("", event.parse(rules));
        let delivery = problems.take_part("", to.parse(&self.target_policy));
        problems.into_result()?;
        let (Some(event), Some(delivery)) = (event, delivery) else {
            unreachable!("each of them is there, or noted as a problem");
        };
        let event = NewEvent { key, ..event };
        let id = DeliveryId::of(event.id);
        let stored = inline::accept(&self.inline, &self.keyring, &event, (id, &delivery), self.key_ttl_seconds).await?;
        if stored.accepted == Accepted::New {
            self.intake.note_stored(&event, id, &stored.armed, stored.took, stored.left_alone);
        }
        let if_new = AcceptedEvent {
            event_id: event.id,
            event_type: event.event_type.clone(),
            verdict: Verdict::Pending,
            delivery_ids: vec![id],
        };
        Ok(if_new.told(stored.accepted, Source::Inline))
    }
}

fn key_of(RequestKey { text, asked }: RequestKey<'_>) -> Result<EventKey> {
    let text = key(KeyNamespace::EventHeader, text).map_err(|why| Error::invalid(KEY_FIELD, why))?;
    Ok(EventKey { text, fingerprint: fingerprint([LABEL, asked]), verdict: Verdict::Pending })
}
