//! What follows an attempt: the one rule that applies a retry policy to an outcome. The rule is pure: time and
//! randomness are arguments.

use std::time::Duration;

use crate::queue::{
    attempt::{Directive, ErrorKind, Outcome},
    disable_reason::DisableReason,
    retry_policy::{RetryPolicy, decisions::Decision},
};

/// The longest `Retry-After` that is honored: 24 hours.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);
/// The shortest and the longest rest of a lane whose receiver answered 429 or 503 without a `Retry-After`. In between,
/// it is the wait that the retry policy has after this attempt.
const REST_MIN: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_secs(60);
/// Such a rest where the retry policy has no wait at all.
const REST_DEFAULT: Duration = Duration::from_secs(5);
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

/// What follows an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextStep {
    /// What happens to the delivery.
    pub next: Next,
    /// Why its subscription is disabled; `None` where it is not.
    pub disables: Option<DisableReason>,
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
}

/// Decides what follows an attempt.
///
/// `attempt` is its number within the policy's present round, 1 being the first; `jitter` is a random number in 0..1.
#[must_use]
pub fn next_step(policy: &RetryPolicy, attempt: u16, outcome: &Outcome, jitter: f64) -> NextStep {
    let asked = (outcome.directive == Some(Directive::Disable)).then_some(DisableReason::Asked);
    let Some(failure) = &outcome.failure else {
        return NextStep { next: Next::Done, disables: asked };
    };
    let status = outcome.response.as_ref().map(|response| response.status_code);
    let is_aborted = outcome.directive == Some(Directive::Abort);
    // Who asks to give one delivery up has still answered with a status, by which the subscription is judged.
    let kind = if is_aborted { ErrorKind::HttpStatus } else { failure.kind };
    let decision = policy.decide(status, kind);
    let is_gone = status == Some(410) && decision == Decision::GiveUp;
    let disables = if is_gone { Some(DisableReason::Gone) } else { asked };

    let lane_rests = lane_rests(policy, attempt, status, outcome.retry_after);
    let next = match policy.delay(attempt) {
        Some(delay) if decision == Decision::Retry && !is_aborted => {
            let scheduled = delay.mul_f64(1.0 + JITTER_SHARE * jitter.clamp(0.0, 1.0));
            Next::Retry { after: scheduled.max(lane_rests.unwrap_or_default()), lane_rests }
        }
        Some(_) | None => Next::GiveUp { lane_rests },
    };
    NextStep { next, disables }
}

