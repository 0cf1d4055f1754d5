//! `/audit-log`: who changed what.

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

/// The audit log's route.
pub struct AuditLogApi(pub App);

/// A change.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
pub struct AuditView {
    /// Its id.
    id: String,
    /// When.
    created_at: DateTime<Utc>,
    /// Whose thing was changed; absent where it is no single tenant's.
    tenant_id: Option<String>,
    /// Who did it: the id of an API key, `admin_key` for the one from the environment, or `postrider` itself.
    actor: String,
    /// What was done, as in `subscription.created`.
    action: String,
    /// To what: an id.
    target_id: String,
    /// As it was; secrets redacted.
    before: Option<Value>,
    /// As it is; secrets redacted.
    after: Option<Value>,
}

#[OpenApi(tag = "Tag::AuditLog")]
impl AuditLogApi {
    /// List changes
    ///
    /// Every change of a subscription, an API key or a replay, every secret that was shown, and what was done to dead
    /// letters in bulk. Entries are kept for a year.
    #[oai(path = "/audit-log", method = "get", operation_id = "list_audit_log")]
    async fn list(
        &self,
        key: Key<Admin>,
        /// Only this tenant's.
        tenant_id: Query<Option<String>>,
        /// Only what this one did.
        actor: Query<Option<String>>,
        /// Only this action.
        action: Query<Option<String>>,
        /// Only what was done to this.
        target_id: Query<Option<String>>,
        /// Only changes of this time or later (RFC 3339).
        since: Query<Option<DateTime<Utc>>>,
        /// Only changes before this time (RFC 3339).
        until: Query<Option<DateTime<Utc>>>,
        /// Items of a page, 1 to 250; 50 where absent.
        limit: Query<Option<u32>>,
        /// The `next_cursor` of the page before.
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
