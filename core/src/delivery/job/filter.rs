//! The filter of a job: which deliveries it is about, which rules hold for each action, and how it is stored.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    Error, Result,
    delivery::{
        dead_letter::Resolved,
        job::{Action, Walk},
    },
    event::{event_type::EventTypePatterns, metadata::Metadata},
    id::{EventId, JobId, SubscriptionId},
    queue::{attempt::ErrorKind, observed::LEASE_LOST},
    text_enum::text_enum,
    validation::Problems,
};

/// The word for the cause of a delivery that was never attempted.
pub const NOT_ATTEMPTED: &str = "not_attempted";
/// Status codes that a filter names, at most.
pub const STATUS_CODES_MAX: usize = 100;

text_enum! {
    /// How deliveries stand that a job is about.
    pub enum MatchedStatus {
        /// They wait for their next attempt, and no worker is attempting them.
        Pending = "pending",
        /// Their receivers have accepted them.
        Succeeded = "succeeded",
        /// They were given up, and are on the list of dead letters.
        DeadLetter = "dead_letter",
        /// They were called off.
        Canceled = "canceled",
        /// There is no delivery: the subscription wants the event, but it was accepted before the subscription existed,
        /// or while it was disabled.
        Missed = "missed",
    }
}

impl Action {
    /// The statuses that the action can be about.
    #[must_use]
    pub fn statuses(self) -> &'static [MatchedStatus] {
        use MatchedStatus::{Canceled, DeadLetter, Missed, Pending, Succeeded};
        match self {
            Self::Retry => &[Pending, Succeeded, DeadLetter, Canceled],
            Self::Cancel => &[Pending],
            Self::Replay => &[Succeeded, DeadLetter, Canceled, Missed],
            Self::Resolve | Self::Purge => &[DeadLetter],
        }
    }

    /// The status that the action is about where the filter names none.
    #[must_use]
    pub fn status_default(self) -> MatchedStatus {
        match self {
            Self::Retry | Self::Replay | Self::Resolve | Self::Purge => MatchedStatus::DeadLetter,
            Self::Cancel => MatchedStatus::Pending,
        }
    }
}

/// Checks the word of a cause: one of [`ErrorKind`], `lease_lost`, or [`NOT_ATTEMPTED`].
///
/// # Errors
/// The words that are known.
pub fn cause(word: &str) -> std::result::Result<String, String> {
    let known = || ErrorKind::ALL.map(ErrorKind::as_str).into_iter().chain([LEASE_LOST, NOT_ATTEMPTED]);
    if known().any(|one| one == word) {
        Ok(word.to_owned())
    } else {
        Err(format!("must be one of {}", known().collect::<Vec<_>>().join(", ")))
    }
}

/// Which deliveries a job is about. All conditions have to hold; an absent field and an empty list mean no restriction.
#[derive(Clone, Debug)]
pub struct Filter {
    /// Only deliveries of this tenant.
    pub tenant_id: Option<String>,
    /// Only deliveries to this subscription.
    pub subscription: Option<SubscriptionId>,
    /// Only deliveries of this event.
    pub event: Option<EventId>,
    /// Only deliveries that this job made.
    pub job: Option<JobId>,
    /// Only deliveries that stand so; never empty.
    pub statuses: Vec<MatchedStatus>,
    /// Only deliveries of events whose types match one of these patterns.
    pub event_types: EventTypePatterns,
    /// Only deliveries of events with these entries in their metadata.
    pub metadata: Option<Metadata>,
    /// Only deliveries whose last attempt was answered with one of these statuses.
    pub status_codes: Vec<i16>,
    /// Only deliveries whose last attempt failed for one of these causes, as [`cause`] knows them.
    pub error_kinds: Vec<String>,
    /// Which deliveries are meant by where they go.
    pub destinations: Destinations,
    /// Only deliveries that were stored at this time or later.
    pub since: Option<DateTime<Utc>>,
    /// Only deliveries that were stored before this time.
    pub until: DateTime<Utc>,
    /// Of the dead letters, only those that were given up at this time or later.
    pub dead_since: Option<DateTime<Utc>>,
    /// Of the dead letters, only those that were given up before this time.
    pub dead_until: Option<DateTime<Utc>>,
    /// Of the dead letters, whether those that were marked resolved are included.
    pub resolved: Resolved,
}

/// Which deliveries are meant by where they go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Destinations {
    /// Deliveries to subscriptions and inline deliveries.
    #[default]
    All,
    /// Inline deliveries only.
    Inline,
}

