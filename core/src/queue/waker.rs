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
/// Lanes that wait for a second look, at most; a lane beyond that is found by its own second look.
const UNARMED_LANES_MAX: usize = 1000;

/// What is unsent to the workers since the last wake-up.
#[derive(Default)]
pub struct Waker {
    unsent: Mutex<Unsent>,
    called: Notify,
}

#[derive(Default)]
struct Unsent {
    closed: bool,
    armed: bool,
    /// Lanes that were due and so were left alone, each with one of the deliveries that were put there.
    unarmed: HashMap<Uuid, Uuid>,
}

impl Waker {
    /// Notes the lanes that were armed, and of those that were left alone a delivery each, from `put`: lanes and what
    /// was put there.
    pub fn note_stored(&self, armed: &[Uuid], stored: impl Iterator<Item = (Uuid, Uuid)>) {
        let mut unsent = self.unsent.lock().expect("nothing panics while it is held");
        unsent.armed |= !armed.is_empty();
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
        while !closed {
            self.called.notified().await;
            let next = Instant::now() + WAKE_PACE;
            let unsent = std::mem::take(&mut *self.unsent.lock().expect("nothing panics while it is held"));
            closed = unsent.closed;
            let unarmed: Vec<_> = unsent.unarmed.values().copied().collect();
            if (unsent.armed || !unarmed.is_empty())
                && let Err(error) = queue::wake(&pool, unsent.armed, &unarmed).await
            {
                // Nothing is lost: it is tried again, and the workers look by themselves before long.
                tracing::warn!(%error, "the workers could not be woken");
                let mut again = self.unsent.lock().expect("nothing panics while it is held");
                again.armed |= unsent.armed;
                again.unarmed.extend(unsent.unarmed);
                self.called.notify_one();
            }
            if !closed {
                tokio::time::sleep_until(next).await;
            }
        }
    }
}
