//! `cargo dev …`: the commands of a developer.

use std::process::ExitCode;

use anyhow::{Result, bail};
use dev::{
    bench::bench,
    check::check,
    prepare::prepare,
    receiver::{Keep, Receiver},
    schemathesis::{SEED, schemathesis},
    tidy::tidy,
    up::up,
};

const USAGE: &str = "usage: cargo dev COMMAND

  up                 start Postgres (or use DATABASE_URL), api, worker and a demo receiver
  receiver [ADDRESS] start the demo receiver alone, on 127.0.0.1:8090 or another address
  bench [NAME…]      measure the system in release mode; names: ingest latency events end_to_end backlog held
  check              every check there is, as CI runs them
  tidy               only the rules that no lint knows
  schemathesis [SEED] try the api against its own OpenAPI document
  prepare [--check]  refresh .sqlx after a query or a migration has changed, or only check it";

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["up"] => up().await,
        ["receiver"] => receive("127.0.0.1:8090").await,
        ["receiver", address] => receive(address).await,
        ["bench", only @ ..] => bench(only).await,
        ["check"] => check().await,
        ["tidy"] => tidy(),
        ["schemathesis"] => schemathesis(SEED).await,
        ["schemathesis", seed] => schemathesis(seed.parse()?).await,
        ["prepare"] => prepare(false).await,
        ["prepare", "--check"] => prepare(true).await,
        _ => bail!("{USAGE}"),
    }
}

async fn receive(address: &str) -> Result<()> {
    let receiver = Receiver::start(address, Keep::Count).await?;
    println!("receiving on {}; paths: /success, /fail, /fail/404, /slow, /slow/250, /flaky, /gone", receiver.url(""));
    let mut told = 0;
    loop {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(()),
            () = tokio::time::sleep(std::time::Duration::from_secs(1)) => {
                if receiver.count() != told {
                    told = receiver.count();
                    println!("{told} requests so far");
                }
            }
        }
    }
}
