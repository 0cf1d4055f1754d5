//! Filters: the conditions that a subscription puts on an event besides its type. Metadata must be equal, key by key.
//! The payload is checked with operators over JSON paths. A filter is parsed once, when it is set.
//!
//! A condition is an object. A key names a member of the payload: `total`, `order.total`, `items.0.sku`, or as a JSON
//! pointer (RFC 6901) `/order/total`. Its value is what the member must equal, or an object: of operators (`$eq $ne $gt
//! $gte $lt $lte $in $nin $exists $startsWith $endsWith`), of further members, or of both. `$and`, `$or` (arrays of
//! conditions) and `$not` (one condition) may stand anywhere. All entries of an object must hold. An array satisfies a
//! condition if one of its first [`VALUES_MAX`] items does. `$ne`, `$nin` and `$not` hold where their opposite does
//! not, so also where the member is absent.
//!
//! Nothing is rounded: numbers are compared as decimals, by their value.

mod parser;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::event::{
    filter::parser::parse,
    json::{Json, Text},
    metadata::Metadata,
};

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

    /// The filters as they are stored and audited, `{"metadata": {…}, "payload": {…}}`; `None` where there are no
    /// conditions. Numbers have all the digits that their owner wrote.
    #[must_use]
    pub fn to_value(&self) -> Option<Value> {
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
    /// When the text is not that of a [`Self::to_value`].
    pub fn from_json(json: &str) -> Result<Self, String> {
        let json: Value = serde_json::from_str(json).map_err(|error| error.to_string())?;
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
    Equal(Json),
    NotEqual(Json),
    Compare(Comparison, Json),
    In(Vec<Json>),
    NotIn(Vec<Json>),
    Exists(bool),
    StartsWith(Text),
    EndsWith(Text),
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
    pub fn matches(&self, payload: &Json) -> bool {
        self.condition.holds(payload)
    }

    /// Each condition, and whether it holds. All conditions below one `$or` or `$not` are reported as one.
    #[must_use]
    pub fn explain(&self, payload: &Json) -> Vec<Check> {
        let mut checks = Vec::new();
        self.condition.explain(payload, &mut checks);
        checks
    }
}

impl Condition {
    fn holds(&self, payload: &Json) -> bool {
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

    fn explain(&self, payload: &Json, checks: &mut Vec<Check>) {
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
                let value: String = value.chars().take(SHOWN_CHARACTERS_MAX).collect();
                checks.push(Check { rule: format!("{path} {operator} {value}"), holds, found });
            }
        }
    }
}

/// Collects all values at a path: one, none, or several where the path goes through an array.
fn select<'v>(value: &'v Json, path: &[String], found: &mut Vec<&'v Json>) {
    if found.len() >= VALUES_MAX {
        return;
    }
    let Some((segment, rest)) = path.split_first() else {
        found.push(value);
        return;
    };
    match value {
        Json::Object(_) => {
            if let Some(member) = value.get(segment) {
                select(member, rest, found);
            }
        }
        Json::Array(items) => {
            if let Ok(index) = segment.parse::<usize>() {
                items.get(index).into_iter().for_each(|item| select(item, rest, found));
            } else {
                let objects = items.iter().take(VALUES_MAX).filter(|item| matches!(item, Json::Object(_)));
                objects.for_each(|item| select(item, path, found));
            }
        }
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::Text(_) => {}
    }
}

impl Test {
    fn holds(&self, found: &[&Json]) -> bool {
        let any = |test: &dyn Fn(&Json) -> bool| {
            let items = found.iter().filter_map(|value| match value {
                Json::Array(items) => Some(items),
                Json::Null | Json::Bool(_) | Json::Number(_) | Json::Text(_) | Json::Object(_) => None,
            });
            found.iter().any(|value| test(value)) || items.flatten().take(VALUES_MAX).any(test)
        };
        let any_text = |test: &dyn Fn(&[u8]) -> bool| any(&|value| text_of(value).is_some_and(test));
        match self {
            Self::Equal(wanted) => any(&|value| value == wanted),
            Self::NotEqual(wanted) => !any(&|value| value == wanted),
            Self::In(wanted) => any(&|value| wanted.contains(value)),
            Self::NotIn(wanted) => !any(&|value| wanted.contains(value)),
            Self::Exists(wanted) => found.is_empty() != *wanted,
            Self::StartsWith(start) => any_text(&|text| text.starts_with(start.as_bytes())),
            Self::EndsWith(end) => any_text(&|text| text.ends_with(end.as_bytes())),
            Self::Compare(comparison, wanted) => any(&|value| {
                value.compare(wanted).is_some_and(|order| match comparison {
                    Comparison::Greater => order.is_gt(),
                    Comparison::GreaterOrEqual => order.is_ge(),
                    Comparison::Less => order.is_lt(),
                    Comparison::LessOrEqual => order.is_le(),
                })
            }),
        }
    }

