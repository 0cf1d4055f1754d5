//! Jobs as JSON: what a request asks for, and how a job stands.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use poem_openapi::{Enum, Object, types::Example};
use postrider_core::{
    access::tenancy::check_tenant,
    delivery::{
        dead_letter::Resolved,
        job::{
            Action, Job, NewJob, RATE_MAX, State,
            filter::{Destinations, Filter, MatchedStatus, STATUS_CODES_MAX, cause},
        },
    },
    event::{event_type::EventTypePatterns, metadata::Metadata},
    validation::{Problems, moment},
};
use serde::Deserialize;
use sqlx::PgPool;

use crate::{
    access::Access,
    serve::{
        body::{Input, object},
        problem::ApiError,
    },
};

/// Which deliveries a job is about. All conditions have to hold, and an absent field or an empty list restricts
/// nothing. `{}` means all deliveries that the key reaches and that stand as the action means it.
#[derive(Clone, Debug, Default, Deserialize, Object)]
#[serde(default, deny_unknown_fields)]
#[oai(deny_unknown_fields, skip_serializing_if_is_none)]
pub struct JobFilter {
    /// Only deliveries of this tenant, such as `acme`. A key that is bound to a tenant reaches only that one.
    pub(crate) tenant_id: Option<String>,
    /// Only deliveries to this subscription, such as `sub_0198c0de2f3a7b1c9d4e5f60718293a4`.
    pub(crate) subscription_id: Option<String>,
    /// Only deliveries of this event, such as `evt_0198c0de2f3a7b1c9d4e5f60718293a4`.
    pub(crate) event_id: Option<String>,
    /// Only deliveries that this job has made, such as `job_0198c0de2f3a7b1c9d4e5f60718293a4`; not for replays.
    pub(crate) job_id: Option<String>,
    /// How the deliveries stand. `retry` takes `pending`, `succeeded`, `dead_letter` and `canceled`; `cancel` takes
    /// `pending`; `replay` takes `succeeded`, `dead_letter`, `canceled`, and `missed` for events that the subscription
    /// wants now and has no delivery of; `resolve` and `purge` take `dead_letter`. `["pending"]` for `cancel`, and
    /// `["dead_letter"]` for all others, where the list is empty or absent.
    #[oai(default)]
    pub(crate) statuses: Vec<String>,
    /// Patterns of event types, such as `order.*`; at most 100. Only deliveries of events of these types.
    #[oai(default)]
    pub(crate) event_types: Vec<String>,
    /// Only deliveries of events that have all these entries in their metadata, such as `{"region": "eu"}`.
    #[oai(default, skip_serializing_if_is_empty)]
    pub(crate) metadata: BTreeMap<String, String>,
    /// Only deliveries whose last attempt was answered with one of these statuses, such as 503; at most 100.
    #[oai(default)]
    pub(crate) status_codes: Vec<u16>,
    /// Only deliveries whose last attempt failed for one of these causes: an `error_kind` of the log of attempts, such
    /// as `timeout`, or `not_attempted` where no attempt was made.
    #[oai(default)]
    pub(crate) error_kinds: Vec<String>,
    /// Whether only inline deliveries are meant, which go to a URL instead of a subscription; false where absent. Not
    /// for replays.
    pub(crate) inline_only: Option<bool>,
    /// Only deliveries that came to be at this time or later, such as `2026-01-31T09:00:00Z` (RFC 3339). It is required
    /// for `missed`.
    pub(crate) since: Option<DateTime<Utc>>,
    /// Only deliveries that came to be before this time; now where absent (RFC 3339).
    pub(crate) until: Option<DateTime<Utc>>,
    /// Only dead letters that were given up at this time or later (RFC 3339). Not for replays.
    pub(crate) dead_since: Option<DateTime<Utc>>,
    /// Only dead letters that were given up before this time (RFC 3339). Not for replays.
    pub(crate) dead_until: Option<DateTime<Utc>>,
    /// Whether dead letters that are marked resolved are meant, too; false where absent. Not for replays.
    pub(crate) include_resolved: Option<bool>,
}

/// What a job should do, with which deliveries.
#[derive(Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub struct JobInput {
    /// What is done with each delivery. `retry` makes a pending one due now, and gives a finished one a fresh round of
    /// attempts; `cancel` calls a pending one off; `replay` delivers its event again, as a new delivery; `resolve`
    /// marks a dead letter resolved; `purge` takes it off the list.
    pub(crate) action: String,
    /// Which deliveries are meant.
    #[serde(deserialize_with = "object")]
    pub(crate) filter: JobFilter,
    /// With how many deliveries a second it is done, 1 to 1000. Where absent, 100 for `retry` and `replay`, and no
    /// bound for the others, which send nothing.
    pub(crate) rate_per_second: Option<u32>,
}

impl Input for JobInput {}

