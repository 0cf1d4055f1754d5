//! Changes of a subscription's state, up to its deletion: the SQL. Which change is possible from which state is decided
//! by [`StateChange`].

use sqlx::PgConnection;

use crate::{
    Result,
    access::audit::Actor,
    event::operational::OperationalEvent,
    id::SubscriptionId,
    subscription::{
        StateChange, Subscription, lane,
        store::{Subscriptions, lock, note},
    },
};

impl Subscriptions {
    /// Moves a subscription to another state. The lane of one that is not active is held for ever; the lane of one that
    /// becomes active is due at once. Moving to the present state changes nothing. Where Postrider itself disables a
    /// subscription, the operator is told.
    pub async fn set_state(&self, actor: Actor, id: SubscriptionId, change: StateChange) -> Result<Subscription> {
        let mut transaction = self.pool.begin().await?;
        lock(&mut transaction, id).await?;
        let changed = self.change_state(&mut transaction, actor, id, change).await?;
        transaction.commit().await?;
        Ok(changed)
    }

    /// Does what [`Self::set_state`] does, on a connection that has locked the subscription.
    pub(crate) async fn change_state(
        &self,
        connection: &mut PgConnection,
        actor: Actor,
        id: SubscriptionId,
        change: StateChange,
    ) -> Result<Subscription> {
        let current = self.fetch(&mut *connection, id).await?;
        let to = change.target(current.state)?;
        if to == current.state {
            return Ok(current);
        }
        let reason = match change {
            StateChange::DisableBecause(reason) => Some(reason.to_string()),
            StateChange::Pause | StateChange::Resume | StateChange::Disable | StateChange::Enable => None,
        };
        sqlx::query!(
            "UPDATE subscriptions SET state = $2::text::subscription_state, disabled_reason = $3, updated_at = now()
              WHERE id = $1",
            id.0,
            to.as_str(),
            reason
        )
        .execute(&mut *connection)
        .await?;
        lane::follow_state(&mut *connection, id, current.state, to).await?;
        if let Some(reason) = reason {
            tell_disabled(&mut *connection, &current, &reason).await?;
        }
        let changed = self.fetch(&mut *connection, id).await?;
        let (before, after) = (Some(current.audited()), Some(changed.audited()));
        note(connection, actor, change.action(), &changed, before, after).await?;
        Ok(changed)
    }

    /// Deletes a subscription, and returns it as it was. Workers cancel its waiting deliveries when they claim them.
    pub async fn delete(&self, actor: Actor, id: SubscriptionId) -> Result<Subscription> {
        let mut transaction = self.pool.begin().await?;
        lock(&mut transaction, id).await?;
        let current = self.fetch(&mut transaction, id).await?;
        sqlx::query!("UPDATE subscriptions SET deleted_at = now(), updated_at = now() WHERE id = $1", id.0)
            .execute(&mut *transaction)
            .await?;
        lane::abandon(&mut transaction, id).await?;
        note(&mut transaction, actor, "subscription.deleted", &current, Some(current.audited()), None).await?;
        transaction.commit().await?;
        Ok(current)
    }
}

/// Tells the operator, when the transaction commits, that Postrider has disabled a subscription.
async fn tell_disabled(connection: &mut PgConnection, subscription: &Subscription, reason: &str) -> Result<()> {
    let told = sqlx::query_scalar!(
        r#"SELECT operational_event($1, $2, $3,
                      jsonb_build_object('reason', $4::text, 'failing_since', l.failing_since,
                                         'failing_attempts', coalesce(l.failing_attempts, 0))) AS "told!"
             FROM (VALUES (1)) one
             LEFT JOIN LATERAL (SELECT x.failing_since, x.failing_attempts FROM lanes x
                                 WHERE x.id = $3 ORDER BY x.revision DESC LIMIT 1) l ON true"#,
        OperationalEvent::SubscriptionDisabled.as_str(),
        subscription.tenant_id,
        subscription.id.0,
        reason
    );
    told.fetch_one(connection).await?;
    Ok(())
}
