//! What a caller may reach. Here, and nowhere else, it is decided which tenant's things a key opens: a handler gets a
//! typed id only from [`Access::find`], and the tenant of a list or a creation only from here.

pub mod auth;
pub mod ingest_credential;
pub mod ingest_limits;

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

/// What a caller may reach, and who it is.
#[derive(Clone, Debug)]
pub struct Access {
    actor: Actor,
    tenant: Option<String>,
    scopes: Vec<Scope>,
    rate_limit: Option<RateLimit>,
}

impl Access {
    /// Of the key from the environment: everything.
    #[must_use]
    pub fn admin() -> Self {
        Self { actor: Actor::AdminKey, tenant: None, scopes: vec![Scope::Admin], rate_limit: None }
    }

    /// Of an API key.
    #[must_use]
    pub fn of(key: &ApiKey) -> Self {
        Self {
            actor: Actor::Key(key.id),
            tenant: key.tenant_id.clone(),
            scopes: key.scopes.clone(),
            rate_limit: key.rate_limit,
        }
    }

    /// Who it is.
    #[must_use]
    pub fn actor(&self) -> Actor {
        self.actor
    }

    /// Which key it is and how many requests may post events with it, where that is limited.
    #[must_use]
    pub fn rate_limit(&self) -> Option<(KeyId, RateLimit)> {
        match (self.actor, self.rate_limit) {
            (Actor::Key(id), Some(limit)) => Some((id, limit)),
            (Actor::Key(_) | Actor::AdminKey | Actor::Postrider, _) => None,
        }
    }

    /// Whether it is good for that.
    #[must_use]
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.iter().any(|granted| granted.includes(scope))
    }

    /// The only tenant it reaches, if it is bound to one.
    #[must_use]
    pub fn tenant(&self) -> Option<&str> {
        self.tenant.as_deref()
    }

    /// Reads an id from a path or a query. What is not one, or is another tenant's, cannot be found.
    ///
    /// # Errors
    /// Not found.
    pub async fn find<I: Owned + std::str::FromStr>(&self, pool: &PgPool, text: &str) -> Result<I, ApiError> {
        let id: I = text.parse().map_err(|_| ApiError::not_found(I::WHAT))?;
        if let Some(own) = &self.tenant
            && id.tenant(pool).await?.as_ref() != Some(own)
        {
            return Err(ApiError::not_found(I::WHAT));
        }
        Ok(id)
    }

    /// As [`Self::find`], for an id that may be left out of a query.
    ///
    /// # Errors
    /// Unprocessable where it is not an id; not found.
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

    /// The tenant for whom something is created: the one that is named, or else the key's own, or else the default one.
    ///
    /// # Errors
    /// Not found where it is another than the key's; unprocessable.
    pub fn creates_for(&self, named: Option<&str>) -> Result<String, ApiError> {
        match self.lists(named)? {
            Some(tenant) => Ok(tenant),
            None => Ok(TENANT_DEFAULT.to_owned()),
        }
    }

    /// The tenant whose things are listed: the one that is named, or else the key's own; `None` for everybody's.
    ///
    /// # Errors
    /// Not found where it is another than the key's; unprocessable.
    pub fn lists(&self, named: Option<&str>) -> Result<Option<String>, ApiError> {
        if let Some(named) = named {
            check_tenant(named).map_err(|why| ApiError::invalid("tenant_id", why))?;
            if self.tenant.as_deref().is_some_and(|own| own != named) {
                return Err(Error::NotFound("tenant").into());
            }
        }
        Ok(named.map(str::to_owned).or_else(|| self.tenant.clone()))
    }

    /// Whether it reaches what belongs to that tenant.
    #[must_use]
    pub fn reaches(&self, tenant: &str) -> bool {
        self.tenant.as_deref().is_none_or(|own| own == tenant)
    }
}