/// What of a running job can be changed.
#[derive(Debug, Default, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields, example)]
pub struct JobPatch {
    /// With how many deliveries a second it is done from now on, 1 to 1000. `null` means what holds for a new job
    /// without a rate: 100 for `retry` and `replay`, and no bound for the others.
    pub(crate) rate_per_second: Option<u32>,
}

impl Example for JobPatch {
    fn example() -> Self {
        Self { rate_per_second: Some(50) }
    }
}

impl JobPatch {
    /// Checks the rate.
    ///
    /// # Errors
    /// Unprocessable where it is out of its range.
    pub(crate) fn rate(&self) -> Result<Option<u32>, ApiError> {
        if self.rate_per_second.is_none_or(is_rate) {
            Ok(self.rate_per_second)
        } else {
            Err(ApiError::invalid("rate_per_second", format!("must be from 1 to {RATE_MAX}")))
        }
    }
}

fn is_rate(rate: u32) -> bool {
    (1..=RATE_MAX).contains(&rate)
}

/// What a job does with each delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case")]
pub enum JobAction {
    /// A pending one is due now, a finished one gets a fresh round of attempts.
    Retry,
    /// A pending one is called off.
    Cancel,
    /// Its event is delivered again, as a new delivery.
    Replay,
    /// A dead letter is marked resolved.
    Resolve,
    /// A dead letter is taken off the list.
    Purge,
}

/// How far a job has come: `running` goes on; `completed` has looked at everything; `canceled` was stopped by somebody,
/// or by the deletion or disabling of the subscription to which it replays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case", remote = "State")]
pub enum JobState {
    /// It goes on.
    Running,
    /// Everything has been looked at.
    Completed,
    /// Somebody has stopped it, or the subscription to which it replays was deleted or disabled.
    Canceled,
}

/// Something that is done with all deliveries that match a filter.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none, rename = "Job")]
pub struct JobView {
    /// The job's id, such as `job_0198c0de2f3a7b1c9d4e5f60718293a4`; `GET /deliveries?job_id=` lists the deliveries
    /// that a replay has made.
    pub(crate) id: String,
    /// The tenant that the job belongs to; absent where it is about every tenant.
    tenant_id: Option<String>,
    /// What is done with each delivery.
    action: JobAction,
    /// Which deliveries are meant.
    filter: JobFilter,
    /// With how many deliveries a second it is done, at most; absent where there is no bound.
    rate_per_second: Option<u32>,
    /// How far the job has come.
    state: JobState,
    /// The part of the time between the first delivery and `until` that has been looked at, from 0 to 1.
    progress: f64,
    /// How many deliveries, dead letters and events have been looked at.
    examined_count: u64,
    /// With how many deliveries it was done; for a replay, how many it has made.
    done_count: u64,
    /// How many deliveries match with which it could not be done: a worker or somebody else was changing them, their
    /// event or subscription is gone, or the subscription is disabled.
    skipped_count: u64,
    /// How many deliveries the database refused to change. They were passed, so that the others are not held up; the
    /// log of the workers says why.
    failed_count: u64,
    /// When the job was asked for (RFC 3339).
    created_at: DateTime<Utc>,
    /// When the job came to its end; absent while it is running (RFC 3339).
    finished_at: Option<DateTime<Utc>>,
}

/// How many deliveries match.
#[derive(Debug, Object)]
pub struct JobCount {
    /// How many deliveries match among those that were looked at.
    pub(crate) count: u64,
    /// Whether all were looked at. If not, at least `count` match: a count looks at 100000 deliveries at most, and for
    /// about two seconds.
    pub(crate) is_exact: bool,
}

impl JobInput {
    /// Checks everything that can be wrong, and finds what the ids name.
    ///
    /// # Errors
    /// Unprocessable, with every broken rule; not found where an id or a tenant is not the key's to reach.
    pub(crate) async fn parse(self, access: &Access, pool: &PgPool, now: DateTime<Utc>) -> Result<NewJob, ApiError> {
        let mut problems = Problems::default();
        let action = problems.take("action", self.action.parse::<Action>());
        let rate = self.rate_per_second.or_else(|| action.and_then(Action::rate_default));
        let why = format!("must be from 1 to {RATE_MAX}");
        problems.require(rate.is_none_or(is_rate), "rate_per_second", why);
        let Some(action) = action else { return Err(problem(problems)) };
        let filter = self.filter.parse(access, pool, (action, now), problems).await?;
        Ok(NewJob { action, filter, rate_per_second: rate })
    }
}

