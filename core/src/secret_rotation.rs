//! Replacing a subscription's secret: the new one signs at once, the old one beside it for as long as it is told to.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};

use crate::{
    Error, Result,
    audit::Actor,
    id::SubscriptionId,
    idempotency::{self, Made, Once},
    seal::Keyring,
    signing_secret::{PREVIOUS_SECRETS_MAX, SigningSecret},
    subscription::Subscription,
    subscriptions::{Subscriptions, lock, note},
};

impl Subscriptions {
    /// Makes `secret`, or a fresh one of the kind that its scheme wants, the current secret. No earlier one signs for
    /// longer than `overlap_seconds` from now. `answer` makes the answer that is kept under the key.
    ///
    /// # Errors
    /// Not found; a conflict where too many earlier ones still sign, or the secret is the current one already;
    /// or what is wrong with the secret.
    pub async fn rotate_secret(
        &self,
        actor: Actor,
        id: SubscriptionId,
        secret: Option<SigningSecret>,
        overlap_seconds: u32,
        once: Option<&Once>,
        answer: impl Fn(&Subscription) -> Vec<u8>,
    ) -> Result<Made<Subscription>> {
        let mut transaction = self.pool.begin().await?;
        if let Some(answer) = idempotency::begin(&mut transaction, &self.keyring, once).await? {
            return Ok(Made::Again(answer));
        }
        lock(&mut transaction, id).await?;
        let current = self.fetch(&mut transaction, id).await?;
        let scheme = current.settings.signature_scheme;
        let secret = secret.unwrap_or_else(|| SigningSecret::generate(scheme.secret_kind()));
        scheme.check(&secret).map_err(|why| Error::invalid("secret", why))?;
        if secret == current.secrets.current {
            return Err(Error::Conflict("this is the secret already".to_owned()));
        }
        replace(&mut transaction, &self.keyring, id, &secret, overlap_seconds).await?;
        let rotated = self.fetch(&mut transaction, id).await?;
        let ends = |of: &Subscription| -> Vec<DateTime<Utc>> {
            of.secrets.previous.iter().map(|previous| previous.expires_at).collect()
        };
        let before = serde_json::json!({"previous_secrets_expire_at": ends(&current)});
        let after = serde_json::json!({"secret": "[changed]", "previous_secrets_expire_at": ends(&rotated)});
        note(&mut transaction, actor, "subscription.secret_rotated", &rotated, Some(before), Some(after)).await?;
        idempotency::finish(&mut transaction, &self.keyring, once, || answer(&rotated)).await?;
        transaction.commit().await?;
        Ok(Made::New(rotated))
    }
}

/// Puts another secret into the place of the current one, under the caller's lock of the row.
pub(crate) async fn replace(
    connection: &mut PgConnection,
    keyring: &Keyring,
    id: SubscriptionId,
    secret: &SigningSecret,
    overlap_seconds: u32,
) -> Result<()> {
    let overlap = f64::from(overlap_seconds);
    sqlx::query!(
        "UPDATE previous_secrets SET expires_at = least(expires_at, now() + make_interval(secs => $2))
          WHERE subscription_id = $1",
        id.0,
        overlap
    )
    .execute(&mut *connection)
    .await?;
    // What does not sign any more is not kept.
    sqlx::query!("DELETE FROM previous_secrets WHERE subscription_id = $1 AND expires_at <= now()", id.0)
        .execute(&mut *connection)
        .await?;
    if overlap_seconds > 0 {
        let kept = sqlx::query!(
            "INSERT INTO previous_secrets (subscription_id, secret, expires_at)
             SELECT id, secret, now() + make_interval(secs => $2) FROM subscriptions
              WHERE id = $1 AND (SELECT count(*) FROM previous_secrets WHERE subscription_id = $1) < $3",
            id.0,
            overlap,
            i64::try_from(PREVIOUS_SECRETS_MAX).unwrap_or(i64::MAX)
        );
        if kept.execute(&mut *connection).await?.rows_affected() == 0 {
            return Err(Error::Conflict(format!(
                "{PREVIOUS_SECRETS_MAX} earlier secrets still sign; wait until one of them has expired, or end them \
                 with `overlap_seconds` 0"
            )));
        }
    }
    sqlx::query!(
        "UPDATE subscriptions SET secret = $2, updated_at = now() WHERE id = $1",
        id.0,
        keyring.seal(secret.reveal().as_bytes(), id.0.as_bytes())
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Forgets secrets that do not sign any more; answers how many.
pub async fn retire(pool: &PgPool) -> Result<u64> {
    let retired = sqlx::query!("DELETE FROM previous_secrets WHERE expires_at <= now()");
    Ok(retired.execute(pool).await?.rows_affected())
}
