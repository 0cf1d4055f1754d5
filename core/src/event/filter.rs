//! Filters: the conditions that a subscription puts on an event besides its type. Metadata must be equal, key by key.
//! The payload is checked with operators over JSON paths. A filter is parsed once, when it is set.
//!
//! A condition is an object. A key names a member of the payload: `total`, `order.total`, `items.0.sku`, or as a JSON
//! pointer (RFC 6901) `/order/total`. Its value is what the member must equal, or an object: of operators (`$eq $ne $gt
//! $gte $lt $lte $in $nin $exists $startsWith $endsWith`), of further members, or of both. `$and`, `$or` (arrays of
//! conditions) and `$not` (one condition) may stand anywhere. All entries of an object must hold. An array satisfies a
//! condition if one of its first [`VALUES_MAX`] items does. `$ne`, `$nin` and `$not` hold where their opposite does
//! not, so also where the member is absent.

mod parser;

use std::cmp::Ordering;

use serde::Deserialize;
use serde_json::{Map, Number, Value};

use crate::event::{filter::parser::parse, metadata::Metadata};

/// Values of a payload that one condition checks, at most: of a longer array, the first ones.
pub const VALUES_MAX: usize = 1000;
/// Characters of a value that an explanation shows, at most.
const SHOWN_CHARACTERS_MAX: usize = 200;

/// The conditions that a subscription puts on an event besides its type.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filters {
    /// Entries that the event's metadata must contain.
    pub metadata: Metadata,
    /// Conditions on the event's payload; `None` means any payload.
    pub payload: Option<PayloadFilter>,
}

impl Filters {
    /// Whether there are no conditions.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.metadata.is_empty() && self.payload.is_none()
    }

    /// The form in which the filters are stored, `{"metadata": {…}, "payload": {…}}`; `None` where there are no
    /// conditions.
    #[must_use]
    pub fn to_json(&self) -> Option<Value> {
        let mut json = Map::new();
        if !self.metadata.is_empty() {
            let entries = self.metadata.iter().map(|(key, value)| (key.clone(), Value::String(value.clone())));
            json.insert("metadata".to_owned(), Value::Object(entries.collect()));
        }
        if let Some(filter) = &self.payload {
            json.insert("payload".to_owned(), filter.source.clone());
        }
        (!json.is_empty()).then_some(Value::Object(json))
    }

    /// Parses filters that were valid when they were stored.
    ///
    /// # Errors
    /// When the value is not what [`Self::to_json`] makes.
    pub fn from_json(json: &Value) -> Result<Self, String> {
        let metadata = json.get("metadata").map_or_else(|| Ok(Metadata::default()), Metadata::deserialize);
        let metadata = metadata.map_err(|error| error.to_string())?;
        Ok(Self { metadata, payload: json.get("payload").map(PayloadFilter::parse).transpose()? })
    }
}

/// Conditions on a payload, which must be JSON to fulfill them.
#[derive(Clone, Debug)]
pub struct PayloadFilter {
    source: Value,
    condition: Condition,
}

impl PartialEq for PayloadFilter {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

/// One condition, and whether it holds for an event.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// The condition: path and operator, as in `payload.order.total $gte 100`.
    pub rule: String,
    /// Whether the event fulfills the condition.
    pub holds: bool,
    /// The value that the event has there, shortened; `None` where there is none.
    pub found: Option<String>,
}

#[derive(Clone, Debug)]
pub(crate) enum Condition {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Not(Box<Condition>),
    At(Vec<String>, Test),
}

