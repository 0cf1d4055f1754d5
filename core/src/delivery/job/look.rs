//! How a job finds its deliveries. A look reads the ids of the next rows along an index, a bounded number of them, and
//! then decides for each whether it is meant. It changes nothing, so a count looks in the same way.

mod missed;

use sqlx::{PgConnection, types::Json};
use uuid::Uuid;

use crate::{
    Error, Result,
    delivery::{
        dead_letter::Resolved,
        job::{
            Action, Walk,
            filter::{Destinations, Filter, NOT_ATTEMPTED},
        },
    },
    event::{audience::Interest, event_type::EventTypePatterns},
    page::id_floor,
};

/// Rows that one look reads, at most.
pub(crate) const ROWS_PER_LOOK_MAX: u16 = 1000;
/// Rows of the queue that one look reads for each row of another table: most are told apart without another read.
const QUEUE_FACTOR: i64 = 5;

/// A delivery, or a missed event, that matches.
#[derive(Clone, Debug)]
pub(crate) struct Chosen {
    /// The row that was read.
    pub(crate) id: Uuid,
    pub(crate) event_id: Uuid,
    pub(crate) tenant_id: String,
    /// The subscription; `None` for an inline delivery.
    pub(crate) subscription_id: Option<Uuid>,
    /// The delivery that a replay of it replays; `None` for a missed event.
    pub(crate) replay_of: Option<Uuid>,
}

/// How much a look may read and choose.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) rows: u16,
    pub(crate) chosen: usize,
}

/// What a look has found.
#[derive(Debug)]
pub(crate) struct Looked {
    pub(crate) chosen: Vec<Chosen>,
    /// Rows that match, but with which it cannot be done.
    pub(crate) skipped: usize,
    pub(crate) examined: usize,
    /// The last row that was read; `None` where there was none.
    pub(crate) position: Option<Uuid>,
    /// Whether no rows are left to read.
    pub(crate) at_end: bool,
}

/// What is to be done with a row that was read.
enum Verdict {
    Chosen(Chosen),
    /// It matches, but nothing can be done with it.
    Skipped(Uuid),
}

impl Verdict {
    fn id(&self) -> Uuid {
        match self {
            Self::Chosen(chosen) => chosen.id,
            Self::Skipped(id) => *id,
        }
    }
}

/// The ids of the next rows.
pub(crate) struct Ids {
    /// All rows that were read, in their order.
    pub(crate) examined: Vec<Uuid>,
    /// Those of them that may match.
    candidates: Vec<Uuid>,
    /// Whether no rows are left to read.
    at_end: bool,
}

impl Ids {
    fn new(examined: Vec<Uuid>, candidates: Vec<Uuid>, limit: i64) -> Self {
        let at_end = i64::try_from(examined.len()).is_ok_and(|count| count < limit);
        Self { examined, candidates, at_end }
    }

    /// Ends the look at the row with which `bounds` are reached.
    fn choose(&self, verdicts: Vec<Verdict>, bounds: Bounds) -> Looked {
        let mut position = self.examined.last().copied();
        let (mut chosen, mut skipped) = (Vec::new(), 0);
        for verdict in verdicts {
            if chosen.len() == bounds.chosen {
                break;
            }
            let id = verdict.id();
            match verdict {
                Verdict::Chosen(one) => chosen.push(one),
                Verdict::Skipped(_) => skipped += 1,
            }
            if chosen.len() == bounds.chosen {
                position = Some(id);
            }
        }
        let examined = position.map_or(0, |position| self.examined.partition_point(|id| *id <= position));
        Looked { chosen, skipped, examined, position, at_end: self.at_end && position == self.examined.last().copied() }
    }
}

