//! Whether everything that was accepted has arrived, and nothing else; and whether what arrived twice is explained.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::{Findings, told};
use crate::chaos::log::{Answer, At, Happened, Log, Posted, Request};

/// The requests with an event to a subscription, in the order in which they arrived.
type Arrived<'l> = HashMap<(usize, u64), Vec<&'l Request>>;

pub(super) fn examine(log: &Log, findings: &mut Findings) {
    let mut arrived: Arrived<'_> = HashMap::new();
    for request in &log.requests {
        arrived.entry((request.subscription, request.number)).or_default().push(request);
    }
    examine_posted(log, &arrived, findings);
    examine_requests(log, findings);
    examine_duplicates(log, &arrived, findings);
    examine_ends(log, findings);
}

/// Every accepted event has arrived at everybody who wanted it; what was rolled back has arrived nowhere.
fn examine_posted(log: &Log, arrived: &Arrived<'_>, findings: &mut Findings) {
    let (mut accepted, mut unknown, mut unknown_arrived, mut wanted, mut lost) = (0, 0, 0, 0, 0);
    for posted in &log.posted {
        let has_arrived = |place: &usize| {
            arrived
                .get(&(*place, posted.number))
                .is_some_and(|requests| requests.iter().any(|request| request.is_success()))
        };
        match &posted.answer {
            Answer::Accepted { deliveries } => {
                accepted += 1;
                wanted += posted.wanted_by.len();
                if deliveries.is_some_and(|deliveries| deliveries != posted.wanted_by.len()) {
                    let what = format!("{}: {deliveries:?} instead of {}", of(posted), posted.wanted_by.len());
                    findings.offence("an answer names a delivery for each subscription that wants the event", what);
                }
                for place in posted.wanted_by.iter().filter(|place| !has_arrived(place)) {
                    lost += 1;
                    let name = &log.subscriptions[*place].name;
                    findings.offence("every accepted event arrives", format!("{} is lost for `{name}`", of(posted)));
                }
            }
            Answer::Unknown => {
                unknown += 1;
                unknown_arrived += usize::from(posted.wanted_by.iter().any(has_arrived));
                // An event is stored with all its deliveries, or not at all.
                let parts = posted.wanted_by.iter().filter(|place| has_arrived(place)).count();
                if parts > 0 && parts < posted.wanted_by.len() {
                    let what = format!("{}: {parts} of {}", of(posted), posted.wanted_by.len());
                    findings.offence("an event arrives at all who want it, or at none", what);
                }
            }
            Answer::RolledBack => {
                if let Some(request) =
                    posted.wanted_by.iter().find_map(|place| arrived.get(&(*place, posted.number))?.first())
                {
                    findings.offence("what was rolled back does not arrive", told(log, request));
                }
            }
        }
    }
    findings.number("events posted", log.posted.len());
    findings.number("  accepted", accepted);
    findings.number("  answered with an error or not at all", unknown);
    findings.number("    of these arrived all the same", unknown_arrived);
    findings.number("deliveries owed for accepted events", wanted);
    findings.number("  lost", lost);
}

fn of(posted: &Posted) -> String {
    let (sent, answered) = (posted.sent.as_secs_f64(), posted.answered.as_secs_f64());
    format!("event {} by {}, sent at {sent:.3} s, answered at {answered:.3} s", posted.number, posted.way)
}

/// Every request is for an event that was posted and wanted, and an event has one id.
fn examine_requests(log: &Log, findings: &mut Findings) {
    let posted: HashMap<u64, &Posted> = log.posted.iter().map(|posted| (posted.number, posted)).collect();
    let mut ids: HashMap<u64, &str> = HashMap::new();
    for request in &log.requests {
        let is_wanted =
            posted.get(&request.number).is_some_and(|posted| posted.wanted_by.contains(&request.subscription));
        if !is_wanted {
            findings.offence("nobody gets what was not posted for them", told(log, request));
        }
        if *ids.entry(request.number).or_insert(&request.event) != request.event {
            findings.offence("a request that is sent again stores no second event", told(log, request));
        }
    }
    findings.number("requests received", log.requests.len());
    let answered = log.requests.iter().filter(|request| request.is_success()).count();
    findings.number("  answered with 2xx", answered);
}

/// What arrives again after it was accepted: a fault has to explain it.
fn examine_duplicates(log: &Log, arrived: &Arrived<'_>, findings: &mut Findings) {
    let mut duplicates = 0;
    for requests in arrived.values() {
        let mut accepted: Option<&Request> = None;
        for request in requests {
            if let Some(before) = accepted {
                duplicates += 1;
                // A second request may have been under way beside the first.
                let is_explained = log.faults.iter().any(|fault| explains(fault, before, request));
                if !is_explained {
                    findings.offence("no delivery is repeated without a fault that explains it", told(log, request));
                }
            }
            accepted = if request.is_success() { Some(request) } else { accepted };
        }
    }
    let bound = in_flight_at_faults(log);
    if duplicates > bound {
        findings.offence("no more is repeated than was in flight at faults", format!("{duplicates} of {bound}"));
    }
    findings.number("  duplicates: 2xx was answered before", duplicates);
    findings.number("    requests in flight at faults: at most so many may be repeated", bound);
}

fn explains(fault: &Happened, before: &Request, again: &Request) -> bool {
    fault.may_lose_outcome_of(before.ended) && fault.from <= again.arrived
}

