//! Waking the workers after a commit, on a connection of its own: a `NOTIFY` in the ingest transaction would make
//! commits queue for one global lock. Before it notifies, it looks again at the lanes that ingest left alone.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use sqlx::PgPool;
use tokio::{sync::Notify, time::Instant};
use uuid::Uuid;

use crate::queue;

/// Wake-ups are sent this far apart, at least. Far below the 10 ms of the design: at a steady 100 events a second, each
/// would find the one before it still resting.
const WAKE_PACE: Duration = Duration::from_millis(4);
/// How long a wake-up waits that failed, or that met lanes which somebody else has locked; twice as long each time.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(1);
/// The longest such wait.
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(500);
/// Lanes that wait for a second look, at most; a lane beyond that is found by its own second look.
const UNARMED_LANES_MAX: usize = 1000;

/// What is still to be told to the workers since the last wake-up.
#[derive(Default)]
pub struct Waker {
    unsent: Mutex<Unsent>,
    called: Notify,
}

#[derive(Default)]
struct Unsent {
    closed: bool,
    armed: bool,
    /// How long ago a lane was armed, at most.
    took: Duration,
    /// Lanes that were due or locked and so were left alone, each with one of the deliveries that were stored there.
    unarmed: HashMap<Uuid, Uuid>,
}

impl Waker {
    /// Notes the lanes that were armed by a transaction that took so long, and of those that were left alone a delivery
    /// each, from `stored`: lanes and what was stored there.
    pub fn note_stored(&self, armed: &[Uuid], took: Duration, stored: impl Iterator<Item = (Uuid, Uuid)>) {
        let mut unsent = self.unsent.lock().expect("nothing panics while it is held");
        unsent.armed |= !armed.is_empty();
        unsent.took = unsent.took.max(took);
        let armed: HashSet<_> = armed.iter().collect();
        for (lane, delivery) in stored {
            if unsent.unarmed.len() >= UNARMED_LANES_MAX {
                break;
            }
            if !armed.contains(&lane) {
                unsent.unarmed.insert(lane, delivery);
            }
        }
        drop(unsent);
        self.called.notify_one();
    }

    /// Sends what is unsent, and ends.
    pub fn close(&self) {
        self.unsent.lock().expect("nothing panics while it is held").closed = true;
        self.called.notify_one();
    }

    /// At most one wake-up per pace, and always one after the last call. Ends when it is closed, after that one.
    pub async fn run(self: Arc<Self>, pool: PgPool) {
        let mut closed = false;
        let mut retry_pause = RETRY_PAUSE_MIN;
        while !closed {
            self.called.notified().await;
            let started = Instant::now();
            let unsent = std::mem::take(&mut *self.unsent.lock().expect("nothing panics while it is held"));
            closed = unsent.closed;
            let next = if self.send(&pool, unsent).await {
                retry_pause = RETRY_PAUSE_MIN;
                started + WAKE_PACE
            } else {
                let pause = retry_pause;
                retry_pause = (retry_pause * 2).min(RETRY_PAUSE_MAX);
                Instant::now() + pause
            };
            if !closed {
                tokio::time::sleep_until(next).await;
            }
        }
    }

    /// Sends one wake-up; answers whether all was done. What was not is unsent again.
    async fn send(&self, pool: &PgPool, unsent: Unsent) -> bool {
        let unarmed: Vec<_> = unsent.unarmed.values().copied().collect();
        if !unsent.armed && unarmed.is_empty() {
            return true;
        }
        let again = match queue::wake(pool, unsent.armed, unsent.took, &unarmed).await {
            Ok(woken) if woken.locked.is_empty() => return true,
            Ok(woken) => {
                let locked: HashSet<_> = woken.locked.into_iter().collect();
                let unarmed = unsent.unarmed.into_iter().filter(|(_, delivery)| locked.contains(delivery));
                Unsent { unarmed: unarmed.collect(), ..Unsent::default() }
            }
            Err(error) => {
                // Nothing is lost: it is tried again, and the workers look by themselves before long.
                tracing::warn!(%error, "the workers could not be woken");
                unsent
            }
        };
        let mut unsent = self.unsent.lock().expect("nothing panics while it is held");
        unsent.armed |= again.armed;
        unsent.took = unsent.took.max(again.took);
        for (lane, delivery) in again.unarmed {
            if unsent.unarmed.len() < UNARMED_LANES_MAX {
                unsent.unarmed.entry(lane).or_insert(delivery);
            }
        }
        self.called.notify_one();
        false
    }
}