/// Reads the rows after `after`, and chooses those that match. `interest` is that of the subscription, where events are
/// read that it may have missed.
pub(crate) async fn look(
    connection: &mut PgConnection,
    action: Action,
    filter: &Filter,
    interest: Option<&Interest>,
    (walk, after): (Walk, Uuid),
    bounds: Bounds,
) -> Result<Looked> {
    if walk == Walk::Events {
        let Some(interest) = interest else { return Err(Error::NotFound("subscription")) };
        let (ids, verdicts) = missed::look(connection, filter, interest, after, bounds).await?;
        return Ok(ids.choose(verdicts, bounds));
    }
    let ids = next_ids(connection, filter, walk, after, bounds.rows).await?;
    let verdicts = match action {
        Action::Replay => to_replay(connection, filter, &ids.candidates).await?,
        Action::Retry | Action::Cancel | Action::Resolve | Action::Purge => {
            matching(connection, filter, &ids.candidates).await?
        }
    };
    Ok(ids.choose(verdicts, bounds))
}

/// The ids of the next rows after `after`, the earliest first.
pub(crate) async fn next_ids(
    connection: &mut PgConnection,
    filter: &Filter,
    walk: Walk,
    after: Uuid,
    rows: u16,
) -> Result<Ids> {
    let (end, limit) = (id_floor(filter.until), i64::from(rows));
    let (tenant, subscription) = (filter.tenant_id.as_deref(), filter.subscription.map(|id| id.0));
    let ids: Vec<Uuid> = match walk {
        Walk::Deliveries => {
            let rows = sqlx::query_scalar!(
                "SELECT id FROM deliveries
                  WHERE ($1::text IS NULL OR tenant_id = $1) AND ($2::uuid IS NULL OR subscription_id = $2)
                    AND ($3::uuid IS NULL OR job_id = $3) AND id > $4 AND id < $5
                  ORDER BY id LIMIT $6",
                tenant,
                subscription,
                filter.job.map(|id| id.0),
                after,
                end,
                limit
            );
            rows.fetch_all(connection).await?
        }
        Walk::DeadLetters => {
            let rows = sqlx::query_scalar!(
                "SELECT delivery_id FROM dead_letters
                  WHERE ($1::text IS NULL OR tenant_id = $1) AND ($2::uuid IS NULL OR subscription_id = $2)
                    AND delivery_id > $3 AND delivery_id < $4
                  ORDER BY delivery_id LIMIT $5",
                tenant,
                subscription,
                after,
                end,
                limit
            );
            rows.fetch_all(connection).await?
        }
        Walk::Event => of_event(connection, filter, after, limit).await?,
        Walk::Queue => return in_queue(connection, filter, after, limit * QUEUE_FACTOR).await,
        Walk::Events => {
            let rows = sqlx::query_scalar!(
                "SELECT id FROM events WHERE ($1::text IS NULL OR tenant_id = $1) AND id > $2 AND id < $3
                  ORDER BY id LIMIT $4",
                tenant,
                after,
                end,
                limit
            );
            rows.fetch_all(connection).await?
        }
    };
    Ok(Ids::new(ids.clone(), ids, limit))
}

/// The queue is read in the order of ids, whatever the lane: its indexes are by time.
async fn in_queue(connection: &mut PgConnection, filter: &Filter, after: Uuid, limit: i64) -> Result<Ids> {
    let rows = sqlx::query!(
        "SELECT delivery_id, lane_id FROM queue
          WHERE delivery_id > $1 AND delivery_id < $2
          ORDER BY delivery_id LIMIT $3",
        after,
        id_floor(filter.until),
        limit
    );
    let rows = rows.fetch_all(connection).await?;
    let is_meant = |lane: Uuid| filter.subscription.is_none_or(|id| id.0 == lane);
    let candidates = rows.iter().filter(|row| is_meant(row.lane_id)).map(|row| row.delivery_id).collect();
    Ok(Ids::new(rows.iter().map(|row| row.delivery_id).collect(), candidates, limit))
}

