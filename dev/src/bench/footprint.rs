//! Measures what a delivery costs: bytes of each table and its indexes, bytes of the write-ahead log (WAL), and CPU
//! time of each kind of process. `docs/capacity.md` reckons with these figures. Sizes and the log hardly depend on the
//! machine; CPU time does.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sqlx::PgPool;

use super::{
    cpu_json,
    load::{self, PAYLOAD_BYTES, Target, Until},
    system::System,
};
use crate::{
    postgres::Postgres,
    receiver::{Keep, Receiver},
};

/// Subscriptions, each of which wants events of a type of its own. The events go to them in turn, so that indexes are
/// filled as they are with many subscriptions.
const SUBSCRIPTIONS: u64 = 200;
/// Events that are posted as fast as possible, with one delivery each, and the connections that post them.
const EVENTS: u64 = 50_000;
const CONNECTIONS: usize = 64;
/// Then events are posted at a low rate. A checkpoint after every so many makes the log as large for each of them as it
/// is with 100,000 deliveries a day and a checkpoint every five minutes: after a checkpoint, the first change of a page
/// writes the whole page to the log.
const SLOW_RATE: u32 = 100;
const SLOW_TIME: Duration = Duration::from_secs(60);
const CHECKPOINT_EVERY: u64 = 347;
/// Then nothing is posted for so long.
const IDLE_TIME: Duration = Duration::from_secs(60);
/// How long deliveries may take to arrive, and to be recorded after that.
const ARRIVED_WITHIN: Duration = Duration::from_secs(300);
const RECORDED_WITHIN: Duration = Duration::from_secs(30);
/// Statistics are written later than the deliveries that they count.
const STATISTICS_WITHIN: Duration = Duration::from_secs(20);
/// Tables that take less of each delivery than this, in bytes, are told together.
const SMALL: f64 = 2.0;

/// The bytes of a table, with all of its partitions.
#[derive(Clone, Debug, sqlx::FromRow)]
struct Table {
    name: String,
    /// The rows, and values that are stored apart from them.
    rows: i64,
    indexes: i64,
}

/// Measures everything.
///
/// # Errors
/// When something does not start, or events do not arrive.
pub async fn footprint(server: &Postgres) -> Result<Value> {
    let system = System::start(server).await?;
    let receiver = Receiver::start("127.0.0.1:0", Keep::Count).await?;
    for number in 0..SUBSCRIPTIONS {
        let settings = json!({"target_url": receiver.url("/success"), "event_types": [event_type(number)]});
        system.subscribe_with(&settings).await?;
    }
    let target = system.target_at("/events".to_owned(), |number| load::event_of_type(&event_type(number), number));
    post(&system, &receiver, &target, 2 * SUBSCRIPTIONS).await?;

    println!("footprint:      {EVENTS} events of {PAYLOAD_BYTES} bytes, one delivery and one attempt each");
    let empty = tables(&system.pool).await?;
    let fast = fast(&system, &receiver, &target).await?;
    tokio::time::sleep(STATISTICS_WITHIN).await;
    let sizes = tell_sizes(&empty, &tables(&system.pool).await?);
    let slow = slow(&system, &receiver, &target).await?;
    let idle = idle(&system).await?;
    let [api, worker] = system.peak_memory_mb();
    println!("                peak memory: api {api:.0} MB, worker {worker:.0} MB");
    system.stop().await?;
    Ok(json!({"events": EVENTS, "payload_bytes": PAYLOAD_BYTES, "bytes_per_delivery": sizes, "flooded": fast,
              "slow": slow, "idle": idle, "peak_memory_mb": {"api": api, "worker": worker}}))
}

fn event_type(number: u64) -> String {
    format!("bench.{}", number % SUBSCRIPTIONS)
}

/// What was used since a moment.
struct Meter<'a> {
    system: &'a System,
    cpu: super::usage::CpuTimes,
    position: String,
    started: Instant,
}

impl<'a> Meter<'a> {
    async fn start(system: &'a System) -> Result<Self> {
        sqlx::query("CHECKPOINT").execute(&system.pool).await?;
        let position = "SELECT pg_current_wal_insert_lsn()::text";
        let position = sqlx::query_scalar(position).fetch_one(&system.pool).await?;
        Ok(Self { system, cpu: system.cpu(), position, started: Instant::now() })
    }

    /// Bytes of the log.
    async fn log_bytes(&self) -> Result<i64> {
        let bytes = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1::text::pg_lsn)::bigint";
        Ok(sqlx::query_scalar(bytes).bind(&self.position).fetch_one(&self.system.pool).await?)
    }

    /// Prints what each of so many deliveries has used, and answers it.
    async fn tell(&self, name: &str, deliveries: u64) -> Result<Value> {
        let elapsed = self.started.elapsed().as_secs_f64();
        let cpu = self.system.cpu().per_thousand(&self.cpu, deliveries);
        let log = self.log_bytes().await? as f64 / deliveries as f64;
        let rate = deliveries as f64 / elapsed;
        println!(
            "{name:<16}{rate:>8.0}/s; {log:.0} bytes of WAL a delivery; CPU s per 1000: api {:.3}, worker {:.3}, \
             postgres {:.3}",
            cpu[0], cpu[1], cpu[2]
        );
        Ok(json!({"deliveries_per_second": rate, "wal_bytes_per_delivery": log, "cpu_seconds_per_1000": cpu_json(cpu)}))
    }
}

