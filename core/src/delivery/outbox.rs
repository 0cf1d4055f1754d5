//! The outbox: events that somebody's own transaction published by SQL. After its commit a worker fans them out, which
//! does the same as accepting them, and removes them from the outbox. A fan-out that is too wide for one transaction is
//! done in parts; each part stores how far the fan-out has come.
//!
//! Events of a tenant that has an ordered subscription are fanned out in the order of their ids, and by one worker at a
//! time: an event whose transaction had committed before another event was published comes before that one. Events of
//! transactions that overlap have no order. An event that cannot be fanned out loses its place.

mod portion;

use std::time::{Duration, Instant};

use sqlx::{PgExecutor, PgPool};
use uuid::Uuid;

use self::portion::{Audiences, DELIVERIES_PER_STEP_MAX, Judged, Portion, Row, portion};
use crate::{
    Error, Result,
    error::is_locked,
    event::new_event::NewEvent,
    id::{EventId, SubscriptionId},
    queue::{
        accept::{Atomicity, LeftAlone, Notification, Origin, accept, left_alone, store_deliveries},
        rows::{NewDeliveryRow, NewEventRow},
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

/// The result of one step.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// Events that were fanned out, wholly or in part; zero means that none are waiting.
    pub events: usize,
    /// Whether this step armed lanes.
    pub has_armed: bool,
    /// Whether it armed lanes of which its commits have not notified the workers.
    pub must_notify: bool,
    /// Lanes that this step left alone.
    pub left_alone: LeftAlone,
    /// The first event that was waiting; `None` where none was.
    pub first: Option<Uuid>,
    /// Events that this step stored: of an event that was fanned out in parts, the first part does.
    pub accepted: Vec<AcceptedEvent>,
    /// How long it took to find the events.
    pub look: Duration,
}

impl Step {
    /// What a transaction has done that stored these events, wholly or in part, and armed these lanes.
    fn of(events: &[&NewEvent], armed: &[Uuid], notification: Notification) -> Self {
        Self {
            events: events.len(),
            has_armed: !armed.is_empty(),
            must_notify: !armed.is_empty() && notification == Notification::Afterwards,
            left_alone: left_alone(events, armed),
            accepted: events.iter().map(|event| event.counted()).collect(),
            ..Self::default()
        }
    }

    /// Adds what another transaction has done.
    fn add(&mut self, other: Self) {
        self.events += other.events;
        self.has_armed |= other.has_armed;
        self.must_notify |= other.must_notify;
        self.left_alone.extend(other.left_alone);
        self.accepted.extend(other.accepted);
    }
}

/// Fans out waiting events. Many workers may do so at once; no two take the same event. A result without events means
/// that nothing is left. `pool` is of [`crate::database::Session::FanOut`].
///
/// The look begins at the event `from`, or at `RECENT_SECONDS` ago, whichever is earlier. So it does not have to read
/// the dead versions of all rows that were taken before, which stay for as long as some session holds an old snapshot.
/// The nil UUID makes the look begin at the first event: events whose transactions took long to commit are found so.
///
/// An event that cannot be fanned out is left alone for a while, so that it does not stop the others.
pub async fn step(pool: &PgPool, cache: &SubscriptionCache, from: Uuid) -> Result<Step> {
    let mut round = Round { pool, cache, from, busy: Vec::new(), tried: None, step: Step::default() };
    loop {
        let known = round.busy.len();
        match round.fan_out(EVENTS_PER_STEP_MAX).await {
            // All that was found is another worker's to do, or locked. Behind it there may be events of other tenants.
            Ok(()) if round.step.events == 0 && round.busy.len() > known => {}
            Err(_) if round.busy.len() > known => {}
            Ok(()) => return Ok(round.step),
            // Whatever the error is: events that fail together may succeed one by one.
            Err(error) => {
                tracing::warn!(?error, "a fan-out failed");
                break;
            }
        }
    }
    match round.fan_out(1).await {
        Err(error @ (Error::Internal(_) | Error::TooLarge(_))) => {
            sqlx::query!(
                "UPDATE outbox SET retry_at = clock_timestamp() + make_interval(secs => $2) WHERE event_id = $1",
                round.tried,
                RETRY_AFTER_SECONDS
            )
            .execute(pool)
            .await?;
            round.step.events += 1;
            let event_id = round.tried.map(EventId);
            tracing::error!(?error, ?event_id, "a published event cannot be fanned out; it is tried again later");
        }
        // Workers must still hear of what was stored before the error came.
        Err(error) if round.step.events > 0 => tracing::warn!(?error, "a fan-out failed"),
        done => done?,
    }
    Ok(round.step)
}

/// One step while it is made.
struct Round<'a> {
    pool: &'a PgPool,
    cache: &'a SubscriptionCache,
    from: Uuid,
    /// Tenants with ordered subscriptions whose events another worker is fanning out, or somebody has locked.
    busy: Vec<String>,
    /// The first event of those that were tried last.
    tried: Option<Uuid>,
    /// What has been stored so far.
    step: Step,
}

