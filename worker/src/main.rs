//! The `worker` binary.

use std::process::ExitCode;

use postrider_core::process;
use worker::config::Config;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    process::run(Config::from, worker::run).await
}
