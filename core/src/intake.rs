//! Group commit: one writer takes whatever events are waiting and stores them in one transaction; each caller is
//! answered after that commit. There is no timer: a lone event waits for nobody, and batches grow by themselves while
//! a commit is under way. After a commit the workers are woken by a connection of its own.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use sqlx::PgPool;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::Instant,
};
use uuid::Uuid;

use crate::{
    Error, Result,
    error::is_outage,
    event::NewEvent,
    queue::{self, NewDelivery},
};

/// Events that may wait for the writer.
pub const EVENTS_WAITING_MAX: usize = 4096;
/// Bytes of payload that may wait for the writer.
pub const BYTES_WAITING_MAX: usize = 64 << 20;
/// Events written in one transaction, at most.
const EVENTS_PER_BATCH_MAX: usize = 256;
/// Wake-ups are sent this far apart, at least. Far below the 10 ms of the design: at a steady 100 events a second, each
/// would find the one before it still resting.
const WAKE_PACE: Duration = Duration::from_millis(4);
/// Lanes that wait for a second look, at most; a lane beyond that is found by its own second look.
const LEFT_LANES_MAX: usize = 1000;

const FULL: Error = Error::Unavailable("too many events are waiting to be stored; try again in a moment");

/// The way in for events.
#[derive(Clone)]
pub struct Intake {
    entries: mpsc::Sender<Entry>,
    bytes: Arc<Semaphore>,
}

struct Entry {
    event: NewEvent,
    deliveries: Vec<NewDelivery>,
    reply: oneshot::Sender<Result<()>>,
    _bytes: OwnedSemaphorePermit,
}

impl Intake {
    /// An intake and the tasks that make it work; they end when the intake is dropped, after what waits is stored.
    /// `ingest` serves the writer, `wake` the wake-ups.
    #[must_use]
    pub fn start(ingest: PgPool, wake: PgPool) -> (Self, tokio::task::JoinHandle<()>) {
        let (entries, waiting) = mpsc::channel(EVENTS_WAITING_MAX);
        let waker = Arc::new(Waker::default());
        let calling = tokio::spawn(Arc::clone(&waker).run(wake));
        let closing = Arc::clone(&waker);
        let writer = tokio::spawn(async move {
            write(ingest, waiting, &waker).await;
            // The last wake-up is sent before the process ends.
            closing.close();
            let _ = calling.await;
        });
        (Self { entries, bytes: Arc::new(Semaphore::new(BYTES_WAITING_MAX)) }, writer)
    }

    /// Stores an event with its deliveries. When it returns well, they are on disk.
    ///
    /// # Errors
    /// At once where too much is waiting; after the fact where the database is away or refuses.
    pub async fn accept(&self, event: NewEvent, deliveries: Vec<NewDelivery>) -> Result<()> {
        let bytes = u32::try_from(event.payload.len()).map_err(|_| FULL)?;
        let permit = Arc::clone(&self.bytes).try_acquire_many_owned(bytes).map_err(|_| FULL)?;
        let (reply, answer) = oneshot::channel();
        let entry = Entry { event, deliveries, reply, _bytes: permit };
        self.entries.try_send(entry).map_err(|_| FULL)?;
        answer.await.map_err(|_| Error::Unavailable("the server is stopping"))?
    }
}

async fn write(pool: PgPool, mut waiting: mpsc::Receiver<Entry>, waker: &Waker) {
    let mut batch = Vec::with_capacity(EVENTS_PER_BATCH_MAX);
    while waiting.recv_many(&mut batch, EVENTS_PER_BATCH_MAX).await > 0 {
        metrics::histogram!("postrider_ingest_batch_events").record(u32::try_from(batch.len()).unwrap_or(u32::MAX));
        match store(&pool, &batch, waker).await {
            Ok(()) => batch.drain(..).for_each(|entry| drop(entry.reply.send(Ok(())))),
            Err(error) if is_outage(&error) || batch.len() == 1 => answer_all(&mut batch, &error),
            // One row is poison; alone, it fails its own caller only.
            Err(_) => {
                batch.reverse();
                while let Some(entry) = batch.pop() {
                    let stored = store(&pool, std::slice::from_ref(&entry), waker).await;
                    let outage = stored.as_ref().is_err_and(is_outage);
                    if let (true, Err(error)) = (outage, &stored) {
                        answer_all(&mut batch, error);
                    }
                    let _ = entry.reply.send(stored.map_err(Error::from));
                }
            }
        }
    }
}

/// One transaction; afterwards the lanes it touched are handed to the waker.
async fn store(pool: &PgPool, batch: &[Entry], waker: &Waker) -> std::result::Result<(), sqlx::Error> {
    let deliveries: Vec<_> = batch.iter().flat_map(|entry| entry.deliveries.iter().copied()).collect();
    let armed = queue::accept(pool, batch.iter().map(|entry| &entry.event), &deliveries).await?;
    waker.owe(&armed, &deliveries);
    Ok(())
}

fn answer_all(batch: &mut Vec<Entry>, error: &sqlx::Error) {
    tracing::error!(%error, events = batch.len(), "events could not be stored");
    for entry in batch.drain(..) {
        let answer = if is_outage(error) {
            Error::Unavailable("the database is not reachable, or too slow, at the moment")
        } else {
            Error::internal(error.to_string())
        };
        let _ = entry.reply.send(Err(answer));
    }
}

/// What is owed to the workers since the last wake-up.
#[derive(Default)]
struct Waker {
    owed: Mutex<Owed>,
    called: Notify,
}

#[derive(Default)]
struct Owed {
    closed: bool,
    armed: bool,
    /// Lanes that were due and so were left alone, each with one of the deliveries that were put there.
    left: HashMap<Uuid, Uuid>,
}

impl Waker {
    fn owe(&self, armed: &[Uuid], deliveries: &[NewDelivery]) {
        let mut owed = self.owed.lock().expect("nothing panics while it is held");
        owed.armed |= !armed.is_empty();
        for delivery in deliveries {
            if owed.left.len() < LEFT_LANES_MAX && !armed.contains(&delivery.lane_id) {
                owed.left.insert(delivery.lane_id, delivery.id.0);
            }
        }
        drop(owed);
        self.called.notify_one();
    }

    fn close(&self) {
        self.owed.lock().expect("nothing panics while it is held").closed = true;
        self.called.notify_one();
    }

    /// At most one wake-up per pace, and always one after the last call. Ends when it is closed, after that one.
    async fn run(self: Arc<Self>, pool: PgPool) {
        let mut closed = false;
        while !closed {
            self.called.notified().await;
            let next = Instant::now() + WAKE_PACE;
            let owed = std::mem::take(&mut *self.owed.lock().expect("nothing panics while it is held"));
            closed = owed.closed;
            let left: Vec<_> = owed.left.values().copied().collect();
            if (owed.armed || !left.is_empty())
                && let Err(error) = queue::wake(&pool, owed.armed, &left).await
            {
                // Nothing is lost: it is tried again, and the workers look by themselves before long.
                tracing::warn!(%error, "the workers could not be woken");
                let mut again = self.owed.lock().expect("nothing panics while it is held");
                again.armed |= owed.armed;
                again.left.extend(owed.left);
                self.called.notify_one();
            }
            if !closed {
                tokio::time::sleep_until(next).await;
            }
        }
    }
}
