//! Retry policies as JSON, for subscriptions and for inline deliveries.

use poem_openapi::Object;
use postrider_core::queue::retry_policy::{ClientErrors, RetryPolicy, RetryPolicyInput, Schedule};
use serde::{Deserialize, Serialize};

/// When a failed delivery is tried again. Either `delays_seconds` says each wait, as in `{"delays_seconds": [5, 60,
/// 600]}`, or all of `max_attempts`, `initial_seconds`, `factor` and `max_seconds` say how waits grow. Each wait is
/// lengthened by up to a tenth at random, and never shortened.
#[derive(Clone, Debug, Default, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields, skip_serializing_if_is_none, rename = "RetryPolicy")]
pub struct RetryPolicyBody {
    /// Seconds to wait after each failed attempt but the last, such as `[5, 60, 600]`: 3 waits mean 4 attempts. At most
    /// 99 waits of at most 604800 seconds (7 days) each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delays_seconds: Option<Vec<u32>>,
    /// Attempts in all, 1 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u16>,
    /// Seconds of the first wait, from 1 to `max_seconds`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_seconds: Option<u32>,
    /// What each wait is multiplied by to get the next, 1 to 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub factor: Option<f64>,
    /// Seconds of the longest wait, at most 604800 (7 days).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_seconds: Option<u32>,
    /// Whether an answer 4xx is worth another attempt; true where absent. 408, 409, 425 and 429 always are, 410 never
    /// is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_client_errors: Option<bool>,
}

impl RetryPolicyBody {
    /// A stored policy as answers show it.
    #[must_use]
    pub fn of(policy: &RetryPolicy) -> Self {
        let retry_client_errors = Some(policy.client_errors() == ClientErrors::Retry);
        match policy.schedule() {
            Schedule::Delays(delays) => {
                Self { delays_seconds: Some(delays.clone()), retry_client_errors, ..Self::default() }
            }
            Schedule::Exponential { max_attempts, initial_seconds, factor, max_seconds } => Self {
                delays_seconds: None,
                max_attempts: Some(*max_attempts),
                initial_seconds: Some(*initial_seconds),
                factor: Some(*factor),
                max_seconds: Some(*max_seconds),
                retry_client_errors,
            },
        }
    }

    /// The input for the core, which checks it.
    #[must_use]
    pub fn into_core(self) -> RetryPolicyInput {
        let retries_client_errors = self.retry_client_errors.unwrap_or(true);
        RetryPolicyInput {
            delays_seconds: self.delays_seconds,
            max_attempts: self.max_attempts,
            initial_seconds: self.initial_seconds,
            factor: self.factor,
            max_seconds: self.max_seconds,
            client_errors: if retries_client_errors { ClientErrors::Retry } else { ClientErrors::GiveUp },
        }
    }
}
