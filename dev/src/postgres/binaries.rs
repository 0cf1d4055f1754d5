//! Chooses the Postgres binaries: those of the machine, or else a copy from npm, which is fetched if it is not there
//! yet. It does not know how a server is run.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::postgres::embedded;

/// Binaries of an older major version than this are not used.
const MAJOR_VERSION_MIN: u32 = 14;
/// If this variable is `embedded`, the binaries of the machine are ignored and only the copy from npm is used.
const CHOICE_VARIABLE: &str = "POSTRIDER_DEV_POSTGRES";

/// A folder with the programs `initdb`, `pg_ctl` and `postgres`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Binaries {
    pub folder: PathBuf,
    /// The major version of Postgres, such as 17.
    pub major: u32,
}

impl Binaries {
    /// The binaries of a folder; `None` where one is missing or does not start.
    pub fn in_folder(folder: &Path) -> Option<Self> {
        let is_complete = ["initdb", "pg_ctl", "postgres"].iter().all(|name| folder.join(name).is_file());
        if !is_complete {
            return None;
        }
        let told = Command::new(folder.join("postgres")).arg("--version").output().ok()?;
        let major = major_version(&String::from_utf8_lossy(&told.stdout))?;
        Some(Self { folder: folder.to_owned(), major })
    }

    /// Chooses the binaries. Where the machine has several versions, those of the preferred major version come first.
    ///
    /// # Errors
    /// When there are no binaries and none can be fetched; the message says how to install them.
    pub fn find(preferred: Option<u32>) -> Result<Self> {
        match env::var(CHOICE_VARIABLE).ok().as_deref() {
            None | Some("") => {}
            Some("embedded") => return embedded::fetch(),
            Some(other) => {
                bail!("{CHOICE_VARIABLE}={other}: only `embedded` is known; leave it out to use what is there")
            }
        }
        if let Some(folder) = env::var_os("PG_BIN").map(PathBuf::from) {
            let found = Self::in_folder(&folder).filter(|found| found.major >= MAJOR_VERSION_MIN);
            return found.with_context(|| {
                let wanted = format!("initdb, pg_ctl and postgres of version {MAJOR_VERSION_MIN} or later");
                format!("PG_BIN is {}, but {wanted} are not there", folder.display())
            });
        }
        let found: Vec<_> = candidates()
            .iter()
            .filter_map(|folder| Self::in_folder(folder))
            .filter(|found| found.major >= MAJOR_VERSION_MIN)
            .chain(embedded::fetched())
            .collect();
        let best = found.iter().find(|found| Some(found.major) == preferred).or(found.first());
        best.cloned().map_or_else(embedded::fetch, Ok)
    }
}

/// Folders that may hold binaries, the likeliest first.
fn candidates() -> Vec<PathBuf> {
    let mut folders: Vec<_> = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    folders.extend(versions_below("/usr/lib/postgresql", "bin"));
    folders
        .extend(["/usr/pgsql-18/bin", "/usr/pgsql-17/bin", "/usr/pgsql-16/bin", "/usr/pgsql-15/bin"].map(Into::into));
    folders.extend(versions_below("/opt/homebrew/opt", "bin"));
    folders.extend(versions_below("/Applications/Postgres.app/Contents/Versions", "bin"));
    folders
}

/// The folders of all versions below `folder`, each with `tail` appended, the newest version first.
fn versions_below(folder: &str, tail: &str) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| {
            let digits: String = entry.file_name().to_string_lossy().chars().filter(char::is_ascii_digit).collect();
            (digits.parse::<u32>().unwrap_or(0), entry.path().join(tail))
        })
        .collect();
    found.sort();
    found.into_iter().rev().map(|(_, path)| path).collect()
}

/// The major version in the output of `postgres --version`.
fn major_version(told: &str) -> Option<u32> {
    let version = told.split("(PostgreSQL)").nth(1)?.trim_start();
    let digits = version.split(|character: char| !character.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_they_are_told() {
        let cases = [
            ("postgres (PostgreSQL) 17.5 (Debian 17.5-1.pgdg120+1)\n", Some(17)),
            ("postgres (PostgreSQL) 18beta1", Some(18)),
            ("postgres (PostgreSQL) 9.6.24", Some(9)),
            ("postgres: error while loading shared libraries", None),
            ("", None),
        ];
        for (told, major) in cases {
            assert_eq!(major_version(told), major, "{told}");
        }
    }
}
