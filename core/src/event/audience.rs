//! Which subscriptions want an event: the rule, the index over a tenant's subscriptions that makes it fast, and the
//! explanation for one subscription. It loads nothing from the database.

use std::{collections::HashMap, sync::OnceLock};

use crate::{
    event::{
        content_encoding::ContentEncoding,
        event_type::{EventType, EventTypePatterns},
        filter::{Check, Filters},
        json::{Json, Unreadable},
        metadata::Metadata,
    },
    id::SubscriptionId,
};

/// Payload filters that may be evaluated on a thread before other work on it would suffer.
const PAYLOAD_FILTERS_FAST_MAX: usize = 16;

/// The parts of an event that filters check. The payload is parsed only when a filter asks for it.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The type that patterns are compared with.
    pub event_type: &'a EventType,
    /// The metadata that filters are compared with.
    pub metadata: &'a Metadata,
    payload: &'a [u8],
    content_encoding: Option<&'a ContentEncoding>,
    read: OnceLock<Result<Json, Unreadable>>,
}

impl<'a> Facts<'a> {
    /// Facts of an event; the payload is neither unpacked nor read yet.
    #[must_use]
    pub fn new(
        event_type: &'a EventType,
        metadata: &'a Metadata,
        payload: &'a [u8],
        content_encoding: Option<&'a ContentEncoding>,
    ) -> Self {
        Self { event_type, metadata, payload, content_encoding, read: OnceLock::new() }
    }

    /// The payload as JSON, or why it cannot be read.
    fn json(&self) -> Result<&Json, &Unreadable> {
        let read = || match self.content_encoding {
            Some(encoding) => Json::read(&encoding.unpack(self.payload)?),
            None => Json::read(self.payload),
        };
        self.read.get_or_init(read).as_ref()
    }
}

/// The decision of a subscription's patterns and filters about an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// The subscription wants the event.
    Passed,
    /// The subscription does not want the event.
    Filtered,
    /// Everything holds but the filter of the payload, which cannot read the payload. The event is not delivered.
    Unreadable(Unreadable),
}

/// How often filters decided in which way. Subscriptions without filters are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilterVerdicts {
    /// Filters that let the event pass.
    pub passed: u64,
    /// Filters that did not.
    pub filtered: u64,
    /// Filters that could not read the payload.
    pub unreadable: u64,
}

impl FilterVerdicts {
    /// Notes a judgement of these filters about an event whose type the subscription wants.
    pub fn note(&mut self, filters: &Filters, judgement: &Judgement) {
        if !filters.is_empty() {
            *match judgement {
                Judgement::Passed => &mut self.passed,
                Judgement::Filtered => &mut self.filtered,
                Judgement::Unreadable(_) => &mut self.unreadable,
            } += 1;
        }
    }

    /// Adds the verdicts to the metrics.
    pub fn count(self) {
        let verdicts = [("passed", self.passed), ("filtered", self.filtered), ("unreadable", self.unreadable)];
        for (verdict, count) in verdicts.into_iter().filter(|(_, count)| *count > 0) {
            metrics::counter!("postrider_filter_verdicts_total", "verdict" => verdict).increment(count);
        }
    }
}

/// The events that one subscription wants.
#[derive(Clone, Debug)]
pub struct Interest {
    /// The subscription that wants them.
    pub id: SubscriptionId,
    /// Patterns of the event types; an empty list means every type.
    pub event_types: EventTypePatterns,
    /// Conditions on metadata and payload.
    pub filters: Filters,
}

/// Whether a subscription with these patterns and filters wants the event.
#[must_use]
pub fn wants(event_types: &EventTypePatterns, filters: &Filters, facts: &Facts<'_>) -> bool {
    event_types.match_any(facts.event_type) && judge(filters, facts) == Judgement::Passed
}

