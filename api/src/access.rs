//! What a caller may reach. Only this file decides which tenants' things a key opens: a handler gets a typed id from
//! [`Access::find`] or [`Access::find_named`], and the tenant of a list or a creation from [`Access::lists`] or
//! [`Access::creates_for`].

pub mod auth;
pub mod ingest_credential;
pub mod ingest_limits;

use chrono::{DateTime, Utc};
use postrider_core::{
    Error,
    access::{
        api_key::{ApiKey, Scope},
        audit::Actor,
        ingest_limit::RateLimit,
        tenancy::{Owned, TENANT_DEFAULT, check_tenant},
    },
    id::KeyId,
};
use sqlx::PgPool;

use crate::serve::problem::ApiError;

/// Who a caller is, and what the caller may reach.
#[derive(Clone, Debug)]
pub struct Access {
    actor: Actor,
    tenant: Option<String>,
    scopes: Vec<Scope>,
    rate_limit: Option<RateLimit>,
    ends: Option<DateTime<Utc>>,
}

impl Access {
    /// The access of the admin key from the environment: every scope, every tenant, and no rate limit.
    #[must_use]
    pub fn admin() -> Self {
        Self { actor: Actor::AdminKey, tenant: None, scopes: vec![Scope::Admin], rate_limit: None, ends: None }
    }

    /// The access that an API key gives.
    #[must_use]
    pub fn of(key: &ApiKey) -> Self {
        Self {
            actor: Actor::Key(key.id),
            tenant: key.tenant_id.clone(),
            scopes: key.scopes.clone(),
            rate_limit: key.rate_limit,
            ends: key.expires_at,
        }
    }

    /// Who the caller is, for the audit log.
    #[must_use]
    pub fn actor(&self) -> Actor {
        self.actor
    }

    /// When the access ends by itself; `None` where it never does.
    #[must_use]
    pub fn ends(&self) -> Option<DateTime<Utc>> {
        self.ends
    }

    /// The key's id and how many requests a second may post events with it; `None` where there is no such limit.
    #[must_use]
    pub fn rate_limit(&self) -> Option<(KeyId, RateLimit)> {
        match (self.actor, self.rate_limit) {
            (Actor::Key(id), Some(limit)) => Some((id, limit)),
            (Actor::Key(_) | Actor::AdminKey | Actor::Postrider, _) => None,
        }
    }

    /// Whether the key has this scope, or one that includes it.
    #[must_use]
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.iter().any(|granted| granted.includes(scope))
    }

    /// The only tenant that the key reaches; `None` where it reaches every tenant.
    #[must_use]
    pub fn tenant(&self) -> Option<&str> {
        self.tenant.as_deref()
    }

    /// Reads an id from a path or a query. An id that cannot be read, and one of another tenant, get the same answer.
    ///
    /// # Errors
    /// Not found, for both.
    pub async fn find<I: Owned + std::str::FromStr>(&self, pool: &PgPool, text: &str) -> Result<I, ApiError> {
        let id: I = text.parse().map_err(|_| ApiError::not_found(I::WHAT))?;
        if let Some(own) = &self.tenant
            && id.tenant(pool).await?.as_ref() != Some(own)
        {
            return Err(ApiError::not_found(I::WHAT));
        }
        Ok(id)
    }

    /// Like [`Self::find`], for an id that a query may leave out.
    ///
    /// # Errors
    /// Unprocessable where the text is not an id; not found where the id is another tenant's.
    pub async fn find_named<I: Owned + std::str::FromStr<Err: std::fmt::Display>>(
        &self,
        pool: &PgPool,
        field: &str,
        text: Option<&str>,
    ) -> Result<Option<I>, ApiError> {
        let Some(text) = text else { return Ok(None) };
        text.parse::<I>().map_err(|why| ApiError::invalid(field, why.to_string()))?;
        self.find(pool, text).await.map(Some)
    }

    /// The tenant that a new thing belongs to: the one that the request names, or else the key's own, or else the
    /// default one.
    ///
    /// # Errors
    /// Not found where the request names another tenant than the key's; unprocessable where the name is not valid.
    pub fn creates_for(&self, named: Option<&str>) -> Result<String, ApiError> {
        match self.lists(named)? {
            Some(tenant) => Ok(tenant),
            None => Ok(TENANT_DEFAULT.to_owned()),
        }
    }

    /// The tenant whose things are listed: the one that the request names, or else the key's own; `None` for all
    /// tenants.
    ///
    /// # Errors
    /// Not found where the request names another tenant than the key's; unprocessable where the name is not valid.
    pub fn lists(&self, named: Option<&str>) -> Result<Option<String>, ApiError> {
        if let Some(named) = named {
            check_tenant(named).map_err(|why| ApiError::invalid("tenant_id", why))?;
            if self.tenant.as_deref().is_some_and(|own| own != named) {
                return Err(Error::NotFound("tenant").into());
            }
        }
        Ok(named.map(str::to_owned).or_else(|| self.tenant.clone()))
    }

    /// Requires that the key reaches every tenant, for what belongs to none.
    ///
    /// # Errors
    /// Forbidden where the key is bound to a tenant.
    pub fn is_of_every_tenant(&self) -> Result<(), ApiError> {
        if self.tenant.is_none() { Ok(()) } else { Err(ApiError::bound_to_a_tenant()) }
    }

    /// Whether the key reaches what belongs to this tenant.
    #[must_use]
    pub fn reaches(&self, tenant: &str) -> bool {
        self.tenant.as_deref().is_none_or(|own| own == tenant)
    }
}