impl JobFilter {
    /// Checks the filter for this action, after `problems` of the rest of the input were found.
    async fn parse(
        self,
        access: &Access,
        pool: &PgPool,
        (action, now): (Action, DateTime<Utc>),
        mut problems: Problems,
    ) -> Result<Filter, ApiError> {
        let mut filter = Filter::all(action, self.until.map_or(now, |until| until.min(now)));
        let mut own = Problems::default();
        let times = [
            ("since", self.since),
            ("until", self.until),
            ("dead_since", self.dead_since),
            ("dead_until", self.dead_until),
        ];
        for (field, time) in times {
            own.take(field, time.map_or(Ok(()), moment));
        }
        let tenant = self.tenant_id.as_deref().map_or(Ok(()), check_tenant);
        own.take("tenant_id", tenant);
        filter.event_types =
            own.take_part("event_types", EventTypePatterns::parse(&self.event_types)).unwrap_or_default();
        let metadata = own.take("metadata", Metadata::parse(self.metadata));
        filter.metadata = metadata.filter(|metadata| !metadata.is_empty());
        let statuses = distinct(&mut own, "statuses", &self.statuses, |word| word.parse::<MatchedStatus>());
        if !statuses.is_empty() {
            filter.statuses = statuses;
        }
        filter.error_kinds = distinct(&mut own, "error_kinds", &self.error_kinds, |word| cause(word));
        let codes = &self.status_codes[..self.status_codes.len().min(STATUS_CODES_MAX)];
        own.require(codes.len() == self.status_codes.len(), "status_codes", "must be at most 100 statuses");
        let code = |code: &u16| match i16::try_from(*code) {
            Ok(code) if (100..=999).contains(&code) => Ok(code),
            Ok(_) | Err(_) => Err("must be from 100 to 999".to_owned()),
        };
        filter.status_codes = distinct(&mut own, "status_codes", codes, code);
        if self.inline_only == Some(true) {
            filter.destinations = Destinations::Inline;
        }
        if self.include_resolved == Some(true) {
            filter.resolved = Resolved::Included;
        }
        (filter.since, filter.dead_since, filter.dead_until) = (self.since, self.dead_since, self.dead_until);
        let named = |field: &'static str| format!("filter.{field}");
        filter.subscription =
            access.find_named(pool, &named("subscription_id"), self.subscription_id.as_deref()).await?;
        filter.event = access.find_named(pool, &named("event_id"), self.event_id.as_deref()).await?;
        filter.job = access.find_named(pool, &named("job_id"), self.job_id.as_deref()).await?;
        own.add_part("", filter.problems(action));
        problems.add_part("filter", own);
        problems.into_result().map_err(problem)?;
        filter.tenant_id = access.lists(self.tenant_id.as_deref())?;
        Ok(filter)
    }
}

fn problem(problems: Problems) -> ApiError {
    postrider_core::Error::from(problems).into()
}

/// Parses each item of a list; one that stands there twice counts once.
fn distinct<I, T: PartialEq>(
    problems: &mut Problems,
    field: &str,
    items: &[I],
    parse: impl Fn(&I) -> Result<T, String>,
) -> Vec<T> {
    let mut parsed = Vec::new();
    for (place, item) in items.iter().enumerate() {
        let one = problems.take(&format!("{field}[{place}]"), parse(item));
        parsed.extend(one.filter(|one| !parsed.contains(one)));
    }
    parsed
}

/// Turns a job into the JSON that answers show.
pub(crate) fn view(job: &Job) -> JobView {
    JobView {
        id: job.id.to_string(),
        tenant_id: job.tenant_id.clone(),
        action: match job.action {
            Action::Retry => JobAction::Retry,
            Action::Cancel => JobAction::Cancel,
            Action::Replay => JobAction::Replay,
            Action::Resolve => JobAction::Resolve,
            Action::Purge => JobAction::Purge,
        },
        filter: filter_view(&job.filter),
        rate_per_second: job.rate_per_second.map(i32::unsigned_abs),
        state: job.state.into(),
        progress: job.progress,
        examined_count: job.examined_count.unsigned_abs(),
        done_count: job.done_count.unsigned_abs(),
        skipped_count: job.skipped_count.unsigned_abs(),
        failed_count: job.failed_count.unsigned_abs(),
        created_at: job.created_at,
        finished_at: job.finished_at,
    }
}

fn filter_view(filter: &Filter) -> JobFilter {
    JobFilter {
        tenant_id: filter.tenant_id.clone(),
        subscription_id: filter.subscription.map(|id| id.to_string()),
        event_id: filter.event.map(|id| id.to_string()),
        job_id: filter.job.map(|id| id.to_string()),
        statuses: filter.statuses.iter().map(ToString::to_string).collect(),
        event_types: filter.event_types.to_texts(),
        metadata: filter.metadata.clone().map(Metadata::into_entries).unwrap_or_default(),
        status_codes: filter.status_codes.iter().map(|code| code.unsigned_abs()).collect(),
        error_kinds: filter.error_kinds.clone(),
        inline_only: (filter.destinations == Destinations::Inline).then_some(true),
        since: filter.since,
        until: Some(filter.until),
        dead_since: filter.dead_since,
        dead_until: filter.dead_until,
        include_resolved: (filter.resolved == Resolved::Included).then_some(true),
    }
}
