//! The loop that finds work: it claims due deliveries, has them started, and sleeps until something may be due. It
//! neither reads events nor sends requests nor records outcomes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use postrider_core::{
    Result, hop,
    queue::{
        ClaimRequest, NextDue,
        rest::{Backoff, Rest},
    },
};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    claims,
    places::Places,
    starter::{Reading, Starter},
    wake::Wake,
};

/// Lanes that one claim visits, at most.
const LANES_PER_CLAIM_MAX: usize = 128;
/// How long the dispatcher rests after a visit, as a multiple of what the visit took: a busy worker claims in batches,
/// and at a trickle nobody waits.
const VISIT_REST: u32 = 2;
/// The longest such rest. For so long, a worker that has left lanes out takes no notice of places that are given back,
/// because they are given back one by one.
const VISIT_REST_MAX: Duration = Duration::from_millis(10);
/// The first pause after a claim that found nothing although a lane was due, because somebody else had it locked; each
/// next one is twice as long, up to the longest rest.
const LOCKED_PAUSE_MIN: Duration = Duration::from_millis(1);
/// How long a worker sleeps, at most: even if every notification is lost, deliveries are late by no more than this.
pub const BACKSTOP: Duration = Duration::from_secs(2);
/// How long the loop pauses after the database failed.
const OUTAGE_PAUSE: Duration = Duration::from_millis(500);
/// How far behind the previous claim's progress the next one begins. Ingest that took longer is found by a sweep.
pub const LANES_MARGIN: TimeDelta = TimeDelta::seconds(1);
/// How long a claim may still take once the worker is told to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(1);
/// How often a claim sweeps: it begins at the first lane instead of where the previous one ended.
pub const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// Finds work for a worker.
pub struct Dispatcher {
    pub(crate) pool: PgPool,
    pub(crate) places: Arc<Places>,
    pub(crate) starter: Starter,
    /// Rung by notifications from the database, and by this worker's fan-outs.
    pub(crate) wake: Arc<Wake>,
    pub(crate) stop: CancellationToken,
}

/// How far along the lanes the claims have come. While some session holds an old snapshot, dead versions of visited
/// lanes pile up at the head of the lanes' index. A claim that begins behind them does not have to read them.
#[derive(Debug)]
pub struct Progress {
    lanes_from: Option<DateTime<Utc>>,
    swept_at: Instant,
}

impl Progress {
    /// The progress of a worker that starts at this time and has not claimed yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { lanes_from: None, swept_at: now }
    }

    /// Where a claim that starts at this time begins: at the first lane if lanes may have been armed behind the mark,
    /// and from time to time in any case.
    pub fn next_from(&mut self, may_be_behind: bool, now: Instant) -> Option<DateTime<Utc>> {
        if may_be_behind || now.duration_since(self.swept_at) > SWEEP_EVERY {
            self.swept_at = now;
            self.lanes_from = None;
        }
        self.lanes_from
    }

    /// Notes how far a claim has come: to the next lane that is due, or to now. A claim that left lanes out has not
    /// passed them. Then the mark stays where it was, so that the next claim finds a lane that is no longer left out.
    pub fn came_to(&mut self, next: &NextDue, left_out: &[Uuid]) {
        if left_out.is_empty() {
            let margin = next.now - LANES_MARGIN;
            self.lanes_from = Some(next.due_at.map_or(margin, |due_at| due_at.min(margin)));
        }
    }
}

/// What to wait for before the next visit, after the rest that follows every visit.
enum Wait {
    /// Nothing is due for this long, unless a notification says otherwise; zero where more is due already.
    WakeUp(Duration),
    /// The same, but a lane that was left out may be visited as soon as a place is given back.
    WakeUpOrPlace(Duration),
    /// No place is free, so the worker waits for one.
    Place,
}

