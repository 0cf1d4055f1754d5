//! Lists of deliveries. The page's ids come from the index that fits the filter best, by a scan of a bounded number of
//! rows; their details are read afterwards. A condition on the delivery or its event is a scalar subquery: an EXISTS
//! may be planned as a join that reads all events, and a join is planned for every partition, even if nothing is asked
//! of it. Only a list of all deliveries by what their events are finds those events by a second statement. The rows are
//! not materialized, so the scan ends where the page is full. Where it is not full, the row is read as well at which
//! the scan stopped.

mod conditions;

use sqlx::{PgPool, types::Json};
use uuid::Uuid;

use crate::{
    Result,
    delivery::{Delivery, Status, cause::Cause, job::filter::Destinations, views},
    event::{event_type::EventType, metadata::Metadata},
    id::{EventId, JobId, SubscriptionId},
    page::{EXAMINED_MAX, Found, Page, Range, Span},
};

/// Deliveries whose events are looked for together.
const EXAMINED_TOGETHER: i64 = 1000;

/// Which deliveries a list shows; an absent field means no restriction.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only deliveries of this tenant.
    pub tenant_id: Option<String>,
    /// Only deliveries to this subscription.
    pub subscription: Option<SubscriptionId>,
    /// Only deliveries of this event.
    pub event: Option<EventId>,
    /// Only deliveries that this job made.
    pub job: Option<JobId>,
    /// Only deliveries in this status.
    pub status: Option<Status>,
    /// Only deliveries of events of exactly this type.
    pub event_type: Option<EventType>,
    /// Only deliveries of events with these entries in their metadata.
    pub metadata: Option<Metadata>,
    /// Only deliveries of which an attempt took longer than this, in milliseconds.
    pub slower_than_ms: Option<i32>,
    /// Only deliveries with at least so many attempts, one that is under way included.
    pub min_attempts: Option<i32>,
    /// Only deliveries whose last finished attempt failed for this cause.
    pub cause: Option<Cause>,
    /// Which deliveries are meant by where they go.
    pub destinations: Destinations,
    /// Which deliveries are meant by how they came to be.
    pub origins: Origins,
    /// Only deliveries that were stored in this span of time.
    pub span: Span,
}

/// Which deliveries are meant by how they came to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origins {
    /// Those that were made with their events, and replays.
    #[default]
    All,
    /// Replays only: those that were made later than their events, because somebody asked.
    Replays,
}

impl Filter {
    fn is_inline_only(&self) -> bool {
        self.destinations == Destinations::Inline
    }

    fn is_of_replays(&self) -> bool {
        self.origins == Origins::Replays
    }

    /// The words in the log of attempts that the cause has, and the statuses.
    fn cause(&self) -> (Option<Vec<String>>, Option<Vec<i16>>) {
        (self.cause.map(Cause::error_kinds), self.cause.and_then(Cause::status_codes))
    }
}

/// Lists deliveries, the newest first.
pub async fn list(pool: &PgPool, filter: &Filter, page: Page) -> Result<Found<Delivery>> {
    let rows = match (filter.event, filter.status) {
        (Some(event), _) => of_event(pool, event, filter, page).await?,
        (None, None | Some(Status::Succeeded | Status::Canceled)) => of_all(pool, filter, page).await?,
        (None, Some(Status::DeadLetter)) => dead(pool, filter, page).await?,
        // The queue does not know tenants, and a cursor must not tell one tenant of another's backlog.
        (None, Some(Status::Pending | Status::InFlight))
            if filter.tenant_id.is_some() && filter.subscription.is_none() =>
        {
            of_all(pool, filter, page).await?
        }
        (None, Some(Status::Pending | Status::InFlight)) => unfinished(pool, filter, page).await?,
    };
    let (ids, examined_to) = page.split(rows.into_iter());
    Ok(Found { items: views(pool, &ids).await?, examined_to })
}

type Rows = Vec<(Uuid, bool)>;

/// A page from the table of all deliveries.
async fn of_all(pool: &PgPool, filter: &Filter, page: Page) -> Result<Rows> {
    if conditions::are_asked(filter) {
        return of_all_by_more(pool, filter, page).await;
    }
    let asks_of_rows = filter.status.is_some() || filter.is_inline_only() || filter.is_of_replays();
    let examined_max = if asks_of_rows { EXAMINED_MAX } else { page.limit };
    let (mut found, mut room) = (Rows::new(), page.limit);
    for range in page.ranges(filter.span) {
        let rows = look(pool, filter, range, examined_max, room).await?;
        let has_stopped = rows.last().is_some_and(|row| row.last);
        found.extend(rows.into_iter().map(|row| (row.id, row.last)));
        room = page.limit.saturating_sub_unsigned(found.len() as u64);
        if has_stopped || room <= 0 {
            break;
        }
    }
    Ok(found)
}

