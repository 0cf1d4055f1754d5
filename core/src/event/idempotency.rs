//! Idempotency keys: a request that is repeated with its key gets the same answer, and nothing happens twice. The key
//! is stored in the same transaction as the effect of the request, so neither ever exists without the other.
//!
//! The keys of events are stored by `accept()`, together with the batch; all other keys go through
//! [`IdempotentRequest`].

use sha2::{Digest, Sha256};
use sqlx::{PgConnection, PgPool};

use crate::{Error, Result, id::SubscriptionId, trust::seal::Keyring, validation};

/// Characters of a key, at most.
pub const KEY_CHARACTERS_MAX: usize = 255;
/// Expired keys that one statement removes, at most.
const RETIRED_AT_ONCE_MAX: i64 = 10_000;

/// SHA-256 of a request, by which a repeated request is told from a different one.
pub type Fingerprint = [u8; 32];

/// The fingerprint of a request's parts. The length of each part is hashed too, so that no two requests look alike.
#[must_use]
pub fn fingerprint<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Fingerprint {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// The source of a key. Each source has a namespace of its own, so that a statement which stores many events never
/// waits for a key that another request holds in a longer transaction. (Keys of `publish()` begin with `sql:`.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyNamespace {
    /// The `Idempotency-Key` of a request that posts one event.
    EventHeader,
    /// The `Idempotency-Key` of a request that posts many events, for the event at this place.
    BatchHeader(usize),
    /// The id that a producer gave to its event.
    EventId,
    /// The `Idempotency-Key` of a request that creates anything else.
    Header,
    /// The identity that a signed request to this subscription's ingest proves; it is the same for a repeated request.
    Signature(SubscriptionId),
}

/// Checks a key's text and returns the key in the form in which it is stored.
///
/// # Errors
/// What is wrong with it.
pub fn key(namespace: KeyNamespace, text: &str) -> std::result::Result<String, String> {
    validation::text(text, KEY_CHARACTERS_MAX)?;
    Ok(match namespace {
        KeyNamespace::EventHeader => format!("event:{text}"),
        KeyNamespace::BatchHeader(place) => format!("batch:{place}:{text}"),
        KeyNamespace::EventId => format!("id:{text}"),
        KeyNamespace::Header => format!("made:{text}"),
        KeyNamespace::Signature(id) => format!("signed:{}:{text}", id.0.simple()),
    })
}

/// A request to create something, which must have its effect only once.
#[derive(Clone, Debug)]
pub struct IdempotentRequest {
    /// The tenant to which the key belongs.
    pub tenant_id: String,
    /// The key in its stored form, from [`key`].
    pub key: String,
    /// The fingerprint of the request.
    pub fingerprint: Fingerprint,
    /// Seconds for which the key is remembered.
    pub ttl_seconds: u32,
}

/// The result of an idempotent creation.
#[derive(Debug)]
pub enum Creation<T> {
    /// The thing was created now.
    Now(T),
    /// The thing was created before; this is the stored answer.
    Before(Vec<u8>),
}

/// Takes the key, if there is one. Returns the stored answer where the request was made before. Waits for another
/// transaction that is using the same key. Without a stored answer, the caller goes on, and calls [`finish`] in the
/// same transaction.
///
/// # Errors
/// When the key has been used for something else.
pub async fn begin(
    connection: &mut PgConnection,
    keyring: &Keyring,
    idempotent: Option<&IdempotentRequest>,
) -> Result<Option<Vec<u8>>> {
    match idempotent {
        Some(idempotent) => idempotent.begin(connection, keyring).await,
        None => Ok(None),
    }
}

/// Stores the sealed answer, if there is a key.
pub async fn finish(
    connection: &mut PgConnection,
    keyring: &Keyring,
    idempotent: Option<&IdempotentRequest>,
    answer: impl FnOnce() -> Vec<u8>,
) -> Result<()> {
    match idempotent {
        Some(idempotent) => idempotent.finish(connection, keyring, &answer()).await,
        None => Ok(()),
    }
}

impl IdempotentRequest {
    async fn begin(&self, connection: &mut PgConnection, keyring: &Keyring) -> Result<Option<Vec<u8>>> {
        let first = sqlx::query!(
            "INSERT INTO idempotency_keys AS k (tenant_id, key, fingerprint, expires_at)
             VALUES ($1, $2, $3, clock_timestamp() + make_interval(secs => $4))
                 ON CONFLICT (tenant_id, key) DO UPDATE
                SET fingerprint = EXCLUDED.fingerprint, event_id = NULL, answer = NULL, expires_at = EXCLUDED.expires_at
              WHERE k.expires_at <= clock_timestamp()",
            self.tenant_id,
            self.key,
            self.fingerprint.as_slice(),
            f64::from(self.ttl_seconds)
        );
        if first.execute(&mut *connection).await?.rows_affected() == 1 {
            return Ok(None);
        }
        let known = sqlx::query!(
            "SELECT fingerprint, answer FROM idempotency_keys WHERE tenant_id = $1 AND key = $2",
            self.tenant_id,
            self.key
        );
        let known = known.fetch_one(connection).await?;
        match known.answer {
            Some(answer) if known.fingerprint == self.fingerprint => {
                keyring.open(&answer, self.key.as_bytes()).map(Some).map_err(Error::internal)
            }
            _ => Err(Error::KeyReused),
        }
    }

    async fn finish(&self, connection: &mut PgConnection, keyring: &Keyring, answer: &[u8]) -> Result<()> {
        sqlx::query!(
            "UPDATE idempotency_keys SET answer = $3 WHERE tenant_id = $1 AND key = $2",
            self.tenant_id,
            self.key,
            keyring.seal(answer, self.key.as_bytes())
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}

/// Whether a key is remembered; then its request is not checked against the present time again.
pub async fn is_known(pool: &PgPool, tenant_id: &str, key: &str) -> Result<bool> {
    let known = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM idempotency_keys
                          WHERE tenant_id = $1 AND key = $2 AND expires_at > clock_timestamp()) AS "known!""#,
        tenant_id,
        key
    );
    Ok(known.fetch_one(pool).await?)
}

/// Removes keys that have expired; returns how many.
pub async fn retire(pool: &PgPool) -> Result<u64> {
    let mut retired = 0;
    loop {
        let batch = sqlx::query!(
            "DELETE FROM idempotency_keys
              WHERE (tenant_id, key) IN (SELECT tenant_id, key FROM idempotency_keys
                                          WHERE expires_at < clock_timestamp() ORDER BY expires_at
                                          LIMIT $1 FOR UPDATE SKIP LOCKED)",
            RETIRED_AT_ONCE_MAX
        );
        let count = batch.execute(pool).await?.rows_affected();
        retired += count;
        if count < RETIRED_AT_ONCE_MAX.unsigned_abs() {
            return Ok(retired);
        }
    }
}
