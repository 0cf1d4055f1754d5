//! Portal links: with one, a customer sees the dashboard of one tenant without an account, until it expires. A portal
//! link is an API key with a tenant and an end. How the key becomes a URL is not told here.

use std::{fmt, str::FromStr};

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgPool;

use crate::{
    Error, Result,
    access::{
        api_key::{ApiKey, KeyKind, NewApiKey, Row, Scope, select_keys},
        tenancy::{Owned, check_tenant},
    },
    id::{InvalidId, KeyId},
    name::Name,
    page::Page,
    text_enum::text_enum,
    validation::Problems,
};

/// A link works for at least so many seconds: five minutes.
pub const EXPIRES_IN_SECONDS_MIN: u32 = 300;
/// A link works for at most so many seconds: a day.
pub const EXPIRES_IN_SECONDS_MAX: u32 = 24 * 3600;
/// A link for which nobody has chosen a time works for so many seconds: an hour.
pub const EXPIRES_IN_SECONDS_DEFAULT: u32 = 3600;
/// What a link is called to which nobody has given a label.
pub const LABEL_DEFAULT: &str = "Portal link";
/// Hours for which a link is kept after its end. What it was is in the audit log.
pub const KEPT_HOURS: i32 = 24;

text_enum! {
    /// What a link allows whoever opens it.
    pub enum PortalAccess {
        /// To see everything of the tenant but secrets.
        View = "view",
        /// To see and to change everything of the tenant.
        Manage = "manage",
    }
}

impl PortalAccess {
    /// The scope of the link's key.
    fn scope(self) -> Scope {
        match self {
            Self::View => Scope::Read,
            Self::Manage => Scope::Manage,
        }
    }

    /// What the link with this key allows.
    #[must_use]
    pub fn of(link: &ApiKey) -> Self {
        if link.scopes.contains(&Self::Manage.scope()) { Self::Manage } else { Self::View }
    }
}

/// What a portal link should be, as it was written. Absent fields have defaults.
#[derive(Clone, Debug, Default)]
pub struct PortalLinkInput {
    /// The tenant whose dashboard it opens. It must be there.
    pub tenant_id: Option<String>,
    /// What it allows: a word of [`PortalAccess`].
    pub access: Option<String>,
    /// For how many seconds it works.
    pub expires_in_seconds: Option<u32>,
    /// A name by which those who made it recognize it.
    pub label: Option<String>,
}

impl PortalLinkInput {
    /// Checks it; it works from `now` on.
    ///
    /// # Errors
    /// Every rule that it breaks.
    pub fn parse(self, now: DateTime<Utc>) -> std::result::Result<NewApiKey, Problems> {
        let mut problems = Problems::default();
        let tenant_id = self.tenant_id.ok_or_else(|| "must be given".to_owned());
        let tenant_id = problems.take("tenant_id", tenant_id.and_then(|id| check_tenant(&id).map(|()| id)));
        let access = self.access.map_or(Ok(PortalAccess::View), |word| word.parse());
        let access = problems.take("access", access);
        let seconds = self.expires_in_seconds.unwrap_or(EXPIRES_IN_SECONDS_DEFAULT);
        problems.require(
            (EXPIRES_IN_SECONDS_MIN..=EXPIRES_IN_SECONDS_MAX).contains(&seconds),
            "expires_in_seconds",
            format!("must be from {EXPIRES_IN_SECONDS_MIN} to {EXPIRES_IN_SECONDS_MAX}"),
        );
        let label = problems.take("label", Name::parse(self.label.unwrap_or_else(|| LABEL_DEFAULT.to_owned())));
        let link = access.zip(label).map(|(access, name)| NewApiKey {
            kind: KeyKind::PortalLink,
            tenant_id,
            name,
            scopes: vec![access.scope()],
            rate_limit: None,
            expires_at: Some(now + TimeDelta::seconds(seconds.into())),
        });
        problems.into_result()?;
        Ok(link.expect("its parts are there, or noted as problems"))
    }
}

/// The id of a portal link, which is that of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortalLinkId(pub KeyId);

impl fmt::Display for PortalLinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for PortalLinkId {
    type Err = InvalidId;

    fn from_str(text: &str) -> std::result::Result<Self, InvalidId> {
        text.parse().map(Self)
    }
}

impl Owned for PortalLinkId {
    const WHAT: &'static str = "portal link";

    async fn tenant(self, pool: &PgPool) -> Result<Option<String>> {
        let tenant =
            sqlx::query_scalar!("SELECT tenant_id FROM api_keys WHERE id = $1 AND kind = 'portal_link'", self.0.0);
        tenant.fetch_optional(pool).await?.ok_or(Error::NotFound(Self::WHAT))
    }
}

/// Lists the links that still work, of one tenant or of all, the newest first.
pub async fn list(pool: &PgPool, tenant_id: Option<&str>, page: Page) -> Result<Vec<ApiKey>> {
    let rows = select_keys!(
        "WHERE kind = 'portal_link' AND revoked_at IS NULL AND expires_at > now()
            AND ($1::text IS NULL OR tenant_id = $1) AND ($2::uuid IS NULL OR id < $2)
          ORDER BY id DESC
          LIMIT $3",
        tenant_id,
        page.before,
        page.limit
    );
    rows.fetch_all(pool).await?.into_iter().map(ApiKey::try_from).collect()
}

/// Removes links that expired more than [`KEPT_HOURS`] ago; returns how many.
pub async fn retire(pool: &PgPool) -> Result<u64> {
    let retired = sqlx::query!(
        "DELETE FROM api_keys WHERE kind = 'portal_link' AND expires_at < now() - make_interval(hours => $1)",
        KEPT_HOURS
    );
    Ok(retired.execute(pool).await?.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_link_may_be() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).expect("in range");
        let input = || PortalLinkInput { tenant_id: Some("acme".to_owned()), ..PortalLinkInput::default() };
        let link = input().parse(now).expect("valid");
        assert_eq!((link.kind, &link.scopes[..]), (KeyKind::PortalLink, &[Scope::Read][..]));
        assert_eq!((link.tenant_id.as_deref(), link.name.as_str()), (Some("acme"), LABEL_DEFAULT));
        assert_eq!(link.expires_at, Some(now + TimeDelta::hours(1)));
        let manage = PortalLinkInput { access: Some("manage".to_owned()), ..input() }.parse(now).expect("valid");
        assert_eq!(manage.scopes, [Scope::Manage]);
        for seconds in [EXPIRES_IN_SECONDS_MIN, EXPIRES_IN_SECONDS_MAX] {
            let link = PortalLinkInput { expires_in_seconds: Some(seconds), ..input() }.parse(now).expect("valid");
            assert_eq!(link.expires_at, Some(now + TimeDelta::seconds(seconds.into())));
        }
        for (wrong, fields) in [
            (PortalLinkInput { expires_in_seconds: Some(299), ..input() }, vec!["expires_in_seconds"]),
            (PortalLinkInput { expires_in_seconds: Some(86_401), ..input() }, vec!["expires_in_seconds"]),
            (PortalLinkInput { access: Some("ingest".to_owned()), ..input() }, vec!["access"]),
            (PortalLinkInput { label: Some(String::new()), ..input() }, vec!["label"]),
            (
                PortalLinkInput { access: Some("admin".to_owned()), ..PortalLinkInput::default() },
                vec!["tenant_id", "access"],
            ),
        ] {
            let problems = wrong.parse(now).expect_err("invalid").0;
            assert_eq!(problems.iter().map(|one| one.field.as_str()).collect::<Vec<_>>(), fields);
        }
    }
}