/// The deliveries of one event: those that were made with it, and its replays.
async fn of_event(connection: &mut PgConnection, filter: &Filter, after: Uuid, limit: i64) -> Result<Vec<Uuid>> {
    let Some(event) = filter.event else { return Ok(Vec::new()) };
    let (first, last) = event.delivery_ids();
    let rows = sqlx::query_scalar!(
        r#"SELECT x.id AS "id!" FROM (
               (SELECT id FROM deliveries WHERE id >= $2 AND id <= $3 AND event_id = $1 AND NOT is_replay)
               UNION ALL
               (SELECT id FROM deliveries WHERE event_id = $1 AND is_replay)) x
            WHERE x.id > $4 AND x.id < $5
            ORDER BY x.id LIMIT $6"#,
        event.0,
        first,
        last,
        after,
        id_floor(filter.until),
        limit
    );
    Ok(rows.fetch_all(connection).await?)
}

/// Those of these deliveries that match, in their order.
async fn matching(connection: &mut PgConnection, filter: &Filter, ids: &[Uuid]) -> Result<Vec<Verdict>> {
    let rows = sqlx::query!(
        r#"SELECT d.id AS "id!", d.event_id AS "event_id!", d.tenant_id AS "tenant_id!", d.subscription_id,
                  e.event_type AS "event_type?"
             FROM unnest($1::uuid[]) AS i (id)
            CROSS JOIN LATERAL (SELECT x.id, x.event_id, x.tenant_id, x.subscription_id, x.status FROM deliveries x
                                 WHERE x.id = i.id OFFSET 0) d
             LEFT JOIN LATERAL (SELECT x.event_type, x.metadata FROM events x
                                 WHERE x.id = d.event_id OFFSET 0) e ON true
             LEFT JOIN LATERAL (SELECT x.created_at, x.resolved_at FROM dead_letters x
                                 WHERE x.delivery_id = d.id AND d.status = 'dead_letter' OFFSET 0) l ON true
             LEFT JOIN LATERAL (SELECT x.lease_token IS NOT NULL AND x.due_at > clock_timestamp() AS leased
                                  FROM queue x WHERE x.delivery_id = d.id AND d.status = 'pending' OFFSET 0) q ON true
             LEFT JOIN LATERAL (SELECT x.status_code, x.error_kind FROM attempts x
                                 WHERE x.delivery_id = d.id
                                   AND cardinality($7::smallint[]) + cardinality($8::text[]) > 0
                                 ORDER BY x.number DESC LIMIT 1) a ON true
            WHERE d.status::text = ANY ($2)
              AND ($3::text IS NULL OR d.tenant_id = $3) AND ($4::uuid IS NULL OR d.subscription_id = $4)
              AND (NOT $5::boolean OR d.subscription_id IS NULL)
              AND ($6::jsonb IS NULL OR e.metadata @> $6)
              AND (cardinality($7::smallint[]) = 0 OR a.status_code = ANY ($7))
              AND (cardinality($8::text[]) = 0 OR coalesce(a.error_kind, $9) = ANY ($8))
              AND q.leased IS NOT TRUE
              AND (d.status <> 'dead_letter'
                   OR (l.created_at IS NOT NULL AND ($10::boolean OR l.resolved_at IS NULL)
                       AND ($11::timestamptz IS NULL OR l.created_at >= $11)
                       AND ($12::timestamptz IS NULL OR l.created_at < $12)))
            ORDER BY d.id"#,
        ids,
        &filter.status_words(),
        filter.tenant_id,
        filter.subscription.map(|id| id.0),
        filter.destinations == Destinations::Inline,
        filter.metadata.as_ref().map(Json) as _,
        &filter.status_codes,
        &filter.error_kinds,
        NOT_ATTEMPTED,
        filter.resolved == Resolved::Included,
        filter.dead_since,
        filter.dead_until,
    );
    let rows = rows.fetch_all(connection).await?.into_iter();
    let chosen = rows.filter(|row| is_of(&filter.event_types, row.event_type.as_deref())).map(|row| {
        Verdict::Chosen(Chosen {
            id: row.id,
            event_id: row.event_id,
            tenant_id: row.tenant_id,
            subscription_id: row.subscription_id,
            replay_of: None,
        })
    });
    Ok(chosen.collect())
}

