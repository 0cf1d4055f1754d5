//! Rate limits of ingest, applied smoothly: each limit is a bucket that holds one second's requests and refills all the
//! time (GCRA). The rule is pure. The buckets are in memory, so every process counts by itself.

use std::{
    hash::Hash,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use moka::sync::Cache;

/// Requests a second that a limit may allow, at most.
const PER_SECOND_MAX: u32 = 100_000;
/// Buckets in memory, at most. A bucket that was forgotten starts full again.
const BUCKETS_MAX: u64 = 100_000;
/// How long an unused bucket stays in memory. By then it is full again, so nothing is lost when it goes.
const BUCKET_IDLE: Duration = Duration::from_secs(10);

/// A limit: so many requests a second, and as many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit(u32);

impl RateLimit {
    /// Checks a number of requests a second.
    ///
    /// # Errors
    /// What is wrong.
    pub fn parse(per_second: u32) -> Result<Self, String> {
        if (1..=PER_SECOND_MAX).contains(&per_second) {
            Ok(Self(per_second))
        } else {
            Err(format!("must be from 1 to {PER_SECOND_MAX}"))
        }
    }

    /// Wraps a limit that was checked before it was stored.
    pub(crate) fn from_stored(per_second: i32) -> Self {
        Self(per_second.unsigned_abs())
    }

    /// The form in which the limit is stored.
    pub(crate) fn stored(self) -> i32 {
        i32::try_from(self.0).unwrap_or(i32::MAX)
    }

    /// Requests that the limit allows in a second.
    #[must_use]
    pub fn per_second(self) -> u32 {
        self.0
    }
}

/// The state of a limit after a request has asked for admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitState {
    /// The limit: so many requests a second, and as many at once.
    pub per_second: u32,
    /// Requests that would be admitted at this moment.
    pub remaining: u32,
    /// How long until at least one request is admitted; zero where one is now.
    pub wait: Duration,
    /// How long until the bucket is full again.
    pub full_after: Duration,
    /// Whether this request was admitted.
    pub is_admitted: bool,
}

/// The buckets of many limits, each under its key.
pub struct RateLimits<K> {
    buckets: Cache<K, Arc<Mutex<Duration>>>,
    epoch: Instant,
}

impl<K> Clone for RateLimits<K> {
    /// Another handle of the same buckets.
    fn clone(&self) -> Self {
        Self { buckets: self.buckets.clone(), epoch: self.epoch }
    }
}

impl<K: Hash + Eq + Send + Sync + 'static> Default for RateLimits<K> {
    fn default() -> Self {
        let buckets = Cache::builder().max_capacity(BUCKETS_MAX).time_to_idle(BUCKET_IDLE).build();
        Self { buckets, epoch: Instant::now() }
    }
}

impl<K: Hash + Eq + Send + Sync + 'static> RateLimits<K> {
    /// Asks whether one more request under this key is admitted.
    pub fn ask(&self, key: K, limit: RateLimit) -> LimitState {
        let bucket = self.buckets.get_with(key, Arc::default);
        let mut full_at = bucket.lock().expect("nothing panics while it is held");
        let state = ask(&mut full_at, self.epoch.elapsed(), limit.per_second());
        drop(full_at);
        state
    }
}

/// The rule: each request moves the moment at which the bucket is full by its share of a second. It is admitted while
/// that moment is less than a second away.
fn ask(full_at: &mut Duration, now: Duration, per_second: u32) -> LimitState {
    const FULL: Duration = Duration::from_secs(1);
    let share = FULL / per_second.max(1);
    let moved = (*full_at).max(now) + share;
    let is_admitted = moved <= now + FULL;
    if is_admitted {
        *full_at = moved;
    }
    let full_after = full_at.saturating_sub(now);
    let room = FULL.saturating_sub(full_after);
    LimitState {
        per_second,
        remaining: u32::try_from(room.as_nanos() / share.as_nanos().max(1)).unwrap_or(u32::MAX).min(per_second),
        wait: share.saturating_sub(room),
        full_after,
        is_admitted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_a_second_then_a_steady_pace() {
        let at = Duration::from_millis;
        let mut bucket = Duration::ZERO;
        let admitted = |state: LimitState| state.is_admitted;
        let start = at(5000);
        for left in (0..4).rev() {
            let state = ask(&mut bucket, start, 4);
            assert!(state.is_admitted);
            assert_eq!(state.remaining, left);
        }
        let refused = ask(&mut bucket, start, 4);
        assert_eq!((refused.is_admitted, refused.wait, refused.full_after), (false, at(250), at(1000)));
        assert!(!admitted(ask(&mut bucket, start + at(249), 4)), "a refusal does not make it longer");
        assert!(admitted(ask(&mut bucket, start + at(250), 4)));
        assert!(!admitted(ask(&mut bucket, start + at(250), 4)));
        // Over any time, no more than the burst and the pace.
        let mut bucket = Duration::ZERO;
        let count = (0..10_000_u32).filter(|ms| admitted(ask(&mut bucket, at(u64::from(*ms)), 7))).count();
        assert!((70..=77).contains(&count), "{count} in 10 s");
    }

    #[test]
    fn each_key_has_its_own_bucket() {
        let (limits, one_a_second) = (RateLimits::default(), RateLimit::parse(1).expect("valid"));
        assert!(limits.ask("one", one_a_second).is_admitted);
        assert!(!limits.ask("one", one_a_second).is_admitted);
        assert!(limits.ask("other", one_a_second).is_admitted);
    }

    #[test]
    fn bounds() {
        assert!(RateLimit::parse(0).is_err());
        assert!(RateLimit::parse(PER_SECOND_MAX).is_ok());
        assert!(RateLimit::parse(PER_SECOND_MAX + 1).is_err());
    }
}
