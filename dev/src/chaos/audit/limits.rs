//! Whether the limits of subscriptions hold: how many attempts are under way at once, and how many come in any time.

use std::time::Duration;

use super::{Findings, RECORDED_WITHIN, told};
use crate::chaos::{
    log::{At, Log, Rate, Request},
    plan::Kind,
};

/// By how much requests may come together because processes on a busy machine are late: the planner of Linux, the
/// connection, and the clock of the receiver.
const LATE: Duration = Duration::from_millis(250);

pub(super) fn examine(log: &Log, findings: &mut Findings) {
    let mut worst = Duration::ZERO;
    for (place, subscription) in log.subscriptions.iter().enumerate() {
        let requests: Vec<_> = log.requests.iter().filter(|request| request.subscription == place).collect();
        if let Some(max) = subscription.max_in_flight {
            let at_once = examine_at_once(log, &requests, max, findings);
            findings.number("attempts at once", format!("{at_once}, at most {max}: `{}`", subscription.name));
        }
        if let Some(rate) = subscription.rate {
            worst = worst.max(examine_rate(log, &requests, rate, findings));
        }
    }
    findings.number("requests ahead of a rate limit, while nobody was held up", format!("by {} ms", worst.as_millis()));
}

/// The most requests that were under way at once. Those of a worker that was frozen meanwhile are left out, because it
/// could not close their connections when their time was over.
fn examine_at_once(log: &Log, requests: &[&Request], max: usize, findings: &mut Findings) -> usize {
    let counted: Vec<_> = requests.iter().filter(|request| !met_a_frozen_worker(log, request)).collect();
    let mut most = 0;
    for request in &counted {
        let at = request.arrived;
        let under_way = counted.iter().filter(|other| other.arrived <= at && at < other.ended).count();
        most = most.max(under_way);
        if under_way > max {
            let what = format!("{under_way} instead of {max}: {}", told(log, request));
            findings.offence("no more attempts are under way at once than max_in_flight", what);
        }
    }
    most
}

fn met_a_frozen_worker(log: &Log, request: &Request) -> bool {
    freezes(log).any(|(from, to)| request.arrived <= to + LATE && from <= request.ended)
}

/// By how much the requests were ahead of the limit, at most, where no worker was late. The same rule as the worker's
/// (GCRA): each request moves a mark by one interval, and the mark may be ahead of the time by the burst.
fn examine_rate(log: &Log, requests: &[&Request], rate: Rate, findings: &mut Findings) -> Duration {
    let interval = Duration::from_secs_f64(1.0 / rate.per_second);
    let (mut mark, mut worst) = (At::ZERO, Duration::ZERO);
    for request in requests {
        mark = mark.max(request.arrived) + interval;
        let ahead = mark.saturating_sub(request.arrived + interval * rate.burst);
        let late = late_by(log, request.arrived);
        if ahead > LATE + late {
            let what = format!("by {} ms: {}", ahead.as_millis(), told(log, request));
            findings.offence("in any time, there are no more attempts than the rate and the burst allow", what);
            // One offence is enough; what follows is judged by itself.
            mark = request.arrived;
        } else if late.is_zero() {
            worst = worst.max(ahead);
        }
    }
    worst
}

/// By how much workers and the harness had been late, not long before: a worker that was frozen, and one whose claims
/// were answered late. It plans its attempts from when it gets the answer.
fn late_by(log: &Log, at: At) -> Duration {
    let recent = |to: At| to <= at + LATE && at <= to + RECORDED_WITHIN;
    let frozen = hold_ups(log)
        .filter(|(from, to)| recent(*to) || (*from..*to).contains(&at))
        .map(|(from, to)| to.saturating_sub(from));
    let stalled = log.stalls.iter().filter(|(to, _)| recent(*to)).map(|(_, by)| *by);
    frozen.chain(stalled).max().unwrap_or_default()
}

/// When workers were frozen, or the database, or what passes between the two was late.
fn hold_ups(log: &Log) -> impl Iterator<Item = (At, At)> {
    let hold_ups = log.faults.iter().filter(|fault| match fault.victim.as_str() {
        "database" => matches!(fault.kind, Kind::DatabaseFrozen | Kind::DatabaseStutters),
        victim => {
            victim.starts_with("worker")
                && matches!(
                    fault.kind,
                    Kind::WorkerFrozen | Kind::ProcessFrozen | Kind::ConnectionsDelayed | Kind::ConnectionsHeld
                )
        }
    });
    hold_ups.map(|fault| (fault.from, fault.to))
}

/// When workers were frozen.
fn freezes(log: &Log) -> impl Iterator<Item = (At, At)> {
    let freezes = log.faults.iter().filter(|fault| {
        matches!(fault.kind, Kind::WorkerFrozen | Kind::ProcessFrozen) && fault.victim.starts_with("worker")
    });
    freezes.map(|fault| (fault.from, fault.to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::{
        audit::samples::{Sample, rules, seconds},
        log::{Answer, Fate, Happened},
    };

    fn frozen(from: f64, to: f64) -> Happened {
        Happened { kind: Kind::WorkerFrozen, victim: "worker-0".to_owned(), from: seconds(from), to: seconds(to) }
    }

    /// Events that arrive at these moments, each for as long.
    fn sample(arrivals: &[f64], lasts: f64) -> Sample {
        let mut sample = Sample::default();
        for (number, arrived) in (0..).zip(arrivals) {
            sample.post(number, Answer::Accepted { deliveries: Some(1) });
            sample.deliver(number, 1, *arrived, Fate::Answered(200)).ended = seconds(arrived + lasts);
        }
        sample
    }

    #[test]
    fn more_attempts_at_once_than_allowed_are_told() {
        let rule = "no more attempts are under way at once than max_in_flight";
        for (arrivals, max, is_kept) in [
            ([20.0, 20.1, 20.2], 3, true),
            ([20.0, 20.1, 20.2], 2, false),
            ([20.0, 20.5, 21.0], 2, true),
            ([20.0, 20.5, 20.999], 2, false),
        ] {
            let mut sample = sample(&arrivals, 1.0);
            sample.subscription.max_in_flight = Some(max);
            assert_eq!(rules(&sample.log()), if is_kept { vec![] } else { vec![rule] }, "{arrivals:?} {max}");
            let mut log = sample.log();
            log.faults.push(frozen(20.0, 21.0));
            assert_eq!(rules(&log), [""; 0], "a frozen worker closes no connection");
        }
    }

    #[test]
    fn a_rate_that_is_exceeded_is_told() {
        let rule = "in any time, there are no more attempts than the rate and the burst allow";
        for (arrivals, is_kept) in [
            // Two at once and then one each half a second.
            (&[20.0, 20.0, 20.5, 21.0, 21.5][..], true),
            (&[20.0, 20.0, 20.0], false),
            (&[20.0, 20.1, 20.2, 20.3, 20.4], false),
            (&[20.0, 20.4, 20.9, 21.4, 21.9], true),
        ] {
            let mut sample = sample(arrivals, 0.01);
            sample.subscription.rate = Some(Rate { per_second: 2.0, burst: 2 });
            assert_eq!(rules(&sample.log()), if is_kept { vec![] } else { vec![rule] }, "{arrivals:?}");
            let mut log = sample.log();
            log.faults.push(frozen(19.0, 20.9));
            assert_eq!(rules(&log), [""; 0], "a frozen worker is late");
        }
    }
}
