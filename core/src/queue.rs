//! The queue as workers see it: they claim and record; and the wake-up that ingest sends them. The statements
//! themselves are functions in the database, one file each in `sql/functions`; here is the typed way to call them. How
//! events get in stands in [`accept`], how workers read what they deliver in [`payload`].

pub mod accept;
pub mod attempt;
pub mod intake;
pub mod payload;
pub mod retry_policy;
pub(crate) mod rows;
pub mod waker;

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool, types::Json};
use uuid::Uuid;

use crate::{
    Result,
    database::bounded,
    queue::{
        attempt::Outcome,
        rows::{OutcomeRow, StatusWord},
    },
};

/// Notes of [`arm_noted_lanes`] dealt with in one transaction, at most.
const NOTES_AT_ONCE_MAX: i32 = 1000;
/// What the wake-up channel's name ends in.
pub const WAKE_CHANNEL: &str = "wake";

/// A delivery that is ours to attempt until the lease expires.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// Which.
    pub delivery_id: Uuid,
    /// What is delivered.
    pub event_id: Uuid,
    /// The lane it came from.
    pub lane_id: Uuid,
    /// To whom; `None` for an inline delivery.
    pub subscription_id: Option<Uuid>,
    /// Number of this attempt; 1 is the first.
    pub attempt_number: i32,
    /// Earlier attempts that do not count against the retry policy.
    pub attempts_before: i32,
    /// How often it was given back through a fault of ours.
    pub releases: i32,
    /// Fences the outcome.
    pub lease_token: i64,
    /// Milliseconds that the lease lasts, from the claim.
    pub lease_ms: i32,
}

impl Claimed {
    /// Number of this attempt within the retry policy's present round; 1 is the first.
    #[must_use]
    pub fn attempt_in_round(&self) -> u16 {
        let number = self.attempt_number.saturating_sub(self.attempts_before).max(1);
        u16::try_from(number).unwrap_or(u16::MAX)
    }
}

/// How a worker looks for work.
#[derive(Clone, Debug)]
pub struct ClaimRequest {
    /// Lanes visited, at most.
    pub lanes_max: i32,
    /// Free places; at most half of them are filled by one lane.
    pub rows_max: i32,
    /// Lanes left out.
    pub skip: Vec<Uuid>,
    /// Where the look along the lanes begins; `None` for the very beginning.
    pub lanes_from: Option<DateTime<Utc>>,
    /// The one lane to visit, where a claim of all has failed.
    pub only: Option<Uuid>,
}

/// What becomes of a claimed delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// The receiver has it.
    Succeeded,
    /// It ran out of attempts, or was refused for good.
    DeadLetter {
        /// How long its whole lane rests.
        lane_rests: Option<Duration>,
    },
    /// Nobody wants it any more.
    Canceled,
    /// It goes back, due after a while.
    Retry {
        /// How long it waits.
        after: Duration,
        /// How long its whole lane rests.
        lane_rests: Option<Duration>,
        /// Whether this attempt counts against the retry policy.
        counts: Counts,
    },
}

/// Whether an attempt counts against the retry policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    /// As every attempt that the receiver had a part in.
    Yes,
    /// It was cut short by us.
    No,
}

/// An outcome to be written down.
#[derive(Clone, Debug)]
pub struct Report {
    /// Which delivery, under which lease.
    pub delivery_id: Uuid,
    /// The lease that fences it.
    pub lease_token: i64,
    /// The lane it came from.
    pub lane_id: Uuid,
    /// Whose it is; `None` for an inline delivery.
    pub subscription_id: Option<Uuid>,
    /// Number of the attempt.
    pub attempt_number: i32,
    /// What was tried and came of it; `None` where no attempt was made.
    pub outcome: Option<Outcome>,
    /// What becomes of the delivery.
    pub disposition: Disposition,
}

/// What a wake-up came to.
#[derive(Clone, Debug, Default)]
pub struct Woken {
    /// Whether a notification was sent.
    pub notified: bool,
    /// Deliveries whose lanes somebody else had locked at that moment; they need another call.
    pub locked: Vec<Uuid>,
}

/// How long ago lanes may have been armed, at most, for workers to find them where they usually look.
pub const LATE: Duration = Duration::from_millis(500);

/// Wakes the workers if a lane was armed, or if one that was left alone turns out to need it; of each of those, one
/// delivery that was stored there. `took` is how long the lanes have been armed for. Waits for no lane.
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

/// What a wake-up says where lanes were armed a while ago, behind where workers usually look.
pub const LATE_WAKE_UP: &str = "late";