/// How long the lane rests after a failed attempt: as long as the receiver asked, or, where it answered 429 or 503 and
/// did not say how long, for as long as this delivery waits, within bounds.
fn lane_rests(
    policy: &RetryPolicy,
    attempt: u16,
    status: Option<u16>,
    retry_after: Option<Duration>,
) -> Option<Duration> {
    match (retry_after, status) {
        (Some(asked), _) => Some(asked.min(RETRY_AFTER_MAX)),
        (None, Some(429 | 503)) => {
            // After its last attempt a delivery does not wait; then the last wait counts.
            let last_wait = policy.max_attempts().saturating_sub(1).max(1);
            let delay = policy.delay(attempt.min(last_wait));
            Some(delay.unwrap_or(REST_DEFAULT).clamp(REST_MIN, REST_MAX))
        }
        (None, Some(_) | None) => None,
    }
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
    use crate::queue::{
        attempt::{Failure, Response},
        retry_policy::RetryPolicyInput,
    };

    /// Decisions, each with its key.
    type Decided<'a> = &'a [(&'a str, Decision)];

    /// A policy with these waits, or the default ones, and these decisions.
    fn policy(delays: Option<&[u32]>, client_errors: Decision, decisions: Decided<'_>) -> RetryPolicy {
        let input = RetryPolicyInput {
            delays_seconds: delays.map(<[u32]>::to_vec),
            max_attempts: None,
            initial_seconds: None,
            factor: None,
            max_seconds: None,
            client_errors,
            decisions: decisions.iter().map(|(key, decision)| ((*key).to_owned(), *decision)).collect(),
        };
        input.parse().expect("a valid policy")
    }

    fn answered(status_code: u16, retry_after: Option<u64>) -> Outcome {
        Outcome {
            response: Some(Response { status_code, ..Response::default() }),
            failure: (!(200..300).contains(&status_code)).then(|| Failure::new(ErrorKind::HttpStatus, "")),
            retry_after: retry_after.map(Duration::from_secs),
            ..Outcome::default()
        }
    }

    /// An attempt that got no answer.
    fn failed(kind: ErrorKind) -> Outcome {
        Outcome { failure: Some(Failure::new(kind, "")), ..Outcome::default() }
    }

    /// An answer that asks for something, as the sender tells it.
    fn asking(directive: Directive, status_code: u16) -> Outcome {
        let mut outcome = Outcome { directive: Some(directive), ..answered(status_code, None) };
        if directive == Directive::Abort {
            outcome.failure = Some(Failure::new(ErrorKind::Aborted, ""));
        }
        outcome
    }

    fn given_up(rests: Option<u64>) -> Next {
        Next::GiveUp { lane_rests: rests.map(Duration::from_secs) }
    }

    fn retry(seconds: u64, rests: Option<u64>) -> Next {
        Next::Retry { after: Duration::from_secs(seconds), lane_rests: rests.map(Duration::from_secs) }
    }

    #[test]
    fn by_status_and_attempt() {
        let lenient = RetryPolicy::default();
        let strict = policy(None, Decision::GiveUp, &[]);
        let cases = [
            (&lenient, 1, answered(200, None), Next::Done),
            (&lenient, 10, answered(204, None), Next::Done),
            (&lenient, 1, answered(500, None), retry(5, None)),
            (&lenient, 9, answered(500, None), retry(86_400, None)),
            (&lenient, 10, answered(500, None), given_up(None)),
            (&lenient, 11, answered(500, None), given_up(None)),
            (&lenient, 1, answered(301, None), retry(5, None)),
            (&lenient, 1, answered(101, None), retry(5, None)),
            (&lenient, 1, answered(999, None), retry(5, None)),
            (&lenient, 1, answered(404, None), retry(5, None)),
            (&strict, 1, answered(404, None), given_up(None)),
            (&strict, 1, answered(408, None), retry(5, None)),
            (&strict, 1, answered(409, None), retry(5, None)),
            (&strict, 1, answered(425, None), retry(5, None)),
            (&strict, 1, answered(500, None), retry(5, None)),
        ];
        for (policy, attempt, outcome, next) in cases {
            let step = next_step(policy, attempt, &outcome, 0.0);
            assert_eq!(step, NextStep { next, disables: None }, "attempt {attempt}, {outcome:?}");
        }
    }

    #[test]
    fn a_receiver_that_is_too_busy_rests() {
        let default = RetryPolicy::default();
        let strict = policy(None, Decision::GiveUp, &[]);
        let once = policy(Some(&[]), Decision::Retry, &[]);
        let quick = policy(Some(&[0, 7]), Decision::Retry, &[]);
        let decided = policy(None, Decision::Retry, &[("429", Decision::GiveUp), ("503", Decision::GiveUp)]);
        let cases = [
            (&default, 1, answered(429, Some(60)), retry(60, Some(60))),
            (&default, 2, answered(503, Some(60)), retry(300, Some(60))),
            (&default, 1, answered(503, Some(9_999_999)), retry(86_400, Some(86_400))),
            (&default, 1, answered(503, Some(0)), retry(5, Some(0))),
            (&default, 10, answered(503, Some(60)), given_up(Some(60))),
            // Without a `Retry-After`, the schedule's wait counts, within a second and a minute.
            (&default, 1, answered(429, None), retry(5, Some(5))),
            (&strict, 1, answered(429, None), retry(5, Some(5))),
            (&default, 2, answered(503, None), retry(300, Some(60))),
            (&default, 10, answered(503, None), given_up(Some(60))),
            (&quick, 1, answered(503, None), retry(1, Some(1))),
            (&quick, 2, answered(503, None), retry(7, Some(7))),
            (&quick, 3, answered(503, None), given_up(Some(7))),
            (&quick, 9, answered(503, None), given_up(Some(7))),
            (&once, 1, answered(429, None), given_up(Some(5))),
            (&decided, 1, answered(429, None), given_up(Some(5))),
            (&decided, 1, answered(503, Some(60)), given_up(Some(60))),
            (&default, 1, answered(500, None), retry(5, None)),
            (&default, 1, answered(504, None), retry(5, None)),
        ];
        for (policy, attempt, outcome, next) in cases {
            let step = next_step(policy, attempt, &outcome, 0.0);
            assert_eq!(step, NextStep { next, disables: None }, "attempt {attempt}, {outcome:?}");
        }
    }

    #[test]
    fn by_decision() {
        use Decision::{GiveUp, Retry};
        use ErrorKind::{BlockedTarget, Connect, Dns, HttpStatus, PayloadGone, Protocol, Timeout, Tls};
        let (again, dead) = (retry(5, None), given_up(None));
        for kind in [HttpStatus, Timeout, Dns, Connect, Tls, BlockedTarget, Protocol] {
            let undecided = next_step(&RetryPolicy::default(), 1, &failed(kind), 0.0);
            assert_eq!(undecided.next, again, "{kind}");
            let decided = policy(None, Retry, &[(kind.as_str(), GiveUp)]);
            assert_eq!(next_step(&decided, 1, &failed(kind), 0.0).next, dead, "{kind}");
        }
        let cases: [(Decision, Decided<'_>, Outcome, Next); 12] = [
            (Retry, &[], failed(PayloadGone), dead),
            (Retry, &[("404", GiveUp)], answered(404, None), dead),
            (Retry, &[("404", GiveUp)], answered(403, None), again),
            (Retry, &[("5xx", GiveUp)], answered(502, None), dead),
            (Retry, &[("3xx", GiveUp)], answered(301, None), dead),
            (Retry, &[("5xx", GiveUp), ("502", Retry)], answered(502, None), again),
            (Retry, &[("http_status", GiveUp)], answered(999, None), dead),
            // A decision overrides `retry_client_errors`, and what holds for single statuses where nothing was decided.
            (GiveUp, &[("404", Retry)], answered(404, None), again),
            (GiveUp, &[("404", Retry)], answered(403, None), dead),
            (GiveUp, &[("4xx", Retry)], answered(403, None), again),
            (Retry, &[("4xx", GiveUp)], answered(408, None), dead),
            (Retry, &[("4xx", GiveUp), ("408", Retry)], answered(408, None), again),
        ];
        for (client_errors, decisions, outcome, next) in cases {
            let step = next_step(&policy(None, client_errors, decisions), 1, &outcome, 0.0);
            assert_eq!(step, NextStep { next, disables: None }, "{client_errors:?}, {decisions:?}, {outcome:?}");
        }
        let out_of_attempts = next_step(&policy(Some(&[]), Retry, &[("500", Retry)]), 1, &answered(500, None), 0.0);
        assert_eq!(out_of_attempts.next, dead, "a decision makes no further attempts");
    }

    #[test]
    fn what_disables_the_subscription_and_what_gives_a_delivery_up() {
        use Decision::{GiveUp, Retry};
        use Directive::{Abort, Disable};
        let (gone, asked) = (Some(DisableReason::Gone), Some(DisableReason::Asked));
        let (again, dead) = (retry(5, None), given_up(None));
        let cases: [(Decided<'_>, Outcome, Next, Option<DisableReason>); 17] = [
            (&[], answered(410, None), dead, gone),
            (&[("410", GiveUp)], answered(410, None), dead, gone),
            (&[("4xx", GiveUp)], answered(410, None), dead, gone),
            (&[("410", Retry)], answered(410, None), again, None),
            (&[("4xx", Retry)], answered(410, None), again, None),
            (&[("4xx", Retry), ("410", GiveUp)], answered(410, None), dead, gone),
            (&[("404", GiveUp)], answered(404, None), dead, None),
            (&[], asking(Disable, 200), Next::Done, asked),
            (&[], asking(Disable, 500), again, asked),
            (&[("500", GiveUp)], asking(Disable, 500), dead, asked),
            (&[], asking(Disable, 410), dead, gone),
            (&[("410", Retry)], asking(Disable, 410), again, asked),
            (&[], asking(Abort, 200), dead, None),
            (&[], asking(Abort, 500), dead, None),
            (&[("500", Retry)], asking(Abort, 500), dead, None),
            (&[], asking(Abort, 410), dead, gone),
            (&[("http_status", Retry)], asking(Abort, 410), dead, None),
        ];
        for (decisions, outcome, next, disables) in cases {
            let step = next_step(&policy(None, Retry, decisions), 1, &outcome, 0.0);
            assert_eq!(step, NextStep { next, disables }, "{decisions:?}, {outcome:?}");
        }
        let busy = next_step(&RetryPolicy::default(), 1, &asking(Abort, 503), 0.0);
        assert_eq!(busy.next, given_up(Some(5)), "the other deliveries wait all the same");
    }

    #[test]
    fn jitter_is_never_early_and_at_most_a_tenth() {
        let policy = RetryPolicy::default();
        for (jitter, millis) in [(0.0, 300_000), (0.5, 315_000), (1.0, 330_000), (7.0, 330_000)] {
            let Next::Retry { after, .. } = next_step(&policy, 2, &answered(500, None), jitter).next else {
                panic!("a second attempt is not the last");
            };
            assert_eq!(after.as_millis(), millis);
        }
    }

    #[test]
    fn a_delivery_that_kills_workers_ends() {
        let policy = policy(Some(&[]), Decision::Retry, &[]);
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
