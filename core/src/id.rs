//! Public identifiers: a prefix that names the kind of thing and a `UUIDv7`, as in
//! `sub_0198c0de2f3a7b1c9d4e5f60718293a4`. The database stores only the UUID; the prefix exists only in text.

use std::{fmt, str::FromStr};

use uuid::Uuid;

/// A text that is not an id of the expected kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be `{prefix}` followed by 32 lower-case hexadecimal digits")]
pub struct InvalidId {
    prefix: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub Uuid);

        impl $name {
            /// The prefix of this kind of id in text.
            pub const PREFIX: &str = $prefix;

            /// A fresh id; ids that are made later sort after earlier ones.
            #[must_use]
            #[expect(clippy::new_without_default, reason = "a default that differs each time would mislead")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{}", Self::PREFIX, self.0.simple())
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                text.strip_prefix(Self::PREFIX)
                    .filter(|digits| digits.len() == 32 && !digits.bytes().any(|byte| byte.is_ascii_uppercase()))
                    .and_then(|digits| Uuid::try_parse(digits).ok())
                    .map(Self)
                    .ok_or(InvalidId { prefix: Self::PREFIX })
            }
        }
    };
}

id!(
    /// A subscription's id, which is also the id of its lane.
    SubscriptionId, "sub_"
);
id!(
    /// An event's id, which receivers see as `webhook-id`; it is the same over all attempts.
    EventId, "evt_"
);
id!(
    /// A delivery's id. Its first half is the same as its event's where the two were made together.
    DeliveryId, "dlv_"
);
id!(
    /// An API key's id; not the key itself, which is a secret.
    KeyId, "key_"
);
id!(
    /// The id of a job.
    JobId, "job_"
);
id!(
    /// The id of an emitter.
    EmitterId, "emt_"
);
id!(
    /// The id of a demo.
    DemoId, "dmo_"
);
id!(
    /// The id of an entry in the audit log.
    AuditId, "aud_"
);

/// The time in an id: when it was made, in milliseconds since 1970.
#[must_use]
pub fn time_of(id: Uuid) -> i64 {
    i64::try_from(id.as_u128() >> 80).expect("48 bits")
}

/// The half of an id that is shared by an event and the deliveries made with it: time, version, counter.
const SHARED: u128 = u128::MAX << 64;
/// The two bits with which the other half of every UUID begins (RFC 9562).
const VARIANT: u128 = 0b10 << 62;

impl DeliveryId {
    /// A fresh id for a delivery that is made together with its event. It shares the event's half, so that an event's
    /// deliveries stand together in the primary key and need no index of their own.
    #[must_use]
    pub fn of(event: EventId) -> Self {
        let random = u128::from(rand::random::<u64>() >> 2);
        Self(Uuid::from_u128(event.0.as_u128() & SHARED | VARIANT | random))
    }
}

impl EventId {
    /// The first and the last id that a delivery made with this event can have. Ids of others may lie between them.
    #[must_use]
    pub fn delivery_ids(self) -> (Uuid, Uuid) {
        let half = self.0.as_u128() & SHARED;
        (Uuid::from_u128(half | VARIANT), Uuid::from_u128(half | VARIANT | ((1 << 62) - 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let id = DeliveryId::new();
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn deliveries_stand_with_their_event() {
        let event = EventId::new();
        let (first, last) = event.delivery_ids();
        assert_eq!(last.as_u128() - first.as_u128(), (1 << 62) - 1);
        for _ in 0..100 {
            let delivery = DeliveryId::of(event).0;
            assert!((first..=last).contains(&delivery), "{delivery} of {event}");
            assert_eq!((delivery.get_version_num(), delivery.get_variant()), (7, uuid::Variant::RFC4122));
        }
        let later = Uuid::from_u128(event.0.as_u128() + (1 << 80));
        assert!(DeliveryId::of(EventId(later)).0 > last);
    }

    #[test]
    fn refuses_everything_else() {
        let uuid = "0198c0de2f3a7b1c9d4e5f60718293a4";
        for text in
            ["", "dlv_", "dlv_12", &format!("sub_{uuid}"), &format!("dlv_{uuid}0"), &format!("dlv_{uuid}\0"), uuid]
        {
            assert!(text.parse::<DeliveryId>().is_err(), "{text:?} is no delivery id");
        }
        assert!(format!("dlv_{}", uuid.to_uppercase()).parse::<DeliveryId>().is_err(), "one spelling only");
        assert!("dlv_0198c0de-2f3a-7b1c-9d4e-5f60718293a4".parse::<DeliveryId>().is_err(), "one spelling only");
    }
}
