//! Rate limits of what posts events: of a key over all routes that take events, of a subscription at its ingest. How
//! things stand is told with the answer, in `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers).

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

/// The window of every limit, in seconds.
const WINDOW_SECONDS: u32 = 1;

/// What is limited.
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

/// The limits of this process.
#[derive(Clone, Default)]
pub struct IngestLimits(RateLimits<Limited>);

/// How the limits stand that a request has met; carried by the request, told with its answer.
#[derive(Clone, Default)]
pub struct LimitStates(Arc<Mutex<Vec<(&'static str, LimitState)>>>);

impl IngestLimits {
    /// Asks for a request with this key.
    ///
    /// # Errors
    /// Too many requests.
    pub fn ask_key(&self, request: &Request, access: &Access) -> Result<(), ApiError> {
        match access.rate_limit() {
            Some((id, limit)) => self.ask(request, Limited::Key(id.0), limit),
            None => Ok(()),
        }
    }

    /// Asks for a request to this subscription's ingest.
    ///
    /// # Errors
    /// Too many requests.
    pub fn ask_subscription(&self, request: &Request, subscription: &Subscription) -> Result<(), ApiError> {
        match subscription.settings.ingest_rate_limit {
            Some(limit) => self.ask(request, Limited::Subscription(subscription.id.0), limit),
            None => Ok(()),
        }
    }

    fn ask(&self, request: &Request, limited: Limited, limit: RateLimit) -> Result<(), ApiError> {
        let state = self.0.ask(limited, limit);
        if let Some(LimitStates(met)) = request.data() {
            met.lock().expect("nothing panics while it is held").push((limited.name(), state));
        }
        if state.is_admitted {
            return Ok(());
        }
        metrics::counter!("postrider_ingest_rate_limited_total", "limit" => limited.name()).increment(1);
        Err(ApiError::too_many_requests(limited.name(), limit.per_second(), whole_seconds(state.wait).max(1)))
    }
}

impl LimitStates {
    /// Tells how things stand, if any limit was met.
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

/// Rounded up, so that nobody comes too early.
fn whole_seconds(time: std::time::Duration) -> u32 {
    u32::try_from(time.as_secs() + u64::from(time.subsec_nanos() > 0)).unwrap_or(u32::MAX)
}
