//! The flow of the sessions' transactions: begun, waiting for a lock or at the gate, committed or undone; and what is
//! checked when one has committed.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use chrono::{DateTime, Utc};
use postrider_core::queue::{ClaimRequest, Claimed, LATE, LATE_WAKE_UP, NextDue, Woken, accept::LeftAlone};
use tokio::{task::JoinHandle, time::timeout};
use uuid::Uuid;
use worker::dispatcher::LANES_MARGIN;

use crate::{
    lane_model::{
        Checks, Model, Session, Unsent,
        ledger::{Lane, Span},
        operation::{Operation, Output, perform},
        stage::{INSTANT, SESSIONS, Waiting},
        step::{Commits, Ending},
        worker::Held,
    },
    world::SOON,
};

/// How long a statement that waits for nobody may run before it is asked what it waits for.
const PATIENCE: Duration = Duration::from_millis(1);

/// A transaction that is not over.
pub struct Running {
    pub operation: Operation,
    task: JoinHandle<Output>,
    pub began: DateTime<Utc>,
    /// When it was done but for the commit.
    reached: Option<DateTime<Utc>>,
    commits: Commits,
    gate_is_closed: bool,
    waits: Option<Waiting>,
    has_waited: bool,
    is_canceled: bool,
    /// The deliveries that it reports of.
    reporting: Vec<Held>,
}

impl Session {
    fn waits(&self, waits: Waiting) -> Option<&Running> {
        self.running.as_ref().filter(|running| running.waits == Some(waits))
    }

    fn waits_for_lock(&self) -> bool {
        self.waits(Waiting::ForLock).is_some()
    }

    pub fn is_at_gate(&self) -> bool {
        self.waits(Waiting::AtGate).is_some()
    }

    /// Whether it waits for somebody, and would not do so until then.
    pub fn loses_patience_by(&self, then: DateTime<Utc>) -> bool {
        let patience = |running: &Running| running.operation.patience().is_some_and(|time| then - time > running.began);
        self.waits(Waiting::ForLock).is_some_and(patience)
    }

    /// Whether it has been storing an event since before that time.
    pub fn is_ingest_since_before(&self, time: DateTime<Utc>) -> bool {
        self.running.as_ref().is_some_and(|running| running.operation.is_ingest() && running.began < time)
    }
}

