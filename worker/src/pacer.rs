//! Keeps the attempts of a lane with a rate limit as far apart as the claims have planned them, also where this worker
//! is late with one of them: without that, the attempts that were waiting would all begin when it goes on.

use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use uuid::Uuid;

/// Lanes that are remembered before those are forgotten that have rested for [`FORGOTTEN_AFTER`].
const LANES_MAX: usize = 10_000;
/// A lane whose last attempt began this long ago has caught up with any delay.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
/// Of the time between two attempts, the share by which a lane that is late catches up. A claim plans attempts two
/// percent farther apart than the rate limit asks, so half of that is allowed.
const CATCHES_UP: f64 = 0.01;

/// The last attempts of the lanes that have a rate limit.
#[derive(Debug, Default)]
pub struct Pacer {
    lanes: Mutex<HashMap<Uuid, Last>>,
}

/// The last attempt of a lane: when it was to begin, and when it began.
#[derive(Clone, Copy, Debug)]
struct Last {
    planned: Instant,
    begun: Instant,
}

impl Pacer {
    /// When an attempt may begin that was planned for that time; the caller then begins it.
    pub fn begin(&self, lane: Uuid, planned: Instant, now: Instant) -> Instant {
        let mut lanes = self.lanes.lock().expect("nothing panics while it is held");
        if lanes.len() >= LANES_MAX {
            lanes.retain(|_, last| last.begun + FORGOTTEN_AFTER > now);
        }
        let mut begun = planned.max(now);
        if let Some(last) = lanes.get(&lane) {
            let apart = planned.saturating_duration_since(last.planned).mul_f64(1.0 - CATCHES_UP);
            begun = begun.max(last.begun + apart);
        }
        let last = lanes.entry(lane).or_insert(Last { planned, begun });
        *last = Last { planned: planned.max(last.planned), begun };
        begun
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_does_not_bunch_what_comes_after() {
        let (pacer, lane, start) = (Pacer::default(), Uuid::from_u128(1), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        // A burst of two, planned for now, and begun late.
        assert_eq!(pacer.begin(lane, at(0), at(80)), at(80));
        assert_eq!(pacer.begin(lane, at(0), at(80)), at(80));
        // The next ones were due meanwhile. They keep their distance.
        assert_eq!(pacer.begin(lane, at(20), at(80)), at(80) + Duration::from_micros(19_800));
        assert_eq!(pacer.begin(lane, at(40), at(80)), at(80) + Duration::from_micros(39_600));
        // Another lane is not late.
        assert_eq!(pacer.begin(Uuid::from_u128(2), at(90), at(80)), at(90));
        // After a while the lane is in time again.
        assert_eq!(pacer.begin(lane, at(20_000), at(19_000)), at(20_000));
    }
}
