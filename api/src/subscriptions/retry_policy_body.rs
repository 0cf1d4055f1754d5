//! Retry policies as JSON, for subscriptions and for inline deliveries.

use std::collections::BTreeMap;

use poem_openapi::{Enum, Object};
use postrider_core::queue::retry_policy::{RetryPolicy, RetryPolicyInput, Schedule, decisions::Decision};
use serde::{Deserialize, Serialize};

/// Whether a failure is worth another attempt: `retry` repeats it for as long as the policy has attempts left;
/// `give_up` makes the delivery a dead letter at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Enum)]
#[serde(rename_all = "snake_case")]
#[oai(rename_all = "snake_case", remote = "Decision", rename = "RetryDecision")]
pub enum DecisionName {
    /// The delivery is attempted again, for as long as the policy has attempts left.
    Retry,
    /// The delivery becomes a dead letter at once.
    GiveUp,
}

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
    /// Whether an answer 4xx is worth another attempt, unless `decisions` says otherwise; true where absent. 408, 409,
    /// 425 and 429 are retried also where it is false. 410 is not retried also where it is true; it disables the
    /// subscription.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_client_errors: Option<bool>,
    /// What is worth another attempt and what is not, such as `{"404": "give_up", "5xx": "retry", "tls": "give_up"}`;
    /// at most 50 entries. A key is a status from 300 to 599, a class (`3xx`, `4xx`, `5xx`), or a kind of error
    /// (`http_status`, `timeout`, `dns`, `connect`, `tls`, `blocked_target`, `protocol`). The entry for the status
    /// counts before that for its class, and the class before the kind. Where nothing fits, `retry_client_errors`
    /// decides about 4xx, and everything else is retried. An answer 410 that is retried does not disable the
    /// subscription.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decisions: Option<BTreeMap<String, DecisionName>>,
}

impl RetryPolicyBody {
    /// A stored policy as answers show it.
    #[must_use]
    pub fn of(policy: &RetryPolicy) -> Self {
        let decisions = policy.decisions().entries().iter().map(|(key, decision)| (key.clone(), (*decision).into()));
        let rules = Self {
            retry_client_errors: Some(policy.client_errors() == Decision::Retry),
            decisions: (!policy.decisions().is_empty()).then(|| decisions.collect()),
            ..Self::default()
        };
        match policy.schedule() {
            Schedule::Delays(delays) => Self { delays_seconds: Some(delays.clone()), ..rules },
            Schedule::Exponential { max_attempts, initial_seconds, factor, max_seconds } => Self {
                max_attempts: Some(*max_attempts),
                initial_seconds: Some(*initial_seconds),
                factor: Some(*factor),
                max_seconds: Some(*max_seconds),
                ..rules
            },
        }
    }

    /// The input for the core, which checks it.
    #[must_use]
    pub fn into_core(self) -> RetryPolicyInput {
        let retries_client_errors = self.retry_client_errors.unwrap_or(true);
        let decisions = self.decisions.unwrap_or_default();
        RetryPolicyInput {
            delays_seconds: self.delays_seconds,
            max_attempts: self.max_attempts,
            initial_seconds: self.initial_seconds,
            factor: self.factor,
            max_seconds: self.max_seconds,
            client_errors: if retries_client_errors { Decision::Retry } else { Decision::GiveUp },
            decisions: decisions.into_iter().map(|(key, decision)| (key, decision.into())).collect(),
        }
    }
}
