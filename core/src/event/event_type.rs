//! Event types (`order.created`, `orders/create`, `user:created`) and the patterns by which a subscription says which
//! of them it wants.

use std::{fmt, str::FromStr};

use crate::validation::Problems;

/// Characters of an event type or a pattern, at most.
pub const EVENT_TYPE_CHARACTERS_MAX: usize = 128;

/// Patterns of one subscription or one job, at most.
pub const PATTERNS_MAX: usize = 100;

/// The type of an event for which the producer named none.
pub const EVENT_TYPE_DEFAULT: &str = "webhook.received";

/// The characters that join segments: `.` in most places, `/` in Shopify's topics, `:` in Bitbucket's and others'.
const SEPARATORS: [char; 3] = ['.', '/', ':'];

const SHAPE: &str =
    "must be segments of letters, digits, `_` and `-` joined by `.`, `/` or `:`, at most 128 characters long";

/// A valid event type: segments of ASCII letters, digits, `_` and `-`, joined by `.`, `/` or `:`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EventType(String);

impl EventType {
    /// The type as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The event type that a provider names in a header of its own, if it is one. Some providers use words (`Push
    /// Hook`), so a space becomes `_`.
    #[must_use]
    pub fn named_by_provider(text: &str) -> Option<Self> {
        text.trim().replace(' ', "_").parse().ok()
    }
}

impl EventType {
    /// The texts of all patterns that match this type: the type itself, those of everything that it lies below, and
    /// `*`.
    #[must_use]
    pub fn patterns(&self) -> Vec<String> {
        let below =
            self.0.match_indices(SEPARATORS).map(|(place, joint)| format!("{}*", &self.0[..place + joint.len()]));
        below.chain([self.0.clone(), "*".to_owned()]).collect()
    }
}

impl Default for EventType {
    fn default() -> Self {
        Self(EVENT_TYPE_DEFAULT.to_owned())
    }
}

impl FromStr for EventType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let segment =
            |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        if text.len() <= EVENT_TYPE_CHARACTERS_MAX && text.split(SEPARATORS).all(segment) {
            Ok(Self(text.to_owned()))
        } else {
            Err(SHAPE.to_owned())
        }
    }
}

/// A pattern by which a subscription names event types: one type exactly, all types below a prefix (`order.*`,
/// `orders/*`, one or more segments), or every type (`*`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventTypePattern {
    /// `*`: every type.
    Any,
    /// `order.*`: every type below `order`; holds `order.`.
    Below(String),
    /// `order.created`: only this type.
    Exactly(EventType),
}

impl EventTypePattern {
    /// The type that the pattern names, if it matches only one.
    #[must_use]
    pub fn exact(&self) -> Option<&EventType> {
        match self {
            Self::Exactly(event_type) => Some(event_type),
            Self::Any | Self::Below(_) => None,
        }
    }

    /// Whether the pattern matches this type.
    #[must_use]
    pub fn matches(&self, event_type: &EventType) -> bool {
        match self {
            Self::Any => true,
            Self::Below(prefix) => event_type.0.starts_with(prefix.as_str()),
            Self::Exactly(exact) => exact == event_type,
        }
    }
}

impl FromStr for EventTypePattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        match text.strip_suffix('*') {
            Some(prefix) => {
                let above = prefix.strip_suffix(SEPARATORS).unwrap_or_default();
                above.parse::<EventType>().map(|_| Self::Below(prefix.to_owned()))
            }
            None => text.parse().map(Self::Exactly),
        }
        .map_err(|shape| format!("{shape}, optionally ending in `.*`, `/*` or `:*`, or just `*`"))
    }
}

impl fmt::Display for EventTypePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Below(prefix) => write!(f, "{prefix}*"),
            Self::Exactly(exact) => f.write_str(exact.as_str()),
        }
    }
}

/// The patterns of the event types that a subscription wants, [`PATTERNS_MAX`] at most. An empty list means every type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventTypePatterns(Vec<EventTypePattern>);

