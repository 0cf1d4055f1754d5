//! The queue as workers see it: they claim deliveries and record outcomes, and ingest wakes them. The statements are
//! functions in the database, one file each in `core/sql/functions`; this module calls them with types. How events are
//! stored is in [`accept`]; how workers read the events that they deliver is in [`payload`].

pub mod accept;
pub mod attempt;
pub mod disable_reason;
pub mod glance;
pub mod intake;
mod lane_changes;
pub mod next_step;
pub mod observed;
pub mod payload;
pub mod rest;
pub mod retry_policy;
pub(crate) mod rows;
pub mod waker;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
pub(crate) use lane_changes::{end_rest, go_on, make_due};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::{
    Error, Result,
    database::bounded,
    queue::{attempt::Outcome, observed::Subject, rows::OutcomeRow},
};

/// Notes in `lanes_to_arm` that one call of [`arm_noted_lanes`] handles, at most.
const NOTES_AT_ONCE_MAX: i32 = 1000;
/// The suffix of the channel on which workers are woken.
pub const WAKE_CHANNEL: &str = "wake";

/// A claimed delivery: only this worker may attempt it until the lease expires.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// The delivery to attempt.
    pub delivery_id: Uuid,
    /// The event to deliver.
    pub event_id: Uuid,
    /// The lane in which the delivery waited.
    pub lane_id: Uuid,
    /// The subscription to which the event goes; `None` for an inline delivery.
    pub subscription_id: Option<Uuid>,
    /// Number of this attempt; 1 is the first.
    pub attempt_number: i32,
    /// Earlier attempts that do not count against the retry policy.
    pub attempts_before: i32,
    /// How often the delivery was given back through a fault of ours.
    pub releases: i32,
    /// Proves that the lease is ours: an outcome is recorded only with the token of the present lease.
    pub lease_token: i64,
    /// Milliseconds that the lease lasts, from the claim.
    pub lease_ms: i32,
    /// Whether other deliveries of the lane wait for the outcome, because the lane is ordered or its attempts at once
    /// are limited.
    pub is_awaited: bool,
    /// When the attempt may begin, by the lane's rate limit; `None` means at once.
    pub not_before: Option<Instant>,
    /// For how long it had been due when it was claimed; `None` in a lane with limits, where deliveries wait on
    /// purpose.
    pub late: Option<Duration>,
}

impl Claimed {
    /// Number of this attempt within the retry policy's present round; 1 is the first.
    #[must_use]
    pub fn attempt_in_round(&self) -> u16 {
        let number = self.attempt_number.saturating_sub(self.attempts_before).max(1);
        u16::try_from(number).unwrap_or(u16::MAX)
    }

    /// What is to be written down about this delivery; `outcome` is `None` where no attempt was made.
    #[must_use]
    pub fn report(&self, outcome: Option<Outcome>, disposition: Disposition) -> Report {
        Report {
            delivery_id: self.delivery_id,
            event_id: self.event_id,
            lease_token: self.lease_token,
            lane_id: self.lane_id,
            subscription_id: self.subscription_id,
            attempt_number: self.attempt_number,
            is_awaited: self.is_awaited,
            outcome,
            disposition,
            subject: None,
        }
    }
}

/// How many deliveries a worker claims, and from which lanes.
#[derive(Clone, Debug)]
pub struct ClaimRequest {
    /// Lanes that one claim visits, at most.
    pub lanes_max: i32,
    /// The worker's free places. A lone lane may fill half of them; n lanes together at most n of every n + 1.
    pub rows_max: i32,
    /// Lanes that the claim does not visit, because they hold too many of the worker's places.
    pub skip: Vec<Uuid>,
    /// Only lanes that became due at this time or later are visited; `None` means all due lanes.
    pub lanes_from: Option<DateTime<Utc>>,
    /// The only lane to visit, after a claim of all lanes has failed; otherwise `None`.
    pub only: Option<Uuid>,
}

/// The fate of a claimed delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// The receiver has accepted it.
    Succeeded,
    /// It ran out of attempts, or was refused for good.
    DeadLetter {
        /// How long all deliveries of the lane wait, where the receiver asked for it (`Retry-After`).
        lane_rests: Option<Duration>,
    },
    /// It is canceled: its event has expired, or its subscription is gone.
    Canceled,
    /// It goes back into the queue, due after a while.
    Retry {
        /// How long this delivery waits.
        after: Duration,
        /// How long all deliveries of the lane wait, where the receiver asked for it (`Retry-After`).
        lane_rests: Option<Duration>,
        /// Whether this attempt counts against the retry policy.
        counts: Counts,
    },
}

