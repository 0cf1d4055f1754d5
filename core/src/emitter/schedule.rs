//! When the events of an emitter are due: the first one at its start, and each next one after the interval of its rate.
//! Events that are too late are left out, so that an emitter does not make up for an outage all at once. Everything is
//! counted in whole microseconds, so that no rounding adds up.

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};

/// Events a second that may be asked for, at least: one in 100 seconds.
pub const RATE_MIN: f64 = 0.01;
/// Events a second that may be asked for, at most.
pub const RATE_MAX: f64 = 100.0;
/// An event that is later than this is left out: at the highest rate, this many seconds' worth are made up for.
pub const CATCH_UP: TimeDelta = TimeDelta::seconds(10);
/// Events that one step makes, at most.
pub(super) const EVENTS_PER_STEP_MAX: i64 = 100;
/// The shortest time between two steps of an emitter that is in time. At high rates a step makes several events.
const STEP_MIN: TimeDelta = TimeDelta::milliseconds(100);
/// Millionths of an event, in which rates are counted.
const MILLION: f64 = 1e6;
/// Microseconds in a second, times millionths of an event in an event.
const UNIT: i128 = 1_000_000_000_000;

/// How many events a second an emitter makes, exact to a millionth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(u32);

impl Rate {
    /// Checks a number of events a second.
    ///
    /// # Errors
    /// What is wrong.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate is from 0.01 to 100, and is rounded"
    )]
    pub fn parse(per_second: f64) -> Result<Self, String> {
        if (RATE_MIN..=RATE_MAX).contains(&per_second) {
            Ok(Self((per_second * MILLION).round() as u32))
        } else {
            Err(format!("must be from {RATE_MIN} to {RATE_MAX}"))
        }
    }

    /// Events a second.
    #[must_use]
    pub fn per_second(self) -> f64 {
        f64::from(self.0) / MILLION
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.per_second().fmt(f)
    }
}

/// The times between which an emitter makes events, and its rate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    pub(super) rate: Rate,
    pub(super) started_at: DateTime<Utc>,
    pub(super) ends_at: DateTime<Utc>,
}

/// How many events are to be left out, and how many are to be made after those.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) skip: i64,
    pub(super) emit: i64,
}

impl Schedule {
    /// What is to be done now, where so many events have been made or left out.
    pub(super) fn due(&self, done: i64, now: DateTime<Utc>) -> Due {
        let skip = (self.due_by(now - CATCH_UP) - done).max(0);
        let emit = (self.due_by(now) - done - skip).clamp(0, EVENTS_PER_STEP_MAX);
        Due { skip, emit }
    }

    /// When the next step is due; `None` where all is done and the time is over.
    pub(super) fn next_step(&self, done: i64, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        if done < self.due_by(now) {
            return Some(now);
        }
        if done < self.total() {
            return Some(self.due_at(done).max(now + STEP_MIN));
        }
        (now < self.ends_at).then_some(self.ends_at)
    }

    /// Events of the whole time: those that are due before its end.
    fn total(&self) -> i64 {
        let events = -(-self.micros_to(self.ends_at) * i128::from(self.rate.0)).div_euclid(UNIT);
        i64::try_from(events).unwrap_or(i64::MAX).max(1)
    }

    /// Events that are due at this moment or before.
    fn due_by(&self, moment: DateTime<Utc>) -> i64 {
        if moment < self.started_at {
            return 0;
        }
        let whole = self.micros_to(moment) * i128::from(self.rate.0) / UNIT;
        i64::try_from(whole + 1).unwrap_or(i64::MAX).min(self.total())
    }

    /// When the event with this number is due; 0 is the first. It is rounded up, so that the event is due then.
    fn due_at(&self, number: i64) -> DateTime<Utc> {
        let micros = -(-i128::from(number) * UNIT).div_euclid(i128::from(self.rate.0));
        self.started_at + TimeDelta::microseconds(i64::try_from(micros).unwrap_or(i64::MAX))
    }

    fn micros_to(&self, moment: DateTime<Utc>) -> i128 {
        i128::from((moment - self.started_at).num_microseconds().unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).expect("in range") + TimeDelta::microseconds(micros)
    }

    fn schedule(per_second: f64, seconds: i64) -> Schedule {
        let rate = Rate::parse(per_second).expect("valid");
        Schedule { rate, started_at: at(0), ends_at: at(seconds * 1_000_000) }
    }

    #[test]
    fn rates() {
        for rate in [0.01, 0.333_333, 1.0, 2.5, 100.0] {
            assert!((Rate::parse(rate).expect("valid").per_second() - rate).abs() < 1e-9, "{rate}");
        }
        for rate in [0.0, 0.009_99, 100.01, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Rate::parse(rate).is_err(), "{rate}");
        }
        assert_eq!(Rate::parse(2.5).map(|rate| rate.to_string()).as_deref(), Ok("2.5"));
    }

    #[test]
    fn each_event_is_due_after_its_interval_and_none_at_the_end() {
        let thirds = schedule(3.0, 10);
        for (micros, due) in [(-1, 0), (0, 1), (333_333, 1), (333_334, 2), (666_667, 3), (1_000_000, 4)] {
            assert_eq!(thirds.due(0, at(micros)).emit, due, "{micros}");
        }
        for (rate, seconds, total) in [(1.0, 10, 10), (0.01, 60, 1), (0.5, 3, 2), (100.0, 300, 30_000), (0.3, 10, 3)] {
            assert_eq!(schedule(rate, seconds).total(), total, "{rate} for {seconds} s");
        }
    }

    #[test]
    fn steps_that_follow_each_other_make_every_event_once_and_in_time() {
        for (rate, seconds) in [(0.7, 60), (3.0, 20), (33.333_333, 10), (100.0, 5)] {
            let schedule = schedule(rate, seconds);
            let (mut done, mut now, mut steps) = (0, at(0), 0);
            while let Some(next) = schedule.next_step(done, now) {
                now = next;
                let due = schedule.due(done, now);
                assert_eq!(due.skip, 0, "{rate} at {now}");
                // A step that comes in time makes what was due since the last one, at most STEP_MIN ago.
                assert!(due.emit <= 11, "{rate} at {now}: {due:?}");
                done += due.emit;
                steps += 1;
                assert!(steps < 1000, "{rate}: it goes on for ever");
            }
            assert_eq!((done, now), (schedule.total(), schedule.ends_at), "{rate}");
        }
    }

    #[test]
    fn after_an_outage_a_bounded_number_is_made_up_for() {
        let schedule = schedule(10.0, 600);
        // 5 s late, all are made, and a step makes a hundred at most.
        assert_eq!(schedule.due(0, at(5_000_000)), Due { skip: 0, emit: 51 });
        assert_eq!(schedule.due(0, at(60_000_000)), Due { skip: 501, emit: 100 });
        assert_eq!(schedule.next_step(601, at(60_000_000)), Some(at(60_100_000)), "it is in time again");
        assert_eq!(schedule.next_step(600, at(60_000_000)), Some(at(60_000_000)), "one is due at this moment");
        // An outage until after the end leaves nothing to make.
        assert_eq!(schedule.due(1000, at(700_000_000)), Due { skip: 5000, emit: 0 });
        assert_eq!(schedule.next_step(6000, at(700_000_000)), None);
    }
}
