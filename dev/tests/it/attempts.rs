//! The log of attempts tells on what each one has spent its time, which address it reached, and whether it opened a
//! connection, also where it failed.

use std::{sync::Arc, time::Duration};

use postrider_core::trust::dns::Dns;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use worker::{Worker, config::Config as WorkerConfig};

use crate::{
    hostile_receivers::{A_SECOND, RawServer, Then, attempt_at, goes_on, only_attempt, owe, read_request, told},
    hostile_tls::{Authority, https, secured},
    targets::Changing,
    world::{World, lookup},
};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// The phases that an attempt shows, without `total_us`, which every attempt has.
fn phases(attempt: &Value) -> Vec<&str> {
    let phases = attempt["phases"].as_object().unwrap_or_else(|| panic!("no phases in {attempt}"));
    let total = phases["total_us"].as_u64().unwrap();
    for (name, micros) in phases {
        assert!(micros.as_u64().unwrap() <= total, "{name} in {attempt}");
    }
    assert_eq!(total / 1000, attempt["duration_ms"].as_u64().unwrap(), "{attempt}");
    let shown = ["dns_us", "connect_us", "tls_us", "first_byte_us"].into_iter();
    shown.filter(|name| phases.contains_key(*name)).collect()
}

/// Where an attempt went, and whether it found a connection.
fn reached(attempt: &Value) -> (Option<&str>, Option<bool>) {
    (attempt["peer_address"].as_str(), attempt["connection_reused"].as_bool())
}

#[tokio::test]
async fn a_second_attempt_on_the_same_connection_says_so() {
    let world = World::new().await;
    let target = world.receiver.url("/success");
    let first = attempt_at(&world, &target).await;
    assert_eq!(phases(&first), ["connect_us", "first_byte_us"], "{first}");
    assert_eq!(reached(&first), (Some("127.0.0.1"), Some(false)));
    let second = attempt_at(&world, &target).await;
    assert_eq!(phases(&second), ["first_byte_us"], "{second}");
    assert_eq!(reached(&second), (Some("127.0.0.1"), Some(true)));
    world.finish().await;
}

#[tokio::test]
async fn a_first_attempt_over_tls_tells_of_the_handshake() {
    let authority = Authority::new();
    let (world, _file) = authority.world().await;
    let server = secured(authority.certifies(&["127.0.0.1"], |_| {}), |mut stream| async move {
        while stream.write_all(OK).await.is_ok() && stream.flush().await.is_ok() {
            if read_request(&mut stream).await.is_err() {
                return;
            }
        }
    });
    let first = attempt_at(&world, &https(&server)).await;
    assert_eq!(phases(&first), ["connect_us", "tls_us", "first_byte_us"], "{first}");
    assert_eq!(reached(&first), (Some("127.0.0.1"), Some(false)));
    let second = attempt_at(&world, &https(&server)).await;
    assert_eq!(phases(&second), ["first_byte_us"], "{second}");
    assert_eq!(reached(&second), (Some("127.0.0.1"), Some(true)));
    goes_on(world).await;
}

#[tokio::test]
async fn a_request_that_is_sent_once_more_tells_of_the_new_connection() {
    let world = World::new().await;
    let server = RawServer::listen(|mut stream| async move {
        if read_request(&mut stream).await.is_ok() && stream.write_all(OK).await.is_ok() {
            // It ends the connection when the second request has come.
            let _ = read_request(&mut stream).await;
        }
    });
    for _ in 0..2 {
        let attempt = attempt_at(&world, &server.url).await;
        assert_eq!(told(&attempt), ("success", Some(200)), "{attempt}");
        assert_eq!(phases(&attempt), ["connect_us", "first_byte_us"], "{attempt}");
        assert_eq!(reached(&attempt), (Some("127.0.0.1"), Some(false)));
    }
    goes_on(world).await;
}

