//! Reads request bodies, each up to a limit, and all of them within a number of bytes that they share. A body's bytes
//! count as under way from the moment they arrive until nothing holds them any more, so an event that waits to be
//! stored counts like a body that a slow caller is still sending. Callers without a valid key share a smaller number of
//! bytes, and each subscription gets a part of that.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, combinators::BoxBody};
use poem::{Body, Request, http::header::CONTENT_LENGTH};
use postrider_core::{Error, id::SubscriptionId};

use crate::serve::problem::ApiError;

/// All bodies under way from callers with a valid key have at most this many bytes together.
const KEYED_BYTES_MAX: usize = 256 << 20;
/// All bodies under way from callers without a key have at most this many bytes together.
const KEYLESS_BYTES_MAX: usize = 64 << 20;
/// All bodies under way to one subscription from callers without a key have at most this many bytes together. That is
/// room for one payload of the largest size that can be configured.
pub const SUBSCRIPTION_BYTES_MAX: usize = 32 << 20;

const FULL: Error = Error::Unavailable("too many bodies are under way; try again in a moment");

/// Who sends a body, which decides how many bytes may be under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Caller {
    /// A caller with a valid key; all of them share one limit.
    Key,
    /// A caller without a key, who posts to the ingest of this subscription.
    Anybody(SubscriptionId),
}

impl Caller {
    /// How many bytes may be under way from this sender, and from all senders of its kind together.
    fn limits(self) -> (usize, usize) {
        match self {
            Self::Key => (KEYED_BYTES_MAX, KEYED_BYTES_MAX),
            Self::Anybody(_) => (SUBSCRIPTION_BYTES_MAX, KEYLESS_BYTES_MAX),
        }
    }
}

/// Whether the api is waiting for the rest of a request's body. The request carries it, so that a timeout can tell
/// whose fault it is.
#[derive(Clone, Debug, Default)]
pub struct BodyProgress(Arc<AtomicBool>);

impl BodyProgress {
    /// Whether reading the body has begun and the body has not arrived completely.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The bytes that are under way in this process; clones share the count.
#[derive(Clone, Debug, Default)]
pub struct BodyRoom(Arc<Mutex<UnderWay>>);

#[derive(Debug, Default)]
struct UnderWay {
    /// The bytes under way of each sender. A sender with none has no entry.
    by_sender: HashMap<Caller, usize>,
    keyless: usize,
}

/// The bytes of a body, with their share of the room. The share is given back when the last holder drops the bytes.
struct Counted {
    bytes: Bytes,
    _taken: Taken,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The share of the room that one body has taken. Dropping it gives the share back.
struct Taken {
    room: BodyRoom,
    from: Caller,
    bytes: usize,
}

impl BodyRoom {
    /// Adds so many bytes to a body's share, or fails where a limit would be exceeded.
    fn take(&self, taken: &mut Taken, bytes: usize) -> Result<(), Error> {
        let (own_max, all_max) = taken.from.limits();
        let mut under_way = self.0.lock().expect("nothing panics while it is held");
        let own = under_way.by_sender.get(&taken.from).copied().unwrap_or_default() + bytes;
        let all = if taken.from == Caller::Key { own } else { under_way.keyless + bytes };
        if own > own_max || all > all_max {
            return Err(FULL);
        }
        under_way.by_sender.insert(taken.from, own);
        if taken.from != Caller::Key {
            under_way.keyless = all;
        }
        taken.bytes += bytes;
        Ok(())
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut under_way = self.room.0.lock().expect("nothing panics while it is held");
        if let Some(own) = under_way.by_sender.get_mut(&self.from) {
            *own -= self.bytes;
            if *own == 0 {
                under_way.by_sender.remove(&self.from);
            }
        }
        if self.from != Caller::Key {
            under_way.keyless -= self.bytes;
        }
    }
}

/// Reads a body of any type and of at most `bytes_max` bytes. The bytes count as under way for as long as somebody
/// holds them, or a part of them.
///
/// # Errors
/// Too large where the body has more bytes; bad request where it breaks off; unavailable where too many bytes are under
/// way.
pub async fn read(request: &Request, body: Body, bytes_max: usize, from: Caller) -> Result<Bytes, ApiError> {
    let too_large = || ApiError::payload_too_large(bytes_max);
    let declared = request.header(CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
    if declared.is_some_and(|length| length > bytes_max as u64) {
        return Err(too_large());
    }
    let room: &BodyRoom = request.data().expect("the routes carry the room");
    let BodyProgress(is_awaited) = request.data().expect("the routes carry the progress");
    is_awaited.store(true, Ordering::Relaxed);
    let mut taken = Taken { room: room.clone(), from, bytes: 0 };
    let mut bytes = BytesMut::new();
    let mut body: BoxBody<_, _> = body.into();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ApiError::bad_request("the body broke off"))?;
        let Ok(chunk) = frame.into_data() else { continue };
        if bytes.len() + chunk.len() > bytes_max {
            return Err(too_large());
        }
        room.take(&mut taken, chunk.len())?;
        bytes.extend_from_slice(&chunk);
    }
    is_awaited.store(false, Ordering::Relaxed);
    Ok(Bytes::from_owner(Counted { bytes: bytes.freeze(), _taken: taken }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_shows_no_key_leaves_room_for_those_who_do_and_for_other_subscriptions() {
        let room = BodyRoom::default();
        let (one, other, third) = (SubscriptionId::new(), SubscriptionId::new(), SubscriptionId::new());
        let taken = |from, bytes| {
            let mut taken = Taken { room: room.clone(), from, bytes: 0 };
            room.take(&mut taken, bytes).map(|()| taken)
        };
        let first = taken(Caller::Anybody(one), SUBSCRIPTION_BYTES_MAX).expect("there is room");
        assert!(taken(Caller::Anybody(one), 1).is_err(), "its share is used up");
        let _second = taken(Caller::Anybody(other), SUBSCRIPTION_BYTES_MAX).expect("another's is not");
        assert!(taken(Caller::Anybody(third), 1).is_err(), "the room for all of them is");
        let _keyed = taken(Caller::Key, KEYED_BYTES_MAX).expect("it is apart");
        assert!(taken(Caller::Key, 1).is_err());
        drop(first);
        drop(taken(Caller::Anybody(third), 1).expect("what is over is given back"));
        let under_way = room.0.lock().expect("nothing panics");
        assert_eq!(
            (under_way.by_sender.len(), under_way.keyless),
            (2, SUBSCRIPTION_BYTES_MAX),
            "nothing is left behind"
        );
    }
}
