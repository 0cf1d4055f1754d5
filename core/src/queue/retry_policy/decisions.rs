//! What the owner of a retry policy has decided about kinds of failures: which are worth another attempt, and which are
//! final. What holds where nothing was decided stands in [`super::RetryPolicy::decide`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{queue::attempt::ErrorKind, validation::Problems};

/// Entries that a policy may have, at most.
pub const DECISIONS_MAX: usize = 50;
/// The classes of statuses that may be decided about.
const CLASSES: [&str; 3] = ["3xx", "4xx", "5xx"];
/// The kinds of errors that may be decided about. Attempts that fail through a fault of ours are always repeated; an
/// event that has been removed, and a delivery that its receiver wants to be given up, never are.
const KINDS: [ErrorKind; 7] = [
    ErrorKind::HttpStatus,
    ErrorKind::Timeout,
    ErrorKind::Dns,
    ErrorKind::Connect,
    ErrorKind::Tls,
    ErrorKind::BlockedTarget,
    ErrorKind::Protocol,
];

/// Whether a failure is worth another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// The delivery is attempted again, for as long as its policy has attempts left.
    Retry,
    /// The delivery becomes a dead letter at once.
    GiveUp,
}

/// Decisions by status (`404`), by class of statuses (`5xx`) and by kind of error (`tls`). Deserializing is for
/// decisions that were checked before they were stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Decisions(BTreeMap<String, Decision>);

impl Decisions {
    /// Checks the keys.
    ///
    /// # Errors
    /// Too many entries, or else every key about which nothing can be decided.
    pub fn parse(entries: BTreeMap<String, Decision>) -> Result<Self, Problems> {
        if entries.len() > DECISIONS_MAX {
            return Err(Problems::one("", format!("must be at most {DECISIONS_MAX} entries")));
        }
        let mut problems = Problems::default();
        for key in entries.keys().filter(|key| !is_known(key)) {
            let (classes, kinds) = (CLASSES.join(", "), KINDS.map(ErrorKind::as_str).join(", "));
            let message = format!("must be a status from 300 to 599, a class ({classes}) or a kind of error ({kinds})");
            problems.add(key, message);
        }
        problems.none_or(Self(entries))
    }

    /// The entries, by their keys.
    #[must_use]
    pub fn entries(&self) -> &BTreeMap<String, Decision> {
        &self.0
    }

    /// Whether nothing was decided.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The decision that fits a failure best: the one about its status, or else about the class of its status, or else
    /// about its kind. `status` is `None` where no answer arrived.
    #[must_use]
    pub fn find(&self, status: Option<u16>, kind: ErrorKind) -> Option<Decision> {
        if self.is_empty() {
            return None;
        }
        let of_status = status
            .and_then(|status| self.0.get(&status.to_string()).or_else(|| self.0.get(&format!("{}xx", status / 100))));
        of_status.or_else(|| self.0.get(kind.as_str())).copied()
    }
}

fn is_known(key: &str) -> bool {
    let is_number = key.len() == 3 && key.bytes().all(|byte| byte.is_ascii_digit());
    let is_status = is_number && key.parse::<u16>().is_ok_and(|status| (300..600).contains(&status));
    is_status || CLASSES.contains(&key) || KINDS.iter().any(|kind| kind.as_str() == key)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decisions as one text, such as `404 give_up, 5xx retry`.
    fn decisions(text: &str) -> Result<Decisions, Problems> {
        let entries = text.split(", ").filter(|entry| !entry.is_empty()).map(|entry| {
            let (key, word) = entry.rsplit_once(' ').expect("a key and a word");
            (key.to_owned(), if word == "retry" { Decision::Retry } else { Decision::GiveUp })
        });
        Decisions::parse(entries.collect())
    }

    #[test]
    fn keys() {
        for key in ["300", "404", "599", "3xx", "4xx", "5xx", "http_status", "tls", "blocked_target"] {
            assert!(decisions(&format!("{key} retry")).is_ok(), "{key}");
        }
        for key in [
            "200",
            "299",
            "600",
            "0404",
            "+404",
            "4 4",
            "4XX",
            "2xx",
            "6xx",
            "xx",
            "shutdown",
            "worker_busy",
            "aborted",
            "payload_gone",
            "lease_lost",
            "TLS",
        ] {
            let problems = decisions(&format!("{key} retry")).expect_err(key).0;
            assert_eq!(problems[0].field, key);
        }
        let many = |count: usize| (300..300 + count).map(|status| (status.to_string(), Decision::Retry)).collect();
        assert!(Decisions::parse(many(DECISIONS_MAX)).is_ok());
        assert_eq!(Decisions::parse(many(DECISIONS_MAX + 1)).expect_err("too many").0[0].field, "");
    }

    #[test]
    fn the_decision_that_fits_best_is_found() {
        let (retry, give_up) = (Some(Decision::Retry), Some(Decision::GiveUp));
        let (status, timeout) = (ErrorKind::HttpStatus, ErrorKind::Timeout);
        let cases = [
            ("", Some(404), status, None),
            ("404 give_up", Some(404), status, give_up),
            ("404 give_up", Some(403), status, None),
            ("4xx give_up", Some(403), status, give_up),
            ("4xx give_up", Some(500), status, None),
            ("4xx give_up, 404 retry", Some(404), status, retry),
            ("http_status give_up", Some(404), status, give_up),
            ("http_status give_up, 4xx retry", Some(404), status, retry),
            ("http_status give_up, 4xx retry", Some(101), status, give_up),
            ("http_status give_up", Some(999), status, give_up),
            ("http_status give_up", None, timeout, None),
            ("timeout give_up", None, timeout, give_up),
            ("timeout give_up", None, ErrorKind::Tls, None),
            // The body of an answer may come too late: then both its status and the kind of the error are known.
            ("timeout give_up", Some(200), timeout, give_up),
            ("timeout give_up, 500 retry", Some(500), timeout, retry),
        ];
        for (text, status, kind, expected) in cases {
            let found = decisions(text).expect("valid").find(status, kind);
            assert_eq!(found, expected, "{text:?}: {status:?}, {kind}");
        }
    }

    #[test]
    fn decisions_survive_being_stored() {
        let decided = decisions("404 give_up, 5xx retry").expect("valid");
        let json = serde_json::to_string(&decided).expect("a map has a JSON form");
        assert_eq!(json, r#"{"404":"give_up","5xx":"retry"}"#);
        assert_eq!(serde_json::from_str::<Decisions>(&json).expect("its own form"), decided);
    }
}
