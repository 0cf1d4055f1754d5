//! What else a viewer wants to know of: circuits that change their state, and entries of the audit log. While somebody
//! looks, an api reads both once a second; nobody else pays for it.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    Result,
    database::{ANSWER_TIMEOUT, in_time},
    id::{AuditId, SubscriptionId},
    live::Scope,
};

/// Circuits that are not closed, of which a viewer learns, at most: those of the newest subscriptions.
const CIRCUITS_MAX: usize = 500;
/// Entries of the audit log that are told of one second, at most.
const ENTRIES_MAX: i64 = 50;

/// Something that somebody or something has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Such as `circuit.opened` or `audit.subscription.created`.
    pub topic: String,
    /// The tenant to which it belongs; `None` where it belongs to no single one.
    pub tenant_id: Option<String>,
    /// The subscription to which it happened.
    pub subscription_id: Option<Uuid>,
    /// More of it.
    pub details: Details,
}

/// What is told of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Details {
    /// A circuit has a new state.
    Circuit {
        /// When the lane is tried again, where its circuit is open.
        #[serde(skip_serializing_if = "Option::is_none")]
        next_probe_at: Option<DateTime<Utc>>,
    },
    /// An entry of the audit log.
    Entry {
        /// The id of the entry.
        audit_id: String,
        /// Who made the change.
        actor: String,
        /// What was changed.
        target_id: String,
    },
}

impl Change {
    /// Whether the change is shown to those who look at the scope.
    pub(super) fn is_in(&self, scope: &Scope) -> bool {
        match scope {
            Scope::All => true,
            Scope::Tenant(tenant_id) => self.tenant_id.as_ref() == Some(tenant_id),
            Scope::Subscription(id) => self.subscription_id == Some(*id),
        }
    }
}

/// What was known when it was last looked at.
pub(super) struct Changes {
    circuits: Option<Circuits>,
    last_entry: Uuid,
}

/// Circuits that are not closed, by their subscriptions.
type Circuits = HashMap<Uuid, Circuit>;

#[derive(Clone, PartialEq, Eq)]
struct Circuit {
    state: String,
    tenant_id: String,
    next_probe_at: Option<DateTime<Utc>>,
}

impl Changes {
    /// Begins to look: what has changed before is of no interest.
    pub(super) async fn begin(pool: &PgPool) -> Self {
        let circuits = in_time(ANSWER_TIMEOUT, circuits(pool)).await.ok();
        // Entries have ids that are ordered by time, so one that is made now is greater than those of before.
        Self { circuits, last_entry: Uuid::now_v7() }
    }

    /// What has changed since the last call. Where the database does not answer, it is told later.
    pub(super) async fn since_last(&mut self, pool: &PgPool) -> Vec<Change> {
        let mut changes = Vec::new();
        if let Ok(now) = in_time(ANSWER_TIMEOUT, circuits(pool)).await {
            if let Some(before) = &self.circuits {
                changes.extend(changed(before, &now));
            }
            self.circuits = Some(now);
        }
        if let Ok(entries) = in_time(ANSWER_TIMEOUT, entries(pool, self.last_entry)).await {
            for (id, change) in entries {
                self.last_entry = id;
                changes.push(change);
            }
        }
        changes
    }
}

/// Whose circuit stands otherwise than before.
fn changed(before: &Circuits, now: &Circuits) -> Vec<Change> {
    // Of whom only one of the lists can know, nothing is known to have changed.
    let known_from = oldest_known(before).max(oldest_known(now));
    let is_known = |id: &Uuid| *id >= known_from;
    let change = |id: &Uuid, circuit: &Circuit, what: &str| Change {
        topic: format!("circuit.{what}"),
        tenant_id: Some(circuit.tenant_id.clone()),
        subscription_id: Some(*id),
        details: Details::Circuit { next_probe_at: circuit.next_probe_at },
    };
    let moved =
        now.iter().filter(|(id, circuit)| is_known(id) && before.get(id).is_none_or(|old| old.state != circuit.state));
    let mut changes: Vec<_> = moved
        .map(|(id, circuit)| change(id, circuit, if circuit.state == "open" { "opened" } else { &circuit.state }))
        .collect();
    let closed = before.iter().filter(|(id, _)| is_known(id) && !now.contains_key(id));
    changes
        .extend(closed.map(|(id, circuit)| change(id, &Circuit { next_probe_at: None, ..circuit.clone() }, "closed")));
    changes
}

