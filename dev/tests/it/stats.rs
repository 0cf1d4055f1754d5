//! Statistics: what processes have counted agrees with what is stored, as totals, as a series and by causes.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, DurationRound, SecondsFormat, TimeDelta, Utc};
use postrider_core::{
    database::Session,
    id::EventId,
    stats::{fold, recount},
    tally::{Observed, ObservedAttempt, Tally, class::Class},
    upkeep::partition,
};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    access::{call, key},
    world::{KEY, World, answer, client, database_config, id, serve, uuid},
};

/// Every row of the statistics of minutes, without the slots of those who have counted.
async fn rows(world: &World) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT ROW(tenant_id, subscription_id, minute, outcomes, durations, latencies, waits, bytes)::text
           FROM stats_minute
          UNION ALL SELECT ROW(tenant_id, event_type, minute, events, bytes)::text FROM accepted_minute
          UNION ALL SELECT ROW(tenant_id, subscription_id, moment, cause, count, first_at, last_at)::text
                      FROM stats_causes
          ORDER BY 1",
    )
    .fetch_all(&world.pool)
    .await
    .unwrap()
}

/// How many attempts of a subscription had each outcome, as the log of attempts tells.
async fn logged(world: &World, subscription: &str) -> BTreeMap<String, i64> {
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "SELECT CASE WHEN a.error_kind IS NULL THEN 'succeeded'
                     WHEN a.status_code = 404 THEN 'http_404'
                     WHEN a.status_code >= 500 THEN 'http_5xx'
                     ELSE a.error_kind END, count(*)
           FROM attempts a JOIN deliveries d ON d.id = a.delivery_id
          WHERE d.subscription_id = $1 GROUP BY 1",
    )
    .bind(uuid(subscription))
    .fetch_all(&world.pool)
    .await
    .unwrap();
    rows.into_iter().collect()
}

fn outcomes(stats: &Value) -> BTreeMap<String, i64> {
    let outcomes = stats["attempts"]["outcomes"].as_object().unwrap_or_else(|| panic!("{stats}"));
    outcomes.iter().map(|(class, count)| (class.clone(), count.as_i64().unwrap())).collect()
}

/// Publishes events and makes an inline delivery on an api of its own. It is then stopped, so that it writes what it
/// has counted.
async fn publish(world: &World, events: &[(&str, usize)]) {
    let (base, (stop, served)) = serve(&world.env).await;
    for (event_type, count) in events {
        for number in 0..*count {
            let body =
                json!({"event_type": event_type, "payload": {"number": number}, "id": format!("{event_type}{number}")});
            let request = client().post(format!("{base}/events")).bearer_auth(KEY).body(body.to_string());
            answer(request.try_clone().unwrap()).await.expect(202);
            // The same event again is not counted again.
            answer(request).await.expect(202);
        }
    }
    let inline = json!({"target_url": world.receiver.url("/success"), "payload": 1}).to_string();
    answer(client().post(format!("{base}/deliveries")).bearer_auth(KEY).body(inline)).await.expect(202);
    stop.cancel();
    served.await.unwrap();
}

