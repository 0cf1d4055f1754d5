//! Secrets that have been replaced, kept for as long as they sign beside the current one. The request that replaces a
//! secret is handled in [`crate::subscription::secret_rotation`].

use sqlx::{PgConnection, PgPool};

use crate::{
    Error, Result,
    id::SubscriptionId,
    trust::{
        seal::Keyring,
        signing_secret::{PREVIOUS_SECRETS_MAX, SigningSecret},
    },
};

/// Seconds for which an earlier secret goes on signing, where nothing else is asked for: one day.
const OVERLAP_SECONDS_DEFAULT: u32 = 24 * 3600;
/// Seconds for which an earlier secret may go on signing, at most: 7 days.
const OVERLAP_SECONDS_MAX: u32 = 7 * 24 * 3600;

/// How long earlier secrets go on signing beside a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlap(u32);

impl Overlap {
    /// Earlier secrets stop signing at once.
    pub const NONE: Self = Self(0);

    /// Checks a number of seconds.
    ///
    /// # Errors
    /// What is wrong.
    pub fn parse(seconds: u32) -> std::result::Result<Self, String> {
        if seconds <= OVERLAP_SECONDS_MAX {
            Ok(Self(seconds))
        } else {
            Err(format!("must be from 0 to {OVERLAP_SECONDS_MAX}"))
        }
    }

    /// The overlap in seconds.
    #[must_use]
    pub fn seconds(self) -> u32 {
        self.0
    }
}

impl Default for Overlap {
    fn default() -> Self {
        Self(OVERLAP_SECONDS_DEFAULT)
    }
}

/// A new secret that replaces the current one.
#[derive(Clone, Debug)]
pub struct SecretReplacement {
    /// The new secret, which signs at once.
    pub secret: SigningSecret,
    /// How long the earlier secrets go on signing beside it.
    pub overlap: Overlap,
}

/// Replaces the current secret; the caller has locked the subscription's row.
pub(crate) async fn replace(
    connection: &mut PgConnection,
    keyring: &Keyring,
    id: SubscriptionId,
    replacement: &SecretReplacement,
) -> Result<()> {
    let overlap_seconds = replacement.overlap.seconds();
    let overlap = f64::from(overlap_seconds);
    sqlx::query!(
        "UPDATE previous_secrets SET expires_at = least(expires_at, now() + make_interval(secs => $2))
          WHERE subscription_id = $1",
        id.0,
        overlap
    )
    .execute(&mut *connection)
    .await?;
    // Secrets that no longer sign are not kept.
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
        keyring.seal(replacement.secret.reveal().as_bytes(), id.0.as_bytes())
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Removes secrets that no longer sign; returns how many.
pub async fn retire(pool: &PgPool) -> Result<u64> {
    let retired = sqlx::query!("DELETE FROM previous_secrets WHERE expires_at <= now()");
    Ok(retired.execute(pool).await?.rows_affected())
}