/// Arms lanes that were locked when something was to be noted in them; answers how many notes it dealt with.
pub async fn arm_noted_lanes(pool: &PgPool) -> Result<i32> {
    let done = sqlx::query_scalar!(r#"SELECT arm_noted_lanes($1) AS "done!""#, NOTES_AT_ONCE_MAX);
    Ok(bounded!(pool, done.fetch_one)?)
}

/// Wakes the workers when the connection's transaction commits. For rare changes only: a notification makes commits
/// wait for each other.
pub(crate) async fn call_workers(connection: &mut PgConnection) -> Result<()> {
    sqlx::query!("SELECT pg_notify(current_schema() || '_wake', '')").execute(connection).await?;
    Ok(())
}

/// Leases due deliveries. Their events are read afterwards, by [`payload::read`].
pub async fn claim(pool: &PgPool, request: &ClaimRequest) -> Result<Vec<Claimed>> {
    let rows = sqlx::query_as!(
        Claimed,
        r#"SELECT delivery_id AS "delivery_id!", event_id AS "event_id!", lane_id AS "lane_id!", subscription_id,
                  attempt_number AS "attempt_number!", attempts_before AS "attempts_before!", releases AS "releases!",
                  lease_token AS "lease_token!", lease_ms AS "lease_ms!"
             FROM claim($1, $2, $3, coalesce($4, '-infinity'::timestamptz), $5)"#,
        request.lanes_max,
        request.rows_max,
        &request.skip,
        request.lanes_from,
        request.only,
    );
    Ok(bounded!(pool, rows.fetch_all)?)
}

/// The lanes that are due, the earliest first: for a claim lane by lane, where one of all has failed.
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

/// Lets a lane rest, whose claims fail, so that those of the others do not fail with it.
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

/// The database's time, and when the next lane is due, where any is.
#[derive(Clone, Copy, Debug)]
pub struct NextDue {
    /// The database's clock.
    pub now: DateTime<Utc>,
    /// In the past where a lane is due already.
    pub due_at: Option<DateTime<Utc>>,
}

impl NextDue {
    /// How long until then; zero where a lane is due already.
    #[must_use]
    pub fn wait(&self) -> Option<Duration> {
        self.due_at.map(|due_at| (due_at - self.now).to_std().unwrap_or_default())
    }
}

/// When a worker that found nothing should look again. `skip` and `lanes_from` as in [`ClaimRequest`].
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

/// Writes outcomes down in one durable transaction; answers the deliveries it applied to. An outcome whose lease was
/// lost meanwhile changes nothing. One delivery may stand in `reports` only once.
pub async fn record(pool: &PgPool, reports: &[Report]) -> Result<Vec<Uuid>> {
    let outcomes: Vec<_> = reports.iter().map(outcome_row).collect();
    let applied = sqlx::query_scalar!(r#"SELECT record_outcomes($1) AS "applied!""#, outcomes as _);
    Ok(bounded!(pool, applied.fetch_one)?)
}

/// A report as `record_outcomes` takes it.
fn outcome_row(report: &Report) -> OutcomeRow<'_> {
    let outcome = report.outcome.as_ref();
    let response = outcome.and_then(|outcome| outcome.response.as_ref());
    let failure = outcome.and_then(|outcome| outcome.failure.as_ref());
    let (status, delay_ms, rest_ms, is_excused) = match report.disposition {
        Disposition::Succeeded => ("succeeded", None, None, false),
        Disposition::DeadLetter { lane_rests } => ("dead_letter", None, lane_rests.map(millis), false),
        Disposition::Canceled => ("canceled", None, None, false),
        Disposition::Retry { after, lane_rests, counts } => {
            // An attempt that was not made is given back as a number, so there is nothing to excuse.
            let is_excused = counts == Counts::No && outcome.is_some();
            ("pending", Some(millis(after)), lane_rests.map(millis), is_excused)
        }
    };
    OutcomeRow {
        delivery_id: report.delivery_id,
        lease_token: report.lease_token,
        subscription_id: report.subscription_id,
        status: StatusWord(status),
        delay_ms,
        rest_ms,
        is_excused,
        number: report.attempt_number,
        started_at: outcome.map(|outcome| outcome.started_at),
        duration_ms: outcome.map(|outcome| i32::try_from(outcome.duration.as_millis()).unwrap_or(i32::MAX)),
        status_code: response.map(|response| i16::try_from(response.status_code).unwrap_or(i16::MAX)),
        error_kind: failure.map(|failure| failure.kind.as_str()),
        error: failure.map(|failure| failure.message.replace('\0', "\u{fffd}")),
        response_headers: response.map(|response| Json(response.headers.as_slice())),
        response_body: response.map(|response| response.body.as_slice()),
        response_truncated: response.is_some_and(|response| response.truncated),
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
