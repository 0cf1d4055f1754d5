//! Lists on pages: which page of a list is asked for, the rows of it, and the links to the next ones. They read what
//! the lists of the API read.

use chrono::{DateTime, Utc};
use maud::{Markup, html};
use postrider_core::page::{Found, Page as Window};
use uuid::Uuid;

use crate::{
    serve::problem::ApiError,
    ui::{
        fields::{CURSOR, EARLIER, NEWEST},
        page::Visit,
        parts,
    },
};

/// Rows of a page.
const ROWS: usize = 50;
/// Pages that a page knows the way back to, at most: those before it whose cursors its address has.
const EARLIER_MAX: usize = 20;
/// What stands for the cursor of the first page, which has none.
const FIRST: &str = "first";
/// Rows that a scan examines for a page before it stops, as the core does it.
const EXAMINED: i64 = postrider_core::page::EXAMINED_MAX;

/// The part of a list that a page shows.
pub(crate) struct Rows<T> {
    pub(crate) items: Vec<T>,
    /// The id behind which the list goes on; `None` at its end.
    next: Option<Uuid>,
    /// Where the scan stopped, where it did before the page was full.
    examined_to: Option<Uuid>,
}

/// The window of a list that the address of this page asks for.
pub(crate) fn window<I: std::str::FromStr>(visit: &Visit, uuid: fn(I) -> Uuid) -> Result<Window, ApiError> {
    let before = visit.query.get(CURSOR).map(|cursor| cursor.parse().map(uuid)).transpose();
    let before = before.map_err(|_| ApiError::invalid("cursor", "is no place in this list"))?;
    Ok(Window { before, limit: i64::try_from(ROWS).unwrap_or(i64::MAX) + 1 })
}

/// A window of the first few rows.
pub(crate) fn first(rows: i64) -> Window {
    Window { before: None, limit: rows }
}

impl<T> Rows<T> {
    /// The rows that were found for a window.
    pub(crate) fn of(found: Found<T>, id: impl Fn(&T) -> Uuid) -> Self {
        let mut items = found.items;
        let is_more = items.len() > ROWS;
        items.truncate(ROWS);
        let next = items.last().map(id).filter(|_| is_more);
        Self { items, next, examined_to: found.examined_to.filter(|_| !is_more) }
    }

    /// The rows of a list that has no bound on what it examines.
    pub(crate) fn whole(items: Vec<T>, id: impl Fn(&T) -> Uuid) -> Self {
        Self::of(Found { items, examined_to: None }, id)
    }

    /// Whether nothing was found, and nothing is left to look at.
    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty() && self.examined_to.is_none()
    }

    /// A line above the first page of a list, which looks from time to time how many rows are newer than those that are
    /// shown. New rows do not move the list: one asks for them. `prefix` is that of the list's ids.
    pub(crate) fn newer(&self, visit: &Visit, prefix: &str, id: impl Fn(&T) -> Uuid) -> Markup {
        let Some(first) = self.items.first().filter(|_| visit.query.get(CURSOR).is_none()) else { return html! {} };
        let asked = visit.query.get(NEWEST);
        let newest = asked.map_or_else(|| cursor(prefix, id(first)), str::to_owned);
        let newer = self.items.iter().filter(|item| cursor(prefix, id(item)) > newest).count();
        let shown = visit.query.with(NEWEST, None);
        html! {
            div #newer hx-get=(visit.with_query(&shown.with(NEWEST, Some(&newest)))) hx-trigger="every 10s"
                hx-select="#newer" hx-swap="outerMorph" {
                @if newer > 0 {
                    a.button href=(visit.with_query(&shown)) {
                        (newer) @if newer >= ROWS { "+" } " newer: show"
                    }
                }
            }
        }
    }

    /// What stands below the rows: how far the scan came, and the links to other pages. `prefix` is that of the list's
    /// ids, `noun` what is listed.
    pub(crate) fn foot(&self, visit: &Visit, prefix: &str, noun: &str) -> Markup {
        html! {
            @if let Some(id) = self.examined_to {
                div.looked data-examined=(EXAMINED) data-noun=(noun) {
                    p {
                        "Looked at " (parts::count(EXAMINED)) " " (noun)
                        @if let Some(at) = moment(id) { ", back to " (parts::clock(visit, at)) }
                        "; " (self.items.len()) " of them match."
                    }
                    a.button href=(further(visit, &cursor(prefix, id))) { "Look further" }
                }
            }
            (paging(visit, self.next.map(|id| cursor(prefix, id)).as_deref(), &BY_AGE))
        }
    }
}

