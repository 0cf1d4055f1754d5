//! Why Postrider disables a subscription by itself. A person who disables one needs no reason.

use std::fmt;

/// Why Postrider disables a subscription. Its text form is stored with the subscription, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DisableReason {
    /// Its receiver answered 410.
    Gone,
    /// Its receiver asked for it, by the header `webhook-delivery: disable`.
    Asked,
    /// Its receiver has answered with nothing but failures for as long as its settings allow.
    Failing {
        /// The days that its settings allow.
        days: i32,
    },
}

impl fmt::Display for DisableReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("the receiver answered 410 Gone"),
            Self::Asked => f.write_str("the receiver asked for it"),
            Self::Failing { days: 1 } => f.write_str("every attempt of the last day has failed"),
            Self::Failing { days } => write!(f, "every attempt of the last {days} days has failed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        for (reason, text) in [
            (DisableReason::Gone, "the receiver answered 410 Gone"),
            (DisableReason::Asked, "the receiver asked for it"),
            (DisableReason::Failing { days: 1 }, "every attempt of the last day has failed"),
            (DisableReason::Failing { days: 5 }, "every attempt of the last 5 days has failed"),
        ] {
            assert_eq!(reason.to_string(), text);
        }
    }
}
