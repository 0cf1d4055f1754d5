//! The `worker` binary. Without arguments it works; with the name of a command it does something once and ends:
//! `migrate` brings the schema up to date, `retention --once` drops what is old, `archive verify` checks what was
//! archived, `doctor` examines the database, `rekey` seals all secrets with the first encryption key, and
//! `rebuild-stats` counts statistics again.

use std::process::ExitCode;

use postrider_core::process::run::run;
use worker::{
    commands::{self, RetentionConfig},
    config::Config,
    rebuild_stats,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The exit code for arguments that are not known.
const EXIT_USAGE: u8 = 2;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => run(Config::from, worker::run).await,
        ["migrate"] => run(commands::database, |database, _, _| commands::migrate(database)).await,
        ["retention", "--once"] => run(RetentionConfig::from, |config, _, _| commands::retention(config)).await,
        ["archive", "verify"] => run(commands::archive_folder, |folder, _, _| commands::verify_archive(folder)).await,
        ["doctor"] => run(Config::from, |config, _, _| commands::doctor(config)).await,
        ["rekey"] => run(Config::from, |config, _, _| commands::rekey(config)).await,
        ["rebuild-stats", "--from", from, "--until", until] => match rebuild_stats::Span::parse(from, until) {
            Ok(span) => run(Config::from, |config, _, _| rebuild_stats::rebuild_stats(config, span)).await,
            Err(why) => {
                eprintln!("{why}");
                ExitCode::from(EXIT_USAGE)
            }
        },
        _ => {
            eprintln!(
                "usage: worker [migrate | retention --once | archive verify | doctor | rekey \
                 | rebuild-stats --from TIME --until TIME]"
            );
            ExitCode::from(EXIT_USAGE)
        }
    }
}
