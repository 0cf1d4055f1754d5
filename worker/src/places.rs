//! The places of a worker: how many deliveries it may hold at once, and how many of them each lane holds. Two rules
//! keep receivers that hang from taking up a whole worker.
//!
//! A lane is visited only while it holds fewer places than are free: one such lane takes half of the places, two take
//! two thirds, n take n / (n + 1).
//!
//! Where many hang, that leaves too few for the others. So some places are kept for lanes that are known to be quick,
//! and for the first delivery of a lane of which nothing is known. A lane is quick when its last attempt ended quickly.
//! It is slow when its last attempt took long, or when it has held places for that long without an attempt that ended.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use postrider_core::process::{gauges, heartbeat::Load};
use tokio::sync::Notify;
use uuid::Uuid;

/// An attempt that takes so long makes its lane slow.
const SLOW_AFTER: Duration = Duration::from_secs(1);
/// One of so many places, but at least one, is kept for quick lanes. A worker with a single place keeps none.
const KEPT_FOR_QUICK: usize = 16;
/// Slow attempts often end together, and starting as many again at once would keep others waiting. So as long as slow
/// lanes have work, a claim visits them only once in so long, and then takes at most one of so many places. That is all
/// places within less time than a slow attempt takes, so slow lanes get all the places that they may have.
const SLOW_TURN: Duration = Duration::from_millis(25);
const CLAIMED_WITH_SLOW: usize = 32;
/// The pace of a lane that holds no place is known for so long, and so many such lanes of each pace are known at most.
const KNOWN_FOR: Duration = Duration::from_secs(60);
const KNOWN_MAX: usize = 1000;

/// The places of a worker, taken and free.
#[derive(Debug)]
pub struct Places {
    all: usize,
    known: Mutex<Known>,
    /// How many have been taken since the worker was started.
    ever: AtomicU64,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Known {
    lanes: HashMap<Uuid, Lane>,
    /// When a claim last might visit slow lanes, and whether deliveries of slow lanes have been taken since.
    slow_turn_at: Option<Instant>,
    slow_taken: bool,
}

impl Known {
    fn held(&self) -> usize {
        self.lanes.values().map(|lane| lane.held).sum()
    }

    fn forget(&mut self, now: Instant) {
        let (mut idle_quick, mut idle_slow) = (0, 0);
        self.lanes.retain(|_, lane| {
            let idle = if lane.last == Pace::Slow { &mut idle_slow } else { &mut idle_quick };
            *idle += usize::from(lane.held == 0);
            lane.held > 0 || (*idle <= KNOWN_MAX && now.duration_since(lane.changed_at) < KNOWN_FOR)
        });
    }
}

/// What is known of a lane that holds places, or did so not long ago.
#[derive(Clone, Copy, Debug)]
struct Lane {
    held: usize,
    /// When it took its first place, or when an attempt of it last ended.
    changed_at: Instant,
    /// How long the attempt took that ended last.
    last: Pace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    Unknown,
    Quick,
    Slow,
}

impl Lane {
    fn pace(&self, now: Instant) -> Pace {
        let is_silent = self.held > 0 && now.duration_since(self.changed_at) >= SLOW_AFTER;
        if is_silent { Pace::Slow } else { self.last }
    }
}

/// A place that is taken. It is free again when it is dropped, however its delivery ended.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    lane: Uuid,
    taken_at: Instant,
}

impl Drop for Place {
    fn drop(&mut self) {
        let now = Instant::now();
        self.places.give_back(self.lane, now.duration_since(self.taken_at), now);
    }
}

/// What a claim may do.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// How many deliveries it may take; zero only where no place is free.
    pub claimable: usize,
    /// Lanes that it leaves out: they hold as many places as they may, or it is not the turn of slow lanes.
    pub left_out: Vec<Uuid>,
    /// When it will be the turn of the slow lanes that are left out.
    pub slow_turn_in: Option<Duration>,
}

impl Places {
    /// A worker's places, all of them free.
    #[must_use]
    pub fn new(all: usize) -> Self {
        Self { all, known: Mutex::default(), ever: AtomicU64::default(), freed: Notify::new() }
    }

