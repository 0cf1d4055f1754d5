//! The archive of retention: what is dropped was written before, whole or not at all, and what was written can be
//! checked. Much of it by the binary, as an outside cron runs it.

use std::{
    collections::BTreeSet,
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use chrono::{Days, NaiveDate, Utc};
use dev::{
    tools::{Tool, are_there},
    workspace,
};
use flate2::read::GzDecoder;
use postrider_core::upkeep::archive::{Archive, verify};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    crashes::{binaries, run_with},
    world::{SOON, World, store},
};

/// The tables that are archived.
const TABLES: [&str; 4] = ["events", "deliveries", "attempts", "inline_deliveries"];
/// Days after which partitions are dropped in these tests.
const DAYS: &str = "3";

/// A folder of its own, removed when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("postrider-archive-{}", Uuid::now_v7()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn archive(&self) -> Archive {
        Archive::new(self.0.clone())
    }

    /// The names of the files in it, without checksums.
    fn files(&self) -> BTreeSet<String> {
        let names = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| !name.ends_with(".sha256")).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A day whose partitions are old enough to be dropped.
fn old_day() -> NaiveDate {
    Utc::now().date_naive() - Days::new(5)
}

fn name_of(table: &str) -> String {
    format!("{table}_{}", old_day().format("%Y%m%d"))
}

/// A world with an old event that was delivered.
async fn world_with_an_old_day() -> World {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    sqlx::query("SELECT ensure_partitions($1, $1)").bind(old_day()).execute(&world.pool).await.unwrap();
    let millis = u128::from(old_day().and_hms_opt(12, 0, 0).unwrap().and_utc().timestamp_millis().unsigned_abs());
    let id = |salt| Uuid::from_u128(millis << 80 | 0x7000 << 64 | 1 << 63 | salt);
    store(&mut world.pool.acquire().await.unwrap(), &subscription, id(1), id(2)).await;
    assert_eq!(world.drain().await, 1);
    world
}

/// Makes many copies of the old event, each with another payload.
async fn multiply_old_event(world: &World, copies: i32) {
    sqlx::query(
        "INSERT INTO events (id, tenant_id, event_type, subscription_id, is_inline, content_type, payload, metadata,
                             created_at)
         SELECT overlay(e.id::text placing lpad(to_hex(n), 8, '0') from 29)::uuid, e.tenant_id, e.event_type,
                e.subscription_id, e.is_inline, e.content_type, sha512(n::text::bytea), e.metadata, e.created_at
           FROM events e, generate_series(1000, 999 + $1) n",
    )
    .bind(copies)
    .execute(&world.pool)
    .await
    .unwrap();
}

/// What a partition holds, as it should be in its file.
async fn rows_of(world: &World, table: &str) -> BTreeSet<String> {
    let read = format!("SELECT row_to_json(t)::text FROM {} t", name_of(table));
    let rows: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(read)).fetch_all(&world.pool).await.unwrap();
    rows.into_iter().collect()
}

fn lines_of(path: &Path) -> BTreeSet<String> {
    let mut text = String::new();
    GzDecoder::new(fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap();
    text.lines().map(str::to_owned).collect()
}

async fn exists(world: &World, table: &str) -> bool {
    let attached = "SELECT EXISTS (SELECT FROM partitions WHERE name = $1)";
    sqlx::query_scalar(attached).bind(name_of(table)).fetch_one(&world.pool).await.unwrap()
}

fn variables<'e>(world: &'e World, folder: &'e Path) -> Vec<(&'e str, &'e str)> {
    let url = world.env["DATABASE_URL"].as_str();
    let folder = folder.to_str().unwrap();
    vec![("DATABASE_URL", url), ("POSTRIDER_ARCHIVE_DIR", folder), ("POSTRIDER_RETENTION_DAYS", DAYS)]
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test]
async fn what_is_dropped_was_written_before_row_by_row() {
    let (world, folder) = (world_with_an_old_day().await, Folder::new());
    multiply_old_event(&world, 3000).await;
    let mut rows = Vec::new();
    for table in TABLES {
        rows.push(rows_of(&world, table).await);
    }
    assert_eq!(rows.iter().map(BTreeSet::len).collect::<Vec<_>>(), [3001, 1, 1, 0]);
    // This command needs no keys, only the database.
    let output = run_with("worker retention --once", &variables(&world, &folder.0)).await;
    let said = told(&output);
    assert!(output.status.success(), "{said}");
    for (table, rows) in TABLES.iter().zip(&rows) {
        let name = name_of(table);
        assert!(said.contains(&format!("dropped: {name}\n")), "{said}");
        assert!(!exists(&world, table).await);
        let lines = lines_of(&folder.0.join(format!("{name}.ndjson.gz")));
        assert!(lines == *rows, "{table} holds something else");
    }
    let row: Value = serde_json::from_str(rows[0].first().unwrap()).unwrap();
    assert!(row["payload"].as_str().unwrap().starts_with("\\x"), "{row}");

    // No database is needed to check the files.
    let only = [("POSTRIDER_ARCHIVE_DIR", folder.0.to_str().unwrap())];
    let output = run_with("worker archive verify", &only).await;
    let said = told(&output);
    assert!(output.status.success() && said.contains("4 files are whole"), "{said}");
    assert!(said.contains(&format!("whole: {}.ndjson.gz: 3001 rows", name_of("events"))), "{said}");
    let again = run_with("worker retention --once", &variables(&world, &folder.0)).await;
    assert!(again.status.success() && told(&again).contains("0 dropped, 0 kept"), "{}", told(&again));
    world.api_stops().await;
}

