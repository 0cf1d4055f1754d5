//! What the overview, the subscriptions and a job show and do: who fails most, how large the backlog was, what waits
//! for whom, and a rate that is changed.

use chrono::{TimeDelta, Utc};
use postrider_core::{database::Session as Connections, stats::damage, upkeep::backlog};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    access::key,
    ui::{Session, world},
    world::{KEY, World, database_config, id, uuid},
};

/// A backlog of sixteen hours that has come and gone, and what is counted now.
pub const BACKLOG: &str = "INSERT INTO backlog_minute
                           SELECT date_trunc('minute', now()) - m * interval '10 min', 400 - 8 * abs(50 - m), m, 30, 12
                             FROM generate_series(1, 99) m;
                           SELECT measure_queue(100000)";

/// The figure of a tile or of a number.
fn figure(page: &str, word: &str) -> String {
    let rest = page.split(&format!("<p class=\"word\">{word}</p><p class=\"figure\">")).nth(1);
    let rest = rest.unwrap_or_else(|| panic!("no figure {word} in {page}"));
    rest.split('<').next().unwrap().to_owned()
}

/// A world with a receiver that fails three times, one that fails once, and one that is well.
async fn failing() -> (World, [String; 3]) {
    let world = world().await;
    let once =
        |name: &str, types: &str| json!({"name": name, "event_types": [types], "retry_policy": {"delays_seconds": []}});
    let worst = id(&world.subscribe("/fail/503", once("Worst", "order.*")).await);
    let bad = id(&world.subscribe("/fail/404", once("Bad", "order.paid")).await);
    let well = id(&world.subscribe("/success", json!({"name": "Well", "tenant_id": "acme"})).await);
    for event_type in ["order.paid", "order.sent", "order.lost"] {
        world.publish(json!({"event_type": event_type, "payload": 1})).await;
    }
    world.ingest(&well, "1").await;
    while world.drain().await > 0 {}
    world.worker.tally().flush(&world.pool).await.unwrap();
    (world, [worst, bad, well])
}

