//! Replacing a subscription's secret: the new one signs at once, the old one beside it for as long as it is told to.

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
    /// Makes `secret`, or a fresh one of the kind that its scheme wants, the current secret. No earlier one signs for
    /// longer than `overlap` from now. `answer` makes the answer that is kept under the key.
    ///
    /// # Errors
    /// Not found; a conflict where too many earlier ones still sign, or the secret is the current one already;
    /// or what is wrong with the secret.
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
