//! `/tenants`: what each tenant uses. Nothing else is known of tenants, because they exist by being named.

use chrono::Utc;
use poem_openapi::{Object, OpenApi, param::Query, payload::Json};
use postrider_core::{
    access::tenancy::check_tenant,
    stats::tenants::{self, TenantUsage, Usage},
    tally::class::{Class, Kind},
};

use crate::{
    access::auth::{Key, Read},
    app::{App, Tag},
    serve::{list::limit_of, problem::ApiError},
};

/// The route of `/tenants`.
pub struct TenantsApi(pub App);

/// Tenants in the order of their names.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none, rename = "TenantList")]
pub struct TenantsView {
    /// The items of the page.
    data: Vec<TenantView>,
    /// Send it as `cursor` to get the next page. It is absent on the last page.
    next_cursor: Option<String>,
}

/// A tenant and what it uses.
#[derive(Debug, Object)]
#[oai(rename = "Tenant")]
pub struct TenantView {
    /// The name of the tenant, such as `acme`.
    tenant_id: String,
    /// How many subscriptions it has; 1000 means that many or more.
    subscriptions: u64,
    /// What it has used in the last 24 hours, counted from a full hour on.
    last_24_hours: UsageView,
    /// What it has used in the last 30 days, counted from a full hour on. The last 24 hours are part of it.
    last_30_days: UsageView,
}

/// What a tenant has used in a span of time.
#[derive(Debug, Object)]
#[oai(rename = "TenantUsage")]
pub struct UsageView {
    /// Events that were accepted.
    events: u64,
    /// Bytes of their payloads.
    payload_bytes: u64,
    /// Deliveries that succeeded.
    deliveries_succeeded: u64,
    /// Attempts that failed, without those that failed through a fault of Postrider's.
    attempts_failed: u64,
    /// Deliveries that were given up.
    dead_letters: u64,
}

#[OpenApi(tag = "Tag::Statistics")]
impl TenantsApi {
    /// List tenants
    ///
    /// What each tenant uses, in the order of their names. Those are listed that have subscriptions or API keys, or
    /// for which events were accepted within the last 30 days. A key that is bound to a tenant sees that one only,
    /// whether it has anything or not, and so does a request that names a tenant.
    #[oai(path = "/tenants", method = "get", operation_id = "list_tenants")]
    async fn list(
        &self,
        key: Key<Read>,
        /// Only this tenant, such as `acme`. A key that is bound to a tenant gets 404 for another one.
        tenant_id: Query<Option<String>>,
        /// How many tenants a page holds, 1 to 250; 50 where absent.
        limit: Query<Option<u32>>,
        /// The `next_cursor` of the page before: the last name on it. Absent for the first page.
        cursor: Query<Option<String>>,
    ) -> Result<Json<TenantsView>, ApiError> {
        let (limit, now) = (limit_of(limit.0)?, Utc::now());
        let after = cursor.0.as_deref();
        after.map_or(Ok(()), check_tenant).map_err(|why| ApiError::invalid("cursor", why))?;
        let mut found = match key.lists(tenant_id.0.as_deref())? {
            Some(only) => vec![tenants::of(&self.0.pool, &only, now).await?],
            None => tenants::list(&self.0.pool, after, i64::from(limit) + 1, now).await?,
        };
        let is_more = found.len() > limit as usize;
        found.truncate(limit as usize);
        let next_cursor = found.last().filter(|_| is_more).map(|last| last.tenant_id.clone());
        Ok(Json(TenantsView { data: found.iter().map(view).collect(), next_cursor }))
    }
}

fn view(one: &TenantUsage) -> TenantView {
    TenantView {
        tenant_id: one.tenant_id.clone(),
        subscriptions: one.subscriptions.unsigned_abs(),
        last_24_hours: usage(&one.day),
        last_30_days: usage(&one.month),
    }
}

fn usage(usage: &Usage) -> UsageView {
    UsageView {
        events: usage.accepted.events,
        payload_bytes: usage.accepted.bytes,
        deliveries_succeeded: usage.outcomes.of(Class::Succeeded),
        attempts_failed: usage.outcomes.of_kind(Kind::Failure),
        dead_letters: usage.outcomes.of(Class::DeadLetter),
    }
}