/// What the links to other pages of a list are called: to the first page, the one before and the next one.
pub(crate) struct Words {
    pub(crate) first: &'static str,
    pub(crate) before: &'static str,
    pub(crate) next: &'static str,
}

/// The words where the newest rows come first.
const BY_AGE: Words = Words { first: "Newest", before: "Newer", next: "Older" };
/// The words where rows stand in the order of their names.
pub(crate) const BY_NAME: Words = Words { first: "First", before: "Previous", next: "Next" };

/// The links to other pages of a list; none where it has one page. `next` is the cursor of the next one.
pub(crate) fn paging(visit: &Visit, next: Option<&str>, words: &Words) -> Markup {
    let query = &visit.query;
    let is_first = query.get(CURSOR).is_none();
    html! {
        @if !is_first || next.is_some() {
            nav.paging aria-label="Pages of this list" {
                div {
                    @if !is_first {
                        a.button href=(visit.with_query(&query.with(CURSOR, None))) { (words.first) }
                    }
                    @if let Some(before) = before(visit) {
                        a.button rel="prev" href=(before) { (visit.icon("chevron-left")) (words.before) }
                    }
                }
                @if let Some(next) = next {
                    a.button rel="next" href=(further(visit, next)) { (words.next) (visit.icon("chevron-right")) }
                }
            }
        }
    }
}

/// The link to the page behind this one. Its address has the cursors of the pages that lead there, so that it knows the
/// way back.
fn further(visit: &Visit, next: &str) -> String {
    let here = visit.query.get(CURSOR).unwrap_or(FIRST);
    let earlier: Vec<_> = visit.query.all(EARLIER).chain([here]).collect();
    let kept = &earlier[earlier.len().saturating_sub(EARLIER_MAX)..];
    visit.with_query(&visit.query.with(CURSOR, Some(next)).with_all(EARLIER, kept))
}

/// The link to the page before this one; `None` where its address does not say how one came here.
fn before(visit: &Visit) -> Option<String> {
    let mut earlier: Vec<_> = visit.query.all(EARLIER).collect();
    let last = earlier.pop()?;
    let fields = visit.query.with(CURSOR, Some(last).filter(|last| *last != FIRST));
    Some(visit.with_query(&fields.with_all(EARLIER, &earlier)))
}

fn cursor(prefix: &str, id: Uuid) -> String {
    format!("{prefix}{}", id.simple())
}

/// The time that is in an id.
fn moment(id: Uuid) -> Option<DateTime<Utc>> {
    let millis = i64::try_from(id.as_u128() >> 80).ok()?;
    DateTime::from_timestamp_millis(millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_page_goes_on_and_a_short_one_ends_or_says_where_it_stopped() {
        let of = |count: usize, examined_to| {
            let items = (0..count).map(|number| Uuid::from_u128(number as u128)).collect();
            let rows = Rows::of(Found { items, examined_to }, |id| *id);
            (rows.items.len(), rows.next.map(|id| id.as_u128()), rows.examined_to.is_some())
        };
        let mark = Some(Uuid::max());
        assert_eq!(of(ROWS + 1, None), (ROWS, Some(ROWS as u128 - 1), false));
        assert_eq!(of(ROWS, None), (ROWS, None, false));
        assert_eq!(of(3, mark), (3, None, true));
        assert_eq!(of(0, None), (0, None, false));
        assert_eq!(moment(Uuid::from_u128(1_700_000_000_000 << 80)).map(|at| at.timestamp()), Some(1_700_000_000));
    }
}
