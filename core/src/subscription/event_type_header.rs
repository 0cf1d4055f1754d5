//! The header, chosen by a subscription's owner, from which the ingest takes the type of an event: providers name their
//! events in headers of their own, such as `X-GitHub-Event`.

use std::fmt;

use crate::{trust::provider::Provider, validation};

/// Characters of a header's name, at most.
const NAME_CHARACTERS_MAX: usize = 64;

/// An event's type is shown in lists and sent to receivers, so it must not be read from a header whose name contains
/// one of these words: the header may hold a secret.
const SECRET_WORDS: [&str; 9] =
    ["auth", "token", "secret", "password", "cookie", "signature", "hmac", "api-key", "idempotency"];

/// The name of a header that holds event types, as its owner wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventTypeHeader(String);

impl EventTypeHeader {
    /// Checks a header's name.
    ///
    /// # Errors
    /// What is wrong.
    pub fn parse(name: String) -> Result<Self, String> {
        let lower = name.to_ascii_lowercase();
        let signs = |provider: Provider| provider.header().eq_ignore_ascii_case(&name);
        if name.len() > NAME_CHARACTERS_MAX || !validation::is_header_name(&name) {
            Err(format!("must be the name of a header, at most {NAME_CHARACTERS_MAX} characters long"))
        } else if Provider::ALL.into_iter().any(signs) || SECRET_WORDS.iter().any(|word| lower.contains(word)) {
            Err("must not be a header that may hold a secret".to_owned())
        } else {
            Ok(Self(name))
        }
    }

    /// Wraps a name that was checked before it was stored.
    pub(crate) fn from_stored(name: String) -> Self {
        Self(name)
    }

    /// The name, as its owner wrote it; names of headers are the same in any case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EventTypeHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_headers() {
        let parse = |name: &str| EventTypeHeader::parse(name.to_owned());
        for name in ["X-GitHub-Event", "X-Shopify-Topic", "X-Gitlab-Event", "X-Event-Key", "x-wc-webhook-topic"] {
            assert_eq!(parse(name).as_ref().map(EventTypeHeader::as_str), Ok(name));
        }
        let long = "x".repeat(NAME_CHARACTERS_MAX + 1);
        for name in ["", " ", "X Event", "X-Event:", "X-\u{e9}v\u{e9}nement", "a\r\nb", &long] {
            assert!(parse(name).is_err(), "{name:?}");
        }
        for name in ["Authorization", "Cookie", "X-Gitlab-Token", "x-api-key", "Stripe-Signature", "X-Trello-Webhook"] {
            assert!(parse(name).is_err_and(|why| why.contains("secret")), "{name}");
        }
    }
}
