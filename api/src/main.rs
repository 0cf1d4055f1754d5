//! The `api` binary.

use std::process::ExitCode;

use api::config::Config;
use postrider_core::process;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    process::run(Config::from, api::run).await
}
