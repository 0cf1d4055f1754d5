//! What all lists share: they show the newest first, take `limit` and `cursor`, and answer `data` and `next_cursor`.

use std::{collections::BTreeMap, fmt::Display, str::FromStr};

use chrono::{DateTime, Utc};
use poem_openapi::{
    Object,
    types::{ParseFromJSON, ToJSON, Type},
};
use postrider_core::{
    delivery::{job::filter::Destinations, list::Origins},
    event::{Deliveries, idempotency::KEY_CHARACTERS_MAX, metadata::Metadata},
    page::{Found, Page, Span},
    validation::{moment, text},
};
use uuid::Uuid;

use crate::serve::problem::ApiError;

/// A page has this many items where the caller does not say.
const LIMIT_DEFAULT: u32 = 50;
/// A page has at most this many items.
const LIMIT_MAX: u32 = 250;
/// A list of slow deliveries can ask for at most this many milliseconds: a day, longer than any attempt may take.
const SLOWER_THAN_MS_MAX: u32 = 24 * 3600 * 1000;
/// A list of deliveries that were attempted often can ask for at most so many attempts.
const MIN_ATTEMPTS_MAX: u32 = 1_000_000;

/// A page of a list, the newest first.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
pub struct List<T: ParseFromJSON + ToJSON + Type + Send + Sync> {
    /// The items of the page.
    data: Vec<T>,
    /// Send it as `cursor` to get the next page. It is absent on the last page.
    next_cursor: Option<String>,
}

impl<T: ParseFromJSON + ToJSON + Type + Send + Sync> List<T> {
    /// The items of the page.
    #[must_use]
    pub fn items(&self) -> &[T] {
        &self.data
    }

    /// Puts something else into the place of each item.
    pub fn change(&mut self, change: impl FnMut(T) -> T) {
        self.data = std::mem::take(&mut self.data).into_iter().map(change).collect();
    }
}

/// The page that a caller asked for. One item more than its limit is fetched: if there is one, there is a next page.
pub struct Wanted {
    limit: usize,
    page: Page,
}

impl Wanted {
    /// Reads `limit` and `cursor`. A cursor is the id of the last item of the page before.
    ///
    /// # Errors
    /// Unprocessable where `limit` is out of its range, or `cursor` is not an id of this list.
    pub fn parse<I: FromStr>(limit: Option<u32>, cursor: Option<&str>, uuid: fn(I) -> Uuid) -> Result<Self, ApiError> {
        let limit = limit_of(limit)?;
        let before = cursor.map(|cursor| cursor.parse().map(uuid)).transpose();
        let before = before.map_err(|_| ApiError::invalid("cursor", "must be a next_cursor of this list"))?;
        Ok(Self { limit: limit as usize, page: Page { before, limit: i64::from(limit) + 1 } })
    }

    /// What the core has to fetch: the items before the cursor, and one more than the limit.
    #[must_use]
    pub fn page(&self) -> Page {
        self.page
    }

    /// The answer, made of all the items that were fetched.
    pub fn list<S, T: ParseFromJSON + ToJSON + Type + Send + Sync, I: Display>(
        &self,
        fetched: Vec<S>,
        id: impl Fn(&S) -> I,
        view: impl Fn(&S) -> T,
    ) -> List<T> {
        self.found(Found { items: fetched, examined_to: None }, id, |_| String::new(), view)
    }

    /// The answer, made of a scan that examined a bounded number of rows. Where the scan stopped early, the page may be
    /// short and still has a `next_cursor`, which is where the scan stopped.
    pub fn found<S, T: ParseFromJSON + ToJSON + Type + Send + Sync, I: Display>(
        &self,
        found: Found<S>,
        id: impl Fn(&S) -> I,
        cursor: impl Fn(Uuid) -> String,
        view: impl Fn(&S) -> T,
    ) -> List<T> {
        let mut items = found.items;
        let more = items.len() > self.limit;
        items.truncate(self.limit);
        let last = items.last().filter(|_| more).map(|last| id(last).to_string());
        let next_cursor = last.or_else(|| found.examined_to.map(cursor));
        List { data: items.iter().map(view).collect(), next_cursor }
    }
}

