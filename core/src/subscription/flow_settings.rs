//! The settings that control the flow of a subscription's deliveries: its circuit, how many attempts a second and at
//! once its receiver gets, their order, and when Postrider gives up on the receiver. The queue applies them.

use std::time::Duration;

use crate::{
    subscription::circuit::{CircuitInput, CircuitSettings},
    text_enum::text_enum,
    validation::Problems,
};

/// Attempts a second that may be asked for, at least: one in 100 seconds.
const PER_SECOND_MIN: f64 = 0.01;
/// Attempts a second that may be asked for, at most.
const PER_SECOND_MAX: f64 = 10_000.0;
/// Attempts at once that a rate limit may allow, at most.
const BURST_MAX: u32 = 100_000;
/// How much longer the interval between two attempts is than the rate asks for, as a share of it. Attempts reach the
/// receiver with some jitter, which must not make them more frequent than the owner allows.
const INTERVAL_MARGIN: f64 = 0.02;
/// Attempts in flight that may be asked for, at most.
const IN_FLIGHT_MAX: u32 = 10_000;
/// Days of nothing but failures after which a subscription is disabled, where nothing else is asked for.
const DISABLE_AFTER_DAYS_DEFAULT: u32 = 5;
/// Days of nothing but failures that may be asked for, at most.
const DISABLE_AFTER_DAYS_MAX: u32 = 365;

text_enum! {
    /// The order in which the deliveries of a subscription are made.
    pub enum Ordering {
        /// Any order: deliveries do not wait for each other.
        None = "none",
        /// In the order of acceptance, for each ordering key: one at a time, and none before the one ahead is finished.
        Fifo = "fifo",
    }
}

/// A setting that its owner chooses, switches off, or leaves to Postrider.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice<T> {
    /// The owner does not say, so the default is meant.
    #[default]
    Unsaid,
    /// The owner switches it off.
    Off,
    /// The owner's value, before it is checked.
    On(T),
}

impl<T> Choice<T> {
    /// The value to check: what the owner says, or else the default; `None` where it is switched off.
    fn or(self, default: T) -> Option<T> {
        match self {
            Self::Unsaid => Some(default),
            Self::Off => None,
            Self::On(said) => Some(said),
        }
    }
}

/// The settings of the flow as their owner sends them, before they are checked.
#[derive(Clone, Debug, Default)]
pub struct FlowInput {
    /// When deliveries are held back because the receiver keeps failing.
    pub circuit: Choice<CircuitInput>,
    /// Attempts a second; absent means no limit.
    pub rate_limit_per_second: Option<f64>,
    /// Attempts at once that the rate limit allows; absent means one second's worth.
    pub rate_limit_burst: Option<u32>,
    /// Attempts in flight, over all workers; absent means no limit.
    pub max_in_flight: Option<u32>,
    /// The order of deliveries; absent means none.
    pub ordering: Option<Ordering>,
    /// Days of nothing but failures after which Postrider disables the subscription.
    pub disable_after_days: Choice<u32>,
}

/// The settings that control the flow of a subscription's deliveries.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FlowSettings {
    /// When deliveries are held back because the receiver keeps failing; `None` means never.
    pub circuit: Option<CircuitSettings>,
    /// How many attempts a second the receiver gets; `None` means no limit.
    pub rate: Option<DeliveryRate>,
    /// How many attempts may be in flight, over all workers; `None` means no limit.
    pub max_in_flight: Option<MaxInFlight>,
    /// The order in which deliveries are made.
    pub ordering: Ordering,
    /// After how long a time of nothing but failures Postrider disables the subscription; `None` means never.
    pub disable_after: Option<DisableAfter>,
}

impl Default for FlowSettings {
    fn default() -> Self {
        Self {
            circuit: Some(CircuitSettings::default()),
            rate: None,
            max_in_flight: None,
            ordering: Ordering::None,
            disable_after: Some(DisableAfter::default()),
        }
    }
}

