//! Everything about Postrider that is true without HTTP: types, rules and SQL. Each noun has one file; nouns that
//! belong together share a folder.
//!
//! The way of the data: [`accept`] takes in events from any API, and [`queue::intake`] stores them ([`event`]) with the
//! deliveries that they cause. Workers claim deliveries and record outcomes through [`queue`]; [`queue::next_step`]
//! decides what follows an attempt; [`delivery`] and [`queue::attempt`] show the result to people. There is no HTTP
//! here, in either direction.

pub mod accept;
pub mod access;
pub mod announce;
pub mod database;
pub mod delivery;
pub mod demo;
pub mod emitter;
pub mod error;
pub mod event;
pub mod id;
pub mod live;
pub mod name;
pub mod page;
pub mod process;
pub mod queue;
pub mod stats;
pub mod subscription;
pub mod tally;
pub(crate) mod text_enum;
pub mod trust;
pub mod upkeep;
pub mod validation;

pub use error::{Error, Result};
