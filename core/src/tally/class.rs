//! The classes by which outcomes are counted. This is their only home: their order is the order of the places in stored
//! arrays, so a new class goes to the end, and none is ever removed.

use crate::text_enum::text_enum;

text_enum! {
    /// What came of an attempt, or how a delivery ended without success.
    pub enum Class {
        /// The receiver answered with 2xx.
        Succeeded = "succeeded",
        /// The receiver answered with a redirect, which is not followed.
        Http3xx = "http_3xx",
        /// The receiver answered with 4xx, other than 404, 410 and 429.
        Http4xx = "http_4xx",
        /// The receiver answered with 404.
        Http404 = "http_404",
        /// The receiver answered with 410.
        Http410 = "http_410",
        /// The receiver answered with 429.
        Http429 = "http_429",
        /// The receiver answered with 5xx.
        Http5xx = "http_5xx",
        /// The receiver answered with any other status that is not 2xx.
        HttpOther = "http_other",
        /// No complete answer arrived in time.
        Timeout = "timeout",
        /// The host's name did not resolve.
        Dns = "dns",
        /// No connection could be made.
        Connect = "connect",
        /// The TLS handshake failed.
        Tls = "tls",
        /// The target is, or resolves to, an address that deliveries may not go to.
        BlockedTarget = "blocked_target",
        /// The connection broke, or the answer was not HTTP.
        Protocol = "protocol",
        /// The receiver asked to give the delivery up.
        Aborted = "aborted",
        /// The event had been removed.
        PayloadGone = "payload_gone",
        /// The attempt failed through a fault of ours, and does not count for its delivery.
        Interrupted = "interrupted",
        /// The lease ran out before an outcome was recorded.
        LeaseLost = "lease_lost",
        /// Not of an attempt: the delivery was given up.
        DeadLetter = "dead_letter",
        /// Not of an attempt: the delivery was canceled by a worker.
        Canceled = "canceled",
    }
}

/// How many classes there are.
pub const CLASSES: usize = Class::ALL.len();

/// Whose part in an outcome a class tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An attempt that succeeded.
    Success,
    /// An attempt that failed for a reason in the receiver, its target or the event.
    Failure,
    /// An attempt that failed through a fault of ours.
    OurFault,
    /// No attempt: the end of a delivery.
    End,
}

impl Class {
    /// The class of an answer with this status, which is not a success.
    #[must_use]
    pub fn of_status(status: u16) -> Self {
        match status {
            404 => Self::Http404,
            410 => Self::Http410,
            429 => Self::Http429,
            300..=399 => Self::Http3xx,
            400..=499 => Self::Http4xx,
            500..=599 => Self::Http5xx,
            _ => Self::HttpOther,
        }
    }

    /// What the class tells of.
    #[must_use]
    pub fn kind(self) -> Kind {
        match self {
            Self::Succeeded => Kind::Success,
            Self::Http3xx
            | Self::Http4xx
            | Self::Http404
            | Self::Http410
            | Self::Http429
            | Self::Http5xx
            | Self::HttpOther
            | Self::Timeout
            | Self::Dns
            | Self::Connect
            | Self::Tls
            | Self::BlockedTarget
            | Self::Protocol
            | Self::Aborted
            | Self::PayloadGone => Kind::Failure,
            Self::Interrupted | Self::LeaseLost => Kind::OurFault,
            Self::DeadLetter | Self::Canceled => Kind::End,
        }
    }

    /// The place of the class in arrays.
    #[must_use]
    pub fn place(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_follow_the_order_of_definition() {
        for (place, class) in Class::ALL.into_iter().enumerate() {
            assert_eq!(class.place(), place, "{class}");
        }
    }

    #[test]
    fn statuses() {
        for (status, class) in [
            (199, Class::HttpOther),
            (304, Class::Http3xx),
            (400, Class::Http4xx),
            (404, Class::Http404),
            (410, Class::Http410),
            (429, Class::Http429),
            (499, Class::Http4xx),
            (503, Class::Http5xx),
            (600, Class::HttpOther),
        ] {
            assert_eq!(Class::of_status(status), class, "{status}");
        }
    }
}
