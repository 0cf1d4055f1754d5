//! `cargo dev tidy`: checks the rules of this codebase that no lint knows.

mod floors;
mod sql;

use std::{fs, path::Path, process::Command};

use anyhow::{Result, ensure};

use crate::workspace;

/// A source file has at most this many lines.
const LINES_MAX: usize = 400;
/// A line has at most this many characters. rustfmt breaks code there, but not comments, strings or SQL.
const LINE_CHARACTERS_MAX: usize = 120;

/// A file: its path from the root of the workspace, with `/`, and its text.
type File = (String, String);

/// Checks every file that git knows.
///
/// # Errors
/// When a rule is broken; every breach is printed first.
pub fn tidy() -> Result<()> {
    let files = files()?;
    let mut breaches = Vec::new();
    for (name, text) in &files {
        breaches.extend(breaches_of(name, text).into_iter().map(|breach| format!("{name}: {breach}")));
    }
    breaches.extend(floors::breaches(&files));
    breaches.extend(sql::breaches(&files));
    for breach in &breaches {
        eprintln!("{breach}");
    }
    ensure!(breaches.is_empty(), "{} breaches of the rules in dev/src/tidy.rs and beside it", breaches.len());
    Ok(())
}

fn files() -> Result<Vec<File>> {
    let root = workspace();
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(&root)
        .output()?;
    ensure!(listed.status.success(), "git does not list the files");
    let names = String::from_utf8(listed.stdout)?;
    // Files that are not text, and files that were removed, are skipped.
    let read = |name: &str| Some((name.to_owned(), fs::read_to_string(root.join(name)).ok()?));
    Ok(names.lines().filter_map(read).collect())
}

/// Which rules this file breaks by itself, a line each.
fn breaches_of(name: &str, text: &str) -> Vec<String> {
    let mut breaches = Vec::new();
    let mut rule = |broken: bool, why: String| {
        if broken {
            breaches.push(why);
        }
    };
    if !name.starts_with("dev/src/tidy") {
        for mark in ["TODO", "FIXME", "XXX"] {
            rule(text.contains(mark), format!("`{mark}`: finish it, or leave it out"));
        }
    }
    rule(!text.is_empty() && !text.ends_with('\n'), "does not end with a line break".to_owned());
    let extension = Path::new(name).extension().unwrap_or_default();
    if extension == "rs" || extension == "sql" {
        for (number, line) in text.lines().enumerate() {
            let characters = line.chars().count();
            let why = format!("line {} has {characters} characters, {LINE_CHARACTERS_MAX} at most", number + 1);
            rule(characters > LINE_CHARACTERS_MAX, why);
        }
    }
    if extension == "rs" {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_finds_its_breach_and_nothing_else() {
        let long = format!("//! x\n// {}\n", "é".repeat(LINE_CHARACTERS_MAX - 3));
        let longer = format!("//! x\n// {}\n", "é".repeat(LINE_CHARACTERS_MAX - 2));
        let cases: [(&str, &str, &str); 14] = [
            ("core/src/a.rs", "//! A purpose.\n", ""),
            ("core/src/a.rs", &long, ""),
            ("core/src/a.rs", &longer, "line 2 has 121 characters, 120 at most"),
            ("core/sql/a.sql", &longer, "line 2 has 121 characters, 120 at most"),
            ("docs/a.md", &longer, ""),
            ("core/src/a.rs", "//! A purpose.\n// TODO: mend\n", "`TODO`: finish it, or leave it out"),
            ("core/src/a.rs", "//! A purpose.", "does not end with a line break"),
            ("docs/a.md", "text", "does not end with a line break"),
            ("core/src/a.rs", "use a;\n", "does not open with `//!`, a sentence of purpose"),
            ("api/src/a.rs", "//! x\nsqlx::query!()\n", "SQL outside of the core"),
            ("core/src/a.rs", "//! x\nsqlx::query!()\n", ""),
            ("api/src/a.rs", "//! x\nuse worker::a;\n", "api and worker never mention each other"),
            ("worker/src/a.rs", "//! x\nuse api::a;\n", "api and worker never mention each other"),
            ("worker/src/main.rs", "//! x\nuse worker::a;\n", ""),
        ];
        for (name, text, breach) in cases {
            let expected: Vec<&str> = if breach.is_empty() { Vec::new() } else { vec![breach] };
            assert_eq!(breaches_of(name, text), expected, "{name}: {text}");
        }
        let many = format!("//! x\n{}", "\n".repeat(LINES_MAX));
        assert_eq!(breaches_of("core/src/a.rs", &many), ["401 lines; nobody reads more than 400 in one go"]);
    }
}
