//! API keys: who may do what, for which tenant. A key's text is shown once and stored nowhere. The database holds its
//! SHA-256 digest, by which the key is found.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::{
    Error, Result,
    access::{
        audit::{self, Actor, NewEntry},
        ingest_limit::RateLimit,
    },
    announce::{cache::AnnouncedCache, changes},
    event::idempotency::{self, Creation, IdempotentRequest},
    id::KeyId,
    name::Name,
    page::Page,
    text_enum::text_enum,
    trust::seal::Keyring,
};

/// The prefix of every key's text.
pub const PREFIX: &str = "pr_";
/// Random bytes in a key: 256 bits cannot be guessed.
const KEY_BYTES: usize = 32;
/// Leading characters of a key that are stored, so that people recognize it.
const HINT_CHARACTERS: usize = 9;
/// Keys kept in memory, at most. Digests that belong to no key count too.
const KEYS_MAX: u64 = 50_000;

/// SHA-256 of a key's text.
pub type Digest = [u8; 32];

/// The digest under which the key with this text is stored.
#[must_use]
pub fn digest(text: &str) -> Digest {
    Sha256::digest(text).into()
}

text_enum! {
    /// What a key allows its holder to do.
    pub enum Scope {
        /// Everything, API keys and the audit log included.
        Admin = "admin",
        /// Subscriptions, deliveries, dead letters and jobs: reading and changing.
        Manage = "manage",
        /// Posting events and inline deliveries.
        Ingest = "ingest",
        /// Reading, except secrets.
        Read = "read",
    }
}

text_enum! {
    /// How a key comes to its holder.
    pub enum KeyKind {
        /// A person or a program has the key itself.
        Key = "key",
        /// A person opens a URL in which the key is. Such a key has a tenant and an end.
        PortalLink = "portal_link",
    }
}

impl KeyKind {
    /// The noun for such a key in an error.
    const fn what(self) -> &'static str {
        match self {
            Self::Key => "API key",
            Self::PortalLink => "portal link",
        }
    }

    /// The actions of the audit log: that such a key was created, and that it was revoked.
    const fn actions(self) -> [&'static str; 2] {
        match self {
            Self::Key => ["api_key.created", "api_key.revoked"],
            Self::PortalLink => ["portal_link.created", "portal_link.revoked"],
        }
    }
}

impl Scope {
    /// Whether a key with this scope may do what requires the scope `asked`.
    #[must_use]
    pub fn includes(self, asked: Self) -> bool {
        match self {
            Self::Admin => true,
            Self::Manage => matches!(asked, Self::Manage | Self::Read),
            Self::Ingest | Self::Read => self == asked,
        }
    }
}

/// A stored API key. Its text is not known.
#[derive(Clone, Debug)]
pub struct ApiKey {
    /// Identifies the key in the API; it is not secret.
    pub id: KeyId,
    /// How the key comes to its holder.
    pub kind: KeyKind,
    /// The only tenant whose things the key gives access to; `None` means every tenant.
    pub tenant_id: Option<String>,
    /// A name by which people recognize the key.
    pub name: Name,
    /// What the key allows its holder to do.
    pub scopes: Vec<Scope>,
    /// The first nine characters of the key's text, by which people recognize it.
    pub hint: String,
    /// How many requests a second may post events with the key; `None` means no limit.
    pub rate_limit: Option<RateLimit>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When the key stops working; `None` means never.
    pub expires_at: Option<DateTime<Utc>>,
    /// When the key was last used; it is written about once a minute.
    pub last_used_at: Option<DateTime<Utc>>,
    /// When the key was revoked; it has not worked since.
    pub revoked_at: Option<DateTime<Utc>>,
}

impl ApiKey {
    fn audited(&self) -> Value {
        let scopes: Vec<_> = self.scopes.iter().map(|scope| scope.as_str()).collect();
        json!({
            "name": self.name.as_str(), "scopes": scopes, "hint": self.hint, "expires_at": self.expires_at,
            "revoked_at": self.revoked_at, "rate_limit_per_second": self.rate_limit.map(RateLimit::per_second),
        })
    }
}

/// A key about to be created.
#[derive(Clone, Debug)]
pub struct NewApiKey {
    /// How the key comes to its holder.
    pub kind: KeyKind,
    /// The only tenant whose things the key gives access to; `None` means every tenant.
    pub tenant_id: Option<String>,
    /// A name by which people recognize the key.
    pub name: Name,
    /// What the key allows its holder to do.
    pub scopes: Vec<Scope>,
    /// How many requests a second may post events with the key; `None` means no limit.
    pub rate_limit: Option<RateLimit>,
    /// When the key stops working; `None` means never.
    pub expires_at: Option<DateTime<Utc>>,
}