impl EventTypePatterns {
    /// Checks each pattern, and that there are not too many.
    ///
    /// # Errors
    /// What is wrong, each broken rule with the place of its pattern.
    pub fn parse(texts: &[String]) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        problems.require(texts.len() <= PATTERNS_MAX, "", format!("must be at most {PATTERNS_MAX} patterns"));
        let patterns =
            texts.iter().enumerate().filter_map(|(place, text)| problems.take(&format!("[{place}]"), text.parse()));
        let patterns = patterns.collect();
        problems.none_or(Self(patterns))
    }

    /// Parses patterns that were valid when they were stored.
    pub(crate) fn from_stored(texts: &[String]) -> crate::Result<Self> {
        let patterns = texts.iter().map(|text| text.parse().map_err(|why: String| crate::Error::internal(why)));
        patterns.collect::<crate::Result<_>>().map(Self)
    }

    /// The patterns as text, in their order.
    #[must_use]
    pub fn to_texts(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }

    /// Whether one of the patterns matches this type; always so where there are none.
    #[must_use]
    pub fn match_any(&self, event_type: &EventType) -> bool {
        self.0.is_empty() || self.0.iter().any(|pattern| pattern.matches(event_type))
    }

    /// The named types, if each pattern names exactly one; `None` where a pattern matches more, or there are no
    /// patterns.
    #[must_use]
    pub fn exact(&self) -> Option<Vec<&EventType>> {
        if self.0.is_empty() { None } else { self.0.iter().map(EventTypePattern::exact).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_patterns_of_a_type_match_it() {
        let event_type: EventType = "shop.orders/paid:late".parse().expect("a type");
        let patterns = event_type.patterns();
        assert_eq!(patterns, ["shop.*", "shop.orders/*", "shop.orders/paid:*", "shop.orders/paid:late", "*"]);
        assert!(patterns.iter().all(|text| text.parse::<EventTypePattern>().is_ok_and(|one| one.matches(&event_type))));
    }

    #[test]
    fn patterns_of_one_owner() {
        let parse =
            |texts: &[&str]| EventTypePatterns::parse(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        let created = "order.created".parse().expect("a type");
        assert!(parse(&[]).expect("valid").match_any(&created), "no pattern means every type");
        assert!(parse(&["user.*", "order.*"]).expect("valid").match_any(&created));
        assert!(!parse(&["user.*"]).expect("valid").match_any(&created));
        assert_eq!(parse(&["order.created"]).expect("valid").exact(), Some(vec![&created]));
        for texts in [&[][..], &["order.created", "order.*"], &["*"]] {
            assert_eq!(parse(texts).expect("valid").exact(), None, "{texts:?}");
        }
        let problems = parse(&["a", "b c", "d", ""]).expect_err("two are wrong").0;
        assert_eq!(problems.iter().map(|problem| problem.field.as_str()).collect::<Vec<_>>(), ["[1]", "[3]"]);
        assert!(parse(&vec!["a"; PATTERNS_MAX]).is_ok());
        assert!(parse(&vec!["a"; PATTERNS_MAX + 1]).is_err());
    }

    #[test]
    fn patterns() {
        let cases = [
            ("*", "order.created", true),
            ("order.*", "order.created", true),
            ("order.*", "order.line.added", true),
            ("order.*", "order", false),
            ("order.*", "orders.created", false),
            ("order.created", "order.created", true),
            ("order.created", "order.created.twice", false),
            ("orders/*", "orders/create", true),
            ("orders/*", "orders", false),
            ("orders/*", "orders.create", false),
            ("orders.*", "orders/create", false),
            ("user:*", "user:created", true),
            ("user:*", "users:created", false),
            ("com.example.*", "com.example.user:created/again", true),
            ("orders/create", "orders/create", true),
            ("*", "user:created", true),
        ];
        for (pattern, event_type, wanted) in cases {
            let parsed: EventTypePattern = pattern.parse().expect(pattern);
            assert_eq!(parsed.to_string(), pattern);
            assert_eq!(parsed.matches(&event_type.parse().expect(event_type)), wanted, "{pattern} on {event_type}");
        }
    }

    #[test]
    fn refused() {
        let long = "a".repeat(EVENT_TYPE_CHARACTERS_MAX + 1);
        for text in
            ["", ".", "order.", ".created", "order..created", "order created", "o\0", "ördér", "*.created", &long]
        {
            assert!(text.parse::<EventType>().is_err(), "{text:?}");
        }
        for text in ["/", "/orders", "orders/", "a//b", "a:/b", ":", "https://example.com", "a\\b", "a/../b", "a?b"] {
            assert!(text.parse::<EventType>().is_err(), "{text:?}");
        }
        for text in ["", "**", "order*", "*.order", ".*", "/*", "a//*", "a./*", "*/a", "a/*/b"] {
            assert!(text.parse::<EventTypePattern>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_providers_call_their_events() {
        let cases = [
            ("pull_request", Some("pull_request")),
            ("orders/create", Some("orders/create")),
            ("repo:push", Some("repo:push")),
            ("Push Hook", Some("Push_Hook")),
            (" push ", Some("push")),
            ("", None),
            (" ", None),
            ("a, b", None),
            ("<script>", None),
        ];
        for (text, expected) in cases {
            assert_eq!(EventType::named_by_provider(text).as_ref().map(EventType::as_str), expected, "{text:?}");
        }
    }
}
