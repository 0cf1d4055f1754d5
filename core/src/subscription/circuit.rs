//! The circuit of a subscription: when deliveries to a receiver that keeps failing are held back, and for how long. The
//! settings are here. The state is in the subscription's lane, and the SQL functions of the queue move it.

use serde::{Deserialize, Serialize};

use crate::{text_enum::text_enum, validation::Problems};

/// Failures in a row that may be asked for, at most.
const FAILURES_IN_A_ROW_MAX: u32 = 1_000;
/// The largest share of failures that may be asked for, in percent.
const FAILURE_PERCENT_MAX: u32 = 100;
/// Attempts of a window that may be asked for before their share of failures counts, at most.
const SAMPLES_MIN_MAX: u32 = 10_000;
/// Seconds of a window, at most: one hour.
const WINDOW_SECONDS_MAX: u32 = 3_600;
/// Seconds for which an open circuit may stay open, at most: one day.
const COOLDOWN_SECONDS_MAX: u32 = 24 * 3600;
/// Probes that may be let through at once, at most.
const PROBES_MAX: u32 = 100;
/// Successes that may be asked for until a half-open circuit closes, at most.
const SUCCESSES_TO_CLOSE_MAX: u32 = 100;

text_enum! {
    /// Whether a circuit lets deliveries through.
    pub enum CircuitState {
        /// All deliveries are attempted.
        Closed = "closed",
        /// The receiver kept failing: no delivery is attempted until the cooldown is over.
        Open = "open",
        /// The cooldown is over: a few deliveries are attempted, to see whether the receiver is well again.
        HalfOpen = "half_open",
    }
}

/// When a circuit opens and closes. Deserializing is for settings that were checked before they were stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CircuitSettings {
    failures_in_a_row: u32,
    failure_percent: u32,
    samples_min: u32,
    window_seconds: u32,
    cooldown_seconds: u32,
    cooldown_max_seconds: u32,
    probes: u32,
    successes_to_close: u32,
}

/// The settings of a circuit as their owner sends them, before they are checked. An absent field means the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CircuitInput {
    /// The circuit opens after so many failed attempts in a row.
    pub failures_in_a_row: Option<u32>,
    /// The circuit opens when at least this share of a window's attempts has failed, in percent.
    pub failure_percent: Option<u32>,
    /// Attempts that a window must have before their share of failures counts.
    pub samples_min: Option<u32>,
    /// Seconds of a window.
    pub window_seconds: Option<u32>,
    /// Seconds for which the circuit stays open when it opens.
    pub cooldown_seconds: Option<u32>,
    /// The longest time for which the circuit stays open, in seconds: the cooldown doubles while probes fail.
    pub cooldown_max_seconds: Option<u32>,
    /// Deliveries that a half-open circuit lets through at once.
    pub probes: Option<u32>,
    /// Successes in a row that close a half-open circuit.
    pub successes_to_close: Option<u32>,
}

impl Default for CircuitSettings {
    fn default() -> Self {
        Self {
            failures_in_a_row: 10,
            failure_percent: 80,
            samples_min: 20,
            window_seconds: 60,
            cooldown_seconds: 30,
            cooldown_max_seconds: 900,
            probes: 1,
            successes_to_close: 2,
        }
    }
}

impl CircuitInput {
    /// Checks all fields at once. Where only `cooldown_seconds` is given and is longer than the default of
    /// `cooldown_max_seconds`, the cooldown does not grow.
    ///
    /// # Errors
    /// Every broken rule.
    pub fn parse(self) -> Result<CircuitSettings, Problems> {
        let default = CircuitSettings::default();
        let mut problems = Problems::default();
        let mut take = |field: &str, given: Option<u32>, default: u32, max: u32| {
            let value = given.unwrap_or(default);
            problems.require((1..=max).contains(&value), field, format!("must be from 1 to {max}"));
            value
        };
        let failures_in_a_row =
            take("failures_in_a_row", self.failures_in_a_row, default.failures_in_a_row, FAILURES_IN_A_ROW_MAX);
        let failure_percent =
            take("failure_percent", self.failure_percent, default.failure_percent, FAILURE_PERCENT_MAX);
        let samples_min = take("samples_min", self.samples_min, default.samples_min, SAMPLES_MIN_MAX);
        let window_seconds = take("window_seconds", self.window_seconds, default.window_seconds, WINDOW_SECONDS_MAX);
        let cooldown_seconds =
            take("cooldown_seconds", self.cooldown_seconds, default.cooldown_seconds, COOLDOWN_SECONDS_MAX);
        let probes = take("probes", self.probes, default.probes, PROBES_MAX);
        let successes_to_close =
            take("successes_to_close", self.successes_to_close, default.successes_to_close, SUCCESSES_TO_CLOSE_MAX);
        let longest = default.cooldown_max_seconds.max(cooldown_seconds);
        let cooldown_max_seconds = self.cooldown_max_seconds.unwrap_or(longest);
        if self.cooldown_max_seconds.is_some() {
            let within = (cooldown_seconds..=COOLDOWN_SECONDS_MAX).contains(&cooldown_max_seconds);
            let message = format!("must be from cooldown_seconds to {COOLDOWN_SECONDS_MAX}");
            problems.require(within, "cooldown_max_seconds", message);
        }
        problems.none_or(CircuitSettings {
            failures_in_a_row,
            failure_percent,
            samples_min,
            window_seconds,
            cooldown_seconds,
            cooldown_max_seconds,
            probes,
            successes_to_close,
        })
    }
}

