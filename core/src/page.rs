//! Paging, which all lists share: the newest rows first, one page at a time, each from a bounded number of rows.

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::id::time_of;

/// Rows that are read for one page, at most. A filter that few rows pass gives short pages with a cursor, not slow
/// ones.
pub const EXAMINED_MAX: i64 = 10_000;

/// Most pages are full of rows from this span of time before their end.
const NEWEST: TimeDelta = TimeDelta::days(1);

/// The place and size of a page in a list that shows the newest rows first.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Only rows older than the one with this id; `None` for the first page.
    pub before: Option<Uuid>,
    /// Rows of the page, at most.
    pub limit: i64,
}

/// Ids from one on, up to another but without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) first: Uuid,
    pub(crate) end: Uuid,
}

impl Page {
    /// The ids among which the page's rows are.
    pub(crate) fn range(self, span: Span) -> Range {
        let (first, end) = span.ids();
        let end = end.unwrap_or(Uuid::max());
        Range { first: first.unwrap_or(Uuid::nil()), end: self.before.map_or(end, |before| before.min(end)) }
    }

    /// The same ids in two parts, to be looked at one after the other: those of the last day, and all older ones. So
    /// most pages come from one or two partitions, and the others are not even opened. That takes a hundred times as
    /// long as reading the rows.
    #[expect(clippy::disallowed_methods, reason = "it decides only how much is looked at first")]
    pub(crate) fn ranges(self, span: Span) -> impl Iterator<Item = Range> {
        self.ranges_at(span, Utc::now())
    }

    fn ranges_at(self, span: Span, now: DateTime<Utc>) -> impl Iterator<Item = Range> {
        let whole = self.range(span);
        let last = DateTime::from_timestamp_millis(time_of(whole.end)).map_or(now, |end| end.min(now));
        let middle = id_floor(last - NEWEST).clamp(whole.first, whole.end.max(whole.first));
        let parts = [Range { first: middle, ..whole }, Range { end: middle, ..whole }];
        parts.into_iter().filter(|part| part.first < part.end)
    }

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

/// The smallest and the largest of these ids. Beside a list of ids, such bounds leave out partitions before any is
/// opened.
pub(crate) fn bounds(ids: impl IntoIterator<Item = Uuid> + Clone) -> (Uuid, Uuid) {
    let (least, greatest) = (ids.clone().into_iter().min(), ids.into_iter().max());
    (least.unwrap_or(Uuid::nil()), greatest.unwrap_or(Uuid::nil()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ranges_of_a_page_hold_every_id_of_it_once() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).expect("in range");
        let day = |day: i64| now - TimeDelta::days(day);
        let spans = [None, Some(day(40)), Some(day(20)), Some(day(0)), Some(day(-9))];
        for before in [None, Some(id_floor(day(30))), Some(id_floor(day(0))), Some(Uuid::nil())] {
            for (since, until) in spans.iter().flat_map(|since| spans.iter().map(move |until| (*since, *until))) {
                let (page, span) = (Page { before, limit: 50 }, Span { since, until });
                let whole = page.range(span);
                let parts: Vec<_> = page.ranges_at(span, now).collect();
                assert!(parts.iter().all(|part| part.first < part.end), "{parts:?}");
                let Some(newest) = parts.first() else {
                    assert!(whole.first >= whole.end, "{whole:?} has no parts");
                    continue;
                };
                assert_eq!(newest.end, whole.end);
                assert_eq!(parts.last().map(|part| part.first), Some(whole.first));
                assert!(parts.is_sorted_by(|newer, older| newer.first == older.end), "{parts:?}");
            }
        }
        let first = Page { before: None, limit: 50 }.ranges_at(Span::default(), now).next().expect("a part");
        assert!(first.first > id_floor(day(2)) && first.first < id_floor(day(0)), "a first page begins with a day");
    }
}
