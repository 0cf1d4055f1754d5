//! What happened within one second in one scope: counts of everything, and some of the rows, failures before others.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use rand::RngExt;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    id::{DeliveryId, EventId, SubscriptionId},
    live::Topic,
    tally::buckets::{DURATION_BUCKETS, percentile, place},
};

/// Rows that are kept of a second, at most.
pub const ROWS_MAX: usize = 20;
/// Causes that are counted apart, at most; a process knows no more.
const CAUSES_MAX: usize = 40;

/// Something that has just happened to a delivery.
#[derive(Clone, Debug)]
pub struct Sighting<'a> {
    /// What happened.
    pub topic: Topic,
    /// The delivery.
    pub delivery_id: Uuid,
    /// Its event.
    pub event_id: Uuid,
    /// Its subscription; `None` for an inline delivery.
    pub subscription_id: Option<Uuid>,
    /// The tenant that owns it.
    pub tenant_id: &'a str,
    /// The type of its event.
    pub event_type: &'a str,
    /// The number of the attempt; `None` where none has begun.
    pub attempt: Option<i32>,
    /// The status that the receiver answered.
    pub status_code: Option<u16>,
    /// Why the attempt failed.
    pub error_kind: Option<&'static str>,
    /// How long the attempt took.
    pub duration: Option<Duration>,
}

/// A row of the feed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The word of the [`Topic`].
    pub topic: String,
    /// When it happened, by the clock of the process that did it.
    pub at: DateTime<Utc>,
    /// The delivery's public id.
    pub delivery_id: String,
    /// The event's public id.
    pub event_id: String,
    /// The subscription's public id; absent for an inline delivery.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscription_id: Option<String>,
    /// The tenant that owns the delivery.
    pub tenant_id: String,
    /// The type of the event.
    pub event_type: String,
    /// The number of the attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<i32>,
    /// The status that the receiver answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_code: Option<u16>,
    /// Why the attempt failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_kind: Option<String>,
    /// How long the attempt took, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u32>,
}

impl Row {
    #[expect(clippy::disallowed_methods, reason = "a viewer is told the time of the process that saw it")]
    fn of(seen: &Sighting<'_>) -> Self {
        Self {
            topic: seen.topic.as_str().to_owned(),
            at: Utc::now(),
            delivery_id: DeliveryId(seen.delivery_id).to_string(),
            event_id: EventId(seen.event_id).to_string(),
            subscription_id: seen.subscription_id.map(|id| SubscriptionId(id).to_string()),
            tenant_id: seen.tenant_id.to_owned(),
            event_type: seen.event_type.to_owned(),
            attempt: seen.attempt,
            status_code: seen.status_code,
            error_kind: seen.error_kind.map(str::to_owned),
            duration_ms: seen.duration.map(millis),
        }
    }
}

/// Counts and rows of one second.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// How often each [`Topic`] was seen, in their order.
    pub counts: [u64; Topic::ALL.len()],
    /// Failed attempts by the kind of their error.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub causes: BTreeMap<String, u64>,
    /// Attempts by their duration, see [`DURATION_BUCKETS`].
    pub durations: [u64; DURATION_BUCKETS.len() + 1],
    /// Some of the rows, in the order in which they came.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rows: Vec<Row>,
}

impl Sample {
    /// Counts something that happened, and keeps its row where it is of interest.
    pub fn add(&mut self, seen: &Sighting<'_>) {
        self.counts[seen.topic.index()] += 1;
        if let Some(kind) = seen.error_kind
            && (self.causes.len() < CAUSES_MAX || self.causes.contains_key(kind))
        {
            *self.causes.entry(kind.to_owned()).or_default() += 1;
        }
        if let Some(duration) = seen.duration {
            self.durations[place(&DURATION_BUCKETS, millis(duration).into())] += 1;
        }
        if self.rows.len() < ROWS_MAX {
            self.rows.push(Row::of(seen));
        } else if let Some(place) = self.place_for(seen.topic) {
            self.rows.remove(place);
            self.rows.push(Row::of(seen));
        }
    }

