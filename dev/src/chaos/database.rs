//! What is done to the Postgres of a run, and what is read from it at the end.

use std::{fs, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::{
    chaos::log::{Attempt, Clock, Delivery, Log, number},
    postgres::Postgres,
};

/// How often a snapshot of the processes of Postgres is taken again, until no new one has appeared.
const LOOKS_MAX: usize = 10;

/// Opens a session of our own, without a proxy.
///
/// # Errors
/// When the server does not answer.
pub async fn connect(server: &Postgres) -> Result<PgConnection> {
    let mut connection = PgConnection::connect(&server.url("postgres")).await?;
    sqlx::query("SET search_path = postrider").execute(&mut connection).await?;
    Ok(connection)
}

/// Stops the server at once, and starts it again after this time.
///
/// # Errors
/// When the server does not start again.
pub async fn crash(server: &Arc<Postgres>, away: Duration) -> Result<()> {
    let halted = Arc::clone(server);
    tokio::task::spawn_blocking(move || halted.halt()).await??;
    tokio::time::sleep(away).await;
    let resumed = Arc::clone(server);
    tokio::task::spawn_blocking(move || resumed.resume()).await?
}

/// Sends SIGSTOP to all processes of the server, and SIGCONT after this time.
///
/// # Errors
/// When the server is not running.
pub async fn freeze(server: &Postgres, lasts: Duration) -> Result<()> {
    let postmaster = server.pid()?;
    let frozen = Frozen::all(postmaster);
    tokio::time::sleep(lasts).await;
    drop(frozen);
    Ok(())
}

/// Frozen processes, which go on when this is dropped.
struct Frozen(Vec<u32>);

impl Frozen {
    /// The main process is stopped first, so that no new ones appear, except those that it is just making.
    fn all(postmaster: u32) -> Self {
        let mut frozen = Self(vec![postmaster]);
        signal(postmaster, Signal::STOP);
        for _ in 0..LOOKS_MAX {
            let new: Vec<_> = children(postmaster).into_iter().filter(|pid| !frozen.0.contains(pid)).collect();
            if new.is_empty() {
                break;
            }
            for pid in &new {
                signal(*pid, Signal::STOP);
            }
            frozen.0.extend(new);
        }
        frozen
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for pid in self.0.iter().rev() {
            signal(*pid, Signal::CONT);
        }
    }
}

/// Kills a session of an api or a worker; which one is told by the number. Returns whether there was one.
///
/// # Errors
/// When the server is not running.
pub fn kill_session(server: &Postgres, nth: usize) -> Result<bool> {
    let is_session =
        |pid: &u32| fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("127.0.0.1("));
    let sessions: Vec<_> = children(server.pid()?).into_iter().filter(is_session).collect();
    if sessions.is_empty() {
        return Ok(false);
    }
    signal(sessions[nth % sessions.len()], Signal::KILL);
    Ok(true)
}

/// Waits until the server answers again.
pub async fn is_back(server: &Postgres) {
    while connect(server).await.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Holds a snapshot and a transaction id for this time.
///
/// # Errors
/// When the server goes away meanwhile.
pub async fn hold_transaction(server: &Postgres, lasts: Duration) -> Result<()> {
    let mut connection = connect(server).await?;
    let mut transaction = connection.begin().await?;
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").execute(&mut *transaction).await?;
    sqlx::query("SELECT txid_current(), (SELECT count(*) FROM queue)").execute(&mut *transaction).await?;
    tokio::time::sleep(lasts).await;
    transaction.rollback().await?;
    Ok(())
}

/// Holds the lock on a lane for this time.
///
/// # Errors
/// When the server goes away meanwhile.
pub async fn lock_lane(server: &Postgres, lane: Uuid, lasts: Duration) -> Result<()> {
    let mut connection = connect(server).await?;
    let mut transaction = connection.begin().await?;
    sqlx::query("SELECT 1 FROM lanes WHERE id = $1 FOR UPDATE").bind(lane).execute(&mut *transaction).await?;
    tokio::time::sleep(lasts).await;
    transaction.rollback().await?;
    Ok(())
}

/// How many deliveries and publications are not finished.
///
/// # Errors
/// When the server does not answer.
pub async fn unfinished(connection: &mut PgConnection) -> Result<i64> {
    let count = "SELECT (SELECT count(*) FROM queue) + (SELECT count(*) FROM outbox)";
    Ok(sqlx::query_scalar(count).fetch_one(connection).await?)
}

/// The first deliveries that are not finished, with what their lanes say.
///
/// # Errors
/// When the server does not answer.
pub async fn stuck(connection: &mut PgConnection) -> Result<Vec<String>> {
    let list = "SELECT format('%s in lane %s: due %s, lease %s, attempts %s; the lane is due %s and held until %s; '
                              'it is now %s', q.delivery_id, q.lane_id, q.due_at, q.lease_token, q.attempt_count,
                              l.due_at, l.held_until, clock_timestamp())
                  FROM queue q LEFT JOIN lanes l ON l.id = q.lane_id ORDER BY q.delivery_id LIMIT 10";
    Ok(sqlx::query_scalar(list).fetch_all(connection).await?)
}

