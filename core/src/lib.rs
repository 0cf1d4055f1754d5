//! Everything about Postrider that is true without HTTP: types, rules and SQL. One noun, one file.
//!
//! The way of the data: [`intake`] stores events ([`event`]) and the deliveries they owe through [`queue`]; workers
//! claim and record through [`queue`]; [`retry_policy`] decides what follows an attempt; [`delivery`] and [`attempt`]
//! are what people see of it. There is no HTTP here, in either direction.

pub mod attempt;
pub mod config;
pub mod database;
pub mod dead_letter;
pub mod delivery;
pub mod error;
pub mod event;
pub mod event_type;
pub mod id;
pub mod intake;
pub mod invariants;
pub mod maintenance;
pub mod network;
pub mod notify;
pub mod partition;
pub mod process;
pub mod queue;
pub mod retry_policy;
pub mod seal;
pub mod settings;
pub mod signature;
pub mod subscription;
pub mod subscription_cache;
pub mod target_url;
pub mod telemetry;
pub mod validation;

pub use error::{Error, Result};
