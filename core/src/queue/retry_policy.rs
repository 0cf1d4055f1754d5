//! What follows an attempt: the retry schedule of a subscription, its bounds, and the one rule that applies it. The
//! rule is pure: time and randomness are arguments.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::types::Json;

use crate::{
    queue::attempt::{ErrorKind, Outcome},
    validation::Problems,
};

/// Attempts of one delivery in one round, at most, whatever its policy says.
pub const ATTEMPTS_MAX: u16 = 100;
/// Seconds between two attempts, at most: 7 days.
const DELAY_SECONDS_MAX: u32 = 7 * 24 * 3600;
/// The factor by which each wait may grow over the one before, at most.
const FACTOR_MAX: f64 = 10.0;
/// The longest `Retry-After` that is honored: 24 hours.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);
/// The largest random addition to a delay, as a share of it, so that retries do not hit a receiver all at once. A delay
/// is never shortened.
const JITTER_SHARE: f64 = 0.1;
/// How many leases may be lost (a worker died or stalled while sending) beyond the policy's attempts. After that the
/// delivery is given up, because it may be what kills the workers.
const LEASES_LOST_MAX: u16 = 3;
/// How often a delivery may be given back through faults of ours before it becomes a dead letter. With the longest
/// pause between, that takes three and a half days.
pub const RELEASES_MAX: i32 = 1000;
/// The longest pause after a delivery was given back through a fault of ours.
const RELEASE_DELAY_MAX: Duration = Duration::from_secs(300);

/// Seconds between the attempts of the default schedule, from the Standard Webhooks recommendation: 10 attempts over
/// about 75 hours.
pub const DEFAULT_DELAYS_SECONDS: [u32; 9] = [5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400];

/// When a failed delivery is tried again, and how often. Deserializing is for policies that were checked before they
/// were stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetryPolicy {
    schedule: Schedule,
    client_errors: ClientErrors,
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
    /// Whether a 4xx answer is worth a retry.
    pub client_errors: ClientErrors,
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
        problems.none_or(RetryPolicy { schedule, client_errors: self.client_errors })
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

/// Whether a 4xx answer is worth a retry. (408, 409, 425 and 429 always are, because they describe a passing state.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientErrors {
    /// It is retried like any failure: receivers answer 404 and 401 during their own deployments.
    Retry,
    /// It is final: the delivery becomes a dead letter at once.
    GiveUp,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { schedule: Schedule::default(), client_errors: ClientErrors::Retry }
    }
}

