//! Listening for changes: the database announces on one channel every change to what processes keep in memory.

use uuid::Uuid;

use crate::announce::notify::{Channel, Notice};

/// The suffix of the channel's name, behind the schema.
pub const CHANNEL: &str = "changes";

/// What has changed since it was last loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A tenant's subscription.
    Subscription {
        /// The subscription that changed.
        id: Uuid,
        /// The tenant to which it belongs.
        tenant_id: String,
    },
    /// An API key, by the digest of its text.
    ApiKey([u8; 32]),
    /// Possibly everything: announcements may have been missed.
    Anything,
}

impl Change {
    fn parse(text: &str) -> Self {
        let subscription = |rest: &str| {
            let (id, tenant) = rest.split_once(' ')?;
            Some(Self::Subscription { id: id.parse().ok()?, tenant_id: tenant.to_owned() })
        };
        let api_key = |rest: &str| {
            let mut digest = [0; 32];
            hex::decode_to_slice(rest.strip_prefix("\\x")?, &mut digest).ok()?;
            Some(Self::ApiKey(digest))
        };
        match text.split_once(' ') {
            Some(("subscription", rest)) => subscription(rest),
            Some(("api_key", rest)) => api_key(rest),
            _ => None,
        }
        .unwrap_or(Self::Anything)
    }
}

/// The channel of changes, and a task that calls `on_change` for every change for as long as somebody listens on the
/// channel.
pub fn follow<F: Future<Output = ()>>(
    name: String,
    on_change: impl Fn(Change) -> F,
) -> (Channel, impl Future<Output = ()>) {
    // Unbounded, but emptied at once: dropping outdated values takes no I/O.
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let on_notice = Box::new(move |notice: &Notice<'_>| {
        let _ = sender.send(match notice {
            Notice::Notification(payload) => Change::parse(payload),
            Notice::MayHaveMissed => Change::Anything,
        });
    });
    let tell = async move {
        while let Some(change) = receiver.recv().await {
            on_change(change).await;
        }
    };
    (Channel { name, on_notice }, tell)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements() {
        let id = Uuid::from_u128(7);
        let change = Change::Subscription { id, tenant_id: "acme & co".to_owned() };
        assert_eq!(Change::parse(&format!("subscription {id} acme & co")), change);
        assert_eq!(Change::parse(&format!("api_key \\x{}", "ab".repeat(32))), Change::ApiKey([0xab; 32]));
        for text in ["", "subscription", "subscription x y", "api_key \\xab", "weather fine"] {
            assert_eq!(Change::parse(text), Change::Anything, "{text}");
        }
    }
}