#[tokio::test]
async fn a_flipped_byte_is_found_and_so_is_a_file_that_is_missing() {
    let (world, folder) = (world_with_an_old_day().await, Folder::new());
    let retired = worker::janitor::retire(&world.pool, 3, Some(&folder.archive())).await.unwrap();
    assert_eq!((retired.dropped.len(), retired.failed), (4, vec![]));
    assert!(verify(&folder.0).unwrap().iter().all(|(_, rows)| rows.is_ok()));
    let events = folder.0.join(format!("{}.ndjson.gz", name_of("events")));
    let whole = fs::read(&events).unwrap();
    for place in [0, whole.len() / 2, whole.len() - 1] {
        let mut flipped = whole.clone();
        flipped[place] ^= 1;
        fs::write(&events, flipped).unwrap();
        let verified = verify(&folder.0).unwrap();
        let damaged: Vec<_> = verified.iter().filter(|(_, rows)| rows.is_err()).collect();
        assert!(matches!(damaged.as_slice(), [(name, _)] if name.starts_with("events_")), "{place}: {verified:?}");
    }
    fs::write(&events, [&whole[..], b"x"].concat()).unwrap();
    assert_eq!(verify(&folder.0).unwrap().iter().filter(|(_, rows)| rows.is_err()).count(), 1, "something follows");
    fs::write(&events, &whole).unwrap();
    fs::remove_file(folder.0.join(format!("{}.ndjson.gz", name_of("attempts")))).unwrap();
    let output = run_with("worker archive verify", &[("POSTRIDER_ARCHIVE_DIR", folder.0.to_str().unwrap())]).await;
    let said = told(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("damaged: {}", name_of("attempts"))), "{said}");
    world.finish().await;
}

#[tokio::test]
async fn what_cannot_be_archived_is_kept_and_stays_visible() {
    let (world, folder) = (world_with_an_old_day().await, Folder::new());
    let event: Uuid = sqlx::query_scalar("SELECT id FROM events").fetch_one(&world.pool).await.unwrap();
    let seen = async || -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM events WHERE id = $1")
            .bind(event)
            .fetch_one(&world.pool)
            .await
            .unwrap()
    };
    // The folder is missing, as where a disk is not mounted: nothing is even detached.
    let nowhere = Archive::new(folder.0.join("missing"));
    let retired = worker::janitor::retire(&world.pool, 3, Some(&nowhere)).await.unwrap();
    assert_eq!((retired.dropped.len(), retired.failed.len()), (0, 1), "{retired:?}");
    assert!(retired.failed[0].why.contains("missing"), "{retired:?}");
    assert!(exists(&world, "deliveries").await && !folder.0.join("missing").exists());

    // The file cannot be made; by then the partition has been detached, and it is attached again.
    let in_the_way = folder.0.join(format!("{}.ndjson.gz.partial", name_of("deliveries")));
    fs::create_dir(&in_the_way).unwrap();
    let retired = worker::janitor::retire(&world.pool, 3, Some(&folder.archive())).await.unwrap();
    assert_eq!((retired.dropped.len(), retired.failed.len()), (0, 1), "{retired:?}");
    assert!(exists(&world, "deliveries").await);
    assert_eq!(seen().await, 1);
    world.get(&format!("/events/evt_{}", event.simple())).await;

    fs::remove_dir(&in_the_way).unwrap();
    let retired = worker::janitor::retire(&world.pool, 3, Some(&folder.archive())).await.unwrap();
    assert_eq!((retired.dropped.len(), retired.failed.len(), seen().await), (4, 0, 0), "{retired:?}");
    world.finish().await;
}

