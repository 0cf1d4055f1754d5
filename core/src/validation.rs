//! Collecting every broken rule of an input before refusing it, so that a caller mends all of them at once.

use std::fmt;

/// Broken rules that are told of one input, at most.
pub const PROBLEMS_MAX: usize = 100;
/// Characters of a field's path, and of a message, that are told.
const TEXT_CHARACTERS_MAX: usize = 500;

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field's path in the input, for example `retry_policy.delays_seconds[3]`.
    pub field: String,
    /// What is wrong, in words a person can act on.
    pub message: String,
}

/// Every broken rule of one input; never empty inside an error.
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

    /// Notes a broken rule, unless there are very many already: an answer should not be longer than the question.
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

    /// Notes a broken rule unless the rule holds.
    pub fn require(&mut self, holds: bool, field: &str, message: impl Into<String>) {
        if !holds {
            self.add(field, message);
        }
    }

    /// The value of a parsed field, or its broken rule noted.
    pub fn take<T>(&mut self, field: &str, parsed: Result<T, String>) -> Option<T> {
        parsed.map_err(|message| self.add(field, message)).ok()
    }

    /// An error if any rule was broken.
    pub fn into_result(self) -> crate::Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(crate::Error::Invalid(self)) }
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

/// Checks a text that people read: its length in characters, and no control characters (Postgres cannot store NUL,
/// and the others only deceive).
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
