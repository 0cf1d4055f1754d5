//! Listening on notification channels for as long as the process lives, through every loss of the connection. A
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

/// A notification channel, and what happens when something is heard on it.
pub struct Channel {
    /// The channel's name.
    pub name: String,
    /// Told of each notification on the channel, and of each time at which some may have been missed.
    pub on_notice: Box<dyn FnMut(&Notice<'_>) + Send>,
}

/// Listens on all channels until the task is dropped. It keeps one connection of the pool for itself. A process listens
/// with one connection only, because Postgres wakes every listening session of a database for every notification.
pub async fn listen(pool: PgPool, mut channels: Vec<Channel>) {
    loop {
        if let Err(error) = listen_once(&pool, &mut channels).await {
            tracing::warn!(%error, "listening for notifications was interrupted");
        }
        may_have_missed(&mut channels);
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}

fn may_have_missed(channels: &mut [Channel]) {
    for channel in channels {
        (channel.on_notice)(&Notice::MayHaveMissed);
    }
}

#[expect(clippy::disallowed_methods, reason = "a question whose answer nobody reads")]
async fn listen_once(pool: &PgPool, channels: &mut [Channel]) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    let names: Vec<_> = channels.iter().map(|channel| channel.name.clone()).collect();
    listener.listen_all(names.iter().map(String::as_str)).await?;
    may_have_missed(channels);
    loop {
        match tokio::time::timeout(SILENCE_MAX, listener.try_recv()).await {
            Ok(Ok(Some(notification))) => {
                let heard = channels.iter_mut().find(|channel| channel.name == notification.channel());
                if let Some(channel) = heard {
                    (channel.on_notice)(&Notice::Notification(notification.payload()));
                }
            }
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
