//! What the model test plays on: a database whose clock moves only when a step moves it, three sessions whose commits
//! the test can hold up, and an observer who sees what is committed.
//!
//! The clock: the model's sessions look for functions in our schema before the catalog, and there the test puts a
//! `clock_timestamp()` of its own, a microsecond later with each call. So hours pass in no time, also while a
//! transaction is open, and a sequence of steps has the same outcome on every machine.
//!
//! The patience: who waits for a lane with a time limit does so until the lane is free, while that time has not passed
//! on the test's clock; but one of the sessions gives up at once.
//!
//! The gates: a deferred trigger makes every transaction that has written to the queue or to lanes take its session's
//! gate when it commits. While the observer keeps a gate closed, that transaction stands where a slow commit would,
//! with all its locks; so every function of the core is run as it is, and held open for as long as the test likes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use postrider_core::{
    trust::seal::Keyring,
    upkeep::invariants::{self, Violation},
};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use uuid::Uuid;

use crate::world::{World, database_config, lookup};

/// Sessions that act at once.
pub const SESSIONS: usize = 3;
/// The session that waits for a lane only if that has no time limit.
const IMPATIENT_SESSION: usize = 2;
/// Longer than all calls of the clock that one statement makes; two times that are closer may be the same.
pub const INSTANT: TimeDelta = TimeDelta::milliseconds(1);

/// Of the partitions only those of these days stay, because plans and scans of all of them take most of the time. A
/// vacuum that truncates a table would lock everybody out.
const SETUP: &str = "
    DO $$
    DECLARE part text;
    BEGIN
        FOR part IN SELECT name FROM partitions
                     WHERE (now() AT TIME ZONE 'UTC')::date NOT IN (day, day - 1) LOOP
            EXECUTE format('DROP TABLE %I', part);
        END LOOP;
        FOR part IN SELECT relname FROM pg_class
                     WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r' LOOP
            EXECUTE format('ALTER TABLE %I SET (vacuum_truncate = off)', part);
        END LOOP;
    END $$;
    CREATE SEQUENCE model_clock;
    CREATE FUNCTION clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$
        SELECT timestamptz '2030-01-01 00:00:00Z' + nextval('model_clock') * interval '1 microsecond' $$;
    CREATE FUNCTION now() RETURNS timestamptz LANGUAGE sql STABLE AS $$
        SELECT timestamptz '2030-01-01 00:00:00Z' + last_value * interval '1 microsecond' FROM model_clock $$;
    CREATE FUNCTION set_config(name text, value text, is_local boolean) RETURNS text LANGUAGE plpgsql AS $$
    BEGIN
        IF name <> 'lock_timeout' OR value = '0' THEN
            RETURN pg_catalog.set_config(name, value, is_local);
        ELSIF current_setting('model.is_patient', true) = 'no' THEN
            RAISE lock_not_available;
        END IF;
        RETURN value;
    END $$;
    CREATE FUNCTION model_gate() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF current_setting('model.session', true) <> '' THEN
            PERFORM pg_advisory_xact_lock_shared(7, current_setting('model.session')::integer);
        END IF;
        RETURN NULL;
    END $$;
    CREATE CONSTRAINT TRIGGER model_gate AFTER INSERT OR UPDATE OR DELETE ON queue
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION model_gate();
    CREATE CONSTRAINT TRIGGER model_gate AFTER INSERT OR UPDATE OR DELETE ON lanes
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION model_gate();
    CREATE CONSTRAINT TRIGGER model_gate AFTER INSERT OR UPDATE OR DELETE ON lanes_to_arm
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION model_gate();";

const RESET: &str = "
    DELETE FROM queue; DELETE FROM lanes; DELETE FROM lanes_to_arm;
    DELETE FROM attempts; DELETE FROM deliveries; DELETE FROM inline_deliveries;
    DELETE FROM events; DELETE FROM dead_letters; DELETE FROM audit_log; DELETE FROM subscriptions;
    SELECT setval('model_clock', 1);";

/// What a session's statement waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// For its own gate: it is done but for the commit.
    AtGate,
    /// For a lock of another session.
    ForLock,
}

/// A delivery as it is committed.
#[derive(Debug, sqlx::FromRow)]
pub struct Stored {
    pub id: Uuid,
    pub status: String,
    pub lane_id: Option<Uuid>,
    pub lease_token: Option<i64>,
    pub attempt_count: Option<i32>,
    /// It waits for a time to come that its lane has not noted.
    pub is_unnoted: bool,
    /// Its lane is not held, and not due either, nor will it be as soon as a claim looks again for a row that it found
    /// locked, or as a worker handles the note of a change that it needs.
    pub is_passed_by: bool,
}

/// Everything that the cases of the test share.
pub struct Stage {
    pub world: World,
    pub keyring: Keyring,
    pub observer: PgPool,
    sessions: Vec<(PgPool, i32)>,
    epoch: Instant,
}

