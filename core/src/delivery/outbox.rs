//! The outbox: events that somebody's own transaction published by SQL. After its commit a worker fans them out, which
//! does the same as accepting them, and removes them from the outbox. A fan-out that is too wide for one transaction is
//! done in parts; each part stores how far the fan-out has come.
//!
//! Events of a tenant that has an ordered subscription are fanned out in the order of their ids, and by one worker at a
//! time: an event whose transaction had committed before another event was published comes before that one. Events of
//! transactions that overlap have no order. An event that cannot be fanned out loses its place.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use sqlx::{PgPool, types::Json};
use uuid::Uuid;

use crate::{
    Error, Result,
    error::is_locked,
    event::{
        CONTENT_TYPE_JSON, audience::Audience, event_type::EventType, metadata::Metadata, new_event::NewEvent,
        trace_context::TraceContext,
    },
    id::{EventId, SubscriptionId},
    queue::{
        accept::{Atomicity, LeftAlone, Notification, Origin, accept, left_alone, store_deliveries},
        rows::NewDeliveryRow,
    },
    subscription::cache::SubscriptionCache,
    tally::AcceptedEvent,
};

/// The suffix of the channel on which publications are announced.
pub const CHANNEL: &str = "outbox";
/// Events that one step takes, at most.
const EVENTS_PER_STEP_MAX: i64 = 32;
/// How long an event that cannot be fanned out is left alone, so that the others are not held up.
const RETRY_AFTER_SECONDS: f64 = 30.0;
/// How far back a look goes in any case. An event's id is of the moment at which it was published, and its transaction
/// commits a little later.
const RECENT_SECONDS: f64 = 10.0;
/// How long a step waits for an event of a tenant with an ordered subscription that somebody else has locked.
const ORDERED_PATIENCE: Duration = Duration::from_millis(50);
/// Deliveries that one transaction makes, at most.
const DELIVERIES_PER_STEP_MAX: usize = 10_000;

/// The result of one step.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// Events that were fanned out, wholly or in part; zero means that none are waiting.
    pub events: usize,
    /// Lanes that this step armed; their workers still need a wake-up.
    pub armed: Vec<Uuid>,
    /// Lanes that this step left alone.
    pub left_alone: LeftAlone,
    /// The first event that was waiting; `None` where none was.
    pub first: Option<Uuid>,
    /// Events that this step stored: of an event that was fanned out in parts, the first part does.
    pub accepted: Vec<AcceptedEvent>,
    /// How long it took to find the events.
    pub look: Duration,
}

struct Row {
    event_id: Uuid,
    tenant_id: String,
    event_type: String,
    payload: Vec<u8>,
    metadata: Option<Json<Metadata>>,
    ordering_key: Option<String>,
    deliver_at: Option<DateTime<Utc>>,
    expires_at: Option<DateTime<Utc>>,
    traceparent: Option<String>,
    tracestate: Option<String>,
    fanned_out_to: Option<Uuid>,
}

/// Fans out waiting events in one transaction. Many workers may do so at once; no two take the same event. A result
/// without events means that nothing is left. `pool` is of [`crate::database::Session::FanOut`].
///
/// The look begins at the event `from`, or at `RECENT_SECONDS` ago, whichever is earlier. So it does not have to read
/// the dead versions of all rows that were taken before, which stay for as long as some session holds an old snapshot.
/// The nil UUID makes the look begin at the first event: events whose transactions took long to commit are found so.
///
/// An event that cannot be fanned out is left alone for a while, so that it does not stop the others.
pub async fn step(pool: &PgPool, cache: &SubscriptionCache, from: Uuid) -> Result<Step> {
    let (mut first, mut busy) = (None, Vec::new());
    loop {
        let known = busy.len();
        match step_of(pool, cache, from, EVENTS_PER_STEP_MAX, &mut busy, &mut first).await {
            // All that was found is another worker's to do, or locked. Behind it there may be events of other tenants.
            Ok(step) if step.events == 0 && busy.len() > known => {}
            Err(_) if busy.len() > known => {}
            Ok(step) => return Ok(step),
            // Whatever the error is: events that fail together may succeed one by one.
            Err(error) => {
                tracing::warn!(?error, "a fan-out failed");
                break;
            }
        }
    }
    match step_of(pool, cache, from, 1, &mut busy, &mut first).await {
        Err(error @ (Error::Internal(_) | Error::TooLarge(_))) => {
            sqlx::query!(
                "UPDATE outbox SET retry_at = clock_timestamp() + make_interval(secs => $2) WHERE event_id = $1",
                first,
                RETRY_AFTER_SECONDS
            )
            .execute(pool)
            .await?;
            let event_id = first.map(EventId);
            tracing::error!(?error, ?event_id, "a published event cannot be fanned out; it is tried again later");
            Ok(Step { events: 1, ..Step::default() })
        }
        done => done,
    }
}

