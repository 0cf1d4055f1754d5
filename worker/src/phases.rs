//! How long each phase of connecting took, for the log of attempts. A connection is opened on behalf of one attempt;
//! that attempt reads here how far it came. This module opens nothing.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use postrider_core::queue::attempt::Phases;

tokio::task_local! {
    /// The attempt for which the present task opens a connection. The HTTP client passes nothing of a request on to the
    /// code that connects, so this does.
    static CONNECTING: Connecting;
}

/// What the connection of one attempt has gone through. Each copy means the same connection.
#[derive(Clone, Default)]
pub struct Connecting(Arc<Mutex<Steps>>);

#[derive(Default)]
struct Steps {
    /// Whether the request was sent once more, on a connection that was opened for it.
    is_resent: bool,
    began: Option<Instant>,
    asked_dns: Option<Instant>,
    resolved: Option<Instant>,
    connected: Option<Instant>,
    began_tls: Option<Instant>,
    secured: Option<Instant>,
    peer: Option<IpAddr>,
}

impl Connecting {
    /// The attempt for which the present task connects.
    #[must_use]
    pub fn present() -> Self {
        CONNECTING.try_with(Clone::clone).unwrap_or_default()
    }

    /// Runs a part of this attempt, which may open a connection.
    pub async fn during<F: Future>(&self, part: F) -> F::Output {
        CONNECTING.scope(self.clone(), part).await
    }

    /// Whether both mean the same connection.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// A connection is being opened.
    pub fn begins(&self) {
        let mut steps = self.steps();
        *steps = Steps { is_resent: steps.is_resent, began: Some(Instant::now()), ..Steps::default() };
    }

    /// The request is sent once more, on a new connection.
    pub fn begins_again(&self) {
        *self.steps() = Steps { is_resent: true, ..Steps::default() };
    }

    /// The host's name is being looked up.
    pub fn asks_dns(&self) {
        self.steps().asked_dns = Some(Instant::now());
    }

    /// The host's addresses are known.
    pub fn is_resolved(&self) {
        self.steps().resolved = Some(Instant::now());
    }

    /// A server has accepted the connection.
    pub fn is_connected(&self, peer: Option<IpAddr>) {
        let mut steps = self.steps();
        (steps.connected, steps.peer) = (Some(Instant::now()), peer);
    }

    /// The TLS handshake begins.
    pub fn begins_tls(&self) {
        self.steps().began_tls = Some(Instant::now());
    }

    /// The TLS handshake is done.
    pub fn is_secured(&self) {
        self.steps().secured = Some(Instant::now());
    }

    /// Whether the request was sent once more.
    #[must_use]
    pub fn is_resent(&self) -> bool {
        self.steps().is_resent
    }

    /// Adds what opening the connection has taken so far. A phase that has not ended lasts until now: it is where the
    /// attempt failed.
    pub fn add_to(&self, phases: &mut Phases) {
        let steps = self.steps();
        let lasts = |from: Instant, until: Option<Instant>| -> Duration {
            until.map_or_else(|| from.elapsed(), |until| until.saturating_duration_since(from))
        };
        phases.dns = steps.asked_dns.map(|asked| lasts(asked, steps.resolved));
        let dials = if steps.asked_dns.is_some() { steps.resolved } else { steps.began };
        phases.connect = dials.map(|dials| lasts(dials, steps.connected));
        phases.tls = steps.began_tls.map(|began| lasts(began, steps.secured));
        phases.peer = steps.peer;
        phases.is_reused = steps.connected.map(|_| false);
    }

    fn steps(&self) -> MutexGuard<'_, Steps> {
        self.0.lock().expect("nothing panics while it is held")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phases(of: &Connecting) -> Phases {
        let mut phases = Phases::default();
        of.add_to(&mut phases);
        phases
    }

    #[test]
    fn an_attempt_shows_its_phases_as_far_as_it_came() {
        let connecting = Connecting::default();
        assert_eq!(phases(&connecting), Phases::default());
        connecting.begins();
        connecting.asks_dns();
        let so_far = phases(&connecting);
        assert!(so_far.dns.is_some() && so_far.connect.is_none() && so_far.is_reused.is_none(), "{so_far:?}");
        connecting.is_resolved();
        let so_far = phases(&connecting);
        assert!(so_far.connect.is_some() && so_far.tls.is_none() && so_far.is_reused.is_none(), "{so_far:?}");
        let peer = Some(IpAddr::from([192, 0, 2, 1]));
        connecting.is_connected(peer);
        let connected = phases(&connecting);
        assert_eq!((connected.is_reused, connected.peer, connected.tls), (Some(false), peer, None));
        connecting.begins_tls();
        assert!(phases(&connecting).tls.is_some());
        connecting.is_secured();
        assert_eq!(phases(&connecting), phases(&connecting), "nothing is under way any more");
    }

    #[tokio::test]
    async fn who_connects_finds_the_attempt_for_which_it_does() {
        let connecting = Connecting::default();
        assert!(connecting.during(async { Connecting::present() }).await.is(&connecting));
        assert!(!Connecting::present().is(&connecting));
    }
}