impl Stage {
    pub async fn new() -> Result<Self> {
        let world = World::new().await;
        sqlx::raw_sql(SETUP).execute(&world.pool).await?;
        let mut env = lookup(&world.env);
        let stage = env.stage();
        let keyring = env.keyring(stage).context("there is a key in .env")?;
        let options = database_config(&world.env).options.options([("search_path", "postrider,pg_catalog")]);
        let observer = one_connection(options.clone()).await?;
        let mut sessions = Vec::new();
        for session in 0..SESSIONS {
            let is_patient = if session == IMPATIENT_SESSION { "no" } else { "yes" };
            let settings = [("model.session", session.to_string()), ("model.is_patient", is_patient.to_owned())];
            let pool = one_connection(options.clone().options(settings)).await?;
            let pid = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&pool).await?;
            sessions.push((pool, pid));
        }
        let stage = Self { world, keyring, observer, sessions, epoch: Instant::now() };
        let before = stage.now().await?;
        stage.advance(Duration::from_secs(60)).await?;
        let passed = postrider_core::queue::next_due(&stage.observer, &[], None).await?.now - before;
        ensure!(passed < TimeDelta::seconds(61), "the queue's statements go by the test's clock: {passed}");
        Ok(stage)
    }

    /// A session's only connection.
    pub fn pool(&self, session: usize) -> PgPool {
        self.sessions[session].0.clone()
    }

    /// Forgets all that earlier cases have left.
    pub async fn reset(&self) -> Result<()> {
        sqlx::raw_sql(RESET).execute(&self.observer).await?;
        Ok(())
    }

    /// The time, without moving it.
    pub async fn now(&self) -> Result<DateTime<Utc>> {
        Ok(sqlx::query_scalar("SELECT now()").fetch_one(&self.observer).await?)
    }

    /// A time as a worker's own clock would show it.
    pub fn instant(&self, time: DateTime<Utc>) -> Instant {
        self.epoch + (time - base()).to_std().unwrap_or_default()
    }

    /// Moves the time, and answers it.
    pub async fn advance(&self, time: Duration) -> Result<DateTime<Utc>> {
        let set = sqlx::query_scalar("SELECT setval('model_clock', last_value + $1) FROM model_clock");
        let micros = set.bind(i64::try_from(time.as_micros())?).fetch_one(&self.observer).await?;
        Ok(base() + TimeDelta::microseconds(micros))
    }

    /// From now on this session's transactions wait before they commit. (It stays as it is where the session's
    /// transaction has passed it already.)
    pub async fn close_gate(&self, session: usize) -> Result<bool> {
        let close = sqlx::query_scalar("SELECT pg_try_advisory_lock(7, $1)").bind(i32::try_from(session)?);
        Ok(close.fetch_one(&self.observer).await?)
    }

    pub async fn open_gate(&self, session: usize) -> Result<()> {
        let open = sqlx::query("SELECT pg_advisory_unlock(7, $1)").bind(i32::try_from(session)?);
        open.execute(&self.observer).await?;
        Ok(())
    }

    /// What a session waits for at this moment, if it waits.
    pub async fn waiting(&self, session: usize) -> Result<Option<Waiting>> {
        let waiting: Option<bool> = sqlx::query_scalar(
            "SELECT locktype = 'advisory' AND classid = 7 AND objsubid = 2 FROM pg_locks WHERE pid = $1 AND NOT granted
              LIMIT 1",
        )
        .bind(self.sessions[session].1)
        .fetch_optional(&self.observer)
        .await?;
        Ok(waiting.map(|at_gate| if at_gate { Waiting::AtGate } else { Waiting::ForLock }))
    }

    /// Makes a session's statement fail, as its timeout would.
    pub async fn cancel(&self, session: usize) -> Result<()> {
        let cancel = sqlx::query("SELECT pg_cancel_backend($1)").bind(self.sessions[session].1);
        cancel.execute(&self.observer).await?;
        Ok(())
    }

    /// Waits until a session has let go of everything: an error is told before its transaction is undone.
    pub async fn undone(&self, session: usize) -> Result<()> {
        sqlx::query("SELECT").execute(&self.sessions[session].0).await?;
        Ok(())
    }

    pub async fn deliveries(&self) -> Result<Vec<Stored>> {
        let stored = sqlx::query_as(
            "SELECT d.id, d.status::text AS status, q.lane_id, q.lease_token, q.attempt_count,
                    coalesce(q.lease_token IS NULL AND q.due_at > now() AND l.scheduled_at > q.due_at, false)
                        AS is_unnoted,
                    coalesce(l.due_at > greatest(now(), l.held_until) + lane_margin(), false) AS is_passed_by
               FROM deliveries d
               LEFT JOIN queue q ON q.delivery_id = d.id
               LEFT JOIN lanes l
                 ON l.id = q.lane_id AND NOT EXISTS (SELECT FROM lanes_to_arm n WHERE n.lane_id = l.id)",
        );
        Ok(stored.fetch_all(&self.observer).await?)
    }

    /// Lanes that are due since this time or earlier.
    pub async fn due_lanes(&self, time: DateTime<Utc>) -> Result<Vec<Uuid>> {
        let due = sqlx::query_scalar("SELECT id FROM lanes WHERE due_at <= $1").bind(time);
        Ok(due.fetch_all(&self.observer).await?)
    }

    /// Lanes whose receivers asked for a rest while somebody had the lane locked, so that it is only noted.
    pub async fn noted_rests(&self) -> Result<Vec<Uuid>> {
        let noted = sqlx::query_scalar("SELECT lane_id FROM lanes_to_arm WHERE rests_until > '-infinity'");
        Ok(noted.fetch_all(&self.observer).await?)
    }

    /// Changes of lanes that were noted and not made.
    pub async fn notes(&self) -> Result<i64> {
        Ok(sqlx::query_scalar("SELECT count(*) FROM lanes_to_arm").fetch_one(&self.observer).await?)
    }

    /// Invariants that do not hold.
    pub async fn violations(&self) -> Result<Vec<Violation>> {
        Ok(invariants::check(&self.observer).await?)
    }
}

/// Where the clock begins.
fn base() -> DateTime<Utc> {
    DateTime::from_timestamp(1_893_456_000, 0).expect("in range") // 2030-01-01
}

/// A pool whose one connection stays the same for ever.
async fn one_connection(options: PgConnectOptions) -> Result<PgPool> {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .connect_with(options);
    Ok(pool.await?)
}
