//! The producers of a run. They post events in every way there is, and write down what they were told: accepted, or
//! nobody knows. Some send a request again until it is accepted, with an id or a key that makes that safe.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use hyper::StatusCode;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use tokio::task::JoinSet;

use crate::{
    chaos::{
        log::{Answer, Journal, Posted, Subscription, payload},
        subscriptions::{CIRCUIT, LIMITED, LINE, ORDER, TENANT, WIDE},
    },
    client::Client,
};

/// How long a producer waits for an answer before it gives up. It is longer than any limit of the api.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a producer rests after an error.
const ERROR_PAUSE: Duration = Duration::from_millis(200);
/// Events in a batch.
const BATCH: u64 = 4;
/// Of so many transactions that publish, one is rolled back.
const ROLLED_BACK: u32 = 8;
/// Producers of each way.
const EVENT_PRODUCERS: usize = 3;
const INGEST_PRODUCERS: usize = 2;
const SQL_PRODUCERS: usize = 2;

/// What all producers share.
pub struct Market {
    /// Where events are written down.
    pub journal: Arc<Journal>,
    /// The subscriptions that get events.
    pub subscriptions: Vec<Subscription>,
    /// The addresses of the apis.
    pub apis: Vec<String>,
    /// The key of the apis.
    pub key: String,
    /// The database, as those see it who publish by SQL.
    pub database: String,
    /// Producers end when this is true.
    pub is_over: AtomicBool,
    next: AtomicU64,
}

impl Market {
    /// A market in which nothing has been posted.
    #[must_use]
    pub fn new(
        journal: Arc<Journal>,
        subscriptions: Vec<Subscription>,
        apis: Vec<String>,
        key: String,
        database: String,
    ) -> Self {
        Self { journal, subscriptions, apis, key, database, is_over: AtomicBool::new(false), next: AtomicU64::new(1) }
    }

    /// The same market, with other apis and another way to the database. Numbers of events go on.
    #[must_use]
    pub fn moved_to(&self, apis: Vec<String>, database: String) -> Self {
        Self {
            journal: Arc::clone(&self.journal),
            subscriptions: self.subscriptions.clone(),
            apis,
            key: self.key.clone(),
            database,
            is_over: AtomicBool::new(false),
            next: AtomicU64::new(self.next.load(Ordering::SeqCst)),
        }
    }

    /// An event that nobody has posted yet; those who have to get it are those who want its type, or one of them.
    fn new_event(&self, way: &'static str, event_type: &str, key: Option<String>, only: Option<usize>) -> Posted {
        let wants =
            |place: &usize| self.subscriptions[*place].wants(event_type) && only.is_none_or(|only| only == *place);
        let now = self.journal.clock.now();
        Posted {
            number: self.next.fetch_add(1, Ordering::SeqCst),
            way,
            key,
            wanted_by: (0..self.subscriptions.len()).filter(wants).collect(),
            sent: now,
            answered: now,
            answer: Answer::Unknown,
        }
    }

    fn client(&self, api: usize) -> Client<'_> {
        Client { address: self.apis[api % self.apis.len()].clone(), key: &self.key }
    }
}

/// Starts all producers. They end soon after [`Market::is_over`] has been set.
pub fn start(market: &Arc<Market>, seed: u64) -> JoinSet<()> {
    let mut producers = JoinSet::new();
    let mut places = 0..;
    let mut producer = || {
        let place = places.next().unwrap_or_default();
        Producer { market: Arc::clone(market), place, random: StdRng::seed_from_u64(seed ^ ((place as u64 + 1) << 32)) }
    };
    for _ in 0..EVENT_PRODUCERS {
        producers.spawn(producer().post_events());
    }
    producers.spawn(producer().post_batches());
    for _ in 0..INGEST_PRODUCERS {
        producers.spawn(producer().ingest());
    }
    for _ in 0..SQL_PRODUCERS {
        producers.spawn(producer().publish());
    }
    producers
}

/// Posts so many events by HTTP and as many by SQL, and fails where one is not accepted at once: for a calm time.
///
/// # Errors
/// When an event is not accepted.
pub async fn post_calmly(market: &Arc<Market>, count: usize) -> Result<()> {
    let producer = Producer { market: Arc::clone(market), place: 1000, random: StdRng::seed_from_u64(1) };
    for number in 0..count {
        let mut event = market.new_event("events", WIDE, None, None);
        producer.post_event(&mut event, WIDE, number, OwnId::Absent).await;
        ensure!(event.answer != Answer::Unknown, "an event was not accepted in a calm time");
        market.journal.posted(event);
    }
    let mut connection = PgConnection::connect(&market.database).await?;
    for _ in 0..count {
        let events = vec![market.new_event("publish()", WIDE, None, None)];
        publish_once(&mut connection, &events, WIDE, Ending::Commit).await?;
        for mut event in events {
            (event.answer, event.answered) = (Answer::Accepted { deliveries: None }, market.journal.clock.now());
            market.journal.posted(event);
        }
    }
    Ok(())
}

