//! Group commit: one writer takes all waiting events and stores them in one transaction; each caller is answered after
//! that commit. There is no timer: a lone event waits for no others, and batches grow by themselves while a commit is
//! under way. After a commit the workers are woken over a separate connection ([`crate::queue::waker`]). Nothing here
//! counts the bytes of waiting events: each payload keeps its share of its caller's own byte limit.
//!
//! A batch of few events notifies the workers with its own commit. This writer has one commit under way at a time, so
//! such commits wait for those of other processes at most, and only while there is little to do.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::PgPool;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use uuid::Uuid;

use crate::{
    Error, Result,
    database::{bounded, suspect_sessions},
    error::{is_missing_partition, is_outage},
    event::new_event::NewEvent,
    hop,
    id::{DeliveryId, SubscriptionId},
    live::{Topic, reporter::Reporter, sample::Sighting},
    queue::{
        LATE,
        accept::{Accepted, Atomicity, KeyReused, LeftAlone, Notification, accept, is_key_reused, left_alone},
        waker::Waker,
    },
    tally::Tally,
    upkeep::partition,
};

/// Requests that may wait for the writer; further ones are refused.
pub const REQUESTS_WAITING_MAX: usize = 4096;
/// Requests written in one transaction, at most.
const REQUESTS_PER_BATCH_MAX: usize = 256;
/// Bytes of payload after which a transaction takes in no further request: a slow network must carry them well within
/// [`crate::database::ANSWER_TIMEOUT`].
const BYTES_PER_BATCH: usize = 4 << 20;
/// Deliveries after which a transaction takes in no further request, so that other requests wait for at most one wide
/// fan-out.
const DELIVERIES_PER_BATCH: usize = 2048;

const FULL: Error = Error::Unavailable("too many events are waiting to be stored; try again in a moment");

/// Takes in events and hands them to the writer.
#[derive(Clone)]
pub struct Intake {
    requests: mpsc::Sender<Request>,
    waker: Arc<Waker>,
    tally: Arc<Tally>,
    reporter: Arc<Reporter>,
}

/// The events of one request.
struct Request {
    events: Vec<NewEvent>,
    reply: oneshot::Sender<Result<Vec<Accepted>>>,
}

impl Request {
    fn atomicity(&self) -> Atomicity {
        if self.events.len() == 1 { Atomicity::PerEvent } else { Atomicity::AllOrNothing }
    }

    fn bytes(&self) -> usize {
        self.events.iter().map(|event| event.payload.len()).sum()
    }

    fn deliveries(&self) -> usize {
        self.events.iter().map(|event| event.deliveries.len()).sum()
    }
}

struct Writer {
    pool: PgPool,
    waker: Arc<Waker>,
    tally: Arc<Tally>,
    key_ttl_seconds: u32,
    reporter: Arc<Reporter>,
}

impl Intake {
    /// Starts the tasks that store events and wake workers. They end when the intake is dropped, after waiting events
    /// are stored; if they end before, one of them has broken down, and the process must end. `ingest` serves the
    /// writer, `wake` the wake-ups. Idempotency keys are remembered for `key_ttl_seconds`. Events that were stored are
    /// counted in `tally`, and told to those who watch by the `reporter`.
    #[must_use]
    pub fn start(
        ingest: PgPool,
        wake: PgPool,
        key_ttl_seconds: u32,
        tally: Arc<Tally>,
        reporter: Arc<Reporter>,
    ) -> (Self, JoinHandle<()>) {
        let (requests, waiting) = mpsc::channel(REQUESTS_WAITING_MAX);
        let waker = Arc::new(Waker::default());
        let calling = tokio::spawn(Arc::clone(&waker).run(wake));
        let intake =
            Self { requests, waker: Arc::clone(&waker), tally: Arc::clone(&tally), reporter: Arc::clone(&reporter) };
        let writer = Writer { pool: ingest, waker, tally, reporter, key_ttl_seconds };
        (intake, tokio::spawn(writer.run_beside(calling, waiting)))
    }

