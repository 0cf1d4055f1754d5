//! `cargo dev prepare`: refreshes `.sqlx`, the committed descriptions of all queries, with which the workspace builds
//! without a database. With `--check` it fails when they are out of date.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use sqlx::{Connection, PgConnection};
use tokio::process::Command;

use crate::{
    child::status,
    postgres::{Durability, Postgres},
    schema, workspace,
};

/// Writes `.sqlx` from a freshly migrated database.
///
/// # Errors
/// When the workspace does not compile against that database; with `check`, when `.sqlx` is out of date.
pub async fn prepare(check: bool) -> Result<()> {
    let root = workspace();
    let server = Postgres::temporary("prepare", Durability::Disposable)?;
    let url = format!("{}?options=-c%20search_path%3Dpostrider", server.url("postgres"));
    let mut connection = PgConnection::connect(&url).await?;
    schema::make(&mut connection).await?;

    let fresh = root.join("target/sqlx-fresh");
    let _ = fs::remove_dir_all(&fresh);
    fs::create_dir_all(&fresh)?;
    let main = root.join("core/src/lib.rs");
    // The macros write their descriptions only while the crate is compiled, so the crate is made to look changed.
    fs::File::open(&main)?.set_modified(std::time::SystemTime::now())?;
    let mut cargo = Command::new("cargo");
    cargo
        .args(["check", "--quiet", "--package", "postrider-core"])
        .current_dir(&root)
        .env("DATABASE_URL", &url)
        .env("SQLX_OFFLINE", "false")
        .env("SQLX_OFFLINE_DIR", &fresh);
    ensure!(status(&mut cargo).await?.success(), "the workspace does not compile against a freshly migrated database");

    let committed = root.join(".sqlx");
    let stale = listing(&committed)? != listing(&fresh)?;
    if check {
        ensure!(!stale, ".sqlx is stale: run `cargo dev prepare` and commit what it changes");
    } else if stale {
        let _ = fs::remove_dir_all(&committed);
        fs::create_dir_all(&committed)?;
        for (name, content) in listing(&fresh)? {
            fs::write(committed.join(name), content)?;
        }
        println!("refreshed {}", committed.display());
    }
    Ok(())
}

/// The names and contents of the files in a folder, ordered by name.
fn listing(folder: &Path) -> Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry?.path();
        let name = path.file_name().context("a file has a name")?.to_string_lossy().into_owned();
        files.push((name, fs::read_to_string(&path)?));
    }
    files.sort();
    Ok(files)
}
