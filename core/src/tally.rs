//! Counting for the statistics: a process adds up in memory what it has accepted and recorded, by minute, and writes
//! the sums now and then. So counting costs the hot paths no statement. A process that is killed loses the sums that it
//! has not written, of [`FLUSH_EVERY`] or a little more; they can be counted again from attempts and events.
//!
//! Each outcome is counted three times: for its subscription, for its tenant, and for all tenants. What is kept in
//! memory is bounded: where too many subscriptions are at work, only the sums of tenants and of all tenants go on.

pub mod buckets;
pub mod class;
mod counts;
mod flush;
mod rows;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Mutex,
};

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
pub use flush::FLUSH_EVERY;
use uuid::Uuid;

pub(crate) use crate::tally::counts::Counts;
use crate::{
    id::time_of,
    tally::{
        class::{Class, Kind},
        counts::Addend,
    },
};

/// The subscription in sums of a whole tenant.
pub(crate) const WHOLE_TENANT: Uuid = Uuid::nil();
/// The subscription in sums of a tenant's inline deliveries.
pub(crate) const INLINE: Uuid = Uuid::max();
/// The tenant in sums of all tenants.
pub(crate) const ALL_TENANTS: &str = "";
/// The event type in sums of all types.
pub(crate) const ALL_TYPES: &str = "";
/// The event type in the sums of those types that go beyond [`TYPES_PER_TENANT_MAX`].
pub(crate) const OTHER_TYPES: &str = "*";

/// Sums in memory from which on no further subscription gets sums of its own until they are written.
const SUMS_MAX: usize = 100_000;
/// Event types of a tenant that get sums of their own from one process, at most, within an hour.
pub const TYPES_PER_TENANT_MAX: usize = 200;
/// How long an event type is known that a tenant does not use any more.
const TYPES_FORGOTTEN_AFTER: TimeDelta = TimeDelta::hours(1);
/// Causes of failures are summed up over this span.
pub(crate) const CAUSE_SPAN: TimeDelta = TimeDelta::minutes(10);

/// A recorded outcome, as the statistics see it.
#[derive(Clone, Debug)]
pub struct Observed<'a> {
    /// The tenant of the delivery; `None` where it is not known. Then the outcome is counted for all tenants only.
    pub tenant_id: Option<&'a str>,
    /// The subscription; `None` for an inline delivery.
    pub subscription_id: Option<Uuid>,
    /// The delivery.
    pub delivery_id: Uuid,
    /// The attempt; `None` where none was made.
    pub attempt: Option<ObservedAttempt>,
    /// [`Class::DeadLetter`] or [`Class::Canceled`], where the delivery has ended so.
    pub end: Option<Class>,
    /// When it happened, where no attempt says it.
    pub now: DateTime<Utc>,
}

/// An attempt, as it is stored.
#[derive(Clone, Copy, Debug)]
pub struct ObservedAttempt {
    /// What came of it.
    pub class: Class,
    /// Its number; 1 is the first.
    pub number: i32,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// How long it took, in whole milliseconds; `None` where nobody knows.
    pub duration_ms: Option<i32>,
    /// The HTTP status; `None` where no answer arrived.
    pub status_code: Option<i16>,
    /// When the event was to be delivered; `None` means at once.
    pub deliver_at: Option<DateTime<Utc>>,
    /// Bytes of the event's payload.
    pub payload_bytes: u64,
}

/// An accepted event, as the statistics see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedEvent {
    /// The event, whose id tells when it was accepted.
    pub id: Uuid,
    /// The tenant whose event it is.
    pub tenant_id: String,
    /// Its type.
    pub event_type: String,
    /// Bytes of its payload.
    pub payload_bytes: u64,
}

