//! What all lists share: the newest first, a page at a time, each page by a bounded look.

use chrono::{DateTime, Utc};
use uuid::Uuid;

/// Rows that a page looks at, at most. A filter that few rows pass gives short pages with a cursor, not slow ones.
pub const EXAMINED_MAX: i64 = 10_000;

/// A page's place and size in a list that shows the newest first.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Only what is older than this id.
    pub before: Option<Uuid>,
    /// Rows, at most.
    pub limit: i64,
}

impl Page {
    /// Tells the items of a page from the mark where the look ended, which counts only where the page is not full.
    pub(crate) fn split(self, rows: impl Iterator<Item = (Uuid, bool)>) -> (Vec<Uuid>, Option<Uuid>) {
        let (marks, ids): (Vec<_>, Vec<_>) = rows.partition(|(_, is_mark)| *is_mark);
        let full = i64::try_from(ids.len()).is_ok_and(|count| count >= self.limit);
        let examined_to = marks.first().map(|(id, _)| *id).filter(|_| !full);
        (ids.into_iter().map(|(id, _)| id).collect(), examined_to)
    }
}

/// A span of time, as a list filters by it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Span {
    /// At this time or later.
    pub since: Option<DateTime<Utc>>,
    /// Before this time.
    pub until: Option<DateTime<Utc>>,
}

/// A page that was found.
#[derive(Clone, Debug)]
pub struct Found<T> {
    /// Its items, one more than were asked for where there are more.
    pub items: Vec<T>,
    /// Where the look ended early, with rows left that nobody has looked at: the last one looked at.
    pub examined_to: Option<Uuid>,
}

impl Span {
    /// The ids of that time: the first, and the first behind the last. An id's time is its first 48 bits.
    #[must_use]
    pub fn ids(&self) -> (Option<Uuid>, Option<Uuid>) {
        (self.since.map(id_floor), self.until.map(id_floor))
    }
}

/// The smallest id of that millisecond or later.
#[must_use]
pub fn id_floor(moment: DateTime<Utc>) -> Uuid {
    let millis = u128::from(moment.timestamp_millis().clamp(0, (1 << 48) - 1).unsigned_abs());
    // A moment within a millisecond begins at that millisecond: one more row is better than one less.
    Uuid::from_u128(millis << 80)
}