/// Makes one step of at most `events_max` events, none of them of the tenants in `busy`. Tenants with ordered
/// subscriptions are added to `busy` where another worker is fanning out their events, or somebody has locked one of
/// them; `first` becomes the first event that this step tried.
async fn step_of(
    pool: &PgPool,
    cache: &SubscriptionCache,
    from: Uuid,
    events_max: i64,
    busy: &mut Vec<String>,
    first: &mut Option<Uuid>,
) -> Result<Step> {
    let started = Instant::now();
    // Events that another worker is fanning out are skipped. The locks end with this statement.
    let waiting = sqlx::query!(
        "SELECT event_id, tenant_id FROM outbox
          WHERE event_id >= least($2, uuid_floor(now() - make_interval(secs => $3)))
            AND retry_at <= clock_timestamp() AND tenant_id <> ALL ($4)
          ORDER BY event_id LIMIT $1 FOR UPDATE SKIP LOCKED",
        events_max,
        from,
        RECENT_SECONDS,
        &*busy
    );
    let waiting = waiting.fetch_all(pool).await?;
    *first = waiting.first().map(|row| row.event_id);
    let found = Step { first: *first, look: started.elapsed(), ..Step::default() };
    if waiting.is_empty() {
        return Ok(found);
    }
    // Audiences are read before the transaction begins, because nobody holds one connection while waiting for another.
    // They are read after the events were found, so that they contain every subscription that is older than an event.
    let mut audiences = HashMap::new();
    for row in &waiting {
        if !audiences.contains_key(&row.tenant_id) {
            audiences.insert(row.tenant_id.clone(), cache.audience(&row.tenant_id).await?);
        }
    }
    let is_ordered = |tenant: &str| audiences.get(tenant).is_some_and(|audience| audience.is_ordered());
    let (ordered, free): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|row| is_ordered(&row.tenant_id));
    let ordered_to = ordered.last().map(|row| row.event_id);
    let mut tenants: Vec<_> = ordered.into_iter().map(|row| row.tenant_id).collect();
    tenants.sort_unstable();
    tenants.dedup();
    let looked = Looked { free: free.iter().map(|row| row.event_id).collect(), ordered_to, tenants, events_max };
    let mut transaction = pool.begin().await?;
    match take(&mut transaction, &looked, &audiences, busy, first).await {
        Ok(step) => {
            transaction.commit().await?;
            Ok(Step { first: found.first, look: found.look, ..step })
        }
        Err(error) => {
            // The rollback is awaited, so that the next step can take these events.
            transaction.rollback().await?;
            Err(error)
        }
    }
}

/// Events that a look has found.
struct Looked {
    /// Those of tenants without an ordered subscription.
    free: Vec<Uuid>,
    /// The last one of a tenant with an ordered subscription.
    ordered_to: Option<Uuid>,
    /// The tenants with an ordered subscription.
    tenants: Vec<String>,
    /// Events that are taken of those tenants, at most.
    events_max: i64,
}

/// Locks the tenants with ordered subscriptions and their first events, whether the look has found those or passed
/// them. Tenants for which another worker is working are left out and added to `busy`. The locks end with the
/// transaction.
async fn lock_ordered(
    transaction: &mut sqlx::PgTransaction<'_>,
    looked: &Looked,
    busy: &mut Vec<String>,
) -> Result<Vec<Row>> {
    let Some(to) = looked.ordered_to else { return Ok(Vec::new()) };
    let ours = sqlx::query_scalar!(
        r#"SELECT tenant AS "tenant!" FROM unnest($1::text[]) AS tenant
            WHERE pg_try_advisory_xact_lock(hashtextextended(current_schema() || '_outbox ' || tenant, 0))"#,
        &looked.tenants
    );
    let ours = ours.fetch_all(&mut **transaction).await?;
    busy.extend(looked.tenants.iter().filter(|tenant| !ours.contains(tenant)).cloned());
    if ours.is_empty() {
        return Ok(Vec::new());
    }
    // No event may be passed, so this waits for a row that the look of another worker has locked for a moment. Whoever
    // has it locked for longer holds up this tenant only.
    let patience = ORDERED_PATIENCE.as_millis().to_string();
    sqlx::query!("SELECT set_config('lock_timeout', $1, true)", patience).fetch_one(&mut **transaction).await?;
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT event_id, tenant_id, event_type, payload, metadata AS "metadata: _", ordering_key, deliver_at,
                  expires_at, traceparent, tracestate, fanned_out_to
             FROM outbox WHERE event_id <= $1 AND tenant_id = ANY ($2) AND retry_at <= clock_timestamp()
            ORDER BY event_id LIMIT $3 FOR UPDATE"#,
        to,
        &ours,
        looked.events_max
    );
    let rows = rows.fetch_all(&mut **transaction).await;
    if rows.as_ref().is_err_and(is_locked) {
        busy.extend(ours);
    }
    Ok(rows?)
}

