//! Where and how an attempt is made, whoever said so: a subscription or an inline delivery.

use crate::{
    queue::retry_policy::RetryPolicy,
    subscription::{Subscription, settings::CustomHeaders},
    trust::{signature::SignatureScheme, signing_secret::SigningSecrets, target_url::TargetUrl},
};

/// Where and how an attempt is made.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a> {
    /// Where it goes.
    pub target_url: &'a TargetUrl,
    /// What it is signed with; unsigned where there is nothing.
    pub secrets: Option<&'a SigningSecrets>,
    /// How it is signed.
    pub signature_scheme: SignatureScheme,
    /// Sent besides Postrider's own.
    pub headers: &'a CustomHeaders,
    /// When to try again.
    pub retry_policy: &'a RetryPolicy,
    /// Milliseconds it may take.
    pub timeout_ms: u32,
}

impl<'a> Destination<'a> {
    /// A subscription's.
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
