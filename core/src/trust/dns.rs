//! Looking names up, so that nobody's slow name servers keep others from being found: each name once at a time, a share
//! for each domain, a limit over all. What the answers are good for is judged by [`crate::trust::target_policy::TargetPolicy`].

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use moka::future::Cache;
use tokio::sync::watch;

/// Look-ups under way, at most. Each holds a thread for as long as the system's resolver takes, whoever still waits for
/// it; the runtime has 512 of them.
const LOOKUPS_MAX: usize = 256;
/// Look-ups under way of names that end in the same two labels, at most.
const LOOKUPS_PER_DOMAIN_MAX: usize = 16;
/// How long an answer is good for, also that there is none.
const ANSWER_LIFE: Duration = Duration::from_secs(5);
/// Answers kept, at most.
const ANSWERS_MAX: u64 = 10_000;

/// Addresses, on their way.
pub type Addresses<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send + 'a>>;

/// A way to look names up.
pub trait Lookup: Send + Sync {
    /// All addresses of a host, of both families; an error of the kind `ResourceBusy` where there is no room to ask.
    fn addresses<'a>(&'a self, host: &'a str) -> Addresses<'a>;
}

/// How names are looked up: as the system does it, where nobody says otherwise.
#[derive(Clone)]
pub struct Dns(pub Arc<dyn Lookup>);

impl Default for Dns {
    fn default() -> Self {
        Self(Arc::new(Shared::new(|host: String| async move {
            Ok(tokio::net::lookup_host((host, 0)).await?.map(|found| found.ip()).collect())
        })))
    }
}

/// What a look-up has found, for all who wait for it.
type Found = Result<Vec<IpAddr>, String>;

/// Look-ups that are shared by all who ask for the same name.
struct Shared<F> {
    ask: F,
    under_way: Arc<Mutex<HashMap<String, watch::Receiver<Option<Found>>>>>,
    answers: Cache<String, Found>,
}

impl<F, A> Shared<F>
where
    F: Fn(String) -> A + Send + Sync,
    A: Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static,
{
    fn new(ask: F) -> Self {
        let answers = Cache::builder().max_capacity(ANSWERS_MAX).time_to_live(ANSWER_LIFE).build();
        Self { ask, under_way: Arc::default(), answers }
    }

    /// Joins the look-up of this name, or begins one, which goes on although nobody may wait for it any more.
    fn join(&self, host: &str) -> io::Result<watch::Receiver<Option<Found>>> {
        let mut under_way = self.under_way.lock().expect("nothing panics while it is held");
        if let Some(found) = under_way.get(host) {
            return Ok(found.clone());
        }
        if under_way.len() >= LOOKUPS_MAX {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        if under_way.keys().filter(|other| domain(other) == domain(host)).count() >= LOOKUPS_PER_DOMAIN_MAX {
            return Err(io::Error::other("too many names of this domain are being looked up"));
        }
        let (tell, found) = watch::channel(None);
        under_way.insert(host.to_owned(), found.clone());
        let (asking, host) = ((self.ask)(host.to_owned()), host.to_owned());
        let (answers, under_way) = (self.answers.clone(), Arc::clone(&self.under_way));
        tokio::spawn(async move {
            let found = asking.await.map_err(|error| error.to_string());
            answers.insert(host.clone(), found.clone()).await;
            under_way.lock().expect("nothing panics while it is held").remove(&host);
            let _ = tell.send(Some(found));
        });
        Ok(found)
    }
}

impl<F, A> Lookup for Shared<F>
where
    F: Fn(String) -> A + Send + Sync,
    A: Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static,
{
    fn addresses<'a>(&'a self, host: &'a str) -> Addresses<'a> {
        Box::pin(async move {
            if let Some(found) = self.answers.get(host).await {
                return found.map_err(io::Error::other);
            }
            let mut found = self.join(host)?;
            let told = found.wait_for(Option::is_some).await.ok().and_then(|told| told.clone());
            told.unwrap_or_else(|| Err("the look-up broke off".to_owned())).map_err(io::Error::other)
        })
    }
}

/// The last two labels of a name, which is as good a guess as any at whose it is.
fn domain(host: &str) -> &str {
    let host = host.trim_end_matches('.');
    host.rmatch_indices('.').nth(1).map_or(host, |(place, _)| &host[place + 1..])
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    #[test]
    fn domains() {
        for (host, expected) in
            [("example.com", "example.com"), ("a.b.example.com.", "example.com"), ("localhost", "localhost"), ("", "")]
        {
            assert_eq!(domain(host), expected, "{host}");
        }
    }

    /// Dns that begin with `slow` are found when the gate opens.
    fn gated(gate: &Arc<Semaphore>, asked: &Arc<AtomicUsize>) -> impl Lookup + use<> {
        let (gate, asked) = (Arc::clone(gate), Arc::clone(asked));
        Shared::new(move |host: String| {
            let gate = Arc::clone(&gate);
            asked.fetch_add(1, Ordering::SeqCst);
            async move {
                if host.starts_with("slow") {
                    let _ = gate.acquire().await;
                }
                Ok(vec![IpAddr::from([1, 1, 1, 1])])
            }
        })
    }

    /// Asks, and gives up at once; answers whether nobody has answered yet.
    async fn is_waiting(names: &impl Lookup, host: &str) -> bool {
        tokio::time::timeout(Duration::ZERO, names.addresses(host)).await.is_err()
    }

    #[tokio::test]
    async fn a_slow_domain_holds_its_share_and_each_name_is_asked_for_once() {
        let (gate, asked) = (Arc::new(Semaphore::new(0)), Arc::default());
        let names = gated(&gate, &asked);
        for number in 0..LOOKUPS_PER_DOMAIN_MAX {
            for _ in 0..10 {
                assert!(is_waiting(&names, &format!("slow{number}.one.test")).await);
            }
        }
        assert_eq!(asked.load(Ordering::SeqCst), LOOKUPS_PER_DOMAIN_MAX, "what was asked goes on");
        let refused = names.addresses("slow.one.test").await.expect_err("the share is used up");
        assert_ne!(refused.kind(), io::ErrorKind::ResourceBusy, "that is the domain's own fault");
        assert_eq!(names.addresses("quick.two.test").await.expect("others are found").len(), 1);
        gate.add_permits(1);
        assert_eq!(names.addresses("slow0.one.test").await.expect("found at last").len(), 1);
    }

    #[tokio::test]
    async fn there_is_a_limit_over_all() {
        let (gate, asked) = (Arc::new(Semaphore::new(0)), Arc::default());
        let names = gated(&gate, &asked);
        for number in 0..LOOKUPS_MAX {
            assert!(is_waiting(&names, &format!("slow.{number}.test")).await);
        }
        let refused = names.addresses("quick.test").await.expect_err("there is no room");
        assert_eq!(refused.kind(), io::ErrorKind::ResourceBusy);
    }
}
