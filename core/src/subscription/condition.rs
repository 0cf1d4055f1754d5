//! How the receivers of several subscriptions stand at this moment, as a list shows it: what their lanes say, and
//! nothing that has to be counted.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use uuid::Uuid;

use crate::{Error, Result, subscription::circuit::CircuitState};

/// What a lane says of its receiver.
#[derive(Clone, Copy, Debug)]
pub struct Condition {
    /// Whether the circuit lets deliveries through.
    pub circuit: CircuitState,
    /// When the cooldown of an open circuit is over.
    pub open_until: Option<DateTime<Utc>>,
    /// Since when every attempt has failed; `None` where the last one did not.
    pub failing_since: Option<DateTime<Utc>>,
    /// Until when the receiver asked to be left alone, where that is in the future.
    pub rests_until: Option<DateTime<Utc>>,
}

/// Reads what the newest versions of these lanes say; at most 1000 of them.
pub async fn read(pool: &PgPool, ids: &[Uuid]) -> Result<HashMap<Uuid, Condition>> {
    let rows = sqlx::query!(
        r#"SELECT l.id AS "id!", coalesce(l.circuit_state, 'closed') AS "circuit_state!",
                  CASE WHEN l.circuit_state = 'open' THEN l.open_until END AS open_until, l.failing_since,
                  CASE WHEN l.rests_until > now() THEN l.rests_until END AS rests_until
             FROM unnest($1::uuid[]) AS i (id)
            CROSS JOIN LATERAL (SELECT x.id, x.circuit_state, x.open_until, x.failing_since, x.rests_until
                                  FROM lanes x WHERE x.id = i.id ORDER BY x.revision DESC LIMIT 1) l
            LIMIT 1000"#,
        ids
    );
    let rows = rows.fetch_all(pool).await?.into_iter().map(|row| {
        let condition = Condition {
            circuit: row.circuit_state.parse().map_err(Error::internal)?,
            open_until: row.open_until,
            failing_since: row.failing_since,
            rests_until: row.rests_until,
        };
        Ok((row.id, condition))
    });
    rows.collect()
}
