//! The gauges that every process shows of itself: its connections to the database, and what it takes of the machine.
//! The names of the latter are those that Prometheus gives to processes; they are there on Linux only.

use std::{fs, time::Duration};

use sqlx::PgPool;

/// How often gauges are renewed.
pub const SHOW_EVERY: Duration = Duration::from_secs(5);
/// Clock ticks in a second, in the files under `/proc`: Linux has had this value on every architecture for decades.
const TICKS_PER_SECOND: u64 = 100;
/// Bytes in a unit of `/proc/self/status`.
const KIB: u64 = 1024;

/// Renews the gauges of the process and of these pools, for as long as the task lives.
pub async fn show(pools: Vec<(&'static str, PgPool)>) {
    metrics::gauge!("postrider_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    loop {
        for (pool, connections) in &pools {
            let idle = connections.num_idle();
            let used = (connections.size() as usize).saturating_sub(idle);
            for (state, count) in [("idle", idle), ("used", used)] {
                metrics::gauge!("postrider_db_pool_connections", "pool" => *pool, "state" => state).set(number(count));
            }
        }
        show_process();
        tokio::time::sleep(SHOW_EVERY).await;
    }
}

/// A count as the value of a gauge.
#[must_use]
pub fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

fn show_process() {
    let read = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
    if let Some(ticks) = cpu_ticks(&read("stat")) {
        metrics::counter!("process_cpu_seconds_total").absolute(ticks / TICKS_PER_SECOND);
    }
    if let Some(resident) = resident_bytes(&read("status")) {
        metrics::gauge!("process_resident_memory_bytes").set(large(resident));
    }
    if let Ok(files) = fs::read_dir("/proc/self/fd") {
        metrics::gauge!("process_open_fds").set(number(files.count()));
    }
    if let Ok((limit, _)) = rlimit::getrlimit(rlimit::Resource::NOFILE) {
        metrics::gauge!("process_max_fds").set(large(limit));
    }
}

/// The clock ticks that the process has spent, by itself and in the kernel: the fields 14 and 15 of `/proc/self/stat`.
fn cpu_ticks(stat: &str) -> Option<u64> {
    // The name of the program, field 2, stands in parentheses, and may hold spaces and parentheses itself.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11).map(str::parse::<u64>);
    Some(fields.next()?.ok()?.saturating_add(fields.next()?.ok()?))
}

/// The memory that the process holds, by `/proc/self/status`.
fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.saturating_mul(KIB))
}

/// A large count as the value of a gauge, which is exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "no machine has so much")]
fn large(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_of_a_process_is_read() {
        let stat = "42 (a (b) c) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 9 0 12345 1000000 777 184467 1";
        assert_eq!(cpu_ticks(stat), Some(300));
        assert_eq!(cpu_ticks("42 (a) S 1"), None);
        assert_eq!(resident_bytes("Name:\ta\nVmRSS:\t   1024 kB\nThreads:\t4\n"), Some(1 << 20));
        assert_eq!(resident_bytes("Name:\ta\n"), None);
    }
}
