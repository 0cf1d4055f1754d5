//! `/subscriptions`: who wants which events, and where they are delivered.

pub mod body;
pub mod flow_body;
pub mod health_view;
pub mod retry_policy_body;
pub mod sample;
pub mod secrets;
pub mod signature_body;
pub mod view;

use chrono::Utc;
use poem_openapi::{
    ApiResponse, OpenApi,
    param::{Header, Path, Query},
    payload::Json,
    types::ToJSON,
};
use postrider_core::{
    event::idempotency::Creation,
    id::SubscriptionId,
    stats::damage::{self, Failing},
    subscription::{
        StateChange, Subscription, counts, health,
        list::{Filter, Receiver},
        settings_input::Checked,
    },
};
use serde_json::Value;

use crate::{
    access::{
        Access,
        auth::{Key, Manage, Read},
    },
    app::{App, Tag},
    serve::{
        body::{JsonBody, MergePatch, from_value},
        idempotency::stored_answer,
        list::{self, List, Wanted},
        problem::ApiError,
    },
    subscriptions::{
        body::{SubscriptionInput, SubscriptionPatch},
        flow_body::CircuitStateName,
        health_view::HealthView,
        view::{SortName, StateName, SubscriptionView},
    },
};

/// The routes of `/subscriptions`.
pub struct SubscriptionsApi(pub App);

/// The answer to a creation.
#[derive(Debug, ApiResponse)]
pub enum Created {
    /// The subscription exists. This answer shows its `secret`; later ones do not.
    #[oai(status = 201)]
    Created(
        Json<SubscriptionView>,
        /// The path of the new subscription, such as `/subscriptions/sub_0198c0de2f3a7b1c9d4e5f60718293a4`.
        #[oai(header = "Location")]
        String,
    ),
}

/// The answer to a deletion.
#[derive(Debug, ApiResponse)]
pub enum Deleted {
    /// The subscription is deleted.
    #[oai(status = 204)]
    Deleted,
}

type One = Result<Json<SubscriptionView>, ApiError>;

#[OpenApi(tag = "Tag::Subscriptions")]
impl SubscriptionsApi {
    /// Create a subscription
    ///
    /// It begins to receive events at once. Without a `secret`, one is made, and shown in this answer only.
    #[oai(path = "/subscriptions", method = "post", operation_id = "create_subscription")]
    async fn create(
        &self,
        key: Key<Manage>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
        body: JsonBody<SubscriptionInput>,
    ) -> Result<Created, ApiError> {
        let tenant = key.creates_for(body.value.tenant_id.as_deref())?;
        let idempotent =
            self.0.key_ttl.request(idempotency_key.0.as_deref(), &tenant, "POST /subscriptions", &body.bytes)?;
        self.0.vet(&body.value.target_url).await?;
        let Checked { settings, secret } = body.value.parse(&self.0.target_policy, None)?;
        let secret = secret.map(|replacement| replacement.secret);
        let answer = |created: &Subscription| SubscriptionView::with_secret(created).to_json_string().into_bytes();
        let made = self.0.subscriptions.create(key.actor(), &tenant, &settings, secret, idempotent.as_ref(), answer);
        let view = match made.await? {
            Creation::Now(created) => {
                self.0.forget(&created).await;
                SubscriptionView::with_secret(&created)
            }
            Creation::Before(answer) => stored_answer(&answer)?,
        };
        let location = format!("/subscriptions/{}", view.id);
        Ok(Created::Created(Json(view), location))
    }

