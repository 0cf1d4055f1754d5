//! Wakes the workers after a commit, over a separate connection: a `NOTIFY` in the ingest transaction would make
//! commits queue for one global lock. Before it notifies, it looks again at the lanes that ingest left alone.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use sqlx::PgPool;
use tokio::{sync::Notify, time::Instant};
use uuid::Uuid;

use crate::{
    hop,
    queue::{
        self,
        accept::LeftAlone,
        rest::{Backoff, Rest},
    },
};

/// How long the waker rests after a wake-up, as a multiple of what the wake-up took: where it is cheap nobody waits for
/// it, and where it is dear it comes seldom.
const WAKE_REST: u32 = 3;
/// The longest such rest.
const WAKE_REST_MAX: Duration = Duration::from_millis(10);
/// The first pause after a wake-up that failed or met locked lanes; each next one is twice as long.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(1);
/// The longest such pause.
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(500);
/// Lanes that may wait for another look by the waker, at most. Any further lane is found by the second look of the
/// claims.
const UNARMED_LANES_MAX: usize = 1000;

/// Collects what workers must be told, until the next wake-up is sent.
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
    /// Lanes that were already due, or locked, and so were left alone, each with one delivery that was stored in it.
    unarmed: HashMap<Uuid, Uuid>,
}

impl Waker {
    /// Notes what a transaction that took this long did to lanes: those that it armed, and those that it left alone,
    /// which are looked at again.
    pub fn note_stored(&self, armed: &[Uuid], took: Duration, left_alone: LeftAlone) {
        let mut unsent = self.unsent.lock().expect("nothing panics while it is held");
        unsent.armed |= !armed.is_empty();
        unsent.took = unsent.took.max(took);
        let room = UNARMED_LANES_MAX.saturating_sub(unsent.unarmed.len());
        unsent.unarmed.extend(left_alone.into_iter().take(room));
        drop(unsent);
        self.called.notify_one();
    }

    /// Sends what has been noted, and ends.
    pub fn close(&self) {
        self.unsent.lock().expect("nothing panics while it is held").closed = true;
        self.called.notify_one();
    }

    /// Sends wake-ups with a rest after each, and always one after the last note. After [`Self::close`] it
    /// sends the last one and ends.
    pub async fn run(self: Arc<Self>, pool: PgPool) {
        let mut closed = false;
        let mut retry = Backoff::new(RETRY_PAUSE_MIN, RETRY_PAUSE_MAX);
        let mut rest = Rest::new(WAKE_REST, WAKE_REST_MAX);
        while !closed {
            self.called.notified().await;
            let started = Instant::now();
            let unsent = std::mem::take(&mut *self.unsent.lock().expect("nothing panics while it is held"));
            closed = unsent.closed;
            let next = if self.send(&pool, unsent).await {
                retry.reset();
                let ended = Instant::now();
                ended + rest.after(ended - started, ended.into())
            } else {
                Instant::now() + retry.pause()
            };
            if !closed {
                tokio::time::sleep_until(next).await;
            }
        }
    }

    /// Sends one wake-up; returns whether everything was sent. What was not sent is noted again.
    async fn send(&self, pool: &PgPool, unsent: Unsent) -> bool {
        let unarmed: Vec<_> = unsent.unarmed.values().copied().collect();
        if !unsent.armed && unarmed.is_empty() {
            return true;
        }
        hop!("waking");
        let again = match queue::wake(pool, unsent.armed, unsent.took, &unarmed).await {
            Ok(woken) if woken.locked.is_empty() => return true,
            Ok(woken) => {
                let locked: HashSet<_> = woken.locked.into_iter().collect();
                let unarmed = unsent.unarmed.into_iter().filter(|(_, delivery)| locked.contains(delivery));
                Unsent { unarmed: unarmed.collect(), ..Unsent::default() }
            }
            Err(error) => {
                // Nothing is lost: the wake-up is tried again, and the workers look by themselves before long.
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

#[cfg(test)]
mod tests {
    use sqlx::postgres::PgPoolOptions;
    use tokio::net::TcpListener;

    use super::*;

    /// The pauses are 1, 2, 4 … milliseconds, so there are about ten tries in a second.
    #[tokio::test]
    async fn a_server_that_refuses_is_asked_less_and_less_often() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let url = format!("postgres://nobody@127.0.0.1:{port}/nothing?sslmode=disable");
        let waker = Arc::<Waker>::default();
        waker.note_stored(&[Uuid::nil()], Duration::ZERO, LeftAlone::new());
        let pool = PgPoolOptions::new().connect_lazy(&url).expect("a valid URL");
        let running = tokio::spawn(waker.run(pool));
        let mut tries = 0;
        let counting = async {
            // Each connection is closed at once.
            while listener.accept().await.is_ok() {
                tries += 1;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), counting).await;
        running.abort();
        assert!((2..=15).contains(&tries), "{tries} tries");
    }
}