/// Decides about an event whose type the subscription wants.
#[must_use]
pub fn judge(filters: &Filters, facts: &Facts<'_>) -> Judgement {
    if filters.metadata.iter().any(|(key, value)| facts.metadata.get(key) != Some(value)) {
        return Judgement::Filtered;
    }
    match filters.payload.as_ref().map(|filter| facts.json().map(|payload| filter.matches(payload))) {
        None | Some(Ok(true)) => Judgement::Passed,
        Some(Ok(false)) => Judgement::Filtered,
        Some(Err(why)) => Judgement::Unreadable(why.clone()),
    }
}

/// Every condition that a subscription puts on an event, and whether it holds.
#[must_use]
pub fn explain(event_types: &EventTypePatterns, filters: &Filters, facts: &Facts<'_>) -> Vec<Check> {
    let patterns = event_types.to_texts();
    let mut checks = vec![Check {
        rule: if patterns.is_empty() {
            "event_type is anything".to_owned()
        } else {
            format!("event_type is one of {}", patterns.join(", "))
        },
        holds: event_types.match_any(facts.event_type),
        found: Some(facts.event_type.as_str().to_owned()),
    }];
    checks.extend(filters.metadata.iter().map(|(key, value)| Check {
        rule: format!("metadata.{key} is {value}"),
        holds: facts.metadata.get(key) == Some(value),
        found: facts.metadata.get(key).cloned(),
    }));
    match (&filters.payload, facts.json()) {
        (None, _) => {}
        (Some(filter), Ok(payload)) => checks.extend(filter.explain(payload)),
        (Some(_), Err(why)) => {
            let rule = "payload is JSON that filters can read".to_owned();
            checks.push(Check { rule, holds: false, found: Some(why.to_string()) });
        }
    }
    checks
}

/// A tenant's subscriptions, indexed by the event types that they want.
#[derive(Debug, Default)]
pub struct Audience {
    interests: Vec<Interest>,
    /// For each type, the places of the interests that name it exactly.
    exactly: HashMap<EventType, Vec<usize>>,
    /// How many interests have a filter on the payload.
    payload_filters: usize,
    /// Places of the interests that have a pattern for more than one type, or no pattern at all.
    widely: Vec<usize>,
    is_ordered: bool,
}

impl Audience {
    /// Builds the index over these interests.
    #[must_use]
    pub fn new(interests: Vec<Interest>) -> Self {
        let mut audience = Self::default();
        for (place, interest) in interests.iter().enumerate() {
            let Some(exact_types) = interest.event_types.exact() else {
                audience.widely.push(place);
                continue;
            };
            for exact in exact_types {
                let places = audience.exactly.entry(exact.clone()).or_default();
                if places.last() != Some(&place) {
                    places.push(place);
                }
            }
        }
        audience.payload_filters = interests.iter().filter(|interest| interest.filters.payload.is_some()).count();
        audience.interests = interests;
        audience
    }

    /// The same subscriptions, at least one of which is delivered to in order.
    #[must_use]
    pub fn in_order(self) -> Self {
        Self { is_ordered: true, ..self }
    }

    /// Whether a subscription wants its events in order, so that the order in which they are stored counts.
    #[must_use]
    pub fn is_ordered(&self) -> bool {
        self.is_ordered
    }

