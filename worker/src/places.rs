//! The places of a worker: how many deliveries it may hold at once, and how many of them each lane holds. Two rules
//! keep receivers that hang from taking up a whole worker.
//!
//! A lane is visited only while it holds fewer places than are free: one such lane takes half of the places, two take
//! two thirds, n take n / (n + 1).
//!
//! Where many hang, that leaves too few for the others. So some places are not for slow lanes. A lane is slow when its
//! last attempt took long, or when it has held places for that long without an attempt that ended quickly.

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
/// One of so many places, but at least one, is not for slow lanes. A worker with a single place keeps none from them.
const KEPT_FROM_SLOW: usize = 16;
/// A claim that may visit slow lanes takes at most so many places. Slow attempts often end together, and whoever else
/// has a delivery should not wait until all these places are taken again.
const CLAIMED_WITH_SLOW_MAX: usize = 64;
/// A lane that holds no place is known to be slow for so long, and so many such lanes are known at most.
const SLOW_KNOWN_FOR: Duration = Duration::from_secs(60);
const SLOW_KNOWN_MAX: usize = 1000;

/// The places of a worker, taken and free.
#[derive(Debug)]
pub struct Places {
    all: usize,
    lanes: Mutex<HashMap<Uuid, Lane>>,
    /// How many have been taken since the worker was started.
    ever: AtomicU64,
    freed: Notify,
}

/// What is known of a lane that holds places, or that is slow.
#[derive(Clone, Copy, Debug)]
struct Lane {
    held: usize,
    /// When it took its first place, or when an attempt of it last ended.
    changed_at: Instant,
    /// Whether the attempt that ended last took long.
    was_slow: bool,
}

impl Lane {
    fn is_slow(&self, now: Instant) -> bool {
        self.was_slow || (self.held > 0 && now.duration_since(self.changed_at) >= SLOW_AFTER)
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

/// The free places at one moment, and what a claim may do with them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct FreePlaces {
    /// How many places are free.
    pub count: usize,
    /// How many of them the claim may take: not all, where it may visit lanes that are slow.
    pub claimable: usize,
    /// Lanes that it leaves out, because they hold as many places as they may.
    pub left_out: Vec<Uuid>,
}

impl Places {
    /// A worker's places, all of them free.
    #[must_use]
    pub fn new(all: usize) -> Self {
        Self { all, lanes: Mutex::default(), ever: AtomicU64::default(), freed: Notify::new() }
    }

    /// The places that are free now.
    #[must_use]
    pub fn free(&self) -> FreePlaces {
        self.free_at(Instant::now())
    }

    fn free_at(&self, now: Instant) -> FreePlaces {
        let mut lanes = self.lanes.lock().expect("nothing panics while it is held");
        let mut idle = 0;
        lanes.retain(|_, lane| {
            idle += usize::from(lane.held == 0);
            lane.held > 0 || (idle <= SLOW_KNOWN_MAX && now.duration_since(lane.changed_at) < SLOW_KNOWN_FOR)
        });
        let count = self.all.saturating_sub(lanes.values().map(|lane| lane.held).sum());
        let kept = (self.all / KEPT_FROM_SLOW).max(1).min(self.all.saturating_sub(1));
        let for_slow = count.saturating_sub(kept);
        let (mut claimable, mut left_out) = (count, Vec::new());
        for (id, lane) in lanes.iter() {
            let is_slow = lane.is_slow(now);
            if lane.held >= if is_slow { for_slow } else { count } {
                left_out.push(*id);
            } else if is_slow {
                claimable = for_slow.min(CLAIMED_WITH_SLOW_MAX);
            }
        }
        FreePlaces { count, claimable, left_out }
    }

