//! What the payload of an emitter's event is made of: any JSON, in whose strings placeholders stand. The same template
//! is filled in anew for each event.

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

/// Bytes of a template as compact JSON, at most.
pub const TEMPLATE_BYTES_MAX: usize = 16 * 1024;
/// The placeholders, without their braces.
pub const PLACEHOLDERS: [&str; 4] = ["number", "time", "id", "random"];
/// The random numbers are below this one.
const RANDOM_END: u32 = 1000;

/// A valid template.
#[derive(Clone, Debug, PartialEq)]
pub struct Template(Value);

/// What the placeholders of one event stand for.
#[derive(Clone, Copy, Debug)]
pub struct Filling {
    /// The number of the event; 1 is the first that the emitter makes.
    pub number: i64,
    /// When the event is made.
    pub at: DateTime<Utc>,
    /// An id that no other event has.
    pub id: Uuid,
    /// A whole number from 0 to 999.
    pub random: u32,
}

impl Filling {
    /// A filling with a random id and a random number.
    #[must_use]
    pub fn new(number: i64, at: DateTime<Utc>) -> Self {
        let id = uuid::Builder::from_random_bytes(rand::random()).into_uuid();
        Self { number, at, id, random: rand::random::<u32>() % RANDOM_END }
    }
}

impl Default for Template {
    /// The template of an emitter to which nobody gave one.
    fn default() -> Self {
        Self(json!({"number": "{{number}}", "id": "{{id}}", "sent_at": "{{time}}"}))
    }
}

impl Template {
    /// Checks a template: its length, and that each text in double braces is a placeholder.
    ///
    /// # Errors
    /// What is wrong.
    pub fn parse(value: Value) -> Result<Self, String> {
        if value.to_string().len() > TEMPLATE_BYTES_MAX {
            return Err(format!("must be at most {TEMPLATE_BYTES_MAX} bytes long"));
        }
        check(&value)?;
        Ok(Self(value))
    }

    /// Parses a template that was valid when it was stored.
    pub(crate) fn from_stored(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text).map(Self)
    }

    /// The template as JSON, with its placeholders.
    #[must_use]
    pub fn to_text(&self) -> String {
        self.0.to_string()
    }

    /// The template as its owner sent it.
    #[must_use]
    pub fn value(&self) -> &Value {
        &self.0
    }

    /// The payload of one event.
    #[must_use]
    pub fn fill(&self, filling: Filling) -> Bytes {
        filled(&self.0, filling).to_string().into()
    }
}

fn check(value: &Value) -> Result<(), String> {
    match value {
        Value::String(text) => check_text(text),
        Value::Array(items) => items.iter().try_for_each(check),
        Value::Object(entries) => entries.values().try_for_each(check),
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
    }
}

fn check_text(text: &str) -> Result<(), String> {
    let unknown = parts(text).find_map(|part| match part {
        Part::Placeholder(name) if !PLACEHOLDERS.contains(&name) => Some(name),
        Part::Placeholder(_) | Part::Text(_) => None,
    });
    match unknown {
        None => Ok(()),
        Some(name) => {
            let known = PLACEHOLDERS.map(|name| format!("{{{{{name}}}}}")).join(", ");
            Err(format!("`{{{{{}}}}}` is no placeholder; there are {known}", name.escape_debug()))
        }
    }
}

fn filled(value: &Value, filling: Filling) -> Value {
    match value {
        Value::String(text) => match text.as_str() {
            // A number alone stays a number.
            "{{number}}" => filling.number.into(),
            "{{random}}" => filling.random.into(),
            text => parts(text).map(|part| part.filled(filling)).collect::<String>().into(),
        },
        Value::Array(items) => items.iter().map(|item| filled(item, filling)).collect(),
        Value::Object(entries) => {
            Value::Object(entries.iter().map(|(key, value)| (key.clone(), filled(value, filling))).collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

/// A part of a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part<'a> {
    Text(&'a str),
    /// The name between double braces.
    Placeholder(&'a str),
}

impl Part<'_> {
    fn filled(self, filling: Filling) -> String {
        match self {
            Self::Text(text) => text.to_owned(),
            Self::Placeholder("number") => filling.number.to_string(),
            Self::Placeholder("time") => filling.at.to_rfc3339_opts(SecondsFormat::Millis, true),
            Self::Placeholder("id") => filling.id.to_string(),
            Self::Placeholder("random") => filling.random.to_string(),
            Self::Placeholder(unknown) => format!("{{{{{unknown}}}}}"),
        }
    }
}

/// Splits a string at its double braces. Braces that are not closed are text.
fn parts(text: &str) -> impl Iterator<Item = Part<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        if let Some(behind) = rest.strip_prefix("{{")
            && let Some((name, after)) = behind.split_once("}}")
        {
            rest = after;
            return Some(Part::Placeholder(name));
        }
        // The first character is text in any case: where it opens braces, they are not closed.
        let end = rest.char_indices().skip(1).map(|(at, _)| at).find(|at| rest[*at..].starts_with("{{"));
        let (text, after) = rest.split_at(end.unwrap_or(rest.len()));
        rest = after;
        Some(Part::Text(text))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filling() -> Filling {
        let at = DateTime::from_timestamp(1_800_000_000, 0).expect("in range");
        Filling { number: 7, at, id: Uuid::from_u128(1), random: 42 }
    }

    #[test]
    fn placeholders_are_filled_in_wherever_they_stand() {
        for (template, payload) in [
            (json!("{{number}}"), json!(7)),
            (json!("order-{{number}}"), json!("order-7")),
            (json!(["{{random}}", "{{random}}%", "{{number}}{{random}}"]), json!([42, "42%", "742"])),
            (json!({"a": {"at": "{{time}}"}}), json!({"a": {"at": "2027-01-15T08:00:00.000Z"}})),
            (json!("{{id}}"), json!("00000000-0000-0000-0000-000000000001")),
            (json!({"{{number}}": 1.50}), json!({"{{number}}": 1.50})),
            (
                json!([null, true, 3.0, "", "{", "{{", "}}", "a {{"]),
                json!([null, true, 3.0, "", "{", "{{", "}}", "a {{"]),
            ),
            (json!("é{{number}}ü"), json!("é7ü")),
        ] {
            let parsed = Template::parse(template.clone()).expect("valid");
            assert_eq!(serde_json::from_slice::<Value>(&parsed.fill(filling())).expect("JSON"), payload, "{template}");
            assert_eq!(Template::from_stored(&parsed.to_text()).expect("valid"), parsed);
        }
    }

    #[test]
    fn what_is_no_template() {
        for (template, why) in [
            (json!({"a": ["{{date}}"]}), "`{{date}}` is no placeholder"),
            (json!("{{ number }}"), "`{{ number }}` is no placeholder"),
            (json!("{{}}"), "`{{}}` is no placeholder"),
            (json!("x".repeat(TEMPLATE_BYTES_MAX)), "must be at most 16384 bytes long"),
        ] {
            let told = Template::parse(template).expect_err(why);
            assert!(told.starts_with(why), "{told}");
        }
    }

    #[test]
    fn two_fillings_differ() {
        let at = filling().at;
        assert_ne!(Filling::new(1, at).id, Filling::new(1, at).id);
        assert!((0..100).all(|_| Filling::new(1, at).random < RANDOM_END));
    }
}