    /// How many subscriptions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.interests.len()
    }

    /// Whether matching an event may take so long that other work on the same thread would feel it.
    #[must_use]
    pub fn is_slow(&self) -> bool {
        self.payload_filters > PAYLOAD_FILTERS_FAST_MAX
    }

    /// Whether there are no subscriptions.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.interests.is_empty()
    }

    /// The subscriptions that want the type of an event with these facts, each with the decision of its filters.
    pub fn judged<'s>(&'s self, facts: &'s Facts<'_>) -> impl Iterator<Item = (&'s Interest, Judgement)> + 's {
        let exactly = self.exactly.get(facts.event_type).into_iter().flatten().map(|place| &self.interests[*place]);
        let widely = self.widely.iter().map(|place| &self.interests[*place]);
        let widely = widely.filter(|interest| interest.event_types.match_any(facts.event_type));
        exactly.chain(widely).map(|interest| (interest, judge(&interest.filters, facts)))
    }

    /// The subscriptions that want an event with these facts.
    pub fn wanting<'s>(&'s self, facts: &'s Facts<'_>) -> impl Iterator<Item = SubscriptionId> + 's {
        let passed = self.judged(facts).filter(|(_, judgement)| *judgement == Judgement::Passed);
        passed.map(|(interest, _)| interest.id)
    }

    /// The first subscriptions that want an event with these facts, at most `wanting_max`, and how often filters
    /// decided in which way.
    #[must_use]
    pub fn judge(&self, facts: &Facts<'_>, wanting_max: usize) -> (Vec<SubscriptionId>, FilterVerdicts) {
        let (mut wanting, mut verdicts) = (Vec::new(), FilterVerdicts::default());
        for (interest, judgement) in self.judged(facts) {
            verdicts.note(&interest.filters, &judgement);
            if judgement == Judgement::Passed {
                wanting.push(interest.id);
                if wanting.len() == wanting_max {
                    break;
                }
            }
        }
        (wanting, verdicts)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;
    use crate::event::filter::PayloadFilter;

    fn notes(entries: &[(&str, &str)]) -> Metadata {
        let entries = entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Metadata::parse(entries.collect()).expect("valid")
    }

    fn interest(number: u128, event_types: &[&str], metadata: &[(&str, &str)], payload: Option<Value>) -> Interest {
        Interest {
            id: SubscriptionId(Uuid::from_u128(number)),
            event_types: EventTypePatterns::from_stored(
                &event_types.iter().map(ToString::to_string).collect::<Vec<_>>(),
            )
            .expect("patterns"),
            filters: Filters {
                metadata: notes(metadata),
                payload: payload.map(|filter| PayloadFilter::parse(&filter).expect("a filter")),
            },
        }
    }

    #[test]
    fn the_index_finds_exactly_those_that_want_it() {
        let interests = vec![
            interest(1, &["order.created"], &[], None),
            interest(2, &["order.created", "order.created"], &[], None),
            interest(3, &["order.paid"], &[], None),
            interest(4, &["order.*"], &[], None),
            interest(5, &["order.paid", "*"], &[], None),
            interest(6, &[], &[("region", "eu")], None),
            interest(7, &[], &[("region", "us")], None),
            interest(8, &["order.created"], &[], Some(json!({"total": {"$gt": 5}}))),
            interest(9, &["order.created"], &[], Some(json!({"total": {"$gt": 50}}))),
        ];
        let audience = Audience::new(interests.clone());
        let event_type = "order.created".parse().expect("a type");
        let metadata = notes(&[("region", "eu")]);
        let facts = Facts::new(&event_type, &metadata, b"{\"total\": 10}", None);
        let mut found: Vec<_> = audience.wanting(&facts).map(|id| id.0.as_u128()).collect();
        found.sort_unstable();
        assert_eq!(found, [1, 2, 4, 5, 6, 8]);
        let (wanting, verdicts) = audience.judge(&facts, usize::MAX);
        assert_eq!(wanting, audience.wanting(&facts).collect::<Vec<_>>());
        assert_eq!(verdicts, FilterVerdicts { passed: 2, filtered: 2, unreadable: 0 });
        assert_eq!(audience.judge(&facts, 2).0, wanting[..2]);
        for interest in &interests {
            let holds = explain(&interest.event_types, &interest.filters, &facts).iter().all(|check| check.holds);
            assert_eq!(holds, found.contains(&interest.id.0.as_u128()), "{interest:?}");
        }
        let not_json = Facts::new(&event_type, &metadata, b"plain", None);
        let (wanting, verdicts) = audience.judge(&not_json, usize::MAX);
        assert!(wanting.iter().all(|id| ![8, 9].contains(&id.0.as_u128())));
        assert_eq!(verdicts, FilterVerdicts { passed: 1, filtered: 1, unreadable: 2 });
    }
}
