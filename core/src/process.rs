//! The life of a process of ours: its configuration, its logs and metrics, its start and its end.

pub mod config;
pub mod run;
pub mod telemetry;
