//! Processes: they appear, show what they do, end or go, and are forgotten.

use std::time::Duration;

use postrider_core::process::heartbeat;
use reqwest::Method;
use serde_json::Value;
use uuid::Uuid;

use crate::{
    access::{call, data, key},
    world::{SOON, World, serve},
};

/// The processes, once they are as they should be.
async fn when(world: &World, fits: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let fitting = async {
        loop {
            let processes = data(&world.get("/processes").await);
            if fits(&processes) {
                return processes;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, fitting).await.expect("it becomes so")
}

fn of<'p>(processes: &'p [Value], kind: &str) -> Vec<&'p Value> {
    processes.iter().filter(|process| process["kind"] == kind).collect()
}

#[tokio::test]
async fn processes_appear_and_leave_no_trace_when_they_are_stopped() {
    let world = World::new().await;
    let (stop, running) = world.run_worker();
    let (_, (stop_api, serving)) = serve(&world.env).await;
    let processes = when(&world, |processes| processes.len() == 3).await;
    assert_eq!((of(&processes, "api").len(), of(&processes, "worker").len()), (2, 1));
    for process in &processes {
        assert_eq!((&process["state"], &process["version"]), (&"alive".into(), &env!("CARGO_PKG_VERSION").into()));
        assert!(process["host"].as_str().is_some_and(|host| !host.is_empty()), "{process}");
        assert!(process["started_at"].as_str() <= process["seen_at"].as_str(), "{process}");
    }
    let worker = of(&processes, "worker")[0];
    assert_eq!((&worker["places_used"], &worker["places_free"]), (&0.into(), &512.into()), "{worker}");
    assert_eq!(worker["claims_per_second"], 0.0, "{worker}");
    assert!(of(&processes, "api")[0].get("places_used").is_none(), "an api has no places");
    stop.cancel();
    running.await.unwrap();
    stop_api.cancel();
    serving.await.unwrap();
    let left = data(&world.get("/processes").await);
    assert_eq!((left.len(), of(&left, "api").len()), (1, 1), "{left:?}");
    world.finish().await;
}

#[tokio::test]
async fn a_process_that_is_not_seen_is_gone_and_then_forgotten() {
    let world = World::new().await;
    when(&world, |processes| processes.len() == 1).await;
    let [fresh, gone, old] = [1, 2, 3].map(Uuid::from_u128);
    for (id, seconds) in [(fresh, 40.0), (gone, 46.0), (old, 86_401.0)] {
        sqlx::query(
            "INSERT INTO processes (id, kind, host, version, started_at, seen_at, last_error, last_error_at)
             VALUES ($1, 'worker', 'a host', '0.1.0', now() - interval '2 days', now() - make_interval(secs => $2),
                     'an error', now())",
        )
        .bind(id)
        .bind(seconds)
        .execute(&world.pool)
        .await
        .unwrap();
    }
    let state = |processes: &[Value], id: Uuid| {
        let found = processes.iter().find(|process| process["id"] == id.to_string());
        found.map(|process| process["state"].as_str().unwrap().to_owned())
    };
    let processes = data(&world.get("/processes").await);
    let states = [fresh, gone, old].map(|id| state(&processes, id));
    assert_eq!(states, ["alive", "gone", "gone"].map(|state| Some(state.to_owned())));
    let with_error = processes.iter().find(|process| process["id"] == gone.to_string()).unwrap();
    assert_eq!(with_error["last_error"], "an error");
    assert_eq!(heartbeat::forget(&world.pool).await.unwrap(), 1);
    let processes = data(&world.get("/processes").await);
    assert_eq!((state(&processes, old), processes.len()), (None, 3));
    world.finish().await;
}

#[tokio::test]
async fn processes_are_for_keys_that_are_bound_to_no_tenant() {
    let world = World::new().await;
    let [whole, bound, reader] = [
        key(&world, &["admin"], None).await.1,
        key(&world, &["admin"], Some("acme")).await.1,
        key(&world, &["read"], None).await.1,
    ];
    call(&world, &whole, &Method::GET, "/processes", None).await.expect(200);
    for refused in [bound, reader] {
        call(&world, &refused, &Method::GET, "/processes", None).await.problem(403);
    }
    world.finish().await;
}
