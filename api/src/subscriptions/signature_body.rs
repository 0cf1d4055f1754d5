//! Signatures as JSON: the names of the schemes, and which signatures a subscription's ingest takes.

use poem_openapi::{Enum, Object};
use postrider_core::trust::{
    ingest_auth::{IngestAuth, IngestSignature, IngestSignatureInput as CoreIngestSignatureInput},
    provider::Provider,
    signature::SignatureScheme,
};
use serde::{Deserialize, Serialize};

/// How deliveries are signed: `standard` is Standard Webhooks `v1` with a shared secret; `standard_v1a` is Standard
/// Webhooks `v1a`, an Ed25519 signature that receivers verify with a public key; `github` is `X-Hub-Signature-256`;
/// `timestamped` is `X-Webhook-Signature` with `X-Webhook-Timestamp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Enum)]
#[serde(rename_all = "snake_case")]
#[oai(rename_all = "snake_case", remote = "SignatureScheme", rename = "SignatureScheme")]
pub enum SignatureSchemeName {
    /// Standard Webhooks `v1`, with a shared secret.
    Standard,
    /// Standard Webhooks `v1a`: Ed25519, verified with a public key.
    StandardV1a,
    /// `X-Hub-Signature-256`.
    Github,
    /// `X-Webhook-Signature` and `X-Webhook-Timestamp`.
    Timestamped,
}

/// What opens the ingest of a subscription: `key_or_signature` is an API key with the scope `ingest` or a valid
/// signature; `key` and `signature` want one of these; `none` lets everybody post who knows the URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Enum)]
#[serde(rename_all = "snake_case")]
#[oai(rename_all = "snake_case", remote = "IngestAuth", rename = "IngestAuth")]
pub enum IngestAuthName {
    /// An API key with the scope `ingest`, or a valid signature.
    KeyOrSignature,
    /// An API key only.
    Key,
    /// A signature only.
    Signature,
    /// Nothing: whoever knows the URL can post.
    None,
}

/// Whose way of signing it is: `github` (`X-Hub-Signature-256`), `standard` (Standard Webhooks `v1` and `v1a`, also
/// with headers that begin with `svix-`), `stripe` (`Stripe-Signature`), `shopify` (`X-Shopify-Hmac-Sha256`), `slack`
/// (`X-Slack-Signature`), `meta` (Facebook, Instagram and others: `X-Hub-Signature-256`), `dropbox`
/// (`X-Dropbox-Signature`), `x` (`X-Twitter-Webhooks-Signature`), `trello` (`X-Trello-Webhook`) or `okta` (the secret
/// itself, as `Authorization`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Enum)]
#[serde(rename_all = "snake_case")]
#[oai(rename_all = "snake_case", remote = "Provider", rename = "Provider")]
pub enum ProviderName {
    /// `X-Hub-Signature-256`, as GitHub makes it.
    Github,
    /// Standard Webhooks, `v1` and `v1a`; also with headers that begin with `svix-`.
    Standard,
    /// `Stripe-Signature`.
    Stripe,
    /// `X-Shopify-Hmac-Sha256`.
    Shopify,
    /// `X-Slack-Signature`.
    Slack,
    /// `X-Hub-Signature-256`, as Meta makes it.
    Meta,
    /// `X-Dropbox-Signature`.
    Dropbox,
    /// `X-Twitter-Webhooks-Signature`.
    X,
    /// `X-Trello-Webhook`.
    Trello,
    /// The secret itself, as `Authorization`.
    Okta,
}

/// Whose signatures the ingest of a subscription takes.
#[derive(Clone, Debug, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub struct IngestSignatureInput {
    /// Whose way of signing it is, such as `stripe`.
    pub provider: ProviderName,
    /// 1 to 4 secrets as the provider shows them, any of which will do. They are kept sealed and never shown again.
    /// With the provider `standard`, `whsec_…`, or `whpk_…` for a public key. Spaces around a secret are dropped. In a
    /// change, absent secrets stay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secrets: Option<Vec<String>>,
    /// How many seconds the timestamp of a signature may be from the present, 1 to 1800; 300 where absent. It has no
    /// meaning where the provider signs no timestamp (all but `standard`, `stripe` and `slack`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerance_seconds: Option<u32>,
    /// For `meta`, which needs it, and for no other: the verify token that you chose in Meta's dashboard, at most 256
    /// characters. It is kept sealed and never shown again. In a change, an absent one stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify_token: Option<String>,
    /// For `trello`, which needs it, and for no other: the URL that was registered with Trello, letter by letter, such
    /// as `https://hooks.example.com/webhooks/ingest/sub_0198c0de2f3a7b1c9d4e5f60718293a4`. Trello signs it with the
    /// body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub callback_url: Option<String>,
}

/// Whose signatures the ingest of a subscription takes. Its secrets are never shown.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none, rename = "IngestSignature")]
pub struct IngestSignatureView {
    /// Whose way of signing it is, such as `stripe`.
    provider: ProviderName,
    /// How many secrets are kept, 1 to 4.
    secret_count: u32,
    /// How many seconds the timestamp of a signature may be from the present.
    tolerance_seconds: u32,
    /// The URL that was registered with the provider; absent where the provider does not sign it.
    callback_url: Option<String>,
}

impl IngestSignatureInput {
    /// The setting as a caller would send it. What is secret is left out, so it stays as it is.
    #[must_use]
    pub fn of(current: &IngestSignature) -> Self {
        Self {
            provider: current.provider().into(),
            secrets: None,
            tolerance_seconds: Some(current.tolerance_seconds()),
            verify_token: None,
            callback_url: current.callback_url().map(str::to_owned),
        }
    }

    /// The input for the core, which checks it.
    #[must_use]
    pub fn into_core(self) -> CoreIngestSignatureInput {
        CoreIngestSignatureInput {
            provider: self.provider.into(),
            secrets: self.secrets,
            tolerance_seconds: self.tolerance_seconds,
            verify_token: self.verify_token,
            callback_url: self.callback_url,
        }
    }
}

impl IngestSignatureView {
    /// What answers show: everything but the secrets.
    #[must_use]
    pub fn of(signature: &IngestSignature) -> Self {
        Self {
            provider: signature.provider().into(),
            secret_count: u32::try_from(signature.secret_count()).unwrap_or(u32::MAX),
            tolerance_seconds: signature.tolerance_seconds(),
            callback_url: signature.callback_url().map(str::to_owned),
        }
    }
}
