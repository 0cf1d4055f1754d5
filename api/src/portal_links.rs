//! `/portal-links`: a link opens the dashboard of one tenant, without an account, until it expires.

use chrono::{DateTime, Utc};
use poem_openapi::{
    ApiResponse, Object, OpenApi,
    param::{Header, Path, Query},
    payload::Json,
    types::ToJSON,
};
use postrider_core::{
    Error,
    access::{
        api_key::{self, ApiKey, KeyKind},
        portal_link::{self, PortalAccess, PortalLinkId, PortalLinkInput},
    },
    announce::changes::Change,
    event::idempotency::Creation,
};
use serde::Deserialize;

use crate::{
    access::auth::{Admin, Key},
    app::{App, Tag},
    config::Dashboard,
    serve::{
        body::{Input, JsonBody},
        idempotency::stored_answer,
        list::{List, Wanted},
        problem::ApiError,
        public_url::PublicUrl,
    },
    ui::portal,
};

/// The routes of `/portal-links`.
pub struct PortalLinksApi(pub App);

/// What a portal link should be.
#[derive(Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields, rename = "PortalLinkInput")]
pub struct PortalLinkBody {
    /// The tenant whose dashboard the link opens, such as `acme`; at most 64 characters. Only a key that is bound to a
    /// tenant may leave it out, and means its own.
    tenant_id: Option<String>,
    /// What whoever opens the link may do: `view` (see everything but secrets) or `manage` (see and change everything);
    /// `view` where absent.
    access: Option<String>,
    /// For how many seconds the link works, 300 to 86400; 3600, an hour, where absent.
    expires_in_seconds: Option<u32>,
    /// A name by which you recognize the link, such as `Ada of Acme`; at most 200 characters. Whoever opens the link
    /// does not see it. `Portal link` where absent.
    label: Option<String>,
}

impl Input for PortalLinkBody {}

/// A portal link. Only the answer that creates it shows the URL.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none, rename = "PortalLink")]
pub struct PortalLinkView {
    /// The link's id, such as `key_0198c0de2f3a7b1c9d4e5f60718293a4`: a portal link is a kind of API key.
    id: String,
    /// The tenant whose dashboard the link opens.
    tenant_id: String,
    /// What whoever opens the link may do: `view` or `manage`.
    access: String,
    /// A name by which you recognize the link.
    label: String,
    /// The URL to open, such as `https://hooks.example.com/ui/portal#pr_…`; only in the answer that created the link.
    /// It begins with `/ui/portal` where the operator has not set `POSTRIDER_PUBLIC_URL`: put the address of your
    /// Postrider before it.
    url: Option<String>,
    /// When the link was created (RFC 3339).
    created_at: DateTime<Utc>,
    /// From this time on the link opens nothing any more, and every session that it has opened has ended (RFC 3339).
    expires_at: Option<DateTime<Utc>>,
    /// When somebody who came by the link last looked at something, up to a minute late; absent where nobody did (RFC
    /// 3339).
    last_used_at: Option<DateTime<Utc>>,
    /// When the link was revoked; absent where it was not (RFC 3339).
    revoked_at: Option<DateTime<Utc>>,
}

/// The answer to a creation.
#[derive(Debug, ApiResponse)]
pub enum Created {
    /// The link works. This is the only answer that shows its URL.
    #[oai(status = 201)]
    Created(Json<PortalLinkView>),
}

