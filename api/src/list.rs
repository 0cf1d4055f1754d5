//! What all lists share: newest first, `limit` and `cursor` in, `data` and `next_cursor` out.

use std::{fmt::Display, str::FromStr};

use poem_openapi::{
    Object,
    types::{ParseFromJSON, ToJSON, Type},
};
use postrider_core::subscription::Page;
use uuid::Uuid;

use crate::problem::ApiError;

/// Items of a page where the caller does not say.
const LIMIT_DEFAULT: u32 = 50;
/// Items of a page, at most.
const LIMIT_MAX: u32 = 250;

/// A page of a list, the newest first.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
pub struct List<T: ParseFromJSON + ToJSON + Type + Send + Sync> {
    /// The items.
    data: Vec<T>,
    /// Send it as `cursor` for the next page; absent on the last.
    next_cursor: Option<String>,
}

/// A page that a caller asked for. One item more than its size is fetched, which tells whether there is a next page.
pub struct Wanted {
    limit: usize,
    page: Page,
}

impl Wanted {
    /// Reads `limit` and `cursor`; a cursor is the id of the last item of the page before.
    ///
    /// # Errors
    /// Unprocessable.
    pub fn parse<I: FromStr>(limit: Option<u32>, cursor: Option<&str>, uuid: fn(I) -> Uuid) -> Result<Self, ApiError> {
        let limit = limit.unwrap_or(LIMIT_DEFAULT);
        if !(1..=LIMIT_MAX).contains(&limit) {
            return Err(ApiError::invalid("limit", format!("must be from 1 to {LIMIT_MAX}")));
        }
        let before = cursor.map(|cursor| cursor.parse().map(uuid)).transpose();
        let before = before.map_err(|_| ApiError::invalid("cursor", "must be a next_cursor of this list"))?;
        Ok(Self { limit: limit as usize, page: Page { before, limit: i64::from(limit) + 1 } })
    }

    /// What to fetch.
    #[must_use]
    pub fn page(&self) -> Page {
        self.page
    }

    /// The answer, from what was fetched.
    pub fn list<S, T: ParseFromJSON + ToJSON + Type + Send + Sync, I: Display>(
        &self,
        mut fetched: Vec<S>,
        id: impl Fn(&S) -> I,
        view: impl Fn(&S) -> T,
    ) -> List<T> {
        let more = fetched.len() > self.limit;
        fetched.truncate(self.limit);
        let next_cursor = fetched.last().filter(|_| more).map(|last| id(last).to_string());
        List { data: fetched.iter().map(view).collect(), next_cursor }
    }
}