/// Those of these deliveries whose events are to be replayed: one for each event and subscription, which is the first
/// delivery that is not itself a replay. How the event stands is told by its latest delivery, which may be a replay
/// that was not canceled. An event that is gone or has expired does not match.
async fn to_replay(connection: &mut PgConnection, filter: &Filter, ids: &[Uuid]) -> Result<Vec<Verdict>> {
    let rows = sqlx::query!(
        r#"SELECT d.id AS "id!", d.event_id AS "event_id!", d.tenant_id AS "tenant_id!",
                  d.subscription_id AS "subscription_id!", e.event_type AS "event_type!",
                  coalesce(r.id, d.id) AS "latest!",
                  (SELECT s.state <> 'disabled' FROM subscriptions s
                    WHERE s.id = d.subscription_id AND s.deleted_at IS NULL) AS is_open
             FROM unnest($1::uuid[]) AS i (id)
            CROSS JOIN LATERAL (SELECT x.id, x.event_id, x.tenant_id, x.subscription_id, x.status FROM deliveries x
                                 WHERE x.id = i.id AND x.replay_of IS NULL AND x.subscription_id IS NOT NULL
                                OFFSET 0) d
            CROSS JOIN LATERAL (SELECT x.event_type, x.metadata FROM events x
                                 WHERE x.id = d.event_id
                                   AND (x.expires_at IS NULL OR x.expires_at > clock_timestamp()) OFFSET 0) e
             LEFT JOIN LATERAL (SELECT x.id, x.status FROM deliveries x
                                 WHERE x.event_id = d.event_id AND x.is_replay AND x.subscription_id = d.subscription_id
                                   AND x.status <> 'canceled'
                                 ORDER BY x.id DESC LIMIT 1) r ON true
             LEFT JOIN LATERAL (SELECT x.status_code, x.error_kind FROM attempts x
                                 WHERE x.delivery_id = coalesce(r.id, d.id)
                                   AND cardinality($6::smallint[]) + cardinality($7::text[]) > 0
                                 ORDER BY x.number DESC LIMIT 1) a ON true
            WHERE coalesce(r.status, d.status)::text = ANY ($2)
              AND ($3::text IS NULL OR d.tenant_id = $3) AND ($4::uuid IS NULL OR d.subscription_id = $4)
              AND ($5::jsonb IS NULL OR e.metadata @> $5)
              AND (cardinality($6::smallint[]) = 0 OR a.status_code = ANY ($6))
              AND (cardinality($7::text[]) = 0 OR coalesce(a.error_kind, $8) = ANY ($7))
            ORDER BY d.id"#,
        ids,
        &filter.status_words(),
        filter.tenant_id,
        filter.subscription.map(|id| id.0),
        filter.metadata.as_ref().map(Json) as _,
        &filter.status_codes,
        &filter.error_kinds,
        NOT_ATTEMPTED,
    );
    let rows = rows.fetch_all(connection).await?.into_iter();
    let verdicts = rows.filter(|row| is_of(&filter.event_types, Some(&row.event_type))).map(|row| {
        if row.is_open != Some(true) {
            return Verdict::Skipped(row.id);
        }
        Verdict::Chosen(Chosen {
            id: row.id,
            event_id: row.event_id,
            tenant_id: row.tenant_id,
            subscription_id: Some(row.subscription_id),
            replay_of: Some(row.latest),
        })
    });
    Ok(verdicts.collect())
}

/// Whether an event's type is meant. Where the event is gone, its type is not known.
fn is_of(patterns: &EventTypePatterns, event_type: Option<&str>) -> bool {
    match event_type.map(str::parse) {
        Some(Ok(event_type)) => patterns.match_any(&event_type),
        Some(Err(_)) | None => patterns.to_texts().is_empty(),
    }
}
