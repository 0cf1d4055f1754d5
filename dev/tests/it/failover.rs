//! A database of two servers, one of which follows the other and takes over when the first is gone.

use std::time::Duration;

use dev::failover::failover;

use crate::{crashes::binaries, world::SOON};

/// How long the load lasts, before the first server is gone and again after.
const LOAD_FOR: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_promoted_standby_is_used_by_itself_and_nothing_acknowledged_is_lost() {
    binaries();
    let report = failover(LOAD_FOR).await.unwrap();
    assert_eq!(report.balance.lost, 0, "{report}");
    assert!(report.accepting_after < SOON && report.delivering_after < SOON, "{report}");
}