impl Filter {
    /// A filter that every delivery passes that is stored before `until` and stands as the action means it.
    #[must_use]
    pub fn all(action: Action, until: DateTime<Utc>) -> Self {
        Self {
            tenant_id: None,
            subscription: None,
            event: None,
            job: None,
            statuses: vec![action.status_default()],
            event_types: EventTypePatterns::default(),
            metadata: None,
            status_codes: Vec::new(),
            error_kinds: Vec::new(),
            destinations: Destinations::All,
            since: None,
            until,
            dead_since: None,
            dead_until: None,
            resolved: Resolved::Excluded,
        }
    }

    /// Every rule that the filter breaks together with this action; the fields are named as in the API.
    #[must_use]
    pub fn problems(&self, action: Action) -> Problems {
        let mut problems = Problems::default();
        let fits = action.statuses();
        for (place, status) in self.statuses.iter().enumerate() {
            let words: Vec<_> = fits.iter().map(|status| status.as_str()).collect();
            let why = format!("must be one of {} where the action is `{action}`", words.join(", "));
            problems.require(fits.contains(status), &format!("statuses[{place}]"), why);
        }
        problems.require(self.since.is_none_or(|since| since < self.until), "since", "must be before `until`");
        let ends = self.dead_since.zip(self.dead_until);
        problems.require(ends.is_none_or(|(since, until)| since < until), "dead_since", "must be before `dead_until`");
        let is_of_dead = self.dead_since.is_some() || self.dead_until.is_some() || self.resolved == Resolved::Included;
        let knows_dead = action != Action::Replay && self.statuses.contains(&MatchedStatus::DeadLetter);
        let dead = "`dead_since`, `dead_until` and `include_resolved` are for dead letters, and not for replays";
        problems.require(!is_of_dead || knows_dead, "dead_since", dead);
        if action == Action::Replay {
            let why = "must be absent for replays, which are about what was delivered first";
            problems.require(self.job.is_none(), "job_id", why);
            let why = "must be absent for replays; an inline delivery is replayed by itself";
            problems.require(self.destinations == Destinations::All, "inline_only", why);
        }
        if self.statuses.contains(&MatchedStatus::Missed) {
            let why = "is required where `statuses` has `missed`";
            problems.require(self.subscription.is_some(), "subscription_id", why);
            problems.require(self.since.is_some(), "since", why);
            let why = "cannot be combined with `missed`: what was missed has no delivery";
            problems.require(self.event.is_none(), "event_id", why);
            problems.require(self.status_codes.is_empty(), "status_codes", why);
            problems.require(self.error_kinds.is_empty(), "error_kinds", why);
        }
        problems
    }

    /// The rows that a job with this filter reads first.
    pub(crate) fn first_walk(&self, action: Action) -> Walk {
        match self.statuses[..] {
            [MatchedStatus::Missed] => Walk::Events,
            _ if self.event.is_some() => Walk::Event,
            // How a replay's events stand is told by all deliveries of theirs.
            _ if self.job.is_some() || action == Action::Replay => Walk::Deliveries,
            [MatchedStatus::DeadLetter] => Walk::DeadLetters,
            [MatchedStatus::Pending] => Walk::Queue,
            _ => Walk::Deliveries,
        }
    }

    /// The rows that a job with this filter reads after these; `None` where it is at its end.
    pub(crate) fn next_walk(&self, walk: Walk) -> Option<Walk> {
        match walk {
            Walk::Deliveries if self.statuses.contains(&MatchedStatus::Missed) => Some(Walk::Events),
            Walk::Deliveries | Walk::DeadLetters | Walk::Queue | Walk::Event | Walk::Events => None,
        }
    }

    /// The statuses as they are stored.
    pub(crate) fn status_words(&self) -> Vec<String> {
        self.statuses.iter().map(ToString::to_string).collect()
    }
}

/// A filter as it is stored, and as it stands in the audit log.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct StoredFilter {
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscription_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    job_id: Option<String>,
    statuses: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    event_types: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Metadata>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    status_codes: Vec<i16>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    error_kinds: Vec<String>,
    inline_only: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<DateTime<Utc>>,
    until: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dead_since: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dead_until: Option<DateTime<Utc>>,
    include_resolved: bool,
}

