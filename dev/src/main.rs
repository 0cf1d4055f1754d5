//! `cargo dev …`: the commands of a developer.

use anyhow::{Result, bail};

const USAGE: &str = "usage: cargo dev prepare [--check]";

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["prepare"] => dev::prepare::prepare(false).await,
        ["prepare", "--check"] => dev::prepare::prepare(true).await,
        _ => bail!("{USAGE}"),
    }
}
