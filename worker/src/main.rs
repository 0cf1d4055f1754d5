//! The `worker` binary. Without arguments it works; `worker doctor` checks the database instead, `worker rekey` seals
//! all secrets with the first encryption key, and `worker rebuild-stats` counts statistics again.

use std::process::ExitCode;

use postrider_core::process::run::run;
use worker::{config::Config, rebuild_stats};

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
        ["rebuild-stats", "--from", from, "--until", until] => match rebuild_stats::Span::parse(from, until) {
            Ok(span) => run(Config::from, |config, _, _| rebuild_stats::rebuild_stats(config, span)).await,
            Err(why) => {
                eprintln!("{why}");
                ExitCode::from(EXIT_USAGE)
            }
        },
        _ => {
            eprintln!("usage: worker [doctor|rekey|rebuild-stats --from TIME --until TIME]");
            ExitCode::from(EXIT_USAGE)
        }
    }
}
