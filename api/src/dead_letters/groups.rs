//! Groups of dead letters as JSON.

use chrono::{DateTime, Utc};
use poem_openapi::Object;
use postrider_core::delivery::dead_letter_groups::{GROUPED_MAX, Group, Groups};

/// Dead letters that have the receiver and the cause in common.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
pub struct DeadLetterGroup {
    /// The tenant that they belong to.
    tenant_id: Option<String>,
    /// The id of the subscription that they go to; absent for the tenant's inline deliveries.
    subscription_id: Option<String>,
    /// Why their last attempts failed, as in the log of attempts, such as `timeout`; absent where none was made.
    error_kind: Option<String>,
    /// How the receiver answered, such as 503; present where `error_kind` is `http_status`.
    status_code: Option<u16>,
    /// How many there are among those that were grouped.
    count: u64,
    /// When the first of them was given up (RFC 3339).
    first_at: DateTime<Utc>,
    /// When the last of them was given up (RFC 3339).
    last_at: DateTime<Utc>,
    /// The id of the newest of them, as an example.
    sample_id: String,
}

/// Dead letters, grouped by receiver and cause.
#[derive(Debug, Object)]
pub struct DeadLetterGroups {
    /// The groups, the largest first; at most 100.
    data: Vec<DeadLetterGroup>,
    /// Whether all dead letters were grouped, and all groups are here. If not, the newest 20000 were grouped or the
    /// largest 100 groups are here, and each count is a lower bound.
    is_complete: bool,
}

/// Turns groups into the JSON that answers show.
pub(super) fn view(groups: &Groups) -> DeadLetterGroups {
    DeadLetterGroups {
        data: groups.groups.iter().map(group).collect(),
        is_complete: !groups.is_more && groups.examined < GROUPED_MAX,
    }
}

fn group(group: &Group) -> DeadLetterGroup {
    DeadLetterGroup {
        tenant_id: group.tenant_id.clone(),
        subscription_id: group.subscription.map(|id| id.to_string()),
        error_kind: group.error_kind.clone(),
        status_code: group.status_code.map(i16::unsigned_abs),
        count: group.count.unsigned_abs(),
        first_at: group.first_at,
        last_at: group.last_at,
        sample_id: group.sample.to_string(),
    }
}
