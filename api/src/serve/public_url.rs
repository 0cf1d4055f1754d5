//! The URL at which callers and browsers reach the api, for links that leave it.

use std::sync::Arc;

use url::Url;

/// Characters of the URL, at most.
const CHARACTERS_MAX: usize = 500;

/// The beginning of every URL of this api, such as `https://hooks.example.com`; it does not end with a slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicUrl(Arc<str>);

impl PublicUrl {
    /// Parses a URL; an empty text is none.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        if text.is_empty() {
            return Ok(None);
        }
        let url = Url::parse(text).map_err(|error| error.to_string())?;
        let is_web = ["http", "https"].contains(&url.scheme());
        let is_bare = url.query().is_none() && url.fragment().is_none();
        let is_anonymous = url.username().is_empty() && url.password().is_none();
        if !is_web || !is_bare || !is_anonymous || text.len() > CHARACTERS_MAX {
            let rule = "must be an http or https URL without user, query and fragment";
            return Err(format!("{rule}, of at most {CHARACTERS_MAX} characters"));
        }
        Ok(Some(Self(url.as_str().trim_end_matches('/').into())))
    }

    /// The URL as text, to which a path with its first slash is added.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_urls() {
        let parse = |text: &str| PublicUrl::parse(text).map(|url| url.map(|url| url.as_str().to_owned()));
        assert_eq!(parse(""), Ok(None));
        for (text, url) in [
            ("https://Hooks.Example.com/", "https://hooks.example.com"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("https://example.com/hooks/", "https://example.com/hooks"),
        ] {
            assert_eq!(parse(text), Ok(Some(url.to_owned())));
        }
        let long = format!("https://example.com/{}", "x".repeat(CHARACTERS_MAX));
        for text in [
            "hooks.example.com",
            "ftp://example.com",
            "https://a@example.com",
            "https://example.com/?a=b",
            "https://example.com/#a",
            "/hooks",
            &long,
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
