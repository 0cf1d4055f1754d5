//! Subscriptions whose receivers answer with nothing but failures. The operator is warned, and in the end Postrider
//! disables them. When which step is due is decided by the SQL function `failing_step`; since when a lane has been
//! failing is noted where outcomes are recorded.

use crate::{
    Error, Result,
    access::audit::Actor,
    event::operational::OperationalEvent,
    id::SubscriptionId,
    queue::disable_reason::DisableReason,
    subscription::{
        StateChange,
        store::{Subscriptions, lock},
    },
};

/// Subscriptions that one call looks after, at most; those that have been failing for longest come first.
const AT_ONCE_MAX: i64 = 1000;
/// The step of `failing_step` at which the subscription is disabled. Smaller ones are warnings.
const DISABLES: i32 = 100;

/// What was done about subscriptions that are failing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LookedAfter {
    /// Subscriptions of which the operator was warned, if the operator listens.
    pub warned: u32,
    /// Subscriptions that were disabled.
    pub disabled: u32,
}

impl Subscriptions {
    /// Warns the operator of subscriptions that have been failing for half, or for three quarters, of the time that
    /// their settings allow, and disables those whose time is over. Paused subscriptions are left alone, because
    /// nothing is attempted for them. What cannot be done for one subscription is logged and keeps no other waiting.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn look_after_failing(&self) -> Result<LookedAfter> {
        let due = sqlx::query!(
            r#"SELECT s.id, x.step AS "step!"
                 FROM lanes l
                 JOIN subscriptions s ON s.id = l.id
                CROSS JOIN LATERAL (SELECT failing_step(l.failing_since, l.failing_attempts, l.failing_warned,
                                                        s.disable_after_days, clock_timestamp()) AS step) x
                WHERE l.failing_since IS NOT NULL AND s.state = 'active' AND s.deleted_at IS NULL
                  AND x.step IS NOT NULL
                ORDER BY l.failing_since LIMIT $1"#,
            AT_ONCE_MAX
        );
        let mut done = LookedAfter::default();
        for row in due.fetch_all(&self.pool).await? {
            let id = SubscriptionId(row.id);
            let (counter, taken) = if row.step == DISABLES {
                (&mut done.disabled, self.disable_failing(id).await)
            } else {
                (&mut done.warned, self.warn_of_failing(id, row.step).await)
            };
            match taken {
                Ok(true) => *counter += 1,
                Ok(false) | Err(Error::NotFound(_)) => {}
                Err(error @ Error::Unavailable(_)) => return Err(error),
                Err(error) => tracing::error!(?error, subscription_id = %id, "a failing subscription is left as it is"),
            }
        }
        Ok(done)
    }

    /// Disables a subscription, if that is still due when its lane is locked; returns whether it was.
    async fn disable_failing(&self, id: SubscriptionId) -> Result<bool> {
        let mut transaction = self.pool.begin().await?;
        lock(&mut transaction, id).await?;
        let failing = sqlx::query!(
            r#"SELECT s.disable_after_days AS "days!", l.failing_attempts
                 FROM lanes l
                 JOIN subscriptions s ON s.id = l.id
                WHERE l.id = $1 AND s.state = 'active'
                  AND failing_step(l.failing_since, l.failing_attempts, l.failing_warned, s.disable_after_days,
                                   clock_timestamp()) = $2
                  FOR UPDATE OF l"#,
            id.0,
            DISABLES
        );
        let Some(failing) = failing.fetch_optional(&mut *transaction).await? else {
            return Ok(false);
        };
        let reason = DisableReason::Failing { days: failing.days };
        let change = StateChange::DisableBecause(reason);
        self.change_state(&mut transaction, Actor::Postrider, id, change).await?;
        transaction.commit().await?;
        let attempts = failing.failing_attempts;
        tracing::info!(subscription_id = %id, %reason, attempts, "subscription disabled");
        Ok(true)
    }

    /// Notes that the operator has been warned, and warns; returns whether that was still due.
    async fn warn_of_failing(&self, id: SubscriptionId, percent: i32) -> Result<bool> {
        let warned = sqlx::query_scalar!(
            r#"WITH warned AS (
                   UPDATE lanes l SET failing_warned = $2
                     FROM subscriptions s
                    WHERE l.id = $1 AND s.id = l.id AND s.state = 'active' AND s.deleted_at IS NULL
                      AND failing_step(l.failing_since, l.failing_attempts, l.failing_warned, s.disable_after_days,
                                       clock_timestamp()) = $2
                   RETURNING s.tenant_id, l.failing_since, l.failing_attempts, s.disable_after_days
               )
               SELECT operational_event($3, w.tenant_id, $1,
                          jsonb_build_object('reason', 'every attempt has failed since '
                                                 || to_char(w.failing_since AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI')
                                                 || ' UTC',
                                             'percent', $2::integer,
                                             'failing_since', w.failing_since, 'failing_attempts', w.failing_attempts,
                                             'disable_after_days', w.disable_after_days,
                                             'disables_at', w.failing_since
                                                            + w.disable_after_days * interval '24 hours')) AS "told!"
                 FROM warned w"#,
            id.0,
            percent,
            OperationalEvent::SubscriptionFailing.as_str()
        );
        Ok(warned.fetch_optional(&self.pool).await?.is_some())
    }
}