/// A key as it is stored.
pub(super) struct Row {
    pub(super) id: Uuid,
    pub(super) kind: String,
    pub(super) tenant_id: Option<String>,
    pub(super) name: String,
    pub(super) scopes: Vec<String>,
    pub(super) hint: String,
    pub(super) rate_limit_per_second: Option<i32>,
    pub(super) created_at: DateTime<Utc>,
    pub(super) expires_at: Option<DateTime<Utc>>,
    pub(super) last_used_at: Option<DateTime<Utc>>,
    pub(super) revoked_at: Option<DateTime<Utc>>,
}

/// The statement that reads whole keys, completed by a condition with its arguments, so that the columns are listed
/// once.
macro_rules! select_keys {
    ($condition:tt, $($arguments:tt)*) => {
        sqlx::query_as!(
            Row,
            "SELECT id, kind, tenant_id, name, scopes, hint, rate_limit_per_second, created_at, expires_at,
                    last_used_at, revoked_at
               FROM api_keys " + $condition,
            $($arguments)*
        )
    };
}
pub(super) use select_keys;

impl TryFrom<Row> for ApiKey {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self> {
        let scopes = row.scopes.iter().map(|scope| scope.parse()).collect::<std::result::Result<_, String>>();
        Ok(Self {
            id: KeyId(row.id),
            kind: row.kind.parse().map_err(Error::internal)?,
            tenant_id: row.tenant_id,
            name: Name::from_stored(row.name),
            scopes: scopes.map_err(Error::internal)?,
            hint: row.hint,
            rate_limit: row.rate_limit_per_second.map(RateLimit::from_stored),
            created_at: row.created_at,
            expires_at: row.expires_at,
            last_used_at: row.last_used_at,
            revoked_at: row.revoked_at,
        })
    }
}

/// Creates a key, or returns the stored answer where the same request was made before. `answer` makes the answer that
/// is stored with the idempotency key.
pub async fn create(
    pool: &PgPool,
    keyring: &Keyring,
    actor: Actor,
    new: &NewApiKey,
    idempotent: Option<&IdempotentRequest>,
    answer: impl Fn(&ApiKey, &str) -> Vec<u8>,
) -> Result<Creation<(ApiKey, String)>> {
    let mut transaction = pool.begin().await?;
    if let Some(answer) = idempotency::begin(&mut transaction, keyring, idempotent).await? {
        return Ok(Creation::Before(answer));
    }
    let id = KeyId::new();
    let text = format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; KEY_BYTES]>()));
    let scopes: Vec<_> = new.scopes.iter().map(|scope| scope.as_str().to_owned()).collect();
    let digest = digest(&text);
    sqlx::query!(
        "INSERT INTO api_keys (id, kind, tenant_id, name, scopes, digest, hint, expires_at, rate_limit_per_second)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        id.0,
        new.kind.as_str(),
        new.tenant_id,
        new.name.as_str(),
        &scopes,
        digest.as_slice(),
        &text[..HINT_CHARACTERS],
        new.expires_at,
        new.rate_limit.map(RateLimit::stored)
    )
    .execute(&mut *transaction)
    .await?;
    let key = fetch(&mut transaction, new.kind, id).await?;
    let [created, _] = new.kind.actions();
    let after = Some(key.audited());
    note(&mut transaction, actor, created, &key, None, after).await?;
    idempotency::finish(&mut transaction, keyring, idempotent, || answer(&key, &text)).await?;
    transaction.commit().await?;
    Ok(Creation::Now((key, text)))
}

/// Lists the keys of one tenant, or of all, the newest first; revoked ones are included, and portal links are not.
pub async fn list(pool: &PgPool, tenant_id: Option<&str>, page: Page) -> Result<Vec<ApiKey>> {
    let rows = select_keys!(
        "WHERE kind = 'key' AND ($1::text IS NULL OR tenant_id = $1) AND ($2::uuid IS NULL OR id < $2)
          ORDER BY id DESC
          LIMIT $3",
        tenant_id,
        page.before,
        page.limit
    );
    rows.fetch_all(pool).await?.into_iter().map(ApiKey::try_from).collect()
}