    /// The row that gives way to a row of this topic: the first one of less interest, or by chance one of the same
    /// topic, so that each row of a topic is shown equally often.
    fn place_for(&self, topic: Topic) -> Option<usize> {
        let less = self.rows.iter().position(|row| interest(&row.topic) < interest(topic.as_str()));
        less.or_else(|| {
            let seen = usize::try_from(self.counts[topic.index()]).unwrap_or(usize::MAX);
            let drawn = rand::rng().random_range(0..seen.max(1));
            self.rows
                .iter()
                .enumerate()
                .filter(|(_, row)| row.topic == topic.as_str())
                .nth(drawn)
                .map(|(place, _)| place)
        })
    }

    /// Adds what another process has seen in the same second.
    pub fn merge(&mut self, other: Self) {
        for (own, more) in self.counts.iter_mut().zip(other.counts) {
            *own += more;
        }
        for (own, more) in self.durations.iter_mut().zip(other.durations) {
            *own += more;
        }
        for (cause, more) in other.causes {
            if self.causes.len() < CAUSES_MAX || self.causes.contains_key(&cause) {
                *self.causes.entry(cause).or_default() += more;
            }
        }
        self.rows.extend(other.rows);
    }

    /// Whether nothing happened.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.iter().all(|count| *count == 0)
    }

    /// How many things happened.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The duration that this share of the attempts did not exceed, in milliseconds, estimated from the buckets; `None`
    /// where none ended.
    #[must_use]
    pub fn percentile_ms(&self, share: f64) -> Option<f64> {
        percentile(&DURATION_BUCKETS, &self.durations, share)
    }
}

/// What people want to see first has the greatest number.
fn interest(topic: &str) -> u8 {
    match topic.parse() {
        Ok(Topic::DeadLetter) => 4,
        Ok(Topic::Failed) => 3,
        Ok(Topic::Succeeded) => 2,
        Ok(Topic::Started) => 1,
        Ok(Topic::Queued) | Err(_) => 0,
    }
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(topic: Topic) -> Sighting<'static> {
        Sighting {
            topic,
            delivery_id: Uuid::now_v7(),
            event_id: Uuid::now_v7(),
            subscription_id: None,
            tenant_id: "default",
            event_type: "a.b",
            attempt: Some(1),
            status_code: None,
            error_kind: (topic == Topic::Failed).then_some("timeout"),
            duration: Some(Duration::from_millis(40)),
        }
    }

    #[test]
    fn everything_is_counted_and_failures_are_kept_before_others() {
        let mut sample = Sample::default();
        for _ in 0..100 {
            sample.add(&seen(Topic::Succeeded));
            sample.add(&seen(Topic::Queued));
        }
        for _ in 0..3 {
            sample.add(&seen(Topic::Failed));
        }
        for _ in 0..100 {
            sample.add(&seen(Topic::Started));
        }
        assert_eq!(sample.counts, [100, 100, 100, 3, 0]);
        assert_eq!(sample.causes["timeout"], 3);
        assert_eq!(sample.rows.len(), ROWS_MAX);
        assert_eq!(sample.rows.iter().filter(|row| row.topic == "delivery.failed").count(), 3);
        assert!(sample.rows.iter().all(|row| row.topic != "delivery.queued"), "there were enough of more interest");
        let text = serde_json::to_string(&sample).expect("JSON");
        assert_eq!(serde_json::from_str::<Sample>(&text).expect("a sample"), sample);
    }

    #[test]
    fn percentiles_lie_within_their_bucket() {
        let mut sample = Sample::default();
        assert_eq!(sample.percentile_ms(0.5), None);
        for _ in 0..99 {
            sample.add(&seen(Topic::Succeeded));
        }
        assert!((25.0..=50.0).contains(&sample.percentile_ms(0.5).expect("some ended")));
    }

    #[test]
    fn merging_adds() {
        let (mut one, mut other) = (Sample::default(), Sample::default());
        one.add(&seen(Topic::Failed));
        other.add(&seen(Topic::Failed));
        other.add(&seen(Topic::Queued));
        one.merge(other);
        assert_eq!((one.counts[Topic::Failed.index()], one.causes["timeout"], one.rows.len()), (2, 2, 3));
        assert_eq!(one.seen(), 3);
    }
}
