//! A subscription: who wants which events where, and the states it goes through. How it is kept stands in
//! [`crate::subscription::store`], the rules of each setting in [`crate::subscription::settings`].

pub mod cache;
pub mod previous_secret;
pub(crate) mod row;
pub mod secret_rotation;
pub mod settings;
pub mod settings_input;
pub mod store;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::{
    Error, Result,
    access::ingest_limit::RateLimit,
    event::audience::{Facts, wants},
    id::SubscriptionId,
    name::Name,
    subscription::settings::Settings,
    text_enum::text_enum,
    trust::{
        inbound_signature::{Provider, Refused, Verified},
        ingest_auth::{IngestSignature, TOLERANCE_SECONDS_DEFAULT},
        signing_secret::{SecretKind, SigningSecret, SigningSecrets},
    },
};

text_enum! {
    /// Whether deliveries are made.
    pub enum State {
        /// Events are accepted and delivered.
        Active = "active",
        /// Events are accepted and wait.
        Paused = "paused",
        /// Events are stored and not delivered; what was waiting waits on.
        Disabled = "disabled",
    }
}

/// A subscription.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// Its id, which is also its lane's.
    pub id: SubscriptionId,
    /// Whose it is.
    pub tenant_id: String,
    /// What its owner decided.
    pub settings: Settings,
    /// What it signs with.
    pub secrets: SigningSecrets,
    /// Whether deliveries are made.
    pub state: State,
    /// Why it is disabled, where Postrider did it.
    pub disabled_reason: Option<String>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
}

impl Subscription {
    /// Whether it wants an event of these facts.
    #[must_use]
    pub fn wants(&self, facts: &Facts<'_>) -> bool {
        wants(&self.settings.event_types, &self.settings.filters, facts)
    }

    /// Verifies the signature of a request to its ingest: by its `ingest_signature`, or else `X-Hub-Signature-256` made
    /// with the text of one of its own secrets, where it signs its deliveries otherwise.
    ///
    /// # Errors
    /// Why the signature opens nothing.
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
        Provider::Github.verify(&own, TOLERANCE_SECONDS_DEFAULT, header, payload, now.timestamp())
    }

    /// Whose signatures its ingest takes.
    #[must_use]
    pub fn ingest_provider(&self) -> Provider {
        self.settings.ingest_signature.as_ref().map_or(Provider::Github, IngestSignature::provider)
    }

    /// As it is shown in the audit log: no secrets.
    #[must_use]
    pub fn audited(&self) -> Value {
        let settings = &self.settings;
        json!({
            "name": settings.name.as_ref().map(Name::as_str),
            "target_url": settings.target_url.as_str(),
            "event_types": settings.event_types.to_texts(),
            "filters": settings.filters.to_json(),
            "headers": settings.headers.redacted(),
            "metadata": settings.metadata,
            "retry_policy": settings.retry_policy,
            "timeout_ms": settings.timeout.ms(),
            "signature_scheme": settings.signature_scheme.as_str(),
            "ingest_auth": settings.ingest_auth.as_str(),
            "ingest_signature": settings.ingest_signature.as_ref().map(IngestSignature::audited),
            "ingest_rate_limit_per_second": settings.ingest_rate_limit.map(RateLimit::per_second),
            "state": self.state.as_str(),
            "disabled_reason": self.disabled_reason,
        })
    }
}

/// A wish to change a subscription's state.
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
    DisableBecause(&'static str),
}

impl StateChange {
    /// What the audit log calls it.
    #[must_use]
    pub fn action(self) -> &'static str {
        match self {
            Self::Pause => "subscription.paused",
            Self::Resume => "subscription.resumed",
            Self::Disable | Self::DisableBecause(_) => "subscription.disabled",
            Self::Enable => "subscription.enabled",
        }
    }

    /// Where it leads from a state; a conflict where the wish does not fit.
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
