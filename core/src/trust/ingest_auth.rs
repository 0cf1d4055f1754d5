//! The proof that a request to a subscription's ingest must bring (an API key, a signature, either or none), and the
//! provider and secrets that its signature must be made with. Verifying is in [`crate::trust::inbound_signature`], and
//! answering the provider's questions in [`crate::trust::inbound_challenge`].

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    text_enum::text_enum,
    trust::{
        inbound_challenge::{Answer, Question},
        inbound_signature::{Refused, Verified},
        provider::{Agreed, Detail, Provider},
    },
    validation::{self, Problems},
};

/// Secrets of one provider that may be valid at the same time, at most: enough for a rotation.
pub const SECRETS_MAX: usize = 4;
/// How many seconds a signature's timestamp may differ from the present time by default (as in Standard Webhooks).
pub const TOLERANCE_SECONDS_DEFAULT: u32 = 300;
/// The largest tolerance, in seconds. A request can be replayed for twice this time. Idempotency keys, which make a
/// replay harmless, are remembered for at least an hour.
pub const TOLERANCE_SECONDS_MAX: u32 = 1800;
/// Characters of the token by which the owner's endpoint knows a provider, at most.
const VERIFY_TOKEN_CHARACTERS_MAX: usize = 256;
/// Characters of the URL that was registered with a provider, at most.
const CALLBACK_URL_CHARACTERS_MAX: usize = 2048;

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

/// The signatures that an ingest is to accept, before they are checked. It holds secrets, so it has no `Debug` form.
#[derive(Clone)]
pub struct IngestSignatureInput {
    /// The provider whose way of signing is used.
    pub provider: Provider,
    /// The provider's secrets, any of which may sign. Absent means that the current ones stay.
    pub secrets: Option<Vec<String>>,
    /// How many seconds a signature's timestamp may differ from the present time.
    pub tolerance_seconds: Option<u32>,
    /// [`Detail::VerifyToken`]; absent means that the current one stays.
    pub verify_token: Option<String>,
    /// [`Detail::CallbackUrl`].
    pub callback_url: Option<String>,
}

/// The provider whose signatures a subscription's ingest accepts, with the secrets. The `Debug` form does not show
/// them.
#[derive(Clone, PartialEq, Eq)]
pub struct IngestSignature {
    provider: Provider,
    secrets: Vec<String>,
    tolerance_seconds: u32,
    verify_token: Option<String>,
    callback_url: Option<String>,
}

/// The form in which it is stored, once it is sealed.
#[derive(Serialize, Deserialize)]
struct Stored {
    provider: String,
    secrets: Vec<String>,
    tolerance_seconds: u32,
    verify_token: Option<String>,
    callback_url: Option<String>,
}

impl IngestSignatureInput {
    /// Checks all fields. Where no secrets are given, the ones of `current` stay, if they belong to the same provider;
    /// so does the verify token.
    ///
    /// # Errors
    /// Every broken rule, without showing a secret.
    pub fn parse(self, current: Option<&IngestSignature>) -> Result<IngestSignature, Problems> {
        let mut problems = Problems::default();
        let Self { provider, secrets, tolerance_seconds, verify_token, callback_url } = self;
        let current = current.filter(|current| current.provider == provider);
        let secrets = secrets.or_else(|| Some(current?.secrets.clone())).unwrap_or_default();
        problems.require(
            (1..=SECRETS_MAX).contains(&secrets.len()),
            "secrets",
            format!("must be 1 to {SECRETS_MAX}, as {provider} shows them"),
        );
        let read = secrets
            .iter()
            .take(SECRETS_MAX)
            .enumerate()
            .filter_map(|(place, text)| problems.take(&format!("secrets[{place}]"), provider.read_secret(text)));
        let secrets = read.collect();
        let tolerance_seconds = tolerance_seconds.unwrap_or(TOLERANCE_SECONDS_DEFAULT);
        problems.require(
            (1..=TOLERANCE_SECONDS_MAX).contains(&tolerance_seconds),
            "tolerance_seconds",
            format!("must be from 1 to {TOLERANCE_SECONDS_MAX}"),
        );
        let verify_token = verify_token.or_else(|| current?.verify_token.clone());
        let verify_token = detail(provider, Detail::VerifyToken, verify_token, &mut problems);
        let callback_url = detail(provider, Detail::CallbackUrl, callback_url, &mut problems);
        problems.none_or(IngestSignature { provider, secrets, tolerance_seconds, verify_token, callback_url })
    }
}

