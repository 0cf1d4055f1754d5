//! Idempotency keys: a request that is sent again with its key gets the answer it got, and does nothing again. The key
//! is stored in the transaction of what was asked, so there is no moment at which one exists without the other.
//!
//! Of events, keys and answers go through `accept()` with the batch; of anything else through [`IdempotentRequest`].

use sha2::{Digest, Sha256};
use sqlx::{PgConnection, PgPool};

use crate::{Error, Result, id::SubscriptionId, trust::seal::Keyring, validation};

/// Characters of a key, at most.
pub const KEY_CHARACTERS_MAX: usize = 255;
/// Expired keys removed in one go, at most.
const RETIRED_AT_ONCE_MAX: i64 = 10_000;

/// SHA-256 of what was asked.
pub type Fingerprint = [u8; 32];

/// The fingerprint of a request's parts. Each part goes in with its length, so that no two requests look alike.
#[must_use]
pub fn fingerprint<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Fingerprint {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// Where a key comes from. Each has names of its own: so what stores many events at once never waits for a key that
/// somebody holds in a longer transaction. (Those of `publish()` begin with `sql:`.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyNamespace {
    /// The `Idempotency-Key` of a request that posts events.
    EventHeader,
    /// The `Idempotency-Key` of a request that posts many events, for the one at this place.
    BatchHeader(usize),
    /// The id that a producer gave its event.
    EventId,
    /// The `Idempotency-Key` of a request that creates something else.
    Header,
    /// What a signature says that its request is, for this subscription: sent again, it is the same.
    Signature(SubscriptionId),
}

/// A valid key, as it is stored.
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

/// A creation that is to happen once.
#[derive(Clone, Debug)]
pub struct IdempotentRequest {
    /// Whose key it is.
    pub tenant_id: String,
    /// From [`key`].
    pub key: String,
    /// What is asked.
    pub fingerprint: Fingerprint,
    /// Seconds that the key is remembered.
    pub ttl_seconds: u32,
}

/// What came of a creation.
#[derive(Debug)]
pub enum Creation<T> {
    /// It has happened now.
    Now(T),
    /// It had happened before, and this was the answer.
    Before(Vec<u8>),
}

/// Takes the key, if there is one; answers what was answered before. Waits for another transaction that has the key in
/// its hands. Where there is no answer yet, go on, and [`finish`] in the same transaction.
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

/// Stores the answer, sealed, if there is a key.
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

/// Whether a key is remembered: then what was asked with it is not checked against the present time again.
pub async fn is_known(pool: &PgPool, tenant_id: &str, key: &str) -> Result<bool> {
    let known = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM idempotency_keys
                          WHERE tenant_id = $1 AND key = $2 AND expires_at > clock_timestamp()) AS "known!""#,
        tenant_id,
        key
    );
    Ok(known.fetch_one(pool).await?)
}

/// Forgets keys that have expired; answers how many.
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
