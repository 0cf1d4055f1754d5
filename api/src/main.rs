//! The `api` binary: it reads the configuration and runs the api until it is told to stop.

use std::process::ExitCode;

use api::config::Config;
use postrider_core::process::run::run;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    run(Config::from, api::run).await
}
