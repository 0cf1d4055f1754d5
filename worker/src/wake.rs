//! What wakes the dispatcher: notifications from the database, and this worker's own fan-outs.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use postrider_core::{
    announce::notify::Notice,
    queue::{LATE, LATE_WAKE_UP},
};
use tokio::sync::Notify;

/// A bell that remembers one ring.
#[derive(Debug, Default)]
pub struct Wake {
    bell: Notify,
    /// Whether lanes may have been armed behind where the next look would begin.
    is_late: AtomicBool,
}

impl Wake {
    /// Rings because of a notification.
    pub fn hear(&self, notice: &Notice<'_>) {
        if matches!(notice, Notice::MayHaveMissed | Notice::Notification(LATE_WAKE_UP)) {
            self.is_late.store(true, Ordering::SeqCst);
        }
        self.bell.notify_one();
    }

    /// Rings because lanes were armed by a transaction that took so long.
    pub fn ring(&self, took: Duration) {
        if took > LATE {
            self.is_late.store(true, Ordering::SeqCst);
        }
        self.bell.notify_one();
    }

    /// Waits until it has been rung since the last call.
    pub async fn rung(&self) {
        self.bell.notified().await;
    }

    /// Whether the next look has to begin at the very beginning; asked once for each ring.
    pub fn take_late(&self) -> bool {
        self.is_late.swap(false, Ordering::SeqCst)
    }
}
