//! The payloads that a worker has in memory. They are read after a claim, each event once for all its deliveries, and
//! never more bytes than there is room for. This module neither claims nor sends.

use std::{collections::HashMap, sync::Arc, time::Duration};

use postrider_core::{
    Result,
    queue::{
        Claimed,
        payload::{self, ClaimedEvent, Read},
    },
};
use sqlx::PgPool;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

/// Bytes of payloads that a worker has in memory, at most; more than the largest payload that can be configured.
pub const PAYLOAD_BYTES_MAX: usize = 64 << 20;
/// Bytes of payloads that are read together after a claim, at most. The other events are read one by one, when their
/// deliveries begin.
const PAYLOAD_BYTES_PER_READ_MAX: usize = 4 << 20;

/// An event, and the room that its payload takes. The room is free again when the last of its deliveries is done.
#[derive(Debug)]
pub struct HeldEvent {
    /// The event with its payload.
    pub event: ClaimedEvent,
    _room: OwnedSemaphorePermit,
}

/// The event of a delivery, as far as it has been read when the delivery begins.
#[derive(Clone, Debug)]
pub enum Payload {
    /// The event is in memory.
    Held(Arc<HeldEvent>),
    /// The event has not been read: it did not fit, or reading failed. The number is its payload's bytes, if known.
    Later(Option<usize>),
    /// The event does not exist any more.
    Gone,
}

/// The room for payloads, and the connections over which they are read.
#[derive(Clone)]
pub struct Payloads {
    /// Connections that read the events of a whole claim.
    together: PgPool,
    /// Connections that read for single deliveries, so that large payloads keep no claim waiting.
    apart: PgPool,
    room: Arc<Semaphore>,
}

impl Payloads {
    /// Room for `bytes_max` bytes. `together` reads the events of whole claims, `apart` those of single deliveries.
    #[must_use]
    pub fn new(together: PgPool, apart: PgPool, bytes_max: usize) -> Self {
        Self { together, apart, room: Arc::new(Semaphore::new(bytes_max)) }
    }

    /// The connections that read for single deliveries.
    #[must_use]
    pub fn connections(&self) -> &PgPool {
        &self.apart
    }

    /// Reads the events of a claim, as many as there is room for now; it does not wait for more room.
    pub async fn read(&self, claimed: &[Claimed]) -> HashMap<Uuid, Payload> {
        let mut ids: Vec<_> = claimed.iter().map(|claimed| claimed.event_id).collect();
        ids.sort_unstable();
        ids.dedup();
        if ids.is_empty() {
            return HashMap::new();
        }
        let bytes_max = self.room.available_permits().min(PAYLOAD_BYTES_PER_READ_MAX);
        match payload::read(&self.together, &ids, bytes_max).await {
            Ok(mut read) => ids
                .into_iter()
                .map(|id| {
                    let payload = match read.remove(&id) {
                        None => Payload::Gone,
                        Some(Read::TooLarge(bytes)) => Payload::Later(Some(bytes)),
                        Some(Read::Event(event)) => self.try_hold(event),
                    };
                    (id, payload)
                })
                .collect(),
            Err(error) => {
                tracing::warn!(%error, events = ids.len(), "the events of a claim could not be read together");
                ids.into_iter().map(|id| (id, Payload::Later(None))).collect()
            }
        }
    }

    /// Reads an event that was not read with its claim, once there is room for it; `None` where it does not exist any
    /// more.
    ///
    /// # Errors
    /// When the database is away, or there is no room before `within` is over.
    pub async fn read_one(&self, id: Uuid, bytes: Option<usize>, within: Duration) -> Result<Option<Arc<HeldEvent>>> {
        const NO_ROOM: postrider_core::Error = postrider_core::Error::Unavailable("no memory for a payload in time");
        let bytes = match bytes {
            Some(bytes) => bytes,
            None => match payload::read(&self.apart, &[id], 0).await?.remove(&id) {
                None => return Ok(None),
                Some(Read::TooLarge(bytes)) => bytes,
                Some(Read::Event(event)) => event.payload.len(),
            },
        };
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        let room = tokio::time::timeout(within, Arc::clone(&self.room).acquire_many_owned(permits)).await;
        let room = room.map_err(|_| NO_ROOM)?.map_err(|_| NO_ROOM)?;
        Ok(match payload::read(&self.apart, &[id], bytes).await?.remove(&id) {
            Some(Read::Event(event)) => Some(Arc::new(HeldEvent { event, _room: room })),
            Some(Read::TooLarge(_)) | None => None,
        })
    }

    fn try_hold(&self, event: ClaimedEvent) -> Payload {
        let bytes = event.payload.len();
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        match Arc::clone(&self.room).try_acquire_many_owned(permits) {
            Ok(room) => Payload::Held(Arc::new(HeldEvent { event, _room: room })),
            // Other deliveries have taken the room meanwhile.
            Err(_) => Payload::Later(Some(bytes)),
        }
    }
}
