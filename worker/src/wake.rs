//! The bell that wakes the dispatcher: notifications from the database ring it, and this worker's own fan-outs.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use postrider_core::{
    announce::notify::Notice,
    hop,
    queue::{LATE, LATE_WAKE_UP},
};
use tokio::sync::Notify;

/// A bell that remembers one ring until the dispatcher asks.
#[derive(Debug, Default)]
pub struct Wake {
    bell: Notify,
    /// Whether lanes may have been armed behind the place where the next claim would begin.
    is_late: AtomicBool,
}

impl Wake {
    /// Rings for a notification, or because one may have been missed.
    pub fn hear(&self, notice: &Notice<'_>) {
        hop!("heard");
        if matches!(notice, Notice::MayHaveMissed | Notice::Notification(LATE_WAKE_UP)) {
            self.is_late.store(true, Ordering::SeqCst);
        }
        self.bell.notify_one();
    }

    /// Rings because a transaction that took this long has armed lanes.
    pub fn ring(&self, took: Duration) {
        if took > LATE {
            self.is_late.store(true, Ordering::SeqCst);
        }
        self.bell.notify_one();
    }

    /// Waits until the bell has been rung since the last call.
    pub async fn rung(&self) {
        self.bell.notified().await;
    }

    /// Whether the next claim must begin at the first lane; reading it resets it.
    pub fn take_late(&self) -> bool {
        self.is_late.swap(false, Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_armed_long_ago_is_looked_for_from_the_first_lane_on() {
        let wake = Wake::default();
        for (notice, is_late) in [
            (Notice::Notification(""), false),
            (Notice::Notification(LATE_WAKE_UP), true),
            (Notice::MayHaveMissed, true),
        ] {
            wake.hear(&notice);
            assert_eq!(wake.take_late(), is_late);
            assert!(!wake.take_late(), "it is read once");
        }
        for (took, is_late) in [(LATE, false), (LATE + Duration::from_millis(1), true)] {
            wake.ring(took);
            assert_eq!(wake.take_late(), is_late, "{took:?}");
        }
    }
}
