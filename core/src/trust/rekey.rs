//! Changing the master key: everything that is sealed with a key other than the first of the ring is sealed anew. This
//! may be stopped at any moment and begun again, beside running processes. A row that somebody changes meanwhile is
//! left alone, and all rows are read again until nothing is left to do.

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    Result,
    trust::seal::{Keyring, ingest_signature_context},
};

/// Rows that one query reads.
const BATCH: i64 = 1000;
/// How often all rows are read, at most.
const PASSES_MAX: u32 = 10;
/// The prefix of the idempotency keys whose stored answers are sealed. The answers for events hold only ids, so they
/// are not sealed (see [`crate::event::idempotency`]).
const MADE: &str = "made:";
/// Names of unopened rows that are reported, at most.
const UNOPENED_MAX: usize = 100;

/// The result of changing the master key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rekeyed {
    /// Rows that have been sealed anew.
    pub resealed: u64,
    /// Rows that the last pass could not write, because somebody else changed them at that moment.
    pub missed: u64,
    /// Names of rows that the last pass could not open, because their key is not in the ring or they are damaged; the
    /// first hundred.
    pub unopened: Vec<String>,
}

struct Walk<'a> {
    pool: &'a PgPool,
    keyring: &'a Keyring,
    /// The bytes with which everything begins that is sealed with the first key.
    mark: Vec<u8>,
    done: Rekeyed,
}

/// Seals anew everything that is not sealed with the first key. Nothing is left to do when no row was missed and every
/// row could be opened.
///
/// # Errors
/// When the database is away; what was done until then stays done.
pub async fn rekey(pool: &PgPool, keyring: &Keyring) -> Result<Rekeyed> {
    let mut walk = Walk { pool, keyring, mark: keyring.mark(), done: Rekeyed::default() };
    for _ in 0..PASSES_MAX {
        let resealed_before = walk.done.resealed;
        walk.done = Rekeyed { resealed: resealed_before, ..Rekeyed::default() };
        walk.subscriptions().await?;
        walk.previous_secrets().await?;
        walk.inline_deliveries().await?;
        walk.answers().await?;
        if walk.done.resealed == resealed_before && walk.done.missed == 0 {
            break;
        }
        // Only a pass that finds nothing to do proves that nothing is left; so far there has been none.
        walk.done.missed = walk.done.missed.max(1);
    }
    Ok(walk.done)
}

