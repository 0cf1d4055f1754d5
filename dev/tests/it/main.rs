//! All tests that do I/O, in one binary. They call the real api over HTTP, with a real Postgres and a real receiver.
#![expect(clippy::unwrap_used, reason = "tests speak for themselves")]

mod world;

mod access;
mod api_keys;
mod bystanders;
mod clients;
mod configuration;
mod connections;
mod crashes;
mod dead_letters;
mod deliveries;
mod document;
mod documented;
mod early_answers;
mod events;
mod failing;
mod filters;
mod flow_control;
mod flow_settings;
mod fuzz;
mod health;
mod hostile_bodies;
mod hostile_callers;
mod hostile_receivers;
mod hostile_tls;
mod idempotency;
mod idempotency_at_once;
mod ingest;
mod ingest_challenges;
mod ingest_signatures;
mod inline_deliveries;
mod interop;
mod lane_model;
mod late_lanes;
mod lists;
#[cfg(target_os = "linux")]
mod machine;
mod metrics;
mod operational_events;
mod outages;
mod packed_payloads;
mod plans;
mod queue;
mod races;
mod rate_limits;
mod raw;
mod replays;
mod retention;
mod retry_decisions;
mod schema;
mod sealing;
mod signatures;
mod sql_publish;
mod subscriptions;
mod targets;
