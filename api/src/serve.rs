//! What all routes need of HTTP: connections and their limits, bodies, lists, problems, pages, and the `OpenAPI`
//! document. What a route means stands in the file of its noun.

pub mod body;
pub mod body_room;
pub mod connection;
pub mod document;
pub mod idempotency;
pub mod list;
pub mod pages;
pub mod problem;
pub mod public_url;
pub mod request_trace;
pub mod server;