/// The same where something is asked of the events or the attempts ([`conditions`]).
async fn of_all_by_more(pool: &PgPool, filter: &Filter, page: Page) -> Result<Rows> {
    let (mut found, mut looks) = (Rows::new(), 0);
    for mut range in page.ranges(filter.span) {
        loop {
            if looks == EXAMINED_MAX / EXAMINED_TOGETHER {
                found.push((range.end, true));
                return Ok(found);
            }
            looks += 1;
            // With room for one more, the row at which the scan stopped comes along even if all rows fit.
            let mut rows = look(pool, filter, range, EXAMINED_TOGETHER, EXAMINED_TOGETHER + 1).await?;
            let stopped_at = rows.pop_if(|row| row.last);
            let rows = conditions::fitting(pool, filter, rows).await?;
            found.extend(rows.iter().map(|row| (row.id, false)));
            if i64::try_from(found.len()).is_ok_and(|count| count >= page.limit) {
                found.truncate(usize::try_from(page.limit).unwrap_or(usize::MAX));
                return Ok(found);
            }
            match stopped_at {
                Some(row) => range.end = row.id,
                None => break,
            }
        }
    }
    Ok(found)
}

/// A delivery that was looked at, or, as the last row, the one at which the scan stopped.
struct Look {
    id: Uuid,
    event_id: Uuid,
    last: bool,
}

/// Looks at deliveries, at most `examined_max`: those that fit what is asked of the delivery itself, at most `limit`.
/// The row at which the scan stopped is among them where there is room.
async fn look(pool: &PgPool, filter: &Filter, range: Range, examined_max: i64, limit: i64) -> Result<Vec<Look>> {
    let rows = sqlx::query_as!(
        Look,
        r#"WITH looked_at AS NOT MATERIALIZED (
               SELECT id, event_id, status, subscription_id, is_replay FROM deliveries
                WHERE ($1::text IS NULL OR tenant_id = $1) AND ($2::uuid IS NULL OR subscription_id = $2)
                  AND ($3::uuid IS NULL OR job_id = $3) AND id >= $4 AND id < $5
                ORDER BY id DESC LIMIT $6)
           (SELECT d.id AS "id!", d.event_id AS "event_id!", false AS "last!" FROM looked_at d
             WHERE ($7::text IS NULL
                    OR $7 = CASE WHEN d.status = 'pending'
                                  AND (SELECT q.lease_token IS NOT NULL AND q.due_at > clock_timestamp()
                                         FROM queue q WHERE q.delivery_id = d.id)
                                 THEN 'in_flight' ELSE d.status::text END)
               AND (NOT $9::boolean OR d.subscription_id IS NULL) AND (NOT $10::boolean OR d.is_replay)
             ORDER BY d.id DESC LIMIT $8)
           UNION ALL
           (SELECT id, event_id, true FROM looked_at ORDER BY id DESC OFFSET $6 - 1 LIMIT 1)
            LIMIT $8"#,
        filter.tenant_id,
        filter.subscription.map(|id| id.0),
        filter.job.map(|id| id.0),
        range.first,
        range.end,
        examined_max,
        filter.status.map(Status::as_str),
        limit,
        filter.is_inline_only(),
        filter.is_of_replays(),
    );
    Ok(rows.fetch_all(pool).await?)
}