    /// What the claim may do that begins now.
    #[must_use]
    pub fn offer(&self) -> Offer {
        self.offer_at(Instant::now())
    }

    fn offer_at(&self, now: Instant) -> Offer {
        let mut known = self.known.lock().expect("nothing panics while it is held");
        known.forget(now);
        let free = self.all.saturating_sub(known.held());
        let kept = (self.all / KEPT_FOR_QUICK).max(1).min(self.all.saturating_sub(1));
        let not_kept = free.saturating_sub(kept);
        let (mut slow, mut left_out) = (Vec::new(), Vec::new());
        for (id, lane) in &known.lanes {
            let pace = lane.pace(now);
            if lane.held >= if pace == Pace::Quick { free } else { not_kept } {
                left_out.push(*id);
            } else if pace == Pace::Slow {
                slow.push(*id);
            }
        }
        // Of the places that are kept, a claim takes half: the rest is for lanes that it does not visit.
        let claimable = not_kept.max(free.div_ceil(2));
        if slow.is_empty() {
            return Offer { claimable, left_out, slow_turn_in: None };
        }
        let turn_at = known.slow_turn_at.filter(|_| known.slow_taken).map_or(now, |at| at + SLOW_TURN);
        if turn_at > now {
            left_out.extend(slow);
            return Offer { claimable, left_out, slow_turn_in: Some(turn_at - now) };
        }
        let at_most = if known.slow_taken { (self.all / CLAIMED_WITH_SLOW).max(1) } else { claimable };
        known.slow_turn_at = Some(now);
        known.slow_taken = false;
        Offer { claimable: not_kept.min(at_most), left_out, slow_turn_in: None }
    }

    /// Takes a place for a delivery of this lane; the caller has checked that one is free.
    #[must_use]
    pub fn take(self: &Arc<Self>, lane: Uuid) -> Place {
        self.ever.fetch_add(1, Ordering::Relaxed);
        let taken_at = Instant::now();
        let mut known = self.known.lock().expect("nothing panics while it is held");
        let of_lane = known.lanes.entry(lane).or_insert(Lane { held: 0, changed_at: taken_at, last: Pace::Unknown });
        if of_lane.held == 0 {
            of_lane.changed_at = taken_at;
        }
        of_lane.held += 1;
        let is_slow = of_lane.pace(taken_at) == Pace::Slow;
        known.slow_taken |= is_slow;
        drop(known);
        Place { places: Arc::clone(self), lane, taken_at }
    }

    /// What the worker is busy with.
    #[must_use]
    pub fn load(&self) -> Load {
        let used = self.known.lock().expect("nothing panics while it is held").held();
        let claimed = self.ever.load(Ordering::Relaxed);
        Load { places_used: used, places_free: self.all.saturating_sub(used), claimed }
    }

    fn give_back(&self, lane: Uuid, took: Duration, now: Instant) {
        let mut known = self.known.lock().expect("nothing panics while it is held");
        if let Some(of_lane) = known.lanes.get_mut(&lane) {
            let last = if took >= SLOW_AFTER { Pace::Slow } else { Pace::Quick };
            *of_lane = Lane { held: of_lane.held.saturating_sub(1), changed_at: now, last };
        }
        drop(known);
        self.freed.notify_one();
    }

    /// Waits until a place has been given back since the last call.
    pub async fn freed(&self) {
        self.freed.notified().await;
    }
}