impl Model<'_> {
    /// Lets a session begin a transaction, and everybody come as far as they can.
    pub async fn begin(
        &mut self,
        session: usize,
        operation: Operation,
        commits: Commits,
        reporting: Vec<Held>,
        began: DateTime<Utc>,
    ) -> Result<()> {
        // Others that wait for a lock may be let go on meanwhile: then they commit first.
        let is_gated = commits == Commits::Later || self.sessions.iter().any(Session::waits_for_lock);
        let gate_is_closed = is_gated && self.stage.close_gate(session).await?;
        let task = tokio::spawn(perform(self.stage.pool(session), self.stage.keyring.clone(), operation.clone()));
        self.sessions[session].running = Some(Running {
            operation,
            task,
            began,
            reached: None,
            commits,
            gate_is_closed,
            waits: None,
            has_waited: false,
            is_canceled: false,
            reporting,
        });
        self.settle().await
    }

    /// Ends a session's transaction, if it has one; where it waits for somebody else's lock, it is committed as soon
    /// as it can be.
    pub async fn end(&mut self, session: usize, ending: Ending) -> Result<()> {
        let Some(running) = &mut self.sessions[session].running else { return Ok(()) };
        match ending {
            Ending::Commit => {
                running.commits = Commits::AtOnce;
            }
            Ending::Rollback => {
                running.is_canceled = true;
                self.stage.cancel(session).await?;
                let output = timeout(SOON, &mut running.task).await.context("a canceled statement goes on")??;
                self.over(session, output).await?;
            }
        }
        self.settle().await
    }

    /// Waits until every session's transaction is over, or waits for a lock or at a closed gate. They go one by one,
    /// so the order of their commits is known.
    pub async fn settle(&mut self) -> Result<()> {
        let mut session = 0;
        while session < SESSIONS {
            session = if self.go_on(session).await? { 0 } else { session + 1 };
        }
        Ok(())
    }

    /// Answers whether the session's transaction is over now.
    async fn go_on(&mut self, session: usize) -> Result<bool> {
        loop {
            let Some(running) = &mut self.sessions[session].running else { return Ok(false) };
            if running.waits == Some(Waiting::AtGate) && running.commits == Commits::Later {
                return Ok(false);
            }
            if running.waits.is_none()
                && let Ok(output) = timeout(PATIENCE, &mut running.task).await
            {
                let output = output?;
                self.over(session, output).await?;
                return Ok(true);
            }
            running.waits = self.stage.waiting(session).await?;
            match running.waits {
                None => {}
                Some(Waiting::ForLock) => {
                    // It will go on when another transaction is over, and then commit in its turn; unless it is on its
                    // way through the gate already, and waits for a moment only, as all do who notify.
                    running.gate_is_closed = running.gate_is_closed || self.stage.close_gate(session).await?;
                    if running.gate_is_closed {
                        let may_wait = running.operation.patience() != Some(Duration::ZERO);
                        ensure!(may_wait, "it waits for somebody: {}", running.operation);
                        running.has_waited = true;
                        return Ok(false);
                    }
                    running.waits = None;
                }
                Some(Waiting::AtGate) => {
                    running.reached.get_or_insert(self.stage.now().await?);
                    if running.commits == Commits::AtOnce {
                        self.stage.open_gate(session).await?;
                        (running.gate_is_closed, running.waits) = (false, None);
                    }
                }
            }
        }
    }

    /// A transaction is over: what came of it is compared with what should have.
    async fn over(&mut self, session: usize, output: Output) -> Result<()> {
        let running = self.sessions[session].running.take().expect("it was running");
        if running.gate_is_closed {
            self.stage.open_gate(session).await?;
        }
        if matches!(output, Output::Failed(_) | Output::Refused) {
            self.stage.undone(session).await?;
        }
        let committed = self.stage.now().await?;
        let span = Span { began: running.began, committed, has_waited: running.has_waited };
        self.note(committed, format!("session {session}: {} → {}", running.operation, output));
        if let Output::Failed(why) = &output {
            ensure!(running.is_canceled, "it failed by itself: {why}");
        }
        self.pass_marks(&running, &output, committed);
        let is_idle = match &output {
            Output::Claimed(claimed, _) => claimed.is_empty(),
            Output::Failed(_) | Output::Refused => true,
            _ => false,
        };
        match (running.operation, output) {
            (Operation::Claim { look }, Output::Claimed(claimed, next)) => {
                self.ledger.claimed(&claimed, span)?;
                self.looked(session, &look, claimed, next).await?;
            }
            (Operation::Record { .. }, Output::Failed(_)) => {
                self.sessions[session].worker.held.extend(running.reporting);
            }
            (Operation::Wake { unsent }, Output::Failed(_)) => self.unsent.note_again(unsent),
            (Operation::Lock { .. }, Output::Done) | (_, Output::Failed(_) | Output::Refused) => {}
            (operation, output) => self.done(operation, output, span).await?,
        }
        match self.checks {
            Checks::Always if !is_idle => self.check().await,
            Checks::Always | Checks::Never => Ok(()),
        }
    }

    /// Something was done, and is committed.
    async fn done(&mut self, operation: Operation, output: Output, span: Span) -> Result<()> {
        match (operation, output) {
            (Operation::Accept { events }, Output::Accepted { armed, left_alone }) => {
                for (event, one) in events.iter().flat_map(|event| event.deliveries.iter().map(move |one| (event, one)))
                {
                    self.ledger.accepted(one.id.0, one.subscription_id.0, event.deliver_at, span);
                    self.unsent.stored.push((one.id.0, one.subscription_id.0));
                }
                self.unsent.note_stored(&armed, span.took(), left_alone);
            }
            (Operation::AcceptInline { event, id, delivery }, Output::AcceptedInline { lane, armed, left_alone }) => {
                self.ledger.lanes.entry(lane).or_insert_with(|| Lane::new(None, delivery.timeout));
                self.ledger.accepted(id.0, lane, event.deliver_at, span);
                self.unsent.stored.push((id.0, lane));
                self.unsent.note_stored(&armed, span.took(), left_alone);
            }
            (Operation::Record { reports }, Output::Recorded { applied }) => {
                self.ledger.recorded(&reports, &applied, &self.stage.noted_rests().await?, span)?;
                self.reported.extend(reports);
            }
            (Operation::Wake { unsent }, Output::Woken(woken)) => self.woken(unsent, &woken, span),
            (Operation::SetState { id, change }, Output::Done) => self.ledger.changed(id, change)?,
            (Operation::Delete { id }, Output::Done) => self.ledger.deleted(id, span)?,
            (Operation::Retry { id }, Output::Done) => self.ledger.retried(id.0, span)?,
            (Operation::Cancel { id }, Output::Done) => self.ledger.canceled(id.0, span)?,
            (Operation::Replay { id }, Output::Replayed(fresh)) => self.ledger.replayed(id.0, fresh.0, span)?,
            (Operation::ArmNoted, Output::NotesHandled(count)) => {
                self.ledger.noted_lanes_were_armed(&self.stage.noted_rests().await?);
                if count > 0 {
                    self.notify(LATE_WAKE_UP);
                }
            }
            (Operation::Repair, Output::Repaired(count)) => ensure!(count == 0, "{count} lanes were due too late"),
            (operation, output) => bail!("{operation} answers {output}"),
        }
        Ok(())
    }

    /// A wake-up was sent. It comes again for the lanes that were locked.
    fn woken(&mut self, unsent: Unsent, woken: &Woken, span: Span) {
        if woken.notified {
            self.notify(if unsent.took > LATE { LATE_WAKE_UP } else { "" });
        }
        let left_alone: LeftAlone = unsent.left_alone.into_iter().filter(|(_, id)| woken.locked.contains(id)).collect();
        let (locked, free): (Vec<_>, Vec<_>) =
            unsent.stored.into_iter().partition(|(_, lane)| left_alone.contains_key(lane));
        self.ledger.woken(free.into_iter().map(|(id, _)| id), span);
        self.unsent.note_again(Unsent { left_alone, stored: locked, ..Unsent::default() });
    }

    /// All workers hear a notification.
    fn notify(&mut self, payload: &str) {
        for session in &mut self.sessions {
            session.worker.hear(payload);
        }
    }

    /// Lanes that were armed long before the commit may be behind the workers' marks.
    fn pass_marks(&mut self, running: &Running, output: &Output, committed: DateTime<Utc>) {
        let lanes = self.lanes_of(&running.operation, output);
        // A record arms lanes as of when it began, for it waits for them only a moment; who waits longer does not.
        let armed_at = match running.operation {
            Operation::Record { .. } => running.began,
            _ => running.reached.unwrap_or(committed),
        };
        for session in &mut self.sessions {
            session.worker.armed_meanwhile.extend(&lanes);
        }
        if committed - armed_at >= LANES_MARGIN - INSTANT {
            for session in &mut self.sessions {
                session.worker.unseen.extend(&lanes);
            }
        }
    }

    /// The lanes that a transaction may have armed.
    fn lanes_of(&self, operation: &Operation, output: &Output) -> Vec<Uuid> {
        let lane_of = |id: &Uuid| self.ledger.rows.get(id).map(|row| row.lane);
        let mut lanes: Vec<_> = match operation {
            Operation::Accept { events } => {
                events.iter().flat_map(|event| &event.deliveries).map(|delivery| delivery.subscription_id.0).collect()
            }
            Operation::AcceptInline { .. } => match output {
                Output::AcceptedInline { lane, .. } => vec![*lane],
                _ => Vec::new(),
            },
            Operation::Record { reports } => reports.iter().map(|report| report.lane_id).collect(),
            Operation::Wake { unsent } => unsent.left_alone.keys().copied().collect(),
            Operation::SetState { id, .. } | Operation::Delete { id } => vec![id.0],
            Operation::Retry { id } | Operation::Cancel { id } | Operation::Replay { id } => {
                lane_of(&id.0).into_iter().collect()
            }
            Operation::Claim { .. } | Operation::Lock { .. } | Operation::ArmNoted | Operation::Repair => Vec::new(),
        };
        lanes.sort_unstable();
        lanes.dedup();
        lanes
    }

    /// A worker rests only when no lane is due but those that it leaves out: whatever it does not see now waits for
    /// its next sweep.
    async fn looked(
        &mut self,
        session: usize,
        look: &ClaimRequest,
        claimed: Vec<Claimed>,
        next: NextDue,
    ) -> Result<()> {
        let worker = &mut self.sessions[session].worker;
        worker.looked(claimed, &next, &look.skip);
        if !worker.rest.is_zero() && !worker.is_called_back {
            let mut due = self.stage.due_lanes(next.now).await?;
            let is_seen = |lane: &Uuid| !worker.unseen.contains(lane) && !worker.armed_meanwhile.contains(lane);
            due.retain(|lane| !look.skip.contains(lane) && is_seen(lane));
            ensure!(due.is_empty(), "the worker rests for {:?} while lanes are due: {due:?}", worker.rest);
        }
        Ok(())
    }
}