/// A page from the side table of dead letters.
async fn dead(pool: &PgPool, filter: &Filter, page: Page) -> Result<Rows> {
    let (range, (kinds, codes)) = (page.range(filter.span), filter.cause());
    let rows = sqlx::query!(
        r#"WITH looked_at AS NOT MATERIALIZED (
               SELECT delivery_id AS id, subscription_id, error_kind, status_code FROM dead_letters
                WHERE ($1::uuid IS NULL OR subscription_id = $1) AND ($5::text IS NULL OR tenant_id = $5)
                  AND delivery_id >= $2 AND delivery_id < $3
                ORDER BY delivery_id DESC LIMIT $4)
           (SELECT x.id AS "id!", false AS "last!"
              FROM looked_at x
             WHERE ($6::uuid IS NULL OR (SELECT d.job_id = $6 FROM deliveries d WHERE d.id = x.id))
               AND ($7::text IS NULL
                    OR (SELECT e.event_type = $7 FROM events e
                         WHERE e.id = (SELECT d.event_id FROM deliveries d WHERE d.id = x.id)))
               AND ($8::jsonb IS NULL
                    OR (SELECT e.metadata @> $8 FROM events e
                         WHERE e.id = (SELECT d.event_id FROM deliveries d WHERE d.id = x.id)))
               AND ($10::int IS NULL
                    OR (SELECT max(a.duration_ms) > $10 FROM attempts a WHERE a.delivery_id = x.id))
               AND ($11::int IS NULL OR (SELECT max(a.number) >= $11 FROM attempts a WHERE a.delivery_id = x.id))
               AND ($12::text[] IS NULL OR x.error_kind = ANY ($12))
               AND ($13::smallint[] IS NULL OR x.status_code = ANY ($13))
               AND (NOT $14::boolean OR x.subscription_id IS NULL)
               AND (NOT $15::boolean OR (SELECT d.is_replay FROM deliveries d WHERE d.id = x.id))
             ORDER BY x.id DESC LIMIT $9)
           UNION ALL
           (SELECT id, true FROM looked_at ORDER BY id DESC OFFSET $4 - 1 LIMIT 1)
            LIMIT $9"#,
        filter.subscription.map(|id| id.0),
        range.first,
        range.end,
        EXAMINED_MAX,
        filter.tenant_id,
        filter.job.map(|id| id.0),
        filter.event_type.as_ref().map(EventType::as_str),
        filter.metadata.as_ref().map(Json) as _,
        page.limit,
        filter.slower_than_ms,
        filter.min_attempts,
        kinds.as_deref(),
        codes.as_deref(),
        filter.is_inline_only(),
        filter.is_of_replays(),
    );
    Ok(rows.fetch_all(pool).await?.into_iter().map(|row| (row.id, row.last)).collect())
}

/// A page from the queue, which knows whether a worker is attempting a delivery.
async fn unfinished(pool: &PgPool, filter: &Filter, page: Page) -> Result<Rows> {
    let (range, (kinds, codes)) = (page.range(filter.span), filter.cause());
    let rows = sqlx::query!(
        r#"WITH looked_at AS NOT MATERIALIZED (
               SELECT delivery_id AS id, lease_token, due_at, attempt_count FROM queue
                WHERE ($1::uuid IS NULL OR lane_id = $1)
                  AND delivery_id >= $2 AND delivery_id < $3
                ORDER BY delivery_id DESC LIMIT $4)
           (SELECT x.id AS "id!", false AS "last!"
              FROM looked_at x
             WHERE (x.lease_token IS NOT NULL AND x.due_at > clock_timestamp()) = $5
               AND ($6::text IS NULL OR (SELECT d.tenant_id = $6 FROM deliveries d WHERE d.id = x.id))
               AND ($7::uuid IS NULL OR (SELECT d.job_id = $7 FROM deliveries d WHERE d.id = x.id))
               AND ($8::text IS NULL
                    OR (SELECT e.event_type = $8 FROM events e
                         WHERE e.id = (SELECT d.event_id FROM deliveries d WHERE d.id = x.id)))
               AND ($9::jsonb IS NULL
                    OR (SELECT e.metadata @> $9 FROM events e
                         WHERE e.id = (SELECT d.event_id FROM deliveries d WHERE d.id = x.id)))
               AND ($11::int IS NULL
                    OR (SELECT max(a.duration_ms) > $11 FROM attempts a WHERE a.delivery_id = x.id))
               AND ($12::int IS NULL OR x.attempt_count >= $12)
               AND ($13::text[] IS NULL
                    OR (SELECT a.error_kind = ANY ($13) AND ($14::smallint[] IS NULL OR a.status_code = ANY ($14))
                          FROM attempts a WHERE a.delivery_id = x.id ORDER BY a.number DESC LIMIT 1))
               AND (NOT $15::boolean OR (SELECT d.subscription_id IS NULL FROM deliveries d WHERE d.id = x.id))
               AND (NOT $16::boolean OR (SELECT d.is_replay FROM deliveries d WHERE d.id = x.id))
             ORDER BY x.id DESC LIMIT $10)
           UNION ALL
           (SELECT id, true FROM looked_at ORDER BY id DESC OFFSET $4 - 1 LIMIT 1)
            LIMIT $10"#,
        filter.subscription.map(|id| id.0),
        range.first,
        range.end,
        EXAMINED_MAX,
        filter.status == Some(Status::InFlight),
        filter.tenant_id,
        filter.job.map(|id| id.0),
        filter.event_type.as_ref().map(EventType::as_str),
        filter.metadata.as_ref().map(Json) as _,
        page.limit,
        filter.slower_than_ms,
        filter.min_attempts,
        kinds.as_deref(),
        codes.as_deref(),
        filter.is_inline_only(),
        filter.is_of_replays(),
    );
    Ok(rows.fetch_all(pool).await?.into_iter().map(|row| (row.id, row.last)).collect())
}

