//! Why the last attempt of a delivery failed, by the classes of the statistics: what lists ask for. How a class is
//! stored with an attempt stands in [`crate::queue::observed`].

use std::{fmt, str::FromStr};

use crate::{
    queue::{
        attempt::ErrorKind,
        observed::{LEASE_LOST, class_of},
    },
    tally::class::{Class, Kind},
};

/// A class of failures of attempts, such as `timeout` or `http_5xx`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cause(Class);

impl Cause {
    /// All causes, in the order of their classes.
    pub fn all() -> impl Iterator<Item = Self> {
        let of_attempts = |class: &Class| matches!(class.kind(), Kind::Failure | Kind::OurFault);
        Class::ALL.into_iter().filter(of_attempts).map(Self)
    }

    /// The word of the cause.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.0.as_str()
    }

    /// The class of the statistics.
    #[must_use]
    pub fn class(self) -> Class {
        self.0
    }

    /// The words in the log of attempts, one of which a failed attempt has that failed so.
    #[must_use]
    pub fn error_kinds(self) -> Vec<String> {
        if self.status_codes().is_some() {
            return vec![ErrorKind::HttpStatus.as_str().to_owned()];
        }
        let kinds = ErrorKind::ALL.into_iter().filter(|kind| class_of(Some(*kind), None) == self.0);
        let lease_lost = Some(LEASE_LOST).filter(|_| self.0 == Class::LeaseLost);
        kinds.map(ErrorKind::as_str).chain(lease_lost).map(str::to_owned).collect()
    }

    /// The HTTP statuses, one of which the answer to such an attempt has; `None` where no status is asked for.
    #[must_use]
    pub fn status_codes(self) -> Option<Vec<i16>> {
        let is_it = |status: &i16| Class::of_status(status.unsigned_abs()) == self.0;
        let codes: Vec<_> = (100..=999).filter(is_it).collect();
        (!codes.is_empty()).then_some(codes)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Cause {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        Self::all().find(|cause| cause.as_str() == word).ok_or_else(|| {
            let words: Vec<_> = Self::all().map(Self::as_str).collect();
            format!("must be one of {}", words.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_exactly_one_cause() {
        let fits = |cause: Cause, kind: &str, code: Option<i16>| {
            cause.error_kinds().iter().any(|one| one == kind)
                && cause.status_codes().is_none_or(|codes| code.is_some_and(|code| codes.contains(&code)))
        };
        let of = |kind: &str, code| Cause::all().filter(|cause| fits(*cause, kind, code)).collect::<Vec<_>>();
        for kind in ErrorKind::ALL {
            for code in [100, 302, 404, 410, 418, 429, 503, 999] {
                let class = class_of(Some(kind), Some(code));
                assert_eq!(of(kind.as_str(), i16::try_from(code).ok()), [Cause(class)], "{kind} {code}");
            }
        }
        assert_eq!(of(LEASE_LOST, None), [Cause(Class::LeaseLost)]);
    }

    #[test]
    fn words() {
        assert_eq!("http_429".parse(), Ok(Cause(Class::Http429)));
        for word in ["succeeded", "dead_letter", "http_status", ""] {
            assert!(word.parse::<Cause>().is_err(), "{word:?}");
        }
    }
}
