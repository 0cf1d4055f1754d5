//! When a failed delivery is tried again, and which failures are final: the retry policy of a subscription or of an
//! inline delivery, and its bounds. The rule that applies it to an attempt stands in [`crate::queue::next_step`].

pub mod decisions;

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use sqlx::types::Json;

use self::decisions::{Decision, Decisions};
use crate::{queue::attempt::ErrorKind, validation::Problems};

/// Attempts of one delivery in one round, at most, whatever its policy says.
pub const ATTEMPTS_MAX: u16 = 100;
/// Seconds between two attempts, at most: 7 days.
const DELAY_SECONDS_MAX: u32 = 7 * 24 * 3600;
/// The factor by which each wait may grow over the one before, at most.
const FACTOR_MAX: f64 = 10.0;
/// Seconds between the attempts of the default schedule, from the Standard Webhooks recommendation: 10 attempts over
/// about 75 hours.
pub const DEFAULT_DELAYS_SECONDS: [u32; 9] = [5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400];

/// When a failed delivery is tried again, and how often. Deserializing is for policies that were checked before they
/// were stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetryPolicy {
    schedule: Schedule,
    client_errors: Decision,
    #[serde(default, skip_serializing_if = "Decisions::is_empty")]
    decisions: Decisions,
}

/// A retry policy as its owner sends it, before it is checked: either `delays_seconds`, or all of the next four fields,
/// or none of them for the default schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicyInput {
    /// The waits in seconds, one after each failed attempt but the last.
    pub delays_seconds: Option<Vec<u32>>,
    /// Attempts in all, the first included.
    pub max_attempts: Option<u16>,
    /// The wait after the first failed attempt, in seconds.
    pub initial_seconds: Option<u32>,
    /// The factor by which each wait is longer than the one before.
    pub factor: Option<f64>,
    /// The longest wait, in seconds.
    pub max_seconds: Option<u32>,
    /// Whether a 4xx answer is worth a retry, where `decisions` has no entry for it. (408, 409, 425 and 429 are retried
    /// all the same, because they describe a passing state; 410 is not.)
    pub client_errors: Decision,
    /// Whether a failure is worth a retry, by status, class of statuses or kind of error.
    pub decisions: BTreeMap<String, Decision>,
}

impl RetryPolicyInput {
    /// Checks all fields at once.
    ///
    /// # Errors
    /// Every broken rule.
    pub fn parse(self) -> Result<RetryPolicy, Problems> {
        let mut problems = Problems::default();
        let exponential = (self.max_attempts, self.initial_seconds, self.factor, self.max_seconds);
        let schedule = match (self.delays_seconds, exponential) {
            (None, (None, None, None, None)) => Schedule::default(),
            (Some(delays), (None, None, None, None)) => Schedule::Delays(delays),
            (None, (Some(max_attempts), Some(initial_seconds), Some(factor), Some(max_seconds))) => {
                Schedule::Exponential { max_attempts, initial_seconds, factor, max_seconds }
            }
            (None | Some(_), _) => {
                let message =
                    "must have either delays_seconds, or all of max_attempts, initial_seconds, factor and max_seconds";
                problems.add("", message);
                Schedule::default()
            }
        };
        schedule.check(&mut problems);
        let decisions = problems.take_part("decisions", Decisions::parse(self.decisions)).unwrap_or_default();
        problems.none_or(RetryPolicy { schedule, client_errors: self.client_errors, decisions })
    }
}

/// The waits between the attempts of a delivery.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// The waits in seconds, one after each failed attempt but the last.
    Delays(Vec<u32>),
    /// The first wait is `initial_seconds`; each next one is `factor` times as long, but never longer than
    /// `max_seconds`.
    Exponential {
        /// Attempts in all, the first included.
        max_attempts: u16,
        /// The wait after the first failed attempt, in seconds.
        initial_seconds: u32,
        /// The factor by which each wait is longer than the one before; at least 1.
        factor: f64,
        /// The longest wait, in seconds.
        max_seconds: u32,
    },
}

