//! Deliveries as people see them: one, many, and the actions that a person may take on one. Claiming and finishing them
//! is the business of [`crate::queue`].

pub mod cause;
pub mod dead_letter;
pub mod dead_letter_groups;
pub mod dead_letter_notice;
pub mod destination;
pub mod inline;
pub mod job;
pub mod list;
pub mod outbox;
pub mod replay_now;
pub mod request_headers;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::{
    Error, Result, id::DeliveryId, page::bounds, queue, subscription::settings::LEASE_MARGIN_MS, text_enum::text_enum,
};

text_enum! {
    /// How far a delivery has come.
    pub enum Status {
        /// Waiting for its first or next attempt.
        Pending = "pending",
        /// A worker is attempting it at this moment.
        InFlight = "in_flight",
        /// The receiver has accepted it.
        Succeeded = "succeeded",
        /// Out of attempts, or refused for good.
        DeadLetter = "dead_letter",
        /// Called off before it succeeded.
        Canceled = "canceled",
    }
}

/// A delivery and how far it has come.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Identifies the delivery; receivers see it in a header of each attempt.
    pub id: DeliveryId,
    /// The event that is delivered.
    pub event_id: Uuid,
    /// The tenant to which the delivery belongs.
    pub tenant_id: String,
    /// The subscription to which the event is delivered; `None` for an inline delivery.
    pub subscription_id: Option<Uuid>,
    /// The URL of an inline delivery; `None` for a delivery to a subscription.
    pub target_url: Option<String>,
    /// The delivery that it replays, if any.
    pub replay_of: Option<Uuid>,
    /// The job that made this delivery, if one did.
    pub job_id: Option<Uuid>,
    /// The event's type; `None` once retention has removed the event.
    pub event_type: Option<String>,
    /// How far the delivery has come.
    pub status: Status,
    /// Attempts so far, including one that is under way.
    pub attempt_count: i32,
    /// When the next attempt is due, but not before its lane's circuit, rate limit and `Retry-After` allow one; present
    /// only while the delivery is pending, and where it does not wait for another one of its ordering key.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// HTTP status of the last finished attempt.
    pub last_status_code: Option<i16>,
    /// Why the last finished attempt failed, in words for a person.
    pub last_error: Option<String>,
    /// How long the last finished attempt took, in milliseconds; `None` where the worker died before it could measure.
    pub last_duration_ms: Option<i32>,
    /// When the delivery is canceled instead of attempted; `None` means never.
    pub expires_at: Option<DateTime<Utc>>,
    /// When the delivery was stored.
    pub created_at: DateTime<Utc>,
    /// When the delivery succeeded, became a dead letter or was canceled.
    pub finished_at: Option<DateTime<Utc>>,
}

impl Delivery {
    /// Whether the delivery was canceled because its event had expired. (Somebody who cancels a delivery after its
    /// expiry means the same.)
    #[must_use]
    pub fn has_expired(&self) -> bool {
        self.status == Status::Canceled && self.expires_at.zip(self.finished_at).is_some_and(|(at, end)| at <= end)
    }
}

struct Row {
    id: Uuid,
    event_id: Uuid,
    tenant_id: String,
    subscription_id: Option<Uuid>,
    target_url: Option<String>,
    replay_of: Option<Uuid>,
    job_id: Option<Uuid>,
    event_type: Option<String>,
    expires_at: Option<DateTime<Utc>>,
    stored: String,
    leased: Option<bool>,
    due_at: Option<DateTime<Utc>>,
    attempt_count: Option<i32>,
    last_number: Option<i32>,
    last_status_code: Option<i16>,
    last_error: Option<String>,
    last_duration_ms: Option<i32>,
    created_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
}

/// Reads one delivery.
pub async fn get(pool: &PgPool, id: DeliveryId) -> Result<Delivery> {
    views(pool, &[id.0]).await?.pop().ok_or(Error::NotFound("delivery"))
}

/// Makes a delivery due at once: a pending one before its time, a finished one for a fresh round of attempts.
///
/// # Errors
/// A conflict where a worker is attempting it, or where its event or subscription does not exist any more.
pub async fn retry(pool: &PgPool, id: DeliveryId) -> Result<Delivery> {
    let mut transaction = pool.begin().await?;
    match lock(&mut transaction, id).await? {
        Locked::InFlight => return Err(Error::Conflict("a worker is at this delivery right now".to_owned())),
        Locked::Pending => {
            sqlx::query!("UPDATE queue SET due_at = least(due_at, clock_timestamp()) WHERE delivery_id = $1", id.0)
                .execute(&mut *transaction)
                .await?;
            wake_lanes_of(&mut transaction, &[id.0]).await?;
        }
        Locked::Finished => {
            if reopen(&mut transaction, &[id.0]).await? == 0 {
                return Err(Error::Conflict("its event or its subscription does not exist any more".to_owned()));
            }
        }
    }
    transaction.commit().await?;
    get(pool, id).await
}

