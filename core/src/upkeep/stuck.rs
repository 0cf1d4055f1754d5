//! Tells what does not move although it should, besides late lanes: publications without deliveries, jobs, emitters
//! and notes that nobody works on, partitions that run out. It changes nothing.

use sqlx::PgPool;

use crate::{
    Result,
    upkeep::partition::{self, DAYS_AHEAD_ALARM},
};

/// Says what is stuck and why, a sentence each; on a healthy system there are none. What has waited for less than a
/// minute is not stuck: a worker may be about to do it.
///
/// # Errors
/// When the database is away.
pub async fn find(pool: &PgPool) -> Result<Vec<String>> {
    // A process that has not been seen for 45 seconds counts as gone elsewhere, too.
    let stuck = sqlx::query!(
        r#"SELECT (SELECT count(*) FROM outbox
                    WHERE event_id < uuid_floor(now() - interval '1 minute')) AS "published!",
                  (SELECT count(*) FROM outbox
                    WHERE event_id < uuid_floor(now() - interval '1 minute') AND retry_at > now()) AS "failed!",
                  (SELECT count(*) FROM jobs
                    WHERE (state = 'running' OR to_cancel IS NOT NULL)
                      AND next_step_at < now() - interval '1 minute') AS "jobs!",
                  (SELECT count(*) FROM emitters
                    WHERE status = 'running' AND next_step_at < now() - interval '1 minute') AS "emitters!",
                  (SELECT count(*) FROM lanes_to_arm WHERE moment < now() - interval '1 minute') AS "notes!",
                  (SELECT count(*) FROM processes
                    WHERE kind = 'worker' AND seen_at > now() - interval '45 seconds') AS "workers!""#
    );
    let stuck = stuck.fetch_one(pool).await?;
    let why = if stuck.workers == 0 { "no worker runs" } else { "the workers do not get to it" };
    let mut lines = Vec::new();
    if stuck.failed > 0 {
        lines.push(format!(
            "{} events published by SQL: making their deliveries has failed, and is tried again; the log of a worker \
             says why",
            stuck.failed
        ));
    }
    if stuck.published > stuck.failed {
        lines.push(format!("{} events published by SQL have no deliveries yet: {why}", stuck.published - stuck.failed));
    }
    if stuck.jobs > 0 {
        lines.push(format!("{} jobs make no steps: {why}", stuck.jobs));
    }
    if stuck.emitters > 0 {
        lines.push(format!("{} emitters make no events: {why}", stuck.emitters));
    }
    if stuck.notes > 0 {
        lines
            .push(format!("{} lanes were locked when they had to be armed, and are not armed yet: {why}", stuck.notes));
    }
    let days = partition::runway(pool).await?;
    if days < DAYS_AHEAD_ALARM {
        lines.push(format!("there are partitions for {days} days after today only: nobody makes them"));
    }
    Ok(lines)
}
