//! What a list of deliveries asks of events and attempts. It is looked for with one array of ids: a look for each
//! delivery would choose its partition anew, which takes longer than the look itself.

use std::collections::HashSet;

use sqlx::{PgPool, types::Json};
use uuid::Uuid;

use super::{EXAMINED_TOGETHER, Filter, Look};
use crate::{Result, delivery::cause::Cause, event::event_type::EventType, page::bounds};

/// Whether the filter asks for anything of events or attempts.
pub(super) fn are_asked(filter: &Filter) -> bool {
    filter.event_type.is_some()
        || filter.metadata.is_some()
        || filter.slower_than_ms.is_some()
        || filter.min_attempts.is_some()
        || filter.cause.is_some()
}

/// Those of these deliveries, [`EXAMINED_TOGETHER`] at most, that fit what is asked of their events and attempts.
pub(super) async fn fitting(pool: &PgPool, filter: &Filter, mut rows: Vec<Look>) -> Result<Vec<Look>> {
    if filter.event_type.is_some() || filter.metadata.is_some() {
        let fitting = fitting_events(pool, filter, &rows).await?;
        rows.retain(|row| fitting.contains(&row.event_id));
    }
    if let Some(millis) = filter.slower_than_ms {
        let slow = slower_than(pool, millis, &rows).await?;
        rows.retain(|row| slow.contains(&row.id));
    }
    if let Some(number) = filter.min_attempts {
        let tried = tried(pool, number, &rows).await?;
        rows.retain(|row| tried.contains(&row.id));
    }
    if let Some(cause) = filter.cause {
        let failed = failed_so(pool, cause, &rows).await?;
        rows.retain(|row| failed.contains(&row.id));
    }
    Ok(rows)
}

/// The events of these deliveries of which holds what is asked of events.
async fn fitting_events(pool: &PgPool, filter: &Filter, rows: &[Look]) -> Result<HashSet<Uuid>> {
    let events: Vec<_> = rows.iter().map(|row| row.event_id).collect();
    let (first, last) = bounds(events.iter().copied());
    let fitting = sqlx::query_scalar!(
        r#"SELECT id AS "id!" FROM events
            WHERE id = ANY ($1) AND id >= $2 AND id <= $3
              AND ($4::text IS NULL OR event_type = $4) AND ($5::jsonb IS NULL OR metadata @> $5)
            LIMIT $6"#,
        &events,
        first,
        last,
        filter.event_type.as_ref().map(EventType::as_str),
        filter.metadata.as_ref().map(Json) as _,
        EXAMINED_TOGETHER,
    );
    Ok(fitting.fetch_all(pool).await?.into_iter().collect())
}

/// Those of these deliveries of which an attempt took longer.
async fn slower_than(pool: &PgPool, millis: i32, rows: &[Look]) -> Result<HashSet<Uuid>> {
    let deliveries: Vec<_> = rows.iter().map(|row| row.id).collect();
    let (first, last) = bounds(deliveries.iter().copied());
    let slow = sqlx::query_scalar!(
        "SELECT DISTINCT delivery_id FROM attempts
          WHERE delivery_id = ANY ($1) AND delivery_id >= $2 AND delivery_id <= $3 AND duration_ms > $4
          LIMIT $5",
        &deliveries,
        first,
        last,
        millis,
        EXAMINED_TOGETHER,
    );
    Ok(slow.fetch_all(pool).await?.into_iter().collect())
}

/// Those of these deliveries that have so many attempts. One that is under way is only in the queue.
async fn tried(pool: &PgPool, number: i32, rows: &[Look]) -> Result<HashSet<Uuid>> {
    let deliveries: Vec<_> = rows.iter().map(|row| row.id).collect();
    let (first, last) = bounds(deliveries.iter().copied());
    let tried = sqlx::query_scalar!(
        r#"(SELECT DISTINCT delivery_id AS "id!" FROM attempts
             WHERE delivery_id = ANY ($1) AND delivery_id >= $2 AND delivery_id <= $3 AND number >= $4
             LIMIT $5)
           UNION ALL
           (SELECT i.id FROM unnest($1::uuid[]) AS i (id)
             WHERE (SELECT q.attempt_count >= $4 FROM queue q WHERE q.delivery_id = i.id) LIMIT $5)"#,
        &deliveries,
        first,
        last,
        number,
        EXAMINED_TOGETHER,
    );
    Ok(tried.fetch_all(pool).await?.into_iter().collect())
}

/// Those of these deliveries whose last attempt failed for this cause.
async fn failed_so(pool: &PgPool, cause: Cause, rows: &[Look]) -> Result<HashSet<Uuid>> {
    let deliveries: Vec<_> = rows.iter().map(|row| row.id).collect();
    let (first, last) = bounds(deliveries.iter().copied());
    let (kinds, codes) = (cause.error_kinds(), cause.status_codes());
    let failed = sqlx::query_scalar!(
        "SELECT x.delivery_id
           FROM (SELECT DISTINCT ON (delivery_id) delivery_id, error_kind, status_code FROM attempts
                  WHERE delivery_id = ANY ($1) AND delivery_id >= $2 AND delivery_id <= $3
                  ORDER BY delivery_id, number DESC) x
          WHERE x.error_kind = ANY ($4) AND ($5::smallint[] IS NULL OR x.status_code = ANY ($5))
          LIMIT $6",
        &deliveries,
        first,
        last,
        &kinds,
        codes.as_deref(),
        EXAMINED_TOGETHER,
    );
    Ok(failed.fetch_all(pool).await?.into_iter().collect())
}