/// A page of one event's deliveries. Those that were made with the event stand together in the primary key; its replays
/// have an index. A condition on the event itself holds for all of them or for none.
async fn of_event(pool: &PgPool, event: EventId, filter: &Filter, page: Page) -> Result<Rows> {
    let ((first, end), (kinds, codes)) = (filter.span.ids(), filter.cause());
    let (with_it, up_to) = event.delivery_ids();
    let rows = sqlx::query!(
        r#"WITH looked_at AS NOT MATERIALIZED (
               SELECT * FROM (
                   (SELECT id, tenant_id, subscription_id, job_id, status, is_replay FROM deliveries
                     WHERE id >= $2 AND id <= $3 AND event_id = $1 AND NOT is_replay
                       AND ($4::uuid IS NULL OR id < $4)
                     ORDER BY id DESC LIMIT $5)
                   UNION ALL
                   (SELECT id, tenant_id, subscription_id, job_id, status, is_replay FROM deliveries
                     WHERE event_id = $1 AND is_replay AND ($4::uuid IS NULL OR id < $4)
                     ORDER BY id DESC LIMIT $5)) x
                ORDER BY id DESC LIMIT $5)
           (SELECT d.id AS "id!", false AS "last!"
              FROM looked_at d
              LEFT JOIN LATERAL (SELECT y.lease_token IS NOT NULL AND y.due_at > clock_timestamp() AS leased,
                                        y.attempt_count
                                   FROM queue y WHERE y.delivery_id = d.id OFFSET 0) q ON true
             WHERE ($6::text IS NULL OR d.tenant_id = $6) AND ($7::uuid IS NULL OR d.subscription_id = $7)
               AND ($8::uuid IS NULL OR d.job_id = $8)
               AND ($9::text IS NULL OR CASE WHEN q.leased THEN 'in_flight' ELSE d.status::text END = $9)
               AND ($10::uuid IS NULL OR d.id >= $10) AND ($11::uuid IS NULL OR d.id < $11)
               AND EXISTS (SELECT FROM events e
                            WHERE e.id = $1 AND ($12::text IS NULL OR e.event_type = $12)
                              AND ($13::jsonb IS NULL OR e.metadata @> $13))
               AND ($15::int IS NULL
                    OR (SELECT max(a.duration_ms) > $15 FROM attempts a WHERE a.delivery_id = d.id))
               AND ($16::int IS NULL OR q.attempt_count >= $16
                    OR (SELECT max(a.number) >= $16 FROM attempts a WHERE a.delivery_id = d.id))
               AND ($17::text[] IS NULL
                    OR (SELECT a.error_kind = ANY ($17) AND ($18::smallint[] IS NULL OR a.status_code = ANY ($18))
                          FROM attempts a WHERE a.delivery_id = d.id ORDER BY a.number DESC LIMIT 1))
               AND (NOT $19::boolean OR d.subscription_id IS NULL) AND (NOT $20::boolean OR d.is_replay)
             ORDER BY d.id DESC LIMIT $14)
           UNION ALL
           (SELECT id, true FROM looked_at ORDER BY id DESC OFFSET $5 - 1 LIMIT 1)
            LIMIT $14"#,
        event.0,
        with_it,
        up_to,
        page.before,
        EXAMINED_MAX,
        filter.tenant_id,
        filter.subscription.map(|id| id.0),
        filter.job.map(|id| id.0),
        filter.status.map(Status::as_str),
        first,
        end,
        filter.event_type.as_ref().map(EventType::as_str),
        filter.metadata.as_ref().map(Json) as _,
        page.limit,
        filter.slower_than_ms,
        filter.min_attempts,
        kinds.as_deref(),
        codes.as_deref(),
        filter.is_inline_only(),
        filter.is_of_replays(),
    );
    Ok(rows.fetch_all(pool).await?.into_iter().map(|row| (row.id, row.last)).collect())
}
