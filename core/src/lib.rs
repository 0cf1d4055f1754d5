//! Everything about Postrider that is true without HTTP: types, rules and SQL. One noun, one file.
//!
//! The way of the data: [`intake`] stores events ([`event`]) and the deliveries they owe through [`queue`]; workers
//! claim and record through [`queue`]; [`retry_policy`] decides what follows an attempt; [`delivery`] and [`attempt`]
//! are what people see of it. There is no HTTP here, in either direction.

pub mod accept;
pub mod api_key;
pub mod attempt;
pub mod audience;
pub mod audit;
pub mod changes;
pub mod config;
pub mod database;
pub mod dead_letter;
pub mod delivery;
pub mod delivery_list;
pub mod destination;
pub mod error;
pub mod event;
pub mod event_type;
pub mod filter;
pub(crate) mod filter_parser;
pub mod id;
pub mod idempotency;
pub mod inbound_signature;
pub mod ingest_auth;
pub mod inline_delivery;
pub mod intake;
pub mod invariants;
pub mod maintenance;
pub mod names;
pub mod network;
pub mod notify;
pub mod outbox;
pub mod page;
pub mod partition;
pub mod previous_secret;
pub mod process;
pub mod queue;
pub mod rate_limit;
pub mod rekey;
pub mod replay;
pub mod replay_now;
pub mod replay_walk;
pub mod retry_policy;
pub mod seal;
pub mod secret_rotation;
pub mod settings;
pub mod signature;
pub mod signing_secret;
pub mod subscription;
pub mod subscription_cache;
pub(crate) mod subscription_row;
pub mod subscriptions;
pub mod target_url;
pub mod telemetry;
pub mod tenancy;
pub mod validation;
pub mod waker;
pub mod watched;
pub(crate) mod words;

pub use error::{Error, Result};