#[OpenApi(tag = "Tag::PortalLinks")]
impl PortalLinksApi {
    /// Create a portal link
    ///
    /// Give the URL to your customer, who sees the dashboard of this tenant and nothing else. What is behind `#` is a
    /// key: browsers do not send it to servers as part of the URL, and the page takes it out of the address bar.
    #[oai(path = "/portal-links", method = "post", operation_id = "create_portal_link")]
    async fn create(
        &self,
        key: Key<Admin>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
        body: JsonBody<PortalLinkBody>,
    ) -> Result<Created, ApiError> {
        let PortalLinkBody { tenant_id, access, expires_in_seconds, label } = body.value;
        let tenant_id = key.lists(tenant_id.as_deref())?;
        let new = PortalLinkInput { tenant_id: tenant_id.clone(), access, expires_in_seconds, label };
        let new = new.parse(Utc::now())?;
        self.0.opens_portals()?;
        let (key_ttl, tenant) = (self.0.key_ttl, tenant_id.as_deref().unwrap_or_default());
        let once = key_ttl.request(idempotency_key.0.as_deref(), tenant, "POST /portal-links", &body.bytes)?;
        let base = self.0.public_url.as_ref().map_or("", PublicUrl::as_str);
        let with_url = |link: &ApiKey, text: &str| PortalLinkView { url: Some(portal::url(base, text)), ..view(link) };
        let answer = |link: &ApiKey, text: &str| with_url(link, text).to_json_string().into_bytes();
        let made = api_key::create(&self.0.pool, &self.0.keyring, key.actor(), &new, once.as_ref(), answer).await?;
        Ok(Created::Created(Json(match made {
            Creation::Now((link, text)) => with_url(&link, &text),
            Creation::Before(answer) => stored_answer(&answer)?,
        })))
    }

    /// List portal links
    ///
    /// Those that still work, the newest first.
    #[oai(path = "/portal-links", method = "get", operation_id = "list_portal_links")]
    async fn list(
        &self,
        key: Key<Admin>,
        /// Only links to the dashboard of this tenant, such as `acme`.
        tenant_id: Query<Option<String>>,
        limit: Query<Option<u32>>,
        cursor: Query<Option<String>>,
    ) -> Result<Json<List<PortalLinkView>>, ApiError> {
        let tenant = key.lists(tenant_id.0.as_deref())?;
        let wanted = Wanted::parse(limit.0, cursor.0.as_deref(), |PortalLinkId(id)| id.0)?;
        let found = portal_link::list(&self.0.pool, tenant.as_deref(), wanted.page()).await?;
        Ok(Json(wanted.list(found, |one| one.id, view)))
    }

    /// Revoke a portal link
    ///
    /// It opens nothing any more, and all sessions that it has opened end, at once and in all processes.
    #[oai(path = "/portal-links/:id", method = "delete", operation_id = "revoke_portal_link")]
    async fn revoke(&self, key: Key<Admin>, id: Path<String>) -> Result<Json<PortalLinkView>, ApiError> {
        let id: PortalLinkId = key.find(&self.0.pool, &id.0).await?;
        let (revoked, digest) = api_key::revoke(&self.0.pool, key.actor(), KeyKind::PortalLink, id.0).await?;
        self.0.keys.invalidate(&Change::ApiKey(digest)).await;
        Ok(Json(view(&revoked)))
    }
}

impl App {
    /// Refuses to make links that would lead nowhere.
    ///
    /// # Errors
    /// A conflict where this api serves no dashboard, and nobody has told where another one does.
    fn opens_portals(&self) -> Result<(), ApiError> {
        match (self.dashboard, &self.public_url) {
            (Dashboard::On, _) | (Dashboard::Off, Some(_)) => Ok(()),
            (Dashboard::Off, None) => {
                let detail = "the dashboard is switched off; POSTRIDER_PUBLIC_URL says where another api serves it";
                Err(Error::Conflict(detail.to_owned()).into())
            }
        }
    }
}

fn view(link: &ApiKey) -> PortalLinkView {
    PortalLinkView {
        id: link.id.to_string(),
        tenant_id: link.tenant_id.clone().unwrap_or_default(),
        access: PortalAccess::of(link).to_string(),
        label: link.name.as_str().to_owned(),
        url: None,
        created_at: link.created_at,
        expires_at: link.expires_at,
        last_used_at: link.last_used_at,
        revoked_at: link.revoked_at,
    }
}
