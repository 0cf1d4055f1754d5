//! Everything about Postrider that is true without HTTP: types, rules and SQL. One noun, one file; nouns that belong
//! together share a folder.
//!
//! The way of the data: [`accept`] takes events in from whoever brings them, and [`queue::intake`] stores them
//! ([`event`]) with the deliveries they cause; workers claim and record through [`queue`]; [`queue::retry_policy`]
//! decides what follows an attempt; [`delivery`] and [`queue::attempt`] are what people see of it. There is no HTTP
//! here, in either direction.

pub mod accept;
pub mod access;
pub mod announce;
pub mod database;
pub mod delivery;
pub mod error;
pub mod event;
pub mod id;
pub mod name;
pub mod page;
pub mod process;
pub mod queue;
pub mod subscription;
pub(crate) mod text_enum;
pub mod trust;
pub mod upkeep;
pub mod validation;

pub use error::{Error, Result};
