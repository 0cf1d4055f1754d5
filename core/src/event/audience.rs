//! Which subscriptions want an event: the rule, the index over a tenant's subscriptions that makes it fast, and the
//! explanation for one subscription. It loads nothing from the database.

use std::{collections::HashMap, sync::OnceLock};

use serde_json::Value;

use crate::{
    event::{
        event_type::{EventType, EventTypePatterns},
        filter::{Check, Filters},
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
    parsed: OnceLock<Option<Value>>,
}

impl<'a> Facts<'a> {
    /// Facts of an event; the payload is not parsed yet.
    #[must_use]
    pub fn new(event_type: &'a EventType, metadata: &'a Metadata, payload: &'a [u8]) -> Self {
        Self { event_type, metadata, payload, parsed: OnceLock::new() }
    }

    /// The payload as JSON; `None` where it is not JSON.
    fn json(&self) -> Option<&Value> {
        self.parsed.get_or_init(|| serde_json::from_slice(self.payload).ok()).as_ref()
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
    event_types.match_any(facts.event_type) && passes(filters, facts)
}

fn passes(filters: &Filters, facts: &Facts<'_>) -> bool {
    filters.metadata.iter().all(|(key, value)| facts.metadata.get(key) == Some(value))
        && filters.payload.as_ref().is_none_or(|filter| facts.json().is_some_and(|payload| filter.matches(payload)))
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
        (Some(filter), Some(payload)) => checks.extend(filter.explain(payload)),
        (Some(_), None) => checks.push(Check { rule: "payload is JSON".to_owned(), holds: false, found: None }),
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

    /// The subscriptions that want an event with these facts.
    pub fn wanting<'s>(&'s self, facts: &'s Facts<'_>) -> impl Iterator<Item = SubscriptionId> + 's {
        let exactly = self.exactly.get(facts.event_type).into_iter().flatten().map(|place| &self.interests[*place]);
        let widely = self.widely.iter().map(|place| &self.interests[*place]);
        let exactly = exactly.filter(|interest| passes(&interest.filters, facts));
        let widely = widely.filter(|interest| wants(&interest.event_types, &interest.filters, facts));
        exactly.chain(widely).map(|interest| interest.id)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
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
        let facts = Facts::new(&event_type, &metadata, b"{\"total\": 10}");
        let mut found: Vec<_> = audience.wanting(&facts).map(|id| id.0.as_u128()).collect();
        found.sort_unstable();
        assert_eq!(found, [1, 2, 4, 5, 6, 8]);
        for interest in &interests {
            let holds = explain(&interest.event_types, &interest.filters, &facts).iter().all(|check| check.holds);
            assert_eq!(holds, found.contains(&interest.id.0.as_u128()), "{interest:?}");
        }
        let not_json = Facts::new(&event_type, &metadata, b"plain");
        assert!(audience.wanting(&not_json).all(|id| id.0.as_u128() != 8));
    }
}