/// Reads a detail, which must be given if this provider has it, and must not be given if not.
fn detail(provider: Provider, which: Detail, given: Option<String>, problems: &mut Problems) -> Option<String> {
    let read = match (provider.detail() == Some(which), given) {
        (true, Some(text)) => check(which, text.trim()).map(|()| Some(text.trim().to_owned())),
        (true, None) => Err(format!("must be given for `{provider}`")),
        (false, Some(_)) => Err(format!("is not used with `{provider}`")),
        (false, None) => Ok(None),
    };
    problems.take(which.as_str(), read).flatten()
}

fn check(which: Detail, text: &str) -> Result<(), String> {
    match which {
        Detail::VerifyToken => validation::text(text, VERIFY_TOKEN_CHARACTERS_MAX),
        Detail::CallbackUrl => {
            validation::text(text, CALLBACK_URL_CHARACTERS_MAX)?;
            let is_url = ["https://", "http://"].iter().any(|start| text.starts_with(start));
            if is_url { Ok(()) } else { Err("must be the URL, letter by letter, that was registered".to_owned()) }
        }
    }
}

impl IngestSignature {
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

    /// The URL that was registered with the provider, if the provider signs it.
    #[must_use]
    pub fn callback_url(&self) -> Option<&str> {
        self.callback_url.as_deref()
    }

    /// Whether everything that is secret is the same as the other's.
    #[must_use]
    pub fn has_secrets_of(&self, other: &Self) -> bool {
        self.secrets == other.secrets && self.verify_token == other.verify_token
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
        self.provider.verify(self.agreed(), header, payload, now)
    }

    /// The answer to a question that the provider asks at registration, if it is one and can be answered.
    #[must_use]
    pub fn answer(&self, question: Question<'_>) -> Option<Answer> {
        self.provider.answer(self.agreed(), question)
    }

