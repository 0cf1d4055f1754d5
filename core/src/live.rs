//! The live feed: what the processes do, second by second, for those who look at it just now. An api that has a viewer
//! asks for reports by a notification, every few seconds; each process answers once a second with counts and a few
//! rows ([`reporter`]); the api puts the answers together and shows them to its viewers ([`hub`]). Nobody waits for it,
//! nothing of it is stored, and while nobody looks, it costs the processes one comparison for each delivery.

pub mod changes;
pub mod hub;
pub mod reporter;
mod rollups;
pub mod sample;

use std::{fmt, str::FromStr, time::Duration};

use uuid::Uuid;

use crate::{id::SubscriptionId, text_enum::text_enum};

/// The suffix of the channel on which apis ask for reports.
pub const WATCH_CHANNEL: &str = "watch";
/// The suffix of the channel on which processes report.
pub const LIVE_CHANNEL: &str = "live";

/// How often an api that has viewers asks for reports.
const ASKED_EVERY: Duration = Duration::from_secs(10);
/// How long a process goes on reporting after it was asked: one question may get lost.
const ASKED_FOR: Duration = Duration::from_secs(25);
/// Scopes that a process reports on, at most, for all apis together; others are left out.
const SCOPES_MAX: usize = 32;
/// A notification must be shorter than 8,000 bytes.
const MESSAGE_BYTES_MAX: usize = 7_900;

text_enum! {
    /// What happened to a delivery.
    #[derive(Hash, PartialOrd, Ord)]
    pub enum Topic {
        /// It was stored, and waits for a worker.
        Queued = "delivery.queued",
        /// A worker begins an attempt.
        Started = "delivery.started",
        /// The receiver accepted it.
        Succeeded = "delivery.succeeded",
        /// An attempt failed, and another one follows.
        Failed = "delivery.failed",
        /// It was given up.
        DeadLetter = "delivery.dead_letter",
    }
}

impl Topic {
    /// Where the topic stands in an array with an element for each.
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }
}

/// Whose deliveries a viewer sees.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Those of all tenants.
    All,
    /// Those of one tenant.
    Tenant(String),
    /// Those of one subscription.
    Subscription(Uuid),
}

impl Scope {
    /// Whether a delivery of this tenant and subscription belongs to the scope.
    fn has(&self, tenant_id: &str, subscription_id: Option<Uuid>) -> bool {
        match self {
            Self::All => true,
            Self::Tenant(own) => own == tenant_id,
            Self::Subscription(own) => subscription_id == Some(*own),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Tenant(tenant_id) => write!(f, "t {tenant_id}"),
            Self::Subscription(id) => SubscriptionId(*id).fmt(f),
        }
    }
}

impl FromStr for Scope {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if text == "*" {
            return Ok(Self::All);
        }
        if let Some(tenant_id) = text.strip_prefix("t ") {
            return Ok(Self::Tenant(tenant_id.to_owned()));
        }
        text.parse().map(|id: SubscriptionId| Self::Subscription(id.0)).map_err(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_read_as_they_are_written() {
        for scope in [Scope::All, Scope::Tenant("acme * t ".to_owned()), Scope::Subscription(Uuid::now_v7())] {
            assert_eq!(scope.to_string().parse(), Ok(scope));
        }
        for text in ["", "all", "sub_1", "t"] {
            assert_eq!(text.parse::<Scope>(), Err(()), "{text}");
        }
    }

    #[test]
    fn a_scope_has_its_own() {
        let id = Uuid::now_v7();
        assert!(Scope::All.has("a", None));
        assert!(Scope::Tenant("a".to_owned()).has("a", Some(id)));
        assert!(!Scope::Tenant("a".to_owned()).has("b", Some(id)));
        assert!(Scope::Subscription(id).has("a", Some(id)));
        assert!(!Scope::Subscription(id).has("a", None));
    }
}
