//! Retry policies as JSON, whoever has one: a subscription or an inline delivery.

use poem_openapi::Object;
use postrider_core::{
    queue::retry_policy::{ATTEMPTS_MAX, ClientErrors, DELAY_SECONDS_MAX, RetryPolicy, Schedule},
    validation::Problems,
};
use serde::{Deserialize, Serialize};

/// When a failed delivery is tried again: either `delays_seconds`, or all of `max_attempts`, `initial_seconds`,
/// `factor` and `max_seconds`. Each wait is lengthened by up to a tenth at random, and never shortened.
#[derive(Clone, Debug, Default, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields, skip_serializing_if_is_none)]
pub struct RetryPolicyBody {
    /// Seconds to wait after each failed attempt but the last: n waits mean n + 1 attempts. At most 99 waits of at
    /// most 7 days.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delays_seconds: Option<Vec<u32>>,
    /// Attempts in all, 1 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u16>,
    /// Seconds of the first wait, at least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_seconds: Option<u32>,
    /// What each wait is multiplied by, 1 to 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub factor: Option<f64>,
    /// Seconds of the longest wait, at most 7 days.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_seconds: Option<u32>,
    /// Whether a 4xx answer is worth a retry (408, 409, 425 and 429 always are, 410 never is); true where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_client_errors: Option<bool>,
}

impl RetryPolicyBody {
    /// A policy as it is shown.
    #[must_use]
    pub fn of(policy: &RetryPolicy) -> Self {
        let retry_client_errors = Some(policy.client_errors == ClientErrors::Retry);
        match &policy.schedule {
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

    /// The policy; where a rule is broken it is noted, and the default stands in.
    pub fn parse(self, problems: &mut Problems) -> RetryPolicy {
        let client_errors =
            if self.retry_client_errors.unwrap_or(true) { ClientErrors::Retry } else { ClientErrors::GiveUp };
        let exponential = (self.max_attempts, self.initial_seconds, self.factor, self.max_seconds);
        let schedule = match (self.delays_seconds, exponential) {
            (None, (None, None, None, None)) => RetryPolicy::default().schedule,
            (Some(delays), (None, None, None, None)) => {
                let field = "retry_policy.delays_seconds";
                problems.require(delays.len() < ATTEMPTS_MAX.into(), field, "must be at most 99 waits");
                let longest = delays.iter().max().copied().unwrap_or(0);
                problems.require(longest <= DELAY_SECONDS_MAX, field, "a wait must be at most 604800 seconds (7 days)");
                Schedule::Delays(delays)
            }
            (None, (Some(max_attempts), Some(initial_seconds), Some(factor), Some(max_seconds))) => {
                let mut require = |holds, field: &str, message: &str| {
                    problems.require(holds, &format!("retry_policy.{field}"), message);
                };
                require((1..=ATTEMPTS_MAX).contains(&max_attempts), "max_attempts", "must be from 1 to 100");
                require(
                    (1..=max_seconds).contains(&initial_seconds),
                    "initial_seconds",
                    "must be from 1 to max_seconds",
                );
                require((1.0..=10.0).contains(&factor), "factor", "must be from 1 to 10");
                require(max_seconds <= DELAY_SECONDS_MAX, "max_seconds", "must be at most 604800 (7 days)");
                Schedule::Exponential { max_attempts, initial_seconds, factor, max_seconds }
            }
            _ => {
                let message =
                    "must have either delays_seconds, or all of max_attempts, initial_seconds, factor and max_seconds";
                problems.add("retry_policy", message);
                RetryPolicy::default().schedule
            }
        };
        RetryPolicy { schedule, client_errors }
    }
}
