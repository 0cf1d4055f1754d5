//! `/live`: what happens just now, as server-sent events.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use futures_util::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use poem::web::sse::Event;
use poem_openapi::{
    Object, OpenApi,
    param::{Header, Query},
    payload::EventStream,
    types::ToJSON,
};
use postrider_core::{
    Error,
    access::api_key::Scope as KeyScope,
    id::SubscriptionId,
    live::{
        Scope, Topic,
        changes::{Change, Details},
        hub::{Full, Second, Shown, Source, VIEWERS_PER_KEY_MAX, Viewer},
        sample::Row,
    },
};

use crate::{
    access::{
        Access,
        auth::{Key, Read},
    },
    app::{App, Tag},
    serve::problem::ApiError,
};

/// How often a stream without news sends a comment, so that nobody on the way takes it for dead.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// A list of topics has at most this many.
const TOPICS_MAX: usize = 20;
/// The families of topics.
const FAMILIES: [&str; 4] = ["delivery", "circuit", "metrics", "audit"];

/// The route of `/live`.
pub struct LiveApi(pub App);

/// A message of the feed. Its topic is also the name of the server-sent event, and says which fields it has.
#[derive(Clone, Debug, Default, Object)]
#[oai(skip_serializing_if_is_none)]
pub struct LiveMessage {
    /// `delivery.queued`, `delivery.started`, `delivery.succeeded`, `delivery.failed` (another attempt follows),
    /// `delivery.dead_letter`, `circuit.opened`, `circuit.half_open`, `circuit.closed`, `audit.` with the action of an
    /// entry in the audit log, `metrics.second`, or `gap` where seconds are missing before the next message.
    topic: String,
    /// The id of the second to which the message belongs. Send the last one as `Last-Event-ID` to go on there.
    id: String,
    /// When it happened (RFC 3339).
    at: DateTime<Utc>,
    /// The delivery.
    delivery_id: Option<String>,
    /// The event.
    event_id: Option<String>,
    /// The subscription; absent for an inline delivery.
    subscription_id: Option<String>,
    /// The tenant.
    tenant_id: Option<String>,
    /// The type of the event.
    event_type: Option<String>,
    /// The number of the attempt; 1 is the first.
    attempt: Option<i32>,
    /// The status that the receiver answered.
    status_code: Option<u16>,
    /// Why the attempt failed, such as `timeout`.
    error_kind: Option<String>,
    /// How long the attempt took, in milliseconds.
    duration_ms: Option<u32>,
    /// When a receiver whose circuit is open is tried again (RFC 3339).
    next_probe_at: Option<DateTime<Utc>>,
    /// The entry of the audit log.
    audit_id: Option<String>,
    /// Who made the change: the id of an API key, `admin_key` or `postrider`.
    actor: Option<String>,
    /// The id of what was changed.
    target_id: Option<String>,
    /// What happened within the second.
    numbers: Option<SecondView>,
    /// How many seconds are missing; absent where that is not known, because the process was started again.
    missed: Option<u64>,
}

/// The numbers of one second.
#[derive(Clone, Debug, Object)]
#[oai(skip_serializing_if_is_none, rename = "LiveSecond")]
pub struct SecondView {
    /// How many deliveries were queued, started and so on, by the last word of the topic.
    counts: BTreeMap<String, u64>,
    /// Failed attempts by the kind of their error.
    causes: BTreeMap<String, u64>,
    /// Half of the attempts took no longer, in milliseconds; an estimate.
    p50_ms: Option<f64>,
    /// 95 % of the attempts took no longer, in milliseconds; an estimate.
    p95_ms: Option<f64>,
    /// 99 % of the attempts took no longer, in milliseconds; an estimate.
    p99_ms: Option<f64>,
    /// How many messages about deliveries this second has.
    shown: u64,
    /// How many messages it would have, if there were no bound.
    seen: u64,
    /// `live`, or `rollups` where notifications of the database do not reach this api, as behind a pooler in
    /// transaction mode. Then the counts are what was added to the statistics, in steps of up to 15 seconds at once,
    /// and no single deliveries are shown.
    source: String,
}