/// Whether an attempt counts against the retry policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    /// It counts, as every attempt does in which the receiver had a part.
    Yes,
    /// It does not count, because it failed through a fault of ours.
    No,
}

/// A claimed delivery's outcome, which is about to be written down.
#[derive(Clone, Debug)]
pub struct Report {
    /// The delivery that was attempted.
    pub delivery_id: Uuid,
    /// Its event.
    pub event_id: Uuid,
    /// The token of the lease under which it was attempted. If the lease was lost meanwhile, the report changes
    /// nothing.
    pub lease_token: i64,
    /// The lane in which the delivery waits.
    pub lane_id: Uuid,
    /// The subscription to which the event goes; `None` for an inline delivery.
    pub subscription_id: Option<Uuid>,
    /// Number of the attempt; 1 is the first.
    pub attempt_number: i32,
    /// Whether other deliveries of the lane wait for the outcome.
    pub is_awaited: bool,
    /// The outcome of the attempt; `None` where none was made.
    pub outcome: Option<Outcome>,
    /// The fate of the delivery.
    pub disposition: Disposition,
    /// What the statistics need to know of the delivery; `None` where it is not known.
    pub subject: Option<Subject>,
}

/// The result of a wake-up.
#[derive(Clone, Debug, Default)]
pub struct Woken {
    /// Whether the workers were notified.
    pub notified: bool,
    /// Deliveries whose lanes another transaction had locked; call [`wake`] again for them.
    pub locked: Vec<Uuid>,
}

/// Lanes that were armed longer ago than this may be passed by workers that continue where they usually do; those need
/// a late wake-up.
pub const LATE: Duration = Duration::from_millis(500);

/// Wakes the workers if `armed` says that a lane was armed, or if a lane that was left alone turns out to need it.
/// `unarmed` has one stored delivery for each lane that was left alone. `took` is how long ago the lanes were armed, at
/// most. This waits for no lane.
pub async fn wake(pool: &PgPool, armed: bool, took: Duration, unarmed: &[Uuid]) -> Result<Woken> {
    let woken = sqlx::query!(
        r#"SELECT notified AS "notified!", locked AS "locked!" FROM wake($1, $2, $3)"#,
        armed,
        took > LATE,
        unarmed
    );
    let woken = bounded!(pool, woken.fetch_one)?;
    Ok(Woken { notified: woken.notified, locked: woken.locked })
}

/// The payload of a wake-up for lanes that were armed a while ago: workers then start at the first lane.
pub const LATE_WAKE_UP: &str = "late";