/// Shows how many places are taken and free, for as long as the task lives.
pub async fn show(places: Arc<Places>) {
    loop {
        let load = places.load();
        for (state, count) in [("used", load.places_used), ("free", load.places_free)] {
            metrics::gauge!("postrider_worker_places", "state" => state).set(gauges::number(count));
        }
        tokio::time::sleep(gauges::SHOW_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(claimable: usize, left_out: &[Uuid]) -> Offer {
        Offer { claimable, left_out: left_out.to_vec(), slow_turn_in: None }
    }

    fn take(places: &Arc<Places>, lane: Uuid, count: usize) {
        (0..count).for_each(|_| std::mem::forget(places.take(lane)));
    }

    fn give_back(places: &Places, lane: Uuid, count: usize, took: Duration, now: Instant) {
        (0..count).for_each(|_| places.give_back(lane, took, now));
    }

    #[test]
    fn a_lane_is_left_out_when_it_holds_as_much_as_is_free() {
        let (busy, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let places = Arc::new(Places::new(8));
        assert_eq!(places.offer(), offer(7, &[]));
        drop(places.take(busy));
        let mut held: Vec<_> = (0..3).map(|_| places.take(busy)).collect();
        assert_eq!(places.offer(), offer(4, &[]));
        held.push(places.take(busy));
        assert_eq!(places.offer(), offer(3, &[busy]));
        let one = places.take(other);
        assert_eq!(places.offer(), offer(2, &[busy]));
        held.truncate(2);
        assert_eq!(places.offer(), offer(4, &[]));
        drop((held, one));
        assert_eq!(places.offer(), offer(7, &[]));
    }

    #[test]
    fn a_worker_with_one_place_gives_it_to_slow_lanes_too() {
        let (slow, now) = (Uuid::from_u128(1), Instant::now());
        let places = Arc::new(Places::new(1));
        take(&places, slow, 1);
        assert_eq!(places.offer_at(now), offer(0, &[slow]));
        give_back(&places, slow, 1, SLOW_AFTER, now);
        assert_eq!(places.offer_at(now), offer(1, &[]));
    }

    #[test]
    fn lanes_of_unknown_pace_do_not_take_the_places_that_are_kept() {
        let (one, two, new) = (Uuid::from_u128(1), Uuid::from_u128(2), Uuid::from_u128(3));
        let (places, now) = (Arc::new(Places::new(32)), Instant::now());
        take(&places, one, 15);
        take(&places, two, 15);
        let offered = places.offer_at(now);
        assert_eq!((offered.claimable, offered.left_out.len()), (1, 2), "one place is for lanes that are not visited");
        take(&places, new, 1);
        assert_eq!(places.offer_at(now).left_out.len(), 3, "a new lane has its first place, and no more");
        give_back(&places, new, 1, SLOW_AFTER / 2, now);
        take(&places, new, 1);
        assert_eq!(places.offer_at(now).left_out.len(), 3, "it holds as many as are free");
        give_back(&places, one, 1, SLOW_AFTER / 2, now);
        assert!(!places.offer_at(now).left_out.contains(&new), "it is quick, and may have a second one");
    }

    #[test]
    fn some_places_are_kept_from_slow_lanes() {
        let (slow, quick) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let places = Arc::new(Places::new(64));
        take(&places, slow, 20);
        take(&places, quick, 1);
        let now = Instant::now() + SLOW_AFTER;
        give_back(&places, quick, 1, SLOW_AFTER / 2, now);
        assert_eq!(places.offer_at(now), offer(40, &[]));
        give_back(&places, slow, 20, SLOW_AFTER, now);
        assert_eq!(places.offer_at(now), offer(60, &[]), "a slow lane may come back");
        take(&places, quick, 60);
        assert_eq!(places.offer_at(now).left_out.len(), 2, "but the last places are not for it");
        give_back(&places, quick, 60, SLOW_AFTER / 2, now);
        assert_eq!(places.offer_at(now + KNOWN_FOR), offer(60, &[]));
        assert_eq!(places.known.lock().expect("whole").lanes.len(), 0, "paces are forgotten");
    }

    #[test]
    fn slow_lanes_take_turns() {
        let slow = Uuid::from_u128(1);
        let places = Arc::new(Places::new(64));
        take(&places, slow, 20);
        let now = Instant::now() + SLOW_AFTER;
        give_back(&places, slow, 20, SLOW_AFTER, now);
        assert_eq!(places.offer_at(now), offer(60, &[]), "nothing says that it has work");
        take(&places, slow, 10);
        let (passed, left) = (SLOW_TURN / 5, SLOW_TURN / 5 * 4);
        assert_eq!(
            places.offer_at(now + passed),
            Offer { claimable: 50, left_out: vec![slow], slow_turn_in: Some(left) }
        );
        assert_eq!(places.offer_at(now + SLOW_TURN), offer(2, &[]), "few of its attempts begin together");
        assert_eq!(places.offer_at(now + SLOW_TURN), offer(50, &[]), "it had no work, so the next claim is as any");
    }
}
