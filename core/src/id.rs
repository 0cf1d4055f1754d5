//! Public identifiers: a prefix that names the thing and a `UUIDv7`, as in `sub_0198c0de2f3a7b1c9d4e5f60718293a4`.
//! Inside, an id is its UUID; the prefix exists only in text.

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
            /// What its text begins with.
            pub const PREFIX: &str = $prefix;

            /// A fresh one; later ones sort after earlier ones.
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
    /// A subscription's id.
    SubscriptionId, "sub_"
);
id!(
    /// An event's id; also the `webhook-id` its receivers see, the same over all attempts.
    EventId, "evt_"
);
id!(
    /// A delivery's id.
    DeliveryId, "dlv_"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let id = DeliveryId::new();
        assert_eq!(id.to_string().parse(), Ok(id));
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
