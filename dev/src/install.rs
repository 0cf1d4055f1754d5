//! Folders below `target` that are filled once with what a check needs, and anew when what is needed has changed.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Result;

/// How often a lock that another process holds is asked for.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// Fills a folder once for what is wanted there, and anew when that changes. Of several processes one does the work
/// and the others wait for it.
///
/// # Errors
/// When the work fails; it is tried again the next time.
pub(crate) async fn install_once(
    folder: PathBuf,
    wanted: String,
    install: impl AsyncFnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    fs::create_dir_all(&folder)?;
    let lock = fs::File::create(folder.with_extension("lock"))?;
    while lock.try_lock().is_err() {
        tokio::time::sleep(ASK_EVERY).await;
    }
    // Written last, so that what was broken off is begun again.
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
