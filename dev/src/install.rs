//! Folders that hold what a check or the dashboard needs. A folder is filled once, and again when what it should hold
//! changes.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Result;

use crate::workspace;

/// How often we ask again for a lock that another process holds.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// Fills a folder with what `wanted` describes, unless the folder holds it already. Of several processes, one does the
/// work and the others wait for it.
///
/// # Errors
/// When the work fails; the next call tries it again.
pub(crate) async fn install_once(
    folder: PathBuf,
    wanted: String,
    install: impl AsyncFnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    fs::create_dir_all(&folder)?;
    // The lock stands below `target` also where the folder does not.
    let name = folder.strip_prefix(workspace())?.to_string_lossy().replace('/', "-");
    let locks = workspace().join("target");
    fs::create_dir_all(&locks)?;
    let lock = fs::File::create(locks.join(format!("{name}.lock")))?;
    while lock.try_lock().is_err() {
        tokio::time::sleep(ASK_EVERY).await;
    }
    // This file is written last, so that an installation that was interrupted starts again.
    let mark = folder.join("installed.txt");
    if fs::read_to_string(&mark).is_ok_and(|installed| installed == wanted) {
        return Ok(folder);
    }
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    install(&folder).await?;
    fs::write(mark, wanted)?;
    Ok(folder)
}
