//! What waits in the queue, and other sizes of the database, as metrics show them. One process counts for all, with
//! bounds; each shows what was counted.

use std::{collections::BTreeMap, time::Duration};

use sqlx::{PgPool, types::Json};

use crate::Result;

/// No count goes beyond this number.
pub const COUNTED_MAX: i32 = 100_000;
/// How old the stored numbers may be before they are counted again.
const AGE_MAX: Duration = Duration::from_secs(10);
/// The states of subscriptions, and what may be said of the health of each.
const STATES: [&str; 3] = ["active", "paused", "disabled"];
const HEALTHS: [&str; 2] = ["ok", "failing"];

/// Counts, and stores the numbers for all processes. Nothing is done where the numbers are fresh.
pub async fn measure(pool: &PgPool) -> Result<()> {
    sqlx::query!(
        "SELECT measure_queue($2) FROM queue_size WHERE measured_at < clock_timestamp() - make_interval(secs => $1)",
        AGE_MAX.as_secs_f64(),
        COUNTED_MAX
    )
    .fetch_optional(pool)
    .await?;
    Ok(())
}

/// Sets the gauges from the stored numbers, and that of the longest time for which a lane is due without a visit.
pub async fn show(pool: &PgPool) -> Result<()> {
    let size = sqlx::query!(
        r#"SELECT due, scheduled, held, in_flight, dead_letters, circuits_open, circuits_half_open,
                  subscriptions AS "subscriptions: Json<BTreeMap<String, BTreeMap<String, i64>>>",
                  extract(epoch FROM partitions_until - clock_timestamp())::float8 AS runway,
                  (SELECT coalesce(extract(epoch FROM clock_timestamp() - min(due_at)), 0)::float8
                     FROM lanes WHERE due_at <= clock_timestamp()) AS "oldest_due!"
             FROM queue_size"#
    );
    let size = size.fetch_one(pool).await?;
    let by_state =
        [("due", size.due), ("scheduled", size.scheduled), ("held", size.held), ("in_flight", size.in_flight)];
    for (state, count) in by_state {
        metrics::gauge!("postrider_queue_depth", "state" => state).set(gauge(count));
    }
    for (state, count) in [("open", size.circuits_open), ("half_open", size.circuits_half_open)] {
        metrics::gauge!("postrider_circuits", "state" => state).set(gauge(count));
    }
    for (state, health) in STATES.into_iter().flat_map(|state| HEALTHS.map(|health| (state, health))) {
        let count = size.subscriptions.get(state).and_then(|counts| counts.get(health)).copied().unwrap_or_default();
        metrics::gauge!("postrider_subscriptions", "state" => state, "health" => health).set(gauge(count));
    }
    metrics::gauge!("postrider_dead_letters").set(gauge(size.dead_letters));
    metrics::gauge!("postrider_queue_oldest_due_seconds").set(size.oldest_due);
    if let Some(runway) = size.runway {
        metrics::gauge!("postrider_partition_runway_seconds").set(runway);
    }
    Ok(())
}

fn gauge(count: i64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
