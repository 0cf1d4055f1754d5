//! Collects every broken rule of an input before it is refused, so that its sender can fix all of them at once.

use std::fmt;

use chrono::{DateTime, Datelike, Utc};

/// Broken rules of one input that are reported, at most.
pub const PROBLEMS_MAX: usize = 100;
/// Characters of a field's path, and of a message, that are reported.
const TEXT_CHARACTERS_MAX: usize = 500;

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The path of the field in the input, such as `retry_policy.delays_seconds[3]`.
    pub field: String,
    /// What is wrong, in words that tell a person what to change.
    pub message: String,
}

/// Every broken rule of one input; inside an error there is at least one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// Exactly one broken rule.
    #[must_use]
    pub fn one(field: &str, message: impl Into<String>) -> Self {
        let mut problems = Self::default();
        problems.add(field, message);
        problems
    }

    /// Adds a broken rule, unless there are [`PROBLEMS_MAX`] already: an answer should not be longer than its question.
    pub fn add(&mut self, field: &str, message: impl Into<String>) {
        if self.0.len() < PROBLEMS_MAX {
            let [field, message] = [field.to_owned(), message.into()].map(|mut text| {
                if let Some((end, _)) = text.char_indices().nth(TEXT_CHARACTERS_MAX) {
                    text.truncate(end);
                }
                text
            });
            self.0.push(Problem { field, message });
        }
    }

    /// Adds a broken rule unless `holds`.
    pub fn require(&mut self, holds: bool, field: &str, message: impl Into<String>) {
        if !holds {
            self.add(field, message);
        }
    }

    /// Returns the value of a parsed field, or adds its broken rule.
    pub fn take<T>(&mut self, field: &str, parsed: Result<T, String>) -> Option<T> {
        parsed.map_err(|message| self.add(field, message)).ok()
    }

    /// Returns the value of a part of the input, or adds its broken rules, with the part's path in front of their
    /// fields.
    pub fn take_part<T>(&mut self, path: &str, parsed: Result<T, Self>) -> Option<T> {
        parsed.map_err(|part| self.add_part(path, part)).ok()
    }

    /// Adds the broken rules of a part of the input, with the part's path in front of their fields.
    pub fn add_part(&mut self, path: &str, part: Self) {
        for Problem { field, message } in part.0 {
            let separator = if path.is_empty() || field.is_empty() || field.starts_with('[') { "" } else { "." };
            self.add(&format!("{path}{separator}{field}"), message);
        }
    }

    /// The same broken rules for a caller whose names for some fields differ. `names` are pairs of our name and the
    /// caller's.
    #[must_use]
    pub fn renamed(mut self, names: &[(&str, &str)]) -> Self {
        for problem in &mut self.0 {
            if let Some((_, theirs)) = names.iter().find(|(ours, _)| *ours == problem.field) {
                (*theirs).clone_into(&mut problem.field);
            }
        }
        self
    }

    /// Returns the value if no rule was broken.
    ///
    /// # Errors
    /// The broken rules.
    pub fn none_or<T>(self, value: T) -> Result<T, Self> {
        if self.0.is_empty() { Ok(value) } else { Err(self) }
    }

    /// Returns an error if any rule was broken.
    ///
    /// # Errors
    /// The broken rules.
    pub fn into_result(self) -> Result<(), Self> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Problem { field, message }) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{field}: {message}")?;
        }
        Ok(())
    }
}

/// Checks that a time is in the years 1970 to 9999, because the database cannot store every time outside of them.
///
/// # Errors
/// The range that the time must be in.
pub fn moment(time: DateTime<Utc>) -> Result<(), String> {
    let known = (1970..=9999).contains(&time.year());
    if known { Ok(()) } else { Err("must be in the years 1970 to 9999".to_owned()) }
}

/// Checks a text that people read: its length in characters, and that it has no control characters (Postgres cannot
/// store NUL, and the others only deceive).
pub fn text(value: &str, characters_max: usize) -> Result<(), String> {
    if value.is_empty() {
        Err("must not be empty".to_owned())
    } else if value.chars().count() > characters_max {
        Err(format!("must be at most {characters_max} characters long"))
    } else if value.chars().any(char::is_control) {
        Err("must not contain control characters".to_owned())
    } else {
        Ok(())
    }
}

/// Whether a text is the name of an HTTP header (RFC 9110 §5.1, a token).
pub(crate) fn is_header_name(name: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_s_fields_stand_under_its_path_and_may_be_called_otherwise() {
        let mut patterns = Problems::one("[2]", "is no pattern");
        patterns.add("", "must be fewer");
        let mut event = Problems::default();
        event.add_part("event_types", patterns);
        event.add("payload", "is too long");
        let mut batch = Problems::one("key", "is too long");
        batch.add_part("events[7]", event);
        batch.add_part("", Problems::one("other", "is wrong"));
        let fields = |problems: &Problems| -> Vec<String> { problems.0.iter().map(|one| one.field.clone()).collect() };
        let expected = ["key", "events[7].event_types[2]", "events[7].event_types", "events[7].payload", "other"];
        assert_eq!(fields(&batch), expected);
        let renamed = batch.renamed(&[("key", "X-Key"), ("payload", "body")]);
        assert_eq!((fields(&renamed)[0].as_str(), fields(&renamed)[3].as_str()), ("X-Key", "events[7].payload"));
    }
}