/// Requests that had arrived and whose outcomes were not recorded while a fault went on that may lose them. What was
/// recorded is known of each delivery's last request; any other was in flight until its successor arrived.
fn in_flight_at_faults(log: &Log) -> usize {
    let mut recorded: HashMap<Uuid, At> =
        log.deliveries.iter().filter_map(|delivery| Some((delivery.id, delivery.finished?))).collect();
    let faults: Vec<_> = log.faults.iter().filter(|fault| fault.may_befall_outcomes()).collect();
    let mut in_flight = 0;
    for request in log.requests.iter().rev() {
        let until = recorded.insert(request.delivery, request.arrived).unwrap_or(At::MAX);
        let is_hit = |fault: &&Happened| request.arrived <= fault.to && fault.from <= until;
        in_flight += usize::from(request.is_success() && faults.iter().any(is_hit));
    }
    in_flight
}

/// Everything is finished, and well.
fn examine_ends(log: &Log, findings: &mut Findings) {
    let succeeded: HashSet<_> =
        log.requests.iter().filter(|request| request.is_success()).map(|request| request.delivery).collect();
    for delivery in &log.deliveries {
        if delivery.status != "succeeded" {
            let what = format!("delivery {} of event {} is {}", delivery.id, delivery.number, delivery.status);
            findings.offence("every delivery succeeds in the end", what);
        } else if !succeeded.contains(&delivery.id) {
            let what = format!("delivery {} of event {}", delivery.id, delivery.number);
            findings.offence("a delivery that is recorded as succeeded was answered with 2xx", what);
        }
    }
    findings.number("deliveries stored", log.deliveries.len());
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::chaos::{
        audit::samples::{Sample, rules, seconds},
        log::Fate,
        plan::Kind,
    };

    #[test]
    fn a_healthy_log_has_no_offence() {
        assert_eq!(rules(&Sample::default().log()), [""; 0]);
    }

    #[test]
    fn a_lost_event_is_told() {
        let mut sample = Sample::default();
        sample.post(7, Answer::Accepted { deliveries: Some(1) });
        assert_eq!(rules(&sample.log()), ["every accepted event arrives"]);
        // An attempt that was not accepted is no arrival.
        sample.deliver(7, 1, 2.0, Fate::Answered(500));
        assert!(rules(&sample.log()).contains(&"every accepted event arrives"));
        sample.deliver(7, 2, 3.0, Fate::Answered(200));
        assert_eq!(rules(&sample.log()), [""; 0]);
    }

    #[test]
    fn an_event_that_nobody_knows_of_may_arrive_or_not_but_what_was_rolled_back_may_not() {
        let mut sample = Sample::default();
        sample.post(7, Answer::Unknown);
        sample.post(8, Answer::Unknown);
        sample.deliver(8, 1, 2.0, Fate::Answered(200));
        assert_eq!(rules(&sample.log()), [""; 0]);
        sample.post(9, Answer::RolledBack);
        sample.deliver(9, 1, 2.0, Fate::Answered(200));
        assert_eq!(rules(&sample.log()), ["what was rolled back does not arrive"]);
    }

    #[test]
    fn a_duplicate_needs_a_fault_that_explains_it() {
        let mut sample = Sample::default();
        sample.post(7, Answer::Accepted { deliveries: Some(1) });
        sample.deliver(7, 1, 10.0, Fate::Answered(200));
        sample.deliver(7, 2, 20.0, Fate::Answered(200));
        let rule = "no delivery is repeated without a fault that explains it";
        assert_eq!(rules(&sample.log()), [rule, "no more is repeated than was in flight at faults"]);
        for (kind, victim, from, to, is_explained) in [
            (Kind::WorkerKilled, "worker-0", 10.1, 12.0, true),
            (Kind::WorkerKilled, "worker-0", 16.0, 17.0, false),
            (Kind::WorkerKilled, "worker-0", 2.0, 3.0, false),
            (Kind::ApiKilled, "api-0", 10.1, 12.0, false),
            (Kind::ConnectionsCut, "api-0", 10.1, 12.0, false),
            (Kind::ConnectionsCut, "worker-2", 10.1, 12.0, true),
            (Kind::DatabaseFrozen, "database", 1.0, 13.0, true),
            (Kind::NotificationsLost, "worker-0", 1.0, 13.0, false),
        ] {
            let mut log = sample.log();
            log.faults.push(Happened { kind, victim: victim.to_owned(), from: seconds(from), to: seconds(to) });
            assert_eq!(rules(&log).is_empty(), is_explained, "{kind:?} {from}");
        }
    }

    #[test]
    fn strangers_second_ids_and_wrong_ends_are_told() {
        let mut sample = Sample::default();
        sample.deliver(99, 1, 2.0, Fate::Answered(200));
        assert_eq!(rules(&sample.log()), ["nobody gets what was not posted for them"]);

        let mut sample = Sample::default();
        sample.post(7, Answer::Accepted { deliveries: Some(2) });
        sample.deliver(7, 1, 2.0, Fate::Answered(200));
        assert_eq!(rules(&sample.log()), ["an answer names a delivery for each subscription that wants the event"]);

        let mut sample = Sample::default();
        sample.post(7, Answer::Accepted { deliveries: Some(1) });
        sample.deliver(7, 1, 2.0, Fate::Answered(500));
        sample.deliver(7, 2, 3.0, Fate::Answered(200));
        let mut log = sample.log();
        log.requests[1].event = "evt_another".to_owned();
        assert_eq!(rules(&log), ["a request that is sent again stores no second event"]);
        let mut log = sample.log();
        log.deliveries[0].status = "dead_letter".to_owned();
        assert_eq!(rules(&log), ["every delivery succeeds in the end"]);
        let mut log = sample.log();
        log.requests[1].delivery = uuid::Uuid::from_u128(5);
        assert!(rules(&log).contains(&"a delivery that is recorded as succeeded was answered with 2xx"));
        assert_eq!(seconds(2.0), Duration::from_secs(2));
    }
}
