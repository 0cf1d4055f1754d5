//! How much CPU time and memory processes have used, read from `/proc`.

use std::{fs, time::Duration};

/// `/proc/*/stat` counts CPU time in ticks, of which Linux has this many a second.
const TICKS_PER_SECOND: u64 = 100;

/// The CPU time that each process has used so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuTimes {
    /// The CPU time of all apis.
    pub api: Duration,
    /// The CPU time of all workers.
    pub worker: Duration,
    /// The CPU time of all processes of Postgres.
    pub postgres: Duration,
    /// The CPU time of this process, which makes the load and receives the deliveries.
    pub bench: Duration,
}

impl CpuTimes {
    /// Reads the CPU times of these processes, given by their ids, and of this process.
    #[must_use]
    pub fn now(apis: &[u32], workers: &[u32], postmaster: u32) -> Self {
        let of_all = |processes: &[u32]| processes.iter().map(|id| ticks(*id, false)).sum();
        Self {
            api: of_all(apis),
            worker: of_all(workers),
            postgres: ticks(postmaster, true)
                + children(postmaster).into_iter().map(|id| ticks(id, false)).sum::<Duration>(),
            bench: ticks(std::process::id(), false),
        }
    }

    /// CPU seconds for each thousand of something since an earlier reading: of the apis, the workers, Postgres, and
    /// this process.
    #[must_use]
    pub fn per_thousand(&self, earlier: &Self, count: u64) -> [f64; 4] {
        let thousands = count as f64 / 1000.0;
        [
            self.api.saturating_sub(earlier.api),
            self.worker.saturating_sub(earlier.worker),
            self.postgres.saturating_sub(earlier.postgres),
            self.bench.saturating_sub(earlier.bench),
        ]
        .map(|used| used.as_secs_f64() / thousands)
    }
}

/// The most memory, in MB, that a process has ever had resident.
#[must_use]
pub fn peak_memory_mb(process: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<f64>().ok());
    kilobytes.map_or(f64::NAN, |kilobytes| kilobytes / 1024.0)
}

/// User and system time in ticks; children that have ended are included if `ended_children` is set.
fn ticks(process: u32, ended_children: bool) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The second field is the program's name in parentheses and may hold any character, so fields are counted behind
    // it.
    let fields: Vec<u64> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .map(|field| field.parse().unwrap_or(0))
        .collect();
    let last = if ended_children { 15 } else { 13 };
    let ticks: u64 = fields.get(11..last).unwrap_or_default().iter().sum();
    Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
}

fn children(parent: u32) -> Vec<u32> {
    let listed = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    listed.split_whitespace().filter_map(|id| id.parse().ok()).collect()
}