/// Cancels a pending delivery.
///
/// # Errors
/// A conflict where a worker is attempting it or it is finished.
pub async fn cancel(pool: &PgPool, id: DeliveryId) -> Result<Delivery> {
    let mut transaction = pool.begin().await?;
    match lock(&mut transaction, id).await? {
        Locked::InFlight => return Err(Error::Conflict("a worker is at this delivery right now".to_owned())),
        Locked::Finished => return Err(Error::Conflict("the delivery is finished".to_owned())),
        Locked::Pending => {}
    }
    let lane = sqlx::query_scalar!("DELETE FROM queue WHERE delivery_id = $1 RETURNING lane_id", id.0);
    let lane = lane.fetch_one(&mut *transaction).await?;
    sqlx::query!("UPDATE deliveries SET status = 'canceled', finished_at = clock_timestamp() WHERE id = $1", id.0)
        .execute(&mut *transaction)
        .await?;
    queue::go_on(&mut transaction, &[lane]).await?;
    transaction.commit().await?;
    get(pool, id).await
}

/// A delivery that nobody else can change until the transaction ends, by its state.
enum Locked {
    InFlight,
    Pending,
    Finished,
}

/// Locks the queue row first and the delivery's record second, in the order that the recording of outcomes uses too.
async fn lock(connection: &mut PgConnection, id: DeliveryId) -> Result<Locked> {
    let waiting = sqlx::query!(
        r#"SELECT (lease_token IS NOT NULL AND due_at > clock_timestamp()) AS "leased!"
             FROM queue WHERE delivery_id = $1 FOR UPDATE"#,
        id.0
    );
    if let Some(row) = waiting.fetch_optional(&mut *connection).await? {
        return Ok(if row.leased { Locked::InFlight } else { Locked::Pending });
    }
    let finished =
        sqlx::query!(r#"SELECT status = 'pending' AS "pending!" FROM deliveries WHERE id = $1 FOR UPDATE"#, id.0);
    let row = finished.fetch_optional(connection).await?.ok_or(Error::NotFound("delivery"))?;
    if row.pending {
        // Another request has reopened the delivery between our two reads.
        return Err(Error::Conflict("the delivery has just been changed".to_owned()));
    }
    Ok(Locked::Finished)
}

/// Puts finished deliveries back into the queue and makes their lanes due; returns how many.
pub(crate) async fn reopen(connection: &mut PgConnection, ids: &[Uuid]) -> Result<usize> {
    let reopened = put_back(connection, ids).await?;
    wake_lanes_of(connection, &reopened).await?;
    Ok(reopened.len())
}

/// Puts finished deliveries back into the queue, and returns those that were; their lanes are still to be made due. The
/// numbers of their attempts go on, and their retry policies begin anew. Deliveries whose event or subscription is gone
/// stay as they are.
pub(crate) async fn put_back(connection: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<Uuid>> {
    let reopened = sqlx::query_scalar!(
        "INSERT INTO queue (delivery_id, event_id, lane_id, due_at, attempt_count, attempts_before, ordering_key,
                            sequence)
         SELECT d.id, d.event_id, coalesce(d.subscription_id, l.lane_id), clock_timestamp(), a.made, a.made,
                CASE WHEN o.is_ordered THEN event_ordering_key(d.event_id) END,
                CASE WHEN o.is_ordered THEN nextval('queue_places') END
           FROM unnest($1::uuid[]) AS i (id)
          CROSS JOIN LATERAL (SELECT x.id, x.event_id, x.subscription_id FROM deliveries x
                               WHERE x.id = i.id AND x.status <> 'pending' FOR UPDATE OFFSET 0) d
          CROSS JOIN LATERAL (SELECT coalesce(max(x.number), 0) AS made
                                FROM attempts x WHERE x.delivery_id = i.id OFFSET 0) a
           LEFT JOIN LATERAL (SELECT x.lane_id FROM inline_deliveries x WHERE x.delivery_id = i.id OFFSET 0) l ON true
           LEFT JOIN LATERAL (SELECT x.is_ordered FROM lanes x WHERE x.id = d.subscription_id
                               ORDER BY x.revision DESC LIMIT 1) o ON true
          WHERE EXISTS (SELECT FROM events e WHERE e.id = d.event_id)
            AND (l.lane_id IS NOT NULL
                 OR EXISTS (SELECT FROM subscriptions s WHERE s.id = d.subscription_id AND s.deleted_at IS NULL))
         RETURNING delivery_id",
        ids
    );
    let reopened: Vec<Uuid> = reopened.fetch_all(&mut *connection).await?;
    sqlx::query!("UPDATE deliveries SET status = 'pending', finished_at = NULL WHERE id = ANY ($1)", &reopened)
        .execute(&mut *connection)
        .await?;
    sqlx::query!("DELETE FROM dead_letters WHERE delivery_id = ANY ($1)", &reopened).execute(&mut *connection).await?;
    Ok(reopened)
}

/// How long a request waits for a lane that another transaction has locked.
const LANE_PATIENCE_SECONDS: f64 = 5.0;

/// Makes the lanes of these queued deliveries due, in the order in which lanes are locked, also those that rest because
/// their receivers asked for it: a person who asks for a retry means now. The workers are woken when the transaction
/// commits.
async fn wake_lanes_of(connection: &mut PgConnection, ids: &[Uuid]) -> Result<()> {
    let armed = sqlx::query_scalar!(
        "SELECT arm_lane(l.lane_id, NULL, clock_timestamp(), l.lease_ms, false, make_interval(secs => $3))
           FROM (SELECT DISTINCT q.lane_id, 2 * x.timeout_ms + $2 AS lease_ms
                   FROM queue q LEFT JOIN inline_deliveries x ON x.delivery_id = q.delivery_id
                  WHERE q.delivery_id = ANY ($1) ORDER BY q.lane_id) l",
        ids,
        LEASE_MARGIN_MS,
        LANE_PATIENCE_SECONDS,
    );
    if armed.fetch_all(&mut *connection).await?.contains(&None) {
        return Err(Error::Unavailable("somebody else is changing the subscription of this delivery; try again"));
    }
    let lanes = sqlx::query_scalar!("SELECT DISTINCT lane_id FROM queue WHERE delivery_id = ANY ($1)", ids);
    let lanes = lanes.fetch_all(&mut *connection).await?;
    queue::end_rest(connection, &lanes).await?;
    queue::call_workers(connection).await
}

pub(crate) async fn views(pool: &PgPool, ids: &[Uuid]) -> Result<Vec<Delivery>> {
    let (first, last) = bounds(ids.iter().copied());
    let events = sqlx::query_scalar!(
        "SELECT event_id FROM deliveries WHERE id = ANY ($1) AND id >= $2 AND id <= $3 LIMIT 1000",
        ids,
        first,
        last
    );
    let (first_event, last_event) = bounds(events.fetch_all(pool).await?);
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT d.id AS "id!", d.event_id AS "event_id!", d.tenant_id AS "tenant_id!", d.subscription_id,
                  l.target_url AS "target_url?", d.replay_of, d.job_id, e.event_type AS "event_type?",
                  e.expires_at AS "expires_at?", d.status::text AS "stored!",
                  (q.lease_token IS NOT NULL AND q.due_at > clock_timestamp()) AS leased,
                  nullif(greatest(q.due_at, n.not_before), 'infinity') AS "due_at?",
                  q.attempt_count AS "attempt_count?", a.number AS "last_number?",
                  a.status_code AS last_status_code, a.error AS last_error, a.duration_ms AS last_duration_ms,
                  d.created_at AS "created_at!", d.finished_at
             FROM unnest($1::uuid[]) AS i (id)
            CROSS JOIN LATERAL (SELECT * FROM deliveries x
                                 WHERE x.id = i.id AND x.id >= $2 AND x.id <= $3 OFFSET 0) d
             LEFT JOIN LATERAL (SELECT x.event_type, x.expires_at FROM events x
                                 WHERE x.id = d.event_id AND x.id >= $4 AND x.id <= $5 OFFSET 0) e ON true
             LEFT JOIN LATERAL (SELECT x.target_url FROM inline_deliveries x
                                 WHERE x.delivery_id = d.id AND d.subscription_id IS NULL OFFSET 0) l ON true
             LEFT JOIN LATERAL (SELECT x.lease_token, x.due_at, x.attempt_count, x.lane_id
                                  FROM queue x WHERE x.delivery_id = d.id OFFSET 0) q ON true
             LEFT JOIN LATERAL (SELECT greatest(x.rests_until, x.open_until, x.token_held_until) AS not_before
                                  FROM lanes x WHERE x.id = q.lane_id ORDER BY x.revision DESC LIMIT 1) n ON true
             LEFT JOIN LATERAL (SELECT x.number, x.status_code, x.error, x.duration_ms FROM attempts x
                                 WHERE x.delivery_id = d.id AND x.delivery_id >= $2 AND x.delivery_id <= $3
                                 ORDER BY x.number DESC LIMIT 1) a ON true
            ORDER BY d.id DESC
            LIMIT 1000"#,
        ids,
        first,
        last,
        first_event,
        last_event
    );
    rows.fetch_all(pool).await?.into_iter().map(view).collect()
}

fn view(row: Row) -> Result<Delivery> {
    let leased = row.leased.unwrap_or(false);
    let status = match row.stored.as_str() {
        "pending" if leased => Status::InFlight,
        stored => stored.parse().map_err(Error::internal)?,
    };
    Ok(Delivery {
        id: DeliveryId(row.id),
        event_id: row.event_id,
        tenant_id: row.tenant_id,
        subscription_id: row.subscription_id,
        target_url: row.target_url,
        replay_of: row.replay_of,
        job_id: row.job_id,
        event_type: row.event_type,
        expires_at: row.expires_at,
        status,
        attempt_count: row.attempt_count.or(row.last_number).unwrap_or(0),
        next_attempt_at: row.due_at.filter(|_| status == Status::Pending),
        last_status_code: row.last_status_code,
        last_error: row.last_error,
        last_duration_ms: row.last_duration_ms,
        created_at: row.created_at,
        finished_at: row.finished_at,
    })
}