#[tokio::test]
async fn what_was_counted_agrees_with_the_log_and_counting_again_gives_the_same() {
    let world = World::new().await;
    let refuses = json!({"event_types": ["bad.*"], "retry_policy": {"delays_seconds": [1]}});
    let good = world.subscribe("/success", json!({"event_types": ["good.*"]})).await;
    let bad = world.subscribe("/fail/503", refuses).await;
    let lost = json!({"event_types": ["bad.*"], "retry_policy": {"delays_seconds": []}});
    let gone = id(&world.subscribe("/fail/404", lost.clone()).await);
    let mut nobody = lost;
    // Nobody listens on this port any more.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    nobody["target_url"] = format!("http://127.0.0.1:{port}/").into();
    let nobody = id(&world.subscribe("/", nobody).await);
    let (stop, running) = world.run_worker();
    publish(&world, &[("good.one", 5), ("good.two", 2), ("bad.one", 3), ("unwanted", 1)]).await;
    world.queue_is_empty().await;
    stop.cancel();
    running.await.unwrap();

    let mut all = BTreeMap::from([("succeeded".to_owned(), 1)]);
    for subscription in [&id(&good), &id(&bad), &gone, &nobody] {
        let expected = logged(&world, subscription).await;
        assert!(!expected.is_empty());
        let stats = world.get(&format!("/subscriptions/{subscription}/stats")).await;
        assert_eq!(outcomes(&stats), expected, "{stats}");
        assert_eq!(stats, world.get(&format!("/stats?subscription_id={subscription}")).await);
        assert!(stats.get("accepted").is_none(), "{stats}");
        for (class, count) in expected {
            *all.entry(class).or_default() += count;
        }
    }
    let stats = world.get("/stats").await;
    assert_eq!(outcomes(&stats), all, "{stats}");
    assert_eq!(stats, world.get("/stats?tenant_id=default").await, "there is one tenant");
    let failures = all.iter().filter(|(class, _)| *class != "succeeded").map(|(_, count)| count).sum::<i64>();
    assert_eq!((&stats["attempts"]["succeeded"], &stats["attempts"]["failed"]), (&json!(8), &json!(failures)));
    assert_eq!((&stats["deliveries"]["succeeded"], &stats["deliveries"]["dead_letters"]), (&json!(8), &json!(9)));
    assert_eq!(stats["accepted"]["events"], 12);
    let of_type = world.get("/stats?event_type=good.one").await;
    assert_eq!((&of_type["accepted"]["events"], of_type.get("attempts")), (&json!(5), None));
    for percentiles in
        [&stats["attempts"]["duration_ms"], &stats["deliveries"]["latency_ms"], &stats["deliveries"]["wait_ms"]]
    {
        let [p50, p95, p99] = ["p50", "p95", "p99"].map(|share| percentiles[share].as_f64().unwrap());
        assert!(0.0 < p50 && p50 <= p95 && p95 <= p99, "{percentiles}");
    }

    let counted = rows(&world).await;
    let general = database_config(&world.env).pool(Session::Queue, 1);
    let now = Utc::now();
    let again = recount::recount(&general, now - TimeDelta::minutes(5), now).await.unwrap();
    assert_eq!((again.attempts, again.events), (all.values().sum::<i64>().unsigned_abs(), 12));
    assert_eq!(rows(&world).await, counted);
    world.finish().await;
}

/// Counts one attempt of a subscription that began at this time.
fn attempted(tally: &Tally, subscription: Uuid, at: DateTime<Utc>, class: Class) {
    tally.add(&Observed {
        tenant_id: Some("default"),
        subscription_id: Some(subscription),
        delivery_id: EventId::new().0,
        attempt: Some(ObservedAttempt {
            class,
            number: 1,
            started_at: at,
            duration_ms: Some(20),
            status_code: Some(if class == Class::Succeeded { 200 } else { 503 }),
            deliver_at: None,
            payload_bytes: 100,
        }),
        end: None,
        now: at,
    });
}