impl FlowInput {
    /// Checks all fields; each broken rule is added to `problems`, and then the result means nothing.
    pub(crate) fn parse(self, problems: &mut Problems) -> FlowSettings {
        let circuit = self.circuit.or(CircuitInput::default()).map(CircuitInput::parse);
        let circuit = circuit.and_then(|parsed| problems.take_part("circuit", parsed));
        if self.rate_limit_per_second.is_none() && self.rate_limit_burst.is_some() {
            problems.add("rate_limit_burst", "has no meaning without rate_limit_per_second");
        }
        let rate = self.rate_limit_per_second.map(|rate| DeliveryRate::parse(rate, self.rate_limit_burst));
        let rate = rate.and_then(|parsed| problems.take_part("", parsed));
        let max_in_flight = self.max_in_flight.map(MaxInFlight::parse);
        let max_in_flight = max_in_flight.and_then(|parsed| problems.take("max_in_flight", parsed));
        let disable_after = self.disable_after_days.or(DISABLE_AFTER_DAYS_DEFAULT).map(DisableAfter::parse);
        let disable_after = disable_after.and_then(|parsed| problems.take("disable_after_days", parsed));
        let ordering = self.ordering.unwrap_or(Ordering::None);
        FlowSettings { circuit, rate, max_in_flight, ordering, disable_after }
    }
}

/// How many attempts a receiver gets: in any window of w seconds, at most w times the rate, and the burst.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeliveryRate {
    per_second: f64,
    burst: Option<u32>,
}

impl DeliveryRate {
    /// Checks a number of attempts a second, and of attempts at once where the owner chose one.
    ///
    /// # Errors
    /// Every broken rule, with the names of the fields in the API.
    pub fn parse(per_second: f64, burst: Option<u32>) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let within = (PER_SECOND_MIN..=PER_SECOND_MAX).contains(&per_second);
        let message = format!("must be from {PER_SECOND_MIN} to {PER_SECOND_MAX}");
        problems.require(within, "rate_limit_per_second", message);
        let within = burst.is_none_or(|burst| (1..=BURST_MAX).contains(&burst));
        problems.require(within, "rate_limit_burst", format!("must be from 1 to {BURST_MAX}"));
        problems.none_or(Self { per_second, burst })
    }

    /// Wraps a rate that was checked before it was stored.
    pub(crate) fn from_stored(per_second: f64, burst: Option<i32>) -> Self {
        Self { per_second, burst: burst.map(i32::unsigned_abs) }
    }

    /// Attempts a second.
    #[must_use]
    pub fn per_second(self) -> f64 {
        self.per_second
    }

    /// Attempts at once: as many as the owner chose, or else one second's worth, at least 1.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate is from 0.01 to 10,000, and a part of an attempt is none"
    )]
    pub fn burst(self) -> u32 {
        self.burst.unwrap_or_else(|| (self.per_second as u32).max(1))
    }

    /// Attempts at once, where the owner chose a number.
    #[must_use]
    pub fn chosen_burst(self) -> Option<u32> {
        self.burst
    }

    /// The form in which the chosen number is stored.
    pub(crate) fn stored_burst(self) -> Option<i32> {
        self.burst.map(|burst| i32::try_from(burst).unwrap_or(i32::MAX))
    }

    /// Microseconds from one attempt to the next where they come evenly, rounded up.
    pub(crate) fn interval_us(self) -> i64 {
        let interval = Duration::from_secs_f64((1.0 + INTERVAL_MARGIN) / self.per_second);
        i64::try_from(interval.as_nanos().div_ceil(1000)).unwrap_or(i64::MAX)
    }
}

/// How many attempts may be in flight at once, over all workers: from 1 to 10,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxInFlight(u32);

impl MaxInFlight {
    /// Checks a number of attempts.
    ///
    /// # Errors
    /// What is wrong.
    pub fn parse(attempts: u32) -> Result<Self, String> {
        if (1..=IN_FLIGHT_MAX).contains(&attempts) {
            Ok(Self(attempts))
        } else {
            Err(format!("must be from 1 to {IN_FLIGHT_MAX}"))
        }
    }

    /// Wraps a number that was checked before it was stored.
    pub(crate) fn from_stored(attempts: i32) -> Self {
        Self(attempts.unsigned_abs())
    }

    /// Attempts at once.
    #[must_use]
    pub fn attempts(self) -> u32 {
        self.0
    }

    /// The form in which the number is stored.
    pub(crate) fn stored(self) -> i32 {
        i32::try_from(self.0).unwrap_or(i32::MAX)
    }
}

/// After how many days of nothing but failures Postrider disables a subscription: from 1 to 365, 5 by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DisableAfter(u32);

impl DisableAfter {
    /// Checks a number of days.
    ///
    /// # Errors
    /// What is wrong.
    pub fn parse(days: u32) -> Result<Self, String> {
        if (1..=DISABLE_AFTER_DAYS_MAX).contains(&days) {
            Ok(Self(days))
        } else {
            Err(format!("must be from 1 to {DISABLE_AFTER_DAYS_MAX}"))
        }
    }

