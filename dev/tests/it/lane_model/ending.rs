//! How a case ends: all transactions end, one worker lives on, and within the linger and a sweep it has delivered
//! everything that may be delivered; then the lanes come to rest.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chrono::TimeDelta;
use postrider_core::{
    queue,
    subscription::{State, StateChange},
};
use worker::dispatcher::{BACKSTOP, SWEEP_EVERY};

use crate::{
    lane_model::{
        Checks, Model, Unsent,
        operation::Operation,
        step::{Action, Case, Commits, Fate},
        worker::ModelWorker,
    },
    world::SOON,
};

/// `lane_linger()` of the database.
const LINGER: Duration = Duration::from_secs(8);
/// How long a busy worker rests between two looks.
const PACE: Duration = Duration::from_millis(10);
/// How long anything may take that is found without a notification, from when it could be claimed: until its lane
/// comes up, a sweep passes, and the worker looks.
const LATE_AT_MOST: Duration = LINGER.saturating_add(SWEEP_EVERY).saturating_add(BACKSTOP).saturating_add(PACE);
/// How long it may take until no lane is visited any more: longer than the longest wait that is noted in a lane.
const IDLE_AFTER_AT_MOST: Duration = Duration::from_secs(90);

impl Model<'_> {
    pub async fn finish(&mut self, case: &Case) -> Result<()> {
        for (session, ending) in case.endings.into_iter().enumerate() {
            self.end(session, ending).await?;
        }
        let ended = async {
            while self.sessions.iter().any(|session| session.running.is_some()) {
                self.settle().await?;
                tokio::task::yield_now().await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(SOON, ended).await.context("transactions that do not end")??;
        let now = self.stage.now().await?;
        self.unsent = Unsent::default();
        for (number, session) in self.sessions.iter_mut().enumerate() {
            if number != case.survivor {
                session.worker = ModelWorker::new(self.stage.instant(now));
            }
        }
        self.note(now, format!("only the worker of session {} is left", case.survivor));
        self.checks = Checks::Never;
        self.deliver_all(case.survivor).await?;
        self.check().await?;
        for (lane, state) in self.ledger.lanes.values().map(|lane| (lane.clone(), lane.state)).collect::<Vec<_>>() {
            let change = if state == State::Disabled { StateChange::Enable } else { StateChange::Resume };
            if let Some(id) = lane.subscription.filter(|_| lane.is_parked()) {
                let now = self.stage.now().await?;
                self.begin(case.survivor, Operation::SetState { id, change }, Commits::AtOnce, Vec::new(), now).await?;
            }
        }
        self.deliver_all(case.survivor).await?;
        self.come_to_rest(case.survivor).await?;
        self.check().await?;
        ensure!(self.stage.notes().await? == 0, "notes of lanes were not handled");
        let violations = self.stage.violations().await?;
        ensure!(violations.is_empty(), "{violations:?}");
        Ok(())
    }

    /// Works until nothing is left but what is parked.
    async fn deliver_all(&mut self, session: usize) -> Result<()> {
        let mut now = self.stage.now().await?;
        let start = now;
        self.act(session, &Action::ArmNoted, Commits::AtOnce).await?;
        loop {
            self.work(session).await?;
            for (id, row) in self.ledger.waiting() {
                let late = now - self.ledger.ready_at(row).max(start);
                ensure!(late <= TimeDelta::from_std(LATE_AT_MOST)?, "{id} is late by {late}: {row:?}");
            }
            let Some(ready) = self.ledger.waiting().map(|(_, row)| self.ledger.ready_at(row)).min() else {
                return Ok(());
            };
            // Nobody wakes the worker. Looks at which nothing can be due are left out.
            let worker = &self.sessions[session].worker;
            let quiet = worker.next_wait.unwrap_or(Duration::MAX).min((ready - now).to_std().unwrap_or_default());
            now = self.stage.advance(quiet.max(worker.rest).max(PACE)).await?;
        }
    }

    /// Lanes without work are not visited for ever.
    async fn come_to_rest(&mut self, session: usize) -> Result<()> {
        let start = self.stage.now().await?;
        loop {
            let next = queue::next_due(&self.stage.observer, &[], None).await?;
            let Some(wait) = next.wait() else { return Ok(()) };
            let restless = next.now - start > TimeDelta::from_std(IDLE_AFTER_AT_MOST)?;
            ensure!(!restless, "the lanes do not come to rest");
            self.stage.advance(wait.max(PACE)).await?;
            self.work(session).await?;
        }
    }

    /// One look of the worker; everything that it holds is delivered, or canceled where nobody wants it.
    async fn work(&mut self, session: usize) -> Result<()> {
        self.act(session, &Action::Look, Commits::AtOnce).await?;
        let fates = self.sessions[session].worker.held.iter().map(|held| {
            let is_deleted = self.ledger.lanes[&held.claimed.lane_id].is_deleted;
            (0, if is_deleted { Fate::IsCanceled } else { Fate::Succeeds })
        });
        let fates: Vec<_> = fates.collect();
        while !self.sessions[session].worker.held.is_empty() {
            self.act(session, &Action::Record(fates.clone()), Commits::AtOnce).await?;
        }
        Ok(())
    }
}