/// Stores the deliveries of those events that no other worker has taken meanwhile, in the order of the events' ids;
/// `first` becomes the first of them.
async fn take(
    transaction: &mut sqlx::PgTransaction<'_>,
    looked: &Looked,
    audiences: &HashMap<String, Arc<Audience>>,
    busy: &mut Vec<String>,
    first: &mut Option<Uuid>,
) -> Result<Step> {
    let mut rows = lock_ordered(transaction, looked, busy).await?;
    let free = sqlx::query_as!(
        Row,
        r#"SELECT event_id, tenant_id, event_type, payload, metadata AS "metadata: _", ordering_key, deliver_at,
                  expires_at, traceparent, tracestate, fanned_out_to
             FROM outbox WHERE event_id = ANY ($1) AND retry_at <= clock_timestamp()
            ORDER BY event_id LIMIT 1000 FOR UPDATE SKIP LOCKED"#,
        &looked.free
    );
    rows.extend(free.fetch_all(&mut **transaction).await?);
    rows.sort_unstable_by_key(|row| row.event_id);
    *first = rows.first().map_or(*first, |row| Some(row.event_id));
    let mut whole = Vec::new();
    let mut room = DELIVERIES_PER_STEP_MAX;
    for row in rows {
        let (begun_to, mut event) = (row.fanned_out_to, event_of(row)?);
        let Some(audience) = audiences.get(&event.tenant_id) else {
            return Err(Error::internal("an event was taken whose tenant's audience has not been read"));
        };
        let (mut wanting, verdicts) = audience.judge(&event.facts(), usize::MAX);
        if begun_to.is_none() {
            verdicts.count();
        }
        wanting.retain(|id| begun_to.is_none_or(|to| id.0 > to));
        if begun_to.is_none() && wanting.len() <= room {
            room -= wanting.len();
            event.deliver_to(wanting);
            whole.push(event);
        } else if whole.is_empty() {
            return store_part(transaction, begun_to, event, wanting).await;
        } else {
            break; // The next step begins with this event.
        }
    }
    if whole.is_empty() {
        return Ok(Step::default());
    }
    let events: Vec<_> = whole.iter().collect();
    let armed = accept(&mut **transaction, &events, Atomicity::PerEvent, 0, Notification::Afterwards).await?.armed;
    let done: Vec<_> = whole.iter().map(|event| event.id.0).collect();
    sqlx::query!("DELETE FROM outbox WHERE event_id = ANY ($1)", &done).execute(&mut **transaction).await?;
    let accepted = whole.iter().map(NewEvent::counted).collect();
    Ok(Step { events: whole.len(), left_alone: left_alone(&events, &armed), armed, accepted, ..Step::default() })
}

/// Stores the next part of a wide fan-out. The first part also stores the event.
async fn store_part(
    transaction: &mut sqlx::PgTransaction<'_>,
    begun_to: Option<Uuid>,
    mut event: NewEvent,
    mut wanting: Vec<SubscriptionId>,
) -> Result<Step> {
    wanting.sort_unstable();
    let rest = wanting.split_off(wanting.len().min(DELIVERIES_PER_STEP_MAX));
    let mark = wanting.last().map(|id| id.0);
    event.deliver_to(wanting);
    let armed = if begun_to.is_none() {
        accept(&mut **transaction, &[&event], Atomicity::PerEvent, 0, Notification::Afterwards).await?.armed
    } else {
        let deliveries: Vec<_> = event.deliveries.iter().map(|one| NewDeliveryRow::of(&event, one)).collect();
        store_deliveries(transaction, deliveries, Origin::Event).await?
    };
    let moved = if rest.is_empty() {
        sqlx::query!("DELETE FROM outbox WHERE event_id = $1", event.id.0).execute(&mut **transaction).await?
    } else {
        sqlx::query!("UPDATE outbox SET fanned_out_to = $2 WHERE event_id = $1", event.id.0, mark)
            .execute(&mut **transaction)
            .await?
    };
    debug_assert_eq!(moved.rows_affected(), 1, "its row is locked");
    let accepted = if begun_to.is_none() { vec![event.counted()] } else { Vec::new() };
    Ok(Step { events: 1, left_alone: left_alone(&[&event], &armed), armed, accepted, ..Step::default() })
}

fn event_of(row: Row) -> Result<NewEvent> {
    let event_type: EventType = row.event_type.parse().map_err(Error::internal)?;
    // publish() has stored what its caller named, whatever it is.
    let trace = row.traceparent.and_then(|parent| TraceContext::parse(&parent, row.tracestate.as_deref()));
    Ok(NewEvent {
        id: EventId(row.event_id),
        metadata: row.metadata.map(|metadata| metadata.0).unwrap_or_default(),
        ordering_key: row.ordering_key,
        deliver_at: row.deliver_at,
        expires_at: row.expires_at,
        trace,
        ..NewEvent::new(row.tenant_id, event_type, CONTENT_TYPE_JSON.to_owned(), row.payload.into())
    })
}
