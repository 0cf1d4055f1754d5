//! Whether the events of an ordering key arrive in the order of acceptance. One event comes before another
//! where the answer to its request had arrived before the request of the other was begun. Events of which nobody knows
//! whether they were accepted have no place in the order.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use super::{Findings, told};
use crate::chaos::{
    log::{Answer, At, Log, Posted, Request},
    plan::Kind,
};

/// How long after a worker goes on that was frozen a request may arrive that it had been about to send.
const THAWED_FOR: Duration = Duration::from_secs(2);

/// What arrived of an event: for the first time, and for the last.
#[derive(Clone, Copy)]
struct Span<'l> {
    first: &'l Request,
    last: &'l Request,
}

pub(super) fn examine(log: &Log, findings: &mut Findings) {
    let mut spans: HashMap<(usize, u64), Span<'_>> = HashMap::new();
    for request in &log.requests {
        let span =
            spans.entry((request.subscription, request.number)).or_insert(Span { first: request, last: request });
        if request.arrived < span.first.arrived {
            span.first = request;
        }
        if request.arrived > span.last.arrived {
            span.last = request;
        }
    }
    let (mut keys, mut compared, mut late) = (0, 0, 0);
    for (place, _) in log.subscriptions.iter().enumerate().filter(|(_, subscription)| subscription.is_ordered) {
        for (key, mut line) in lines(log, place) {
            keys += 1;
            line.sort_by_key(|posted| posted.sent);
            // The newest arrival among the events that were accepted before the present one was sent.
            for (nth, posted) in line.iter().enumerate() {
                let Some(span) = spans.get(&(place, posted.number)) else { continue };
                let before = line[..nth].iter().filter(|before| before.answered < posted.sent);
                let before = before.filter_map(|before| spans.get(&(place, before.number)));
                for earlier in before {
                    compared += 1;
                    if earlier.first.arrived >= span.first.arrived {
                        let what =
                            format!("key {key}: {}; before it {}", told(log, earlier.first), told(log, span.first));
                        findings.offence("events of a key arrive in the order of acceptance", what);
                    } else if earlier.last.arrived > span.first.arrived {
                        late += 1;
                        if !was_thawed(log, earlier.last.arrived) {
                            let what =
                                format!("key {key}: {}; before it {}", told(log, earlier.last), told(log, span.first));
                            findings.offence("an event is not repeated after a later one of its key", what);
                        }
                    }
                }
            }
        }
    }
    findings.number("ordering keys", keys);
    findings.number("  pairs of events compared", compared);
    findings.number("  repeated after a later one, by a worker that had been frozen", late);
}

/// The accepted events of each ordering key of a subscription. Those without a key are one line.
fn lines(log: &Log, place: usize) -> BTreeMap<String, Vec<&Posted>> {
    let mut lines: BTreeMap<String, Vec<&Posted>> = BTreeMap::new();
    let accepted = log.posted.iter().filter(|posted| matches!(posted.answer, Answer::Accepted { .. }));
    for posted in accepted.filter(|posted| posted.wanted_by.contains(&place)) {
        lines.entry(posted.key.clone().unwrap_or_default()).or_default().push(posted);
    }
    lines
}

/// Whether a worker had gone on a moment before that had been frozen: nothing can stop it from sending what it was
/// about to send.
fn was_thawed(log: &Log, at: At) -> bool {
    log.faults.iter().any(|fault| {
        matches!(fault.kind, Kind::WorkerFrozen | Kind::ProcessFrozen)
            && fault.victim.starts_with("worker")
            && (fault.from..=fault.to + THAWED_FOR).contains(&at)
    })
}

#[cfg(test)]
mod tests {
    use crate::chaos::{
        audit::samples::{Sample, rules, seconds},
        log::{Answer, Fate, Happened},
        plan::Kind,
    };

    const ORDER: &str = "events of a key arrive in the order of acceptance";

    /// Two events of these keys, of which the second arrives first.
    fn swapped(keys: [&str; 2]) -> Sample {
        let mut sample = Sample::default();
        sample.subscription.is_ordered = true;
        for (number, key) in [7, 8].into_iter().zip(keys) {
            sample.post(number, Answer::Accepted { deliveries: Some(1) }).key = Some(key.to_owned());
        }
        sample.deliver(8, 1, 9.0, Fate::Answered(200));
        sample.deliver(7, 1, 9.1, Fate::Answered(200));
        sample
    }

    #[test]
    fn a_wrong_order_is_told() {
        assert_eq!(rules(&swapped(["a", "a"]).log()), [ORDER]);
        assert_eq!(rules(&swapped(["a", "b"]).log()), [""; 0]);
        let mut unordered = swapped(["a", "a"]);
        unordered.subscription.is_ordered = false;
        assert_eq!(rules(&unordered.log()), [""; 0]);
    }

    #[test]
    fn events_that_overlap_or_were_not_acknowledged_have_no_order() {
        let mut overlapping = swapped(["a", "a"]).log();
        overlapping.posted[0].answered = seconds(8.01);
        assert_eq!(rules(&overlapping), [""; 0]);
        let mut unknown = swapped(["a", "a"]).log();
        unknown.posted[0].answer = Answer::Unknown;
        assert_eq!(rules(&unknown), [""; 0]);
    }

    #[test]
    fn an_event_is_repeated_after_a_later_one_only_by_a_worker_that_was_frozen() {
        let mut sample = Sample::default();
        sample.subscription.is_ordered = true;
        for number in [7, 8] {
            sample.post(number, Answer::Accepted { deliveries: Some(1) });
        }
        sample.deliver(7, 1, 9.0, Fate::Answered(200));
        sample.deliver(8, 1, 9.5, Fate::Answered(200));
        sample.deliver(7, 2, 10.0, Fate::Answered(200));
        let frozen = |kind, to| Happened { kind, victim: "worker-1".to_owned(), from: seconds(1.0), to: seconds(to) };
        let mut log = sample.log();
        log.faults.push(frozen(Kind::ConnectionsHeld, 9.9));
        assert_eq!(rules(&log), ["an event is not repeated after a later one of its key"]);
        log.faults.push(frozen(Kind::WorkerFrozen, 9.9));
        assert_eq!(rules(&log), [""; 0]);
    }
}