    /// Stores the events of one request with the deliveries that they cause. When this returns without an error, they
    /// are on disk.
    ///
    /// # Errors
    /// At once where too many requests are waiting. After the attempt to store where the database is away or refuses,
    /// or where a key has been used for a different request; then none of the events is stored.
    pub async fn accept(&self, events: Vec<NewEvent>) -> Result<Vec<Accepted>> {
        hop!("queued", events.iter().map(|event| event.id.0));
        let (reply, answer) = oneshot::channel();
        self.requests.try_send(Request { events, reply }).map_err(|_| FULL)?;
        answer.await.map_err(|_| Error::Unavailable("the server is stopping"))?
    }
}

impl Intake {
    /// Counts an event that was stored outside the intake with one inline delivery, and tells the waker about it: the
    /// lane that was armed, or that was left alone.
    pub fn note_stored(
        &self,
        event: &NewEvent,
        delivery: DeliveryId,
        armed: &[Uuid],
        took: Duration,
        left_alone: LeftAlone,
    ) {
        self.waker.note_stored(armed, took, left_alone);
        self.tally.accept_all([facts(event)]);
        if self.reporter.is_watched() {
            self.reporter.note(&queued(event, delivery, None));
        }
    }
}

impl Writer {
    /// Stores what waits, and ends when nothing more can come; or at once where `calling`, the waker's task, ends.
    async fn run_beside(self, mut calling: JoinHandle<()>, waiting: mpsc::Receiver<Request>) {
        tokio::select! {
            () = self.run(waiting) => {}
            ended = &mut calling => {
                tracing::error!(?ended, "the waker of workers broke down");
                return;
            }
        }
        // The waker sends its last wake-up before the process ends.
        self.waker.close();
        let _ = calling.await;
    }

    async fn run(&self, mut waiting: mpsc::Receiver<Request>) {
        let mut taken = Vec::with_capacity(REQUESTS_PER_BATCH_MAX);
        while waiting.recv_many(&mut taken, REQUESTS_PER_BATCH_MAX).await > 0 {
            let mut rest = taken.drain(..).peekable();
            while let Some(first) = rest.next() {
                let (mut deliveries, mut bytes) = (first.deliveries(), first.bytes());
                let mut batch = vec![first];
                // An all-or-nothing request is undone as a whole, so it gets a transaction of its own.
                if batch[0].atomicity() == Atomicity::PerEvent {
                    while deliveries < DELIVERIES_PER_BATCH
                        && bytes < BYTES_PER_BATCH
                        && let Some(next) = rest.next_if(|next| next.atomicity() == Atomicity::PerEvent)
                    {
                        deliveries += next.deliveries();
                        bytes += next.bytes();
                        batch.push(next);
                    }
                }
                self.write(batch).await;
            }
        }
    }