impl Walk<'_> {
    /// Counts a row as resealed, or as missed where somebody else had changed it.
    fn note(&mut self, rows_affected: u64) {
        self.done.resealed += rows_affected;
        self.done.missed += u64::from(rows_affected == 0);
    }

    /// Returns the columns of a row, sealed with the first key; `None` where they are already, or where one of them
    /// cannot be opened.
    fn again<const N: usize>(
        &mut self,
        what: impl FnOnce() -> String,
        columns: [(Option<&[u8]>, &[u8]); N],
    ) -> Option<[Option<Vec<u8>>; N]> {
        if columns.iter().all(|(sealed, _)| sealed.is_none_or(|sealed| sealed.starts_with(&self.mark))) {
            return None;
        }
        let mut again = [const { None }; N];
        for (place, (sealed, context)) in again.iter_mut().zip(columns) {
            let Some(sealed) = sealed else { continue };
            match self.keyring.open(sealed, context) {
                Ok(secret) => *place = Some(self.keyring.seal(&secret, context)),
                Err(why) => {
                    if self.done.unopened.len() < UNOPENED_MAX {
                        self.done.unopened.push(format!("{}: {why}", what()));
                    }
                    return None;
                }
            }
        }
        Some(again)
    }

    async fn subscriptions(&mut self) -> Result<()> {
        let mut after = Uuid::nil();
        loop {
            let rows = sqlx::query!(
                "SELECT id, secret, headers, ingest_signature FROM subscriptions
                  WHERE id > $1
                  ORDER BY id LIMIT $2",
                after,
                BATCH
            );
            let rows = rows.fetch_all(self.pool).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            after = last.id;
            for row in rows {
                let own = row.id.as_bytes().as_slice();
                let ingest = ingest_signature_context(row.id);
                let columns = [
                    (Some(row.secret.as_slice()), own),
                    (Some(row.headers.as_slice()), own),
                    (row.ingest_signature.as_deref(), ingest.as_slice()),
                ];
                let Some([secret, headers, signature]) = self.again(|| format!("subscription {}", row.id), columns)
                else {
                    continue;
                };
                let written = sqlx::query!(
                    "UPDATE subscriptions SET secret = $2, headers = $3, ingest_signature = $4
                      WHERE id = $1 AND secret = $5 AND headers = $6 AND ingest_signature IS NOT DISTINCT FROM $7",
                    row.id,
                    secret,
                    headers,
                    signature,
                    row.secret,
                    row.headers,
                    row.ingest_signature
                );
                self.note(written.execute(self.pool).await?.rows_affected());
            }
        }
    }

    async fn previous_secrets(&mut self) -> Result<()> {
        let mut after = (Uuid::nil(), DateTime::<Utc>::UNIX_EPOCH);
        loop {
            let rows = sqlx::query!(
                "SELECT subscription_id, replaced_at, secret FROM previous_secrets
                  WHERE (subscription_id, replaced_at) > ($1, $2)
                  ORDER BY subscription_id, replaced_at LIMIT $3",
                after.0,
                after.1,
                BATCH
            );
            let rows = rows.fetch_all(self.pool).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            after = (last.subscription_id, last.replaced_at);
            for row in rows {
                let own = row.subscription_id;
                let columns = [(Some(row.secret.as_slice()), own.as_bytes().as_slice())];
                let Some([secret]) = self.again(|| format!("previous secret of {own}"), columns) else { continue };
                let written = sqlx::query!(
                    "UPDATE previous_secrets SET secret = $3
                      WHERE subscription_id = $1 AND replaced_at = $2 AND secret = $4",
                    own,
                    row.replaced_at,
                    secret,
                    row.secret
                );
                self.note(written.execute(self.pool).await?.rows_affected());
            }
        }
    }

    async fn inline_deliveries(&mut self) -> Result<()> {
        let mut after = Uuid::nil();
        loop {
            let rows = sqlx::query!(
                "SELECT delivery_id, secret, headers FROM inline_deliveries
                  WHERE delivery_id > $1
                  ORDER BY delivery_id LIMIT $2",
                after,
                BATCH
            );
            let rows = rows.fetch_all(self.pool).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            after = last.delivery_id;
            for row in rows {
                let own = row.delivery_id.as_bytes().as_slice();
                let columns = [(row.secret.as_deref(), own), (Some(row.headers.as_slice()), own)];
                let Some([secret, headers]) = self.again(|| format!("inline delivery {}", row.delivery_id), columns)
                else {
                    continue;
                };
                let written = sqlx::query!(
                    "UPDATE inline_deliveries SET secret = $2, headers = $3
                      WHERE delivery_id = $1 AND headers = $4",
                    row.delivery_id,
                    secret,
                    headers,
                    row.headers
                );
                self.note(written.execute(self.pool).await?.rows_affected());
            }
        }
    }

    /// Reseals the stored answers of idempotency keys.
    async fn answers(&mut self) -> Result<()> {
        let (mut tenant, mut after) = (String::new(), String::new());
        loop {
            let rows = sqlx::query!(
                "SELECT tenant_id, key, answer FROM idempotency_keys
                  WHERE (tenant_id, key) > ($1, $2)
                  ORDER BY tenant_id, key LIMIT $3",
                tenant,
                after,
                BATCH
            );
            let rows = rows.fetch_all(self.pool).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            (tenant, after) = (last.tenant_id.clone(), last.key.clone());
            for row in rows {
                let answer = row.answer.as_deref().filter(|_| row.key.starts_with(MADE));
                let columns = [(answer, row.key.as_bytes())];
                let Some([answer]) = self.again(|| "a kept answer".to_owned(), columns) else { continue };
                let written = sqlx::query!(
                    "UPDATE idempotency_keys SET answer = $3 WHERE tenant_id = $1 AND key = $2 AND answer = $4",
                    row.tenant_id,
                    row.key,
                    answer,
                    row.answer
                );
                self.note(written.execute(self.pool).await?.rows_affected());
            }
        }
    }
}