/// Which events a transaction locks.
enum Choice {
    /// The first events of these tenants, which have ordered subscriptions: at most `events_max`, and none behind `to`.
    Ordered { tenants: Vec<String>, to: Uuid, events_max: i64 },
    /// This event.
    One(Uuid),
}

impl Round<'_> {
    /// Fans out at most `events_max` events, none of them of busy tenants. What it has stored before it fails stays.
    async fn fan_out(&mut self, events_max: i64) -> Result<()> {
        let started = Instant::now();
        // Events that another worker is fanning out are skipped. The locks end with this statement.
        let waiting = sqlx::query_as!(
            Row,
            r#"SELECT event_id, tenant_id, event_type, payload, metadata AS "metadata: _", ordering_key, deliver_at,
                      expires_at, traceparent, tracestate, fanned_out_to
                 FROM outbox
                WHERE event_id >= least($2, uuid_floor(now() - make_interval(secs => $3)))
                  AND retry_at <= clock_timestamp() AND tenant_id <> ALL ($4)
                ORDER BY event_id LIMIT $1 FOR UPDATE SKIP LOCKED"#,
            events_max,
            self.from,
            RECENT_SECONDS,
            &self.busy
        );
        let waiting = waiting.fetch_all(self.pool).await?;
        self.step.first = waiting.first().map(|row| row.event_id);
        self.step.look = started.elapsed();
        // Audiences are read after the events were found, so that they contain every subscription that is older than
        // an event; and before a transaction begins, because nobody holds one connection while waiting for another.
        let mut audiences = Audiences::new();
        for row in &waiting {
            if !audiences.contains_key(&row.tenant_id) {
                audiences.insert(row.tenant_id.clone(), self.cache.audience(&row.tenant_id).await?);
            }
        }
        let is_ordered = |row: &Row| audiences.get(&row.tenant_id).is_some_and(|audience| audience.is_ordered());
        let (ordered, free): (Vec<_>, Vec<_>) = waiting.into_iter().partition(is_ordered);
        if let Some(to) = ordered.last().map(|row| row.event_id) {
            let mut tenants: Vec<_> = ordered.into_iter().map(|row| row.tenant_id).collect();
            tenants.sort_unstable();
            tenants.dedup();
            self.in_transaction(Choice::Ordered { tenants, to, events_max }, &audiences).await?;
        }
        self.tried = free.first().map_or(self.tried, |row| Some(row.event_id));
        match portion(free, &audiences)? {
            Portion::Whole(judged) => self.step.add(store_whole(self.pool, judged).await?),
            // Its row is read again, with a lock that lasts.
            Portion::Part { judged, .. } => {
                self.in_transaction(Choice::One(judged.event.id.0), &audiences).await?;
            }
        }
        Ok(())
    }

    /// Fans out events in a transaction that has them locked.
    async fn in_transaction(&mut self, choice: Choice, audiences: &Audiences) -> Result<()> {
        let mut transaction = self.pool.begin().await?;
        match self.take(&mut transaction, choice, audiences).await {
            Ok(done) => {
                transaction.commit().await?;
                self.step.add(done);
                Ok(())
            }
            Err(error) => {
                // The rollback is awaited, so that the next step can take these events.
                transaction.rollback().await?;
                Err(error)
            }
        }
    }

    async fn take(
        &mut self,
        transaction: &mut sqlx::PgTransaction<'_>,
        choice: Choice,
        audiences: &Audiences,
    ) -> Result<Step> {
        let rows = match choice {
            Choice::Ordered { tenants, to, events_max } => {
                self.lock_ordered(transaction, tenants, to, events_max).await?
            }
            Choice::One(event) => {
                let row = sqlx::query_as!(
                    Row,
                    r#"SELECT event_id, tenant_id, event_type, payload, metadata AS "metadata: _", ordering_key,
                              deliver_at, expires_at, traceparent, tracestate, fanned_out_to
                         FROM outbox WHERE event_id = $1 FOR UPDATE SKIP LOCKED"#,
                    event
                );
                row.fetch_optional(&mut **transaction).await?.into_iter().collect()
            }
        };
        self.tried = rows.first().map_or(self.tried, |row| Some(row.event_id));
        match portion(rows, audiences)? {
            Portion::Whole(judged) => store_whole(&mut **transaction, judged).await,
            Portion::Part { begun_to, judged, wanting } => store_part(transaction, begun_to, *judged, wanting).await,
        }
    }

    /// Locks tenants with ordered subscriptions and their first events, whether the look has found those or passed
    /// them. Tenants for which another worker is working are left out and become busy. The locks end with the
    /// transaction.
    async fn lock_ordered(
        &mut self,
        transaction: &mut sqlx::PgTransaction<'_>,
        tenants: Vec<String>,
        to: Uuid,
        events_max: i64,
    ) -> Result<Vec<Row>> {
        let ours = sqlx::query_scalar!(
            r#"SELECT tenant AS "tenant!" FROM unnest($1::text[]) AS tenant
                WHERE pg_try_advisory_xact_lock(hashtextextended(current_schema() || '_outbox ' || tenant, 0))"#,
            &tenants
        );
        let ours = ours.fetch_all(&mut **transaction).await?;
        self.busy.extend(tenants.into_iter().filter(|tenant| !ours.contains(tenant)));
        if ours.is_empty() {
            return Ok(Vec::new());
        }
        // No event may be passed, so this waits for a row that the look of another worker has locked for a moment.
        // Whoever has it locked for longer holds up this tenant only.
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
            events_max
        );
        let rows = rows.fetch_all(&mut **transaction).await;
        if rows.as_ref().is_err_and(is_locked) {
            self.busy.extend(ours);
        }
        Ok(rows?)
    }
}

