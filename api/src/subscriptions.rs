//! `/subscriptions`: managing who wants which events where.

use poem_openapi::{
    ApiResponse, Object, OpenApi,
    param::{Path, Query},
    payload::Json,
};
use postrider_core::{
    id::SubscriptionId,
    signature::SigningSecret,
    subscription::{StateChange, Subscription},
};

use crate::{
    App, Tag,
    auth::Admin,
    body::{JsonBody, MergePatch, from_value},
    find,
    list::{List, Wanted},
    problem::ApiError,
    subscription_body::{SubscriptionInput, SubscriptionPatch, SubscriptionView},
};

/// The subscription routes.
pub struct SubscriptionsApi(pub App);

/// The answer to a creation.
#[derive(Debug, ApiResponse)]
pub enum Created {
    /// It exists. This is the only answer of its kind that shows the secret.
    #[oai(status = 201)]
    Created(
        Json<SubscriptionView>,
        /// Its path.
        #[oai(header = "Location")]
        String,
    ),
}

/// The answer to a deletion.
#[derive(Debug, ApiResponse)]
pub enum Deleted {
    /// It is gone.
    #[oai(status = 204)]
    Deleted,
}

/// A subscription's secret.
#[derive(Debug, Object)]
pub struct SecretView {
    /// `whsec_` and base64.
    secret: String,
}

type One = Result<Json<SubscriptionView>, ApiError>;

#[OpenApi(tag = "Tag::Subscriptions")]
impl SubscriptionsApi {
    /// Create a subscription
    #[oai(path = "/subscriptions", method = "post", operation_id = "create_subscription")]
    async fn create(&self, _admin: Admin, body: JsonBody<SubscriptionInput>) -> Result<Created, ApiError> {
        let tenant = body.0.tenant()?;
        let (settings, secret) = body.0.parse(&self.0.address_policy, None)?;
        let secret = secret.unwrap_or_else(SigningSecret::generate);
        let created = self.0.subscriptions.create(&tenant, &settings, secret).await?;
        let location = format!("/subscriptions/{}", created.id);
        Ok(Created::Created(Json(SubscriptionView::with_secret(&created)), location))
    }

    /// List subscriptions
    #[oai(path = "/subscriptions", method = "get", operation_id = "list_subscriptions")]
    async fn list(
        &self,
        _admin: Admin,
        /// Items of a page, 1 to 250; 50 where absent.
        limit: Query<Option<u32>>,
        /// The `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Json<List<SubscriptionView>>, ApiError> {
        let wanted = Wanted::parse(limit.0, cursor.0.as_deref(), |id: SubscriptionId| id.0)?;
        let found = self.0.subscriptions.list(wanted.page()).await?;
        Ok(Json(wanted.list(found, |one| one.id, SubscriptionView::of)))
    }

    /// Get a subscription
    #[oai(path = "/subscriptions/:id", method = "get", operation_id = "get_subscription")]
    async fn get(&self, _admin: Admin, id: Path<String>) -> One {
        let found = self.0.subscriptions.get(find(&id.0, "subscription")?).await?;
        Ok(Json(SubscriptionView::of(&found)))
    }

    /// Replace a subscription
    ///
    /// What is absent becomes its default, but the secret, which stays.
    #[oai(path = "/subscriptions/:id", method = "put", operation_id = "replace_subscription")]
    async fn replace(&self, _admin: Admin, id: Path<String>, body: JsonBody<SubscriptionInput>) -> One {
        let parse = |current: &Subscription| body.0.parse(&self.0.address_policy, Some(current));
        let changed = self.0.subscriptions.update(find(&id.0, "subscription")?, parse).await?;
        Ok(Json(SubscriptionView::of(&changed)))
    }

    /// Change a subscription
    ///
    /// The body is a JSON merge patch (RFC 7396): what is absent stays, `null` means the default. A `retry_policy` is
    /// replaced as a whole.
    #[oai(path = "/subscriptions/:id", method = "patch", operation_id = "change_subscription")]
    async fn change(&self, _admin: Admin, id: Path<String>, patch: MergePatch<SubscriptionPatch>) -> One {
        let id = find(&id.0, "subscription")?;
        // Applied once outside, so that a patch that does not fit the type is told as such, and once under the lock.
        let current = self.0.subscriptions.get(id).await?;
        let input = patched(&current, &patch)?;
        let parse = |locked: &Subscription| {
            let input =
                if locked.updated_at == current.updated_at { Some(input) } else { patched(locked, &patch).ok() };
            let again = || postrider_core::Error::Conflict("the subscription has just been changed".to_owned());
            input.ok_or_else(again)?.parse(&self.0.address_policy, Some(locked))
        };
        let changed = self.0.subscriptions.update(id, parse).await?;
        Ok(Json(SubscriptionView::of(&changed)))
    }

    /// Delete a subscription
    ///
    /// Deliveries that are waiting are canceled; its history stays until retention removes it.
    #[oai(path = "/subscriptions/:id", method = "delete", operation_id = "delete_subscription")]
    async fn delete(&self, _admin: Admin, id: Path<String>) -> Result<Deleted, ApiError> {
        self.0.subscriptions.delete(find(&id.0, "subscription")?).await?;
        Ok(Deleted::Deleted)
    }

    /// Show a subscription's secret
    #[oai(path = "/subscriptions/:id/secret", method = "get", operation_id = "get_subscription_secret")]
    async fn secret(&self, _admin: Admin, id: Path<String>) -> Result<Json<SecretView>, ApiError> {
        let found = self.0.subscriptions.get(find(&id.0, "subscription")?).await?;
        Ok(Json(SecretView { secret: found.secret.reveal() }))
    }

    /// Pause a subscription
    ///
    /// Events are accepted and wait; requests that are under way finish.
    #[oai(path = "/subscriptions/:id/pause", method = "post", operation_id = "pause_subscription")]
    async fn pause(&self, _admin: Admin, id: Path<String>) -> One {
        self.set_state(&id.0, StateChange::Pause).await
    }

    /// Resume a paused subscription
    #[oai(path = "/subscriptions/:id/resume", method = "post", operation_id = "resume_subscription")]
    async fn resume(&self, _admin: Admin, id: Path<String>) -> One {
        self.set_state(&id.0, StateChange::Resume).await
    }

    /// Disable a subscription
    ///
    /// New events are stored and not delivered; what was waiting waits until it is enabled.
    #[oai(path = "/subscriptions/:id/disable", method = "post", operation_id = "disable_subscription")]
    async fn disable(&self, _admin: Admin, id: Path<String>) -> One {
        self.set_state(&id.0, StateChange::Disable).await
    }

    /// Enable a disabled subscription
    #[oai(path = "/subscriptions/:id/enable", method = "post", operation_id = "enable_subscription")]
    async fn enable(&self, _admin: Admin, id: Path<String>) -> One {
        self.set_state(&id.0, StateChange::Enable).await
    }
}

impl SubscriptionsApi {
    async fn set_state(&self, id: &str, change: StateChange) -> One {
        let changed = self.0.subscriptions.set_state(find(id, "subscription")?, change).await?;
        Ok(Json(SubscriptionView::of(&changed)))
    }
}

fn patched(current: &Subscription, patch: &MergePatch<SubscriptionPatch>) -> Result<SubscriptionInput, ApiError> {
    let mut input = SubscriptionInput::of(current);
    if patch.touches("retry_policy") {
        input.retry_policy = None;
    }
    from_value(patch.apply(serde_json::to_value(input).map_err(postrider_core::Error::internal)?))
}
