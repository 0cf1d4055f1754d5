//! Jobs: something is done with all deliveries that match a filter, through crashes, at a rate, and for one's own
//! tenant only.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use postrider_core::delivery::job::walk;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    access::{Tenant, call, key},
    world::{SOON, World, id, uuid, worker},
};

/// A subscription to a path of the receiver that gives up after its first attempt.
async fn once(world: &World, path: &str) -> String {
    id(&world.subscribe(path, json!({"retry_policy": {"delays_seconds": []}})).await)
}

/// Posts payloads to a subscription, and makes all attempts; answers the deliveries, the oldest first.
async fn delivered(world: &World, subscription: &str, count: usize) -> Vec<String> {
    let mut deliveries = Vec::new();
    for number in 0..count {
        deliveries.push(world.ingest(subscription, number.to_string()).await);
    }
    while world.drain().await > 0 {}
    deliveries
}

async fn begin(world: &World, action: &str, filter: Value) -> Value {
    let body = json!({"action": action, "filter": filter});
    let begun = world.call(Method::POST, "/jobs", Some(body)).await;
    assert_eq!(begun.headers["location"], format!("/jobs/{}", id(&begun.body)));
    begun.expect(202)
}

async fn count(world: &World, action: &str, filter: Value) -> Value {
    let counted = world.call(Method::POST, "/jobs/count", Some(json!({"action": action, "filter": filter}))).await;
    let counted = counted.expect(200);
    assert_eq!(counted["is_exact"], true, "{counted}");
    counted["count"].clone()
}

/// Makes the next step that is due; answers with how many deliveries it was done.
async fn step(world: &World) -> Option<usize> {
    walk::step(world.worker.fan_outs()).await.unwrap().map(|step| step.done)
}

/// Lets jobs run until this one has ended, and makes all attempts; answers the job.
async fn finished(world: &World, job: &Value) -> Value {
    loop {
        while world.drain().await > 0 {}
        let now = world.get(&format!("/jobs/{}", id(job))).await;
        if now["state"] != "running" {
            world.pass(Duration::from_secs(2)).await;
            while world.drain().await > 0 {}
            return now;
        }
        world.pass(Duration::from_secs(2)).await;
    }
}

/// The counts of a job: done, skipped and failed.
fn counts(job: &Value) -> [u64; 3] {
    ["done_count", "skipped_count", "failed_count"].map(|field| job[field].as_u64().unwrap())
}

async fn mend(world: &mut World, subscription: &str) {
    let target = json!({"target_url": world.receiver.url("/success")});
    world.call(Method::PATCH, &format!("/subscriptions/{subscription}"), Some(target)).await.expect(200);
    // A worker that does not run hears no announcements, so a new one is made, which reads the new target.
    world.worker = worker(&world.env);
}

async fn statuses(world: &World, deliveries: &[String]) -> Vec<Value> {
    let mut statuses = Vec::new();
    for delivery in deliveries {
        statuses.push(world.delivery(delivery).await["status"].clone());
    }
    statuses
}

