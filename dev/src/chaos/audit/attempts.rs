//! Whether the log of attempts tells what the receivers got.
//!
//! Each attempt that the database has logged with a status was received and answered so, and each request that a
//! receiver got is logged, under its number. What is left between the two is bounded: an attempt without an answer may
//! or may not have reached its receiver; a connection that was closed unanswered carries its request once more; and
//! a crash of the database undoes claims, so that the same attempt is made again under the same number.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::{Findings, told};
use crate::chaos::log::{Fate, Log, Request};

pub(super) fn examine(log: &Log, findings: &mut Findings) {
    let mut received: HashMap<(Uuid, u32), Vec<&Request>> = HashMap::new();
    for request in &log.requests {
        received.entry((request.delivery, request.attempt)).or_default().push(request);
    }
    examine_logged(log, &received, findings);
    let logged: HashSet<_> = log.attempts.iter().map(|attempt| (attempt.delivery, attempt.number)).collect();
    let known: HashSet<_> = log.deliveries.iter().map(|delivery| delivery.id).collect();
    let crashes: Vec<_> = log.faults.iter().filter(|fault| fault.kind.crashes_the_database()).collect();
    let (mut unlogged, mut again) = (0, 0);
    for (key, requests) in &received {
        for request in requests.iter().filter(|_| !logged.contains(key)) {
            unlogged += 1;
            // A crash undoes a fan-out that had not reached the disk, with its deliveries; then others are made.
            if known.contains(&key.0) || crashes.is_empty() {
                findings.offence("every request that a receiver got is logged", told(log, request));
            }
        }
        for pair in requests.windows(2) {
            again += 1;
            let was_resent = pair.iter().any(|request| request.fate == Fate::Reset);
            let was_undone = crashes.iter().any(|crash| pair[0].arrived <= crash.to && crash.from <= pair[1].arrived);
            if !was_resent && !was_undone {
                findings.offence("an attempt is made once", told(log, pair[1]));
            }
        }
    }
    findings.number("  of attempts that the database forgot in a crash", unlogged);
    findings.number("  of an attempt that was received before", again);
}

/// Every attempt that was logged with a status was answered with that status.
fn examine_logged(log: &Log, received: &HashMap<(Uuid, u32), Vec<&Request>>, findings: &mut Findings) {
    let (mut answered, mut unanswered, mut lost, mut unanswered_received) = (0, 0, 0, 0);
    for attempt in &log.attempts {
        let requests = received.get(&(attempt.delivery, attempt.number)).map_or(&[][..], Vec::as_slice);
        let Some(status) = attempt.status else {
            unanswered += 1;
            lost += usize::from(attempt.error.as_deref() == Some("lease_lost"));
            unanswered_received += usize::from(!requests.is_empty());
            continue;
        };
        answered += 1;
        if !requests.iter().any(|request| request.fate == Fate::Answered(status)) {
            let what = format!("attempt {} of delivery {}: {status}", attempt.number, attempt.delivery);
            findings.offence("every attempt that is logged with a status was answered so", what);
        }
        if (200..300).contains(&status) != attempt.error.is_none() {
            let what = format!("attempt {} of delivery {}: {:?}", attempt.number, attempt.delivery, attempt.error);
            findings.offence("an attempt succeeds by 2xx, and by nothing else", what);
        }
    }
    findings.number("attempts logged", log.attempts.len());
    findings.number("  with an answer", answered);
    findings.number("  without one", unanswered);
    findings.number("    of these, the lease was lost", lost);
    findings.number("    of these, the receiver had got the request", unanswered_received);
}

#[cfg(test)]
mod tests {
    use crate::chaos::{
        audit::samples::{Sample, rules, seconds},
        log::{Answer, Attempt, Fate, Happened},
        plan::Kind,
    };

    fn sample() -> Sample {
        let mut sample = Sample::default();
        sample.post(7, Answer::Accepted { deliveries: Some(1) });
        sample.deliver(7, 1, 8.0, Fate::Answered(500));
        sample.deliver(7, 2, 9.0, Fate::Answered(200));
        sample
    }

    #[test]
    fn an_attempt_that_nobody_got_and_a_request_that_nobody_logged_are_told() {
        let mut log = sample().log();
        log.attempts.push(Attempt { delivery: log.deliveries[0].id, number: 3, status: Some(200), error: None });
        assert_eq!(rules(&log), ["every attempt that is logged with a status was answered so"]);
        let mut log = sample().log();
        log.attempts.pop();
        assert_eq!(rules(&log), ["every request that a receiver got is logged"]);
        // One that got no answer need not have arrived.
        let mut log = sample().log();
        let error = Some("lease_lost".to_owned());
        log.attempts.push(Attempt { delivery: log.deliveries[0].id, number: 3, status: None, error });
        assert_eq!(rules(&log), [""; 0]);
        let mut log = sample().log();
        log.attempts[0].error = None;
        assert_eq!(rules(&log), ["an attempt succeeds by 2xx, and by nothing else"]);
    }

    #[test]
    fn the_same_attempt_comes_twice_only_after_a_reset_or_a_crash_of_the_database() {
        let mut twice = sample();
        twice.deliver(7, 1, 8.5, Fate::Answered(500));
        assert_eq!(rules(&twice.log()), ["an attempt is made once"]);
        let mut crashed = twice.log();
        let (kind, victim) = (Kind::DatabaseCrashed, "database".to_owned());
        crashed.faults.push(Happened { kind, victim, from: seconds(8.2), to: seconds(8.4) });
        assert_eq!(rules(&crashed), [""; 0]);
        let mut reset = sample();
        reset.deliver(7, 1, 8.5, Fate::Reset);
        assert_eq!(rules(&reset.log()), [""; 0]);
    }
}
