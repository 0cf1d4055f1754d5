//! The rest of a loop after its rounds. Rounds may take a fixed share of the time: where they are dear they come
//! seldom, and more is done together. What was not used of it may be used at once: where little happens, nobody waits.
//! And the pauses of a loop that tries again.

use std::time::{Duration, Instant};

/// The share by which the usual time of a round follows the last one.
const FOLLOWS: u32 = 8;

/// How long a loop rests.
#[derive(Debug)]
pub struct Rest {
    times: u32,
    max: Duration,
    usual: Duration,
    /// Until when the rounds so far have used their share. As long as that is at most [`Self::max`] ahead, there is no
    /// rest.
    used_until: Option<Instant>,
}

impl Rest {
    /// A rest of so many times what the rounds take. A single rest is no longer than `max`, and this is also how far
    /// the rounds may be ahead of their share.
    #[must_use]
    pub const fn new(times: u32, max: Duration) -> Self {
        Self { times, max, usual: Duration::ZERO, used_until: None }
    }

    /// How long to rest after a round that took this long and has ended now. A round that took longer than usual,
    /// because the machine was busy with something else for a moment, counts as a usual one: those that wait have
    /// waited enough.
    pub fn after(&mut self, took: Duration, now: Instant) -> Duration {
        self.usual = match self.usual {
            Duration::ZERO => took,
            usual => (usual * (FOLLOWS - 1) + took) / FOLLOWS,
        };
        let begun = now.checked_sub(took).unwrap_or(now);
        let used_from = self.used_until.map_or(begun, |until| until.max(begun));
        let used_until = (used_from + took.min(self.usual) * (self.times + 1)).min(now + self.max * 2);
        self.used_until = Some(used_until);
        used_until.saturating_duration_since(now + self.max)
    }
}

/// Pauses between tries, each twice as long as the one before.
#[derive(Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// Pauses from `min` up to `max`.
    #[must_use]
    pub const fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, next: min }
    }

    /// The pause before the next try.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.max);
        pause
    }

    /// After a try that went well the next pause is the shortest again.
    pub const fn reset(&mut self) {
        self.next = self.min;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_millis(10);

    /// Rounds that each take this many milliseconds and begin at these times, or after the rest: the last rest.
    fn last_rest(rest: &mut Rest, now: &mut Instant, rounds: u32, took: u64, apart: u64) -> Duration {
        let mut last = Duration::ZERO;
        for _ in 0..rounds {
            let begun = *now + last;
            *now = begun + Duration::from_millis(took);
            last = rest.after(Duration::from_millis(took), *now);
            *now = (*now).max(begun + Duration::from_millis(apart));
        }
        last
    }

    #[test]
    fn at_a_trickle_there_is_no_rest_and_a_flood_of_rounds_takes_its_share() {
        let (mut rest, mut now) = (Rest::new(2, MAX), Instant::now());
        assert_eq!(last_rest(&mut rest, &mut now, 100, 2, 10), Duration::ZERO);
        assert_eq!(last_rest(&mut rest, &mut now, 2, 2, 0), Duration::ZERO, "two at once, after a quiet time");
        let begun = now;
        assert_eq!(last_rest(&mut rest, &mut now, 100, 2, 0), Duration::from_millis(4));
        let share = 0.2 / (now - begun).as_secs_f64();
        assert!((0.3..0.4).contains(&share), "{share}");
        assert_eq!(last_rest(&mut rest, &mut now, 100, 40, 0), MAX);
        now += Duration::from_secs(1);
        assert_eq!(rest.after(Duration::from_millis(2), now), Duration::ZERO, "long ago");
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let millis = Duration::from_millis;
        let mut backoff = Backoff::new(millis(1), millis(5));
        assert_eq!([0; 5].map(|_| backoff.pause()), [1, 2, 4, 5, 5].map(millis));
        backoff.reset();
        assert_eq!(backoff.pause(), millis(1));
    }

    #[test]
    fn one_slow_round_is_not_followed_by_a_long_rest() {
        let (mut rest, mut now) = (Rest::new(2, MAX), Instant::now());
        last_rest(&mut rest, &mut now, 100, 1, 0);
        assert!(last_rest(&mut rest, &mut now, 1, 30, 0) < Duration::from_millis(1));
    }
}
