//! What should be in the database: every delivery and lane as the committed steps have left them. It knows nothing of
//! how the queue finds its work, only what it may and may not do.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use postrider_core::{
    delivery::Status,
    id::SubscriptionId,
    queue::{Claimed, Disposition, Report},
    subscription::{State, StateChange, settings::Timeout},
};
use uuid::Uuid;
use worker::dispatcher::LANES_MARGIN;

use crate::lane_model::stage::{INSTANT, Stored};

/// When a transaction's statement began, and the time at which it has committed.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub began: DateTime<Utc>,
    pub committed: DateTime<Utc>,
    /// Whether it had to wait for somebody else's lock.
    pub has_waited: bool,
}

impl Span {
    pub fn took(self) -> Duration {
        (self.committed - self.began).to_std().unwrap_or_default()
    }
}

#[derive(Clone, Debug)]
pub struct Row {
    pub lane: Uuid,
    pub status: Status,
    /// The lease that would be obeyed, expired or not.
    pub token: Option<i64>,
    /// Not before this.
    pub leased_until: DateTime<Utc>,
    /// Not before this.
    pub due_at: DateTime<Utc>,
    /// Whether it was stored by a slow transaction, and so may be behind what a claim has seen of its lane.
    is_late: bool,
    /// Whether the workers were woken for it, and it has waited since.
    is_woken: bool,
    attempts: i32,
    /// The number of the last attempt in the log.
    logged: i32,
}

#[derive(Clone, Debug)]
pub struct Lane {
    /// `None` of a lane of inline deliveries.
    pub subscription: Option<SubscriptionId>,
    pub state: State,
    pub is_deleted: bool,
    /// When that was committed.
    deleted_at: DateTime<Utc>,
    /// Not before this, because a receiver asked for it.
    pub rests_until: DateTime<Utc>,
    /// The same, but the lane was locked when that was recorded, so it holds only once the note of it is handled.
    noted_rest: DateTime<Utc>,
    lease: TimeDelta,
}

impl Lane {
    pub fn new(subscription: Option<SubscriptionId>, timeout: Timeout) -> Self {
        let lease = TimeDelta::milliseconds(2 * i64::from(timeout.ms()) + 5000);
        let never = DateTime::UNIX_EPOCH;
        let (state, is_deleted, deleted_at) = (State::Active, false, never);
        Self { subscription, state, is_deleted, deleted_at, rests_until: never, noted_rest: never, lease }
    }

    /// Whether its subscription was deleted before that time. What somebody puts into it while that happens is canceled
    /// when it is claimed.
    fn was_deleted_before(&self, time: DateTime<Utc>) -> bool {
        self.is_deleted && self.deleted_at < time
    }

    /// Whether nothing of it may be claimed until somebody wishes it.
    pub fn is_parked(&self) -> bool {
        self.state != State::Active && !self.is_deleted
    }
}

#[derive(Debug, Default)]
pub struct Ledger {
    pub rows: BTreeMap<Uuid, Row>,
    pub lanes: BTreeMap<Uuid, Lane>,
    tokens: HashSet<i64>,
}

impl Ledger {
    fn row(&mut self, id: Uuid) -> Result<&mut Row> {
        self.rows.get_mut(&id).with_context(|| format!("nobody stored {id}"))
    }

    /// Deliveries that are not finished and may be claimed some time without anybody's doing.
    pub fn waiting(&self) -> impl Iterator<Item = (Uuid, &Row)> {
        let waits = |row: &Row| row.status == Status::Pending && !self.lanes[&row.lane].is_parked();
        self.rows.iter().filter(move |(_, row)| waits(row)).map(|(id, row)| (*id, row))
    }

    /// From when on nothing keeps a delivery from being claimed.
    pub fn ready_at(&self, row: &Row) -> DateTime<Utc> {
        let leased_until = row.token.map(|_| row.leased_until);
        let lane = &self.lanes[&row.lane];
        let ready = row.due_at.max(lane.rests_until).max(lane.noted_rest);
        leased_until.map_or(ready, |leased_until| ready.max(leased_until)) + INSTANT
    }