impl Default for Schedule {
    fn default() -> Self {
        Self::Delays(DEFAULT_DELAYS_SECONDS.to_vec())
    }
}

impl Schedule {
    fn check(&self, problems: &mut Problems) {
        match self {
            Self::Delays(delays) => {
                let many = format!("must be at most {} waits", ATTEMPTS_MAX - 1);
                problems.require(delays.len() < ATTEMPTS_MAX.into(), "delays_seconds", many);
                let within = delays.iter().all(|delay| *delay <= DELAY_SECONDS_MAX);
                let longest = format!("a wait must be at most {DELAY_SECONDS_MAX} seconds (7 days)");
                problems.require(within, "delays_seconds", longest);
            }
            Self::Exponential { max_attempts, initial_seconds, factor, max_seconds } => {
                let attempts = format!("must be from 1 to {ATTEMPTS_MAX}");
                problems.require((1..=ATTEMPTS_MAX).contains(max_attempts), "max_attempts", attempts);
                let within = (1..=*max_seconds).contains(initial_seconds);
                problems.require(within, "initial_seconds", "must be from 1 to max_seconds");
                let within = (1.0..=FACTOR_MAX).contains(factor);
                problems.require(within, "factor", format!("must be from 1 to {FACTOR_MAX}"));
                let longest = format!("must be at most {DELAY_SECONDS_MAX} (7 days)");
                problems.require(*max_seconds <= DELAY_SECONDS_MAX, "max_seconds", longest);
            }
        }
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        // 4xx answers are retried, because receivers answer 404 and 401 during their own deployments.
        Self { schedule: Schedule::default(), client_errors: Decision::Retry, decisions: Decisions::default() }
    }
}

impl RetryPolicy {
    /// The waits between the attempts.
    #[must_use]
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Whether a 4xx answer is worth a retry, where nothing else was decided about it.
    #[must_use]
    pub fn client_errors(&self) -> Decision {
        self.client_errors
    }

    /// What its owner has decided about kinds of failures.
    #[must_use]
    pub fn decisions(&self) -> &Decisions {
        &self.decisions
    }

    /// Whether a failure is worth another attempt: as its owner has decided, or else as its status says. `status` is
    /// `None` where no answer arrived.
    #[must_use]
    pub fn decide(&self, status: Option<u16>, kind: ErrorKind) -> Decision {
        if kind == ErrorKind::PayloadGone {
            return Decision::GiveUp;
        }
        self.decisions.find(status, kind).unwrap_or(match status {
            Some(410) => Decision::GiveUp,
            Some(408 | 409 | 425 | 429) => Decision::Retry,
            Some(400..500) => self.client_errors,
            Some(_) | None => Decision::Retry,
        })
    }

    /// The policy in the form in which it is stored: the default is stored as none, so that a better default reaches
    /// those who never chose.
    #[must_use]
    pub fn stored(&self) -> Option<Json<&Self>> {
        Some(self).filter(|policy| **policy != Self::default()).map(Json)
    }

    /// Attempts in all, the first included.
    #[must_use]
    pub fn max_attempts(&self) -> u16 {
        match &self.schedule {
            Schedule::Delays(delays) => u16::try_from(delays.len()).unwrap_or(ATTEMPTS_MAX).saturating_add(1),
            Schedule::Exponential { max_attempts, .. } => *max_attempts,
        }
    }