#[derive(Clone, Debug)]
pub(crate) enum Test {
    Equal(Value),
    NotEqual(Value),
    Compare(Comparison, Value),
    In(Vec<Value>),
    NotIn(Vec<Value>),
    Exists(bool),
    StartsWith(String),
    EndsWith(String),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Comparison {
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

impl PayloadFilter {
    /// Parses a filter.
    ///
    /// # Errors
    /// What is wrong, and at which path.
    pub fn parse(source: &Value) -> Result<Self, String> {
        Ok(Self { source: source.clone(), condition: parse(source)? })
    }

    /// The filter as the subscription's owner wrote it.
    #[must_use]
    pub fn source(&self) -> &Value {
        &self.source
    }

    /// Whether a payload fulfills the filter.
    #[must_use]
    pub fn matches(&self, payload: &Value) -> bool {
        self.condition.holds(payload)
    }

    /// Each condition, and whether it holds. All conditions below one `$or` or `$not` are reported as one.
    #[must_use]
    pub fn explain(&self, payload: &Value) -> Vec<Check> {
        let mut checks = Vec::new();
        self.condition.explain(payload, &mut checks);
        checks
    }
}

impl Condition {
    fn holds(&self, payload: &Value) -> bool {
        match self {
            Self::All(all) => all.iter().all(|condition| condition.holds(payload)),
            Self::Any(any) => any.iter().any(|condition| condition.holds(payload)),
            Self::Not(condition) => !condition.holds(payload),
            Self::At(path, test) => {
                let mut found = Vec::new();
                select(payload, path, &mut found);
                test.holds(&found)
            }
        }
    }

    fn explain(&self, payload: &Value, checks: &mut Vec<Check>) {
        let holds = self.holds(payload);
        match self {
            Self::All(all) => all.iter().for_each(|condition| condition.explain(payload, checks)),
            Self::Any(_) => checks.push(Check { rule: "payload $or".to_owned(), holds, found: None }),
            Self::Not(_) => checks.push(Check { rule: "payload $not".to_owned(), holds, found: None }),
            Self::At(path, test) => {
                let mut found = Vec::new();
                select(payload, path, &mut found);
                let found = found.first().map(|value| value.to_string().chars().take(SHOWN_CHARACTERS_MAX).collect());
                let (operator, value) = test.words();
                let path = path.iter().fold("payload".to_owned(), |path, segment| format!("{path}.{segment}"));
                let value: String = value.to_string().chars().take(SHOWN_CHARACTERS_MAX).collect();
                checks.push(Check { rule: format!("{path} {operator} {value}"), holds, found });
            }
        }
    }
}

/// Collects all values at a path: one, none, or several where the path goes through an array.
fn select<'v>(value: &'v Value, path: &[String], found: &mut Vec<&'v Value>) {
    if found.len() >= VALUES_MAX {
        return;
    }
    let Some((segment, rest)) = path.split_first() else {
        found.push(value);
        return;
    };
    match value {
        Value::Object(members) => {
            if let Some(member) = members.get(segment) {
                select(member, rest, found);
            }
        }
        Value::Array(items) => {
            if let Ok(index) = segment.parse::<usize>() {
                items.get(index).into_iter().for_each(|item| select(item, rest, found));
            } else {
                let objects = items.iter().take(VALUES_MAX).filter(|item| item.is_object());
                objects.for_each(|item| select(item, path, found));
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

impl Test {
    fn holds(&self, found: &[&Value]) -> bool {
        let any = |test: &dyn Fn(&Value) -> bool| {
            let items = found.iter().filter_map(|value| value.as_array()).flatten();
            found.iter().any(|value| test(value)) || items.take(VALUES_MAX).any(test)
        };
        match self {
            Self::Equal(wanted) => any(&|value| same(value, wanted)),
            Self::NotEqual(wanted) => !any(&|value| same(value, wanted)),
            Self::In(wanted) => any(&|value| wanted.iter().any(|one| same(value, one))),
            Self::NotIn(wanted) => !any(&|value| wanted.iter().any(|one| same(value, one))),
            Self::Exists(wanted) => found.is_empty() != *wanted,
            Self::StartsWith(start) => any(&|value| value.as_str().is_some_and(|text| text.starts_with(start))),
            Self::EndsWith(end) => any(&|value| value.as_str().is_some_and(|text| text.ends_with(end))),
            Self::Compare(comparison, wanted) => any(&|value| {
                compare(value, wanted).is_some_and(|order| match comparison {
                    Comparison::Greater => order.is_gt(),
                    Comparison::GreaterOrEqual => order.is_ge(),
                    Comparison::Less => order.is_lt(),
                    Comparison::LessOrEqual => order.is_le(),
                })
            }),
        }
    }

    fn words(&self) -> (&'static str, Value) {
        match self {
            Self::Equal(value) => ("$eq", value.clone()),
            Self::NotEqual(value) => ("$ne", value.clone()),
            Self::Compare(Comparison::Greater, value) => ("$gt", value.clone()),
            Self::Compare(Comparison::GreaterOrEqual, value) => ("$gte", value.clone()),
            Self::Compare(Comparison::Less, value) => ("$lt", value.clone()),
            Self::Compare(Comparison::LessOrEqual, value) => ("$lte", value.clone()),
            Self::In(values) => ("$in", Value::Array(values.clone())),
            Self::NotIn(values) => ("$nin", Value::Array(values.clone())),
            Self::Exists(wanted) => ("$exists", Value::Bool(*wanted)),
            Self::StartsWith(text) => ("$startsWith", Value::String(text.clone())),
            Self::EndsWith(text) => ("$endsWith", Value::String(text.clone())),
        }
    }
}

/// Whether two JSON values are equal; numbers are compared by value, so 1 equals 1.0.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(_), Value::Number(_)) => compare(one, other) == Some(Ordering::Equal),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(name, value)| other.get(name).is_some_and(|other| same(value, other)))
        }
        _ => one == other,
    }
}

/// Orders two numbers, or two strings by code points (so RFC 3339 times in UTC sort); `None` for any other pair.
fn compare(one: &Value, other: &Value) -> Option<Ordering> {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => match (whole(one), whole(other)) {
            (Some(one), Some(other)) => Some(one.cmp(&other)),
            _ => one.as_f64()?.partial_cmp(&other.as_f64()?),
        },
        (Value::String(one), Value::String(other)) => Some(one.cmp(other)),
        _ => None,
    }
}

fn whole(number: &Number) -> Option<i128> {
    number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn conditions() {
        let payload = json!({
            "order": {"total": 120, "currency": "EUR", "note": null, "tags": ["new", "vip"]},
            "items": [{"sku": "a-1", "price": 10.5}, {"sku": "b-2", "price": 99}],
            "a.b": 1, "big": 9_007_199_254_740_993_u64,
        });
        let cases = [
            (json!({"order.total": 120}), true),
            (json!({"order.total": 120.0}), true),
            (json!({"order": {"total": 120, "currency": "EUR"}}), true),
            (json!({"order": {"total": {"$gte": 100, "$lt": 120}}}), false),
            (json!({"order.total": {"$gt": 119.5}}), true),
            (json!({"order.total": {"$lte": "120"}}), false),
            (json!({"order.currency": {"$in": ["USD", "EUR"]}}), true),
            (json!({"order.currency": {"$nin": ["USD", "EUR"]}}), false),
            (json!({"order.currency": {"$ne": "USD"}}), true),
            (json!({"order.missing": {"$ne": "USD"}}), true),
            (json!({"order.missing": {"$eq": null}}), false),
            (json!({"order.note": null}), true),
            (json!({"order.note": {"$exists": true}}), true),
            (json!({"order.missing": {"$exists": false}}), true),
            (json!({"order.currency": {"$startsWith": "E"}}), true),
            (json!({"order.currency": {"$endsWith": "X"}}), false),
            (json!({"order.tags": "vip"}), true),
            (json!({"order.tags": ["new", "vip"]}), true),
            (json!({"order.tags": {"$nin": ["old"]}}), true),
            (json!({"items.sku": "b-2"}), true),
            (json!({"items.1.sku": "b-2"}), true),
            (json!({"items.0.sku": "b-2"}), false),
            (json!({"items.price": {"$gt": 50}}), true),
            (json!({"/a.b": 1}), true),
            (json!({"/items/0/sku": "a-1"}), true),
            (json!({"big": 9_007_199_254_740_992_u64}), false),
            (json!({"$or": [{"order.total": 1}, {"order.currency": "EUR"}]}), true),
            (json!({"$and": [{"order.total": 1}, {"order.currency": "EUR"}]}), false),
            (json!({"$not": {"order.total": 1}}), true),
            (json!({"order.total": {"$not": {"$gt": 100}}}), false),
            (json!({"order": {"$or": [{"total": 1}, {"currency": "EUR"}]}}), true),
        ];
        for (filter, wanted) in cases {
            let parsed = PayloadFilter::parse(&filter).unwrap_or_else(|why| panic!("{filter}: {why}"));
            assert_eq!(parsed.matches(&payload), wanted, "{filter}");
        }
        let anything = PayloadFilter::parse(&json!({"a": 1})).expect("valid");
        for payload in [json!(null), json!(1), json!("a"), json!([1]), json!([])] {
            assert!(!anything.matches(&payload), "{payload}");
        }
    }

    #[test]
    fn explained() {
        let filter = json!({"order": {"total": {"$gte": 100}}, "$or": [{"a": 1}]});
        let checks = PayloadFilter::parse(&filter).expect("valid").explain(&json!({"order": {"total": 5}}));
        let expected = [("payload $or", false, None), ("payload.order.total $gte 100", false, Some("5"))];
        let told: Vec<_> =
            checks.iter().map(|check| (check.rule.as_str(), check.holds, check.found.as_deref())).collect();
        assert_eq!(told, expected);
    }
}
