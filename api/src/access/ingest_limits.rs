//! Rate limits on posting events: one for a key, over all routes that take events, and one for a subscription's ingest.
//! Each answer tells what is left of them, in `RateLimit` and `RateLimit-Policy`
//! (draft-ietf-httpapi-ratelimit-headers).

use std::sync::{Arc, Mutex};

use poem::{
    Request,
    http::{HeaderMap, HeaderValue},
};
use postrider_core::{
    access::ingest_limit::{LimitState, RateLimit, RateLimits},
    subscription::Subscription,
};
use uuid::Uuid;

use crate::{access::Access, serve::problem::ApiError};

/// Every limit counts requests in a window of this many seconds.
const WINDOW_SECONDS: u32 = 1;

/// Whose requests a limit counts: those of a key or those to a subscription, by its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Limited {
    Key(Uuid),
    Subscription(Uuid),
}

impl Limited {
    fn name(self) -> &'static str {
        match self {
            Self::Key(_) => "key",
            Self::Subscription(_) => "subscription",
        }
    }
}

/// The rate limits as this api process counts them. Another process counts for itself.
#[derive(Clone, Default)]
pub struct IngestLimits(RateLimits<Limited>);

/// The state of each limit that a request was counted against. The request carries it, so that its answer can show it.
#[derive(Clone, Default)]
pub struct LimitStates(Arc<Mutex<Vec<(&'static str, LimitState)>>>);

impl IngestLimits {
    /// Counts one request against the limit of its key, if the key has one.
    ///
    /// # Errors
    /// Too many requests where the limit is used up.
    pub fn ask_key(&self, request: &Request, access: &Access) -> Result<(), ApiError> {
        match access.rate_limit() {
            Some((id, limit)) => self.ask(request, Limited::Key(id.0), limit),
            None => Ok(()),
        }
    }

    /// Counts one request against the limit of a subscription's ingest, if it has one.
    ///
    /// # Errors
    /// Too many requests where the limit is used up.
    pub fn ask_subscription(&self, request: &Request, subscription: &Subscription) -> Result<(), ApiError> {
        match subscription.settings.ingest_rate_limit {
            Some(limit) => self.ask(request, Limited::Subscription(subscription.id.0), limit),
            None => Ok(()),
        }
    }

    /// Counts an event that is posted from a page against the limits of its key and of its subscription.
    ///
    /// # Errors
    /// Too many requests where a limit is used up.
    pub(crate) fn ask_of_page(&self, access: &Access, subscription: Option<&Subscription>) -> Result<(), ApiError> {
        if let Some((id, limit)) = access.rate_limit() {
            Self::admit(Limited::Key(id.0), limit, self.0.ask(Limited::Key(id.0), limit))?;
        }
        match subscription.and_then(|one| Some((one.id, one.settings.ingest_rate_limit?))) {
            Some((id, limit)) => {
                let limited = Limited::Subscription(id.0);
                Self::admit(limited, limit, self.0.ask(limited, limit))
            }
            None => Ok(()),
        }
    }

    fn ask(&self, request: &Request, limited: Limited, limit: RateLimit) -> Result<(), ApiError> {
        let state = self.0.ask(limited, limit);
        if let Some(LimitStates(met)) = request.data() {
            met.lock().expect("nothing panics while it is held").push((limited.name(), state));
        }
        Self::admit(limited, limit, state)
    }

    fn admit(limited: Limited, limit: RateLimit, state: LimitState) -> Result<(), ApiError> {
        if state.is_admitted {
            return Ok(());
        }
        metrics::counter!("postrider_ingest_rate_limited_total", "limit" => limited.name()).increment(1);
        Err(ApiError::too_many_requests(limited.name(), limit.per_second(), whole_seconds(state.wait).max(1)))
    }
}

impl LimitStates {
    /// Writes the states into the headers of the answer; writes nothing if the request was counted against no limit.
    pub fn tell(&self, headers: &mut HeaderMap) {
        let met = self.0.lock().expect("nothing panics while it is held");
        if met.is_empty() {
            return;
        }
        let list = |item: &dyn Fn(&'static str, &LimitState) -> String| {
            met.iter().map(|(name, state)| item(name, state)).collect::<Vec<_>>().join(", ")
        };
        let policy = list(&|name, state| format!("\"{name}\";q={};w={WINDOW_SECONDS}", state.per_second));
        let state =
            list(&|name, state| format!("\"{name}\";r={};t={}", state.remaining, whole_seconds(state.full_after)));
        for (name, value) in [("ratelimit-policy", policy), ("ratelimit", state)] {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
    }
}

/// The time in whole seconds, rounded up, so that a caller who waits that long does not come too early.
fn whole_seconds(time: std::time::Duration) -> u32 {
    u32::try_from(time.as_secs() + u64::from(time.subsec_nanos() > 0)).unwrap_or(u32::MAX)
}
