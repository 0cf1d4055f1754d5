//! What a request to a subscription's ingest has to show: a key, a signature, either or nothing; and whose signature,
//! made with which secrets. How signatures are verified stands in [`crate::trust::inbound_signature`].

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    text_enum::text_enum,
    trust::inbound_signature::{Provider, Refused, Verified},
};

/// Secrets of one provider that are valid side by side, at most: enough for a rotation.
pub const SECRETS_MAX: usize = 4;
/// How far a signature's timestamp may be from the present, in seconds, by default (Standard Webhooks' own).
pub const TOLERANCE_SECONDS_DEFAULT: u32 = 300;
/// How far it may be at most. Twice this is how long a request can be replayed, and idempotency keys, which make a
/// replay harmless, live for an hour at least.
pub const TOLERANCE_SECONDS_MAX: u32 = 1800;

text_enum! {
    /// What opens a subscription's ingest.
    #[derive(Default)]
    pub enum IngestAuth {
        /// An API key with the scope `ingest`, or a valid signature.
        #[default]
        KeyOrSignature = "key_or_signature",
        /// An API key only.
        Key = "key",
        /// A signature only, so that what is stored is what the provider sent.
        Signature = "signature",
        /// Nothing: whoever knows the URL can post.
        None = "none",
    }
}

/// Whose signatures a subscription's ingest takes. Its `Debug` form does not show the secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct IngestSignature {
    provider: Provider,
    secrets: Vec<String>,
    tolerance_seconds: u32,
}

/// Its form before it is sealed.
#[derive(Serialize, Deserialize)]
struct Stored {
    provider: String,
    secrets: Vec<String>,
    tolerance_seconds: u32,
}

impl IngestSignature {
    /// Checks it. Where no secrets are given, those of `current` stay, if they are of the same provider.
    ///
    /// # Errors
    /// The field that is wrong, and why, without showing a secret.
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

    /// Whose they are.
    #[must_use]
    pub fn provider(&self) -> Provider {
        self.provider
    }

    /// How far a timestamp may be from the present.
    #[must_use]
    pub fn tolerance_seconds(&self) -> u32 {
        self.tolerance_seconds
    }

    /// Whether it has the same secrets as another.
    #[must_use]
    pub fn has_secrets_of(&self, other: &Self) -> bool {
        self.secrets == other.secrets
    }

    /// How many secrets there are.
    #[must_use]
    pub fn secret_count(&self) -> usize {
        self.secrets.len()
    }

    /// Verifies a request's signature; `now` is in seconds since 1970.
    ///
    /// # Errors
    /// Why it opens nothing.
    pub fn verify<'h>(
        &self,
        header: impl Fn(&str) -> Option<&'h str>,
        payload: &[u8],
        now: i64,
    ) -> Result<Verified, Refused> {
        self.provider.verify(&self.secrets, self.tolerance_seconds, header, payload, now)
    }

    /// As it may be shown.
    #[must_use]
    pub fn audited(&self) -> Value {
        json!({
            "provider": self.provider.as_str(),
            "tolerance_seconds": self.tolerance_seconds,
            "secret_count": self.secrets.len(),
        })
    }

    /// Its stored form, secrets in the clear: to be sealed.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let provider = self.provider.as_str().to_owned();
        let stored = Stored { provider, secrets: self.secrets.clone(), tolerance_seconds: self.tolerance_seconds };
        serde_json::to_vec(&stored).expect("texts and a number have a JSON form")
    }

    /// What was valid when it was stored.
    ///
    /// # Errors
    /// When it is not what [`Self::to_json`] makes.
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