    /// The wait after failed attempt number `attempt` (1 is the first), or `None` where that was the last.
    #[must_use]
    pub fn delay(&self, attempt: u16) -> Option<Duration> {
        if attempt >= self.max_attempts() {
            return None;
        }
        let seconds = match &self.schedule {
            Schedule::Delays(delays) => f64::from(*delays.get(usize::from(attempt).saturating_sub(1))?),
            Schedule::Exponential { initial_seconds, factor, max_seconds, .. } => {
                let wait = f64::from(*initial_seconds) * factor.powi(i32::from(attempt) - 1);
                wait.min(f64::from(*max_seconds))
            }
        };
        Some(Duration::from_secs_f64(seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential() {
        let schedule = Schedule::Exponential { max_attempts: 5, initial_seconds: 2, factor: 3.0, max_seconds: 20 };
        let policy = RetryPolicy { schedule, ..RetryPolicy::default() };
        let delays: Vec<_> = (1..=5).map(|attempt| policy.delay(attempt).map(|wait| wait.as_secs())).collect();
        assert_eq!(delays, [Some(2), Some(6), Some(18), Some(20), None]);
    }

    #[test]
    fn bounds() {
        let none = RetryPolicyInput {
            delays_seconds: None,
            max_attempts: None,
            initial_seconds: None,
            factor: None,
            max_seconds: None,
            client_errors: Decision::Retry,
            decisions: BTreeMap::new(),
        };
        assert_eq!(none.clone().parse(), Ok(RetryPolicy::default()));
        let delays = |delays: Vec<u32>| RetryPolicyInput { delays_seconds: Some(delays), ..none.clone() };
        let exponential = |max_attempts, initial_seconds, factor, max_seconds| RetryPolicyInput {
            max_attempts: Some(max_attempts),
            initial_seconds: Some(initial_seconds),
            factor: Some(factor),
            max_seconds: Some(max_seconds),
            ..none.clone()
        };
        let decided = |keys: &[&str]| RetryPolicyInput {
            decisions: keys.iter().map(|key| ((*key).to_owned(), Decision::GiveUp)).collect(),
            ..none.clone()
        };
        let many: Vec<_> = (300..351).map(|status| status.to_string()).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        for valid in [
            delays(vec![]),
            delays(vec![DELAY_SECONDS_MAX; 99]),
            exponential(1, 1, 1.0, 1),
            exponential(ATTEMPTS_MAX, 60, FACTOR_MAX, DELAY_SECONDS_MAX),
            decided(&["404", "5xx", "tls"]),
        ] {
            assert!(valid.clone().parse().is_ok(), "{valid:?}");
        }
        for (wrong, fields) in [
            (delays(vec![0; 100]), vec!["delays_seconds"]),
            (delays(vec![1, DELAY_SECONDS_MAX + 1]), vec!["delays_seconds"]),
            (exponential(0, 0, 0.5, 1), vec!["max_attempts", "initial_seconds", "factor"]),
            (exponential(101, 1, f64::NAN, DELAY_SECONDS_MAX + 1), vec!["max_attempts", "factor", "max_seconds"]),
            (RetryPolicyInput { factor: Some(2.0), ..none.clone() }, vec![""]),
            (RetryPolicyInput { delays_seconds: Some(vec![1]), ..exponential(1, 1, 1.0, 1) }, vec![""]),
            (decided(&["404", "200", "2xx", "x"]), vec!["decisions.200", "decisions.2xx", "decisions.x"]),
            (decided(&many), vec!["decisions"]),
        ] {
            let problems = wrong.clone().parse().expect_err("a rule is broken").0;
            let told: Vec<_> = problems.iter().map(|problem| problem.field.as_str()).collect();
            assert_eq!(told, fields, "{wrong:?}");
        }
    }

    #[test]
    fn the_default_is_not_stored_and_every_other_policy_survives_it() {
        assert!(RetryPolicy::default().stored().is_none());
        let decisions = Decisions::parse(BTreeMap::from([("404".to_owned(), Decision::GiveUp)])).expect("valid");
        let decided = RetryPolicy { decisions, ..RetryPolicy::default() };
        let strict = RetryPolicy { client_errors: Decision::GiveUp, ..RetryPolicy::default() };
        for policy in [decided, strict] {
            let stored = policy.stored().expect("it is not the default").0;
            let stored = serde_json::to_string(stored).expect("a policy has a JSON form");
            assert_eq!(serde_json::from_str::<RetryPolicy>(&stored).expect("its own form"), policy, "{stored}");
        }
    }
}
