//! Everything with I/O, in one binary: over HTTP, against a real Postgres and a real receiver.
#![expect(clippy::unwrap_used, reason = "tests speak for themselves")]

mod world;

mod burying;
mod delivering;
mod inlining;
mod keeping;
mod listing;
mod managing;
mod outboxing;
mod posting;
mod publishing;
mod queueing;
mod racing;
mod replaying;
mod surviving;
