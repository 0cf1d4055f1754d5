//! Support for development: it runs on a developer's machine or in CI, and is never shipped.

pub mod bench;
pub mod browser;
pub mod chaos;
pub mod check;
pub mod child;
pub mod client;
pub mod deny;
pub mod failover;
pub(crate) mod install;
pub mod node;
pub mod postgres;
pub mod prepare;
pub mod python;
pub mod reaper;
pub mod receiver;
pub mod schema;
pub mod schemathesis;
pub mod tidy;
pub mod tools;
pub mod traffic;
pub mod up;
pub mod upgrade;

use std::path::PathBuf;

/// The root folder of the workspace.
#[must_use]
pub fn workspace() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("this package is in a folder of the workspace").to_owned()
}
