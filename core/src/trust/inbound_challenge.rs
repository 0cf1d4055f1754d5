//! The questions with which providers verify a URL when it is registered with them, and the answers that they expect.
//! It is pure, and knows no HTTP. Where a question is not the provider's, or cannot be answered, there is no answer,
//! and the reason is not told: strangers ask, too.
//!
//! Whatever is sent back or signed is short and made of few characters, so nobody can use an ingest to have a text of
//! their own shown, run or signed.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::Value;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::trust::{
    provider::{Agreed, Provider, is_sendable},
    signing_secret::mac,
};

/// What a request without a body may ask. A part that the request lacks is `None`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Question<'q> {
    /// Meta's `hub.mode`.
    pub hub_mode: Option<&'q str>,
    /// Meta's `hub.verify_token`.
    pub hub_verify_token: Option<&'q str>,
    /// Meta's `hub.challenge`.
    pub hub_challenge: Option<&'q str>,
    /// Dropbox's `challenge`.
    pub challenge: Option<&'q str>,
    /// X's `crc_token`.
    pub crc_token: Option<&'q str>,
    /// Okta's `X-Okta-Verification-Challenge`.
    pub okta_challenge: Option<&'q str>,
}

/// The answer that the provider expects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The value itself, as plain text.
    Echo(String),
    /// The value, as the member `verification` of a JSON object.
    Verification(String),
    /// `sha256=` and the base64 HMAC-SHA256 of the value, as the member `response_token` of a JSON object.
    ResponseToken(String),
}

impl Provider {
    /// The answer to a question that this provider asks by GET, if it is one and can be answered.
    #[must_use]
    pub fn answer(self, agreed: Agreed<'_>, question: Question<'_>) -> Option<Answer> {
        let sendable = |value: Option<&str>| value.filter(|value| is_sendable(value)).map(str::to_owned);
        match self {
            Self::Meta => {
                let (token, given) = (agreed.verify_token?, question.hub_verify_token?);
                let is_meant = question.hub_mode == Some("subscribe") && is_same(token, given);
                sendable(question.hub_challenge.filter(|_| is_meant)).map(Answer::Echo)
            }
            Self::Dropbox => sendable(question.challenge).map(Answer::Echo),
            Self::Okta => sendable(question.okta_challenge).map(Answer::Verification),
            Self::X => {
                let (token, secret) = (sendable(question.crc_token)?, agreed.secrets.first()?);
                let mac = BASE64_STANDARD.encode(mac(secret.as_bytes(), &[token.as_bytes()]));
                Some(Answer::ResponseToken(format!("sha256={mac}")))
            }
            Self::Github | Self::Standard | Self::Stripe | Self::Shopify | Self::Slack | Self::Trello => None,
        }
    }

    /// Whether this provider asks by HEAD whether the URL exists.
    #[must_use]
    pub fn asks_by_head(self) -> bool {
        match self {
            Self::Trello => true,
            Self::Github
            | Self::Standard
            | Self::Stripe
            | Self::Shopify
            | Self::Slack
            | Self::Meta
            | Self::Dropbox
            | Self::X
            | Self::Okta => false,
        }
    }

    /// The challenge in a signed body, if this provider asks in that way.
    #[must_use]
    pub fn asked_in_body(self, payload: &[u8]) -> Option<String> {
        match self {
            Self::Slack => {
                let value: Value = serde_json::from_slice(payload).ok()?;
                let challenge = value["challenge"].as_str().filter(|_| value["type"] == "url_verification");
                challenge.map(str::to_owned)
            }
            Self::Github
            | Self::Standard
            | Self::Stripe
            | Self::Shopify
            | Self::Meta
            | Self::Dropbox
            | Self::X
            | Self::Trello
            | Self::Okta => None,
        }
    }
}