#[tokio::test]
async fn a_disk_that_is_full_keeps_the_partition_and_fails_the_command() {
    if !are_there(&[Tool::Bash]) {
        return;
    }
    let (world, folder) = (world_with_an_old_day().await, Folder::new());
    multiply_old_event(&world, 3000).await;
    binaries();
    // No file may be longer than 64 KiB, and the signal that tells so is ignored: as on a full disk, writing fails.
    let limited = r#"trap "" XFSZ; ulimit -f 64; exec "$0" retention --once"#;
    let mut command = tokio::process::Command::new("bash");
    command.args(["-c", limited]).arg(workspace().join("target/debug/worker")).env_clear().current_dir("/");
    let output = command.envs(variables(&world, &folder.0)).stdin(Stdio::null()).output().await.unwrap();
    let said = told(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let events = name_of("events");
    assert!(said.contains(&format!("failed: {events}: the archive")), "{said}");
    assert!(said.contains(" ERROR ") && said.contains("a partition was not archived, so it is kept"), "{said}");
    assert!(exists(&world, "events").await);
    assert!(folder.files().iter().all(|name| !name.starts_with(&events)), "{:?}", folder.files());
    let rows = rows_of(&world, "events").await;
    let output = run_with("worker retention --once", &variables(&world, &folder.0)).await;
    assert!(output.status.success(), "{}", told(&output));
    assert!(lines_of(&folder.0.join(format!("{events}.ndjson.gz"))) == rows);
    world.api_stops().await;
}

#[tokio::test]
async fn a_process_that_is_killed_in_the_middle_leaves_no_file_and_the_next_goes_on() {
    let (world, folder) = (world_with_an_old_day().await, Folder::new());
    multiply_old_event(&world, 15_000).await;
    let rows = rows_of(&world, "events").await;
    binaries();
    let events = name_of("events");
    let partial = folder.0.join(format!("{events}.ndjson.gz.partial"));
    let mut command = tokio::process::Command::new(workspace().join("target/debug/worker"));
    command.args(["retention", "--once"]).env_clear().current_dir("/").envs(variables(&world, &folder.0));
    let mut process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let middle = async {
        while !fs::metadata(&partial).is_ok_and(|file| file.len() > 0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(SOON, middle).await.expect("it begins to write");
    process.kill().await.unwrap();
    assert!(!folder.files().contains(&format!("{events}.ndjson.gz")), "it was killed too late: {:?}", folder.files());
    let is_there = "SELECT to_regclass($1) IS NOT NULL";
    assert!(sqlx::query_scalar::<_, bool>(is_there).bind(&events).fetch_one(&world.pool).await.unwrap());
    assert!(verify(&folder.0).unwrap().iter().all(|(name, rows)| rows.is_ok() && !name.starts_with(&events)));

    // The lock of the killed process ends with its session, which the server notices when it sends the next rows.
    let again = async {
        loop {
            let output = run_with("worker retention --once", &variables(&world, &folder.0)).await;
            if !told(&output).contains("another process is running retention") {
                return output;
            }
        }
    };
    let output = tokio::time::timeout(SOON, again).await.expect("the lock is free again");
    assert!(output.status.success(), "{}", told(&output));
    assert!(lines_of(&folder.0.join(format!("{events}.ndjson.gz"))) == rows);
    assert!(!partial.exists());
    world.api_stops().await;
}

#[tokio::test]
async fn an_archived_file_is_never_overwritten() {
    let (world, folder) = (world_with_an_old_day().await, Folder::new());
    let name = format!("{}.ndjson.gz", name_of("events"));
    let copy = format!("CREATE TABLE copy_of_events AS SELECT * FROM {}", name_of("events"));
    sqlx::raw_sql(sqlx::AssertSqlSafe(copy)).execute(&world.pool).await.unwrap();
    worker::janitor::retire(&world.pool, 3, Some(&folder.archive())).await.unwrap();
    let first = fs::read(folder.0.join(&name)).unwrap();
    // As if the process had stopped between the file and the drop: the file is there already.
    let orphan = format!("CREATE TABLE {} AS SELECT * FROM copy_of_events", name_of("events"));
    sqlx::raw_sql(sqlx::AssertSqlSafe(orphan.clone())).execute(&world.pool).await.unwrap();
    worker::janitor::retire(&world.pool, 3, Some(&folder.archive())).await.unwrap();
    assert_eq!(folder.files().len(), 4, "{:?}", folder.files());
    // As if a backup had been restored in which the day was not over: the table is another one.
    sqlx::raw_sql(sqlx::AssertSqlSafe(orphan)).execute(&world.pool).await.unwrap();
    let change = format!("UPDATE {} SET payload = 'another'", name_of("events"));
    sqlx::raw_sql(sqlx::AssertSqlSafe(change)).execute(&world.pool).await.unwrap();
    let retired = worker::janitor::retire(&world.pool, 3, Some(&folder.archive())).await.unwrap();
    assert_eq!(retired.dropped, [name_of("events")]);
    assert_eq!(fs::read(folder.0.join(&name)).unwrap(), first);
    assert!(folder.files().contains(&format!("{}.2.ndjson.gz", name_of("events"))), "{:?}", folder.files());
    assert!(verify(&folder.0).unwrap().iter().all(|(_, rows)| rows.is_ok()));
    world.finish().await;
}