#[tokio::test]
async fn what_matches_is_counted_and_retried_and_nothing_else() {
    let mut world = World::new().await;
    let (shop, books) = (once(&world, "/fail").await, once(&world, "/fail/404").await);
    let of_shop = delivered(&world, &shop, 5).await;
    let of_books = delivered(&world, &books, 3).await;
    let typed = json!({"event_type": "order.paid", "payload": 1, "metadata": {"region": "eu"}});
    world.publish(typed).await;
    while world.drain().await > 0 {}

    let later = (Utc::now() + TimeDelta::hours(1)).to_rfc3339();
    for (filter, expected) in [
        (json!({}), 10),
        (json!({"subscription_id": shop}), 6),
        (json!({"status_codes": [404]}), 4),
        (json!({"status_codes": [404, 500], "error_kinds": ["http_status"]}), 10),
        (json!({"error_kinds": ["timeout", "not_attempted"]}), 0),
        (json!({"event_types": ["order.*"]}), 2),
        (json!({"event_types": ["order.*"], "subscription_id": shop}), 1),
        (json!({"metadata": {"region": "eu"}}), 2),
        (json!({"statuses": ["succeeded", "canceled"]}), 0),
        (json!({"statuses": ["dead_letter", "pending"]}), 10),
        (json!({"since": "2020-01-01T00:00:00Z", "until": "2020-01-02T00:00:00Z"}), 0),
        (json!({"dead_since": "2020-01-01T00:00:00Z"}), 10),
        (json!({"dead_since": later}), 0),
        (json!({"inline_only": true}), 0),
        (json!({"event_id": world.delivery(&of_shop[0]).await["event_id"]}), 1),
        (json!({"tenant_id": "default"}), 10),
        (json!({"tenant_id": "other"}), 0),
    ] {
        assert_eq!(count(&world, "retry", filter.clone()).await, expected, "{filter}");
    }

    mend(&mut world, &shop).await;
    let filter = json!({"subscription_id": shop, "status_codes": [500], "event_types": ["webhook.*"]});
    let job = begin(&world, "retry", filter.clone()).await;
    assert_eq!((&job["rate_per_second"], &job["filter"]["statuses"]), (&json!(100), &json!(["dead_letter"])));
    let done = finished(&world, &job).await;
    assert_eq!((&done["state"], &done["progress"], counts(&done)), (&json!("completed"), &json!(1.0), [5, 0, 0]));
    assert_eq!(statuses(&world, &of_shop).await, vec![json!("succeeded"); 5]);
    assert_eq!(statuses(&world, &of_books).await, vec![json!("dead_letter"); 3]);
    assert_eq!(count(&world, "retry", filter.clone()).await, 0);
    let again = begin(&world, "retry", filter).await;
    assert_eq!(counts(&finished(&world, &again).await), [0, 0, 0]);
    let listed = world.get(&format!("/jobs?subscription_id={shop}")).await;
    assert_eq!(listed["data"].as_array().unwrap().iter().map(id).collect::<Vec<_>>(), [id(&again), id(&job)]);
    let entries = world.get(&format!("/audit-log?target_id={}", id(&job))).await;
    assert_eq!(
        (&entries["data"][0]["action"], &entries["data"][0]["after"]["action"]),
        (&json!("job.created"), &json!("retry"))
    );

    // Where the subscription is gone, nothing can be retried, and the job goes on.
    world.call(Method::DELETE, &format!("/subscriptions/{books}"), None).await.expect(204);
    let job = begin(&world, "retry", json!({"subscription_id": books})).await;
    assert_eq!(counts(&finished(&world, &job).await), [0, 4, 0]);
    world.finish().await;
}

#[tokio::test]
async fn waiting_deliveries_are_canceled_and_dead_letters_resolved_and_purged() {
    let world = World::new().await;
    let (calm, broken) = (world.subscription("/success").await, once(&world, "/fail").await);
    let dead = delivered(&world, &broken, 4).await;
    world.post(&format!("/subscriptions/{calm}/pause")).await;
    let mut waiting = Vec::new();
    for number in 0..6 {
        waiting.push(world.ingest(&calm, number.to_string()).await);
    }
    // A worker is attempting one of them.
    let lease = "UPDATE queue SET lease_token = 7, attempt_count = 1, due_at = now() + interval '1 minute'
                  WHERE delivery_id = $1";
    sqlx::query(lease).bind(uuid(&waiting[0])).execute(&world.pool).await.unwrap();
    assert_eq!(count(&world, "cancel", json!({"subscription_id": calm})).await, 5);
    let job = begin(&world, "cancel", json!({"subscription_id": calm})).await;
    assert!(job.get("rate_per_second").is_none(), "{job}");
    assert_eq!(step(&world).await, Some(5));
    assert_eq!(statuses(&world, &waiting[1..]).await, vec![json!("canceled"); 5]);
    assert_eq!(world.delivery(&waiting[0]).await["status"], "in_flight");
    assert_eq!(counts(&world.get(&format!("/jobs/{}", id(&job))).await), [5, 0, 0]);

    world.post(&format!("/dead-letters/{}/resolve", dead[0])).await;
    let job = begin(&world, "resolve", json!({"subscription_id": broken})).await;
    assert_eq!(counts(&finished(&world, &job).await), [3, 0, 0]);
    assert_eq!(world.get("/dead-letters").await["data"], json!([]));
    assert_eq!(count(&world, "purge", json!({})).await, 0);
    let job = begin(&world, "purge", json!({"include_resolved": true, "dead_until": Utc::now().to_rfc3339()})).await;
    assert_eq!(counts(&finished(&world, &job).await), [4, 0, 0]);
    assert_eq!(world.get("/dead-letters?include_resolved=true").await["data"], json!([]));
    assert_eq!(statuses(&world, &dead).await, vec![json!("dead_letter"); 4], "their records stay");
    world.finish().await;
}

