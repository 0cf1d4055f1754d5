//! The sums of one minute, in memory.

use crate::tally::{
    buckets::{self, DURATION_BUCKETS, LATENCY_BUCKETS, WAIT_BUCKETS},
    class::{CLASSES, Class},
};

/// What one outcome adds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Addend {
    /// The class of the attempt; `None` where none was made.
    pub(crate) attempt: Option<Class>,
    /// The end of the delivery; `None` where it has not ended, or has succeeded.
    pub(crate) end: Option<Class>,
    /// How long the attempt took, in milliseconds.
    pub(crate) duration: Option<u64>,
    /// For a success, how long ago the delivery was due for the first time, in milliseconds.
    pub(crate) latency: Option<u64>,
    /// For a first attempt, for how long the delivery had been due, in milliseconds.
    pub(crate) wait: Option<u64>,
    /// Bytes of the payload, where a receiver answered.
    pub(crate) bytes: u64,
}

/// The sums of one minute. The arrays have one place for each class, and one for each bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) outcomes: [i32; CLASSES],
    pub(crate) durations: [i32; DURATION_BUCKETS.len() + 1],
    pub(crate) latencies: [i32; LATENCY_BUCKETS.len() + 1],
    pub(crate) waits: [i32; WAIT_BUCKETS.len() + 1],
    pub(crate) bytes: i64,
}

impl Counts {
    /// Adds an outcome.
    pub(crate) fn add(&mut self, one: &Addend) {
        for class in [one.attempt, one.end].into_iter().flatten() {
            bump(&mut self.outcomes, class.place());
        }
        if let Some(millis) = one.duration {
            bump(&mut self.durations, buckets::place(&DURATION_BUCKETS, millis));
        }
        if let Some(millis) = one.latency {
            bump(&mut self.latencies, buckets::place(&LATENCY_BUCKETS, millis));
        }
        if let Some(millis) = one.wait {
            bump(&mut self.waits, buckets::place(&WAIT_BUCKETS, millis));
        }
        self.bytes = self.bytes.saturating_add_unsigned(one.bytes);
    }

    /// Adds the sums of another part.
    pub(crate) fn merge(&mut self, other: &Self) {
        let pairs = [
            (&mut self.outcomes[..], &other.outcomes[..]),
            (&mut self.durations, &other.durations),
            (&mut self.latencies, &other.latencies),
            (&mut self.waits, &other.waits),
        ];
        for (own, others) in pairs {
            for (own, other) in own.iter_mut().zip(others) {
                *own = own.saturating_add(*other);
            }
        }
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

fn bump(counts: &mut [i32], place: usize) {
    counts[place] = counts[place].saturating_add(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The SQL that adds arrays names each place, so it has to know as many as there are.
    #[test]
    fn sql_adds_every_place_of_the_arrays() {
        let counts = Counts::default();
        let lengths = [
            ("outcomes", counts.outcomes.len()),
            ("durations", counts.durations.len()),
            ("latencies", counts.latencies.len()),
            ("waits", counts.waits.len()),
        ];
        let add = include_str!("../../sql/functions/add_sums.sql");
        let fold = include_str!("../../sql/functions/fold_stats.sql");
        for (column, length) in lengths {
            for place in 1..=length {
                let sum = format!("s.{column}[{place}] + EXCLUDED.{column}[{place}]");
                assert!(add.contains(&sum), "{sum}");
                assert!(fold.contains(&format!("sum({column}[{place}])")), "{column} {place}");
            }
            assert!(!add.contains(&format!("{column}[{}]", length + 1)), "{column}");
            assert!(!fold.contains(&format!("{column}[{}]", length + 1)), "{column}");
        }
    }
}