    /// Wraps a number that was checked before it was stored.
    pub(crate) fn from_stored(days: i32) -> Self {
        Self(days.unsigned_abs())
    }

    /// The number of days.
    #[must_use]
    pub fn days(self) -> u32 {
        self.0
    }

    /// The form in which the number is stored.
    pub(crate) fn stored(self) -> i32 {
        i32::try_from(self.0).unwrap_or(i32::MAX)
    }
}

impl Default for DisableAfter {
    fn default() -> Self {
        Self(DISABLE_AFTER_DAYS_DEFAULT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The settings, or the fields whose rules are broken.
    fn parse(input: FlowInput) -> Result<FlowSettings, Vec<String>> {
        let mut problems = Problems::default();
        let parsed = input.parse(&mut problems);
        problems.none_or(parsed).map_err(|problems| problems.0.into_iter().map(|problem| problem.field).collect())
    }

    #[test]
    fn what_is_not_said_is_the_default_and_off_is_off() {
        assert_eq!(parse(FlowInput::default()), Ok(FlowSettings::default()));
        let off = parse(FlowInput { circuit: Choice::Off, disable_after_days: Choice::Off, ..FlowInput::default() });
        assert_eq!(off, Ok(FlowSettings { circuit: None, disable_after: None, ..FlowSettings::default() }));
        let on = parse(FlowInput { circuit: Choice::On(CircuitInput::default()), ..FlowInput::default() });
        assert_eq!(on, Ok(FlowSettings::default()));
    }

    #[test]
    fn bounds() {
        let none = FlowInput::default;
        let rate = |per_second, burst| FlowInput {
            rate_limit_per_second: Some(per_second),
            rate_limit_burst: burst,
            ..FlowInput::default()
        };
        let in_flight = |attempts| FlowInput { max_in_flight: Some(attempts), ..FlowInput::default() };
        let days = |days| FlowInput { disable_after_days: Choice::On(days), ..FlowInput::default() };
        let circuit = CircuitInput { probes: Some(0), cooldown_seconds: Some(0), ..CircuitInput::default() };
        for (input, broken) in [
            (rate(0.01, None), vec![]),
            (rate(10_000.0, Some(1)), vec![]),
            (rate(0.5, Some(100_000)), vec![]),
            (rate(0.009_999, None), vec!["rate_limit_per_second"]),
            (rate(10_000.1, None), vec!["rate_limit_per_second"]),
            (rate(-1.0, None), vec!["rate_limit_per_second"]),
            (rate(f64::NAN, None), vec!["rate_limit_per_second"]),
            (rate(f64::INFINITY, Some(0)), vec!["rate_limit_per_second", "rate_limit_burst"]),
            (rate(1.0, Some(100_001)), vec!["rate_limit_burst"]),
            (FlowInput { rate_limit_burst: Some(5), ..none() }, vec!["rate_limit_burst"]),
            (in_flight(1), vec![]),
            (in_flight(10_000), vec![]),
            (in_flight(0), vec!["max_in_flight"]),
            (in_flight(10_001), vec!["max_in_flight"]),
            (days(1), vec![]),
            (days(365), vec![]),
            (days(0), vec!["disable_after_days"]),
            (days(366), vec!["disable_after_days"]),
            (FlowInput { circuit: Choice::On(circuit), ..none() }, vec!["circuit.cooldown_seconds", "circuit.probes"]),
        ] {
            let told = parse(input.clone()).err().unwrap_or_default();
            assert_eq!(told, broken, "{input:?}");
        }
    }

    #[test]
    fn a_rate_has_an_interval_and_a_burst() {
        for (per_second, chosen, interval_us, burst) in [
            (0.01, None, 102_000_000, 1),
            (0.5, None, 2_040_000, 1),
            (1.0, None, 1_020_000, 1),
            (1.99, None, 512_563, 1),
            (3.0, None, 340_000, 3),
            (7.0, Some(1), 145_715, 1),
            (100.0, None, 10_200, 100),
            (9_999.0, None, 103, 9_999),
            (10_000.0, Some(100_000), 102, 100_000),
        ] {
            let rate = DeliveryRate::parse(per_second, chosen).expect("valid");
            assert_eq!((rate.interval_us(), rate.burst()), (interval_us, burst), "{per_second} {chosen:?}");
            assert_eq!(rate.chosen_burst(), chosen);
            let stored = chosen.map(|burst| i32::try_from(burst).expect("small"));
            assert_eq!(DeliveryRate::from_stored(per_second, stored), rate);
        }
    }
}
