//! The proof that a request to a subscription's ingest must bring (an API key, a signature, either or none), and the
//! provider and secrets that its signature must be made with. Verifying is in [`crate::trust::inbound_signature`].

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    text_enum::text_enum,
    trust::inbound_signature::{Provider, Refused, Verified},
};

/// Secrets of one provider that may be valid at the same time, at most: enough for a rotation.
pub const SECRETS_MAX: usize = 4;
/// How many seconds a signature's timestamp may differ from the present time by default (as in Standard Webhooks).
pub const TOLERANCE_SECONDS_DEFAULT: u32 = 300;
/// The largest tolerance, in seconds. A request can be replayed for twice this time. Idempotency keys, which make a
/// replay harmless, are remembered for at least an hour.
pub const TOLERANCE_SECONDS_MAX: u32 = 1800;

text_enum! {
    /// The proof that a request to a subscription's ingest must bring.
    #[derive(Default)]
    pub enum IngestAuth {
        /// An API key with the scope `ingest`, or a valid signature.
        #[default]
        KeyOrSignature = "key_or_signature",
        /// An API key only.
        Key = "key",
        /// A valid signature only, so that nothing is stored but what the provider sent.
        Signature = "signature",
        /// No proof: whoever knows the URL can post.
        None = "none",
    }
}

/// The provider whose signatures a subscription's ingest accepts, with the secrets. The `Debug` form does not show
/// them.
#[derive(Clone, PartialEq, Eq)]
pub struct IngestSignature {
    provider: Provider,
    secrets: Vec<String>,
    tolerance_seconds: u32,
}

/// The form in which it is stored, once it is sealed.
#[derive(Serialize, Deserialize)]
struct Stored {
    provider: String,
    secrets: Vec<String>,
    tolerance_seconds: u32,
}

impl IngestSignature {
    /// Checks all fields. Where no secrets are given, the ones of `current` stay, if they belong to the same provider.
    ///
    /// # Errors
    /// The first field that is wrong, and why, without showing a secret.
    pub fn parse(
        provider: Provider,
        secrets: Option<Vec<String>>,
        tolerance_seconds: Option<u32>,
        current: Option<&Self>,
    ) -> Result<Self, (&'static str, String)> {
        let kept = current.filter(|current| current.provider == provider).map(|current| current.secrets.clone());
        let secrets = secrets.or(kept).unwrap_or_default();
        if !(1..=SECRETS_MAX).contains(&secrets.len()) {
            return Err(("secrets", format!("must be 1 to {SECRETS_MAX}, as {provider} shows them")));
        }
        for secret in &secrets {
            provider.check_secret(secret).map_err(|why| ("secrets", why))?;
        }
        let tolerance_seconds = tolerance_seconds.unwrap_or(TOLERANCE_SECONDS_DEFAULT);
        if !(1..=TOLERANCE_SECONDS_MAX).contains(&tolerance_seconds) {
            return Err(("tolerance_seconds", format!("must be from 1 to {TOLERANCE_SECONDS_MAX}")));
        }
        Ok(Self { provider, secrets, tolerance_seconds })
    }

    /// The provider whose signatures are accepted.
    #[must_use]
    pub fn provider(&self) -> Provider {
        self.provider
    }

    /// How many seconds a signature's timestamp may differ from the present time.
    #[must_use]
    pub fn tolerance_seconds(&self) -> u32 {
        self.tolerance_seconds
    }

    /// Whether the secrets are the same as the other's.
    #[must_use]
    pub fn has_secrets_of(&self, other: &Self) -> bool {
        self.secrets == other.secrets
    }

    /// How many secrets are valid at the same time.
    #[must_use]
    pub fn secret_count(&self) -> usize {
        self.secrets.len()
    }

    /// Verifies a request's signature; `now` is in seconds since 1970.
    ///
    /// # Errors
    /// Why the signature is refused.
    pub fn verify<'h>(
        &self,
        header: impl Fn(&str) -> Option<&'h str>,
        payload: &[u8],
        now: i64,
    ) -> Result<Verified, Refused> {
        self.provider.verify(&self.secrets, self.tolerance_seconds, header, payload, now)
    }

    /// The form that may be shown: the number of secrets instead of the secrets.
    #[must_use]
    pub fn audited(&self) -> Value {
        json!({
            "provider": self.provider.as_str(),
            "tolerance_seconds": self.tolerance_seconds,
            "secret_count": self.secrets.len(),
        })
    }

    /// The form in which it is stored, once it is sealed: JSON with the secrets in the clear.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let provider = self.provider.as_str().to_owned();
        let stored = Stored { provider, secrets: self.secrets.clone(), tolerance_seconds: self.tolerance_seconds };
        serde_json::to_vec(&stored).expect("texts and a number have a JSON form")
    }

    /// Parses what was valid when it was stored.
    ///
    /// # Errors
    /// When the text is not what [`Self::to_json`] makes.
    pub fn from_json(json: &[u8]) -> Result<Self, String> {
        let stored: Stored = serde_json::from_slice(json).map_err(|_| "a stored ingest signature is damaged")?;
        let Stored { provider, secrets, tolerance_seconds } = stored;
        Ok(Self { provider: provider.parse()?, secrets, tolerance_seconds })
    }
}

impl fmt::Debug for IngestSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.audited().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_stay_where_none_are_given_and_are_hidden() {
        let parse = IngestSignature::parse;
        let secret = || Some(vec!["hunter2".to_owned()]);
        let stripe = parse(Provider::Stripe, secret(), None, None).expect("valid");
        assert!(!format!("{stripe:?}").contains("hunter2"));
        assert_eq!(IngestSignature::from_json(&stripe.to_json()), Ok(stripe.clone()));
        let changed = parse(Provider::Stripe, None, Some(60), Some(&stripe)).expect("valid");
        assert_eq!((&changed.secrets, changed.tolerance_seconds), (&stripe.secrets, 60));
        let refused = [
            parse(Provider::Slack, None, None, Some(&stripe)),
            parse(Provider::Stripe, None, None, None),
            parse(Provider::Stripe, Some(Vec::new()), None, Some(&stripe)),
            parse(Provider::Stripe, Some(vec!["x".to_owned(); SECRETS_MAX + 1]), None, None),
            parse(Provider::Standard, secret(), None, None),
            parse(Provider::Stripe, secret(), Some(0), None),
            parse(Provider::Stripe, secret(), Some(TOLERANCE_SECONDS_MAX + 1), None),
        ];
        for (index, one) in refused.into_iter().enumerate() {
            assert!(one.is_err_and(|(_, why)| !why.contains("hunter2")), "case {index}");
        }
    }
}
