//! The reasons for which deliveries wait although they are due, read from the columns of a lane. What sets and ends
//! them is in the SQL functions of the queue.

use chrono::{DateTime, Utc};

use crate::{subscription::circuit::CircuitState, text_enum::text_enum};

text_enum! {
    /// The reasons for which deliveries wait although they are due.
    pub enum Hold {
        /// The subscription is paused or disabled.
        Paused = "paused",
        /// The receiver asked to be left alone (`Retry-After`).
        RetryAfter = "retry_after",
        /// The circuit is open.
        Circuit = "circuit",
        /// The rate limit allows no attempt at this moment.
        RateLimit = "rate_limit",
        /// As many attempts are in flight as may be.
        MaxInFlight = "max_in_flight",
    }
}

/// What a lane says of its holds. A time until which it is held is there only while it lies in the future.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holds {
    pub is_paused: bool,
    pub rests_until: Option<DateTime<Utc>>,
    pub circuit_state: CircuitState,
    pub open_until: Option<DateTime<Utc>>,
    pub token_held_until: Option<DateTime<Utc>>,
    pub full_until: Option<DateTime<Utc>>,
}

impl Holds {
    /// Every reason that holds the lane, with the time at which it ends where one is known. A pause ends when somebody
    /// ends it, and a half-open circuit when the receiver has answered well often enough.
    pub(crate) fn list(&self) -> Vec<(Hold, Option<DateTime<Utc>>)> {
        let all = [
            (Hold::Paused, self.is_paused, None),
            (Hold::RetryAfter, self.rests_until.is_some(), self.rests_until),
            (Hold::Circuit, self.circuit_state != CircuitState::Closed, self.open_until),
            (Hold::RateLimit, self.token_held_until.is_some(), self.token_held_until),
            (Hold::MaxInFlight, self.full_until.is_some(), self.full_until),
        ];
        all.into_iter().filter(|(_, is_held, _)| *is_held).map(|(hold, _, until)| (hold, until)).collect()
    }
}
