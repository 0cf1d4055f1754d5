//! Histograms: the bounds of their buckets, for Prometheus and for stored statistics, and percentiles from them.

/// Upper bounds of the buckets for durations of attempts and of our own work, in seconds. Prometheus and the stored
/// statistics have the same, so that they agree.
pub const DURATION_BUCKETS: [f64; 15] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 30.0, 60.0];
/// Upper bounds of the buckets for the time until a success, in seconds. Retries make it hours.
pub const LATENCY_BUCKETS: [f64; 16] =
    [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 21600.0];
/// Upper bounds of the buckets for the time that due deliveries wait, in seconds.
pub const WAIT_BUCKETS: [f64; 7] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];

/// The place of the bucket for a time in milliseconds: the first whose bound is not smaller, or the last, which has no
/// bound.
#[must_use]
pub fn place(bounds: &[f64], millis: u64) -> usize {
    #[expect(clippy::cast_precision_loss, reason = "no bound is anywhere near 2^53 milliseconds")]
    let seconds = millis as f64 / 1000.0;
    bounds.partition_point(|bound| *bound < seconds)
}

/// An estimate of the time in milliseconds below which this share of the values lies, by linear interpolation within a
/// bucket. `counts` has one place more than `bounds`. Where the value lies in the last bucket, this is its lower bound.
/// `None` where nothing was counted.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "it is an estimate")]
pub fn percentile(bounds: &[f64], counts: &[u64], share: f64) -> Option<f64> {
    let all: u64 = counts.iter().sum();
    if all == 0 {
        return None;
    }
    let rank = share * all as f64;
    let (mut below, mut lower) = (0, 0.0);
    for (bound, count) in bounds.iter().zip(counts) {
        if *count > 0 && (below + count) as f64 >= rank {
            let within = (rank - below as f64) / *count as f64;
            return Some((lower + (bound - lower) * within.max(0.0)) * 1000.0);
        }
        below += count;
        lower = *bound;
    }
    Some(lower * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let cases = [(0, 0), (1, 0), (2, 1), (3, 2), (5, 2), (6, 3), (60_000, 14), (60_001, 15), (u64::MAX, 15)];
        for (millis, expected) in cases {
            assert_eq!(place(&DURATION_BUCKETS, millis), expected, "{millis} ms");
        }
    }

    #[test]
    fn percentiles_are_interpolated() {
        let bounds = [0.1, 0.2, 0.4];
        let cases: [([u64; 4], f64, Option<f64>); 8] = [
            ([0, 0, 0, 0], 0.5, None),
            ([10, 0, 0, 0], 0.5, Some(50.0)),
            ([10, 10, 0, 0], 0.5, Some(100.0)),
            ([10, 10, 0, 0], 0.75, Some(150.0)),
            ([0, 0, 4, 0], 0.5, Some(300.0)),
            ([0, 0, 4, 0], 1.0, Some(400.0)),
            ([1, 0, 0, 1], 0.99, Some(400.0)),
            ([0, 0, 0, 7], 0.5, Some(400.0)),
        ];
        for (counts, share, expected) in cases {
            let found = percentile(&bounds, &counts, share).map(|millis| (millis * 1e6).round() / 1e6);
            assert_eq!(found, expected, "{counts:?} at {share}");
        }
    }
}