/// Whether an event has an id, by which it can be sent again without being stored twice.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OwnId {
    Sent,
    Absent,
}

/// How a transaction ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Commit,
    Rollback,
}

struct Producer {
    market: Arc<Market>,
    /// A number of its own, by which its ordering keys differ from those of others.
    place: usize,
    random: StdRng,
}

impl Producer {
    fn goes_on(&self) -> bool {
        !self.market.is_over.load(Ordering::SeqCst)
    }

    /// Rests between two requests.
    async fn rest(&mut self) {
        tokio::time::sleep(Duration::from_millis(self.random.random_range(20..180))).await;
    }

    /// An ordering key that only this producer uses, so that it knows the order of its events.
    fn ordering_key(&mut self, event_type: &str) -> Option<String> {
        (event_type == ORDER).then(|| format!("{}-{}", self.place, self.random.random_range(0..3)))
    }

    /// Writes down what the producer knows by now.
    fn note(&self, mut event: Posted, answer: Answer) {
        (event.answer, event.answered) = (answer, self.market.journal.clock.now());
        self.market.journal.posted(event);
    }

    /// `POST /events`. Every second event has an id, and is sent again until it is accepted.
    async fn post_events(mut self) {
        let mut api = self.place;
        while self.goes_on() {
            let event_type = *[WIDE, ORDER, ORDER, LIMITED, CIRCUIT].choose(&mut self.random).unwrap_or(&WIDE);
            let key = self.ordering_key(event_type);
            let id = if self.random.random_range(0..2) == 0 { OwnId::Sent } else { OwnId::Absent };
            let mut event = self.market.new_event("events", event_type, key, None);
            loop {
                self.post_event(&mut event, event_type, api, id).await;
                if event.answer != Answer::Unknown || id == OwnId::Absent || !self.goes_on() {
                    break;
                }
                tokio::time::sleep(ERROR_PAUSE).await;
                api += 1;
            }
            if event.answer == Answer::Unknown {
                tokio::time::sleep(ERROR_PAUSE).await;
            }
            api += 1;
            let answer = event.answer.clone();
            self.note(event, answer);
            self.rest().await;
        }
    }

    async fn post_event(&self, event: &mut Posted, event_type: &str, api: usize, id: OwnId) {
        let mut body = body_of(event, event_type);
        if id == OwnId::Sent {
            body["id"] = json!(format!("chaos-{}", event.number));
        }
        let answer = self.send(api, "/events", &[], &body.to_string()).await;
        event.answered = self.market.journal.clock.now();
        if let Some(answer) = answer {
            event.answer = Answer::Accepted { deliveries: answer["delivery_ids"].as_array().map(Vec::len) };
        }
    }

    /// `POST /events/batch`; the events of a batch have different keys.
    async fn post_batches(mut self) {
        while self.goes_on() {
            let event_type = *[WIDE, ORDER, CIRCUIT].choose(&mut self.random).unwrap_or(&WIDE);
            let events: Vec<_> = (0..BATCH)
                .map(|nth| {
                    let key = (event_type == ORDER).then(|| format!("{}-{nth}", self.place));
                    self.market.new_event("events/batch", event_type, key, None)
                })
                .collect();
            let bodies: Vec<_> = events.iter().map(|event| body_of(event, event_type)).collect();
            let api = self.random.random_range(0..2);
            let answer = self.send(api, "/events/batch", &[], &json!({"events": bodies}).to_string()).await;
            for (nth, event) in events.into_iter().enumerate() {
                let of_event = answer.as_ref().map_or(Answer::Unknown, |answer| Answer::Accepted {
                    deliveries: answer["data"][nth]["delivery_ids"].as_array().map(Vec::len),
                });
                self.note(event, of_event);
            }
            if answer.is_none() {
                tokio::time::sleep(ERROR_PAUSE).await;
            }
            self.rest().await;
            self.rest().await;
        }
    }

