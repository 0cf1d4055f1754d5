//! Telling the operator of dead letters. Outcomes that make dead letters leave notices (the SQL function
//! `note_dead_letters`); here the notices of each subscription become one event, however many dead letters there are.

use sqlx::PgPool;

use crate::{Result, event::operational::OperationalEvent};

/// Notices that one call takes, at most. Each stands for the dead letters of one subscription in one batch of outcomes.
const NOTICES_AT_ONCE_MAX: i64 = 10_000;
/// Ids of dead letters that an event names, at most; it tells how many there are in all.
const SAMPLE_MAX: i32 = 10;

/// Makes one event of the notices of each subscription, and of those of each tenant's inline deliveries, and removes
/// the notices; returns how many events were published. They are for the operator, so there are none where nobody
/// listens. Many workers may do so at once; no two take the same notice.
///
/// # Errors
/// When the database is away.
pub async fn publish(pool: &PgPool) -> Result<i64> {
    let published = sqlx::query_scalar!(
        r#"WITH taken AS (
               DELETE FROM dead_letter_notices
                WHERE id = ANY (ARRAY(
                      SELECT n.id FROM dead_letter_notices n ORDER BY n.id LIMIT $1 FOR UPDATE SKIP LOCKED))
               RETURNING tenant_id, subscription_id, count, sample, first_at
           ), told AS (
               -- Every notice has at least one delivery in its sample, so each is counted once, with the first.
               SELECT t.tenant_id, t.subscription_id, min(t.first_at) AS first_at,
                      sum(t.count) FILTER (WHERE s.place = 1) AS count,
                      (array_agg('dlv_' || replace(s.delivery_id::text, '-', '')
                                 ORDER BY s.delivery_id))[1:$2::integer] AS sample
                 FROM taken t
                CROSS JOIN LATERAL unnest(t.sample) WITH ORDINALITY AS s (delivery_id, place)
                GROUP BY t.tenant_id, t.subscription_id
           )
           SELECT count(*) FILTER (WHERE operational_event($3, t.tenant_id, t.subscription_id,
                      jsonb_build_object('reason', 'deliveries were given up', 'count', t.count,
                                         'delivery_ids', to_jsonb(t.sample), 'first_at', t.first_at))) AS "published!"
             FROM told t"#,
        NOTICES_AT_ONCE_MAX,
        SAMPLE_MAX,
        OperationalEvent::DeadLetter.as_str()
    );
    Ok(published.fetch_one(pool).await?)
}
