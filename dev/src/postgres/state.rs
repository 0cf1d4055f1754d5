//! The folders of our servers. A server's user can enter them, they are locked while they are in use, and they are
//! removed when the process that used them has ended.

use std::{
    env, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::{fs::statvfs, process::geteuid};

/// The environment variable that names the folder for all of this.
pub const STATE_VARIABLE: &str = "POSTRIDER_DEV_STATE";

/// The folder that Linux keeps in memory.
const MEMORY: &str = "/dev/shm";
/// Bytes that must be free there, so that a whole run of the tests fits several times.
const MEMORY_MIN: u64 = 8 << 30;

/// How long we wait for the lock of a folder in use. Another process may hold the lock only to look whether it is free,
/// or may be about to end.
const LOCKED_WITHIN: Duration = Duration::from_secs(2);

/// How long to wait while another process holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Wait until the other process has given the lock back.
    UntilFree,
    /// Give up after [`LOCKED_WITHIN`], with an error that says that the folder is in use.
    Briefly,
}

/// The folder with this name, for data that survives this process. It is never below a home directory that the server's
/// user cannot enter.
#[must_use]
pub fn state_directory(name: &str) -> PathBuf {
    base().join(format!("postrider-{name}"))
}

/// A fresh name for a temporary folder, unique among all processes. [`stale`] recognizes the name by its numbers.
pub(super) fn temporary_directory(purpose: &str) -> PathBuf {
    base().join(temporary_name(purpose))
}

/// The same, in memory where there is enough of it: for a server whose data may be lost. Each test has a database of
/// its own, and to make and remove all their files costs a disk more than the tests themselves take.
pub(super) fn disposable_directory(purpose: &str) -> PathBuf {
    memory().unwrap_or_else(base).join(temporary_name(purpose))
}

fn temporary_name(purpose: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("postrider-{purpose}-{}-{number}", std::process::id())
}

/// The folder whose files are in memory, if this system has one with [`MEMORY_MIN`] free bytes. A folder that was
/// chosen by hand is used for everything.
fn memory() -> Option<PathBuf> {
    let memory = PathBuf::from(MEMORY);
    let free = statvfs(&memory).ok().map(|found| found.f_bavail.saturating_mul(found.f_frsize))?;
    (env::var_os(STATE_VARIABLE).is_none() && free >= MEMORY_MIN).then_some(memory)
}

fn base() -> PathBuf {
    if let Some(chosen) = env::var_os(STATE_VARIABLE) {
        return chosen.into();
    }
    if geteuid().is_root() {
        return PathBuf::from("/var/tmp");
    }
    env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".local/state")))
        .unwrap_or_else(env::temp_dir)
}

/// The path of the lock file of a folder; it stands beside the folder.
pub(super) fn lock_path(folder: &Path) -> PathBuf {
    let mut path = folder.as_os_str().to_owned();
    path.push(".lock");
    path.into()
}

/// Locks a folder for this process. The lock is held until the file is closed or the process ends.
pub(super) fn lock(folder: &Path, wait: Wait) -> Result<fs::File> {
    let path = lock_path(folder);
    let made = fs::create_dir_all(base());
    made.with_context(|| format!("cannot make {}", base().display()))?;
    let asked = Instant::now();
    loop {
        let file = fs::File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        if file.try_lock().is_err() {
            if wait == Wait::Briefly && asked.elapsed() > LOCKED_WITHIN {
                bail!("another process is using {}", folder.display());
            }
            sleep(Duration::from_millis(20));
        } else if fs::metadata(&path).is_ok_and(|there| file.metadata().is_ok_and(|ours| ours.ino() == there.ino())) {
            return Ok(file);
        }
        // Otherwise somebody has removed it in between, so that nobody else would see that it is locked.
    }
}

/// The temporary folders whose processes have ended. Each comes with its lock, which this process holds from now on.
pub(super) fn stale() -> Vec<(PathBuf, fs::File)> {
    // Also where memory is short: what killed processes have left may be what takes it.
    let folders = [base(), PathBuf::from(MEMORY)].into_iter();
    let entries = folders.filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    let folders = entries.filter_map(|entry| {
        let path = entry.path();
        let is_ours = entry.metadata().is_ok_and(|data| data.is_file() && data.uid() == geteuid().as_raw());
        let folder = path.with_extension("");
        let is_lock = path.extension().is_some_and(|extension| extension == "lock");
        (is_ours && is_lock && is_temporary(&folder)).then_some((folder, path))
    });
    folders
        .filter_map(|(folder, path)| {
            let lock = fs::File::open(path).ok()?;
            lock.try_lock().ok()?;
            Some((folder, lock))
        })
        .collect()
}

/// Whether a name is `postrider-PURPOSE-PROCESS` or `postrider-PURPOSE-PROCESS-NUMBER`.
fn is_temporary(folder: &Path) -> bool {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let mut words = name.split('-');
    let [first, last] = [words.next(), words.next_back()].map(Option::unwrap_or_default);
    let is_number = !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit());
    first == "postrider" && is_number && words.next().is_some()
}

/// Removes a folder and its lock file; does nothing where they do not exist.
pub(super) fn remove(folder: &Path) {
    let _ = fs::remove_dir_all(folder);
    let _ = fs::remove_file(lock_path(folder));
}

/// The user and group that runs a server when we are root, because Postgres refuses root: `postgres` if it exists, or
/// else `nobody`. `None` where we are not root.
pub(super) fn unprivileged_user() -> Result<Option<(u32, u32)>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let passwd = fs::read_to_string("/etc/passwd")?;
    for name in ["postgres", "nobody"] {
        let line = passwd.lines().find(|line| line.split(':').next() == Some(name));
        if let Some(fields) = line.map(|line| line.split(':').collect::<Vec<_>>()) {
            return Ok(Some((fields[2].parse()?, fields[3].parse()?)));
        }
    }
    bail!("Postgres refuses to run as root, and this machine has neither a user `postgres` nor `nobody`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_temporary_is_ever_cleared_away() {
        let cases = [
            ("postrider-tests-123-1", true),
            ("postrider-bench-123", true),
            ("postrider-dev", false),
            ("postrider-postgres-18.4.0-beta.17", false),
            ("postrider-17", false),
            ("somebody-else-17", false),
        ];
        for (name, temporary) in cases {
            assert_eq!(is_temporary(&Path::new("/var/tmp").join(name)), temporary, "{name}");
        }
    }

    #[test]
    fn names_of_temporary_folders_are_known_as_such_and_differ() {
        let [one, other] = [temporary_directory("tests"), disposable_directory("tests")];
        assert!(is_temporary(&one) && is_temporary(&other) && one != other);
    }
}
