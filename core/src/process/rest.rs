//! The rest of a loop after each of its rounds. It is a multiple of what the round took: a cheap round is followed by a
//! short rest, so that nobody waits where little happens, and a dear one by a long rest, so that more is done together.

use std::time::Duration;

/// The share by which the usual time of a round follows the last one.
const FOLLOWS: u32 = 8;

/// How long a loop rests.
#[derive(Debug)]
pub struct Rest {
    times: u32,
    max: Duration,
    usual: Duration,
}

impl Rest {
    /// A rest of so many times what a round takes, but no longer than `max`.
    #[must_use]
    pub const fn new(times: u32, max: Duration) -> Self {
        Self { times, max, usual: Duration::ZERO }
    }

    /// How long to rest after a round that took this long. A round that took longer than usual, because the machine was
    /// busy with something else for a moment, is not followed by a longer rest: those that wait have waited enough.
    pub fn after(&mut self, took: Duration) -> Duration {
        self.usual = match self.usual {
            Duration::ZERO => took,
            usual => (usual * (FOLLOWS - 1) + took) / FOLLOWS,
        };
        (took.min(self.usual) * self.times).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_round_is_not_followed_by_a_long_rest_but_many_are() {
        let millis = Duration::from_millis;
        let mut rest = Rest::new(2, millis(10));
        assert_eq!(rest.after(millis(1)), millis(2));
        assert!(rest.after(millis(9)) <= millis(4), "one that was held up");
        assert!(rest.after(millis(1)) <= millis(2));
        for _ in 0..50 {
            rest.after(millis(4));
        }
        assert!(rest.after(millis(4)) > millis(7), "they are usual now");
        assert_eq!(rest.after(millis(0)), Duration::ZERO);
        for _ in 0..50 {
            rest.after(millis(40));
        }
        assert_eq!(rest.after(millis(40)), millis(10));
    }
}
