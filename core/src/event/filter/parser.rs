//! Parses payload filters, as [`crate::event::filter`] describes them. Every error names the path where it occurred.

use serde_json::{Map, Value};

use crate::event::{
    filter::{Comparison, Condition, Test},
    json::{Json, Text},
};

/// Bytes of a payload filter as JSON text, at most.
pub const FILTER_BYTES_MAX: usize = 16 * 1024;
/// Conditions of a payload filter, at most; each value of `$in` and `$nin` counts as one.
pub const CONDITIONS_MAX: usize = 200;
/// How deeply objects of a payload filter may be nested.
pub const DEPTH_MAX: usize = 16;

/// Parses a filter.
///
/// # Errors
/// What is wrong, and at which path.
pub(crate) fn parse(source: &Value) -> Result<Condition, String> {
    if source.to_string().len() > FILTER_BYTES_MAX {
        return Err(format!("must be at most {FILTER_BYTES_MAX} bytes of JSON"));
    }
    let Value::Object(entries) = source else {
        return Err("must be an object".to_owned());
    };
    Parser { path: Vec::new(), conditions: 0, depth: 0 }.object(entries)
}

struct Parser {
    path: Vec<String>,
    conditions: usize,
    depth: usize,
}

impl Parser {
    fn object(&mut self, entries: &Map<String, Value>) -> Result<Condition, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!("must be at most {DEPTH_MAX} objects deep"));
        }
        if entries.is_empty() {
            return Err(self.wrong("must not be an empty object"));
        }
        let all = entries.iter().map(|(key, value)| self.entry(key, value)).collect::<Result<Vec<_>, _>>()?;
        self.depth -= 1;
        Ok(Condition::All(all))
    }

    fn entry(&mut self, key: &str, value: &Value) -> Result<Condition, String> {
        self.conditions += match (key, value) {
            ("$in" | "$nin", Value::Array(values)) => values.len().max(1),
            _ => 1,
        };
        if self.conditions > CONDITIONS_MAX {
            return Err(format!("must be at most {CONDITIONS_MAX} conditions"));
        }
        match key {
            "$and" => self.list(key, value).map(Condition::All),
            "$or" => self.list(key, value).map(Condition::Any),
            "$not" => match value {
                Value::Object(entries) => Ok(Condition::Not(Box::new(self.object(entries)?))),
                _ => Err(self.wrong("$not must be an object")),
            },
            operator if operator.starts_with('$') => Ok(Condition::At(self.path.clone(), self.test(operator, value)?)),
            member => {
                let outer = self.path.len();
                self.path.extend(segments(member).map_err(|why| self.wrong(&why))?);
                let condition = match value {
                    Value::Object(entries) => self.object(entries)?,
                    value => Condition::At(self.path.clone(), Test::Equal(self.json(value)?)),
                };
                self.path.truncate(outer);
                Ok(condition)
            }
        }
    }

    fn list(&mut self, key: &str, value: &Value) -> Result<Vec<Condition>, String> {
        let Some(items) = value.as_array().filter(|items| !items.is_empty()) else {
            return Err(self.wrong(&format!("{key} must be an array of conditions, and not empty")));
        };
        let one = |item: &Value| match item {
            Value::Object(entries) => self.object(entries),
            _ => Err(self.wrong(&format!("{key} must hold objects"))),
        };
        items.iter().map(one).collect()
    }

    fn test(&self, operator: &str, value: &Value) -> Result<Test, String> {
        let wanted = |what: &str| self.wrong(&format!("{operator} must be {what}"));
        let comparison = |comparison| match value {
            Value::Number(_) | Value::String(_) => Ok(Test::Compare(comparison, self.json(value)?)),
            _ => Err(wanted("a number or a string")),
        };
        let values = || {
            let values = value.as_array().ok_or_else(|| wanted("an array"))?;
            values.iter().map(|value| self.json(value)).collect::<Result<Vec<_>, _>>()
        };
        let text = || value.as_str().map(Text::from).ok_or_else(|| wanted("a string"));
        match operator {
            "$eq" => self.json(value).map(Test::Equal),
            "$ne" => self.json(value).map(Test::NotEqual),
            "$gt" => comparison(Comparison::Greater),
            "$gte" => comparison(Comparison::GreaterOrEqual),
            "$lt" => comparison(Comparison::Less),
            "$lte" => comparison(Comparison::LessOrEqual),
            "$in" => values().map(Test::In),
            "$nin" => values().map(Test::NotIn),
            "$exists" => value.as_bool().map(Test::Exists).ok_or_else(|| wanted("true or false")),
            "$startsWith" => text().map(Test::StartsWith),
            "$endsWith" => text().map(Test::EndsWith),
            _ => Err(self.wrong(&format!("`{}` is not an operator", operator.escape_debug()))),
        }
    }

    /// A value in the form in which it is compared with a payload's.
    fn json(&self, value: &Value) -> Result<Json, String> {
        Json::read(value.to_string().as_bytes()).map_err(|why| self.wrong(&why.to_string()))
    }

    fn wrong(&self, what: &str) -> String {
        if self.path.is_empty() { what.to_owned() } else { format!("{what} (at `{}`)", self.path.join(".")) }
    }
}

/// The segments of a member's name, which is dotted or a JSON pointer.
fn segments(member: &str) -> Result<Vec<String>, String> {
    let segments: Vec<String> = match member.strip_prefix('/') {
        Some(pointer) => pointer.split('/').map(|part| part.replace("~1", "/").replace("~0", "~")).collect(),
        None => member.split('.').map(str::to_owned).collect(),
    };
    if !member.starts_with('/') && segments.iter().any(String::is_empty) {
        return Err(format!("`{}` is not a path", member.escape_debug()));
    }
    Ok(segments)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn refused() {
        let deep = (0..=DEPTH_MAX).fold(json!(1), |inner, _| json!({ "a": inner }));
        let number = |text: &str| {
            serde_json::from_str(&format!("{{\"a\": {{\"b\": {{\"$in\": [1, {text}]}}}}}}")).expect("JSON")
        };
        let many: Map<String, Value> = (0..=CONDITIONS_MAX).map(|n| (n.to_string(), json!(1))).collect();
        let cases = [
            (json!([]), "object"),
            (json!({}), "empty"),
            (json!({"a": {}}), "(at `a`)"),
            (json!({"a": {"$foo": 1}}), "`$foo` is not an operator"),
            (json!({"a": {"$in": 1}}), "array"),
            (json!({"a": {"$gt": true}}), "number or a string"),
            (json!({"a": {"$exists": 1}}), "true or false"),
            (json!({"a": {"$startsWith": 1}}), "string"),
            (json!({"$or": []}), "not empty"),
            (json!({"$or": [1]}), "objects"),
            (json!({"$not": 1}), "object"),
            (json!({"a..b": 1}), "not a path"),
            (json!({"": 1}), "not a path"),
            (json!({"a": "x".repeat(FILTER_BYTES_MAX)}), "bytes"),
            (number("1e1000000000000000000"), "exponent of a number has more than 18 digits (at `a.b`)"),
            (deep, "deep"),
            (Value::Object(many), "conditions"),
            (json!({"a": {"$in": vec![0; CONDITIONS_MAX]}}), "conditions"),
        ];
        for (filter, part) in cases {
            let why = parse(&filter).expect_err("refused");
            assert!(why.contains(part), "{why}");
        }
    }
}
