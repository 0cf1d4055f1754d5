//! Counts what a job would be about, before it is begun. A count looks as a job does and changes nothing; it is bounded
//! in rows and in time, and says so where it has reached a bound.

use std::time::{Duration, Instant};

use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    Error, Result,
    delivery::job::{
        Action,
        filter::{Filter, MatchedStatus},
        look::{Bounds, look},
    },
    page::id_floor,
    subscription::store::interest,
};

/// Rows that a count reads, at most.
pub const COUNTED_ROWS_MAX: usize = 100_000;
/// How long a count begins further looks.
const COUNT_TIME_MAX: Duration = Duration::from_millis(1500);
/// Rows that one look of a count reads, at most.
const ROWS_PER_LOOK: u16 = 2000;

/// How many deliveries match a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// Deliveries that match among those that were read.
    pub count: usize,
    /// Whether everything was read; if not, there are at least `count`.
    pub completeness: Completeness,
}

/// Whether a count has read everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completeness {
    /// It has.
    Exact,
    /// It has reached a bound, so there may be more.
    AtLeast,
}

/// Counts what a job with this action and filter would be about now. The filter must break no rule of
/// [`Filter::problems`].
///
/// # Errors
/// Unavailable where not even the first rows could be read in time.
pub async fn count(pool: &PgPool, action: Action, filter: &Filter) -> Result<Count> {
    let started = Instant::now();
    let mut connection = pool.acquire().await?;
    let needs_interest = filter.statuses.contains(&MatchedStatus::Missed);
    let interest = match filter.subscription.filter(|_| needs_interest) {
        Some(id) => interest(&mut connection, id).await?,
        None => None,
    };
    let exactly = |count| Count { count, completeness: Completeness::Exact };
    if needs_interest && interest.is_none() {
        return Ok(exactly(0));
    }
    let beginning = filter.since.map_or(Uuid::nil(), id_floor);
    let bounds = Bounds { rows: ROWS_PER_LOOK, chosen: usize::MAX };
    let (mut walk, mut after) = (filter.first_walk(action), beginning);
    let (mut count, mut examined) = (0, 0);
    loop {
        match look(&mut connection, action, filter, interest.as_ref(), (walk, after), bounds).await {
            Ok(looked) => {
                count += looked.chosen.len();
                examined += looked.examined;
                match (looked.at_end, filter.next_walk(walk)) {
                    (true, None) => return Ok(exactly(count)),
                    (true, Some(next)) => (walk, after) = (next, beginning),
                    (false, _) => after = looked.position.unwrap_or(after),
                }
            }
            // What was counted before is worth more than an error.
            Err(Error::Unavailable(_)) if examined > 0 => break,
            Err(error) => return Err(error),
        }
        if examined >= COUNTED_ROWS_MAX || started.elapsed() >= COUNT_TIME_MAX {
            break;
        }
    }
    Ok(Count { count, completeness: Completeness::AtLeast })
}