    /// List subscriptions
    ///
    /// The newest first, or those that fail most. Deleted ones are not listed. A page looks at a bounded number of
    /// subscriptions: where few pass the filters, it may be short or empty and have a `next_cursor` all the same. With
    /// `sort=failures` there is one page, which chooses among the 1000 with the most failures.
    #[oai(path = "/subscriptions", method = "get", operation_id = "list_subscriptions")]
    async fn list(
        &self,
        key: Key<Read>,
        tenant_id: Query<Option<String>>,
        /// Only subscriptions in this state.
        state: Query<Option<StateName>>,
        /// Only subscriptions whose circuit is in this state, such as `open`.
        circuit: Query<Option<CircuitStateName>>,
        /// `true` for subscriptions whose attempts have all failed since some time, `false` for all others.
        failing: Query<Option<bool>>,
        /// Only subscriptions whose patterns fit this type, such as `order.created`, or that have none.
        event_type: Query<Option<String>>,
        /// Only subscriptions whose target has this host or one below it, such as `example.com`.
        host: Query<Option<String>>,
        metadata: Query<Vec<String>>,
        /// The order; `newest` where absent.
        sort: Query<Option<SortName>>,
        /// Whether each subscription comes with `counts` of what waits and what was given up; false where absent.
        counts: Query<Option<bool>>,
        limit: Query<Option<u32>>,
        cursor: Query<Option<String>>,
    ) -> Result<Json<List<SubscriptionView>>, ApiError> {
        let filter = Filter {
            tenant_id: key.lists(tenant_id.0.as_deref())?,
            state: state.0.map(Into::into),
            metadata: list::metadata(metadata.0)?,
            circuit: circuit.0.map(Into::into),
            receiver: failing.0.map(|is_failing| if is_failing { Receiver::Failing } else { Receiver::Well }),
            event_type: list::parsed("event_type", event_type.0.as_deref())?,
            host: list::parsed("host", host.0.as_deref())?,
        };
        let wanted = Wanted::parse(limit.0, cursor.0.as_deref(), |id: SubscriptionId| id.0)?;
        let mut list = if sort.0 == Some(SortName::Failures) {
            if cursor.0.is_some() {
                return Err(ApiError::invalid("cursor", "cannot be combined with `sort=failures`, which has one page"));
            }
            let limit = list::limit_of(limit.0)? as usize;
            let (pool, store) = (&self.0.pool, &self.0.subscriptions);
            let found = damage::list(pool, store, &filter, limit, Utc::now()).await?;
            let view = |(one, failed): &Failing| SubscriptionView {
                failed_attempts: Some(*failed),
                ..SubscriptionView::of(one)
            };
            wanted.list(found, |(one, _)| one.id, view)
        } else {
            let found = self.0.subscriptions.list(&filter, wanted.page()).await?;
            wanted.found(found, |one| one.id, |id| SubscriptionId(id).to_string(), SubscriptionView::of)
        };
        if counts.0 == Some(true) {
            self.count(&mut list).await?;
        }
        Ok(Json(list))
    }

    /// Get a subscription
    #[oai(path = "/subscriptions/:id", method = "get", operation_id = "get_subscription")]
    async fn get(&self, key: Key<Read>, id: Path<String>) -> One {
        let found = self.0.subscriptions.get(key.find(&self.0.pool, &id.0).await?).await?;
        Ok(Json(SubscriptionView::of(&found)))
    }

    /// Get the health of a subscription
    ///
    /// How its deliveries fare at this moment: what waits and why, the state of its circuit, and how its receiver has
    /// answered of late.
    #[oai(path = "/subscriptions/:id/health", method = "get", operation_id = "get_subscription_health")]
    async fn health(&self, key: Key<Read>, id: Path<String>) -> Result<Json<HealthView>, ApiError> {
        let found = health::read(&self.0.pool, key.find(&self.0.pool, &id.0).await?).await?;
        Ok(Json(HealthView::of(found)))
    }

    /// Replace a subscription
    ///
    /// A setting that is absent from the body gets its default. Only the secrets stay when they are absent.
    #[oai(path = "/subscriptions/:id", method = "put", operation_id = "replace_subscription")]
    async fn replace(&self, key: Key<Manage>, id: Path<String>, body: JsonBody<SubscriptionInput>) -> One {
        let id = key.find(&self.0.pool, &id.0).await?;
        self.0.vet(&body.value.target_url).await?;
        let parse = |current: &Subscription| body.value.parse(&self.0.target_policy, Some(current));
        let changed = self.0.subscriptions.update(key.actor(), id, parse).await?;
        self.0.forget(&changed).await;
        Ok(Json(SubscriptionView::of(&changed)))
    }

    /// Change a subscription
    ///
    /// The body is a JSON merge patch (RFC 7396): a setting that is absent stays as it is, and `null` sets it to its
    /// default, but switches `circuit` and `disable_after_days` off. `retry_policy`, `filters` and `ingest_signature`
    /// (but for its secrets) are replaced as a whole.
    #[oai(path = "/subscriptions/:id", method = "patch", operation_id = "change_subscription")]
    async fn change(&self, key: Key<Manage>, id: Path<String>, patch: MergePatch<SubscriptionPatch>) -> One {
        let id = key.find(&self.0.pool, &id.0).await?;
        patch.check_fields::<SubscriptionInput>()?;
        // The patch is applied here, so that a patch that does not fit is reported before anything is locked, and again
        // under the lock if the subscription has changed since.
        let current = self.0.subscriptions.get(id).await?;
        let input = patched(&current, &patch)?;
        if patch.says("target_url").is_some() {
            self.0.vet(&input.target_url).await?;
        }
        let parse = |locked: &Subscription| {
            let input =
                if locked.updated_at == current.updated_at { Some(input) } else { patched(locked, &patch).ok() };
            let again = || postrider_core::Error::Conflict("the subscription has just been changed".to_owned());
            input.ok_or_else(again)?.parse(&self.0.target_policy, Some(locked))
        };
        let changed = self.0.subscriptions.update(key.actor(), id, parse).await?;
        self.0.forget(&changed).await;
        Ok(Json(SubscriptionView::of(&changed)))
    }

