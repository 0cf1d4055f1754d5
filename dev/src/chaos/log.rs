//! What happened in a run, as the audit sees it: what producers posted, what receivers got, what went wrong, and what
//! the database says at the end. It is plain data, so that a test can write a log by hand.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use serde_json::Value;
use uuid::Uuid;

use crate::chaos::plan::Kind;

/// A moment, from the beginning of the run.
pub type At = Duration;

/// The clock of a run.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    began: Instant,
    began_at: SystemTime,
}

impl Clock {
    /// A clock that begins now.
    #[must_use]
    pub fn start() -> Self {
        Self { began: Instant::now(), began_at: SystemTime::now() }
    }

    /// The moment that a clock on this machine showed as these seconds since 1970.
    #[must_use]
    pub fn moment(self, seconds: f64) -> At {
        let since_1970 = self.began_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Duration::from_secs_f64(seconds.max(0.0)).saturating_sub(since_1970)
    }

    /// The time since the run began.
    #[must_use]
    pub fn now(self) -> At {
        self.began.elapsed()
    }
}

/// A rate limit: attempts a second, and how many may come at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Attempts a second.
    pub per_second: f64,
    /// Attempts that may come at once.
    pub burst: u32,
}

/// A subscription of the run.
#[derive(Clone, Debug, Default)]
pub struct Subscription {
    /// Its id, without the prefix.
    pub id: Uuid,
    /// A name for people.
    pub name: String,
    /// The patterns of the event types that it wants.
    pub event_types: Vec<String>,
    /// Whether its deliveries come in order.
    pub is_ordered: bool,
    /// Attempts at once, at most.
    pub max_in_flight: Option<usize>,
    /// Its rate limit.
    pub rate: Option<Rate>,
}

impl Subscription {
    /// Whether it wants events of this type.
    #[must_use]
    pub fn wants(&self, event_type: &str) -> bool {
        self.event_types.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(beginning) => event_type.starts_with(beginning),
            None => pattern == event_type,
        })
    }
}

/// What a producer was told about an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is stored, with so many deliveries where the answer told.
    Accepted {
        /// How many deliveries the answer named; `None` for the commit of a transaction, which names none.
        deliveries: Option<usize>,
    },
    /// Nobody knows: an error, or no answer.
    Unknown,
    /// The producer's own transaction was rolled back, so it must not exist.
    RolledBack,
}

/// An event that a producer has posted.
#[derive(Clone, Debug)]
pub struct Posted {
    /// The number in its payload, by which it is known.
    pub number: u64,
    /// How it was posted.
    pub way: &'static str,
    /// Its ordering key.
    pub key: Option<String>,
    /// The subscriptions that have to get it, by their places in the log.
    pub wanted_by: Vec<usize>,
    /// When the first request with it was begun.
    pub sent: At,
    /// When the last answer had arrived, or was given up.
    pub answered: At,
    /// What the producer knows.
    pub answer: Answer,
}

/// What became of a request at its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was answered with this status.
    Answered(u16),
    /// The receiver closed the connection without an answer.
    Reset,
    /// The worker closed the connection before there was an answer.
    Abandoned,
}

/// A request that a receiver has got.
#[derive(Clone, Debug)]
pub struct Request {
    /// The subscription whose receiver got it, by its place in the log.
    pub subscription: usize,
    /// The number in the payload.
    pub number: u64,
    /// The header `webhook-id`.
    pub event: String,
    /// The delivery, of the header `webhook-delivery-id`.
    pub delivery: Uuid,
    /// The header `webhook-attempt`.
    pub attempt: u32,
    /// When it had arrived.
    pub arrived: At,
    /// When it was answered or closed.
    pub ended: At,
    /// What became of it.
    pub fate: Fate,
}

impl Request {
    /// Whether it was answered with 2xx.
    #[must_use]
    pub fn is_success(&self) -> bool {
        matches!(self.fate, Fate::Answered(200..300))
    }
}

/// A fault that has happened.
#[derive(Clone, Debug)]
pub struct Happened {
    /// Its kind.
    pub kind: Kind,
    /// Whom it befell.
    pub victim: String,
    /// When it began.
    pub from: At,
    /// When it ended; for a process that was started again, when that one was ready.
    pub to: At,
}

