//! A subscription: where to deliver which events, and the states that it goes through. Its SQL is in
//! [`crate::subscription::store`] and [`crate::subscription::state`], the rules of each setting are in
//! [`crate::subscription::settings`] and [`crate::subscription::flow_settings`].

pub mod cache;
pub mod circuit;
pub mod condition;
pub mod counts;
pub mod event_type_header;
pub mod failing;
pub mod find;
pub mod flow_settings;
pub mod health;
pub mod hold;
pub(crate) mod lane;
pub mod late_lanes;
pub mod list;
pub mod previous_secret;
pub(crate) mod row;
pub mod secret_rotation;
pub mod settings;
pub mod settings_input;
pub mod state;
pub mod store;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::{
    Error, Result,
    access::ingest_limit::RateLimit,
    id::SubscriptionId,
    name::Name,
    queue::disable_reason::DisableReason,
    subscription::{
        event_type_header::EventTypeHeader,
        flow_settings::{DeliveryRate, DisableAfter, MaxInFlight},
        settings::Settings,
    },
    text_enum::text_enum,
    trust::{
        inbound_challenge::{Answer, Question},
        inbound_signature::{Refused, Verified},
        ingest_auth::{IngestSignature, TOLERANCE_SECONDS_DEFAULT},
        provider::{Agreed, Provider},
        signing_secret::{SecretKind, SigningSecret, SigningSecrets},
    },
};

text_enum! {
    /// Whether events are accepted and delivered.
    pub enum State {
        /// Events are accepted and delivered.
        Active = "active",
        /// Events are accepted, and their deliveries wait.
        Paused = "paused",
        /// Events are stored without deliveries; deliveries that were waiting go on waiting.
        Disabled = "disabled",
    }
}

/// A subscription with its settings, secrets and state.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// Identifies the subscription; its lane has the same id.
    pub id: SubscriptionId,
    /// The tenant to which the subscription belongs.
    pub tenant_id: String,
    /// The settings that its owner chose.
    pub settings: Settings,
    /// The secrets that sign its deliveries.
    pub secrets: SigningSecrets,
    /// Whether events are accepted and delivered.
    pub state: State,
    /// Why Postrider disabled the subscription; `None` where a person did, or it is not disabled.
    pub disabled_reason: Option<String>,
    /// Until when its deliveries wait because the receiver answered 429 or 503; `None` where they do not.
    pub rests_until: Option<DateTime<Utc>>,
    /// When the subscription was created, by the database's clock.
    pub created_at: DateTime<Utc>,
    /// When the subscription was last changed, by the database's clock.
    pub updated_at: DateTime<Utc>,
}

impl Subscription {
    /// Verifies the signature of a request to the subscription's ingest. It must fit `ingest_signature`; where that is
    /// not set, it must be an `X-Hub-Signature-256` made with the text of one of the subscription's own secrets, unless
    /// deliveries are signed the same way.
    ///
    /// # Errors
    /// Why the signature is refused.
    pub fn verify_ingest<'h>(
        &self,
        header: impl Fn(&str) -> Option<&'h str>,
        payload: &[u8],
        now: DateTime<Utc>,
    ) -> std::result::Result<Verified, Refused> {
        if let Some(signature) = &self.settings.ingest_signature {
            return signature.verify(header, payload, now.timestamp());
        }
        let own = self.secrets.active(now).filter(|secret| secret.kind() == SecretKind::Hmac);
        let own: Vec<_> = if self.settings.signature_scheme.opens_own_ingest() {
            own.map(SigningSecret::reveal).collect()
        } else {
            Vec::new()
        };
        let agreed = Agreed {
            secrets: &own,
            tolerance_seconds: TOLERANCE_SECONDS_DEFAULT,
            verify_token: None,
            callback_url: None,
        };
        Provider::Github.verify(agreed, header, payload, now.timestamp())
    }

    /// The answer to a question that a provider asks when the URL of the subscription's ingest is registered with it.
    /// There is one only where `ingest_signature` names that provider.
    #[must_use]
    pub fn answer_challenge(&self, question: Question<'_>) -> Option<Answer> {
        self.settings.ingest_signature.as_ref()?.answer(question)
    }

    /// The provider whose signatures the subscription's ingest accepts.
    #[must_use]
    pub fn ingest_provider(&self) -> Provider {
        self.settings.ingest_signature.as_ref().map_or(Provider::Github, IngestSignature::provider)
    }

    /// The subscription as the audit log shows it, without secrets.
    #[must_use]
    pub fn audited(&self) -> Value {
        let (settings, flow) = (&self.settings, &self.settings.flow);
        json!({
            "name": settings.name.as_ref().map(Name::as_str),
            "target_url": settings.target_url.as_str(),
            "event_types": settings.event_types.to_texts(),
            "filters": settings.filters.to_value(),
            "headers": settings.headers.redacted(),
            "metadata": settings.metadata,
            "retry_policy": settings.retry_policy,
            "timeout_ms": settings.timeout.ms(),
            "signature_scheme": settings.signature_scheme.as_str(),
            "ingest_auth": settings.ingest_auth.as_str(),
            "ingest_signature": settings.ingest_signature.as_ref().map(IngestSignature::audited),
            "ingest_event_type_header": settings.ingest_event_type_header.as_ref().map(EventTypeHeader::as_str),
            "ingest_rate_limit_per_second": settings.ingest_rate_limit.map(RateLimit::per_second),
            "circuit": flow.circuit,
            "rate_limit_per_second": flow.rate.map(DeliveryRate::per_second),
            "rate_limit_burst": flow.rate.map(DeliveryRate::burst),
            "max_in_flight": flow.max_in_flight.map(MaxInFlight::attempts),
            "ordering": flow.ordering.as_str(),
            "disable_after_days": flow.disable_after.map(DisableAfter::days),
            "state": self.state.as_str(),
            "disabled_reason": self.disabled_reason,
        })
    }
}

/// A request to change a subscription's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateChange {
    /// active → paused
    Pause,
    /// paused → active
    Resume,
    /// any → disabled
    Disable,
    /// disabled → active
    Enable,
    /// any → disabled, by Postrider itself, for this reason.
    DisableBecause(DisableReason),
}

impl StateChange {
    /// The action under which the audit log records the change.
    #[must_use]
    pub fn action(self) -> &'static str {
        match self {
            Self::Pause => "subscription.paused",
            Self::Resume => "subscription.resumed",
            Self::Disable | Self::DisableBecause(_) => "subscription.disabled",
            Self::Enable => "subscription.enabled",
        }
    }

    /// The state that follows `from`; a conflict where the change is not possible.
    pub(crate) fn target(self, from: State) -> Result<State> {
        let conflict = |message: &str| Err(Error::Conflict(message.to_owned()));
        match (self, from) {
            (Self::Pause, State::Active | State::Paused) => Ok(State::Paused),
            (Self::Pause, State::Disabled) => conflict("a disabled subscription cannot be paused; enable it first"),
            (Self::Resume, State::Paused | State::Active) | (Self::Enable, State::Disabled | State::Active) => {
                Ok(State::Active)
            }
            (Self::Resume, State::Disabled) => conflict("a disabled subscription cannot be resumed; enable it"),
            (Self::Disable | Self::DisableBecause(_), _) => Ok(State::Disabled),
            (Self::Enable, State::Paused) => conflict("a paused subscription is not disabled; resume it"),
        }
    }
}
