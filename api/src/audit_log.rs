//! `/audit-log`: who changed what, and when.

use chrono::{DateTime, Utc};
use poem_openapi::{Object, OpenApi, param::Query, payload::Json};
use postrider_core::{
    access::audit::{self, Entry, Filter},
    id::AuditId,
};
use serde_json::Value;

use crate::{
    access::auth::{Admin, Key},
    app::{App, Tag},
    serve::{
        list::{self, List, Wanted},
        problem::ApiError,
    },
};

/// The route of `/audit-log`.
pub struct AuditLogApi(pub App);

/// One change, or one look at secrets.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none, rename = "AuditEntry")]
pub struct AuditView {
    /// The entry's id, such as `aud_0198c0de2f3a7b1c9d4e5f60718293a4`.
    id: String,
    /// When it was done (RFC 3339).
    created_at: DateTime<Utc>,
    /// The tenant whose thing was changed; absent where it is no single one.
    tenant_id: Option<String>,
    /// Who did it: the id of an API key, `admin_key` for the key from the environment, or `postrider` itself.
    actor: String,
    /// What was done, such as `subscription.created`.
    action: String,
    /// The id of what was changed, such as `sub_0198c0de2f3a7b1c9d4e5f60718293a4`.
    target_id: String,
    /// What was changed, as it was before; secrets are redacted.
    before: Option<Value>,
    /// What was changed, as it was afterwards; secrets are redacted.
    after: Option<Value>,
}

#[OpenApi(tag = "Tag::AuditLog")]
impl AuditLogApi {
    /// List changes
    ///
    /// The newest first: every change of a subscription, an API key or a replay, every secret that was shown, and what
    /// was done to dead letters in bulk. Entries are kept for a year.
    #[oai(path = "/audit-log", method = "get", operation_id = "list_audit_log")]
    async fn list(
        &self,
        key: Key<Admin>,
        tenant_id: Query<Option<String>>,
        /// Only what this actor did: the id of an API key, `admin_key` or `postrider`.
        actor: Query<Option<String>>,
        /// Only this action, such as `subscription.created`.
        action: Query<Option<String>>,
        /// Only what was done to the thing with this id.
        target_id: Query<Option<String>>,
        since: Query<Option<DateTime<Utc>>>,
        until: Query<Option<DateTime<Utc>>>,
        limit: Query<Option<u32>>,
        cursor: Query<Option<String>>,
    ) -> Result<Json<List<AuditView>>, ApiError> {
        let filter = Filter {
            tenant_id: key.lists(tenant_id.0.as_deref())?,
            actor: actor.0,
            action: action.0,
            target_id: target_id.0,
            span: list::span(since.0, until.0)?,
        };
        let wanted = Wanted::parse(limit.0, cursor.0.as_deref(), |id: AuditId| id.0)?;
        let found = audit::list(&self.0.pool, &filter, wanted.page()).await?;
        Ok(Json(wanted.list(found, |one| AuditId(one.id), view)))
    }
}

fn view(entry: &Entry) -> AuditView {
    AuditView {
        id: AuditId(entry.id).to_string(),
        created_at: entry.created_at,
        tenant_id: entry.tenant_id.clone(),
        actor: entry.actor.clone(),
        action: entry.action.clone(),
        target_id: entry.target_id.clone(),
        before: entry.before.clone(),
        after: entry.after.clone(),
    }
}