    /// The operator and its value.
    fn words(&self) -> (&'static str, String) {
        match self {
            Self::Equal(value) => ("$eq", value.to_string()),
            Self::NotEqual(value) => ("$ne", value.to_string()),
            Self::Compare(Comparison::Greater, value) => ("$gt", value.to_string()),
            Self::Compare(Comparison::GreaterOrEqual, value) => ("$gte", value.to_string()),
            Self::Compare(Comparison::Less, value) => ("$lt", value.to_string()),
            Self::Compare(Comparison::LessOrEqual, value) => ("$lte", value.to_string()),
            Self::In(values) => ("$in", Json::Array(values.clone()).to_string()),
            Self::NotIn(values) => ("$nin", Json::Array(values.clone()).to_string()),
            Self::Exists(wanted) => ("$exists", wanted.to_string()),
            Self::StartsWith(text) => ("$startsWith", text.to_string()),
            Self::EndsWith(text) => ("$endsWith", text.to_string()),
        }
    }
}

/// The bytes of a string; `None` for any other value.
fn text_of(value: &Json) -> Option<&[u8]> {
    match value {
        Json::Text(text) => Some(text.as_bytes()),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::Array(_) | Json::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parsed(filter: &str) -> PayloadFilter {
        let source = serde_json::from_str(filter).unwrap_or_else(|why| panic!("{filter}: {why}"));
        PayloadFilter::parse(&source).unwrap_or_else(|why| panic!("{filter}: {why}"))
    }

    fn read(payload: &str) -> Json {
        Json::read(payload.as_bytes()).unwrap_or_else(|why| panic!("{payload}: {why}"))
    }

    #[test]
    fn nothing_is_rounded() {
        let cases = [
            (r#"{"id": 18446744073709551617}"#, r#"{"id": 18446744073709551616}"#, false),
            (r#"{"id": 18446744073709551617}"#, r#"{"id": 18446744073709551617.0}"#, true),
            (r#"{"id": {"$ne": 340282366920938463463374607431768211456}}"#, r#"{"id": 3.4028236692093846e38}"#, true),
            (r#"{"x": 0.1}"#, r#"{"x": 0.1000000000000000055511151231257827}"#, false),
            (r#"{"x": {"$lt": 0.1000000000000000055511151231257827}}"#, r#"{"x": 0.1}"#, true),
            (r#"{"x": {"$gt": 1e400}}"#, r#"{"x": 1.1e400}"#, true),
            (r#"{"x": {"$in": [1, 1e400]}}"#, r#"{"x": 10e399}"#, true),
            (r#"{"x": {"$eq": {"a": [1.0, 2e0]}}}"#, r#"{"x": {"a": [1, 2]}}"#, true),
        ];
        for (filter, payload, wanted) in cases {
            assert_eq!(parsed(filter).matches(&read(payload)), wanted, "{filter} {payload}");
        }
        let filters =
            Filters { payload: Some(parsed(r#"{"a": 12345678901234567890123, "b": 0.10}"#)), ..Filters::default() };
        let stored = filters.to_value().expect("there is one").to_string();
        assert_eq!(stored, r#"{"payload":{"a":12345678901234567890123,"b":0.10}}"#);
        assert_eq!(Filters::from_json(&stored), Ok(filters));
    }

    #[test]
    fn every_json_text_is_judged() {
        let deep = format!("{{\"kind\":\"order\",\"deep\":{}{}}}", "[".repeat(200), "]".repeat(200));
        for payload in [
            r#"{"kind":"order","note":"hi \ud83d"}"#,
            r#"{"kind":"order","\udead":1}"#,
            r#"{"kind":"order","x":1e400}"#,
            "\u{feff}{\"kind\":\"order\"}",
            &deep,
        ] {
            assert!(parsed(r#"{"kind":"order"}"#).matches(&read(payload)), "{payload}");
            assert!(!parsed(r#"{"kind":{"$ne":"order"}}"#).matches(&read(payload)), "{payload}");
        }
        let cut = read(r#"{"note":"hi \ud83d"}"#);
        assert!(parsed(r#"{"note":{"$startsWith":"hi "}}"#).matches(&cut));
        assert!(!parsed("{\"note\":\"hi \u{fffd}\"}").matches(&cut), "what cannot be written is not guessed");
    }

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
            assert_eq!(parsed(&filter.to_string()).matches(&read(&payload.to_string())), wanted, "{filter}");
        }
        for payload in ["null", "1", "\"a\"", "[1]", "[]"] {
            assert!(!parsed(r#"{"a": 1}"#).matches(&read(payload)), "{payload}");
        }
    }

    #[test]
    fn explained() {
        let filter = parsed(r#"{"order": {"total": {"$gte": 100}}, "$or": [{"a": 1}]}"#);
        let checks = filter.explain(&read(r#"{"order": {"total": 5}}"#));
        let expected = [("payload $or", false, None), ("payload.order.total $gte 100", false, Some("5"))];
        let told: Vec<_> =
            checks.iter().map(|check| (check.rule.as_str(), check.holds, check.found.as_deref())).collect();
        assert_eq!(told, expected);
    }
}