impl Observed<'_> {
    fn at(&self) -> DateTime<Utc> {
        self.attempt.map_or(self.now, |attempt| attempt.started_at)
    }

    /// What the outcome adds. Times are counted from when the delivery was due for the first time: from its id, or from
    /// `deliver_at` where that is later.
    fn addend(&self) -> Addend {
        let Some(attempt) = self.attempt else { return Addend { end: self.end, ..Addend::default() } };
        let due = attempt.deliver_at.map_or(i64::MIN, |at| at.timestamp_millis()).max(time_of(self.delivery_id));
        let started = attempt.started_at.timestamp_millis();
        let since_due = |millis: i64| millis.saturating_sub(due).max(0).unsigned_abs();
        let duration = attempt.duration_ms.map(|millis| u64::from(millis.max(0).unsigned_abs()));
        let ended = started.saturating_add_unsigned(duration.unwrap_or_default());
        Addend {
            attempt: Some(attempt.class),
            end: self.end,
            duration,
            latency: (attempt.class.kind() == Kind::Success).then(|| since_due(ended)),
            wait: (attempt.number == 1).then(|| since_due(started)),
            bytes: if attempt.status_code.is_some() { attempt.payload_bytes } else { 0 },
        }
    }
}

/// What a process has counted and not written yet.
#[derive(Debug)]
pub struct Tally {
    slot: i16,
    sums: Mutex<Sums>,
}

/// Sums by their keys. Trees keep them in the order in which they are written.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    /// By the tenant, the subscription and the minute.
    pub(crate) outcomes: BTreeMap<String, BTreeMap<(Uuid, DateTime<Utc>), Counts>>,
    /// How many there are in `outcomes`.
    pub(crate) size: usize,
    /// By the tenant, the event type and the minute.
    pub(crate) accepted: BTreeMap<(String, String, DateTime<Utc>), Accepted>,
    /// By the tenant, the subscription, the beginning of the span, and the cause.
    pub(crate) causes: BTreeMap<(String, Uuid, DateTime<Utc>, &'static str), Cause>,
    types: HashMap<String, KnownTypes>,
}

/// Accepted events of one minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) events: i32,
    pub(crate) bytes: i64,
}

/// Failures of one cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cause {
    pub(crate) count: i32,
    pub(crate) first_at: DateTime<Utc>,
    pub(crate) last_at: DateTime<Utc>,
    pub(crate) delivery_id: Uuid,
    pub(crate) status_code: Option<i16>,
}

/// The event types of a tenant that have sums of their own.
#[derive(Debug)]
struct KnownTypes {
    since: DateTime<Utc>,
    names: HashSet<String>,
}

impl Default for Tally {
    /// An empty tally, in a slot of its own as far as chance allows.
    fn default() -> Self {
        Self { slot: flush::any_slot(), sums: Mutex::default() }
    }
}

impl Tally {
    /// Counts an outcome that was recorded.
    pub fn add(&self, outcome: &Observed<'_>) {
        self.sums.lock().expect("nothing panics while it is held").add(outcome);
    }

    /// Counts an event that was accepted.
    pub fn accept(&self, event: &AcceptedEvent) {
        self.accept_all([(event.id, event.tenant_id.as_str(), event.event_type.as_str(), event.payload_bytes)]);
    }

    /// Counts events that were accepted, each by its id, its tenant, its type and its payload's bytes.
    pub(crate) fn accept_all<'e>(&self, events: impl IntoIterator<Item = (Uuid, &'e str, &'e str, u64)>) {
        let mut sums = self.sums.lock().expect("nothing panics while it is held");
        for (id, tenant_id, event_type, bytes) in events {
            sums.accept(id, tenant_id, event_type, bytes);
        }
    }
}

impl Sums {
    pub(crate) fn add(&mut self, outcome: &Observed<'_>) {
        let (at, one) = (outcome.at(), outcome.addend());
        let minute = floor(at, TimeDelta::minutes(1));
        let subscription = outcome.subscription_id.unwrap_or(INLINE);
        self.counts(ALL_TENANTS, WHOLE_TENANT, minute).add(&one);
        let Some(tenant) = outcome.tenant_id else { return };
        self.counts(tenant, WHOLE_TENANT, minute).add(&one);
        if self.size < SUMS_MAX {
            self.counts(tenant, subscription, minute).add(&one);
        }
        if let Some(attempt) = outcome.attempt.filter(|attempt| attempt.class.kind() == Kind::Failure)
            && self.causes.len() < SUMS_MAX
        {
            let key = (tenant.to_owned(), subscription, floor(at, CAUSE_SPAN), attempt.class.as_str());
            let (delivery_id, status_code) = (outcome.delivery_id, attempt.status_code);
            self.add_cause(key, Cause { count: 1, first_at: at, last_at: at, delivery_id, status_code });
        }
    }

