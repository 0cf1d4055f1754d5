//! How the receivers of a demo fare: what came of their deliveries, what waits, and the light that sums it up.

use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    Error, Result,
    demo::{Demo, Kind},
    id::SubscriptionId,
    subscription::circuit::CircuitState,
    text_enum::text_enum,
};

/// Deliveries that are counted for each receiver, at most.
pub const COUNTED_MAX: i64 = 1_000;
/// Deliveries that may wait for their first attempt in a lane that keeps up.
const WAITING_MAX: i64 = 3;

text_enum! {
    /// How a receiver fares, in a word.
    pub enum Light {
        /// Nothing was sent yet.
        Idle = "idle",
        /// What was sent has arrived.
        Green = "green",
        /// Deliveries wait, or are tried again.
        Yellow = "yellow",
        /// Deliveries were given up, or the circuit is not closed.
        Red = "red",
    }
}

/// What is known of a receiver's deliveries; each count is at most [`COUNTED_MAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Deliveries that the receiver has taken.
    pub succeeded: i64,
    /// Deliveries that failed and wait for another attempt.
    pub retrying: i64,
    /// Deliveries that wait for their first attempt.
    pub waiting: i64,
    /// Deliveries that are being attempted.
    pub in_flight: i64,
    /// Deliveries that were given up.
    pub dead_letters: i64,
    /// Deliveries that were called off, as all that wait at the end are.
    pub canceled: i64,
}

/// How a receiver of a demo fares.
#[derive(Clone, Debug)]
pub struct Card {
    /// The receiver.
    pub kind: Kind,
    /// The subscription that was made for it.
    pub subscription_id: SubscriptionId,
    /// What came of its deliveries.
    pub counts: Counts,
    /// Whether its circuit lets deliveries through.
    pub circuit: CircuitState,
    /// How it fares, in a word.
    pub light: Light,
}

impl Counts {
    /// The light for these counts and this circuit.
    #[must_use]
    pub fn light(&self, circuit: CircuitState) -> Light {
        if circuit != CircuitState::Closed || self.dead_letters > 0 {
            Light::Red
        } else if self.retrying > 0 || self.waiting > WAITING_MAX {
            Light::Yellow
        } else if self.succeeded > 0 {
            Light::Green
        } else {
            Light::Idle
        }
    }
}

/// Reads how the receivers of a demo fare, in their order.
pub async fn read(pool: &PgPool, demo: &Demo) -> Result<Vec<Card>> {
    let ids: Vec<Uuid> = demo.receivers.iter().map(|(_, id)| id.0).collect();
    let rows = sqlx::query!(
        r#"SELECT d.succeeded AS "succeeded!", d.dead_letters AS "dead_letters!", d.canceled AS "canceled!",
                  q.retrying AS "retrying!", q.waiting AS "waiting!", q.in_flight AS "in_flight!",
                  coalesce(l.circuit_state, 'closed') AS "circuit_state!"
             FROM unnest($1::uuid[]) WITH ORDINALITY AS i (id, place)
            CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE x.status = 'succeeded') AS succeeded,
                                       count(*) FILTER (WHERE x.status = 'dead_letter') AS dead_letters,
                                       count(*) FILTER (WHERE x.status = 'canceled') AS canceled
                                  FROM (SELECT y.status FROM deliveries y WHERE y.subscription_id = i.id
                                         ORDER BY y.id DESC LIMIT $2) x) d
            CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE NOT x.is_leased AND x.attempt_count > 0) AS retrying,
                                       count(*) FILTER (WHERE NOT x.is_leased AND x.attempt_count = 0) AS waiting,
                                       count(*) FILTER (WHERE x.is_leased) AS in_flight
                                  FROM (SELECT y.attempt_count,
                                               y.lease_token IS NOT NULL AND y.due_at > clock_timestamp() AS is_leased
                                          FROM queue y WHERE y.lane_id = i.id ORDER BY y.due_at LIMIT $2) x) q
             LEFT JOIN LATERAL (SELECT x.circuit_state FROM lanes x WHERE x.id = i.id
                                 ORDER BY x.revision DESC LIMIT 1) l ON true
            ORDER BY i.place
            LIMIT 100"#,
        &ids,
        COUNTED_MAX
    );
    let cards = demo.receivers.iter().zip(rows.fetch_all(pool).await?).map(|((kind, subscription_id), row)| {
        let circuit = row.circuit_state.parse().map_err(Error::internal)?;
        let counts = Counts {
            succeeded: row.succeeded,
            retrying: row.retrying,
            waiting: row.waiting,
            in_flight: row.in_flight,
            dead_letters: row.dead_letters,
            canceled: row.canceled,
        };
        let light = counts.light(circuit);
        Ok(Card { kind: *kind, subscription_id: *subscription_id, counts, circuit, light })
    });
    cards.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_decides_about_the_light() {
        let none = Counts::default();
        for (counts, circuit, light) in [
            (none, CircuitState::Closed, Light::Idle),
            (Counts { in_flight: 1, waiting: 3, ..none }, CircuitState::Closed, Light::Idle),
            (Counts { succeeded: 1, waiting: 3, ..none }, CircuitState::Closed, Light::Green),
            (Counts { succeeded: 9, waiting: 4, ..none }, CircuitState::Closed, Light::Yellow),
            (Counts { succeeded: 9, retrying: 1, ..none }, CircuitState::Closed, Light::Yellow),
            (Counts { succeeded: 9, retrying: 1, dead_letters: 1, ..none }, CircuitState::Closed, Light::Red),
            (Counts { succeeded: 9, ..none }, CircuitState::Open, Light::Red),
            (none, CircuitState::HalfOpen, Light::Red),
        ] {
            assert_eq!(counts.light(circuit), light, "{counts:?} {circuit}");
        }
    }
}
