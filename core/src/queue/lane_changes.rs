//! Changes of lanes that people bring about: a hold ends, or a delivery is removed from an ordered lane.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::{Result, queue::call_workers};

/// Makes ordered lanes due from which deliveries were removed, so that the next of their keys go; the workers are woken
/// when this transaction commits. Other lanes are left alone.
pub(crate) async fn go_on(connection: &mut PgConnection, lanes: &[Uuid]) -> Result<()> {
    let armed = sqlx::query_scalar!(r#"SELECT arm_freed_lanes($1) AS "armed!""#, lanes);
    if armed.fetch_one(&mut *connection).await? {
        call_workers(connection).await?;
    }
    Ok(())
}

/// Ends the time for which these lanes rest because their receivers asked for it, or because their circuits are open,
/// so that they are due now, and wakes the workers when this transaction commits. (The circuit is half open then.) A
/// lane whose subscription is paused stays held, and a limit of its rate or of its attempts at once holds on.
pub(crate) async fn end_rest(connection: &mut PgConnection, lanes: &[Uuid]) -> Result<()> {
    // A rest that is only noted would come back when the note is handled.
    sqlx::query!("UPDATE lanes_to_arm SET rests_until = '-infinity' WHERE lane_id = ANY ($1)", lanes)
        .execute(&mut *connection)
        .await?;
    let ended = sqlx::query_scalar!(
        "UPDATE lanes SET rests_until = clock_timestamp(), open_until = NULL
          WHERE ctid = ANY (ARRAY(SELECT l.ctid FROM lanes l
                                   WHERE l.id = ANY ($1)
                                     AND greatest(l.rests_until, l.open_until) > clock_timestamp()
                                   ORDER BY l.id FOR UPDATE))
         RETURNING id",
        lanes
    );
    let ended = ended.fetch_all(&mut *connection).await?;
    if ended.is_empty() {
        return Ok(());
    }
    make_due(connection, &ended).await
}

/// Makes these lanes due as soon as their holds allow, and wakes the workers when this transaction commits. The caller
/// has changed the lanes in this transaction, so they are locked.
pub(crate) async fn make_due(connection: &mut PgConnection, lanes: &[Uuid]) -> Result<()> {
    sqlx::query!(
        "UPDATE lanes SET due_at = greatest(clock_timestamp(), held_until), drained_at = NULL WHERE id = ANY ($1)",
        lanes
    )
    .execute(&mut *connection)
    .await?;
    call_workers(connection).await
}