/// Stores events with all their deliveries, those that no other worker has taken.
async fn store_whole<'e>(executor: impl PgExecutor<'e>, mut judged: Vec<Judged>) -> Result<Step> {
    if judged.is_empty() {
        return Ok(Step::default());
    }
    let notification = Notification::of_batch(judged.len());
    let events = judged.iter().map(|one| NewEventRow::of(&one.event, false)).collect::<Vec<_>>();
    let deliveries =
        judged.iter().flat_map(|one| one.event.deliveries.iter().map(|own| NewDeliveryRow::of(&one.event, own)));
    let stored = sqlx::query!(
        r#"SELECT taken AS "taken!", armed AS "armed!" FROM accept_published($1, $2, $3)"#,
        events as _,
        deliveries.collect::<Vec<_>>() as _,
        notification == Notification::WithCommit
    );
    let stored = stored.fetch_one(executor).await?;
    judged.retain(|one| stored.taken.contains(&one.event.id.0));
    for one in &judged {
        one.verdicts.count();
    }
    let events: Vec<_> = judged.iter().map(|one| &one.event).collect();
    Ok(Step::of(&events, &stored.armed, notification))
}

/// Stores the next part of a wide fan-out. The first part also stores the event.
async fn store_part(
    transaction: &mut sqlx::PgTransaction<'_>,
    begun_to: Option<Uuid>,
    Judged { mut event, verdicts }: Judged,
    mut wanting: Vec<SubscriptionId>,
) -> Result<Step> {
    wanting.sort_unstable();
    let rest = wanting.split_off(wanting.len().min(DELIVERIES_PER_STEP_MAX));
    let mark = wanting.last().map(|id| id.0);
    event.deliver_to(wanting);
    let notification = Notification::Afterwards;
    let armed = if begun_to.is_none() {
        verdicts.count();
        accept(&mut **transaction, &[&event], Atomicity::PerEvent, 0, notification).await?.armed
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
    let mut step = Step::of(&[&event], &armed, notification);
    if begun_to.is_some() {
        step.accepted.clear();
    }
    Ok(step)
}
