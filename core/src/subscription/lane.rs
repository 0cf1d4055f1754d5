//! A subscription's lane: the copies of settings that hot statements read there, and what a change of the subscription
//! begins or ends in it. The functions of the queue do the rest.

use sqlx::PgConnection;

use crate::{
    Result,
    id::SubscriptionId,
    queue,
    subscription::{
        State,
        flow_settings::{DeliveryRate, MaxInFlight, Ordering},
        settings::Settings,
    },
};

/// The columns of a lane that are copies of settings.
struct Copies {
    lease_ms: i32,
    rate_interval_us: Option<i64>,
    rate_burst: Option<i32>,
    max_in_flight: Option<i32>,
    is_ordered: bool,
}

impl Copies {
    fn of(settings: &Settings) -> Self {
        let flow = &settings.flow;
        Self {
            lease_ms: settings.timeout.lease_ms(),
            rate_interval_us: flow.rate.map(DeliveryRate::interval_us),
            rate_burst: flow.rate.map(|rate| i32::try_from(rate.burst()).unwrap_or(i32::MAX)),
            max_in_flight: flow.max_in_flight.map(MaxInFlight::stored),
            is_ordered: flow.ordering == Ordering::Fifo,
        }
    }
}

/// Makes the lane of a new subscription.
pub async fn create(connection: &mut PgConnection, id: SubscriptionId, settings: &Settings) -> Result<()> {
    let copies = Copies::of(settings);
    sqlx::query!(
        "INSERT INTO lanes (id, subscription_id, lease_ms, rate_interval_us, rate_burst, max_in_flight, is_ordered)
         VALUES ($1, $1, $2, $3, $4, $5, $6)",
        id.0,
        copies.lease_ms,
        copies.rate_interval_us,
        copies.rate_burst,
        copies.max_in_flight,
        copies.is_ordered
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Brings the lane in line with changed settings, so that the next claim follows them. Holds that say nothing about the
/// new settings end: those of a rate limit or a number in flight that has changed, that of a circuit which is switched
/// off, and all that an earlier receiver brought about.
pub async fn update(connection: &mut PgConnection, id: SubscriptionId, was: &Settings, is: &Settings) -> Result<()> {
    let copies = Copies::of(is);
    let has_new_rate = is.flow.rate != was.flow.rate;
    sqlx::query!(
        "UPDATE lanes
            SET lease_ms = $2, rate_interval_us = $3, rate_burst = $4, max_in_flight = $5, is_ordered = $6,
                next_token_at = CASE WHEN NOT $7 THEN next_token_at END,
                token_held_until = CASE WHEN NOT $7 THEN token_held_until END,
                full_until = CASE WHEN NOT $8 THEN full_until END,
                failing_warned = CASE WHEN NOT $9 THEN failing_warned END
          WHERE id = $1",
        id.0,
        copies.lease_ms,
        copies.rate_interval_us,
        copies.rate_burst,
        copies.max_in_flight,
        copies.is_ordered,
        has_new_rate,
        is.flow.max_in_flight != was.flow.max_in_flight,
        is.flow.disable_after != was.flow.disable_after
    )
    .execute(&mut *connection)
    .await?;
    if is.flow.max_in_flight.is_some() && was.flow.max_in_flight.is_none() {
        count_leases(connection, id).await?;
    }
    let has_new_receiver = is.target_url != was.target_url;
    if has_new_receiver {
        // It was the old receiver that asked to be left alone, and that failed.
        queue::end_rest(connection, &[id.0]).await?;
        forget_failures(connection, id).await?;
    }
    if has_new_receiver {
        close_circuit(connection, id, Some("the subscription has another target")).await?;
    } else if is.flow.circuit.is_none() && was.flow.circuit.is_some() {
        close_circuit(connection, id, Some("it was switched off")).await?;
    }
    if has_new_receiver || is.flow != was.flow {
        queue::make_due(connection, &[id.0]).await?;
    }
    Ok(())
}

/// Counts the deliveries that are in flight already, because from now on their number is limited. The caller has the
/// lane locked, so no claim adds to them.
async fn count_leases(connection: &mut PgConnection, id: SubscriptionId) -> Result<()> {
    sqlx::query!(
        "INSERT INTO lane_leases (lane_id, expires_at, lease_token, count, is_probe)
         SELECT q.lane_id, max(q.due_at), q.lease_token, count(*), false FROM queue q
          WHERE q.lane_id = $1 AND q.lease_token IS NOT NULL AND q.due_at > clock_timestamp()
            AND NOT EXISTS (SELECT FROM lane_leases x WHERE x.lane_id = $1 AND x.lease_token = q.lease_token)
          GROUP BY q.lane_id, q.lease_token",
        id.0
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Holds the lane of a subscription that is not active, or lets it go on. What is known of its failures is forgotten
/// when it goes on, because the time in which nothing was attempted must not count as a time of failures. Whoever
/// enables a subscription that was disabled says that its receiver is well, so that its circuit closes, too.
pub async fn follow_state(connection: &mut PgConnection, id: SubscriptionId, from: State, to: State) -> Result<()> {
    match to {
        State::Paused | State::Disabled => {
            sqlx::query!("UPDATE lanes SET is_paused = true, due_at = 'infinity' WHERE id = $1", id.0)
                .execute(connection)
                .await?;
            Ok(())
        }
        State::Active => {
            forget_failures(connection, id).await?;
            if from == State::Disabled {
                close_circuit(connection, id, Some("the subscription was enabled")).await?;
            }
            resume(connection, id).await
        }
    }
}

/// Lets workers cancel what waits in the lane of a deleted subscription, as fast as they can: no limit that protected
/// its receiver applies any more.
pub async fn abandon(connection: &mut PgConnection, id: SubscriptionId) -> Result<()> {
    sqlx::query!(
        "UPDATE lanes
            SET rate_interval_us = NULL, rate_burst = NULL, max_in_flight = NULL, is_ordered = false,
                next_token_at = NULL, token_held_until = NULL, full_until = NULL
          WHERE id = $1",
        id.0
    )
    .execute(&mut *connection)
    .await?;
    forget_failures(connection, id).await?;
    close_circuit(connection, id, None).await?;
    resume(connection, id).await
}

/// Ends the hold of a pause. The lane is due as soon as its other holds allow. What waited meanwhile is not late: it
/// rested.
async fn resume(connection: &mut PgConnection, id: SubscriptionId) -> Result<()> {
    sqlx::query!(
        "UPDATE lanes SET is_paused = false, rests_until = greatest(rests_until, clock_timestamp()) WHERE id = $1",
        id.0
    )
    .execute(&mut *connection)
    .await?;
    queue::make_due(connection, &[id.0]).await
}

/// Closes the circuit, and forgets what it has counted. The operator is told why, if there is a reason to tell. The
/// caller has changed the lane in this transaction, so it is locked.
async fn close_circuit(connection: &mut PgConnection, id: SubscriptionId, reason: Option<&str>) -> Result<()> {
    sqlx::query!(
        "SELECT CASE WHEN l.circuit_state IS NOT NULL AND $2::text IS NOT NULL
                     THEN circuit_event('closed', close_circuit(l), $2) IS NULL END AS told
           FROM lanes l, store_lane(l.ctid, close_circuit(l)) WHERE l.id = $1",
        id.0,
        reason
    )
    .fetch_optional(connection)
    .await?;
    Ok(())
}

/// Forgets since when the receiver has answered with nothing but failures.
async fn forget_failures(connection: &mut PgConnection, id: SubscriptionId) -> Result<()> {
    sqlx::query!(
        "UPDATE lanes SET failing_since = NULL, failing_attempts = NULL, failing_warned = NULL WHERE id = $1",
        id.0
    )
    .execute(connection)
    .await?;
    Ok(())
}