    /// Stores a batch and answers every request in it.
    async fn write(&self, mut batch: Vec<Request>) {
        match self.store(&batch).await {
            Ok(accepted) => answer(batch, accepted),
            Err(error) if is_outage(&error) || batch.len() == 1 => refuse(batch, &error),
            // Some row makes the statement fail; stored alone, it fails only its own request.
            Err(_) => {
                batch.reverse();
                while let Some(one) = batch.pop() {
                    let one = vec![one];
                    match self.store(&one).await {
                        Ok(accepted) => answer(one, accepted),
                        Err(error) => {
                            refuse(one, &error);
                            if is_outage(&error) {
                                return refuse(batch, &error);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Stores a batch. Where partitions are missing, because nobody made them ahead of time, they are made first.
    async fn store(&self, batch: &[Request]) -> std::result::Result<Vec<Stored>, sqlx::Error> {
        match self.store_once(batch).await {
            Err(error) if is_missing_partition(&error) => {
                tracing::error!(%error, "partitions were missing and are made now");
                partition::ensure(&self.pool).await?;
                self.store_once(batch).await
            }
            stored => stored,
        }
    }

    /// Stores a batch in one transaction, and tells the waker which lanes it touched.
    async fn store_once(&self, batch: &[Request]) -> std::result::Result<Vec<Stored>, sqlx::Error> {
        let events: Vec<_> = batch.iter().flat_map(|request| &request.events).collect();
        metrics::histogram!("postrider_ingest_batch_events").record(u32::try_from(events.len()).unwrap_or(u32::MAX));
        let atomicity = batch.first().map_or(Atomicity::PerEvent, Request::atomicity);
        let started = Instant::now();
        hop!("storing", events.iter().map(|event| event.id.0));
        let notification = Notification::of_batch(events.len());
        let ttl = self.key_ttl_seconds;
        let stored = bounded!(self.pool, |connection| accept(connection, &events, atomicity, ttl, notification))?;
        hop!("stored", events.iter().map(|event| event.id.0));
        let took = started.elapsed();
        metrics::histogram!("postrider_store_duration_seconds").record(took);
        let left_alone = left_alone(&events, &stored.armed);
        // Workers that were notified late look behind the place where they usually begin only if they are told so.
        let is_notified = notification == Notification::WithCommit && took <= LATE;
        self.waker.note_stored(if is_notified { &[] } else { &stored.armed }, took, left_alone);
        let new = events.iter().zip(&stored.accepted).filter(|(_, accepted)| matches!(accepted, Ok(Accepted::New)));
        self.tally.accept_all(new.clone().map(|(event, _)| facts(event)));
        if self.reporter.is_watched() {
            for (event, delivery) in new.flat_map(|(event, _)| event.deliveries.iter().map(move |one| (event, one))) {
                self.reporter.note(&queued(event, delivery.id, Some(delivery.subscription_id)));
            }
        }
        Ok(stored.accepted)
    }
}

/// What those who watch are told of a delivery that was stored.
fn queued(event: &NewEvent, delivery: DeliveryId, subscription: Option<SubscriptionId>) -> Sighting<'_> {
    Sighting {
        topic: Topic::Queued,
        delivery_id: delivery.0,
        event_id: event.id.0,
        subscription_id: subscription.map(|id| id.0),
        tenant_id: &event.tenant_id,
        event_type: event.event_type.as_str(),
        attempt: None,
        status_code: None,
        error_kind: None,
        duration: None,
    }
}

/// What the statistics count of an event: its id, its tenant, its type and its payload's bytes.
fn facts(event: &NewEvent) -> (Uuid, &str, &str, u64) {
    (event.id.0, &event.tenant_id, event.event_type.as_str(), event.payload.len() as u64)
}

/// The result for one event of a stored batch.
type Stored = std::result::Result<Accepted, KeyReused>;

fn answer(batch: Vec<Request>, stored: Vec<Stored>) {
    let mut stored = stored.into_iter();
    for request in batch {
        let own: Vec<_> = stored.by_ref().take(request.events.len()).collect();
        let accepted = own.into_iter().collect::<std::result::Result<_, KeyReused>>();
        let _ = request.reply.send(accepted.map_err(Error::from));
    }
}

fn refuse(batch: Vec<Request>, error: &sqlx::Error) {
    if is_outage(error) {
        suspect_sessions();
    }
    if !is_key_reused(error) {
        tracing::error!(%error, requests = batch.len(), "events could not be stored");
    }
    for request in batch {
        let _ = request.reply.send(Err(if is_key_reused(error) {
            Error::KeyReused
        } else if is_outage(error) {
            Error::Unavailable("the database is not reachable, or too slow, at the moment")
        } else {
            Error::internal(error.to_string())
        }));
    }
}

#[cfg(test)]
mod tests {
    use sqlx::postgres::PgPoolOptions;

    use super::*;

    #[tokio::test]
    async fn the_writer_ends_when_the_waker_has_ended() {
        let pool = PgPoolOptions::new().connect_lazy("postgres://nobody@127.0.0.1:1/nothing").expect("a valid URL");
        let (waker, tally, reporter) = (Arc::default(), Arc::default(), Arc::default());
        let writer = Writer { pool, waker, tally, reporter, key_ttl_seconds: 60 };
        let (_requests, waiting) = mpsc::channel(1);
        let writing = writer.run_beside(tokio::spawn(async {}), waiting);
        tokio::time::timeout(Duration::from_secs(10), writing).await.expect("it ends although requests may still come");
    }
}