/// The oldest subscription whose circuit would be in the list if it were not closed.
fn oldest_known(circuits: &Circuits) -> Uuid {
    let is_cut = circuits.len() >= CIRCUITS_MAX;
    circuits.keys().min().filter(|_| is_cut).copied().unwrap_or_default()
}

async fn circuits(pool: &PgPool) -> Result<Circuits> {
    let rows = sqlx::query!(
        r#"SELECT l.id, l.circuit_state AS "state!", s.tenant_id, l.open_until
             FROM (SELECT id, subscription_id, circuit_state, open_until FROM lanes
                    WHERE (circuit_state IS NOT NULL OR failing_since IS NOT NULL) AND circuit_state IS NOT NULL
                    ORDER BY id DESC LIMIT $1) l
             JOIN subscriptions s ON s.id = l.subscription_id"#,
        i64::try_from(CIRCUITS_MAX).expect("a small number")
    );
    let circuit = |state, tenant_id, next_probe_at| Circuit { state, tenant_id, next_probe_at };
    let rows = rows.fetch_all(pool).await?;
    Ok(rows.into_iter().map(|row| (row.id, circuit(row.state, row.tenant_id, row.open_until))).collect())
}

async fn entries(pool: &PgPool, after: Uuid) -> Result<Vec<(Uuid, Change)>> {
    let rows = sqlx::query!(
        "SELECT id, tenant_id, actor, action, target_id FROM audit_log WHERE id > $1 ORDER BY id LIMIT $2",
        after,
        ENTRIES_MAX
    );
    let rows = rows.fetch_all(pool).await?;
    let change = |row: (Option<String>, String, String, String), id: Uuid| Change {
        topic: format!("audit.{}", row.2),
        subscription_id: row.3.parse().ok().map(|id: SubscriptionId| id.0),
        tenant_id: row.0,
        details: Details::Entry { audit_id: AuditId(id).to_string(), actor: row.1, target_id: row.3 },
    };
    Ok(rows
        .into_iter()
        .map(|row| (row.id, change((row.tenant_id, row.actor, row.action, row.target_id), row.id)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_circuit_that_moves_is_told_once() {
        let (one, other) = (Uuid::now_v7(), Uuid::now_v7());
        let circuit = |state: &str| Circuit { state: state.to_owned(), tenant_id: "a".to_owned(), next_probe_at: None };
        let topics = |before: &[(Uuid, Circuit)], now: &[(Uuid, Circuit)]| {
            let (before, now) = (before.iter().cloned().collect(), now.iter().cloned().collect());
            changed(&before, &now).into_iter().map(|change| change.topic).collect::<Vec<_>>()
        };
        assert_eq!(topics(&[], &[(one, circuit("open"))]), ["circuit.opened"]);
        assert!(topics(&[(one, circuit("open"))], &[(one, circuit("open"))]).is_empty());
        assert_eq!(topics(&[(one, circuit("open"))], &[(one, circuit("half_open"))]), ["circuit.half_open"]);
        assert_eq!(
            topics(&[(one, circuit("half_open")), (other, circuit("open"))], &[(other, circuit("open"))]),
            ["circuit.closed"]
        );
    }

    #[test]
    fn a_circuit_that_a_full_list_cannot_hold_is_not_told_to_have_closed_or_opened() {
        let open = || Circuit { state: "open".to_owned(), tenant_id: "a".to_owned(), next_probe_at: None };
        let ids: Vec<_> = (0..=CIRCUITS_MAX as u128).map(|number| Uuid::from_u128(number + 1)).collect();
        let older: Circuits = ids[..CIRCUITS_MAX].iter().map(|id| (*id, open())).collect();
        let newer: Circuits = ids[1..].iter().map(|id| (*id, open())).collect();
        let told = |before: &Circuits, now: &Circuits| {
            let told = changed(before, now).into_iter();
            told.map(|change| (change.topic, change.subscription_id)).collect::<Vec<_>>()
        };
        assert_eq!(told(&older, &newer), [("circuit.opened".to_owned(), Some(ids[CIRCUITS_MAX]))]);
        assert_eq!(told(&newer, &older), [("circuit.closed".to_owned(), Some(ids[CIRCUITS_MAX]))]);
    }
}