impl Dispatcher {
    /// Runs until the worker is told to stop.
    pub async fn run(self) {
        let mut progress = Progress::new(Instant::now());
        let mut rest = Rest::new(VISIT_REST, VISIT_REST_MAX);
        let mut locked = Backoff::new(LOCKED_PAUSE_MIN, VISIT_REST_MAX);
        while !self.stop.is_cancelled() {
            let reading = tokio::select! {
                reading = self.starter.reading() => reading,
                () = self.stop.cancelled() => break,
            };
            let started = Instant::now();
            let visit = tokio::select! {
                visit = self.visit(&mut progress, &mut locked, reading) => visit,
                // Deliveries that such a claim has leased are due again when their leases expire.
                () = self.stopped_for(STOP_PATIENCE) => break,
            };
            let wait = match visit {
                Ok(wait) => wait,
                Err(error) => {
                    tracing::warn!(%error, "claiming failed");
                    Wait::WakeUp(OUTAGE_PAUSE)
                }
            };
            let at_least = rest.after(started.elapsed(), Instant::now());
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = self.rest(wait, at_least) => {}
            }
        }
    }

    async fn stopped_for(&self, time: Duration) {
        self.stop.cancelled().await;
        tokio::time::sleep(time).await;
    }

    /// Claims due deliveries and has them started; returns how long to wait before the next claim.
    async fn visit(&self, progress: &mut Progress, locked: &mut Backoff, reading: Reading) -> Result<Wait> {
        let offer = self.places.offer();
        if offer.claimable == 0 {
            return Ok(Wait::Place);
        }
        let look = ClaimRequest {
            lanes_max: small(lanes_max(offer.claimable)),
            rows_max: small(offer.claimable),
            lanes_from: progress.next_from(self.wake.take_late(), Instant::now()),
            skip: offer.left_out,
            only: None,
        };
        let claimed_at = Instant::now();
        hop!("looking");
        let (claimed, next) = claims::claim(&self.pool, &look).await?;
        metrics::histogram!("postrider_claim_duration_seconds").record(claimed_at.elapsed());
        hop!("claimed", claimed.iter().map(|claimed| claimed.event_id));
        let found_nothing = claimed.is_empty();
        self.starter.start(claimed, claimed_at, reading);
        progress.came_to(&next, &look.skip);
        let wait = next.wait().map_or(BACKSTOP, |wait| wait.min(BACKSTOP));
        let wait = if found_nothing && wait.is_zero() {
            // Whoever has the lane locked may commit at once, and may as well keep it.
            locked.pause()
        } else {
            locked.reset();
            wait
        };
        let wait = offer.slow_turn_in.map_or(wait, |turn| wait.min(turn));
        Ok(if look.skip.is_empty() { Wait::WakeUp(wait) } else { Wait::WakeUpOrPlace(wait) })
    }

    async fn rest(&self, wait: Wait, at_least: Duration) {
        match wait {
            Wait::Place => self.places.freed().await,
            Wait::WakeUp(at_most) => {
                tokio::time::sleep(at_least).await;
                let _ = tokio::time::timeout(at_most.saturating_sub(at_least), self.wake.rung()).await;
            }
            Wait::WakeUpOrPlace(at_most) => {
                tokio::time::sleep(at_least).await;
                let freed = async {
                    tokio::time::sleep(VISIT_REST_MAX.saturating_sub(at_least)).await;
                    self.places.freed().await;
                };
                tokio::select! {
                    () = self.wake.rung() => {}
                    () = freed => {}
                    () = tokio::time::sleep(at_most.saturating_sub(at_least)) => {}
                }
            }
        }
    }
}

/// How many lanes a claim visits. Each of them gets a place at least, so a claim of as many lanes as places are free
/// would take all of them. Half as many leave some for lanes that hold none.
fn lanes_max(places: usize) -> usize {
    (places / 2).clamp(1, LANES_PER_CLAIM_MAX)
}

/// Converts a count that is always far below the limit of `i32`.
fn small(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_stays_while_lanes_are_left_out() {
        let start = DateTime::from_timestamp(1_800_000_000, 0).expect("in range");
        let at = |seconds| start + TimeDelta::seconds(seconds);
        let crowded = &[Uuid::from_u128(1)][..];
        let started = Instant::now();
        let mut progress = Progress::new(started);
        assert_eq!(progress.next_from(false, started), None, "a worker that has not looked yet looks at everything");
        for (now, due_at, left_out, mark) in [
            (10, Some(at(12)), &[][..], Some(at(9))),
            // The crowded lane was due at 9, when it was last visited; nothing else is due.
            (20, None, crowded, Some(at(9))),
            (30, Some(at(31)), crowded, Some(at(9))),
            // The lane is visited again, and has more deliveries.
            (40, Some(at(33)), &[][..], Some(at(33))),
            (50, None, &[][..], Some(at(49))),
        ] {
            progress.came_to(&NextDue { now: at(now), due_at }, left_out);
            assert_eq!(progress.next_from(false, started), mark, "at {now}");
        }
        let later = started + SWEEP_EVERY * 2;
        assert_eq!(progress.next_from(false, later), None, "a sweep");
        progress.came_to(&NextDue { now: at(60), due_at: None }, crowded);
        assert_eq!(progress.next_from(false, later), None, "the sweep goes on until it leaves nothing out");
    }
}
