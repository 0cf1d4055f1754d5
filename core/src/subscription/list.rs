//! Lists of subscriptions. The page's ids come from a scan of a bounded number of rows; the subscriptions are read
//! afterwards. What a lane knows is looked up in its newest version, because its older ones may not be removed yet.

use sqlx::{PgPool, types::Json};
use uuid::Uuid;

use crate::{
    Result,
    event::metadata::Metadata,
    page::{EXAMINED_MAX, Found, Page},
    subscription::{State, Subscription, circuit::CircuitState, row::select_subscriptions, store::Subscriptions},
};

/// Which subscriptions a list shows; an absent field means no restriction.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only subscriptions of this tenant.
    pub tenant_id: Option<String>,
    /// Only subscriptions in this state.
    pub state: Option<State>,
    /// Only subscriptions with these entries in their metadata.
    pub metadata: Option<Metadata>,
    /// Only subscriptions whose circuit is in this state.
    pub circuit: Option<CircuitState>,
    /// Only subscriptions whose receivers stand so.
    pub receiver: Option<Receiver>,
}

/// How the receiver of a subscription has answered of late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receiver {
    /// The last attempt that counts has succeeded, or none was made.
    Well,
    /// Every attempt has failed for some time.
    Failing,
}

impl Filter {
    /// Whether only lanes in trouble fit, which have an index of their own.
    fn wants_trouble(&self) -> bool {
        matches!(self.circuit, Some(CircuitState::Open | CircuitState::HalfOpen))
            || self.receiver == Some(Receiver::Failing)
    }

    fn is_failing(&self) -> Option<bool> {
        self.receiver.map(|receiver| receiver == Receiver::Failing)
    }
}

impl Subscriptions {
    /// Lists subscriptions, the newest first.
    pub async fn list(&self, filter: &Filter, page: Page) -> Result<Found<Subscription>> {
        // The index of lanes in trouble does not know tenants, and a cursor must not tell one tenant of another's.
        let rows = if filter.tenant_id.is_none() && filter.wants_trouble() {
            of_troubled(&self.pool, filter, page).await?
        } else {
            of_all(&self.pool, filter, page).await?
        };
        let (ids, examined_to) = page.split(rows.into_iter());
        let rows = select_subscriptions!(
            "WHERE id = ANY ($1) AND deleted_at IS NULL
                ORDER BY id DESC
                LIMIT 1000",
            &ids
        );
        let rows = rows.fetch_all(&self.pool).await?;
        let items = rows.into_iter().map(|row| row.open(&self.keyring)).collect::<Result<_>>()?;
        Ok(Found { items, examined_to })
    }
}

type Rows = Vec<(Uuid, bool)>;

/// A page from the table of all subscriptions.
async fn of_all(pool: &PgPool, filter: &Filter, page: Page) -> Result<Rows> {
    let asks_more =
        filter.state.is_some() || filter.metadata.is_some() || filter.circuit.is_some() || filter.receiver.is_some();
    let rows = sqlx::query!(
        r#"WITH looked_at AS NOT MATERIALIZED (
               SELECT id, state, metadata FROM subscriptions
                WHERE deleted_at IS NULL AND ($1::text IS NULL OR tenant_id = $1) AND ($2::uuid IS NULL OR id < $2)
                ORDER BY id DESC LIMIT $3)
           (SELECT s.id AS "id!", false AS "last!" FROM looked_at s
             WHERE ($4::text IS NULL OR s.state = $4::text::subscription_state)
               AND ($5::jsonb IS NULL OR s.metadata @> $5)
               AND ($6::text IS NULL
                    OR (SELECT coalesce(l.circuit_state, 'closed') = $6 FROM lanes l
                         WHERE l.id = s.id ORDER BY l.revision DESC LIMIT 1))
               AND ($7::boolean IS NULL
                    OR (SELECT (l.failing_since IS NOT NULL) = $7 FROM lanes l
                         WHERE l.id = s.id ORDER BY l.revision DESC LIMIT 1))
             ORDER BY s.id DESC LIMIT $8)
           UNION ALL
           (SELECT id, true FROM looked_at ORDER BY id DESC OFFSET $3 - 1 LIMIT 1)
            LIMIT $8"#,
        filter.tenant_id,
        page.before,
        if asks_more { EXAMINED_MAX } else { page.limit },
        filter.state.map(State::as_str),
        filter.metadata.as_ref().map(Json) as _,
        filter.circuit.map(CircuitState::as_str),
        filter.is_failing(),
        page.limit,
    );
    Ok(rows.fetch_all(pool).await?.into_iter().map(|row| (row.id, row.last)).collect())
}

/// A page from the index of lanes in trouble, which has lanes of inline deliveries as well.
async fn of_troubled(pool: &PgPool, filter: &Filter, page: Page) -> Result<Rows> {
    let rows = sqlx::query!(
        r#"WITH looked_at AS NOT MATERIALIZED (
               SELECT id, circuit_state, failing_since FROM lanes
                WHERE (circuit_state IS NOT NULL OR failing_since IS NOT NULL) AND ($1::uuid IS NULL OR id < $1)
                ORDER BY id DESC LIMIT $2)
           (SELECT x.id AS "id!", false AS "last!"
              FROM looked_at x
             CROSS JOIN LATERAL (SELECT y.state, y.metadata FROM subscriptions y
                                  WHERE y.id = x.id AND y.deleted_at IS NULL OFFSET 0) s
             WHERE ($3::text IS NULL OR coalesce(x.circuit_state, 'closed') = $3)
               AND ($4::boolean IS NULL OR (x.failing_since IS NOT NULL) = $4)
               AND ($5::text IS NULL OR s.state = $5::text::subscription_state)
               AND ($6::jsonb IS NULL OR s.metadata @> $6)
             ORDER BY x.id DESC LIMIT $7)
           UNION ALL
           (SELECT id, true FROM looked_at ORDER BY id DESC OFFSET $2 - 1 LIMIT 1)
            LIMIT $7"#,
        page.before,
        EXAMINED_MAX,
        filter.circuit.map(CircuitState::as_str),
        filter.is_failing(),
        filter.state.map(State::as_str),
        filter.metadata.as_ref().map(Json) as _,
        page.limit,
    );
    Ok(rows.fetch_all(pool).await?.into_iter().map(|row| (row.id, row.last)).collect())
}