    pub fn accepted(&mut self, id: Uuid, lane: Uuid, deliver_at: Option<DateTime<Utc>>, span: Span) {
        let row = Row {
            lane,
            status: Status::Pending,
            token: None,
            leased_until: span.began,
            due_at: deliver_at.map_or(span.began, |deliver_at| deliver_at.max(span.began)),
            is_late: span.committed - span.began >= LANES_MARGIN - INSTANT,
            is_woken: false,
            attempts: 0,
            logged: 0,
        };
        self.rows.insert(id, row);
    }

    /// After a wake-up, no lane of what was stored before is passed by.
    pub fn woken(&mut self, stored: impl Iterator<Item = Uuid>, span: Span) {
        for id in stored {
            if let Some(row) = self.rows.get_mut(&id) {
                row.is_woken = row.token.is_none() && row.due_at <= span.began && !row.is_late;
            }
        }
    }

    pub fn claimed(&mut self, claimed: &[Claimed], span: Span) -> Result<()> {
        // A claim waits for nobody, so it reads the clock right after it began.
        let latest = span.began + INSTANT;
        let fresh: HashSet<_> = claimed.iter().map(|claimed| claimed.lease_token).collect();
        ensure!(fresh.len() <= 1, "one claim, one token: {fresh:?}");
        ensure!(fresh.is_disjoint(&self.tokens), "a token is used twice: {fresh:?}");
        self.tokens.extend(fresh);
        for claimed in claimed {
            let id = claimed.delivery_id;
            let lane = self.lanes.get(&claimed.lane_id).context("a lane that nobody knows")?.clone();
            ensure!(!lane.is_parked(), "{id} was claimed while its lane is {}", lane.state.as_str());
            ensure!(lane.rests_until <= latest, "{id} was claimed while its lane rests");
            let row = self.row(id)?;
            ensure!(row.lane == claimed.lane_id, "{id} was claimed from another lane");
            ensure!(row.status == Status::Pending, "{id} was claimed although it is {}", row.status.as_str());
            ensure!(row.token.is_none() || row.leased_until <= latest, "{id} was claimed while it is leased");
            ensure!(row.due_at <= latest, "{id} was claimed before it is due");
            ensure!(claimed.attempt_number == row.attempts + 1, "{id}: the attempts are miscounted");
            if row.token.is_some() {
                row.logged = row.attempts;
            }
            row.attempts += 1;
            row.is_woken = false;
            row.token = Some(claimed.lease_token);
            row.leased_until = span.began + lane.lease;
        }
        Ok(())
    }

    /// An outcome applies where its lease is the delivery's, and changes nothing elsewhere. One whose lease has expired
    /// may be refused where it had to wait for somebody who asked for a retry at that moment. Rests of the lanes in
    /// `noted` are not in force yet.
    pub fn recorded(&mut self, reports: &[Report], applied: &[Uuid], noted: &[Uuid], span: Span) -> Result<()> {
        for report in reports {
            let id = report.delivery_id;
            let row = self.row(id)?;
            let is_ours = row.status == Status::Pending && row.token == Some(report.lease_token);
            let may_be_refused = !is_ours || (span.has_waited && row.leased_until <= span.committed);
            if applied.contains(&id) {
                ensure!(is_ours, "an outcome of {id} was applied that should not have been");
                self.apply(report, noted, span)?;
            } else {
                ensure!(may_be_refused, "an outcome of {id} was not applied");
            }
        }
        let distinct: HashSet<_> = applied.iter().collect();
        ensure!(distinct.len() == applied.len(), "{applied:?} were applied");
        ensure!(
            distinct.iter().all(|id| reports.iter().any(|report| report.delivery_id == **id)),
            "{applied:?} were applied"
        );
        Ok(())
    }

    fn apply(&mut self, report: &Report, noted: &[Uuid], span: Span) -> Result<()> {
        let row = self.row(report.delivery_id)?;
        row.token = None;
        if report.outcome.is_some() {
            row.logged = report.attempt_number;
        }
        let rests = match report.disposition {
            Disposition::Succeeded => {
                row.status = Status::Succeeded;
                None
            }
            Disposition::DeadLetter { lane_rests } => {
                row.status = Status::DeadLetter;
                lane_rests
            }
            Disposition::Canceled => {
                row.status = Status::Canceled;
                None
            }
            Disposition::Retry { after, lane_rests, counts: _ } => {
                row.due_at = span.began + after;
                if report.outcome.is_none() {
                    row.attempts -= 1;
                }
                lane_rests
            }
        };
        let id = row.lane;
        if let Some(rests) = rests {
            let lane = self.lanes.get_mut(&id).context("a lane that nobody knows")?;
            let until = if noted.contains(&id) { &mut lane.noted_rest } else { &mut lane.rests_until };
            *until = (span.began + rests).max(*until);
        }
        Ok(())
    }

