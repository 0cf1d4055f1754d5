//! The `api` binary.

use std::process::ExitCode;

use api::config::Config;
use postrider_core::process::run::run;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    run(Config::from, api::run).await
}
