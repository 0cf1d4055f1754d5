//! A worker as the lanes see it: the production worker's places and its way along the lanes, with a hand in place of
//! the receivers. How it looks follows `Dispatcher::visit` in `worker/src/dispatcher.rs`.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use postrider_core::{
    announce::notify::Notice,
    queue::{
        ClaimRequest, Claimed, Counts, Disposition, LATE_WAKE_UP, NextDue, Report,
        attempt::{ErrorKind, Failure, Outcome},
    },
};
use uuid::Uuid;
use worker::{
    dispatcher::{BACKSTOP, Progress},
    places::{Place, Places},
    wake::Wake,
};

use crate::lane_model::step::Fate;

/// Deliveries that a worker holds at once, at most.
const PLACES: usize = 8;
/// Lanes that one claim visits, at most.
const LANES_MAX: usize = 2;

/// A claimed delivery and the place that it takes.
pub struct Held {
    pub claimed: Claimed,
    _place: Place,
}

pub struct ModelWorker {
    places: Arc<Places>,
    progress: Progress,
    wake: Wake,
    pub held: Vec<Held>,
    /// Lanes that may be behind the mark, and so need not be found before the next look from the very beginning.
    pub unseen: HashSet<Uuid>,
    /// Lanes that somebody may have armed since its last look began.
    pub armed_meanwhile: HashSet<Uuid>,
    /// Whether it has been told, since then, that the next look must begin at the first lane.
    pub is_called_back: bool,
    /// How long it would rest now.
    pub rest: Duration,
    /// How long until the next lane that it knows of is due.
    pub next_wait: Option<Duration>,
}

impl ModelWorker {
    pub fn new(now: Instant) -> Self {
        Self {
            places: Arc::new(Places::new(PLACES)),
            progress: Progress::new(now),
            wake: Wake::default(),
            held: Vec::new(),
            unseen: HashSet::new(),
            armed_meanwhile: HashSet::new(),
            is_called_back: false,
            rest: Duration::ZERO,
            next_wait: None,
        }
    }

    /// How it looks for work now; `None` where it has no place.
    pub fn look(&mut self, now: Instant) -> Option<ClaimRequest> {
        let offer = self.places.offer();
        if offer.claimable == 0 {
            return None;
        }
        let look = ClaimRequest {
            lanes_max: i32::try_from(LANES_MAX.min(offer.claimable)).expect("few"),
            rows_max: i32::try_from(offer.claimable).expect("few"),
            lanes_from: self.progress.next_from(self.wake.take_late(), now),
            skip: offer.left_out,
            only: None,
        };
        self.is_called_back = false;
        self.armed_meanwhile.clear();
        if look.lanes_from.is_none() {
            self.unseen.clear();
        }
        Some(look)
    }

    /// Workers hear this notification. After one for lanes that were armed a while ago, nothing is behind the mark.
    pub fn hear(&mut self, payload: &str) {
        self.wake.hear(&Notice::Notification(payload));
        if payload == LATE_WAKE_UP {
            self.unseen.clear();
            self.is_called_back = true;
        }
    }

    /// What a look that left these lanes out has found, and when the next one should come.
    pub fn looked(&mut self, claimed: Vec<Claimed>, next: &NextDue, left_out: &[Uuid]) {
        for claimed in claimed {
            let place = self.places.take(claimed.lane_id);
            self.held.push(Held { claimed, _place: place });
        }
        self.progress.came_to(next, left_out);
        self.next_wait = next.wait();
        self.rest = self.next_wait.map_or(BACKSTOP, |wait| wait.min(BACKSTOP));
    }
}

/// What a worker reports when this becomes of a delivery.
pub fn report(claimed: &Claimed, fate: Fate) -> Report {
    let failure = |kind| Some(Outcome { failure: Some(Failure::new(kind, "test")), ..Outcome::default() });
    let retry = |after, lane_rests, counts| Disposition::Retry { after, lane_rests, counts };
    let (outcome, disposition) = match fate {
        Fate::Succeeds => (Some(Outcome::default()), Disposition::Succeeded),
        Fate::Fails { after, lane_rests } => (failure(ErrorKind::HttpStatus), retry(after, lane_rests, Counts::Yes)),
        Fate::Dies { lane_rests } => (failure(ErrorKind::HttpStatus), Disposition::DeadLetter { lane_rests }),
        Fate::DiesUnattempted => (None, Disposition::DeadLetter { lane_rests: None }),
        Fate::IsCanceled => (None, Disposition::Canceled),
        Fate::IsReleased { after } => (None, retry(after, None, Counts::No)),
        Fate::IsCutShort => (failure(ErrorKind::Shutdown), retry(Duration::ZERO, None, Counts::No)),
    };
    claimed.report(outcome, disposition)
}
