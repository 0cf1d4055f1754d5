//! How many exports there may be: a few in each process, and one for each key.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard},
};

use postrider_core::{Error, access::audit::Actor};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::serve::problem::ApiError;

/// Exports of this process at the same time, at most: fewer than the connections that any page or route shares.
const AT_ONCE_MAX: usize = 3;

/// Room for the exports of a process. A key has one at a time, so that one key does not keep all others waiting.
#[derive(Clone)]
pub(crate) struct Exports {
    places: Arc<Semaphore>,
    busy: Arc<Mutex<HashSet<Actor>>>,
}

impl Default for Exports {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(AT_ONCE_MAX)), busy: Arc::default() }
    }
}

impl Exports {
    /// A place for an export of this key.
    pub(super) fn take(&self, actor: Actor) -> Result<Place, ApiError> {
        if !self.busy().insert(actor) {
            return Err(ApiError::too_many_exports());
        }
        // From here on, dropping it makes the key free again.
        let mut place = Place { exports: self.clone(), actor, permit: None };
        let permit = Arc::clone(&self.places).try_acquire_owned();
        let full = |_| Error::Unavailable("other exports are under way; try again in a moment");
        place.permit = Some(permit.map_err(full)?);
        Ok(place)
    }

    fn busy(&self) -> MutexGuard<'_, HashSet<Actor>> {
        self.busy.lock().expect("nothing panics while it is held")
    }
}

/// The place of an export under way.
pub(super) struct Place {
    exports: Exports,
    actor: Actor,
    permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.permit = None;
        self.exports.busy().remove(&self.actor);
    }
}

#[cfg(test)]
mod tests {
    use postrider_core::id::KeyId;

    use super::*;

    #[test]
    fn a_key_has_one_place_and_gives_it_back() {
        let exports = Exports::default();
        let keys: Vec<_> = (0..4).map(|_| Actor::Key(KeyId::new())).collect();
        let mut places: Vec<_> = keys[..3].iter().map(|key| exports.take(*key).expect("a place")).collect();
        assert!(matches!(exports.take(keys[0]), Err(ApiError::TooManyRequests(..))));
        assert!(matches!(exports.take(keys[3]), Err(ApiError::Unavailable(..))));
        places.remove(0);
        let again = exports.take(keys[3]).expect("it was refused before, and is not busy");
        drop((again, places));
        assert!(keys[..3].iter().map(|key| exports.take(*key)).collect::<Vec<_>>().iter().all(Result::is_ok));
    }
}
