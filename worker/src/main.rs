//! The `worker` binary. Without arguments it works; `worker doctor` checks the database instead, and `worker rekey`
//! seals all secrets with the first encryption key.

use std::process::ExitCode;

use postrider_core::process::run::run;
use worker::config::Config;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The exit code for arguments that are not known.
const EXIT_USAGE: u8 = 2;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => run(Config::from, worker::run).await,
        ["doctor"] => run(Config::from, |config, _, _| worker::doctor(config)).await,
        ["rekey"] => run(Config::from, |config, _, _| worker::rekey(config)).await,
        _ => {
            eprintln!("usage: worker [doctor|rekey]");
            ExitCode::from(EXIT_USAGE)
        }
    }
}