impl CircuitSettings {
    /// The settings as their owner could have sent them, with a value for each field.
    #[must_use]
    pub fn to_input(self) -> CircuitInput {
        CircuitInput {
            failures_in_a_row: Some(self.failures_in_a_row),
            failure_percent: Some(self.failure_percent),
            samples_min: Some(self.samples_min),
            window_seconds: Some(self.window_seconds),
            cooldown_seconds: Some(self.cooldown_seconds),
            cooldown_max_seconds: Some(self.cooldown_max_seconds),
            probes: Some(self.probes),
            successes_to_close: Some(self.successes_to_close),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_and_a_round_trip() {
        assert_eq!(CircuitInput::default().parse(), Ok(CircuitSettings::default()));
        let settings = CircuitInput { probes: Some(7), ..CircuitInput::default() }.parse().expect("valid");
        assert_eq!(settings.to_input().parse(), Ok(settings));
        let stored = serde_json::to_string(&settings).expect("a JSON form");
        assert_eq!(serde_json::from_str::<CircuitSettings>(&stored).ok(), Some(settings));
    }

    #[test]
    fn a_long_cooldown_needs_no_longest_one() {
        let with = |cooldown_seconds, cooldown_max_seconds| CircuitInput {
            cooldown_seconds: Some(cooldown_seconds),
            cooldown_max_seconds,
            ..CircuitInput::default()
        };
        for (cooldown, given, longest) in [
            (30, None, 900),
            (900, None, 900),
            (1000, None, 1000),
            (COOLDOWN_SECONDS_MAX, None, COOLDOWN_SECONDS_MAX),
            (1, Some(1), 1),
            (60, Some(60), 60),
        ] {
            let settings = with(cooldown, given).parse().expect("valid");
            assert_eq!(settings.cooldown_max_seconds, longest, "{cooldown} and {given:?}");
        }
        for (cooldown, given, fields) in [
            (61, Some(60), vec!["cooldown_max_seconds"]),
            (30, Some(COOLDOWN_SECONDS_MAX + 1), vec!["cooldown_max_seconds"]),
            (COOLDOWN_SECONDS_MAX + 1, None, vec!["cooldown_seconds"]),
            (0, None, vec!["cooldown_seconds"]),
        ] {
            let problems = with(cooldown, given).parse().expect_err("a rule is broken").0;
            let told: Vec<_> = problems.iter().map(|problem| problem.field.as_str()).collect();
            assert_eq!(told, fields, "{cooldown} and {given:?}");
        }
    }

    #[test]
    fn bounds() {
        type Set = fn(u32) -> CircuitInput;
        let fields: [(&str, u32, Set); 7] = [
            ("failures_in_a_row", 1_000, |n| CircuitInput { failures_in_a_row: Some(n), ..CircuitInput::default() }),
            ("failure_percent", 100, |n| CircuitInput { failure_percent: Some(n), ..CircuitInput::default() }),
            ("samples_min", 10_000, |n| CircuitInput { samples_min: Some(n), ..CircuitInput::default() }),
            ("window_seconds", 3_600, |n| CircuitInput { window_seconds: Some(n), ..CircuitInput::default() }),
            ("cooldown_seconds", 86_400, |n| CircuitInput { cooldown_seconds: Some(n), ..CircuitInput::default() }),
            ("probes", 100, |n| CircuitInput { probes: Some(n), ..CircuitInput::default() }),
            ("successes_to_close", 100, |n| CircuitInput { successes_to_close: Some(n), ..CircuitInput::default() }),
        ];
        for (field, max, set) in fields {
            for valid in [1, max] {
                assert!(set(valid).parse().is_ok(), "{field} {valid}");
            }
            for wrong in [0, max + 1, u32::MAX] {
                let problems = set(wrong).parse().expect_err("out of its bounds").0;
                assert_eq!(problems.len(), 1, "{field} {wrong}: {problems:?}");
                assert_eq!(problems[0].field, field);
            }
        }
    }
}
