//! Everything with I/O, in one binary: over HTTP, against a real Postgres and a real receiver.
#![expect(clippy::unwrap_used, reason = "tests speak for themselves")]

mod world;

mod authorizing;
mod authorizing_keys;
mod burying;
mod delivering;
mod documenting;
mod fuzzing;
mod hiding;
mod hostile_bodies;
mod hostile_callers;
mod hostile_receivers;
mod hostile_tls;
mod ingest_signatures;
mod inlining;
mod interop;
mod keeping;
mod limiting;
mod listing;
mod managing;
mod outboxing;
mod posting;
mod publishing;
mod queueing;
mod racing;
mod raw;
mod repeating;
mod repeating_at_once;
mod replaying;
mod signing;
mod surviving;
mod targeting;