/// How many items a page has.
///
/// # Errors
/// Unprocessable where the number is out of its range.
pub fn limit_of(asked: Option<u32>) -> Result<u32, ApiError> {
    let limit = asked.unwrap_or(LIMIT_DEFAULT);
    if (1..=LIMIT_MAX).contains(&limit) {
        Ok(limit)
    } else {
        Err(ApiError::invalid("limit", format!("must be from 1 to {LIMIT_MAX}")))
    }
}

/// The `slower_than_ms` of a list of deliveries.
///
/// # Errors
/// Unprocessable where the number is out of its range.
pub fn slower_than(asked: Option<u32>) -> Result<Option<i32>, ApiError> {
    at_most("slower_than_ms", asked, SLOWER_THAN_MS_MAX)
}

/// The `min_attempts` of a list of deliveries.
///
/// # Errors
/// Unprocessable where the number is out of its range.
pub fn min_attempts(asked: Option<u32>) -> Result<Option<i32>, ApiError> {
    at_most("min_attempts", asked, MIN_ATTEMPTS_MAX)
}

/// The `inline_only` of a list of deliveries.
#[must_use]
pub fn destinations(inline_only: Option<bool>) -> Destinations {
    if inline_only == Some(true) { Destinations::Inline } else { Destinations::All }
}

/// The `replays_only` of a list of deliveries.
#[must_use]
pub fn origins(replays_only: Option<bool>) -> Origins {
    if replays_only == Some(true) { Origins::Replays } else { Origins::All }
}

/// The `without_deliveries` of a list of events.
#[must_use]
pub fn deliveries(without: Option<bool>) -> Deliveries {
    if without == Some(true) { Deliveries::None } else { Deliveries::Any }
}

/// The `external_id` of a list of events.
///
/// # Errors
/// Unprocessable where no event can have such an id.
pub fn external_id(id: Option<String>) -> Result<Option<String>, ApiError> {
    if let Some(id) = &id {
        text(id, KEY_CHARACTERS_MAX).map_err(|why| ApiError::invalid("external_id", why))?;
    }
    Ok(id)
}

/// A number from 1 to `max`.
fn at_most(field: &str, asked: Option<u32>, max: u32) -> Result<Option<i32>, ApiError> {
    let in_range = |number| (1..=max).contains(&number).then(|| i32::try_from(number).ok()).flatten();
    let wrong = || ApiError::invalid(field, format!("must be from 1 to {max}"));
    asked.map(|number| in_range(number).ok_or_else(wrong)).transpose()
}

/// The `since` and `until` of a list, as a span of time.
///
/// # Errors
/// Unprocessable where a time is out of range, or the span ends before it begins.
pub fn span(since: Option<DateTime<Utc>>, until: Option<DateTime<Utc>>) -> Result<Span, ApiError> {
    for (field, time) in [("since", since), ("until", until)] {
        time.map_or(Ok(()), moment).map_err(|why| ApiError::invalid(field, why))?;
    }
    if since.zip(until).is_some_and(|(since, until)| until < since) {
        return Err(ApiError::invalid("until", "must not be before `since`"));
    }
    Ok(Span { since, until })
}

/// The `metadata` filter of a list, made of entries such as `region:eu`. An item must have all of them.
///
/// # Errors
/// Unprocessable where an entry is not `key:value`, or a key stands there twice.
pub fn metadata(entries: Vec<String>) -> Result<Option<Metadata>, ApiError> {
    let entry = |entry: &String| entry.split_once(':').map(|(key, value)| (key.to_owned(), value.to_owned()));
    let parsed: Option<BTreeMap<_, _>> = entries.iter().map(entry).collect();
    let parsed = parsed.filter(|parsed| parsed.len() == entries.len());
    let parsed = parsed.ok_or_else(|| ApiError::invalid("metadata", "must be `key:value`, each key once"))?;
    let parsed = Metadata::parse(parsed).map_err(|why| ApiError::invalid("metadata", why))?;
    Ok(Some(parsed).filter(|entries| !entries.is_empty()))
}

/// Parses a filter of a list; `None` where it is absent.
///
/// # Errors
/// Unprocessable where the text is not a word of this filter.
pub fn parsed<T: FromStr<Err: Display>>(field: &str, text: Option<&str>) -> Result<Option<T>, ApiError> {
    text.map(str::parse).transpose().map_err(|why: T::Err| ApiError::invalid(field, why.to_string()))
}
