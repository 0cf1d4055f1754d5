//! The life of one of our processes: its configuration, its logs and metrics, its start and its end.

pub mod config;
pub mod gauges;
pub mod heartbeat;
pub mod last_error;
pub mod metrics;
pub mod run;
pub mod telemetry;