/// Adds to the log what the database says.
///
/// # Errors
/// When the server does not answer.
pub async fn read(connection: &mut PgConnection, clock: Clock, log: &mut Log) -> Result<()> {
    let deliveries: Vec<(Uuid, String, Option<f64>, Vec<u8>)> = sqlx::query_as(
        "SELECT d.id, d.status::text, extract(epoch FROM d.finished_at)::float8, e.payload
           FROM deliveries d JOIN events e ON e.id = d.event_id",
    )
    .fetch_all(&mut *connection)
    .await?;
    for (id, status, finished, payload) in deliveries {
        let number = number(&payload).context("a payload that is not ours")?;
        log.deliveries.push(Delivery { id, number, status, finished: finished.map(|seconds| clock.moment(seconds)) });
    }
    let attempts: Vec<(Uuid, i32, Option<i16>, Option<String>)> =
        sqlx::query_as("SELECT delivery_id, number, status_code, error_kind FROM attempts")
            .fetch_all(connection)
            .await?;
    log.attempts = attempts
        .into_iter()
        .map(|(delivery, number, status, error)| Attempt {
            delivery,
            number: number.unsigned_abs(),
            status: status.map(i16::unsigned_abs),
            error,
        })
        .collect();
    Ok(())
}

/// What the statistics say and what they should say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Successful attempts that were counted.
    pub successes_counted: i64,
    /// Successful attempts that were logged.
    pub successes_logged: i64,
    /// Accepted events that were counted.
    pub events_counted: i64,
    /// Events that are stored.
    pub events_stored: i64,
}

/// Reads the sums of the tenant of the run.
///
/// # Errors
/// When the server does not answer.
pub async fn numbers(connection: &mut PgConnection, tenant: &str) -> Result<Numbers> {
    let (successes_counted, successes_logged, events_counted, events_stored) = sqlx::query_as(
        "SELECT (SELECT coalesce(sum(s.outcomes[1]), 0)::bigint FROM stats_minute s
                  WHERE s.tenant_id = $1 AND s.subscription_id = '00000000-0000-0000-0000-000000000000'),
                (SELECT count(*) FROM attempts a WHERE a.error_kind IS NULL),
                (SELECT coalesce(sum(m.events), 0)::bigint FROM accepted_minute m
                  WHERE m.tenant_id = $1 AND m.event_type = ''),
                (SELECT count(*) FROM events e WHERE e.tenant_id = $1)",
    )
    .bind(tenant)
    .fetch_one(connection)
    .await?;
    Ok(Numbers { successes_counted, successes_logged, events_counted, events_stored })
}

/// The processes that this one has started.
fn children(parent: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name of the program is in brackets and may hold anything; its parent is the second word after it.
        let after = stat.rsplit_once(") ").map_or("", |(_, after)| after);
        after.split(' ').nth(1).and_then(|word| word.parse().ok()) == Some(parent)
    })
    .collect()
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // A process that has ended meanwhile needs no signal.
        let _ = kill_process(pid, signal);
    }
}