#[tokio::test]
async fn a_request_that_is_sent_once_more_in_vain_tells_nothing_of_the_old_connection() {
    let world = World::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        drop(listener);
        read_request(&mut stream).await.unwrap();
        stream.write_all(OK).await.unwrap();
        // It ends the connection when the second request has come.
        read_request(&mut stream).await.unwrap();
    });
    assert_eq!(told(&attempt_at(&world, &url).await), ("success", Some(200)));
    let attempt = attempt_at(&world, &url).await;
    server.await.unwrap();
    assert_eq!(told(&attempt), ("connect", None), "{attempt}");
    assert_eq!(phases(&attempt), ["connect_us"], "{attempt}");
    assert_eq!(reached(&attempt), (None, None));
    goes_on(world).await;
}

#[tokio::test]
async fn a_failed_attempt_tells_how_far_it_came() {
    let world = World::new().await;
    let names = Changing::default();
    let mut config = WorkerConfig::from(lookup(&world.env)).unwrap();
    config.target_policy.dns = Dns(Arc::new(names.clone()));
    let worker = Worker::new(config).unwrap();
    let (nobody, silent, babbler) = (
        closed_port().await,
        RawServer::listen(|stream| Then::Sleeps.happens(stream)),
        RawServer::listen(|mut stream| async move {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await;
            Then::Holds.happens(stream).await;
        }),
    );
    names.set("found.test", &["127.0.0.1"]);
    let here = Some("127.0.0.1");
    let found = world.receiver.url("/fail").replacen("127.0.0.1", "found.test", 1);
    for (target, kind, expected, goal) in [
        ("http://lost.test/".to_owned(), "dns", &["dns_us"][..], (None, None)),
        (found, "http_status", &["dns_us", "connect_us", "first_byte_us"], (here, Some(false))),
        (nobody, "connect", &["connect_us"], (None, None)),
        (https(&babbler), "tls", &["connect_us", "tls_us"], (here, Some(false))),
        (silent.url, "timeout", &["connect_us"], (here, Some(false))),
        ("http://10.0.0.1:25/".to_owned(), "blocked_target", &[], (None, None)),
    ] {
        let delivery = owe_at(&world, &target).await;
        assert_eq!(worker.drain().await.unwrap(), 1);
        let attempt = only_attempt(&world, &delivery).await;
        assert_eq!(told(&attempt).0, kind, "{target}: {attempt}");
        assert_eq!(phases(&attempt), expected, "{target}: {attempt}");
        assert_eq!(reached(&attempt), goal, "{target}: {attempt}");
    }
    goes_on(world).await;
}

#[tokio::test]
async fn an_attempt_that_was_lost_tells_nothing_of_its_phases() {
    let world = World::new().await;
    let delivery = owe(&world, &world.receiver.url("/success"), A_SECOND, "x").await;
    sqlx::query("SELECT claim(10, 10, '{}', '-infinity', NULL)").execute(&world.pool).await.unwrap();
    world.pass(Duration::from_secs(60)).await;
    assert_eq!(world.drain().await, 1);
    let attempts = world.attempts(&delivery).await;
    assert_eq!(attempts[0]["error_kind"], "lease_lost", "{attempts:?}");
    for field in ["phases", "peer_address", "connection_reused"] {
        assert!(attempts[0].get(field).is_none(), "{field} in {attempts:?}");
        assert!(attempts[1].get(field).is_some(), "{field} in {attempts:?}");
    }
    world.finish().await;
}

/// The URL of a port on which nobody listens.
async fn closed_port() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}/", listener.local_addr().unwrap())
}

/// Makes a delivery to a target that the api would refuse, by changing it in the database.
async fn owe_at(world: &World, target: &str) -> String {
    let delivery = owe(world, &world.receiver.url("/success"), A_SECOND, json!({}).to_string()).await;
    sqlx::query(
        "UPDATE subscriptions SET target_url = $1 WHERE id = (SELECT lane_id FROM queue WHERE delivery_id = $2)",
    )
    .bind(target)
    .bind(crate::world::uuid(&delivery))
    .execute(&world.pool)
    .await
    .unwrap();
    delivery
}