impl RetryPolicy {
    /// The waits between the attempts.
    #[must_use]
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Whether a 4xx answer is worth a retry.
    #[must_use]
    pub fn client_errors(&self) -> ClientErrors {
        self.client_errors
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
    fn delay(&self, attempt: u16) -> Option<Duration> {
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

/// What happens to a delivery after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The receiver has accepted the delivery.
    Done,
    /// The delivery is tried again.
    Retry {
        /// How long this delivery waits.
        after: Duration,
        /// How long all deliveries of the lane wait, where the receiver asked for it.
        lane_rests: Option<Duration>,
    },
    /// The delivery becomes a dead letter.
    GiveUp {
        /// How long all deliveries of the lane wait, where the receiver asked for it.
        lane_rests: Option<Duration>,
    },
    /// The delivery becomes a dead letter, and its subscription is disabled, because the receiver is gone for good
    /// (410).
    GiveUpAndDisable,
}

/// Decides what follows an attempt.
///
/// `attempt` is its number within the policy's present round, 1 being the first; `jitter` is a random number in 0..1.
#[must_use]
pub fn next_step(policy: &RetryPolicy, attempt: u16, outcome: &Outcome, jitter: f64) -> Next {
    let status = outcome.response.as_ref().map(|response| response.status_code);
    match &outcome.failure {
        None => return Next::Done,
        Some(failure) if failure.kind == ErrorKind::PayloadGone => return Next::GiveUp { lane_rests: None },
        Some(_) => {}
    }
    match status {
        Some(410) => return Next::GiveUpAndDisable,
        Some(408 | 409 | 425 | 429) => {}
        Some(400..500) if policy.client_errors == ClientErrors::GiveUp => {
            return Next::GiveUp { lane_rests: None };
        }
        _ => {}
    }
    let lane_rests = outcome.retry_after.map(|asked| asked.min(RETRY_AFTER_MAX));
    let Some(delay) = policy.delay(attempt) else {
        return Next::GiveUp { lane_rests };
    };
    let scheduled = delay.mul_f64(1.0 + JITTER_SHARE * jitter.clamp(0.0, 1.0));
    Next::Retry { after: scheduled.max(lane_rests.unwrap_or_default()), lane_rests }
}

/// Whether no further attempt should be made, because earlier ones may have killed their workers.
#[must_use]
pub fn is_hopeless(policy: &RetryPolicy, attempt: u16) -> bool {
    attempt > policy.max_attempts() + LEASES_LOST_MAX
}

/// How long a delivery waits that is given back through a fault of ours, when that has happened `releases` times
/// before: `first`, doubled each time up to five minutes. `None` means that the delivery is given up, because whatever
/// prevents its attempts does not pass.
#[must_use]
pub fn release_delay(releases: i32, first: Duration) -> Option<Duration> {
    let doublings = u32::try_from(releases).unwrap_or(0).min(16);
    (releases < RELEASES_MAX).then(|| (first * (1 << doublings)).min(RELEASE_DELAY_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::attempt::{Failure, Response};

    fn answered(status_code: u16, retry_after: Option<u64>) -> Outcome {
        Outcome {
            response: Some(Response { status_code, ..Response::default() }),
            failure: (!(200..300).contains(&status_code)).then(|| Failure::new(ErrorKind::HttpStatus, "")),
            retry_after: retry_after.map(Duration::from_secs),
            ..Outcome::default()
        }
    }

    fn given_up(rests: Option<u64>) -> Next {
        Next::GiveUp { lane_rests: rests.map(Duration::from_secs) }
    }

    fn retry(seconds: u64, rests: Option<u64>) -> Next {
        Next::Retry { after: Duration::from_secs(seconds), lane_rests: rests.map(Duration::from_secs) }
    }

    #[test]
    fn table() {
        let policy = RetryPolicy::default();
        let strict = RetryPolicy { client_errors: ClientErrors::GiveUp, ..RetryPolicy::default() };
        let cases = [
            (&policy, 1, answered(200, None), Next::Done),
            (&policy, 10, answered(204, None), Next::Done),
            (&policy, 1, answered(500, None), retry(5, None)),
            (&policy, 9, answered(500, None), retry(86_400, None)),
            (&policy, 10, answered(500, None), given_up(None)),
            (&policy, 11, answered(500, None), given_up(None)),
            (&policy, 1, answered(301, None), retry(5, None)),
            (&policy, 1, answered(404, None), retry(5, None)),
            (&policy, 1, answered(410, None), Next::GiveUpAndDisable),
            (&strict, 1, answered(404, None), given_up(None)),
            (&policy, 10, answered(503, Some(60)), given_up(Some(60))),
            (&strict, 1, answered(429, None), retry(5, None)),
            (&strict, 1, answered(500, None), retry(5, None)),
            (&policy, 1, answered(429, Some(60)), retry(60, Some(60))),
            (&policy, 2, answered(503, Some(60)), retry(300, Some(60))),
            (&policy, 1, answered(503, Some(9_999_999)), retry(86_400, Some(86_400))),
        ];
        for (policy, attempt, outcome, expected) in cases {
            assert_eq!(next_step(policy, attempt, &outcome, 0.0), expected, "attempt {attempt}, {outcome:?}");
        }
    }

    #[test]
    fn jitter_is_never_early_and_at_most_a_tenth() {
        let policy = RetryPolicy::default();
        for (jitter, millis) in [(0.0, 300_000), (0.5, 315_000), (1.0, 330_000), (7.0, 330_000)] {
            let Next::Retry { after, .. } = next_step(&policy, 2, &answered(500, None), jitter) else {
                panic!("a second attempt is not the last");
            };
            assert_eq!(after.as_millis(), millis);
        }
    }

    #[test]
    fn exponential() {
        let schedule = Schedule::Exponential { max_attempts: 5, initial_seconds: 2, factor: 3.0, max_seconds: 20 };
        let policy = RetryPolicy { schedule, client_errors: ClientErrors::Retry };
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
            client_errors: ClientErrors::Retry,
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
        for valid in [
            delays(vec![]),
            delays(vec![DELAY_SECONDS_MAX; 99]),
            exponential(1, 1, 1.0, 1),
            exponential(ATTEMPTS_MAX, 60, FACTOR_MAX, DELAY_SECONDS_MAX),
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
        ] {
            let problems = wrong.clone().parse().expect_err("a rule is broken").0;
            let told: Vec<_> = problems.iter().map(|problem| problem.field.as_str()).collect();
            assert_eq!(told, fields, "{wrong:?}");
        }
    }

    #[test]
    fn a_delivery_that_kills_workers_ends() {
        let policy = RetryPolicy { schedule: Schedule::Delays(vec![]), ..RetryPolicy::default() };
        assert!(!is_hopeless(&policy, 4));
        assert!(is_hopeless(&policy, 5));
    }

    #[test]
    fn releases_back_off_and_end() {
        let seconds = Duration::from_secs;
        for (releases, first, delay) in [
            (0, seconds(1), Some(seconds(1))),
            (1, seconds(1), Some(seconds(2))),
            (3, seconds(5), Some(seconds(40))),
            (9, seconds(1), Some(RELEASE_DELAY_MAX)),
            (RELEASES_MAX - 1, seconds(5), Some(RELEASE_DELAY_MAX)),
            (RELEASES_MAX - 1, Duration::ZERO, Some(Duration::ZERO)),
            (RELEASES_MAX, seconds(1), None),
            (i32::MAX, seconds(1), None),
        ] {
            assert_eq!(release_delay(releases, first), delay, "{releases} releases, first {first:?}");
        }
    }
}
