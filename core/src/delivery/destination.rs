//! Where and how an attempt is made. A subscription decides it, or else the request that made an inline delivery.

use crate::{
    queue::retry_policy::RetryPolicy,
    subscription::{Subscription, settings::CustomHeaders},
    trust::{signature::SignatureScheme, signing_secret::SigningSecrets, target_url::TargetUrl},
};

/// Where and how an attempt is made.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a> {
    /// The URL to which the request is sent.
    pub target_url: &'a TargetUrl,
    /// The secrets that sign the attempt; it is unsigned where there are none.
    pub secrets: Option<&'a SigningSecrets>,
    /// The way in which the attempt is signed.
    pub signature_scheme: SignatureScheme,
    /// Headers that are sent besides Postrider's own.
    pub headers: &'a CustomHeaders,
    /// When a failed attempt is repeated, and how often.
    pub retry_policy: &'a RetryPolicy,
    /// Milliseconds that the attempt may take.
    pub timeout_ms: u32,
}

impl<'a> Destination<'a> {
    /// The destination that a subscription's settings describe.
    #[must_use]
    pub fn of(subscription: &'a Subscription) -> Self {
        let settings = &subscription.settings;
        Self {
            target_url: &settings.target_url,
            secrets: Some(&subscription.secrets),
            signature_scheme: settings.signature_scheme,
            headers: &settings.headers,
            retry_policy: &settings.retry_policy,
            timeout_ms: settings.timeout.ms(),
        }
    }
}