#[tokio::test]
async fn pending_deliveries_are_due_now_whatever_the_tables_say() {
    let world = World::new().await;
    let subscription = id(&world.subscribe("/fail", json!({"retry_policy": {"delays_seconds": [3600]}})).await);
    delivered(&world, &subscription, 3).await;
    assert_eq!(world.drain().await, 0);
    let job = begin(&world, "retry", json!({"statuses": ["pending"]})).await;
    assert_eq!(counts(&finished(&world, &job).await), [3, 0, 0]);
    assert_eq!(world.receiver.count(), 6);
    world.finish().await;
}

#[tokio::test]
async fn a_replay_by_filter_reaches_every_subscription_and_doubles_nothing() {
    let mut world = World::new().await;
    let (shop, books) = (once(&world, "/fail").await, once(&world, "/fail").await);
    delivered(&world, &shop, 3).await;
    delivered(&world, &books, 2).await;
    let off = once(&world, "/fail").await;
    delivered(&world, &off, 1).await;
    world.post(&format!("/subscriptions/{off}/disable")).await;
    mend(&mut world, &shop).await;
    mend(&mut world, &books).await;
    let filter = json!({"status_codes": [500]});
    assert_eq!(count(&world, "replay", filter.clone()).await, 5);
    let job = begin(&world, "replay", filter.clone()).await;
    assert_eq!(counts(&finished(&world, &job).await), [5, 1, 0]);
    let made = world.get(&format!("/deliveries?job_id={}&status=succeeded", id(&job))).await;
    assert_eq!(made["data"].as_array().unwrap().len(), 5);
    assert_eq!(world.get("/dead-letters").await["data"].as_array().unwrap().len(), 1, "the others are resolved");
    let again = begin(&world, "replay", filter).await;
    assert_eq!(counts(&finished(&world, &again).await), [0, 1, 0]);
    world.finish().await;
}

#[tokio::test]
async fn a_job_keeps_to_its_rate_and_stops_when_it_is_told() {
    let world = World::new().await;
    let subscription = once(&world, "/fail").await;
    let dead = delivered(&world, &subscription, 30).await;
    world.post(&format!("/subscriptions/{subscription}/pause")).await;
    let body = json!({"action": "retry", "filter": {}, "rate_per_second": 10});
    let job = world.call(Method::POST, "/jobs", Some(body)).await.expect(202);
    assert_eq!(step(&world).await, Some(5), "half a second's");
    assert_eq!(step(&world).await, None, "not yet");
    world.pass(Duration::from_millis(600)).await;
    assert_eq!(step(&world).await, Some(5));
    let path = format!("/jobs/{}", id(&job));
    assert_eq!(counts(&world.get(&path).await), [10, 0, 0]);
    let stopped = world.post(&format!("{path}/cancel")).await;
    assert_eq!(stopped["state"], "canceled");
    assert_eq!(world.post(&format!("{path}/cancel")).await, stopped, "once is enough");
    world.pass(Duration::from_secs(60)).await;
    assert_eq!(step(&world).await, None);
    let expected: Vec<_> = [vec![json!("pending"); 10], vec![json!("dead_letter"); 20]].concat();
    assert_eq!(statuses(&world, &dead).await, expected, "what was retried stays so");
    world.finish().await;
}