    /// Notes of lanes were handled, but for those in `noted`: the rests in the others are in force.
    pub fn noted_lanes_were_armed(&mut self, noted: &[Uuid]) {
        for (id, lane) in &mut self.lanes {
            if !noted.contains(id) {
                lane.rests_until = lane.rests_until.max(lane.noted_rest);
            }
        }
    }

    pub fn changed(&mut self, subscription: SubscriptionId, change: StateChange) -> Result<()> {
        let lane = self.lanes.get_mut(&subscription.0).context("a lane that nobody knows")?;
        ensure!(!lane.is_deleted, "a deleted subscription was changed");
        let to = match change {
            StateChange::Pause => State::Paused,
            StateChange::Resume | StateChange::Enable => State::Active,
            StateChange::Disable | StateChange::DisableBecause(_) => State::Disabled,
        };
        lane.state = to;
        Ok(())
    }

    pub fn deleted(&mut self, subscription: SubscriptionId, span: Span) -> Result<()> {
        let lane = self.lanes.get_mut(&subscription.0).context("a lane that nobody knows")?;
        ensure!(!lane.is_deleted, "a deleted subscription was deleted");
        (lane.is_deleted, lane.deleted_at) = (true, span.committed);
        Ok(())
    }

    pub fn retried(&mut self, id: Uuid, span: Span) -> Result<()> {
        let row = self.row(id)?;
        match row.status {
            Status::Pending => {
                ensure!(
                    row.token.is_none() || row.leased_until <= span.committed,
                    "{id} was retried while it is leased"
                );
                row.due_at = row.due_at.min(span.began);
            }
            Status::Succeeded | Status::DeadLetter | Status::Canceled => {
                row.status = Status::Pending;
                (row.token, row.attempts, row.due_at) = (None, row.logged, span.began);
                let lane = row.lane;
                ensure!(!self.lanes[&lane].was_deleted_before(span.began), "{id} was put back for nobody");
            }
            Status::InFlight => bail!("the ledger knows leases by their tokens"),
        }
        // Whoever asks for a retry means now.
        let lane = self.row(id)?.lane;
        self.lanes.get_mut(&lane).context("a lane that nobody knows")?.rests_until = DateTime::UNIX_EPOCH;
        Ok(())
    }

    pub fn canceled(&mut self, id: Uuid, span: Span) -> Result<()> {
        let row = self.row(id)?;
        ensure!(row.status == Status::Pending, "{id} was canceled although it is {}", row.status.as_str());
        ensure!(row.token.is_none() || row.leased_until <= span.committed, "{id} was canceled while it is leased");
        (row.status, row.token) = (Status::Canceled, None);
        Ok(())
    }

    pub fn replayed(&mut self, id: Uuid, fresh: Uuid, span: Span) -> Result<()> {
        let lane = self.row(id)?.lane;
        ensure!(!self.lanes[&lane].was_deleted_before(span.began), "{id} was replayed to nobody");
        self.accepted(fresh, lane, None, span);
        Ok(())
    }

    /// Whether the database holds exactly what it should.
    pub fn compare(&self, stored: &[Stored]) -> Result<()> {
        for stored in stored {
            let row = self.rows.get(&stored.id).with_context(|| format!("{} was rolled back", stored.id))?;
            let found = (stored.status.as_str(), stored.lane_id, stored.lease_token, stored.attempt_count);
            let waits = (row.status == Status::Pending).then_some((row.lane, row.attempts));
            let due = (row.status.as_str(), waits.map(|(lane, _)| lane), row.token, waits.map(|(_, made)| made));
            ensure!(found == due, "{} is {found:?}, and should be {due:?}", stored.id);
            ensure!(!stored.is_unnoted, "the lane of {} does not know for when it is", stored.id);
            let is_forgotten = stored.is_passed_by && row.is_woken && row.status == Status::Pending;
            ensure!(!is_forgotten, "{} is passed by after the wake-up", stored.id);
        }
        ensure!(stored.len() == self.rows.len(), "{} deliveries are there of {}", stored.len(), self.rows.len());
        Ok(())
    }
}
