//! Writes detached partitions to files before they are dropped: a line of JSON for each row, compressed, with a
//! checksum beside it. How a file comes to be complete or not at all stands in `file`.

mod file;

use std::{io, path::PathBuf};

pub use file::verify;
use file::{Entry, probe, write};
use futures_util::TryStreamExt;
use sqlx::{PgConnection, Row};
use tokio::sync::mpsc;

/// Blocks of a table that are read by one statement. Each statement is short, so that no snapshot is held for long,
/// which would keep the vacuum from the hot tables.
const BLOCKS_AT_ONCE: i64 = 64;
/// Rows that have been read and not written yet, at most.
const ROWS_AHEAD: usize = 64;

/// A folder that takes partitions before they are dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    folder: PathBuf,
}

/// Why a partition could not be archived.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The folder is missing, full, or refuses.
    #[error("the archive {} cannot be written: {source}", folder.display())]
    Folder {
        /// The folder of the archive.
        folder: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// The rows could not be read.
    #[error("the rows could not be read: {0}")]
    Database(#[from] sqlx::Error),
}

impl Archive {
    /// An archive in this folder, which has to exist when a partition is written: a folder that is missing may be a
    /// disk that is not mounted.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    fn refuses(&self, source: io::Error) -> ArchiveError {
        ArchiveError::Folder { folder: self.folder.clone(), source }
    }

    /// Checks that a file can be made in the folder.
    ///
    /// # Errors
    /// When it cannot.
    pub(super) async fn probe(&self) -> Result<(), ArchiveError> {
        let folder = self.folder.clone();
        let probed = tokio::task::spawn_blocking(move || probe(&folder)).await.expect("it does not panic");
        probed.map_err(|source| self.refuses(source))
    }

    /// Writes all rows of a table that nobody changes any more; returns the file. A file that has the same content
    /// already is left as it is, and one with another content is never overwritten.
    ///
    /// # Errors
    /// When the rows cannot be read or the file cannot be written. Then no file is left.
    pub(super) async fn store(&self, connection: &mut PgConnection, table: &str) -> Result<PathBuf, ArchiveError> {
        let (rows, received) = mpsc::channel(ROWS_AHEAD);
        let (folder, name) = (self.folder.clone(), table.to_owned());
        let writing = tokio::task::spawn_blocking(move || write(&folder, &name, received));
        let read = send_rows(connection, table, &rows).await;
        if read.is_ok() {
            // Without this entry the file counts as broken off. If nobody takes it, the writer has failed and says why.
            let _ = rows.send(Entry::End).await;
        }
        drop(rows);
        let written = writing.await.expect("it does not panic");
        read?;
        written.map_err(|source| self.refuses(source))
    }
}

/// Reads a table block by block and sends its rows as JSON. It ends early where nobody takes them.
#[expect(clippy::disallowed_methods, reason = "the name of the table is known only when it runs")]
async fn send_rows(connection: &mut PgConnection, table: &str, rows: &mpsc::Sender<Entry>) -> Result<(), sqlx::Error> {
    let blocks = "SELECT pg_relation_size(format('%I.%I', current_schema(), $1)::regclass)
                         / current_setting('block_size')::bigint";
    let blocks: i64 = sqlx::query_scalar(blocks).bind(table).fetch_one(&mut *connection).await?;
    let mut from = 0;
    while from < blocks {
        let until = from + BLOCKS_AT_ONCE;
        let read = format!(
            "SELECT row_to_json(t)::text FROM ONLY \"{table}\" t WHERE ctid >= '({from},0)' AND ctid < '({until},0)'"
        );
        // Rows arrive one by one, because each may be as large as the largest payload.
        let mut found = sqlx::raw_sql(sqlx::AssertSqlSafe(read)).fetch(&mut *connection);
        while let Some(row) = found.try_next().await? {
            if rows.send(Entry::Row(row.try_get(0)?)).await.is_err() {
                return Ok(());
            }
        }
        drop(found);
        from = until;
    }
    Ok(())
}