#[OpenApi(tag = "Tag::Live")]
impl LiveApi {
    /// Watch what happens
    ///
    /// Server-sent events, for as long as the connection lasts: what happens to deliveries, to circuits and in the
    /// audit log, and once a second the numbers of that second. Of deliveries it is a sample, at most 20 a second from
    /// each process, failures first; the numbers count all of them. A stream that is read too slowly skips to the
    /// newest second and says so (`gap`). A key may have 4 streams at a time, an api 64.
    #[oai(path = "/live", method = "get", operation_id = "watch")]
    async fn watch(
        &self,
        key: Key<Read>,
        /// Only these topics, separated by commas: whole ones such as `delivery.failed`, or families such as
        /// `delivery.*`, `circuit.*`, `metrics.*` and `audit.*` (which needs the scope `admin`). At most 20. All that
        /// the key may see where absent.
        topics: Query<Option<String>>,
        /// Only what belongs to this tenant.
        tenant_id: Query<Option<String>>,
        /// Only what belongs to this subscription.
        subscription_id: Query<Option<String>>,
        /// The id of the last message that was seen. The feed goes on there, if it was less than a minute ago.
        #[oai(name = "Last-Event-ID")]
        last_event_id: Header<Option<String>>,
    ) -> Result<EventStream<BoxStream<'static, LiveMessage>>, ApiError> {
        let wanted = Wanted::parse(topics.0.as_deref(), &key)?;
        let viewer =
            self.0.viewer(&key, tenant_id.0.as_deref(), subscription_id.0.as_deref(), last_event_id.0.as_deref());
        Ok(stream(viewer.await?, wanted, Naming::ByTopic, key.ends()))
    }
}

impl App {
    /// Lets the caller look at what it reaches: a subscription, a tenant, or everything.
    ///
    /// # Errors
    /// When the caller does not reach it, or there are too many viewers.
    pub(crate) async fn viewer(
        &self,
        access: &Access,
        tenant_id: Option<&str>,
        subscription_id: Option<&str>,
        last_id: Option<&str>,
    ) -> Result<Viewer, ApiError> {
        let tenant = access.lists(tenant_id)?;
        let subscription: Option<SubscriptionId> =
            access.find_named(&self.pool, "subscription_id", subscription_id).await?;
        let scope = match (subscription, tenant) {
            (Some(id), _) => Scope::Subscription(id.0),
            (None, Some(tenant)) => Scope::Tenant(tenant),
            (None, None) => Scope::All,
        };
        self.live.view(&access.actor().to_string(), scope, last_id).map_err(|full| match full {
            Full::Key => ApiError::too_many_streams(VIEWERS_PER_KEY_MAX),
            Full::Process => Error::Unavailable("too many are watching this api; try again in a moment").into(),
        })
    }
}

/// Which topics a stream shows.
#[derive(Clone, Debug)]
pub(crate) struct Wanted(Vec<String>);

impl Wanted {
    /// Reads a list of topics; `None` means all that the caller may see.
    ///
    /// # Errors
    /// When the list cannot be read, or names what the caller may not see.
    pub(crate) fn parse(text: Option<&str>, access: &Access) -> Result<Self, ApiError> {
        let sees_audit = access.may(KeyScope::Admin);
        let Some(text) = text else {
            let families = FAMILIES.into_iter().filter(|family| sees_audit || *family != "audit");
            return Ok(Self(families.map(|family| format!("{family}.")).collect()));
        };
        let topics: Vec<_> = text.split(',').map(str::trim).collect();
        if topics.len() > TOPICS_MAX {
            return Err(ApiError::invalid("topics", format!("at most {TOPICS_MAX}")));
        }
        let patterns = topics.into_iter().map(|topic| match topic.split_once('.') {
            Some(("audit", _)) if !sees_audit => Err(ApiError::forbidden(KeyScope::Admin)),
            Some((family, "*")) if FAMILIES.contains(&family) => Ok(format!("{family}.")),
            Some((family, rest)) if FAMILIES.contains(&family) && !rest.is_empty() && !rest.contains('*') => {
                Ok(topic.to_owned())
            }
            Some(_) | None => {
                Err(ApiError::invalid("topics", "must be topics such as `delivery.failed` or `circuit.*`"))
            }
        });
        Ok(Self(patterns.collect::<Result<_, _>>()?))
    }

    fn has(&self, topic: &str) -> bool {
        self.0.iter().any(|pattern| topic == pattern || (pattern.ends_with('.') && topic.starts_with(pattern.as_str())))
    }
}

/// Whether messages carry their topic as the name of the server-sent event. A browser takes messages without a name by
/// one listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Naming {
    ByTopic,
    None,
}