    fn agreed(&self) -> Agreed<'_> {
        Agreed {
            secrets: &self.secrets,
            tolerance_seconds: self.tolerance_seconds,
            verify_token: self.verify_token.as_deref(),
            callback_url: self.callback_url.as_deref(),
        }
    }

    /// The form that may be shown: the number of secrets instead of the secrets.
    #[must_use]
    pub fn audited(&self) -> Value {
        json!({
            "provider": self.provider.as_str(),
            "tolerance_seconds": self.tolerance_seconds,
            "secret_count": self.secrets.len(),
            "callback_url": self.callback_url,
        })
    }

    /// The form in which it is stored, once it is sealed: JSON with the secrets in the clear.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let Self { provider, secrets, tolerance_seconds, verify_token, callback_url } = self.clone();
        let provider = provider.as_str().to_owned();
        let stored = Stored { provider, secrets, tolerance_seconds, verify_token, callback_url };
        serde_json::to_vec(&stored).expect("texts and a number have a JSON form")
    }

    /// Parses what was valid when it was stored.
    ///
    /// # Errors
    /// When the text is not what [`Self::to_json`] makes.
    pub fn from_json(json: &[u8]) -> Result<Self, String> {
        let stored: Stored = serde_json::from_slice(json).map_err(|_| "a stored ingest signature is damaged")?;
        let Stored { provider, secrets, tolerance_seconds, verify_token, callback_url } = stored;
        Ok(Self { provider: provider.parse()?, secrets, tolerance_seconds, verify_token, callback_url })
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

    fn input(provider: Provider, secrets: &[&str]) -> IngestSignatureInput {
        IngestSignatureInput {
            provider,
            secrets: Some(secrets.iter().map(|secret| (*secret).to_owned()).collect()),
            tolerance_seconds: None,
            verify_token: None,
            callback_url: None,
        }
    }

    #[test]
    fn secrets_stay_where_none_are_given_and_are_hidden() {
        let stripe = input(Provider::Stripe, &["hunter2"]).parse(None).expect("valid");
        assert!(!format!("{stripe:?}").contains("hunter2"));
        assert_eq!(IngestSignature::from_json(&stripe.to_json()), Ok(stripe.clone()));
        let kept = IngestSignatureInput { secrets: None, tolerance_seconds: Some(60), ..input(Provider::Stripe, &[]) };
        let changed = kept.clone().parse(Some(&stripe)).expect("valid");
        assert_eq!((&changed.secrets, changed.tolerance_seconds), (&stripe.secrets, 60));
        let with_tolerance = |seconds| IngestSignatureInput {
            tolerance_seconds: Some(seconds),
            ..input(Provider::Stripe, &["hunter2"])
        };
        let slack = IngestSignatureInput { provider: Provider::Slack, ..kept.clone() };
        let refused = [
            (slack.parse(Some(&stripe)), "secrets"),
            (kept.parse(None), "secrets"),
            (input(Provider::Stripe, &[]).parse(Some(&stripe)), "secrets"),
            (input(Provider::Stripe, &["x"; SECRETS_MAX + 1]).parse(None), "secrets"),
            (input(Provider::Stripe, &["x", "", "y"]).parse(None), "secrets[1]"),
            (input(Provider::Standard, &["hunter2"]).parse(None), "secrets[0]"),
            (with_tolerance(0).parse(None), "tolerance_seconds"),
            (with_tolerance(TOLERANCE_SECONDS_MAX + 1).parse(None), "tolerance_seconds"),
        ];
        for (index, (parsed, field)) in refused.into_iter().enumerate() {
            let problems = parsed.expect_err("refused").0;
            assert_eq!(problems.iter().map(|one| one.field.as_str()).collect::<Vec<_>>(), [field], "case {index}");
            assert!(!problems[0].message.contains("hunter2"), "case {index}");
        }
    }

    #[test]
    fn a_detail_is_given_where_the_provider_has_it_and_nowhere_else() {
        let token = |provider, token: &str| IngestSignatureInput {
            verify_token: Some(token.to_owned()),
            ..input(provider, &["hush"])
        };
        let url = |provider, url: &str| IngestSignatureInput {
            callback_url: Some(url.to_owned()),
            ..input(provider, &["hush"])
        };
        let meta = token(Provider::Meta, " hunter2\n").parse(None).expect("valid");
        assert_eq!(meta.verify_token.as_deref(), Some("hunter2"));
        assert!(!format!("{meta:?}").contains("hunter2"));
        assert_eq!(IngestSignature::from_json(&meta.to_json()), Ok(meta.clone()));
        assert_eq!(input(Provider::Meta, &["hush"]).parse(Some(&meta)), Ok(meta.clone()), "the token stays");
        assert!(!token(Provider::Meta, "other").parse(None).expect("valid").has_secrets_of(&meta));
        let trello = url(Provider::Trello, "https://example.com/webhooks/ingest/sub_1").parse(None).expect("valid");
        assert_eq!(trello.callback_url(), Some("https://example.com/webhooks/ingest/sub_1"));
        assert_eq!(IngestSignature::from_json(&trello.to_json()), Ok(trello));
        let refused = [
            (input(Provider::Meta, &["hush"]), "verify_token"),
            (token(Provider::Meta, " "), "verify_token"),
            (token(Provider::Meta, &"x".repeat(VERIFY_TOKEN_CHARACTERS_MAX + 1)), "verify_token"),
            (token(Provider::Github, "x"), "verify_token"),
            (input(Provider::Trello, &["hush"]), "callback_url"),
            (url(Provider::Trello, "example.com"), "callback_url"),
            (url(Provider::Github, "https://example.com/"), "callback_url"),
        ];
        for (index, (input, field)) in refused.into_iter().enumerate() {
            let problems = input.parse(None).expect_err("refused").0;
            assert_eq!(problems.iter().map(|one| one.field.as_str()).collect::<Vec<_>>(), [field], "case {index}");
        }
    }
}
