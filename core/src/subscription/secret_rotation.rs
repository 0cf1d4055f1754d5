//! Replacing a subscription's secret: the new one signs at once, and the old one goes on signing for the overlap.

use chrono::{DateTime, Utc};

use crate::{
    Error, Result,
    access::audit::Actor,
    event::idempotency::{self, Creation, IdempotentRequest},
    id::SubscriptionId,
    subscription::{
        Subscription,
        previous_secret::{self, Overlap, SecretReplacement},
        store::{Subscriptions, lock, note},
    },
    trust::signing_secret::SigningSecret,
};

impl Subscriptions {
    /// Makes `secret` the current secret, or else a fresh one of the kind that the subscription's scheme needs. No
    /// earlier secret signs for longer than `overlap` from now. `answer` makes the answer that is stored with the
    /// idempotency key.
    ///
    /// # Errors
    /// Not found; a conflict where too many earlier secrets still sign, or where the secret is the current one already;
    /// or the reason why the secret is not valid.
    pub async fn rotate_secret(
        &self,
        actor: Actor,
        id: SubscriptionId,
        secret: Option<SigningSecret>,
        overlap: Overlap,
        idempotent: Option<&IdempotentRequest>,
        answer: impl Fn(&Subscription) -> Vec<u8>,
    ) -> Result<Creation<Subscription>> {
        let mut transaction = self.pool.begin().await?;
        if let Some(answer) = idempotency::begin(&mut transaction, &self.keyring, idempotent).await? {
            return Ok(Creation::Before(answer));
        }
        lock(&mut transaction, id).await?;
        let current = self.fetch(&mut transaction, id).await?;
        let scheme = current.settings.signature_scheme;
        let secret = secret.unwrap_or_else(|| SigningSecret::generate(scheme.secret_kind()));
        scheme.check(&secret).map_err(|why| Error::invalid("secret", why))?;
        if secret == current.secrets.current {
            return Err(Error::Conflict("this is the secret already".to_owned()));
        }
        let replacement = SecretReplacement { secret, overlap };
        previous_secret::replace(&mut transaction, &self.keyring, id, &replacement).await?;
        let rotated = self.fetch(&mut transaction, id).await?;
        let ends = |of: &Subscription| -> Vec<DateTime<Utc>> {
            of.secrets.previous.iter().map(|previous| previous.expires_at).collect()
        };
        let before = serde_json::json!({"previous_secrets_expire_at": ends(&current)});
        let after = serde_json::json!({"secret": "[changed]", "previous_secrets_expire_at": ends(&rotated)});
        note(&mut transaction, actor, "subscription.secret_rotated", &rotated, Some(before), Some(after)).await?;
        idempotency::finish(&mut transaction, &self.keyring, idempotent, || answer(&rotated)).await?;
        transaction.commit().await?;
        Ok(Creation::Now(rotated))
    }
}
