//! Paging, which all lists share: the newest rows first, one page at a time, each from a bounded number of rows.

use chrono::{DateTime, Utc};
use uuid::Uuid;

/// Rows that are read for one page, at most. A filter that few rows pass gives short pages with a cursor, not slow
/// ones.
pub const EXAMINED_MAX: i64 = 10_000;

/// The place and size of a page in a list that shows the newest rows first.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Only rows older than the one with this id; `None` for the first page.
    pub before: Option<Uuid>,
    /// Rows of the page, at most.
    pub limit: i64,
}

impl Page {
    /// Splits the rows into the page's items and the row where the scan stopped, which is ignored where the page is
    /// full.
    pub(crate) fn split(self, rows: impl Iterator<Item = (Uuid, bool)>) -> (Vec<Uuid>, Option<Uuid>) {
        let (marks, ids): (Vec<_>, Vec<_>) = rows.partition(|(_, is_mark)| *is_mark);
        let full = i64::try_from(ids.len()).is_ok_and(|count| count >= self.limit);
        let examined_to = marks.first().map(|(id, _)| *id).filter(|_| !full);
        (ids.into_iter().map(|(id, _)| id).collect(), examined_to)
    }
}

/// A span of time by which a list is filtered; an absent end is open.
#[derive(Clone, Copy, Debug, Default)]
pub struct Span {
    /// Only rows from this time or later.
    pub since: Option<DateTime<Utc>>,
    /// Only rows from before this time.
    pub until: Option<DateTime<Utc>>,
}

/// The rows that were found for a page.
#[derive(Clone, Debug)]
pub struct Found<T> {
    /// The page's items; one more than were asked for where the list goes on.
    pub items: Vec<T>,
    /// The last row that was read, where the scan stopped at its bound and unread rows are left.
    pub examined_to: Option<Uuid>,
}

impl Span {
    /// Bounds of the ids in this span: the first id in it, and the first id after it. The first 48 bits of an id are
    /// its time.
    #[must_use]
    pub fn ids(&self) -> (Option<Uuid>, Option<Uuid>) {
        (self.since.map(id_floor), self.until.map(id_floor))
    }
}

/// The smallest id that was made in that millisecond or later.
#[must_use]
pub fn id_floor(moment: DateTime<Utc>) -> Uuid {
    let millis = u128::from(moment.timestamp_millis().clamp(0, (1 << 48) - 1).unsigned_abs());
    // A moment within a millisecond is rounded down: one more row is better than one less.
    Uuid::from_u128(millis << 80)
}
