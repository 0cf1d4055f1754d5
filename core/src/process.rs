//! The life of one of our processes: its configuration, its logs and metrics, its start and its end.

pub mod config;
pub mod run;
pub mod telemetry;
