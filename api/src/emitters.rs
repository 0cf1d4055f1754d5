//! `/emitters`: streams of sample events, for trying a receiver out.

use chrono::{DateTime, Utc};
use poem_openapi::{
    ApiResponse, Enum, Object, OpenApi,
    param::{Header, Path, Query},
    payload::Json,
    types::{Example, ToJSON},
};
use postrider_core::{
    emitter::{
        self, Emitter, Status,
        input::{EmitterInput, NewEmitter, To},
    },
    event::idempotency::Creation,
    id::{EmitterId, SubscriptionId},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    access::{
        Access,
        auth::{Key, Manage, Read},
    },
    app::{App, Tag},
    serve::{
        body::{Input, JsonBody},
        idempotency::stored_answer,
        list::{List, Wanted},
        problem::ApiError,
    },
};

/// The routes of `/emitters`.
pub struct EmittersApi(pub App);

/// A stream of sample events that somebody wants.
#[derive(Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields, rename = "EmitterInput", example)]
pub struct EmitterBody {
    /// The subscription that gets the events, whatever its patterns and filters say, such as
    /// `sub_0198c0de2f3a7b1c9d4e5f60718293a4`. Where absent, the events are published, and every subscription of the
    /// tenant gets them that wants them.
    pub subscription_id: Option<String>,
    /// The tenant that the events belong to, such as `acme`; at most 64 characters. Where absent, that of the
    /// subscription, or else the key's own, or else `default`.
    pub tenant_id: Option<String>,
    /// The type of the events, such as `order.created`. Where absent, the first one that the subscription names, where
    /// it names whole types only; otherwise `postrider.sample`.
    pub event_type: Option<String>,
    /// How many events a second are made, such as 2.5: from 0.01 to 100, exact to a millionth.
    pub rate_per_second: f64,
    /// Seconds until the emitter ends by itself, such as 60: from 1 to 86400 (one day); 300 where absent.
    pub duration_seconds: Option<u32>,
    /// What the payloads are made of: any JSON, at most 16384 bytes. In its strings, `{{number}}` stands for the number
    /// of the event, beginning with 1, `{{time}}` for the time at which it is made (RFC 3339), `{{id}}` for a random
    /// UUID, and `{{random}}` for a whole number from 0 to 999. A string that is nothing but `{{number}}` or
    /// `{{random}}` becomes a number. Where absent, the payload has a number, an id and a time.
    pub template: Option<Value>,
}

impl Input for EmitterBody {}

impl Example for EmitterBody {
    fn example() -> Self {
        Self {
            subscription_id: None,
            tenant_id: None,
            event_type: Some("order.created".to_owned()),
            rate_per_second: 2.5,
            duration_seconds: Some(60),
            template: Some(json!({"order": "{{number}}", "placed_at": "{{time}}"})),
        }
    }
}

/// Whether an emitter goes on: `running`; `stopped` by somebody, or because its subscription was deleted; or `ended`,
/// because its time was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case", remote = "Status")]
pub enum EmitterStatus {
    /// Its time is not over.
    Running,
    /// Somebody has stopped it, or its subscription was deleted.
    Stopped,
    /// Its time is over.
    Ended,
}

/// A stream of sample events.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none, rename = "Emitter")]
pub struct EmitterView {
    /// The emitter's id, such as `emt_0198c0de2f3a7b1c9d4e5f60718293a4`. Its events have it in their metadata, as
    /// `postrider_emitter`.
    id: String,
    /// The tenant that the emitter and its events belong to.
    tenant_id: String,
    /// The subscription that gets the events; absent where they are published.
    subscription_id: Option<String>,
    /// The type of the events.
    event_type: String,
    /// How many events a second are made.
    rate_per_second: f64,
    /// What the payloads are made of.
    template: Value,
    /// Whether the emitter goes on.
    status: EmitterStatus,
    /// How many events have been made.
    emitted: u64,
    /// How many events were left out because they were more than 10 s late, as after an outage of all workers.
    skipped: u64,
    /// When the emitter was started (RFC 3339).
    started_at: DateTime<Utc>,
    /// When its time is over (RFC 3339).
    ends_at: DateTime<Utc>,
    /// When it ended or was stopped; absent while it is running (RFC 3339).
    finished_at: Option<DateTime<Utc>>,
    /// Why it last failed to make events, such as `the subscription is disabled; enable it first`; absent where it
    /// never did. A running emitter tries again every 5 s.
    last_error: Option<String>,
    /// When that was (RFC 3339).
    last_error_at: Option<DateTime<Utc>>,
}

/// The answer to a request for an emitter.
#[derive(Debug, ApiResponse)]
pub enum Started {
    /// The emitter is on disk, and makes its first event within a second.
    #[oai(status = 201)]
    Created(
        Json<EmitterView>,
        /// The path of the emitter, such as `/emitters/emt_0198c0de2f3a7b1c9d4e5f60718293a4`.
        #[oai(header = "Location")]
        String,
    ),
}

