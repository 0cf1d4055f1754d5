//! `cargo dev failover`: a primary with a synchronous standby, two processes of each kind that know both, and load. The
//! primary is stopped as by a power cut, the standby is promoted, and at the end every event that was answered with 202
//! must have been delivered.

use std::{
    collections::HashMap,
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use sqlx::{Connection, PgConnection};

use crate::{
    postgres::{Durability, Postgres},
    traffic::{Balance, Traffic, WITHIN},
    up::{Process, environment},
};

/// How often we look whether the standby follows the primary.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What was seen.
#[derive(Clone, Debug)]
pub struct Report {
    /// What came of the events.
    pub balance: Balance,
    /// From stopping the primary until the standby took writes.
    pub promoted_after: Duration,
    /// From stopping the primary until the first 202 to a request that began later.
    pub accepting_after: Duration,
    /// From stopping the primary until the first delivery of such an event.
    pub delivering_after: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.balance)?;
        for (name, time) in [
            ("standby promoted after", self.promoted_after),
            ("accepting after      ", self.accepting_after),
            ("delivering after     ", self.delivering_after),
        ] {
            writeln!(formatter, "{name} {:>7.2} s", time.as_secs_f64())?;
        }
        Ok(())
    }
}

/// Lets the primary fail under load, which lasts that long before it and again after it. The binaries of api and worker
/// must have been built.
///
/// # Errors
/// When something does not start, or nothing is accepted or delivered on the other server in time.
pub async fn failover(load: Duration) -> Result<Report> {
    let primary = Postgres::temporary("failover-primary", Durability::Durable)?;
    let standby = primary.standby("failover-standby")?;
    make_synchronous(&primary).await?;
    let env = variables(&primary, &standby)?;
    let (first, second) = (Process::start("api", "debug", &env).await?, Process::start("api", "debug", &env).await?);
    let workers = [Process::start("worker", "debug", &env).await?, Process::start("worker", "debug", &env).await?];
    let traffic = Traffic::start(vec![first.address(), second.address()]).await?;
    tokio::time::sleep(load).await;
    ensure!(!traffic.acknowledged().is_empty(), "nothing was accepted before the primary stopped");
    let (stopped_at, standby) = tokio::task::spawn_blocking(move || {
        // What was sent is lost, what was acknowledged is on the standby.
        let stopped_at = Instant::now();
        primary.halt()?;
        standby.promote()?;
        anyhow::Ok((stopped_at, (primary, standby)))
    })
    .await??;
    let promoted_after = stopped_at.elapsed();
    let resumed = traffic.accepted_after(stopped_at).await?;
    let delivered = traffic.delivered_after(stopped_at).await?;
    tokio::time::sleep(load).await;
    let balance = traffic.end().await;
    for process in workers.into_iter().chain([first, second]) {
        process.stop().await?;
    }
    drop(standby);
    Ok(Report {
        balance,
        promoted_after,
        accepting_after: resumed.ended - stopped_at,
        delivering_after: delivered - stopped_at,
    })
}

/// From now on a commit waits until the standby shows it.
async fn make_synchronous(primary: &Postgres) -> Result<()> {
    let mut session = PgConnection::connect(&primary.url("postgres")).await?;
    for statement in [
        "ALTER SYSTEM SET synchronous_standby_names = '*'",
        "ALTER SYSTEM SET synchronous_commit = 'remote_apply'",
        "SELECT pg_reload_conf()",
    ] {
        sqlx::raw_sql(statement).execute(&mut session).await?;
    }
    let asked = Instant::now();
    let follows = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = 'sync'";
    while sqlx::query_scalar::<_, i64>(follows).fetch_one(&mut session).await? == 0 {
        ensure!(asked.elapsed() < WITHIN, "the standby does not follow the primary");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(session.close().await?)
}

fn variables(primary: &Postgres, standby: &Postgres) -> Result<HashMap<String, String>> {
    let mut env = environment()?;
    let (one, other) = (primary.port(), standby.port());
    let hosts = format!("127.0.0.1:{one},127.0.0.1:{other}");
    let url = format!("postgres://postgres@{hosts}/postgres?target_session_attrs=read-write");
    for (name, value) in [
        ("DATABASE_URL", url.as_str()),
        ("POSTRIDER_API_LISTEN", "127.0.0.1:0"),
        ("POSTRIDER_WORKER_LISTEN", "127.0.0.1:0"),
        ("POSTRIDER_LOG", "warn,sqlx=error"),
    ] {
        env.insert(name.to_owned(), value.to_owned());
    }
    Ok(env)
}
