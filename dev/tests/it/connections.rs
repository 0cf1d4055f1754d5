//! Connections that the worker keeps for its next request: how long it keeps them, and what happens when the receiver
//! closes one just then.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use dev::receiver::{Keep, Receiver};
use postrider_core::trust::dns::Dns;
use reqwest::Method;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Barrier, mpsc},
};
use worker::{Worker, config::Config as WorkerConfig};

use crate::{
    hostile_receivers::{PATIENT, RawServer, Then, attempt_at, goes_on, only_attempt, owe, read_request, told},
    targets::Changing,
    world::{SOON, World, id, lookup},
};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A receiver that answers the first request of each connection and keeps the connection. When a second request has
/// come, it sends `word` and then does `then`. Answers the receiver and the number of connections that it broke so.
fn breaks_the_second(word: &'static [u8], then: Then) -> (RawServer, Arc<AtomicUsize>) {
    let broken = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&broken);
    let server = RawServer::listen(move |mut stream| {
        let (then, count) = (then.clone(), Arc::clone(&count));
        async move {
            if read_request(&mut stream).await.is_ok()
                && stream.write_all(OK).await.is_ok()
                && read_request(&mut stream).await.is_ok()
            {
                count.fetch_add(1, Ordering::SeqCst);
                let _ = stream.write_all(word).await;
                then.happens(stream).await;
            }
        }
    });
    (server, broken)
}

#[tokio::test]
async fn a_kept_connection_that_ends_unanswered_costs_the_receiver_nothing() {
    let world = World::new().await;
    for then in [Then::Closes, Then::Resets] {
        let (server, broken) = breaks_the_second(b"", then);
        for _ in 0..2 {
            let attempt = attempt_at(&world, &server.url).await;
            assert_eq!(told(&attempt), ("success", Some(200)), "{attempt}");
        }
        assert_eq!((server.accepted.load(Ordering::Relaxed), broken.load(Ordering::SeqCst)), (2, 1));
    }
    // If an answer had begun, or an informational one came, the receiver has read the request, so it must not be sent
    // again.
    for word in [&b"HTTP/1.1 2"[..], b"HTTP/1.1 103 Early Hints\r\n\r\n"] {
        let (server, broken) = breaks_the_second(word, Then::Closes);
        assert_eq!(told(&attempt_at(&world, &server.url).await), ("success", Some(200)));
        let attempt = attempt_at(&world, &server.url).await;
        assert_eq!(told(&attempt), ("protocol", None), "{attempt}");
        assert_eq!(
            (server.accepted.load(Ordering::Relaxed), broken.load(Ordering::SeqCst)),
            (1, 1),
            "the request was not sent again"
        );
    }
    goes_on(world).await;
}

#[tokio::test]
async fn a_request_is_sent_once_more_and_on_a_fresh_connection() {
    let world = World::new().await;
    // The worker keeps two connections, and the receiver ends both as soon as a second request comes.
    let (both, broken) = (Arc::new(Barrier::new(2)), Arc::<AtomicUsize>::default());
    let (met, count) = (Arc::<AtomicUsize>::default(), Arc::clone(&broken));
    let server = RawServer::listen(move |mut stream| {
        let (both, count) = (Arc::clone(&both), Arc::clone(&count));
        let is_one_of_both = met.fetch_add(1, Ordering::SeqCst) < 2;
        async move {
            let _ = read_request(&mut stream).await;
            if is_one_of_both {
                both.wait().await;
            }
            let _ = stream.write_all(OK).await;
            if read_request(&mut stream).await.is_ok() {
                count.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    let owed = [owe(&world, &server.url, PATIENT, "x").await, owe(&world, &server.url, PATIENT, "x").await];
    assert_eq!(world.drain().await, 2);
    for delivery in &owed {
        assert_eq!(told(&only_attempt(&world, delivery).await), ("success", Some(200)));
    }
    assert_eq!(server.accepted.load(Ordering::Relaxed), 2);
    let attempt = attempt_at(&world, &server.url).await;
    assert_eq!(told(&attempt), ("success", Some(200)), "{attempt}");
    assert_eq!((server.accepted.load(Ordering::Relaxed), broken.load(Ordering::SeqCst)), (3, 1));

    // An attempt fails if the receiver closes the fresh connection, too.
    let connections = AtomicUsize::new(0);
    let server = RawServer::listen(move |mut stream| {
        let is_first = connections.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            let is_read = read_request(&mut stream).await.is_ok();
            if is_read && is_first && stream.write_all(OK).await.is_ok() {
                let _ = read_request(&mut stream).await;
            }
        }
    });
    assert_eq!(told(&attempt_at(&world, &server.url).await), ("success", Some(200)));
    let attempt = attempt_at(&world, &server.url).await;
    assert_eq!(told(&attempt), ("protocol", None), "{attempt}");
    assert_eq!(server.accepted.load(Ordering::Relaxed), 2, "once more, and no more");
    goes_on(world).await;
}

#[tokio::test]
async fn a_name_that_leads_elsewhere_is_followed_however_busy_its_connections_are() {
    let world = World::new().await;
    let names = Changing::default();
    let mut config = WorkerConfig::from(lookup(&world.env)).unwrap();
    config.target_policy.dns = Dns(Arc::new(names.clone()));
    config.connection_age_max = Duration::from_millis(200);
    let worker = Worker::new(config).unwrap();
    let port = world.receiver.url("").rsplit(':').next().unwrap().to_owned();
    let elsewhere = Receiver::start(&format!("127.0.0.2:{port}"), Keep::Everything).await.unwrap();
    names.set("moves.test", &["127.0.0.1"]);
    let body = json!({"target_url": format!("http://moves.test:{port}/success")});
    let subscription = id(&world.call(Method::POST, "/subscriptions", Some(body)).await.expect(201));
    let deliver = async || {
        world.ingest(&subscription, "x").await;
        assert_eq!(worker.drain().await.unwrap(), 1);
    };
    deliver().await;
    deliver().await;
    assert_eq!((world.receiver.count(), elsewhere.count()), (2, 0));
    names.set("moves.test", &["127.0.0.2"]);
    let moving = async {
        while elsewhere.count() == 0 {
            deliver().await;
        }
    };
    tokio::time::timeout(SOON, moving).await.expect("the name's new address is used");
    let before = world.receiver.count();
    for _ in 0..5 {
        deliver().await;
    }
    assert_eq!(world.receiver.count(), before, "the old one is no longer used");
    world.finish().await;
}

#[tokio::test]
async fn a_request_says_how_long_its_body_is_also_where_it_is_empty() {
    let world = World::new().await;
    let (tell, mut heads) = mpsc::unbounded_channel();
    let server = RawServer::listen(move |mut stream| {
        let tell = tell.clone();
        async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            tell.send(String::from_utf8(head).unwrap().to_ascii_lowercase()).unwrap();
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
        }
    });
    for (payload, expected) in [("", "content-length: 0"), ("four", "content-length: 4")] {
        let delivery = owe(&world, &server.url, PATIENT, payload).await;
        assert_eq!(world.drain().await, 1);
        assert_eq!(told(&only_attempt(&world, &delivery).await), ("success", Some(200)));
        let head = heads.recv().await.unwrap();
        let lengths: Vec<_> = head.lines().filter(|line| line.starts_with("content-length")).collect();
        assert_eq!(lengths, [expected], "{head}");
        assert!(!head.contains("transfer-encoding"), "{head}");
        for line in ["accept: */*", "user-agent: postrider/"] {
            assert!(head.contains(line), "{head}");
        }
    }
    goes_on(world).await;
}
