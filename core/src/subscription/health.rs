//! How the deliveries of a subscription fare at this moment: what waits, what they wait for, and how its receiver has
//! answered of late. Whatever is counted or looked for has a bound, however large the backlog is.

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use crate::{
    Error, Result,
    id::SubscriptionId,
    queue::attempt::ErrorKind,
    subscription::{
        State,
        circuit::CircuitState,
        hold::{Hold, Holds},
    },
};

/// Deliveries that are counted, at most: so many that are due, and as many that are not due yet or in flight.
pub const COUNTED_MAX: i64 = 10_000;
/// Deliveries whose attempts are looked at for the last success and the last failure, at most: so many of the newest,
/// and twice as many of those that are not finished.
pub const EXAMINED_MAX: i64 = 1_000;

/// How the deliveries of a subscription fare.
#[derive(Clone, Debug)]
pub struct Health {
    /// Whether events are accepted and delivered.
    pub state: State,
    /// The circuit; `None` where it is switched off.
    pub circuit: Option<Circuit>,
    /// The deliveries that are not finished.
    pub waiting: Waiting,
    /// Since when the delivery has been due that has been due longest; `None` where none is due.
    pub oldest_due_at: Option<DateTime<Utc>>,
    /// When the next attempt may begin; in the past where one is about to begin, and `None` where nothing waits or
    /// nobody knows, because the subscription is paused or disabled.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// All reasons for which deliveries wait at this moment.
    pub held_by: Vec<Hold>,
    /// When the last attempt began that succeeded, among the attempts that are looked at.
    pub last_success_at: Option<DateTime<Utc>>,
    /// The last attempt that failed, among the attempts that are looked at.
    pub last_failure: Option<LastFailure>,
    /// Since when every attempt has failed; `None` where the last one did not.
    pub failing_since: Option<DateTime<Utc>>,
}

/// The state of a circuit.
#[derive(Clone, Debug)]
pub struct Circuit {
    /// Whether the circuit lets deliveries through.
    pub state: CircuitState,
    /// When it opened; `None` while it is closed.
    pub opened_at: Option<DateTime<Utc>>,
    /// When the cooldown is over and a delivery is attempted again; only while it is open.
    pub next_probe_at: Option<DateTime<Utc>>,
    /// Failed attempts since the last success.
    pub failures_in_a_row: i32,
    /// Seconds for which it stays open this time; `None` while it is closed.
    pub cooldown_seconds: Option<i32>,
}

/// Counts of deliveries that are not finished, none of them over [`COUNTED_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Deliveries that are due, whether they are held or not.
    pub due: i64,
    /// Deliveries that are due later, or after another one of their ordering key.
    pub scheduled: i64,
    /// Deliveries that a worker is attempting.
    pub in_flight: i64,
    /// Whether there are more, so that each count means "at least".
    pub is_more: bool,
}

/// A failed attempt.
#[derive(Clone, Debug)]
pub struct LastFailure {
    /// When the attempt began, by the worker's clock.
    pub at: DateTime<Utc>,
    /// The HTTP status of the answer, if one arrived.
    pub status_code: Option<i16>,
    /// The kind of reason, a word of [`ErrorKind`].
    pub error_kind: String,
}

/// Reads how the deliveries of a subscription fare.
///
/// # Errors
/// Not found where there is no such subscription.
pub async fn read(pool: &PgPool, id: SubscriptionId) -> Result<Health> {
    let lane = Lane::read(pool, id).await?;
    let queued = Queued::read(pool, id).await?;
    let (last_success_at, last_failure) = last_attempts(pool, id).await?;
    let not_before = |due_at: DateTime<Utc>| lane.held_until.map_or(due_at, |held_until| held_until.max(due_at));
    Ok(Health {
        state: lane.state.parse().map_err(Error::internal)?,
        circuit: lane.circuit()?,
        waiting: queued.waiting(),
        oldest_due_at: queued.oldest_due_at,
        next_attempt_at: queued.next_due_at.filter(|_| !lane.is_paused).map(not_before),
        held_by: lane.held_by()?,
        last_success_at,
        last_failure,
        failing_since: lane.failing_since,
    })
}