/// Compares two texts in a time that reveals neither their contents nor the length of the expected one.
fn is_same(expected: &str, given: &str) -> bool {
    Sha256::digest(expected).ct_eq(&Sha256::digest(given)).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::provider::CHALLENGE_CHARACTERS_MAX;

    fn agreed(secrets: &[String]) -> Agreed<'_> {
        Agreed { secrets, tolerance_seconds: 300, verify_token: Some("meatyhamhock"), callback_url: None }
    }

    /// A question that asks everything at once, with this value.
    fn everything(value: &str) -> Question<'_> {
        Question {
            hub_mode: Some("subscribe"),
            hub_verify_token: Some("meatyhamhock"),
            hub_challenge: Some(value),
            challenge: Some(value),
            crc_token: Some(value),
            okta_challenge: Some(value),
        }
    }

    #[test]
    fn each_provider_gets_its_own_answer() {
        let secrets = ["hush".to_owned(), "older".to_owned()];
        for provider in Provider::ALL {
            let expected = match provider {
                Provider::Meta | Provider::Dropbox => Some(Answer::Echo("1158201444".to_owned())),
                Provider::Okta => Some(Answer::Verification("1158201444".to_owned())),
                // printf %s 1158201444 | openssl dgst -sha256 -hmac hush -binary | base64
                Provider::X => {
                    Some(Answer::ResponseToken("sha256=hQjyGJFtjEQMrmf6kJu+YN0ocN1KpzFCg14Yfrr0p54=".to_owned()))
                }
                Provider::Github
                | Provider::Standard
                | Provider::Stripe
                | Provider::Shopify
                | Provider::Slack
                | Provider::Trello => None,
            };
            assert_eq!(provider.answer(agreed(&secrets), everything("1158201444")), expected, "{provider}");
            assert_eq!(provider.answer(agreed(&secrets), Question::default()), None, "{provider}");
            assert_eq!(provider.asks_by_head(), provider == Provider::Trello, "{provider}");
        }
    }

    #[test]
    fn only_short_and_harmless_values_are_sent_back() {
        let secrets = ["hush".to_owned()];
        let (longest, long) = ("x".repeat(CHALLENGE_CHARACTERS_MAX), "x".repeat(CHALLENGE_CHARACTERS_MAX + 1));
        for provider in [Provider::Meta, Provider::Dropbox, Provider::X, Provider::Okta] {
            for value in [longest.as_str(), "Me_rShK8JHsTnbyYrWXCEoMGbM-zsZ6k0hLPZ.Pg==", "a+b/c~"] {
                assert!(provider.answer(agreed(&secrets), everything(value)).is_some(), "{provider} {value}");
            }
            for value in ["", &long, "<script>", "a b", "{}", "\"", "a\nb", "\u{e9}", "a&b", "javascript:x", "a;b"] {
                assert_eq!(provider.answer(agreed(&secrets), everything(value)), None, "{provider} {value:?}");
            }
        }
    }

    #[test]
    fn meta_has_to_know_the_token() {
        let question = everything("1158201444");
        let wrong = [
            Question { hub_verify_token: Some("meatyhamhoc"), ..question },
            Question { hub_verify_token: Some(""), ..question },
            Question { hub_verify_token: None, ..question },
            Question { hub_mode: Some("unsubscribe"), ..question },
            Question { hub_mode: None, ..question },
            Question { hub_challenge: None, ..question },
        ];
        for question in wrong {
            assert_eq!(Provider::Meta.answer(agreed(&[]), question), None, "{question:?}");
        }
        let unset = Agreed { verify_token: None, ..agreed(&[]) };
        assert_eq!(Provider::Meta.answer(unset, question), None);
    }

    #[test]
    fn slack_asks_in_a_signed_body() {
        let asked = br#"{"type":"url_verification","challenge":"abc","token":"x"}"#;
        assert_eq!(Provider::Slack.asked_in_body(asked).as_deref(), Some("abc"));
        assert_eq!(Provider::Github.asked_in_body(asked), None);
        for other in [&br#"{"type":"event_callback","challenge":"abc"}"#[..], br#"{"type":"url_verification"}"#, b"x"] {
            assert_eq!(Provider::Slack.asked_in_body(other), None);
        }
    }
}
