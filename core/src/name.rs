//! Names by which people recognize subscriptions and API keys.

use crate::validation;

/// Characters of a name, at most.
pub const CHARACTERS_MAX: usize = 200;

/// A valid name: one line of text that is not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(String);

impl Name {
    /// Checks that a text can be a name.
    ///
    /// # Errors
    /// What is wrong.
    pub fn parse(text: String) -> Result<Self, String> {
        validation::text(&text, CHARACTERS_MAX).map(|()| Self(text))
    }

    /// Wraps a name that was checked before it was stored.
    pub(crate) fn from_stored(text: String) -> Self {
        Self(text)
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