    /// Delete a subscription
    ///
    /// Its deliveries that are waiting are canceled. Its events, deliveries and attempts can be read until retention
    /// removes them.
    #[oai(path = "/subscriptions/:id", method = "delete", operation_id = "delete_subscription")]
    async fn delete(&self, key: Key<Manage>, id: Path<String>) -> Result<Deleted, ApiError> {
        let deleted = self.0.subscriptions.delete(key.actor(), key.find(&self.0.pool, &id.0).await?).await?;
        self.0.forget(&deleted).await;
        Ok(Deleted::Deleted)
    }

    /// Pause a subscription
    ///
    /// New events are accepted, and wait with those that are waiting already. Requests that are under way finish.
    #[oai(path = "/subscriptions/:id/pause", method = "post", operation_id = "pause_subscription")]
    async fn pause(&self, key: Key<Manage>, id: Path<String>) -> One {
        self.set_state(&key, &id.0, StateChange::Pause).await
    }

    /// Resume a paused subscription
    ///
    /// What has been waiting is delivered.
    #[oai(path = "/subscriptions/:id/resume", method = "post", operation_id = "resume_subscription")]
    async fn resume(&self, key: Key<Manage>, id: Path<String>) -> One {
        self.set_state(&key, &id.0, StateChange::Resume).await
    }

    /// Disable a subscription
    ///
    /// New events are stored and not delivered. What is waiting already goes on waiting until the subscription is
    /// enabled.
    #[oai(path = "/subscriptions/:id/disable", method = "post", operation_id = "disable_subscription")]
    async fn disable(&self, key: Key<Manage>, id: Path<String>) -> One {
        self.set_state(&key, &id.0, StateChange::Disable).await
    }

    /// Enable a disabled subscription
    ///
    /// What has been waiting is delivered. What was stored while it was disabled is not; a replay of `missed` events
    /// delivers it.
    #[oai(path = "/subscriptions/:id/enable", method = "post", operation_id = "enable_subscription")]
    async fn enable(&self, key: Key<Manage>, id: Path<String>) -> One {
        self.set_state(&key, &id.0, StateChange::Enable).await
    }
}

impl SubscriptionsApi {
    /// Adds to each subscription of a list what waits for it and what was given up.
    async fn count(&self, list: &mut List<SubscriptionView>) -> Result<(), ApiError> {
        let id = |view: &SubscriptionView| view.id.parse().map(|id: SubscriptionId| id.0).unwrap_or_default();
        let ids: Vec<_> = list.items().iter().map(id).collect();
        let counts = counts::read(&self.0.pool, &ids).await?;
        list.change(|view| {
            let counts = counts.get(&id(&view)).copied().unwrap_or_default();
            view.with_counts(counts)
        });
        Ok(())
    }

    async fn set_state(&self, access: &Access, id: &str, change: StateChange) -> One {
        let id = access.find(&self.0.pool, id).await?;
        let changed = self.0.subscriptions.set_state(access.actor(), id, change).await?;
        self.0.forget(&changed).await;
        Ok(Json(SubscriptionView::of(&changed)))
    }
}

fn patched(current: &Subscription, patch: &MergePatch<SubscriptionPatch>) -> Result<SubscriptionInput, ApiError> {
    let input = SubscriptionInput::of(current);
    let mut value = patch.apply(serde_json::to_value(input).map_err(postrider_core::Error::internal)?);
    // These are replaced as a whole: parts of two policies make no valid policy, and in a filter null has a meaning.
    for field in ["retry_policy", "filters", "ingest_signature"] {
        if let Some(said) = patch.says(field).filter(|said| !said.is_null()) {
            value[field] = said.clone();
        }
    }
    // Of these, null is a value: it switches them off, while an absent one has its default.
    for field in ["circuit", "disable_after_days"] {
        if patch.says(field).is_some_and(Value::is_null) {
            value[field] = Value::Null;
        }
    }
    // The burst belongs to the rate, and ends with it.
    if patch.says("rate_limit_per_second").is_some_and(Value::is_null) && patch.says("rate_limit_burst").is_none() {
        value["rate_limit_burst"] = Value::Null;
    }
    from_value(value)
}