#[OpenApi(tag = "Tag::Emitters")]
impl EmittersApi {
    /// Start an emitter
    ///
    /// Workers publish its events at the rate, one interval after the other, until its time is over or somebody stops
    /// it. They are stored, delivered and retried like any others. An emitter survives every crash, and doubles and
    /// loses nothing that is not more than 10 s late. A tenant may have 10 running emitters; beyond that the answer is
    /// 409, and so it is where the subscription is disabled.
    #[oai(path = "/emitters", method = "post", operation_id = "create_emitter")]
    async fn create(
        &self,
        key: Key<Manage>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
        body: JsonBody<EmitterBody>,
    ) -> Result<Started, ApiError> {
        let new = self.0.new_emitter(&key, body.value).await?;
        let idempotent =
            self.0.key_ttl.request(idempotency_key.0.as_deref(), &new.tenant_id, "POST /emitters", &body.bytes)?;
        let answer = |emitter: &Emitter| view(emitter).to_json_string().into_bytes();
        let made = emitter::create(&self.0.pool, &self.0.keyring, key.actor(), &new, idempotent.as_ref(), answer);
        let view = match made.await? {
            Creation::Now(emitter) => view(&emitter),
            Creation::Before(answer) => stored_answer(&answer)?,
        };
        let location = format!("/emitters/{}", view.id);
        Ok(Started::Created(Json(view), location))
    }

    /// List emitters
    ///
    /// The newest first. Those that have ended or were stopped are listed for 7 days.
    #[oai(path = "/emitters", method = "get", operation_id = "list_emitters")]
    async fn list(
        &self,
        key: Key<Read>,
        tenant_id: Query<Option<String>>,
        subscription_id: Query<Option<String>>,
        /// Only emitters that stand so, such as `running`.
        status: Query<Option<EmitterStatus>>,
        limit: Query<Option<u32>>,
        cursor: Query<Option<String>>,
    ) -> Result<Json<List<EmitterView>>, ApiError> {
        let tenant = key.lists(tenant_id.0.as_deref())?;
        let subscription = key.find_named(&self.0.pool, "subscription_id", subscription_id.0.as_deref()).await?;
        let wanted = Wanted::parse(limit.0, cursor.0.as_deref(), |id: EmitterId| id.0)?;
        let status = status.0.map(Into::into);
        let found = emitter::list(&self.0.pool, tenant.as_deref(), subscription, status, wanted.page()).await?;
        Ok(Json(wanted.list(found, |one| one.id, view)))
    }

    /// Get an emitter
    #[oai(path = "/emitters/:id", method = "get", operation_id = "get_emitter")]
    async fn get(&self, key: Key<Read>, id: Path<String>) -> Result<Json<EmitterView>, ApiError> {
        let id = key.find(&self.0.pool, &id.0).await?;
        Ok(Json(view(&emitter::get(&self.0.pool, id).await?)))
    }

    /// Stop an emitter
    ///
    /// It makes no further event. What it has made is delivered all the same. One that has ended stays as it is.
    #[oai(path = "/emitters/:id", method = "delete", operation_id = "stop_emitter")]
    async fn stop(&self, key: Key<Manage>, id: Path<String>) -> Result<Json<EmitterView>, ApiError> {
        let id = key.find(&self.0.pool, &id.0).await?;
        Ok(Json(view(&emitter::stop(&self.0.pool, key.actor(), id).await?)))
    }
}

impl App {
    /// Checks an emitter that the caller asks for: all of its fields, and that the caller reaches who gets its events.
    pub(crate) async fn new_emitter(&self, access: &Access, body: EmitterBody) -> Result<NewEmitter, ApiError> {
        let named = access.lists(body.tenant_id.as_deref())?;
        let id: Option<SubscriptionId> =
            access.find_named(&self.pool, "subscription_id", body.subscription_id.as_deref()).await?;
        let subscription = match id {
            Some(id) => Some(self.subscriptions.get(id).await?),
            None => None,
        };
        let tenant = access.creates_for(body.tenant_id.as_deref())?;
        if named.is_some() && subscription.as_ref().is_some_and(|subscription| subscription.tenant_id != tenant) {
            return Err(ApiError::invalid("tenant_id", "must be that of the subscription, or absent"));
        }
        let to = subscription.as_ref().map_or(To::Tenant(&tenant), To::Subscription);
        let input = EmitterInput {
            event_type: body.event_type,
            rate_per_second: body.rate_per_second,
            duration_seconds: body.duration_seconds,
            template: body.template,
        };
        Ok(input.parse(to, self.payload_bytes_max, Utc::now())?)
    }
}

fn view(emitter: &Emitter) -> EmitterView {
    EmitterView {
        id: emitter.id.to_string(),
        tenant_id: emitter.tenant_id.clone(),
        subscription_id: emitter.subscription_id.map(|id| id.to_string()),
        event_type: emitter.event_type.clone(),
        rate_per_second: emitter.rate.per_second(),
        template: emitter.template.value().clone(),
        status: emitter.status.into(),
        emitted: emitter.emitted.unsigned_abs(),
        skipped: emitter.skipped.unsigned_abs(),
        started_at: emitter.started_at,
        ends_at: emitter.ends_at,
        finished_at: emitter.finished_at,
        last_error: emitter.last_error.clone(),
        last_error_at: emitter.last_error_at,
    }
}
