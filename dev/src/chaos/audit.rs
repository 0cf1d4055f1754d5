//! The audit of a run: it reads the log and tells everything that must not be. It is pure, so that its own tests can
//! give it a log in which something is wrong.
//!
//! * `arrivals`: nothing that was accepted is lost, nothing arrives that must not, and what arrives twice is explained.
//! * `attempts`: what receivers got and what the database has logged agree.
//! * `order`: the events of an ordering key arrive in the order in which they were accepted.
//! * `limits`: no limit of a subscription is exceeded.

mod arrivals;
mod attempts;
mod limits;
mod order;
#[cfg(test)]
mod samples;

use std::time::Duration;

use crate::chaos::log::{At, Happened, Log, Offence, Request};

/// How long an outcome may take to be recorded, on a busy machine: a fault that begins this long after an answer may
/// lose its outcome.
const RECORDED_WITHIN: Duration = Duration::from_secs(5);
/// How long after a fault its consequences may still be told by clocks of ours.
const SETTLED_AFTER: Duration = Duration::from_secs(1);

/// What the audit has counted, and what it has found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Everything that must not be.
    pub offences: Vec<Offence>,
    /// Numbers for the table, each with its name.
    pub numbers: Vec<(&'static str, String)>,
}

impl Findings {
    fn number(&mut self, name: &'static str, value: impl ToString) {
        self.numbers.push((name, value.to_string()));
    }

    fn offence(&mut self, rule: &'static str, what: impl Into<String>) {
        self.offences.push(Offence::new(rule, what));
    }
}

/// Examines a whole log.
#[must_use]
pub fn audit(log: &Log) -> Findings {
    let mut findings = Findings::default();
    arrivals::examine(log, &mut findings);
    attempts::examine(log, &mut findings);
    order::examine(log, &mut findings);
    limits::examine(log, &mut findings);
    findings
}

impl Happened {
    /// Whether this fault may lose outcomes on their way to the database.
    fn may_befall_outcomes(&self) -> bool {
        self.kind.may_repeat() && (self.victim.starts_with("worker") || self.victim == "database")
    }

    /// Whether an answer that was given then may not have been recorded because of this fault.
    fn may_lose_outcome_of(&self, answered: At) -> bool {
        self.may_befall_outcomes() && self.from <= answered + RECORDED_WITHIN && answered <= self.to + SETTLED_AFTER
    }
}

/// A request in a few words.
fn told(log: &Log, request: &Request) -> String {
    let name = log.subscriptions.get(request.subscription).map_or("?", |subscription| &subscription.name);
    format!(
        "event {} ({}), delivery {}, attempt {}, to `{name}` at {:.3} s",
        request.number,
        request.event,
        request.delivery,
        request.attempt,
        request.arrived.as_secs_f64()
    )
}