#[tokio::test]
async fn workers_that_die_in_a_job_act_on_no_delivery_twice_and_leave_none_out() {
    let world = World::new().await;
    let subscription = once(&world, "/fail").await;
    let dead = delivered(&world, &subscription, 200).await;
    // Nothing is attempted meanwhile, so that a delivery that was retried twice would still be seen in the counts.
    world.post(&format!("/subscriptions/{subscription}/pause")).await;
    let job = begin(&world, "retry", json!({"subscription_id": subscription})).await;
    // A worker dies in the middle of a step: its connection is gone before the commit.
    let mut dying = world.pool.begin().await.unwrap();
    sqlx::query("SELECT id FROM jobs FOR UPDATE").fetch_one(&mut *dying).await.unwrap();
    assert_eq!(step(&world).await, None, "it has it in its hands");
    dying.rollback().await.unwrap();
    let (_, killed) = world.run_worker();
    let path = format!("/jobs/{}", id(&job));
    let until = async |is_reached: &dyn Fn(&Value) -> bool| loop {
        let now = world.get(&path).await;
        if is_reached(&now) {
            return now;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let soon = |reached| tokio::time::timeout(SOON, reached);
    soon(until(&|now| counts(now)[0] >= 50)).await.expect("it is under way");
    killed.abort();
    let (stop, running) = world.run_worker();
    let done = soon(until(&|now| now["state"] == "completed")).await.expect("it comes to its end");
    assert_eq!((counts(&done), &done["examined_count"]), ([200, 0, 0], &json!(200)));
    assert_eq!(statuses(&world, &dead).await, vec![json!("pending"); 200]);
    stop.cancel();
    running.await.unwrap();
    world.finish().await;
}

#[tokio::test]
async fn a_delivery_that_the_database_refuses_holds_no_others_up() {
    let world = World::new().await;
    let subscription = once(&world, "/fail").await;
    let dead = delivered(&world, &subscription, 40).await;
    world.post(&format!("/subscriptions/{subscription}/pause")).await;
    let poison = format!(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''no''; END';
         CREATE TRIGGER refuse BEFORE INSERT ON queue FOR EACH ROW
           WHEN (NEW.delivery_id = '{}') EXECUTE FUNCTION refuse()",
        uuid(&dead[17])
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(poison)).execute(&world.pool).await.unwrap();
    let job = begin(&world, "retry", json!({})).await;
    let done = finished(&world, &job).await;
    assert_eq!((&done["state"], counts(&done)), (&json!("completed"), [39, 0, 1]));
    let mut expected = vec![json!("pending"); 40];
    expected[17] = json!("dead_letter");
    assert_eq!(statuses(&world, &dead).await, expected);
    world.finish().await;
}

#[tokio::test]
async fn a_job_reaches_its_keys_own_tenant_only() {
    let world = World::new().await;
    let (acme, bolt) = (Tenant::new(&world, "acme").await, Tenant::new(&world, "bolt").await);
    let mut foreign = Vec::new();
    let theirs = world.get("/dead-letters?tenant_id=acme").await["data"][0]["delivery"].clone();
    for (field, value) in [
        ("tenant_id", json!("acme")),
        ("subscription_id", json!(acme.subscription)),
        ("event_id", theirs["event_id"].clone()),
    ] {
        foreign.push(json!({field: value}));
    }
    for filter in foreign {
        for path in ["/jobs", "/jobs/count"] {
            let body = json!({"action": "retry", "filter": filter});
            call(&world, &bolt.admin, &Method::POST, path, Some(body)).await.problem(404);
        }
    }
    let reader = key(&world, &["read"], Some("bolt")).await.1;
    let body = || Some(json!({"action": "purge", "filter": {}}));
    call(&world, &reader, &Method::POST, "/jobs", body()).await.problem(403);
    assert_eq!(call(&world, &reader, &Method::POST, "/jobs/count", body()).await.expect(200)["count"], 1);
    let job = call(&world, &bolt.admin, &Method::POST, "/jobs", body()).await.expect(202);
    assert_eq!((&job["tenant_id"], &job["filter"]["tenant_id"]), (&json!("bolt"), &json!("bolt")));
    assert_eq!(counts(&finished(&world, &job).await), [1, 0, 0]);
    assert_eq!(world.get("/dead-letters").await["data"].as_array().unwrap().len(), 1, "that of acme");
    // A job about every tenant is nobody's of them.
    let all = begin(&world, "resolve", json!({})).await;
    assert!(all.get("tenant_id").is_none());
    call(&world, &acme.admin, &Method::GET, &format!("/jobs/{}", id(&all)), None).await.problem(404);
    assert_eq!(counts(&finished(&world, &all).await), [1, 0, 0]);
    world.finish().await;
}

#[tokio::test]
async fn a_job_that_makes_no_sense_is_refused() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    let ever = "2020-01-01T00:00:00Z";
    for (body, field) in [
        (json!({"filter": {}}), "action"),
        (json!({"action": "delete", "filter": {}}), "action"),
        (json!({"action": "retry"}), "filter"),
        (json!({"action": "retry", "filter": []}), "filter"),
        (json!({"action": "retry", "filter": {"all": true}}), "filter.all"),
        (json!({"action": "retry", "filter": {}, "rate_per_second": 0}), "rate_per_second"),
        (json!({"action": "retry", "filter": {}, "rate_per_second": 1001}), "rate_per_second"),
        (json!({"action": "retry", "filter": {"statuses": ["lost"]}}), "filter.statuses[0]"),
        (json!({"action": "cancel", "filter": {"statuses": ["dead_letter"]}}), "filter.statuses[0]"),
        (json!({"action": "resolve", "filter": {"statuses": ["pending"]}}), "filter.statuses[0]"),
        (json!({"action": "replay", "filter": {"statuses": ["missed"], "since": ever}}), "filter.subscription_id"),
        (
            json!({"action": "replay", "filter": {"statuses": ["missed"], "subscription_id": subscription}}),
            "filter.since",
        ),
        (json!({"action": "replay", "filter": {"include_resolved": true}}), "filter.dead_since"),
        (json!({"action": "cancel", "filter": {"dead_until": ever}}), "filter.dead_since"),
        (json!({"action": "retry", "filter": {"since": ever, "until": ever}}), "filter.since"),
        (json!({"action": "retry", "filter": {"error_kinds": ["bad luck"]}}), "filter.error_kinds[0]"),
        (json!({"action": "retry", "filter": {"status_codes": [200, 99]}}), "filter.status_codes[1]"),
        (json!({"action": "retry", "filter": {"event_types": ["a b"]}}), "filter.event_types[0]"),
        (json!({"action": "retry", "filter": {"tenant_id": ""}}), "filter.tenant_id"),
        (json!({"action": "retry", "filter": {"subscription_id": "sub_1"}}), "filter.subscription_id"),
        (json!({"action": "retry", "filter": {"metadata": {"": "x"}}}), "filter.metadata"),
    ] {
        for path in ["/jobs", "/jobs/count"] {
            let problem = world.call(Method::POST, path, Some(body.clone())).await.problem(422);
            assert_eq!(problem["errors"][0]["field"], field, "{body}: {problem}");
        }
    }
    assert_eq!(world.get("/jobs").await["data"], json!([]));
    world.finish().await;
}
