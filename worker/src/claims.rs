//! Claiming in a way that no single lane can block: if a claim of all lanes fails, each lane is claimed by itself, and
//! the lane whose claim fails is logged and set aside.

use std::time::Duration;

use postrider_core::{
    Error, Result,
    queue::{self, ClaimRequest, Claimed, NextDue},
};
use sqlx::PgPool;

/// How long a lane is held after a claim of it alone has failed.
const SET_ASIDE: Duration = Duration::from_secs(60);

/// Leases due deliveries to this worker, and tells when the next claim may find something.
///
/// # Errors
/// When the database is away.
pub async fn claim(pool: &PgPool, request: &ClaimRequest) -> Result<(Vec<Claimed>, NextDue)> {
    match queue::claim(pool, request).await {
        Err(Error::Internal(error)) => {
            tracing::error!(%error, "a claim failed as a whole; each lane is claimed by itself");
            let claimed = claim_lane_by_lane(pool, request).await?;
            let next = queue::next_due(pool, &request.skip, request.lanes_from).await?;
            Ok((claimed, next))
        }
        claimed => claimed,
    }
}

async fn claim_lane_by_lane(pool: &PgPool, request: &ClaimRequest) -> Result<Vec<Claimed>> {
    let mut claimed = Vec::new();
    for lane in queue::due_lanes(pool, request).await? {
        let taken = i32::try_from(claimed.len()).unwrap_or(i32::MAX);
        let rows_max = request.rows_max.saturating_sub(taken);
        if rows_max <= 0 {
            break;
        }
        let one = ClaimRequest { lanes_max: 1, rows_max, only: Some(lane), ..request.clone() };
        match queue::claim(pool, &one).await {
            Ok((more, _)) => claimed.extend(more),
            Err(Error::Internal(error)) => {
                let rest = SET_ASIDE;
                tracing::error!(%error, %lane, ?rest, "a lane cannot be claimed and is set aside: please report this");
                queue::set_aside(pool, lane, SET_ASIDE).await?;
            }
            // The deliveries that have been claimed so far are delivered first.
            Err(_) if !claimed.is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(claimed)
}
