//! Events that a subscription has missed: it wants them now, and has no delivery of them.

use sqlx::{PgConnection, types::Json};
use uuid::Uuid;

use super::{Bounds, Chosen, Ids, Verdict, next_ids};
use crate::{
    Error, Result,
    delivery::job::{Walk, filter::Filter},
    event::{
        self,
        audience::{Facts, Interest, wants},
        event_type::EventType,
        metadata::Metadata,
    },
    id::EventId,
};

/// Reads the tenant's next events, and tells which of them the subscription has missed.
pub(super) async fn look(
    connection: &mut PgConnection,
    filter: &Filter,
    interest: &Interest,
    after: Uuid,
    bounds: Bounds,
) -> Result<(Ids, Vec<Verdict>)> {
    let ids = next_ids(&mut *connection, filter, Walk::Events, after, bounds.rows).await?;
    let rows = sqlx::query!(
        r#"SELECT e.id AS "id!", e.tenant_id AS "tenant_id!", e.event_type AS "event_type!",
                  e.metadata AS "metadata: Json<Metadata>",
                  ((e.subscription_id IS NULL OR e.subscription_id = $1)
                   AND NOT e.is_inline
                   AND (e.expires_at IS NULL OR e.expires_at > clock_timestamp())
                   AND ($3::jsonb IS NULL OR e.metadata @> $3)
                   AND NOT EXISTS (SELECT FROM outbox o WHERE o.event_id = e.id)
                   AND NOT EXISTS (SELECT FROM deliveries d
                                    WHERE d.id >= (left(e.id::text, 19) || '8000-000000000000')::uuid
                                      AND d.id <= (left(e.id::text, 19) || 'bfff-ffffffffffff')::uuid
                                      AND d.event_id = e.id AND d.subscription_id = $1)
                   AND NOT EXISTS (SELECT FROM deliveries d
                                    WHERE d.event_id = e.id AND d.is_replay AND d.subscription_id = $1
                                      AND d.status <> 'canceled')) AS "missed!"
             FROM unnest($2::uuid[]) AS i (id)
            CROSS JOIN LATERAL (SELECT x.id, x.tenant_id, x.event_type, x.metadata, x.subscription_id, x.expires_at,
                                       x.is_inline
                                  FROM events x WHERE x.id = i.id OFFSET 0) e
            ORDER BY e.id"#,
        interest.id.0,
        &ids.candidates,
        filter.metadata.as_ref().map(Json) as _,
    );
    let rows = rows.fetch_all(&mut *connection).await?;
    let mut verdicts = Vec::new();
    for row in rows.into_iter().filter(|row| row.missed) {
        if verdicts.len() == bounds.chosen {
            break;
        }
        let Ok(event_type) = row.event_type.parse::<EventType>() else { continue };
        if !filter.event_types.match_any(&event_type) {
            continue;
        }
        let metadata = row.metadata.map(|metadata| metadata.0).unwrap_or_default();
        if is_wanted(&mut *connection, interest, (row.id, &event_type, &metadata)).await? {
            verdicts.push(Verdict::Chosen(Chosen {
                id: row.id,
                event_id: row.id,
                tenant_id: row.tenant_id,
                subscription_id: Some(interest.id.0),
                replay_of: None,
            }));
        }
    }
    Ok((ids, verdicts))
}

/// Whether the subscription wants the event. A payload may be large, so it is read only where a filter needs it.
async fn is_wanted(
    connection: &mut PgConnection,
    interest: &Interest,
    (id, event_type, metadata): (Uuid, &EventType, &Metadata),
) -> Result<bool> {
    let payload = if interest.filters.payload.is_some() {
        match event::payload(connection, EventId(id)).await {
            Ok(payload) => Some(payload),
            // Retention has removed the event a moment ago.
            Err(Error::NotFound(_)) => return Ok(false),
            Err(error) => return Err(error),
        }
    } else {
        None
    };
    let bytes = payload.as_ref().map_or(&[][..], |payload| &payload.bytes);
    let content_encoding = payload.as_ref().and_then(|payload| payload.content_encoding.as_ref());
    let facts = Facts::new(event_type, metadata, bytes, content_encoding);
    Ok(wants(&interest.event_types, &interest.filters, &facts))
}