/// Posts events as fast as possible.
async fn fast(system: &System, receiver: &Receiver, target: &Target) -> Result<Value> {
    let meter = Meter::start(system).await?;
    post(system, receiver, target, EVENTS).await?;
    meter.tell("flooded:", EVENTS).await
}

/// Posts events, and waits until they are delivered and recorded.
async fn post(system: &System, receiver: &Receiver, target: &Target, events: u64) -> Result<()> {
    let before = receiver.count();
    load::flood(target, CONNECTIONS, Until::Events(events)).await?;
    receiver.wait_for(before + events, ARRIVED_WITHIN).await?;
    recorded(&system.pool).await
}

async fn recorded(pool: &PgPool) -> Result<()> {
    let wait = async {
        while sqlx::query_scalar::<_, bool>("SELECT EXISTS (SELECT FROM queue)").fetch_one(pool).await? {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(RECORDED_WITHIN, wait).await.context("what was delivered is not recorded")?
}

/// Posts events at a low rate, with checkpoints as often as they come at a much lower one.
async fn slow(system: &System, receiver: &Receiver, target: &Target) -> Result<Value> {
    let meter = Meter::start(system).await?;
    let before = receiver.count();
    let pause = Duration::from_secs(1) * u32::try_from(CHECKPOINT_EVERY)? / SLOW_RATE;
    let posted = tokio::select! {
        posted = load::steady(target, SLOW_RATE, SLOW_TIME) => posted?.len() as u64,
        error = checkpoints(&system.pool, pause) => return Err(error.into()),
    };
    receiver.wait_for(before + posted, ARRIVED_WITHIN).await?;
    recorded(&system.pool).await?;
    meter.tell("slow:", posted).await
}

/// Makes a checkpoint after each pause; answers only where one fails.
async fn checkpoints(pool: &PgPool, pause: Duration) -> sqlx::Error {
    loop {
        tokio::time::sleep(pause).await;
        if let Err(error) = sqlx::query("CHECKPOINT").execute(pool).await {
            return error;
        }
    }
}

/// Posts nothing, and prints which share of a core each process takes all the same.
async fn idle(system: &System) -> Result<Value> {
    // Otherwise autovacuum would clean up after the load just then.
    sqlx::query("VACUUM").execute(&system.pool).await?;
    let meter = Meter::start(system).await?;
    tokio::time::sleep(IDLE_TIME).await;
    let seconds = meter.started.elapsed().as_secs_f64();
    // CPU seconds for a thousand of something that comes once a second are thousandths of a core.
    let cores = system.cpu().per_thousand(&meter.cpu, 1000).map(|used| used / seconds);
    let log = meter.log_bytes().await? as f64 / seconds;
    println!(
        "idle:           cores: api {:.4}, worker {:.4}, postgres {:.4}; {log:.0} bytes of WAL a second",
        cores[0], cores[1], cores[2]
    );
    Ok(json!({"cores": {"api": cores[0], "worker": cores[1], "postgres": cores[2]}, "wal_bytes_per_second": log}))
}

async fn tables(pool: &PgPool) -> Result<Vec<Table>> {
    let tables = "SELECT coalesce(p.relname, c.relname)::text AS name,
                         sum(pg_table_size(c.oid))::bigint AS rows,
                         sum(pg_indexes_size(c.oid))::bigint AS indexes
                    FROM pg_class c
                    LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
                    LEFT JOIN pg_class p ON p.oid = i.inhparent
                   WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r'
                   GROUP BY 1 ORDER BY 1";
    Ok(sqlx::query_as(tables).fetch_all(pool).await?)
}

/// Prints by how much each table has grown for each delivery, and answers it.
fn tell_sizes(before: &[Table], after: &[Table]) -> Value {
    let of_each = |bytes: i64| bytes as f64 / EVENTS as f64;
    let (mut told, mut sum, mut others) = (json!({}), [0.0; 2], [0.0; 2]);
    println!("bytes of each delivery:   table   indexes");
    for table in after {
        let old = before.iter().find(|old| old.name == table.name);
        let (old_table, old_index) = old.map_or((0, 0), |old| (old.rows, old.indexes));
        let grown = [of_each(table.rows - old_table), of_each(table.indexes - old_index)];
        sum = [sum[0] + grown[0], sum[1] + grown[1]];
        if grown[0] + grown[1] < SMALL {
            others = [others[0] + grown[0], others[1] + grown[1]];
            continue;
        }
        println!("                {:>15.0} {:>9.0}   {}", grown[0], grown[1], table.name);
        told[&table.name] = json!({"table": grown[0], "indexes": grown[1]});
    }
    for (name, [table, indexes]) in [("all other tables", others), ("all tables", sum)] {
        println!("                {table:>15.0} {indexes:>9.0}   {name}");
        told[name] = json!({"table": table, "indexes": indexes});
    }
    told
}
