//! The `api` binary.

use std::process::ExitCode;

use api::config::Config;
use postrider_core::{config::Environment, telemetry};
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The exit code of a process that was configured wrongly.
const EXIT_CONFIGURATION: u8 = 2;

#[tokio::main]
async fn main() -> ExitCode {
    let mut env = Environment::of_process();
    telemetry::init_logs(&mut env);
    let config = match Config::from(env) {
        Ok(config) => config,
        Err(problems) => {
            for problem in problems {
                eprintln!("configuration: {problem}");
            }
            return ExitCode::from(EXIT_CONFIGURATION);
        }
    };
    let stop = CancellationToken::new();
    tokio::spawn(postrider_core::shutdown::cancel_on_signal(stop.clone()));
    match api::run(config, Some(telemetry::init_metrics()), stop).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