    /// `POST /webhooks/ingest/{subscription_id}`, to any subscription. Every second event has a key, and is
    /// sent again until it is accepted.
    async fn ingest(mut self) {
        let mut api = self.place;
        while self.goes_on() {
            let place = self.random.random_range(0..self.market.subscriptions.len());
            let subscription = &self.market.subscriptions[place];
            let types = [WIDE, ORDER, LIMITED, CIRCUIT, LINE];
            let event_type = types.into_iter().find(|name| subscription.wants(name)).unwrap_or(WIDE);
            let path = format!("/webhooks/ingest/sub_{}", subscription.id.simple());
            let key = self.ordering_key(event_type);
            let mut event = self.market.new_event("ingest", event_type, key, Some(place));
            let (body, once) = (payload(event.number).to_string(), format!("chaos-{}", event.number));
            let has_key = self.random.random_range(0..2) == 0;
            let mut headers = vec![("X-Event-Type", event_type), ("Content-Type", "application/json")];
            let ordering_key = event.key.clone();
            headers.extend(ordering_key.as_deref().map(|key| ("X-Ordering-Key", key)));
            headers.extend(has_key.then_some(("Idempotency-Key", once.as_str())));
            let mut answer = None;
            while answer.is_none() {
                answer = self.send(api, &path, &headers, &body).await;
                api += 1;
                if answer.is_none() {
                    tokio::time::sleep(ERROR_PAUSE).await;
                    if !has_key || !self.goes_on() {
                        break;
                    }
                }
            }
            event.answered = self.market.journal.clock.now();
            let accepted = |answer: Value| Answer::Accepted { deliveries: answer.get("delivery_id").map(|_| 1) };
            self.note(event, answer.map_or(Answer::Unknown, accepted));
            self.rest().await;
        }
    }

    /// `SELECT postrider.publish(…)`, one to three in a transaction, of which some are rolled back.
    async fn publish(mut self) {
        let mut connection = None;
        while self.goes_on() {
            let event_type = *[WIDE, ORDER, LIMITED, CIRCUIT].choose(&mut self.random).unwrap_or(&WIDE);
            if connection.is_none() {
                let options: Result<PgConnectOptions, _> = self.market.database.parse();
                let Ok(options) = options else { return };
                let connecting = tokio::time::timeout(PATIENCE, PgConnection::connect_with(&options)).await;
                connection = connecting.ok().and_then(Result::ok);
            }
            let Some(present) = &mut connection else {
                tokio::time::sleep(ERROR_PAUSE).await;
                continue;
            };
            let ending = if self.random.random_range(0..ROLLED_BACK) == 0 { Ending::Rollback } else { Ending::Commit };
            // The events of a transaction have different keys, because their order is that of their calls only as long
            // as nobody else's come between.
            let count = self.random.random_range(1..=3);
            let events: Vec<_> = (0..count)
                .map(|nth| {
                    let key = (event_type == ORDER).then(|| format!("{}-{nth}", self.place));
                    self.market.new_event("publish()", event_type, key, None)
                })
                .collect();
            let publishing = publish_once(present, &events, event_type, ending);
            let is_done = matches!(tokio::time::timeout(PATIENCE, publishing).await, Ok(Ok(())));
            let answer = match ending {
                // Where no commit was sent, it cannot have been carried out.
                Ending::Rollback => Answer::RolledBack,
                Ending::Commit if is_done => Answer::Accepted { deliveries: None },
                Ending::Commit => Answer::Unknown,
            };
            if !is_done {
                connection = None;
            }
            for event in events {
                self.note(event, answer.clone());
            }
            self.rest().await;
        }
    }

    /// Posts a body; `None` where nobody knows what became of it. An answer that no fault explains is an offence.
    async fn send(&self, api: usize, path: &str, headers: &[(&'static str, &str)], body: &str) -> Option<Value> {
        let client = self.market.client(api);
        let sending = client.try_post(path, headers, body);
        let answer = tokio::time::timeout(PATIENCE, sending).await.ok()?.ok()?;
        let (status, answer) = (answer.status(), answer.into_body());
        if status == StatusCode::ACCEPTED {
            return serde_json::from_slice(&answer).ok();
        }
        if status.as_u16() != 503 && status != StatusCode::REQUEST_TIMEOUT {
            let what = format!("{path}: {status}: {}", String::from_utf8_lossy(&answer));
            self.market.journal.offence("a producer is answered with 202, 408 or 503", what);
        }
        None
    }
}

fn body_of(event: &Posted, event_type: &str) -> Value {
    let mut body = json!({"event_type": event_type, "tenant_id": TENANT, "payload": payload(event.number)});
    if let Some(key) = &event.key {
        body["ordering_key"] = json!(key);
    }
    body
}

/// Publishes the events in one transaction.
async fn publish_once(
    connection: &mut PgConnection,
    events: &[Posted],
    event_type: &str,
    ending: Ending,
) -> Result<()> {
    let mut transaction = connection.begin().await?;
    for event in events {
        sqlx::query("SELECT postrider.publish($1, $2::jsonb, tenant => $3, ordering_key => $4)")
            .bind(event_type)
            .bind(payload(event.number).to_string())
            .bind(TENANT)
            .bind(event.key.as_deref())
            .execute(&mut *transaction)
            .await?;
    }
    match ending {
        Ending::Rollback => transaction.rollback().await?,
        Ending::Commit => transaction.commit().await?,
    }
    Ok(())
}
