//! `cargo dev prepare`: refreshes `.sqlx`, the committed facts about every query that let the workspace build with no
//! database; and `--check`, which fails when they are stale.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use sqlx::{Connection, PgConnection};
use tokio::process::Command;

use crate::{
    child::status,
    postgres::{Durability, Postgres},
    schema, workspace,
};

/// Writes `.sqlx` anew from a database that has just been migrated.
///
/// # Errors
/// When the workspace does not compile against that database, or, with `check`, when `.sqlx` is not what it should be.
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
    // The macros run only when the crate is compiled, so make it look changed.
    fs::File::open(&main)?.set_modified(std::time::SystemTime::now())?;
    let mut cargo = Command::new("cargo");
    cargo
        .args(["build", "--quiet", "--package", "postrider-core"])
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

/// The files of a folder with their contents, by name.
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
