//! The places of a worker: how many deliveries it may hold at once, and how many of them each lane holds. A lane is
//! visited only while it holds fewer places than are free, so that a few receivers that hang cannot take up a whole
//! worker: n hanging lanes together hold about n / (n + 1) of the places: one lane half, two lanes two thirds. The last
//! free place is only for a lane that holds none.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use postrider_core::process::{gauges, heartbeat::Load};
use tokio::sync::Notify;
use uuid::Uuid;

/// The places of a worker, taken and free.
#[derive(Debug)]
pub struct Places {
    all: usize,
    taken: Mutex<HashMap<Uuid, usize>>,
    /// How many have been taken since the worker was started.
    ever: AtomicU64,
    freed: Notify,
}

/// A place that is taken. It is free again when it is dropped, however its delivery ended.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    lane: Uuid,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.give_back(self.lane);
    }
}

/// The free places at one moment, and the lanes that should not be visited then.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct FreePlaces {
    /// How many places are free.
    pub count: usize,
    /// Lanes that hold as many places as are free, or more; a claim leaves them out.
    pub at_share: Vec<Uuid>,
}

impl Places {
    /// A worker's places, all of them free.
    #[must_use]
    pub fn new(all: usize) -> Self {
        Self { all, taken: Mutex::default(), ever: AtomicU64::default(), freed: Notify::new() }
    }

    /// The places that are free now.
    #[must_use]
    pub fn free(&self) -> FreePlaces {
        let taken = self.taken.lock().expect("nothing panics while it is held");
        let count = self.all.saturating_sub(taken.values().sum());
        let at_share = taken.iter().filter(|(_, held)| **held >= count).map(|(lane, _)| *lane);
        FreePlaces { count, at_share: at_share.collect() }
    }

    /// Takes a place for a delivery of this lane; the caller has checked that one is free.
    #[must_use]
    pub fn take(self: &Arc<Self>, lane: Uuid) -> Place {
        self.ever.fetch_add(1, Ordering::Relaxed);
        *self.taken.lock().expect("nothing panics while it is held").entry(lane).or_default() += 1;
        Place { places: Arc::clone(self), lane }
    }

    /// What the worker is busy with.
    #[must_use]
    pub fn load(&self) -> Load {
        let free = self.free().count;
        let claimed = self.ever.load(Ordering::Relaxed);
        Load { places_used: self.all.saturating_sub(free), places_free: free, claimed }
    }

    fn give_back(&self, lane: Uuid) {
        let mut taken = self.taken.lock().expect("nothing panics while it is held");
        if let Some(held) = taken.get_mut(&lane) {
            *held -= 1;
            if *held == 0 {
                taken.remove(&lane);
            }
        }
        drop(taken);
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

    #[test]
    fn a_lane_is_crowded_when_it_holds_as_much_as_is_free() {
        let (slow, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let places = Arc::new(Places::new(8));
        assert_eq!(places.free(), FreePlaces { count: 8, at_share: vec![] });
        let mut held: Vec<_> = (0..3).map(|_| places.take(slow)).collect();
        assert_eq!(places.free(), FreePlaces { count: 5, at_share: vec![] });
        held.push(places.take(slow));
        assert_eq!(places.free(), FreePlaces { count: 4, at_share: vec![slow] });
        let one = places.take(other);
        assert_eq!(places.free(), FreePlaces { count: 3, at_share: vec![slow] });
        held.truncate(2);
        assert_eq!(places.free(), FreePlaces { count: 5, at_share: vec![] });
        drop((held, one));
        assert_eq!(places.free(), FreePlaces { count: 8, at_share: vec![] });
    }
}
