//! Lists of subscriptions. The page's ids come from a scan of a bounded number of rows; the subscriptions are read
//! afterwards. What a lane knows is looked up in its newest version, because its older ones may not be removed yet. The
//! host of a target is cut out of its URL, whose form is known because it was parsed before it was stored.

use std::{collections::HashMap, str::FromStr};

use sqlx::{PgPool, types::Json};
use uuid::Uuid;

use crate::{
    Result,
    event::{event_type::EventType, metadata::Metadata},
    page::{EXAMINED_MAX, Found, Page},
    subscription::{
        State, Subscription,
        circuit::CircuitState,
        condition::{self, Condition},
        row::select_subscriptions,
        store::Subscriptions,
    },
};

/// Characters of a host, at most.
const HOST_CHARACTERS_MAX: usize = 253;

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
    /// Only subscriptions with a pattern that fits this event type, or with none.
    pub event_type: Option<EventType>,
    /// Only subscriptions whose target has this host, or one below it.
    pub host: Option<Host>,
}

/// The host of a target, as a filter names it: `example.com` means `hooks.example.com` as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host(String);

impl Host {
    /// Whether this is the host, or one above it.
    fn covers(&self, host: &str) -> bool {
        host.strip_suffix(self.0.as_str()).is_some_and(|before| before.is_empty() || before.ends_with('.'))
    }
}

impl FromStr for Host {
    type Err = String;

    /// Hosts are compared in lower case, as URLs have them. A port does not belong to the host.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let text = text.trim().to_lowercase();
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
        if (1..=HOST_CHARACTERS_MAX).contains(&text.len()) && text.bytes().all(is_plain) {
            Ok(Self(text))
        } else {
            Err("must be the name or the address of a host, such as example.com".to_owned())
        }
    }
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
    /// Whether more is asked for than which tenant.
    fn asks_more(&self) -> bool {
        let Self { tenant_id: _, state, metadata, circuit, receiver, event_type, host } = self;
        [
            state.is_some(),
            metadata.is_some(),
            circuit.is_some(),
            receiver.is_some(),
            event_type.is_some(),
            host.is_some(),
        ]
        .contains(&true)
    }

    /// The texts of all patterns that fit the event type.
    fn patterns(&self) -> Option<Vec<String>> {
        self.event_type.as_ref().map(EventType::patterns)
    }

    /// Whether a subscription passes; its tenant is not looked at.
    fn fits(&self, subscription: &Subscription, condition: Option<&Condition>) -> bool {
        let settings = &subscription.settings;
        let circuit = condition.map_or(CircuitState::Closed, |condition| condition.circuit);
        let is_failing = condition.is_some_and(|condition| condition.failing_since.is_some());
        let host = settings.target_url.as_url().host_str().unwrap_or_default();
        self.state.is_none_or(|state| state == subscription.state)
            && self
                .metadata
                .as_ref()
                .is_none_or(|wanted| wanted.iter().all(|(key, value)| settings.metadata.get(key) == Some(value)))
            && self.circuit.is_none_or(|wanted| wanted == circuit)
            && self.is_failing().is_none_or(|wanted| wanted == is_failing)
            && self.event_type.as_ref().is_none_or(|wanted| settings.event_types.match_any(wanted))
            && self.host.as_ref().is_none_or(|wanted| wanted.covers(host))
    }

    fn host(&self) -> Option<&str> {
        self.host.as_ref().map(|host| host.0.as_str())
    }

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

impl Subscriptions {
    /// Those of these subscriptions that pass the filter, whatever its tenant; at most 1000 ids.
    ///
    /// # Errors
    /// When the database is away, or a secret cannot be opened.
    pub async fn among(&self, filter: &Filter, ids: &[Uuid]) -> Result<HashMap<Uuid, Subscription>> {
        let rows = select_subscriptions!("WHERE id = ANY ($1) AND deleted_at IS NULL LIMIT 1000", ids);
        let conditions = if filter.circuit.is_some() || filter.receiver.is_some() {
            condition::read(&self.pool, ids).await?
        } else {
            HashMap::new()
        };
        let mut found = HashMap::new();
        for row in rows.fetch_all(&self.pool).await? {
            let subscription = row.open(&self.keyring)?;
            if filter.fits(&subscription, conditions.get(&subscription.id.0)) {
                found.insert(subscription.id.0, subscription);
            }
        }
        Ok(found)
    }
}

