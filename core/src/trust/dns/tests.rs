//! Shares, turns and limits of look-ups, with a resolver that answers when the test says so.

use std::sync::atomic::AtomicUsize;

use super::*;

#[test]
fn domains() {
    for (host, expected) in
        [("example.com", "example.com"), ("a.b.example.com.", "example.com"), ("localhost", "localhost"), ("", "")]
    {
        assert_eq!(domain(host), expected, "{host}");
    }
}

/// Longer than any of these tests takes.
const LONG: Duration = Duration::from_secs(60);
/// For callers that are to wait in vain.
const SHORT: Duration = Duration::from_millis(50);

type Ask = Box<dyn Fn(String) -> Addresses<'static> + Send + Sync>;

/// A resolver in which names that begin with `slow` are found only when the gate lets them through.
fn gated(gate: &Arc<Semaphore>, asked: &Arc<AtomicUsize>) -> Shared<Ask> {
    let (gate, asked) = (Arc::clone(gate), Arc::clone(asked));
    let ask = move |host: String| -> Addresses<'static> {
        let (gate, asked) = (Arc::clone(&gate), Arc::clone(&asked));
        Box::pin(async move {
            asked.fetch_add(1, Ordering::SeqCst);
            if host.starts_with("slow") {
                gate.acquire().await.expect("never closed").forget();
            }
            Ok(vec![IpAddr::from([1, 1, 1, 1])])
        })
    };
    Shared::new(Box::new(ask), LONG)
}

/// Asks for a host, and gives up once all other tasks have run; returns whether there was no answer yet.
async fn is_waiting(names: &impl Lookup, host: &str) -> bool {
    let mut asking = names.addresses(host);
    tokio::select! {
        biased;
        _ = &mut asking => false,
        () = tokio::task::yield_now() => true,
    }
}

#[tokio::test]
async fn a_slow_domain_holds_its_share_and_each_name_is_asked_for_once() {
    let (gate, asked) = (Arc::new(Semaphore::new(0)), Arc::default());
    let names = gated(&gate, &asked);
    for number in 0..LOOKUPS_PER_DOMAIN_MAX {
        for _ in 0..10 {
            assert!(is_waiting(&names, &format!("slow{number}.one.test")).await);
        }
        assert!(!names.is_held_up(&format!("slow{number}.one.test")));
    }
    assert_eq!(asked.load(Ordering::SeqCst), LOOKUPS_PER_DOMAIN_MAX, "what was asked goes on");
    assert_eq!(names.addresses("quick.two.test").await.expect("others are found").len(), 1);
    gate.add_permits(1);
    assert_eq!(names.addresses("slow0.one.test").await.expect("found at last").len(), 1);
}

/// Many owners have names under one such domain, and each of the names is found.
#[tokio::test]
async fn whoever_finds_no_room_waits_for_a_turn() {
    let (gate, asked) = (Arc::new(Semaphore::new(0)), Arc::default());
    let names = gated(&gate, &asked);
    let hosts: Vec<_> = (0..100).map(|number| format!("slow{number}.co.test")).collect();
    for host in &hosts {
        assert!(is_waiting(&names, host).await);
    }
    assert_eq!(asked.load(Ordering::SeqCst), LOOKUPS_PER_DOMAIN_MAX);
    assert!(names.is_held_up(&hosts[99]));
    gate.add_permits(hosts.len());
    for host in &hosts {
        assert_eq!(names.addresses(host).await.expect(host).len(), 1);
        assert!(!names.is_held_up(host));
    }
    assert_eq!(asked.load(Ordering::SeqCst), hosts.len());
}

#[tokio::test]
async fn who_waits_in_vain_is_not_to_blame_and_who_is_asked_in_vain_is() {
    let (gate, asked) = (Arc::new(Semaphore::new(0)), Arc::default());
    let names = gated(&gate, &asked);
    let hosts: Vec<_> = (0..=LOOKUPS_PER_DOMAIN_MAX).map(|number| format!("slow{number}.one.test")).collect();
    for host in &hosts {
        assert!(is_waiting(&names, host).await);
    }
    let last = &hosts[LOOKUPS_PER_DOMAIN_MAX];
    let asked_in_vain = wait_for(names.join(&hosts[0]).expect("there is room"), SHORT).await;
    assert_eq!(asked_in_vain.expect_err("no answer").0, io::ErrorKind::TimedOut);
    let waited_in_vain = wait_for(names.join(last).expect("there is room"), SHORT).await;
    assert_eq!(waited_in_vain.expect_err("no turn").0, io::ErrorKind::ResourceBusy);
    // The name keeps its place, and a caller that comes again finds its answer.
    gate.add_permits(hosts.len());
    assert_eq!(names.addresses(last).await.expect("found").len(), 1);
}

#[tokio::test]
async fn there_is_a_limit_over_all() {
    let (gate, asked) = (Arc::new(Semaphore::new(0)), Arc::default());
    let names = gated(&gate, &asked);
    for number in 0..LOOKUPS_MAX {
        assert!(is_waiting(&names, &format!("slow.{number}.test")).await);
    }
    assert!(is_waiting(&names, "quick.test").await);
    assert!(names.is_held_up("quick.test"));
    gate.add_permits(1);
    assert_eq!(names.addresses("quick.test").await.expect("there is room again").len(), 1);
}

#[tokio::test]
async fn a_look_up_that_breaks_down_leaves_nothing_behind() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let ask = move |_| {
        let is_first = count.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            assert!(!is_first, "the first one breaks down");
            Ok(vec![IpAddr::from([1, 1, 1, 1])])
        }
    };
    let names = Shared::new(ask, LONG);
    names.addresses("example.test").await.expect_err("it broke down");
    assert_eq!(names.addresses("example.test").await.expect("asked anew").len(), 1);
    assert!(names.desk.open().shares.is_empty() && names.desk.open().under_way.is_empty());
}