    /// Takes a place for a delivery of this lane; the caller has checked that one is free.
    #[must_use]
    pub fn take(self: &Arc<Self>, lane: Uuid) -> Place {
        self.ever.fetch_add(1, Ordering::Relaxed);
        let taken_at = Instant::now();
        let mut lanes = self.lanes.lock().expect("nothing panics while it is held");
        let known = lanes.entry(lane).or_insert(Lane { held: 0, changed_at: taken_at, was_slow: false });
        if known.held == 0 {
            known.changed_at = taken_at;
        }
        known.held += 1;
        drop(lanes);
        Place { places: Arc::clone(self), lane, taken_at }
    }

    /// What the worker is busy with.
    #[must_use]
    pub fn load(&self) -> Load {
        let free = self.free().count;
        let claimed = self.ever.load(Ordering::Relaxed);
        Load { places_used: self.all.saturating_sub(free), places_free: free, claimed }
    }

    fn give_back(&self, lane: Uuid, took: Duration, now: Instant) {
        let mut lanes = self.lanes.lock().expect("nothing panics while it is held");
        if let Some(known) = lanes.get_mut(&lane) {
            *known = Lane { held: known.held.saturating_sub(1), changed_at: now, was_slow: took >= SLOW_AFTER };
            if known.held == 0 && !known.was_slow {
                lanes.remove(&lane);
            }
        }
        drop(lanes);
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

    fn free(count: usize, claimable: usize, left_out: &[Uuid]) -> FreePlaces {
        FreePlaces { count, claimable, left_out: left_out.to_vec() }
    }

    #[test]
    fn a_lane_is_left_out_when_it_holds_as_much_as_is_free() {
        let (busy, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let places = Arc::new(Places::new(8));
        assert_eq!(places.free(), free(8, 8, &[]));
        let mut held: Vec<_> = (0..3).map(|_| places.take(busy)).collect();
        assert_eq!(places.free(), free(5, 5, &[]));
        held.push(places.take(busy));
        assert_eq!(places.free(), free(4, 4, &[busy]));
        let one = places.take(other);
        assert_eq!(places.free(), free(3, 3, &[busy]));
        held.truncate(2);
        assert_eq!(places.free(), free(5, 5, &[]));
        drop((held, one));
        assert_eq!(places.free(), free(8, 8, &[]));
    }

    #[test]
    fn a_worker_with_one_place_gives_it_to_slow_lanes_too() {
        let places = Arc::new(Places::new(1));
        let place = places.take(Uuid::from_u128(1));
        places.give_back(Uuid::from_u128(1), SLOW_AFTER, Instant::now());
        std::mem::forget(place);
        assert_eq!(places.free(), free(1, 1, &[]));
    }

    #[test]
    fn some_places_are_kept_from_slow_lanes() {
        let (slow, quick) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let places = Arc::new(Places::new(32));
        let held: Vec<_> = (0..10).map(|_| places.take(slow)).collect();
        let other = places.take(quick);
        let now = Instant::now();
        assert_eq!(places.free_at(now), free(21, 21, &[]));
        assert_eq!(places.free_at(now + SLOW_AFTER), free(21, 19, &[]), "both have held places for long");
        places.give_back(quick, SLOW_AFTER / 2, now + SLOW_AFTER);
        std::mem::forget(other);
        assert_eq!(places.free_at(now + SLOW_AFTER), free(22, 20, &[]), "one of them answers quickly");
        for _ in 0..10 {
            places.give_back(slow, SLOW_AFTER, now + SLOW_AFTER);
        }
        held.into_iter().for_each(std::mem::forget);
        assert_eq!(places.free_at(now + SLOW_AFTER), free(32, 30, &[]), "a slow lane may come back");
        let others: Vec<_> = (3..33).map(|lane| places.take(Uuid::from_u128(lane))).collect();
        assert_eq!(places.free_at(now + SLOW_AFTER / 2), free(2, 2, &[slow]), "but the last places are not for it");
        drop(others);
        assert_eq!(places.free_at(now + SLOW_AFTER + SLOW_KNOWN_FOR), free(32, 32, &[]), "it is forgotten");
    }
}
