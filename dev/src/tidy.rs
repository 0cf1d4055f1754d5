//! `cargo dev tidy`: the rules of this codebase that no lint knows, executed.

use std::{fs, path::Path, process::Command};

use anyhow::{Result, ensure};

use crate::workspace;

/// Lines of a source file, at most.
const LINES_MAX: usize = 400;

/// Checks every file that git knows.
///
/// # Errors
/// When a rule is broken; every breach is printed first.
pub fn tidy() -> Result<()> {
    let root = workspace();
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(&root)
        .output()?;
    ensure!(listed.status.success(), "git does not list the files");
    let mut breaches = Vec::new();
    for name in String::from_utf8(listed.stdout)?.lines() {
        let Ok(text) = fs::read_to_string(root.join(name)) else { continue };
        breaches.extend(breaches_of(name, &text).into_iter().map(|breach| format!("{name}: {breach}")));
    }
    for breach in &breaches {
        eprintln!("{breach}");
    }
    ensure!(breaches.is_empty(), "{} breaches of the rules in dev/src/tidy.rs", breaches.len());
    Ok(())
}

fn breaches_of(name: &str, text: &str) -> Vec<String> {
    let mut breaches = Vec::new();
    let mut rule = |broken: bool, why: String| {
        if broken {
            breaches.push(why);
        }
    };
    let marks = ["TODO", "FIXME", "XXX"];
    if name != "dev/src/tidy.rs" {
        for mark in marks {
            rule(text.contains(mark), format!("`{mark}`: finish it, or leave it out"));
        }
    }
    rule(!text.is_empty() && !text.ends_with('\n'), "does not end with a line break".to_owned());
    if Path::new(name).extension().is_some_and(|extension| extension == "rs") {
        rule(!text.starts_with("//!"), "does not open with `//!`, a sentence of purpose".to_owned());
        let lines = text.lines().count();
        rule(lines > LINES_MAX, format!("{lines} lines; nobody reads more than {LINES_MAX} in one go"));
        let shipped = ["api/src/", "worker/src/"].iter().any(|folder| name.starts_with(folder));
        rule(shipped && text.contains("sqlx::query"), "SQL outside of the core".to_owned());
        let other = if name.starts_with("api/") { "worker::" } else { "api::" };
        let own_main = name.ends_with("/main.rs");
        rule(
            shipped && !own_main && text.contains(&format!("use {other}")),
            "api and worker never mention each other".to_owned(),
        );
    }
    breaches
}