impl From<&Filter> for StoredFilter {
    fn from(filter: &Filter) -> Self {
        Self {
            tenant_id: filter.tenant_id.clone(),
            subscription_id: filter.subscription.map(|id| id.to_string()),
            event_id: filter.event.map(|id| id.to_string()),
            job_id: filter.job.map(|id| id.to_string()),
            statuses: filter.status_words(),
            event_types: filter.event_types.to_texts(),
            metadata: filter.metadata.clone(),
            status_codes: filter.status_codes.clone(),
            error_kinds: filter.error_kinds.clone(),
            inline_only: filter.destinations == Destinations::Inline,
            since: filter.since,
            until: filter.until,
            dead_since: filter.dead_since,
            dead_until: filter.dead_until,
            include_resolved: filter.resolved == Resolved::Included,
        }
    }
}

impl TryFrom<StoredFilter> for Filter {
    type Error = Error;

    fn try_from(stored: StoredFilter) -> Result<Self> {
        let statuses = stored.statuses.iter().map(|word| word.parse().map_err(|why: String| Error::internal(why)));
        Ok(Self {
            tenant_id: stored.tenant_id,
            subscription: parsed(stored.subscription_id)?,
            event: parsed(stored.event_id)?,
            job: parsed(stored.job_id)?,
            statuses: statuses.collect::<Result<_>>()?,
            event_types: EventTypePatterns::from_stored(&stored.event_types)?,
            metadata: stored.metadata,
            status_codes: stored.status_codes,
            error_kinds: stored.error_kinds,
            destinations: if stored.inline_only { Destinations::Inline } else { Destinations::All },
            since: stored.since,
            until: stored.until,
            dead_since: stored.dead_since,
            dead_until: stored.dead_until,
            resolved: if stored.include_resolved { Resolved::Included } else { Resolved::Excluded },
        })
    }
}

/// An id that was valid when it was stored.
fn parsed<I: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>>(
    text: Option<String>,
) -> Result<Option<I>> {
    text.map(|text| text.parse()).transpose().map_err(Error::internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(action: Action) -> Filter {
        Filter::all(action, DateTime::UNIX_EPOCH)
    }

    #[test]
    fn rows_are_read_where_the_deliveries_are_found_soonest() {
        use MatchedStatus::{Canceled, DeadLetter, Missed, Pending};
        for (action, statuses, walk, next) in [
            (Action::Retry, vec![DeadLetter], Walk::DeadLetters, None),
            (Action::Retry, vec![Pending], Walk::Queue, None),
            (Action::Retry, vec![DeadLetter, Canceled], Walk::Deliveries, None),
            (Action::Replay, vec![DeadLetter], Walk::Deliveries, None),
            (Action::Replay, vec![DeadLetter, Missed], Walk::Deliveries, Some(Walk::Events)),
            (Action::Replay, vec![Missed], Walk::Events, None),
        ] {
            let filter = Filter { statuses, ..filter(action) };
            let first = filter.first_walk(action);
            assert_eq!((first, filter.next_walk(first)), (walk, next), "{action} {:?}", filter.statuses);
        }
    }

    #[test]
    fn rules_of_actions() {
        for action in Action::ALL {
            let mut problems = filter(action).problems(action);
            assert_eq!(problems.0, [], "{action}");
            problems = Filter { statuses: vec![MatchedStatus::Missed], ..filter(action) }.problems(action);
            assert!(!problems.0.is_empty(), "{action}");
        }
        let dead = Filter { dead_until: Some(DateTime::UNIX_EPOCH), ..filter(Action::Purge) };
        assert_eq!(dead.problems(Action::Purge).0, []);
        assert_eq!(dead.problems(Action::Replay).0[0].field, "dead_since");
    }

    #[test]
    fn what_is_stored_comes_back() {
        let first = Filter {
            tenant_id: Some("acme".to_owned()),
            subscription: Some(SubscriptionId::new()),
            error_kinds: vec![cause("timeout").expect("known")],
            destinations: Destinations::Inline,
            since: Some(DateTime::UNIX_EPOCH),
            ..filter(Action::Purge)
        };
        let text = serde_json::to_string(&StoredFilter::from(&first)).expect("it is JSON");
        let stored: StoredFilter = serde_json::from_str(&text).expect("it is JSON");
        let again = Filter::try_from(stored).expect("valid");
        assert_eq!(format!("{again:?}"), format!("{first:?}"));
        assert!(cause("lease_lost").is_ok() && cause("nonsense").is_err());
    }
}
