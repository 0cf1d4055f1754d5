//! Metrics as Prometheus reads them, from real processes.

use std::collections::BTreeMap;

use dev::{up::Process, workspace};
use serde_json::json;

use crate::{
    crashes::binaries,
    world::{SOON, World, client, id},
};

/// Reads the samples of a process: the value by the name with its labels.
pub async fn read(base: &str) -> BTreeMap<String, f64> {
    let text = client().get(format!("{base}/metrics")).send().await.unwrap().text().await.unwrap();
    let samples = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
            (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line}")))
        })
        .collect()
}

/// The name of a metric without its labels and without what histograms and summaries append to it.
pub fn family(sample: &str) -> &str {
    let name = sample.split(['{', ' ']).next().unwrap_or_default();
    ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name)
}

#[tokio::test]
async fn metrics_tell_what_has_happened_and_the_documentation_explains_each() {
    let world = World::new().await;
    binaries();
    let api = Process::start("api", "debug", &world.env).await.unwrap();
    let base = api.ready.rsplit(' ').next().unwrap().to_owned();
    let once = json!({"retry_policy": {"delays_seconds": []}});
    world.subscribe("/success", json!({"event_types": ["good.*"]})).await;
    world.subscribe("/fail", json!({"event_types": ["bad.*"], "retry_policy": once["retry_policy"]})).await;
    for (event_type, count) in [("good.one", 3), ("bad.one", 2), ("unwanted", 1)] {
        for _ in 0..count {
            let post = client().post(format!("{base}/events")).bearer_auth(crate::world::KEY);
            let body = json!({"event_type": event_type, "payload": {}}).to_string();
            assert_eq!(post.body(body).send().await.unwrap().status(), 202);
        }
    }
    let named = json!({"ingest_event_type_header": "X-GitHub-Event", "event_types": ["good.*"], "ingest_auth": "none"});
    let ingest = format!("{base}/webhooks/ingest/{}", id(&world.subscribe("/success", named).await));
    for (event_type, count) in [("ping", 2), ("no, type", 1)] {
        for _ in 0..count {
            let post = client().post(&ingest).header("X-GitHub-Event", event_type).body("{}");
            assert_eq!(post.send().await.unwrap().status(), 202);
        }
    }
    // The worker starts when everything waits, so that it measures the queue before and after.
    let worker = Process::start("worker", "debug", &world.env).await.unwrap();
    let worker_base = format!("http://{}", worker.ready.rsplit(' ').next().unwrap());
    world.queue_is_empty().await;
    // Huge pages would double what an idle process takes.
    for process in [&api, &worker] {
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
        assert!(status.contains("THP_enabled:\t0"), "{status}");
    }

    let of_api = read(&base).await;
    for (source, value) in [("events", 6.0), ("ingest", 3.0), ("inline", 0.0)] {
        let sample = format!("postrider_events_accepted_total{{source=\"{source}\"}}");
        assert_eq!(of_api.get(&sample), Some(&value), "{sample} in {of_api:?}");
    }
    let ingests = "postrider_http_request_duration_seconds_count{route=\"/webhooks/ingest/{subscription_id}\",\
                   method=\"POST\",status_class=\"2xx\"}";
    assert_eq!(of_api.get(ingests), Some(&3.0), "{of_api:?}");
    assert_eq!(of_api.get("postrider_ingest_event_types_missing_total"), Some(&1.0), "{of_api:?}");
    let counted = async {
        loop {
            let of_worker = read(&worker_base).await;
            let of = |name: &str| of_worker.get(name).copied().unwrap_or_default();
            // The outcomes are counted a moment after they were written down, and the database once it was measured.
            if of("postrider_deliveries_total{status=\"succeeded\"}")
                + of("postrider_deliveries_total{status=\"dead_letter\"}")
                >= 5.0
                && of_worker.contains_key("postrider_partition_runway_seconds")
            {
                return of_worker;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let of_worker = tokio::time::timeout(SOON, counted).await.expect("all are counted");
    the_worker_tells(&of_worker);
    for samples in [&of_api, &of_worker] {
        assert_eq!(samples.get("postrider_build_info{version=\"0.1.0\"}"), Some(&1.0), "{samples:?}");
    }

    each_is_documented(of_api.keys().chain(of_worker.keys()));
    api.stop().await.unwrap();
    worker.stop().await.unwrap();
    world.finish().await;
}

/// Asserts the numbers of a worker that made five deliveries, of which three succeeded.
fn the_worker_tells(of_worker: &BTreeMap<String, f64>) {
    for (sample, value) in [
        ("postrider_deliveries_total{status=\"succeeded\"}", 3.0),
        ("postrider_deliveries_total{status=\"dead_letter\"}", 2.0),
        ("postrider_delivery_attempts_total{result=\"success\",status_class=\"2xx\"}", 3.0),
        ("postrider_delivery_attempts_total{result=\"http_status\",status_class=\"5xx\"}", 2.0),
        ("postrider_dead_letters_created_total{cause=\"http_status\"}", 2.0),
        ("postrider_dead_letters_created_total{cause=\"timeout\"}", 0.0),
        ("postrider_delivery_wait_seconds_count{attempt=\"first\"}", 5.0),
        ("postrider_delivery_latency_seconds_count", 3.0),
        ("postrider_delivery_attempt_duration_seconds_count", 5.0),
    ] {
        assert_eq!(of_worker.get(sample), Some(&value), "{sample} in {of_worker:?}");
    }
    for gauge in [
        "postrider_queue_depth{state=\"due\"}",
        "postrider_dead_letters",
        "postrider_queue_oldest_due_seconds",
        "postrider_subscriptions{state=\"active\",health=\"failing\"}",
        "postrider_worker_places{state=\"free\"}",
        "postrider_db_pool_connections{pool=\"claims\",state=\"idle\"}",
    ] {
        assert!(of_worker.contains_key(gauge), "{gauge} in {of_worker:?}");
    }
    assert!(of_worker["postrider_partition_runway_seconds"] > 6.0 * 86_400.0, "{of_worker:?}");
}

/// Asserts that the manual lists each metric.
fn each_is_documented<'s>(samples: impl Iterator<Item = &'s String>) {
    let documented = std::fs::read_to_string(workspace().join("docs/operating.md")).unwrap();
    for sample in samples {
        let family = family(sample);
        let is_listed = documented.contains(&format!("| `{family}`")) || documented.contains(&format!("| `{family}{{"));
        assert!(is_listed, "docs/operating.md does not list {family}");
    }
}
