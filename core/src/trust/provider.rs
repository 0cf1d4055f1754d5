//! The providers whose requests an ingest can verify, and what each of them and the owner of a subscription agree upon.
//! How their requests are verified is in [`crate::trust::inbound_signature`], and how their questions are answered in
//! [`crate::trust::inbound_challenge`].

use crate::text_enum::text_enum;

/// Characters of a value that is sent back or signed, at most. Providers send some 10 to 60.
pub const CHALLENGE_CHARACTERS_MAX: usize = 256;

text_enum! {
    /// The provider whose way of signing is used.
    pub enum Provider {
        /// `X-Hub-Signature-256: sha256=` and hex, over the body. No timestamp.
        Github = "github",
        /// Standard Webhooks: `webhook-id`, `webhook-timestamp`, `webhook-signature` (or `svix-…`), `v1` and `v1a`.
        Standard = "standard",
        /// `Stripe-Signature: t=…,v1=…`, over `timestamp.body`.
        Stripe = "stripe",
        /// `X-Shopify-Hmac-Sha256`: base64, over the body. No timestamp.
        Shopify = "shopify",
        /// `X-Slack-Signature: v0=` and hex, over `v0:timestamp:body`, with `X-Slack-Request-Timestamp`.
        Slack = "slack",
        /// Facebook, Instagram and others of Meta: signed as GitHub does it, with the app's secret.
        Meta = "meta",
        /// `X-Dropbox-Signature`: hex, over the body. No timestamp.
        Dropbox = "dropbox",
        /// `X-Twitter-Webhooks-Signature: sha256=` and base64, over the body. No timestamp.
        X = "x",
        /// `X-Trello-Webhook`: base64 HMAC-SHA1 over the body and the URL that was registered. No timestamp.
        Trello = "trello",
        /// `Authorization`: the secret itself. Okta's event hooks sign nothing.
        Okta = "okta",
    }
}

text_enum! {
    /// A detail that a provider and the owner of a subscription agree upon, besides the secrets.
    pub enum Detail {
        /// A text that the owner chooses, by which the owner's endpoint knows the provider at registration.
        VerifyToken = "verify_token",
        /// The URL of the ingest as it was registered with the provider, which is a part of what is signed.
        CallbackUrl = "callback_url",
    }
}

/// What the provider and the owner of a subscription have agreed upon.
#[derive(Clone, Copy)]
pub struct Agreed<'a> {
    /// The provider's secrets, any of which may sign.
    pub secrets: &'a [String],
    /// How many seconds a signature's timestamp may differ from the present time.
    pub tolerance_seconds: u32,
    /// [`Detail::VerifyToken`]; `None` where the provider has none.
    pub verify_token: Option<&'a str>,
    /// [`Detail::CallbackUrl`]; `None` where the provider signs none.
    pub callback_url: Option<&'a str>,
}

impl Provider {
    /// The header that contains this provider's signatures.
    #[must_use]
    pub fn header(self) -> &'static str {
        match self {
            Self::Github | Self::Meta => "X-Hub-Signature-256",
            Self::Standard => "webhook-signature",
            Self::Stripe => "Stripe-Signature",
            Self::Shopify => "X-Shopify-Hmac-Sha256",
            Self::Slack => "X-Slack-Signature",
            Self::Dropbox => "X-Dropbox-Signature",
            Self::X => "X-Twitter-Webhooks-Signature",
            Self::Trello => "X-Trello-Webhook",
            Self::Okta => "Authorization",
        }
    }

    /// The detail that has to be agreed upon with this provider.
    #[must_use]
    pub fn detail(self) -> Option<Detail> {
        match self {
            Self::Meta => Some(Detail::VerifyToken),
            Self::Trello => Some(Detail::CallbackUrl),
            Self::Github
            | Self::Standard
            | Self::Stripe
            | Self::Shopify
            | Self::Slack
            | Self::Dropbox
            | Self::X
            | Self::Okta => None,
        }
    }
}

/// Whether a value may be sent back or signed: short, and of characters that stand for nothing in HTML, JSON or a
/// script.
pub(crate) fn is_sendable(value: &str) -> bool {
    (1..=CHALLENGE_CHARACTERS_MAX).contains(&value.len())
        && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte))
}
