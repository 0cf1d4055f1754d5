//! Metadata: notes of an event's producer or a subscription's owner, as texts under keys. Postrider only compares them.

use std::{collections::BTreeMap, ops::Deref};

use serde::{Deserialize, Serialize};

use crate::validation;

/// Entries of one object, at most.
pub const ENTRIES_MAX: usize = 50;
/// Characters of a key, at most.
pub const KEY_CHARACTERS_MAX: usize = 64;
/// Characters of a value, at most.
pub const VALUE_CHARACTERS_MAX: usize = 512;

/// Valid metadata. It is serialized as a plain map; deserializing is only for metadata that was checked before it was
/// stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Metadata(BTreeMap<String, String>);

impl Metadata {
    /// Checks the number of entries, and each key and value.
    ///
    /// # Errors
    /// What is wrong.
    pub fn parse(entries: BTreeMap<String, String>) -> Result<Self, String> {
        if entries.len() > ENTRIES_MAX {
            return Err(format!("must be at most {ENTRIES_MAX} entries"));
        }
        for (key, value) in &entries {
            validation::text(key, KEY_CHARACTERS_MAX)
                .map_err(|why| format!("the key `{}` {why}", key.escape_debug()))?;
            if value.chars().count() > VALUE_CHARACTERS_MAX || value.contains('\0') {
                return Err(format!(
                    "the value of `{key}` must be at most {VALUE_CHARACTERS_MAX} characters long, without NUL"
                ));
            }
        }
        Ok(Self(entries))
    }

    /// The entries, sorted by key.
    #[must_use]
    pub fn into_entries(self) -> BTreeMap<String, String> {
        self.0
    }
}

impl Deref for Metadata {
    type Target = BTreeMap<String, String>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds() {
        let entry = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        let many = |count: usize| (0..count).map(|number| (number.to_string(), String::new())).collect();
        let (key, value) = ("k".repeat(KEY_CHARACTERS_MAX), "é".repeat(VALUE_CHARACTERS_MAX));
        for valid in [many(0), many(ENTRIES_MAX), entry(&key, &value), entry("a", "line\nfeed")] {
            assert_eq!(Metadata::parse(valid.clone()).map(Metadata::into_entries), Ok(valid));
        }
        let (long_key, long_value) = (format!("{key}k"), format!("{value}é"));
        for wrong in [
            many(ENTRIES_MAX + 1),
            entry("", "x"),
            entry("a\0", "x"),
            entry(&long_key, "x"),
            entry("a", &long_value),
            entry("a", "\0"),
        ] {
            assert!(Metadata::parse(wrong.clone()).is_err(), "{wrong:?}");
        }
    }
}