/// What the newest version of the lane says. A time until which it is held is there only while it lies in the future.
struct Lane {
    state: String,
    has_circuit: bool,
    is_paused: bool,
    rests_until: Option<DateTime<Utc>>,
    token_held_until: Option<DateTime<Utc>>,
    full_until: Option<DateTime<Utc>>,
    held_until: Option<DateTime<Utc>>,
    circuit_state: String,
    opened_at: Option<DateTime<Utc>>,
    next_probe_at: Option<DateTime<Utc>>,
    failures_in_a_row: i32,
    cooldown_seconds: i32,
    failing_since: Option<DateTime<Utc>>,
}

impl Lane {
    async fn read(pool: &PgPool, id: SubscriptionId) -> Result<Self> {
        let lane = sqlx::query_as!(
            Self,
            r#"SELECT s.state::text AS "state!", s.circuit IS NOT NULL AS "has_circuit!",
                      coalesce(l.is_paused, s.state <> 'active') AS "is_paused!",
                      CASE WHEN l.rests_until > now() THEN l.rests_until END AS rests_until,
                      CASE WHEN l.token_held_until > now() THEN l.token_held_until END AS token_held_until,
                      CASE WHEN l.full_until > now() THEN l.full_until END AS full_until,
                      CASE WHEN l.held_until > now() THEN nullif(l.held_until, 'infinity') END AS held_until,
                      coalesce(l.circuit_state, 'closed') AS "circuit_state!", l.opened_at AS "opened_at?",
                      CASE WHEN l.circuit_state = 'open' THEN l.open_until END AS next_probe_at,
                      coalesce(l.failures_in_a_row, 0) AS "failures_in_a_row!",
                      coalesce(l.cooldown_seconds, 0) AS "cooldown_seconds!", l.failing_since AS "failing_since?"
                 FROM subscriptions s
                 LEFT JOIN LATERAL (SELECT x.is_paused, x.rests_until, x.open_until, x.token_held_until, x.full_until,
                                           x.held_until, x.circuit_state, x.opened_at, x.failures_in_a_row,
                                           x.cooldown_seconds, x.failing_since
                                      FROM lanes x WHERE x.id = s.id ORDER BY x.revision DESC LIMIT 1) l ON true
                WHERE s.id = $1 AND s.deleted_at IS NULL"#,
            id.0
        );
        lane.fetch_optional(pool).await?.ok_or(Error::NotFound("subscription"))
    }

    fn held_by(&self) -> Result<Vec<Hold>> {
        let holds = Holds {
            is_paused: self.is_paused,
            rests_until: self.rests_until,
            circuit_state: self.circuit_state.parse().map_err(Error::internal)?,
            open_until: self.next_probe_at,
            token_held_until: self.token_held_until,
            full_until: self.full_until,
        };
        Ok(holds.list().into_iter().map(|(hold, _)| hold).collect())
    }

    fn circuit(&self) -> Result<Option<Circuit>> {
        let state: CircuitState = self.circuit_state.parse().map_err(Error::internal)?;
        let circuit = Circuit {
            state,
            opened_at: self.opened_at,
            next_probe_at: self.next_probe_at,
            failures_in_a_row: self.failures_in_a_row,
            cooldown_seconds: (state != CircuitState::Closed).then_some(self.cooldown_seconds),
        };
        Ok(self.has_circuit.then_some(circuit))
    }
}

/// What was counted in the queue, at most one more of each than [`COUNTED_MAX`].
struct Queued {
    due: i64,
    scheduled: i64,
    in_flight: i64,
    oldest_due_at: Option<DateTime<Utc>>,
    next_due_at: Option<DateTime<Utc>>,
}