type Rows = Vec<(Uuid, bool)>;

/// A page from the table of all subscriptions.
async fn of_all(pool: &PgPool, filter: &Filter, page: Page) -> Result<Rows> {
    let patterns = filter.patterns();
    let rows = sqlx::query!(
        r#"WITH looked_at AS NOT MATERIALIZED (
               SELECT id, state, metadata, event_types, target_url FROM subscriptions
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
               AND ($9::text[] IS NULL OR s.event_types = '{}' OR s.event_types && $9)
               AND ($10::text IS NULL
                    OR (SELECT h = $10 OR right(h, length($10) + 1) = '.' || $10
                          FROM substring(s.target_url FROM '^[a-z]+://(?:[^/@]*@)?(\[[^]]*\]|[^/:?#]*)') h))
             ORDER BY s.id DESC LIMIT $8)
           UNION ALL
           (SELECT id, true FROM looked_at ORDER BY id DESC OFFSET $3 - 1 LIMIT 1)
            LIMIT $8"#,
        filter.tenant_id,
        page.before,
        if filter.asks_more() { EXAMINED_MAX } else { page.limit },
        filter.state.map(State::as_str),
        filter.metadata.as_ref().map(Json) as _,
        filter.circuit.map(CircuitState::as_str),
        filter.is_failing(),
        page.limit,
        patterns.as_deref(),
        filter.host(),
    );
    Ok(rows.fetch_all(pool).await?.into_iter().map(|row| (row.id, row.last)).collect())
}

/// A page from the index of lanes in trouble, which has lanes of inline deliveries as well.
async fn of_troubled(pool: &PgPool, filter: &Filter, page: Page) -> Result<Rows> {
    let patterns = filter.patterns();
    let rows = sqlx::query!(
        r#"WITH looked_at AS NOT MATERIALIZED (
               SELECT id, circuit_state, failing_since FROM lanes
                WHERE (circuit_state IS NOT NULL OR failing_since IS NOT NULL) AND ($1::uuid IS NULL OR id < $1)
                ORDER BY id DESC LIMIT $2)
           (SELECT x.id AS "id!", false AS "last!"
              FROM looked_at x
             CROSS JOIN LATERAL (SELECT y.state, y.metadata, y.event_types, y.target_url FROM subscriptions y
                                  WHERE y.id = x.id AND y.deleted_at IS NULL OFFSET 0) s
             WHERE ($3::text IS NULL OR coalesce(x.circuit_state, 'closed') = $3)
               AND ($4::boolean IS NULL OR (x.failing_since IS NOT NULL) = $4)
               AND ($5::text IS NULL OR s.state = $5::text::subscription_state)
               AND ($6::jsonb IS NULL OR s.metadata @> $6)
               AND ($8::text[] IS NULL OR s.event_types = '{}' OR s.event_types && $8)
               AND ($9::text IS NULL
                    OR (SELECT h = $9 OR right(h, length($9) + 1) = '.' || $9
                          FROM substring(s.target_url FROM '^[a-z]+://(?:[^/@]*@)?(\[[^]]*\]|[^/:?#]*)') h))
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
        patterns.as_deref(),
        filter.host(),
    );
    Ok(rows.fetch_all(pool).await?.into_iter().map(|row| (row.id, row.last)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_covers_itself_and_those_below() {
        let host: Host = "Example.COM".parse().expect("a host");
        let covered = ["example.com", "hooks.example.com", "badexample.com", "example.com.evil", ""];
        assert_eq!(covered.map(|other| host.covers(other)), [true, true, false, false, false]);
        assert_eq!(["127.0.0.1", "[::1]"].map(|text| text.parse::<Host>().is_ok()), [true; 2]);
        for wrong in ["", "a b", "https://example.com", "a/b", "%"] {
            assert!(wrong.parse::<Host>().is_err(), "{wrong:?}");
        }
    }
}