    fn counts(&mut self, tenant: &str, subscription: Uuid, minute: DateTime<Utc>) -> &mut Counts {
        if !self.outcomes.contains_key(tenant) {
            self.outcomes.insert(tenant.to_owned(), BTreeMap::new());
        }
        let of_tenant = self.outcomes.get_mut(tenant).expect("it has just been inserted");
        of_tenant.entry((subscription, minute)).or_insert_with(|| {
            self.size += 1;
            Counts::default()
        })
    }

    fn add_cause(&mut self, key: (String, Uuid, DateTime<Utc>, &'static str), cause: Cause) {
        let known = self.causes.entry(key).or_insert(Cause { count: 0, ..cause });
        known.count = known.count.saturating_add(cause.count);
        known.first_at = known.first_at.min(cause.first_at);
        if cause.last_at >= known.last_at {
            *known = Cause { count: known.count, first_at: known.first_at, ..cause };
        }
    }

    pub(crate) fn accept(&mut self, id: Uuid, tenant_id: &str, event_type: &str, bytes: u64) {
        let at = DateTime::from_timestamp_millis(time_of(id)).unwrap_or_default();
        let minute = floor(at, TimeDelta::minutes(1));
        for tenant in [ALL_TENANTS, tenant_id] {
            let own_sum = if self.is_known(tenant, event_type, at) { event_type } else { OTHER_TYPES };
            for of_type in [ALL_TYPES, own_sum] {
                let sum = self.accepted.entry((tenant.to_owned(), of_type.to_owned(), minute)).or_default();
                sum.events = sum.events.saturating_add(1);
                sum.bytes = sum.bytes.saturating_add_unsigned(bytes);
            }
        }
    }

    /// Whether the type has sums of its own. Types that are new get them as long as there is room.
    fn is_known(&mut self, tenant_id: &str, event_type: &str, now: DateTime<Utc>) -> bool {
        if self.types.len() >= SUMS_MAX && !self.types.contains_key(tenant_id) {
            self.types.clear();
        }
        if !self.types.contains_key(tenant_id) {
            self.types.insert(tenant_id.to_owned(), KnownTypes { since: now, names: HashSet::new() });
        }
        let known = self.types.get_mut(tenant_id).expect("it has just been inserted");
        if now - known.since > TYPES_FORGOTTEN_AFTER {
            *known = KnownTypes { since: now, names: HashSet::new() };
        }
        known.names.contains(event_type)
            || (known.names.len() < TYPES_PER_TENANT_MAX && known.names.insert(event_type.to_owned()))
    }

    /// Raises the number of a class, unless it is as large already.
    pub(crate) fn at_least(
        &mut self,
        tenant: &str,
        subscription: Uuid,
        minute: DateTime<Utc>,
        class: Class,
        count: i32,
    ) {
        if count > 0 {
            let outcomes = &mut self.counts(tenant, subscription, minute).outcomes;
            outcomes[class.place()] = outcomes[class.place()].max(count);
        }
    }

    /// Takes all sums out. What is known of event types stays.
    fn take(&mut self) -> Self {
        let types = std::mem::take(&mut self.types);
        let taken = std::mem::take(self);
        self.types = types;
        Self { types: HashMap::new(), ..taken }
    }

    /// Adds the sums of another part.
    fn merge(&mut self, other: Self) {
        for (tenant, of_tenant) in other.outcomes {
            for ((subscription, minute), counts) in of_tenant {
                self.counts(&tenant, subscription, minute).merge(&counts);
            }
        }
        for (key, accepted) in other.accepted {
            let sum = self.accepted.entry(key).or_default();
            sum.events = sum.events.saturating_add(accepted.events);
            sum.bytes = sum.bytes.saturating_add(accepted.bytes);
        }
        for (key, cause) in other.causes {
            self.add_cause(key, cause);
        }
    }
}

/// The beginning of the span in which a moment lies.
pub(crate) fn floor(moment: DateTime<Utc>, span: TimeDelta) -> DateTime<Utc> {
    moment.duration_trunc(span).unwrap_or(moment)
}

#[cfg(test)]
mod tests;