fn text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[tokio::test]
async fn a_series_has_every_point_and_hours_tell_the_same_as_minutes() {
    let world = World::new().await;
    let subscription = uuid(&world.subscription("/success").await);
    let hour = Utc::now().duration_trunc(TimeDelta::hours(1)).unwrap();
    let at = |minutes| hour + TimeDelta::minutes(minutes);
    let general = database_config(&world.env).pool(Session::Queue, 1);
    // Three hours are over and have not been folded.
    let back = "UPDATE stats_folding SET closed_until = $1, folded_until = $1";
    sqlx::query(back).bind(at(-180)).execute(&world.pool).await.unwrap();
    let tally = Tally::default();
    for minute in [-170, -121, -120, -119, -1] {
        attempted(&tally, subscription, at(minute), Class::Succeeded);
    }
    attempted(&tally, subscription, at(-1), Class::Http5xx);
    tally.flush(&general).await.unwrap();
    let (since, until) = (text(at(-180)), text(at(0)));
    let totals = async || world.get(&format!("/stats?since={since}&until={until}")).await;
    let series = async |step: &str| {
        let series = world.get(&format!("/stats/history?step={step}&since={since}&until={until}")).await;
        assert_eq!(series["step"], step);
        let points = series["points"].as_array().unwrap().clone();
        points.iter().map(|point| point["attempts"]["total"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let from_minutes = totals().await;
    assert_eq!(outcomes(&from_minutes), BTreeMap::from([("succeeded".to_owned(), 5), ("http_5xx".to_owned(), 1)]));
    assert_eq!(from_minutes["attempts"]["bytes"], 600);
    assert_eq!(series("1h").await, [2, 2, 2]);

    let open = usize::from(Utc::now() < hour + fold::CLOSED_AFTER);
    assert_eq!(fold::fold(&general).await.unwrap(), 3 - open, "the last hour is closed a few minutes after its end");
    assert_eq!(totals().await, from_minutes);
    assert_eq!(series("1h").await, [2, 2, 2]);
    let minutes = series("1m").await;
    assert_eq!((minutes.len(), minutes[10], minutes[59], minutes[60], minutes[61], minutes[179]), (180, 1, 1, 1, 1, 2));
    assert_eq!(minutes.iter().sum::<u64>(), 6);
    let days = world.get(&format!("/stats/history?step=1d&since={since}&until={until}")).await;
    let days = days["points"].as_array().unwrap();
    assert_eq!(days.iter().map(|day| day["attempts"]["total"].as_u64().unwrap()).sum::<u64>(), 6);

    // What comes late is folded, too. Hours are read as hours: without their minutes they tell the same.
    attempted(&tally, subscription, at(-150), Class::Timeout);
    tally.flush(&general).await.unwrap();
    assert_eq!(fold::fold(&general).await.unwrap(), 1);
    sqlx::query("DELETE FROM stats_minute WHERE minute < $1").bind(at(-60)).execute(&world.pool).await.unwrap();
    assert_eq!(series("1h").await, [3, 2, 2]);
    assert_eq!(outcomes(&totals().await)["timeout"], 1);
    world.finish().await;
}

#[tokio::test]
async fn causes_tell_who_fails_and_why_with_a_sample() {
    let world = World::new().await;
    let once = json!({"event_types": ["*"], "retry_policy": {"delays_seconds": []}});
    let (gone, broken) = (world.subscribe("/fail/404", once.clone()).await, world.subscribe("/fail/502", once).await);
    world.subscribe("/success", json!({})).await;
    let mut last = Vec::new();
    for _ in 0..3 {
        last = world.publish(json!({"event_type": "a.b", "payload": 1})).await.1;
        assert_eq!(world.drain().await, 3);
    }
    let only = world.ingest(&id(&broken), "x").await;
    assert_eq!(world.drain().await, 1);
    world.worker.tally().flush(&world.pool).await.unwrap();

    let causes = world.get("/stats/causes").await;
    let of = |cause: &Value| (cause["subscription_id"].clone(), cause["cause"].clone(), cause["count"].clone());
    let found: Vec<_> = causes["causes"].as_array().unwrap().iter().map(of).collect();
    let expected =
        [(gone["id"].clone(), json!("http_404"), json!(3)), (broken["id"].clone(), json!("http_5xx"), json!(4))];
    assert_eq!(found, [expected[1].clone(), expected[0].clone()], "the most frequent first: {causes}");
    assert_eq!(causes["is_more"], false);
    let [of_broken, of_gone] = [&causes["causes"][0], &causes["causes"][1]];
    assert_eq!((&of_broken["sample_delivery_id"], &of_broken["status_code"]), (&json!(only), &json!(502)));
    assert!(last.contains(&of_gone["sample_delivery_id"].as_str().unwrap().to_owned()), "{of_gone} of {last:?}");
    assert!(of_gone["first_at"].as_str() <= of_gone["last_at"].as_str(), "{of_gone}");

    let path = format!("/stats/causes?subscription_id={}", id(&gone));
    assert_eq!(world.get(&path).await["causes"], json!([of_gone]));
    let before = text(Utc::now() - TimeDelta::hours(2));
    assert_eq!(world.get(&format!("/stats/causes?until={before}")).await["causes"], json!([]));
    world.finish().await;
}

#[tokio::test]
async fn a_tenant_s_key_sees_the_numbers_of_its_tenant() {
    let world = World::new().await;
    for (tenant, events) in [("acme", 2), ("bolt", 3)] {
        let once = json!({"tenant_id": tenant, "retry_policy": {"delays_seconds": []}});
        world.subscribe("/fail", once).await;
        for _ in 0..events {
            world.publish(json!({"tenant_id": tenant, "event_type": "a.b", "payload": 1})).await;
        }
    }
    assert_eq!(world.drain().await, 5);
    world.worker.tally().flush(&world.pool).await.unwrap();
    let acme = key(&world, &["read"], Some("acme")).await.1;
    let get = async |path: &str| call(&world, &acme, &Method::GET, path, None).await;
    for path in ["/stats", "/stats?tenant_id=acme"] {
        assert_eq!(get(path).await.expect(200)["attempts"]["failed"], 2, "{path}");
    }
    let points = get("/stats/history").await.expect(200)["points"].clone();
    let failed = |point: &Value| point["attempts"]["failed"].as_u64().unwrap();
    assert_eq!(points.as_array().unwrap().iter().map(failed).sum::<u64>(), 2);
    let causes = get("/stats/causes").await.expect(200)["causes"].clone();
    assert_eq!((causes.as_array().unwrap().len(), &causes[0]["tenant_id"]), (1, &json!("acme")));
    assert_eq!(world.get("/stats").await["attempts"]["failed"], 5);
    get("/stats?tenant_id=bolt").await.problem(404);
    world.finish().await;
}

#[tokio::test]
async fn bad_questions_are_refused_by_their_field() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    let ago = |days| text(Utc::now() - TimeDelta::days(days));
    for (path, field) in [
        (format!("/stats?since={}&until={}", ago(1), ago(2)), "until"),
        (format!("/stats?since={0}&until={0}", ago(1)), "since"),
        (format!("/stats?since={}", ago(401)), "since"),
        (format!("/stats?since={}", ago(-1)), "since"),
        ("/stats?event_type=no type".to_owned(), "event_type"),
        ("/stats?tenant_id=".to_owned(), "tenant_id"),
        ("/stats?subscription_id=dlv_1".to_owned(), "subscription_id"),
        (format!("/stats?event_type=a.b&subscription_id={subscription}"), "event_type"),
        ("/stats/history?step=1w".to_owned(), "step"),
        (format!("/stats/history?step=1m&since={}", ago(2)), "step"),
        (format!("/stats/history?step=1m&since={}&until={}", ago(5), ago(4)), "since"),
        (format!("/stats/history?since={}", ago(100)), "step"),
        (format!("/stats/causes?since={}", ago(31)), "since"),
        (format!("/subscriptions/{subscription}/stats?since={}", ago(401)), "since"),
    ] {
        let problem = world.call(Method::GET, &path, None).await.problem(422);
        assert_eq!(problem["errors"][0]["field"], field, "{path}: {problem}");
    }
    world.call(Method::GET, "/stats?since=yesterday", None).await.problem(400);
    for path in [format!("/stats?since={}", ago(399)), format!("/stats/history?step=1d&since={}", ago(399))] {
        world.get(&path).await;
    }
    let nobody = postrider_core::id::SubscriptionId::new();
    world.call(Method::GET, &format!("/subscriptions/{nobody}/stats"), None).await.problem(404);
    world.finish().await;
}

#[tokio::test]
async fn old_statistics_are_dropped_when_they_are_folded_whatever_is_kept_of_deliveries() {
    let world = World::new().await;
    let today = Utc::now().date_naive();
    let days = |count| today - chrono::Days::new(count);
    sqlx::query("SELECT ensure_partitions($1, $2)").bind(days(32)).bind(today).execute(&world.pool).await.unwrap();
    let kept = async |parent: &str| -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM partitions WHERE parent = $1 AND day <= $2")
            .bind(parent)
            .bind(today)
            .fetch_one(&world.pool)
            .await
            .unwrap()
    };
    let back = "UPDATE stats_folding SET folded_until = $1::date";
    sqlx::query(back).bind(days(10)).execute(&world.pool).await.unwrap();
    partition::retire_statistics(&world.pool, today).await.unwrap();
    assert_eq!((kept("stats_minute").await, kept("accepted_minute").await), (11, 11), "they are not folded yet");
    sqlx::query(back).bind(today).execute(&world.pool).await.unwrap();
    partition::retire_statistics(&world.pool, today).await.unwrap();
    assert_eq!((kept("stats_minute").await, kept("accepted_minute").await, kept("stats_causes").await), (4, 4, 31));
    assert_eq!(kept("events").await, 33);
    // A detach that broke off half-way leaves a table without a parent.
    sqlx::raw_sql("CREATE TABLE stats_minute_20200101 (LIKE stats_minute)").execute(&world.pool).await.unwrap();
    assert_eq!(partition::retire_statistics(&world.pool, today).await.unwrap(), ["stats_minute_20200101"]);
    assert_eq!(
        worker::janitor::retire(&world.pool, 1, None).await.unwrap().kept,
        [""; 0],
        "history does not touch them"
    );
    assert_eq!(kept("stats_minute").await, 4);
    assert!(kept("stats_hour").await >= 2);
    let later = today + chrono::Days::new(500);
    sqlx::query(back).bind(later).execute(&world.pool).await.unwrap();
    partition::retire_statistics(&world.pool, later).await.unwrap();
    assert_eq!((kept("stats_hour").await, kept("stats_causes").await), (0, 0));
    world.finish().await;
}

#[tokio::test]
async fn sums_that_cannot_be_written_wait_until_the_database_is_back() {
    let world = World::new().await;
    let subscription = uuid(&world.subscription("/success").await);
    let tally = Tally::default();
    attempted(&tally, subscription, Utc::now(), Class::Succeeded);
    let mut away = database_config(&world.env);
    away.options = away.options.port(1);
    let flushed = tally.flush(&away.pool(Session::Queue, 1)).await;
    assert!(matches!(flushed, Err(postrider_core::Error::Unavailable(_))), "{flushed:?}");
    attempted(&tally, subscription, Utc::now(), Class::Succeeded);
    tally.flush(&world.pool).await.unwrap();
    tally.flush(&world.pool).await.unwrap();
    let soon = text(Utc::now() + Duration::from_secs(1));
    assert_eq!(world.get(&format!("/stats?until={soon}")).await["attempts"]["succeeded"], 2);
    world.finish().await;
}