/// An attempt that the database has logged.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Its delivery.
    pub delivery: Uuid,
    /// Its number.
    pub number: u32,
    /// The status of the answer; `None` where none arrived.
    pub status: Option<u16>,
    /// The kind of its failure; `None` for a success.
    pub error: Option<String>,
}

/// A delivery in the database.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Its id.
    pub id: Uuid,
    /// The number in the payload of its event.
    pub number: u64,
    /// Its status.
    pub status: String,
    /// When its end was recorded; `None` where it has not ended.
    pub finished: Option<At>,
}

/// Everything that happened in a run.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// The subscriptions.
    pub subscriptions: Vec<Subscription>,
    /// The events that were posted.
    pub posted: Vec<Posted>,
    /// The requests that receivers got, in the order in which they arrived.
    pub requests: Vec<Request>,
    /// The faults that happened.
    pub faults: Vec<Happened>,
    /// The attempts that were logged.
    pub attempts: Vec<Attempt>,
    /// The deliveries.
    pub deliveries: Vec<Delivery>,
    /// When the harness itself was late, and by how much.
    pub stalls: Vec<(At, Duration)>,
}

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offence {
    /// The rule that is broken.
    pub rule: &'static str,
    /// By what: ids and times.
    pub what: String,
}

impl Offence {
    /// An offence against this rule.
    pub fn new(rule: &'static str, what: impl Into<String>) -> Self {
        Self { rule, what: what.into() }
    }
}

/// Where everybody writes down what happens while a run is going on.
#[derive(Debug)]
pub struct Journal {
    /// The clock of the run.
    pub clock: Clock,
    faults: Mutex<Vec<Happened>>,
    skipped: Mutex<BTreeMap<Kind, usize>>,
    offences: Mutex<Vec<Offence>>,
    stalls: Mutex<Vec<(At, Duration)>>,
    posted: Mutex<Vec<Posted>>,
}

impl Journal {
    /// An empty journal.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            faults: Mutex::default(),
            skipped: Mutex::default(),
            offences: Mutex::default(),
            stalls: Mutex::default(),
            posted: Mutex::default(),
        }
    }

    /// A fault that began then and has ended now.
    pub fn happened(&self, kind: Kind, victim: impl Into<String>, from: At) {
        let happened = Happened { kind, victim: victim.into(), from, to: self.clock.now() };
        locked(&self.faults).push(happened);
    }

    /// A fault was planned, but could not be made.
    pub fn skipped(&self, kind: Kind) {
        *locked(&self.skipped).entry(kind).or_default() += 1;
    }

    /// Something was seen that must not be.
    pub fn offence(&self, rule: &'static str, what: impl Into<String>) {
        locked(&self.offences).push(Offence::new(rule, what));
    }

    /// The harness itself was late.
    pub fn stalled(&self, by: Duration) {
        locked(&self.stalls).push((self.clock.now(), by));
    }

    /// A producer is done with an event.
    pub fn posted(&self, posted: Posted) {
        locked(&self.posted).push(posted);
    }

    /// The faults so far.
    pub fn faults(&self) -> Vec<Happened> {
        locked(&self.faults).clone()
    }

    /// How many faults of each kind were planned and not made.
    pub fn all_skipped(&self) -> BTreeMap<Kind, usize> {
        locked(&self.skipped).clone()
    }

    /// The offences so far.
    pub fn offences(&self) -> Vec<Offence> {
        locked(&self.offences).clone()
    }

    /// A log with what the journal knows.
    pub fn log(&self, subscriptions: Vec<Subscription>, requests: Vec<Request>) -> Log {
        Log {
            subscriptions,
            requests,
            posted: locked(&self.posted).clone(),
            faults: self.faults(),
            stalls: locked(&self.stalls).clone(),
            ..Log::default()
        }
    }
}

/// The value behind a lock. Nobody panics while holding it.
pub fn locked<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The payload of the event with this number.
#[must_use]
pub fn payload(number: u64) -> Value {
    serde_json::json!({"n": format!("{number:020}"), "filler": "x".repeat(200)})
}

/// The number in a payload, also where Postgres has written it anew.
#[must_use]
pub fn number(payload: &[u8]) -> Option<u64> {
    let payload: Value = serde_json::from_slice(payload).ok()?;
    payload["n"].as_str()?.parse().ok()
}
