//! The settings that control the flow of a subscription's deliveries, as JSON: its circuit and its order. What is a
//! plain number stands with the other fields of a subscription.

use poem_openapi::{Enum, Object, types::MaybeUndefined};
use postrider_core::subscription::{
    circuit::{CircuitInput, CircuitSettings, CircuitState},
    flow_settings::{Choice, Ordering},
};
use serde::{Deserialize, Serialize};

/// When deliveries are held back because the receiver keeps failing, and how it is tried again. While the circuit is
/// open, deliveries wait without an attempt. In a change, each field that is absent stays as it is.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields, skip_serializing_if_is_none, rename = "Circuit")]
pub struct CircuitBody {
    /// The circuit opens after this many failed attempts in a row, such as 5: from 1 to 1000; 10 where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failures_in_a_row: Option<u32>,
    /// The circuit also opens when at least this share of the attempts of a window has failed, in percent, such as 50:
    /// from 1 to 100; 80 where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_percent: Option<u32>,
    /// A window must have at least this many attempts before its share of failures opens the circuit, such as 100: from
    /// 1 to 10000; 20 where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples_min: Option<u32>,
    /// Seconds of a window, such as 300: from 1 to 3600; 60 where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window_seconds: Option<u32>,
    /// Seconds for which the circuit stays open at first, such as 60: from 1 to 86400 (one day); 30 where absent. Each
    /// time that a probe fails, the circuit opens again for twice as long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cooldown_seconds: Option<u32>,
    /// The longest time for which the circuit stays open, in seconds, such as 3600: from `cooldown_seconds` to 86400
    /// (one day). Where absent, it is 900, or `cooldown_seconds` where that is longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cooldown_max_seconds: Option<u32>,
    /// Deliveries that are attempted at once when the cooldown is over, such as 3, to see whether the receiver is well
    /// again: from 1 to 100; 1 where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probes: Option<u32>,
    /// The circuit closes after this many successes in a row of such deliveries, such as 5: from 1 to 100; 2 where
    /// absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub successes_to_close: Option<u32>,
}

/// The order in which deliveries are made: `none` makes them without waiting for each other; `fifo` makes them in the
/// order in which their events were accepted, one at a time for each `ordering_key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Enum)]
#[serde(rename_all = "snake_case")]
#[oai(rename_all = "snake_case", remote = "Ordering", rename = "Ordering")]
pub enum OrderingName {
    /// Deliveries do not wait for each other.
    None,
    /// One delivery at a time for each ordering key, in the order in which the events were accepted.
    Fifo,
}

/// Whether a circuit lets deliveries through: `closed` attempts all of them; `open` attempts none until the cooldown is
/// over; `half_open` attempts a few, to see whether the receiver is well again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case", remote = "CircuitState", rename = "CircuitState")]
pub enum CircuitStateName {
    /// All deliveries are attempted.
    Closed,
    /// No delivery is attempted until the cooldown is over.
    Open,
    /// A few deliveries are attempted, to see whether the receiver is well again.
    HalfOpen,
}

impl CircuitBody {
    /// A stored circuit as answers show it, with every field.
    #[must_use]
    pub fn of(settings: &CircuitSettings) -> Self {
        let settings = settings.to_input();
        Self {
            failures_in_a_row: settings.failures_in_a_row,
            failure_percent: settings.failure_percent,
            samples_min: settings.samples_min,
            window_seconds: settings.window_seconds,
            cooldown_seconds: settings.cooldown_seconds,
            cooldown_max_seconds: settings.cooldown_max_seconds,
            probes: settings.probes,
            successes_to_close: settings.successes_to_close,
        }
    }

    /// The input for the core, which checks it.
    #[must_use]
    pub fn into_core(self) -> CircuitInput {
        CircuitInput {
            failures_in_a_row: self.failures_in_a_row,
            failure_percent: self.failure_percent,
            samples_min: self.samples_min,
            window_seconds: self.window_seconds,
            cooldown_seconds: self.cooldown_seconds,
            cooldown_max_seconds: self.cooldown_max_seconds,
            probes: self.probes,
            successes_to_close: self.successes_to_close,
        }
    }
}

/// What a field says that `null` switches off, for the core.
pub(crate) fn choice<T>(said: MaybeUndefined<T>) -> Choice<T> {
    match said {
        MaybeUndefined::Undefined => Choice::Unsaid,
        MaybeUndefined::Null => Choice::Off,
        MaybeUndefined::Value(value) => Choice::On(value),
    }
}