/// The answer that shows a viewer its messages, until the viewer's key ends.
pub(crate) fn stream(
    viewer: Viewer,
    wanted: Wanted,
    naming: Naming,
    ends: Option<DateTime<Utc>>,
) -> EventStream<BoxStream<'static, LiveMessage>> {
    let messages = messages(viewer, wanted).take_until(passed(ends));
    EventStream::new(messages.boxed()).keep_alive(HEARTBEAT).to_event(move |message| {
        let event = Event::message(message.to_json_string()).id(message.id);
        match naming {
            Naming::ByTopic => event.event_type(message.topic),
            Naming::None => event,
        }
    })
}

/// Waits until this time; for ever where there is none.
async fn passed(time: Option<DateTime<Utc>>) {
    match time {
        Some(time) => tokio::time::sleep((time - Utc::now()).to_std().unwrap_or_default()).await,
        None => std::future::pending().await,
    }
}

/// The messages that a viewer gets.
fn messages(viewer: Viewer, wanted: Wanted) -> impl Stream<Item = LiveMessage> + Send + use<> {
    stream::unfold((viewer, wanted), |(mut viewer, wanted)| async {
        let shown = viewer.next().await?;
        let (missed, seconds) = match shown {
            Shown::Seconds(seconds) => (None, seconds),
            Shown::Gap(missed, newest) => (Some(missed), vec![newest]),
        };
        let mut messages = Vec::new();
        for second in &seconds {
            let id = viewer.id(second);
            if let Some(missed) = missed {
                let topic = "gap".to_owned();
                messages.push(LiveMessage { topic, id: id.clone(), at: second.at, missed, ..LiveMessage::default() });
            }
            messages.extend(of_second(second, &id, &wanted));
        }
        Some((stream::iter(messages), (viewer, wanted)))
    })
    .flatten()
}

fn of_second(second: &Second, id: &str, wanted: &Wanted) -> Vec<LiveMessage> {
    let rows = second.rows().iter().filter(|row| wanted.has(&row.topic)).map(|row| of_row(row, id));
    let mut messages: Vec<_> = rows.collect();
    messages.extend(
        second.changes.iter().filter(|change| wanted.has(&change.topic)).map(|change| of_change(change, second, id)),
    );
    if wanted.has("metrics.second") {
        let topic = "metrics.second".to_owned();
        let numbers = Some(SecondView::of(second));
        messages.push(LiveMessage { topic, id: id.to_owned(), at: second.at, numbers, ..LiveMessage::default() });
    }
    messages
}

fn of_row(row: &Row, id: &str) -> LiveMessage {
    LiveMessage {
        topic: row.topic.clone(),
        id: id.to_owned(),
        at: row.at,
        delivery_id: Some(row.delivery_id.clone()),
        event_id: Some(row.event_id.clone()),
        subscription_id: row.subscription_id.clone(),
        tenant_id: Some(row.tenant_id.clone()),
        event_type: Some(row.event_type.clone()),
        attempt: row.attempt,
        status_code: row.status_code,
        error_kind: row.error_kind.clone(),
        duration_ms: row.duration_ms,
        ..LiveMessage::default()
    }
}

fn of_change(change: &Change, second: &Second, id: &str) -> LiveMessage {
    let message = LiveMessage {
        topic: change.topic.clone(),
        id: id.to_owned(),
        at: second.at,
        subscription_id: change.subscription_id.map(|id| SubscriptionId(id).to_string()),
        tenant_id: change.tenant_id.clone(),
        ..LiveMessage::default()
    };
    match &change.details {
        Details::Circuit { next_probe_at } => LiveMessage { next_probe_at: *next_probe_at, ..message },
        Details::Entry { audit_id, actor, target_id } => LiveMessage {
            audit_id: Some(audit_id.clone()),
            actor: Some(actor.clone()),
            target_id: Some(target_id.clone()),
            ..message
        },
    }
}

impl SecondView {
    fn of(second: &Second) -> Self {
        let sample = &second.sample;
        let word = |topic: Topic| topic.as_str().trim_start_matches("delivery.").to_owned();
        Self {
            counts: Topic::ALL.into_iter().map(|topic| (word(topic), sample.counts[topic.index()])).collect(),
            causes: sample.causes.clone(),
            p50_ms: sample.percentile_ms(0.5),
            p95_ms: sample.percentile_ms(0.95),
            p99_ms: sample.percentile_ms(0.99),
            shown: sample.rows.len() as u64,
            seen: sample.seen(),
            source: match second.source {
                Source::Live => "live",
                Source::Rollups => "rollups",
            }
            .to_owned(),
        }
    }
}