/// Arms lanes that were locked when somebody needed to arm them (see `lanes_to_arm`); returns how many notes were
/// handled.
pub async fn arm_noted_lanes(pool: &PgPool) -> Result<i32> {
    let done = sqlx::query_scalar!(r#"SELECT arm_noted_lanes($1) AS "done!""#, NOTES_AT_ONCE_MAX);
    Ok(bounded!(pool, done.fetch_one)?)
}

/// Wakes the workers when the connection's transaction commits. It is for rare changes only, because a notification
/// makes commits wait for each other.
pub(crate) async fn call_workers(connection: &mut PgConnection) -> Result<()> {
    sqlx::query!("SELECT pg_notify(current_schema() || '_wake', '')").execute(connection).await?;
    Ok(())
}

/// Leases due deliveries to the caller, and tells when the next claim may find something. Their events are read
/// afterwards, by [`payload::read`].
pub async fn claim(pool: &PgPool, request: &ClaimRequest) -> Result<(Vec<Claimed>, NextDue)> {
    let rows = sqlx::query_as!(
        ClaimRow,
        "SELECT * FROM claim($1, $2, $3, coalesce($4, '-infinity'::timestamptz), $5)",
        request.lanes_max,
        request.rows_max,
        &request.skip,
        request.lanes_from,
        request.only,
    );
    let rows = bounded!(pool, rows.fetch_all)?;
    let next = rows.last().and_then(|row| Some(NextDue { now: row.looked_at?, due_at: row.next_due_at }));
    let next = next.ok_or_else(|| Error::internal("a claim did not tell when it looked"))?;
    let claimed_at = Instant::now();
    let mut before: HashMap<Uuid, u32> = HashMap::new();
    let claimed = rows.into_iter().filter_map(|row| {
        let not_before = row.step_us.zip(row.lane_id).map(|(step_us, lane)| {
            let nth = before.entry(lane).or_default();
            let wait_us = row.wait_us.unwrap_or_default().saturating_add(step_us.saturating_mul(i64::from(*nth)));
            *nth += 1;
            claimed_at + Duration::from_micros(u64::try_from(wait_us).unwrap_or_default())
        });
        row.claimed(not_before)
    });
    Ok((claimed.collect(), next))
}

/// A row of a claim: a claimed delivery, or, in the last row, when the claim looked and the next lane is due.
struct ClaimRow {
    delivery_id: Option<Uuid>,
    event_id: Option<Uuid>,
    lane_id: Option<Uuid>,
    subscription_id: Option<Uuid>,
    attempt_number: Option<i32>,
    attempts_before: Option<i32>,
    releases: Option<i32>,
    lease_token: Option<i64>,
    lease_ms: Option<i32>,
    is_awaited: Option<bool>,
    /// The wait of the lane's first delivery, and how much longer each further one waits.
    wait_us: Option<i64>,
    step_us: Option<i64>,
    late_us: Option<i64>,
    looked_at: Option<DateTime<Utc>>,
    next_due_at: Option<DateTime<Utc>>,
}

impl ClaimRow {
    fn claimed(self, not_before: Option<Instant>) -> Option<Claimed> {
        Some(Claimed {
            delivery_id: self.delivery_id?,
            event_id: self.event_id?,
            lane_id: self.lane_id?,
            subscription_id: self.subscription_id,
            attempt_number: self.attempt_number?,
            attempts_before: self.attempts_before?,
            releases: self.releases?,
            lease_token: self.lease_token?,
            lease_ms: self.lease_ms?,
            is_awaited: self.is_awaited.unwrap_or_default(),
            not_before,
            late: self.late_us.map(|late_us| Duration::from_micros(late_us.unsigned_abs())),
        })
    }
}

/// The due lanes, the earliest first, for claiming lane by lane after a claim of all has failed.
pub async fn due_lanes(pool: &PgPool, request: &ClaimRequest) -> Result<Vec<Uuid>> {
    let lanes = sqlx::query_scalar!(
        "SELECT id FROM lanes
          WHERE due_at >= coalesce($2, '-infinity'::timestamptz) AND due_at <= clock_timestamp() AND id <> ALL ($1)
          ORDER BY due_at LIMIT $3",
        &request.skip,
        request.lanes_from,
        i64::from(request.lanes_max),
    );
    Ok(bounded!(pool, lanes.fetch_all)?)
}

/// Holds a lane whose claims fail, so that the claims of other lanes do not fail with it.
pub async fn set_aside(pool: &PgPool, lane: Uuid, rest: Duration) -> Result<()> {
    let update = sqlx::query!(
        "UPDATE lanes
            SET rests_until = greatest(rests_until, clock_timestamp() + make_interval(secs => $2)),
                due_at = greatest(due_at, clock_timestamp() + make_interval(secs => $2)), revision = revision + 1
          WHERE id = $1",
        lane,
        rest.as_secs_f64()
    );
    bounded!(pool, update.execute)?;
    Ok(())
}

/// The database's time, and the time at which the next lane is due, if there is one.
#[derive(Clone, Copy, Debug)]
pub struct NextDue {
    /// The present time by the database's clock.
    pub now: DateTime<Utc>,
    /// When the next lane is due; in the past where one is due already, and `None` where no lane will be.
    pub due_at: Option<DateTime<Utc>>,
}

impl NextDue {
    /// How long until the next lane is due; zero where one is due already.
    #[must_use]
    pub fn wait(&self) -> Option<Duration> {
        self.due_at.map(|due_at| (due_at - self.now).to_std().unwrap_or_default())
    }
}

/// When a worker should claim again whose claim could not tell it. `skip` and `lanes_from` have the same meaning as in
/// [`ClaimRequest`].
pub async fn next_due(pool: &PgPool, skip: &[Uuid], lanes_from: Option<DateTime<Utc>>) -> Result<NextDue> {
    let row = sqlx::query!(
        r#"SELECT clock_timestamp() AS "now!",
                  (SELECT due_at FROM lanes
                    WHERE due_at >= coalesce($2, '-infinity'::timestamptz) AND due_at < 'infinity' AND id <> ALL ($1)
                    ORDER BY due_at LIMIT 1) AS due_at"#,
        skip,
        lanes_from
    );
    let row = bounded!(pool, row.fetch_one)?;
    Ok(NextDue { now: row.now, due_at: row.due_at })
}

/// Writes outcomes down in one durable transaction; returns the deliveries that were changed. An outcome whose lease
/// was lost meanwhile changes nothing. A delivery may occur in `reports` only once.
pub async fn record(pool: &PgPool, reports: &[Report]) -> Result<Vec<Uuid>> {
    let outcomes: Vec<_> = reports.iter().map(OutcomeRow::of).collect();
    let applied = sqlx::query_scalar!(r#"SELECT record_outcomes($1) AS "applied!""#, outcomes as _);
    Ok(bounded!(pool, applied.fetch_one)?)
}
