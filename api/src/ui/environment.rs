//! The name of the environment that pages show, such as `Staging`, so that nobody takes one for another. Its colour
//! follows from the name.

use std::{fmt, sync::Arc};

use postrider_core::validation;

/// Characters of a name, at most.
const CHARACTERS_MAX: usize = 24;
/// Words in names that have a colour of their own; the first one that a name contains decides.
const WORDS: [(&str, &str); 11] = [
    ("preprod", "amber"),
    ("pre-prod", "amber"),
    ("prod", "red"),
    ("live", "red"),
    ("stag", "amber"),
    ("uat", "amber"),
    ("qa", "amber"),
    ("dev", "green"),
    ("test", "green"),
    ("local", "green"),
    ("sandbox", "green"),
];
/// The colours of all other names.
const OTHERS: [&str; 3] = ["blue", "violet", "teal"];

/// The name of an environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvironmentName(Arc<str>);

impl EnvironmentName {
    /// Parses a name; an empty text is none.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        if text.is_empty() {
            return Ok(None);
        }
        validation::text(text, CHARACTERS_MAX)?;
        Ok(Some(Self(text.into())))
    }

    /// The class of the style sheet that has its colour.
    pub(crate) fn class(&self) -> &'static str {
        let lower = self.0.to_lowercase();
        let named = WORDS.iter().find(|(word, _)| lower.contains(word)).map(|(_, colour)| *colour);
        let sum = || lower.bytes().fold(0_usize, |sum, byte| sum.wrapping_add(byte.into()));
        named.unwrap_or_else(|| OTHERS[sum() % OTHERS.len()])
    }
}

impl fmt::Display for EnvironmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_their_colours() {
        let colour = |text: &str| EnvironmentName::parse(text).map(|name| name.map(|name| name.class()));
        assert_eq!(colour(""), Ok(None));
        for (name, expected) in [
            ("Production EU", "red"),
            ("preprod", "amber"),
            ("Staging", "amber"),
            ("my development", "green"),
            ("a", "violet"),
            ("b", "teal"),
            ("c", "blue"),
        ] {
            assert_eq!(colour(name), Ok(Some(expected)), "{name}");
        }
        assert!(colour(&"x".repeat(25)).is_err() && colour("two\nlines").is_err());
    }
}