impl Queued {
    /// A row whose lease has expired is due. A row that is due at infinity waits for another one of its ordering key.
    async fn read(pool: &PgPool, id: SubscriptionId) -> Result<Self> {
        let queued = sqlx::query_as!(
            Self,
            r#"WITH due AS (
                   SELECT due_at FROM queue
                    WHERE lane_id = $1 AND due_at <= now()
                    ORDER BY due_at LIMIT $2),
               later AS (
                   SELECT due_at, lease_token IS NOT NULL AS is_leased FROM queue
                    WHERE lane_id = $1 AND due_at > now()
                    ORDER BY due_at LIMIT $2),
               waits AS (
                   SELECT count(*) AS due, min(due_at) AS oldest_due_at FROM due),
               comes AS (
                   SELECT count(*) FILTER (WHERE NOT is_leased) AS scheduled,
                          count(*) FILTER (WHERE is_leased) AS in_flight,
                          min(due_at) FILTER (WHERE NOT is_leased) AS due_at
                     FROM later)
               SELECT waits.due AS "due!", comes.scheduled AS "scheduled!", comes.in_flight AS "in_flight!",
                      waits.oldest_due_at,
                      nullif(least(waits.oldest_due_at, comes.due_at), 'infinity') AS next_due_at
                 FROM waits CROSS JOIN comes"#,
            id.0,
            COUNTED_MAX + 1
        );
        Ok(queued.fetch_one(pool).await?)
    }

    fn waiting(&self) -> Waiting {
        Waiting {
            due: self.due.min(COUNTED_MAX),
            scheduled: self.scheduled.min(COUNTED_MAX),
            in_flight: self.in_flight.min(COUNTED_MAX),
            is_more: self.due > COUNTED_MAX || self.scheduled + self.in_flight > COUNTED_MAX,
        }
    }
}

/// The last attempt that succeeded, and the last one that failed through the receiver, of the deliveries that are
/// looked at: the newest, those that became due last, and those that are due or end next.
async fn last_attempts(pool: &PgPool, id: SubscriptionId) -> Result<(Option<DateTime<Utc>>, Option<LastFailure>)> {
    let not_the_receivers: Vec<String> = ErrorKind::ALL
        .into_iter()
        .filter(|kind| kind.is_our_fault() || *kind == ErrorKind::PayloadGone)
        .map(ErrorKind::as_str)
        .chain(["lease_lost"])
        .map(str::to_owned)
        .collect();
    let last = sqlx::query!(
        r#"WITH looked_at AS MATERIALIZED (
               (SELECT id FROM deliveries WHERE subscription_id = $1 ORDER BY id DESC LIMIT $2)
               UNION
               (SELECT delivery_id FROM queue WHERE lane_id = $1 AND due_at <= now() ORDER BY due_at DESC LIMIT $2)
               UNION
               (SELECT delivery_id FROM queue WHERE lane_id = $1 AND due_at > now() ORDER BY due_at LIMIT $2)),
           success AS (
               SELECT max(a.started_at) AS at
                 FROM looked_at d
                CROSS JOIN LATERAL (SELECT x.started_at FROM attempts x
                                     WHERE x.delivery_id = d.id AND x.error_kind IS NULL
                                     ORDER BY x.number DESC LIMIT 1) a),
           failure AS (
               SELECT a.started_at AS at, a.status_code, a.error_kind
                 FROM looked_at d
                CROSS JOIN LATERAL (SELECT x.started_at, x.status_code, x.error_kind FROM attempts x
                                     WHERE x.delivery_id = d.id AND x.error_kind <> ALL ($3)
                                     ORDER BY x.number DESC LIMIT 1) a
                ORDER BY a.started_at DESC LIMIT 1)
           SELECT success.at AS success_at, failure.at AS "failure_at?", failure.status_code AS "status_code?",
                  failure.error_kind AS "error_kind?"
             FROM success LEFT JOIN failure ON true"#,
        id.0,
        EXAMINED_MAX,
        &not_the_receivers
    );
    let last = last.fetch_one(pool).await?;
    let failure = last.failure_at.zip(last.error_kind);
    let failure = failure.map(|(at, error_kind)| LastFailure { at, status_code: last.status_code, error_kind });
    Ok((last.success_at, failure))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_that_is_cut_off_says_so() {
        let queued = |due, scheduled, in_flight| {
            Queued { due, scheduled, in_flight, oldest_due_at: None, next_due_at: None }.waiting()
        };
        let waiting = |due, scheduled, in_flight, is_more| Waiting { due, scheduled, in_flight, is_more };
        assert_eq!(queued(0, 0, 0), waiting(0, 0, 0, false));
        assert_eq!(queued(COUNTED_MAX, COUNTED_MAX - 3, 3), waiting(COUNTED_MAX, COUNTED_MAX - 3, 3, false));
        assert_eq!(queued(COUNTED_MAX + 1, 0, 0), waiting(COUNTED_MAX, 0, 0, true));
        assert_eq!(queued(1, COUNTED_MAX - 1, 2), waiting(1, COUNTED_MAX - 1, 2, true));
    }
}
