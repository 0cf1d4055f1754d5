//! Tells which lanes are late, and why: those with deliveries that are due and that nobody attempts. It is for an
//! operator who asks, because it looks at every lane; nothing is changed.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    Error, Result,
    id::SubscriptionId,
    subscription::hold::{Hold, Holds},
};

/// Lanes that are listed, at most.
pub const LISTED_MAX: usize = 100;
/// Deliveries that are counted in each of them, at most: so many that are due, and as many that are in flight.
pub const COUNTED_MAX: i64 = 1_000;
/// A lane that nothing holds is late when a delivery has been due in it for so many seconds. Before that, a worker may
/// be about to claim it.
pub const UNHELD_SECONDS: f64 = 5.0;

/// The late lanes.
#[derive(Clone, Debug)]
pub struct LateLanes {
    /// Those that have waited longest, from the longest on; at most [`LISTED_MAX`].
    pub lanes: Vec<LateLane>,
    /// Whether there are more.
    pub is_more: bool,
}

/// A lane with deliveries that are due and wait.
#[derive(Clone, Debug)]
pub struct LateLane {
    /// The lane.
    pub lane: Uuid,
    /// The lane's subscription; `None` for a lane of inline deliveries.
    pub subscription: Option<SubscriptionId>,
    /// How many deliveries are due, at least 1 and at most [`COUNTED_MAX`], which then means "at least".
    pub due: i64,
    /// How many are in flight, at most [`COUNTED_MAX`].
    pub in_flight: i64,
    /// Since when the first of them is due.
    pub since: DateTime<Utc>,
    /// All that holds the lane, each with the time at which it ends where that is known. Where nothing holds it, no
    /// worker runs, or the workers have less room than there is to do.
    pub holds: Vec<(Hold, Option<DateTime<Utc>>)>,
}

/// Lists the late lanes.
///
/// # Errors
/// When the database is away.
pub async fn list(pool: &PgPool) -> Result<LateLanes> {
    // A time until which a lane is held counts only while it lies in the future. Deliveries in flight are due later,
    // when their leases expire.
    let rows = sqlx::query!(
        r#"WITH late AS MATERIALIZED (
               SELECT l.id, l.subscription_id, l.is_paused, coalesce(l.circuit_state, 'closed') AS circuit_state,
                      CASE WHEN l.rests_until > now() THEN l.rests_until END AS rests_until,
                      CASE WHEN l.open_until > now() THEN l.open_until END AS open_until,
                      CASE WHEN l.token_held_until > now() THEN l.token_held_until END AS token_held_until,
                      CASE WHEN l.full_until > now() THEN l.full_until END AS full_until,
                      first.due_at AS since
                 FROM lanes l
                CROSS JOIN LATERAL (SELECT q.due_at FROM queue q
                                     WHERE q.lane_id = l.id AND q.due_at <= now()
                                     ORDER BY q.due_at LIMIT 1) first
                WHERE l.held_until > now() OR first.due_at <= now() - make_interval(secs => $1)
                ORDER BY first.due_at, l.id LIMIT $2)
           SELECT late.id, late.subscription_id, late.is_paused, late.circuit_state AS "circuit_state!",
                  late.rests_until, late.open_until, late.token_held_until, late.full_until, late.since,
                  due.count AS "due!", leased.count AS "in_flight!"
             FROM late
            CROSS JOIN LATERAL (SELECT count(*) FROM (
                                    SELECT FROM queue q
                                     WHERE q.lane_id = late.id AND q.due_at <= now()
                                     ORDER BY q.due_at LIMIT $3) x) due
            CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE x.is_leased) FROM (
                                    SELECT q.lease_token IS NOT NULL AS is_leased FROM queue q
                                     WHERE q.lane_id = late.id AND q.due_at > now()
                                     ORDER BY q.due_at LIMIT $3) x) leased
            ORDER BY late.since, late.id"#,
        UNHELD_SECONDS,
        i64::try_from(LISTED_MAX + 1).unwrap_or(i64::MAX),
        COUNTED_MAX
    );
    let rows = rows.fetch_all(pool).await?;
    let is_more = rows.len() > LISTED_MAX;
    let mut lanes = Vec::new();
    for row in rows.into_iter().take(LISTED_MAX) {
        let holds = Holds {
            is_paused: row.is_paused,
            rests_until: row.rests_until,
            circuit_state: row.circuit_state.parse().map_err(Error::internal)?,
            open_until: row.open_until,
            token_held_until: row.token_held_until,
            full_until: row.full_until,
        };
        lanes.push(LateLane {
            lane: row.id,
            subscription: row.subscription_id.map(SubscriptionId),
            due: row.due,
            in_flight: row.in_flight,
            since: row.since,
            holds: holds.list(),
        });
    }
    Ok(LateLanes { lanes, is_more })
}

/// Reads as in `sub_0198…: 3 due since 2026-01-31T12:00:00Z, 1 in flight, held by: circuit until …`.
impl fmt::Display for LateLane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
        match self.subscription {
            Some(subscription) => write!(f, "{subscription}")?,
            None => write!(f, "inline deliveries in lane {}", self.lane)?,
        }
        let at_least = if self.due >= COUNTED_MAX { "at least " } else { "" };
        write!(f, ": {at_least}{} due since {}, {} in flight, ", self.due, time(self.since), self.in_flight)?;
        if self.holds.is_empty() {
            return write!(f, "held by nothing: no worker has room for it, or none runs");
        }
        for (number, (hold, until)) in self.holds.iter().enumerate() {
            write!(f, "{}{hold}", if number == 0 { "held by: " } else { ", " })?;
            if let Some(until) = until {
                write!(f, " until {}", time(*until))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn a_late_lane_reads_as_a_line() {
        let since = DateTime::from_timestamp(1_800_000_000, 0).expect("in range");
        let until = Some(since + TimeDelta::seconds(90));
        let id = Uuid::from_u128(1);
        let subscription = Some(SubscriptionId(id));
        for (subscription, due, in_flight, holds, line) in [
            (
                subscription,
                3,
                1,
                vec![(Hold::Circuit, until), (Hold::MaxInFlight, None)],
                "sub_00000000000000000000000000000001: 3 due since 2027-01-15T08:00:00Z, 1 in flight, held by: circuit \
                 until 2027-01-15T08:01:30Z, max_in_flight",
            ),
            (
                subscription,
                COUNTED_MAX,
                0,
                vec![(Hold::Paused, None)],
                "sub_00000000000000000000000000000001: at least 1000 due since 2027-01-15T08:00:00Z, 0 in flight, held \
                 by: paused",
            ),
            (
                None,
                1,
                0,
                Vec::new(),
                "inline deliveries in lane 00000000-0000-0000-0000-000000000001: 1 due since 2027-01-15T08:00:00Z, 0 \
                 in flight, held by nothing: no worker has room for it, or none runs",
            ),
        ] {
            let lane = LateLane { lane: id, subscription, due, in_flight, since, holds };
            assert_eq!(lane.to_string(), line);
        }
    }
}