fn names(list: &Value) -> Vec<&str> {
    list["data"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn receivers_are_ranked_by_their_failures_and_paused_where_they_stand() {
    let (world, [worst, bad, well]) = failing().await;
    let ranking = damage::rank(&world.pool, None, TimeDelta::minutes(10), 10, Utc::now()).await.unwrap();
    let ranked: Vec<_> = ranking.damages.iter().map(|one| (one.subscription.to_string(), one.failed)).collect();
    assert_eq!(ranked, [(worst.clone(), 3), (bad.clone(), 1)]);
    assert_eq!(ranking.damages[0].status_code, Some(503));
    let others = damage::rank(&world.pool, Some("acme"), TimeDelta::minutes(10), 10, Utc::now()).await.unwrap();
    assert_eq!(others.damages, []);

    let admin = Session::new(&world, KEY).await;
    let (_, page) = admin.get("/ui/").await;
    let panel = page.split("Failing receivers</h2>").nth(1).unwrap().split("</section>").next().unwrap();
    let place = |text: &str| panel.find(text).unwrap_or_else(|| panic!("no {text} in {panel}"));
    assert!(place("Worst") < place("Answered 503") && place("Answered 503") < place("Bad"), "{panel}");
    assert!(place("Answered 404") > place("Bad") && !panel.contains("Well"), "{panel}");
    let page = admin.act(&format!("/ui/subscriptions/{worst}/pause"), &[("back", "")]).await;
    assert!(page.contains("It is paused.") && page.contains("/resume\""), "{page}");
    let reader = Session::new(&world, &key(&world, &["read"], None).await.1).await;
    let (_, page) = reader.get("/ui/").await;
    assert!(page.contains("Answered 503") && !page.contains("/pause\""), "{page}");
    let acme = Session::new(&world, &key(&world, &["read"], Some("acme")).await.1).await;
    let (_, page) = acme.get("/ui/").await;
    assert!(page.contains("No receiver fails") && !page.contains("Worst"), "{page}");

    // The same order in lists.
    let list = world.get("/subscriptions?sort=failures").await;
    let failures: Vec<_> = list["data"].as_array().unwrap().iter().map(|one| &one["failed_attempts"]).collect();
    assert_eq!((names(&list), failures), (vec!["Worst", "Bad"], vec![&json!(3), &json!(1)]));
    assert!(list.get("next_cursor").is_none());
    assert_eq!(names(&world.get("/subscriptions?sort=failures&limit=1").await), ["Worst"]);
    assert_eq!(names(&world.get("/subscriptions?sort=failures&state=active").await), ["Bad"]);
    assert_eq!(names(&world.get("/subscriptions?sort=failures&event_type=order.sent").await), ["Worst"]);
    let path = format!("/subscriptions?sort=failures&cursor={well}");
    let problem = world.call(Method::GET, &path, None).await.problem(422);
    assert_eq!(problem["errors"][0]["field"], "cursor");
    let (_, page) = admin.get("/ui/subscriptions?sort=failures").await;
    let rows = page.split("<tbody>").nth(1).unwrap();
    assert!(rows.find("Worst") < rows.find("Bad") && !rows.contains(">Well<"), "{page}");
    assert_eq!(admin.get("/ui/subscriptions?sort=luck").await.0, 200);
    world.finish().await;
}

#[tokio::test]
async fn subscriptions_are_found_by_type_and_host_and_counted() {
    let (world, [worst, ..]) = failing().await;
    world.subscribe("/success", json!({"name": "Elsewhere", "event_types": ["shop:*"]})).await;
    let host = reqwest::Url::parse(&world.receiver.url("/")).unwrap().host_str().unwrap().to_owned();
    for (query, expected) in [
        ("event_type=order.paid".to_owned(), vec!["Well", "Bad", "Worst"]),
        ("event_type=order.sent".to_owned(), vec!["Well", "Worst"]),
        ("event_type=shop:closed".to_owned(), vec!["Elsewhere", "Well"]),
        ("event_type=order.sent&failing=true".to_owned(), vec!["Worst"]),
        (format!("host={}", host.to_uppercase()), vec!["Elsewhere", "Well", "Bad", "Worst"]),
        ("host=example.com".to_owned(), vec![]),
        (format!("host={host}&failing=true"), vec!["Bad", "Worst"]),
    ] {
        assert_eq!(names(&world.get(&format!("/subscriptions?{query}")).await), expected, "{query}");
    }
    for field in ["event_type", "host"] {
        let path = format!("/subscriptions?{field}=%20%2F%2F");
        assert_eq!(world.call(Method::GET, &path, None).await.problem(422)["errors"][0]["field"], field);
    }
    world.post(&format!("/subscriptions/{worst}/pause")).await;
    for _ in 0..2 {
        world.publish(json!({"event_type": "order.sent", "payload": 1})).await;
    }
    let list = world.get("/subscriptions?counts=true").await;
    let of = |name: &str| {
        let one = list["data"].as_array().unwrap().iter().find(|one| one["name"] == name).unwrap();
        one["counts"].clone()
    };
    assert_eq!(of("Worst"), json!({"waiting": 2, "dead_letters": 3}));
    assert_eq!(of("Well"), json!({"waiting": 0, "dead_letters": 0}));
    assert!(world.get("/subscriptions").await["data"][0].get("counts").is_none());

    let admin = Session::new(&world, KEY).await;
    let (_, page) = admin.get("/ui/subscriptions?event_type=order.sent").await;
    let link = format!("href=\"dead-letters?subscription_id={worst}&amp;view=list\">3</a>");
    assert!(page.contains(&link) && !page.contains(">Bad<"), "{page}");
    assert!(page.contains("event type: <strong>order.sent</strong>"), "{page}");
    world.finish().await;
}

#[tokio::test]
async fn the_overview_shows_rates_times_and_how_large_the_backlog_was() {
    let (world, _) = failing().await;
    let admin = Session::new(&world, KEY).await;
    let filled = "INSERT INTO backlog_minute (minute, due, scheduled, held, in_flight)
                  SELECT date_trunc('minute', now()) - m * interval '1 minute', 100 - m, 7, m, 2
                    FROM generate_series(1, 30) m;
                  INSERT INTO stats_minute
                         (tenant_id, subscription_id, minute, slot, outcomes, durations, latencies, waits, bytes)
                  SELECT '', '00000000-0000-0000-0000-000000000000', date_trunc('minute', now()) - m * interval '1 min',
                         7, '{600}', '{}', '{0,0,0,600}', '{}', 0 FROM generate_series(1, 6) m;
                  INSERT INTO accepted_minute (tenant_id, event_type, minute, slot, events, bytes)
                  SELECT '', '', date_trunc('minute', now()) - m * interval '1 min', 7, 900, 9000
                    FROM generate_series(1, 6) m;
                  SELECT measure_queue(100000)";
    sqlx::raw_sql(filled).execute(&world.pool).await.unwrap();
    let (_, page) = admin.get("/ui/?range=1h").await;
    assert_eq!([figure(&page, "Coming in"), figure(&page, "Done")], ["15.0", "10.0"], "{page}");
    assert_eq!([figure(&page, "Due"), figure(&page, "Oldest due")], ["0", "–"], "{page}");
    assert!(page.contains("at most 99 were due, at "), "{page}");
    // The last minute may be the present one, with what was really delivered.
    assert!(page.contains("half of the deliveries arrived within about") && page.contains(">75 ms</td>"), "{page}");
    assert!(page.contains("The backlog; times of which nothing is known are left out"), "{page}");
    // A tenant's key sees its own numbers, and no backlog.
    let acme = Session::new(&world, &key(&world, &["read"], Some("acme")).await.1).await;
    let (_, page) = acme.get("/ui/?range=1h").await;
    assert!(!page.contains("were due, at ") && page.contains("How fast things go"), "{page}");

    let old = "INSERT INTO backlog_minute VALUES (now() - interval '9 days', 1, 1, 1, 1)";
    sqlx::raw_sql(old).execute(&world.pool).await.unwrap();
    assert_eq!(backlog::retire(&world.pool).await.unwrap(), 1);
    // The largest numbers of a minute stay.
    let shown = async || {
        sqlx::query_scalar::<_, i64>("SELECT max(due) FROM backlog_minute WHERE minute > now() - interval '2 minutes'")
            .fetch_one(&world.pool)
            .await
            .unwrap()
    };
    sqlx::raw_sql("UPDATE backlog_minute SET due = 500").execute(&world.pool).await.unwrap();
    sqlx::raw_sql("SELECT measure_queue(100000)").execute(&world.pool).await.unwrap();
    assert_eq!(shown().await, 500);
    world.finish().await;
}

#[tokio::test]
async fn the_rate_of_a_job_is_changed_while_it_runs() {
    let (world, [worst, ..]) = failing().await;
    world.post(&format!("/subscriptions/{worst}/pause")).await;
    let body = json!({"action": "retry", "filter": {"subscription_id": worst}, "rate_per_second": 1});
    let job = id(&world.call(Method::POST, "/jobs", Some(body)).await.expect(202));
    let path = format!("/jobs/{job}");
    let patch = async |body: Value| world.call(Method::PATCH, &path, Some(body)).await;
    assert_eq!(patch(json!({"rate_per_second": 40})).await.expect(200)["rate_per_second"], 40);
    assert_eq!(patch(json!({})).await.expect(200)["rate_per_second"], 40, "what is absent stays");
    assert_eq!(patch(json!({"rate_per_second": null})).await.expect(200)["rate_per_second"], 100);
    for (wrong, field) in [(json!({"rate_per_second": 0}), "rate_per_second"), (json!({"rate": 1}), "rate")] {
        assert_eq!(patch(wrong).await.problem(422)["errors"][0]["field"], field);
    }
    let audited = world.get(&format!("/audit-log?target_id={job}")).await;
    let entry = &audited["data"][0];
    let change = (&entry["action"], &entry["before"]["rate_per_second"], &entry["after"]["rate_per_second"]);
    assert_eq!(change, (&json!("job.changed"), &json!(40), &json!(100)), "{audited}");

    let admin = Session::new(&world, KEY).await;
    let page = admin.act(&format!("/ui/jobs/{job}/rate"), &[("rate_per_second", "7")]).await;
    assert!(page.contains("The job goes on with 7 deliveries a second."), "{page}");
    assert!(page.contains("name=\"rate_per_second\"") && page.contains("value=\"7\""), "{page}");
    let page = admin.act(&format!("/ui/jobs/{job}/rate"), &[("rate_per_second", "1001")]).await;
    assert!(page.contains("The rate stays as it is"), "{page}");
    let reader = Session::new(&world, &key(&world, &["read"], None).await.1).await;
    assert!(!reader.get(&format!("/ui{path}")).await.1.contains("/rate\""));
    world.post(&format!("{path}/cancel")).await;
    assert_eq!(patch(json!({"rate_per_second": 5})).await.problem(409)["code"], "conflict");
    assert!(!admin.get(&format!("/ui{path}")).await.1.contains("/rate\""));
    let rate: Option<i32> = sqlx::query_scalar("SELECT rate_per_second FROM jobs WHERE id = $1")
        .bind(uuid(&job))
        .fetch_one(&world.pool)
        .await
        .unwrap();
    assert_eq!(rate, Some(7));
    world.finish().await;
}

/// Subscriptions among many of which the worst are found.
const MANY: i32 = 50_000;

#[tokio::test]
async fn who_fails_most_is_found_among_many_within_the_time_of_a_page() {
    let world = World::new().await;
    world.subscription("/success").await;
    world.multiply(MANY).await;
    // All of them have failed now and then today, and many within the last minutes.
    let failed = "INSERT INTO stats_causes
                         (tenant_id, subscription_id, moment, cause, slot, count, first_at, last_at, delivery_id)
                  SELECT s.tenant_id, s.id, date_bin('10 minutes', now() - h * interval '10 minutes', 'epoch'),
                         'timeout', 0, 1 + s.n % 1000, now(), now(), uuid_v7()
                    FROM (SELECT tenant_id, id, row_number() OVER (ORDER BY id) AS n FROM subscriptions) s,
                         generate_series(0, 3) h
                   WHERE date_bin('10 minutes', now() - h * interval '10 minutes', 'epoch')
                         >= date_trunc('day', now(), 'UTC') - interval '1 day';
                  ANALYZE";
    sqlx::raw_sql(failed).execute(&world.pool).await.unwrap();
    let pool = database_config(&world.env).pool(Connections::Pages, 1);
    let began = std::time::Instant::now();
    let ranking = damage::rank(&pool, None, TimeDelta::minutes(10), 10, Utc::now()).await.unwrap();
    let short = began.elapsed();
    assert!(ranking.damages.len() == 10 && ranking.damages[0].failed >= 1_000, "{ranking:?}");
    let ranking = damage::rank(&pool, None, damage::LIST_SPAN, 1_000, Utc::now()).await.unwrap();
    assert_eq!(ranking.damages.len(), 1_000);
    let both = began.elapsed();
    let found = world.get("/subscriptions?host=nowhere.example.com&event_type=order.paid").await;
    assert!(found["data"] == json!([]) && found["next_cursor"].is_string(), "a bounded number is looked at: {found}");
    let all = began.elapsed();
    // A statement of a page has two seconds; this machine may be busy.
    assert!(all < std::time::Duration::from_secs(6), "{short:?}, {both:?}, {all:?}");
    world.api_stops().await;
}