/// Revokes a key of this kind in all processes, from now on; revoking it again changes nothing. Returns the key and its
/// digest.
///
/// # Errors
/// Not found, where there is no key of this kind with this id.
pub async fn revoke(pool: &PgPool, actor: Actor, kind: KeyKind, id: KeyId) -> Result<(ApiKey, Digest)> {
    let mut transaction = pool.begin().await?;
    let before = fetch(&mut transaction, kind, id).await?;
    let digest = sqlx::query_scalar!(
        "UPDATE api_keys SET revoked_at = coalesce(revoked_at, now()) WHERE id = $1 RETURNING digest",
        id.0
    );
    let digest = digest.fetch_one(&mut *transaction).await?;
    let after = fetch(&mut transaction, kind, id).await?;
    if before.revoked_at.is_none() {
        let [_, revoked] = kind.actions();
        let (was, is) = (Some(before.audited()), Some(after.audited()));
        note(&mut transaction, actor, revoked, &after, was, is).await?;
    }
    transaction.commit().await?;
    let digest = Digest::try_from(digest).map_err(|_| Error::internal("a digest is not 32 bytes long"))?;
    Ok((after, digest))
}

async fn fetch(connection: &mut PgConnection, kind: KeyKind, id: KeyId) -> Result<ApiKey> {
    let row = select_keys!("WHERE id = $1 AND kind = $2", id.0, kind.as_str());
    row.fetch_optional(connection).await?.ok_or(Error::NotFound(kind.what()))?.try_into()
}

async fn note(
    connection: &mut PgConnection,
    actor: Actor,
    action: &'static str,
    key: &ApiKey,
    before: Option<Value>,
    after: Option<Value>,
) -> Result<()> {
    let tenant_id = key.tenant_id.as_deref();
    audit::record(connection, NewEntry { tenant_id, actor, action, target_id: key.id.to_string(), before, after }).await
}

/// API keys in memory by the digest of their text, and the time when each was last used.
#[derive(Clone)]
pub struct ApiKeyCache {
    pool: PgPool,
    by_digest: AnnouncedCache<Digest, Option<Arc<ApiKey>>>,
    used: Arc<Mutex<HashMap<Uuid, DateTime<Utc>>>>,
}

impl ApiKeyCache {
    /// An empty cache over the keys in this database.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self { pool, by_digest: AnnouncedCache::new(KEYS_MAX, |_| 1), used: Arc::default() }
    }

    /// The key with this text, if there is one and it is valid at `now`. Notes that the key was used.
    ///
    /// # Errors
    /// When the key has to be loaded and the database is away.
    pub async fn get(&self, text: &str, now: DateTime<Utc>) -> Result<Option<Arc<ApiKey>>> {
        self.get_by_digest(digest(text), now).await
    }

    /// Does what [`Self::get`] does, for a caller that knows the digest of the key's text only.
    ///
    /// # Errors
    /// When the key has to be loaded and the database is away.
    pub async fn get_by_digest(&self, digest: Digest, now: DateTime<Utc>) -> Result<Option<Arc<ApiKey>>> {
        let load = async {
            let row = select_keys!("WHERE digest = $1 AND revoked_at IS NULL", digest.as_slice());
            row.fetch_optional(&self.pool).await?.map(|row| ApiKey::try_from(row).map(Arc::new)).transpose()
        };
        let key = self.by_digest.get(&digest, load).await?;
        let valid = key.filter(|key| key.expires_at.is_none_or(|expires_at| now < expires_at));
        if let Some(key) = &valid {
            self.used.lock().expect("nothing panics while it is held").insert(key.id.0, now);
        }
        Ok(valid)
    }

    /// Drops the keys that a change touches.
    pub async fn invalidate(&self, change: &changes::Change) {
        match change {
            changes::Change::ApiKey(digest) => self.by_digest.remove(digest).await,
            changes::Change::Subscription { .. } => {}
            changes::Change::Anything => self.by_digest.clear(),
        }
    }

    /// Stores the times of use that were noted since the last call.
    pub async fn write_down_uses(&self) -> Result<()> {
        let used = std::mem::take(&mut *self.used.lock().expect("nothing panics while it is held"));
        if used.is_empty() {
            return Ok(());
        }
        let (ids, times): (Vec<_>, Vec<_>) = used.into_iter().unzip();
        sqlx::query!(
            "UPDATE api_keys k SET last_used_at = greatest(k.last_used_at, i.used_at)
               FROM unnest($1::uuid[], $2::timestamptz[]) AS i (id, used_at)
              WHERE k.id = i.id",
            &ids,
            &times
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes() {
        use Scope::{Admin, Ingest, Manage, Read};
        let granted = |scope: Scope| Scope::ALL.into_iter().filter(|asked| scope.includes(*asked)).collect::<Vec<_>>();
        assert_eq!(granted(Admin), [Admin, Manage, Ingest, Read]);
        assert_eq!(granted(Manage), [Manage, Read]);
        assert_eq!(granted(Ingest), [Ingest]);
        assert_eq!(granted(Read), [Read]);
    }
}
