//! The flow of the sessions' transactions: begun, waiting for a lock or at the gate, committed or undone; and what is
//! checked when one has committed.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use chrono::{DateTime, Utc};
use postrider_core::queue::{self, ClaimRequest, Claimed};
use tokio::{task::JoinHandle, time::timeout};
use uuid::Uuid;
use worker::dispatcher::LANES_MARGIN;

use crate::{
    lane_model::{
        Checks, Model, Session,
        ledger::{Lane, Span},
        operation::{Operation, Output, perform},
        stage::{INSTANT, SESSIONS, Waiting},
        step::{Commits, Ending},
        worker::Held,
    },
    world::SOON,
};

/// Whether lanes are armed with the time at which they are armed. TODAY THEY ARE NOT: it is the time at which the
/// statement began, so where that waited for a lock, the lane can be behind the workers' marks, and only their next
/// sweeps find it. Set it to `true` when that is mended.
const LANES_ARE_ARMED_AS_OF_NOW: bool = false;

/// How long a statement that waits for nobody may run before it is asked what it waits for.
const PATIENCE: Duration = Duration::from_millis(2);
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
    fn waits_for_lock(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.waits == Some(Waiting::ForLock))
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
                        let is_claim = matches!(running.operation, Operation::Claim { .. });
                        ensure!(!is_claim, "a claim waits for somebody");
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
        let is_idle = matches!(&output, Output::Claimed(claimed) if claimed.is_empty());
        match (running.operation, output) {
            (Operation::Accept { events }, Output::Accepted { armed }) => {
                let stored = events.iter().flat_map(|event| event.deliveries.iter().map(move |one| (event, one)));
                for (event, delivery) in stored {
                    self.ledger.accepted(delivery.id.0, delivery.subscription_id.0, event.deliver_at, span);
                    self.unsent.note_stored(&armed, delivery.subscription_id.0, delivery.id.0);
                }
            }
            (Operation::AcceptInline { event, id, delivery }, Output::AcceptedInline { lane, armed }) => {
                self.ledger.lanes.entry(lane).or_insert_with(|| Lane::new(None, delivery.timeout_ms));
                self.ledger.accepted(id.0, lane, event.deliver_at, span);
                self.unsent.note_stored(&armed, lane, id.0);
            }
            (Operation::Claim { look }, Output::Claimed(claimed)) => self.looked(session, &look, claimed, span).await?,
            (Operation::Record { reports }, Output::Recorded { applied }) => {
                self.ledger.recorded(&reports, &applied, span)?;
                self.reported.extend(reports);
            }
            (Operation::Record { .. }, Output::Failed(_)) => {
                self.sessions[session].worker.held.extend(running.reporting)
            }
            (Operation::Wake { unsent }, Output::Woken) => self.ledger.woken(&unsent.stored, span),
            (Operation::Wake { unsent }, Output::Failed(_)) => {
                self.unsent.armed |= unsent.armed;
                self.unsent.unarmed.extend(unsent.unarmed);
                self.unsent.stored.extend(unsent.stored);
            }
            (Operation::SetState { id, change }, Output::Done) => self.ledger.changed(id, change)?,
            (Operation::Delete { id }, Output::Done) => self.ledger.deleted(id)?,
            (Operation::Retry { id }, Output::Done) => self.ledger.retried(id.0, span)?,
            (Operation::Cancel { id }, Output::Done) => self.ledger.canceled(id.0, span)?,
            (Operation::Replay { id }, Output::Replayed(fresh)) => self.ledger.replayed(id.0, fresh.0, span)?,
            (Operation::Repair, Output::Repaired(count)) => {
                ensure!(count == 0 || self.some_are_late, "{count} lanes were due too late");
            }
            (Operation::Lock { .. }, Output::Done) | (_, Output::Failed(_) | Output::Refused) => {}
            (operation, output) => bail!("{operation} answers {output}"),
        }
        match self.checks {
            Checks::Always => self.check().await,
            Checks::WhenSomethingWasDone if !is_idle => self.check().await,
            Checks::WhenSomethingWasDone | Checks::Never => Ok(()),
        }
    }

    /// Lanes that were armed as of a time that lies too far back may be behind the workers' marks. A commit that is
    /// slow has that effect, too, whatever the statement does.
    fn pass_marks(&mut self, running: &Running, output: &Output, committed: DateTime<Utc>) {
        let lanes = self.lanes_of(&running.operation, output);
        let reached = running.reached.unwrap_or(committed);
        let armed_at = if LANES_ARE_ARMED_AS_OF_NOW && lanes.len() == 1 { reached } else { running.began };
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
            Operation::Wake { unsent } => unsent.unarmed.keys().copied().collect(),
            Operation::SetState { id, .. } | Operation::Delete { id } => vec![id.0],
            Operation::Retry { id } | Operation::Cancel { id } | Operation::Replay { id } => {
                lane_of(&id.0).into_iter().collect()
            }
            Operation::Claim { .. } | Operation::Lock { .. } | Operation::Repair => Vec::new(),
        };
        lanes.sort_unstable();
        lanes.dedup();
        lanes
    }

    /// A worker rests only when no lane is due but those that it leaves out: whatever it does not see now waits for
    /// its next sweep.
    async fn looked(&mut self, session: usize, look: &ClaimRequest, claimed: Vec<Claimed>, span: Span) -> Result<()> {
        self.ledger.claimed(&claimed, span)?;
        let next = queue::next_due(&self.stage.observer, &look.skip, look.lanes_from).await?;
        let worker = &mut self.sessions[session].worker;
        worker.looked(claimed, &next);
        if !worker.rest.is_zero() {
            let mut due = self.stage.due_lanes().await?;
            due.retain(|lane| !look.skip.contains(lane) && !worker.unseen.contains(lane));
            ensure!(due.is_empty(), "the worker rests for {:?} while lanes are due: {due:?}", worker.rest);
        }
        Ok(())
    }
}
