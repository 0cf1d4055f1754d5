//! Listening on a notification channel for as long as the process lives, through every loss of the connection. A
//! notification is only a hint: those that were sent while nobody listened are lost, and the listener is told so.

use std::time::Duration;

use sqlx::{PgPool, postgres::PgListener};

use crate::database::ANSWER_TIMEOUT;

/// What a listener is told.
#[derive(Debug, PartialEq, Eq)]
pub enum Notice<'a> {
    /// A notification with its payload.
    Notification(&'a str),
    /// Listening has begun, or begun again: any notification may have been missed.
    MayHaveMissed,
}

/// How long a connection may be silent before it is tested.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How long a listener waits before it connects again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(250);

/// Listens until the task is dropped. It keeps one connection of the pool for itself.
pub async fn listen(pool: PgPool, channel: String, mut on_notice: impl FnMut(Notice<'_>) + Send) {
    loop {
        if let Err(error) = listen_once(&pool, &channel, &mut on_notice).await {
            tracing::warn!(%error, channel, "listening for notifications was interrupted");
        }
        on_notice(Notice::MayHaveMissed);
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}

#[expect(clippy::disallowed_methods, reason = "a question whose answer nobody reads")]
async fn listen_once(pool: &PgPool, channel: &str, on_notice: &mut impl FnMut(Notice<'_>)) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(channel).await?;
    on_notice(Notice::MayHaveMissed);
    loop {
        match tokio::time::timeout(SILENCE_MAX, listener.try_recv()).await {
            Ok(Ok(Some(notification))) => on_notice(Notice::Notification(notification.payload())),
            // The connection was lost, and with it the notifications that were sent meanwhile.
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) => return Err(error),
            // Either nobody has sent anything, or the connection was cut off, which is silent too.
            Err(_) => {
                let alive = tokio::time::timeout(ANSWER_TIMEOUT, sqlx::query("SELECT 1").execute(&mut listener)).await;
                alive.map_err(|_| sqlx::Error::PoolTimedOut)??;
            }
        }
    }
}
