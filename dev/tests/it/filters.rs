//! Filters of payloads: every JSON text is judged, nothing is rounded, and what filters cannot read is told, never
//! filtered in silence.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgConnection;

use crate::{
    crashes::process,
    metrics,
    world::{KEY, World, answer, client, id, serve},
};

/// Texts that RFC 8259 allows and that many parsers refuse, as members of an object.
fn unusual_members() -> Vec<String> {
    vec![
        r#""note":"hi \ud83d""#.to_owned(),
        r#""\udead":"\ud800\ud800""#.to_owned(),
        r#""x":1e400,"y":-1E-400"#.to_owned(),
        format!(r#""x":{}"#, "9".repeat(400)),
        format!(r#""x":{}1{}"#, "[".repeat(511), "]".repeat(511)),
        format!(r#""x":{}1{}"#, r#"{"a":"#.repeat(300), "}".repeat(300)),
        r#""nul":"\u0000""#.to_owned(),
        r#""kind":1,"kind":"order""#.to_owned(),
    ]
}

/// The texts of payloads that filters read no deeper.
fn unreadable_texts() -> [(String, &'static str); 3] {
    let nested = |open: &str, depth, close: &str| format!("{}1{}", open.repeat(depth), close.repeat(depth));
    [
        (nested("[", 513, "]"), "nested more than 512 deep"),
        (nested(r#"{"a":"#, 100_000, "}"), "nested more than 512 deep"),
        ("[1e1000000000000000000]".to_owned(), "exponent"),
    ]
}

async fn ingest(world: &World, subscription: &str, payload: impl Into<reqwest::Body>) -> Value {
    let request = world.request(Method::POST, &format!("/webhooks/ingest/{subscription}"));
    answer(request.body(payload)).await.expect(202)
}

async fn sql_publish(connection: &mut PgConnection, payload: &str) -> Result<String, sqlx::Error> {
    sqlx::query_scalar("SELECT postrider.publish('a.b', $1::jsonb)").bind(payload).fetch_one(connection).await
}

#[tokio::test]
async fn json_that_other_parsers_refuse_is_judged() {
    let world = World::new().await;
    let orders = id(&world.subscribe("/orders", json!({"filters": {"payload": {"kind": "order"}}})).await);
    let others = id(&world.subscribe("/others", json!({"filters": {"payload": {"kind": {"$ne": "order"}}}})).await);
    for members in unusual_members() {
        let payload = format!(r#"{{"kind":"order", {members}}}"#);
        let body = format!(r#"{{"event_type":"a.b","payload":{payload}}}"#);
        let published = answer(world.request(Method::POST, "/events").body(body)).await.expect(202);
        assert_eq!(published["delivery_ids"].as_array().unwrap().len(), 1, "{payload}");
        assert_eq!(world.drain().await, 1);
        let received = world.receiver.received().pop().unwrap();
        assert_eq!(received.path, "/orders", "{payload}");
        assert_eq!(received.body, payload, "byte for byte");
        for payload in [payload.clone(), format!("\u{feff}{payload}")] {
            assert_eq!(ingest(&world, &orders, payload.clone()).await["status"], "pending", "{payload}");
            assert_eq!(ingest(&world, &others, payload.clone()).await["status"], "filtered", "{payload}");
        }
        while world.drain().await > 0 {}
    }
    let mut own = world.pool.acquire().await.unwrap();
    sql_publish(&mut own, &format!(r#"{{"kind":"order","x":{},"y":1e400}}"#, "9".repeat(400))).await.unwrap();
    assert_eq!(world.drain().await, 1);
    assert_eq!(world.receiver.received().pop().unwrap().path, "/orders");
    drop(own);
    world.finish().await;
}

#[tokio::test]
async fn numbers_are_compared_by_value_and_filters_are_shown_as_they_were_written() {
    let world = World::new().await;
    let (other, (stop, serving)) = serve(&world.env).await;
    let cases = [
        (r#"{"id":18446744073709551617}"#, r#"{"id":18446744073709551617}"#, r#"{"id":18446744073709551616}"#),
        (
            r#"{"id":12345678901234567890123}"#,
            r#"{"id":1.2345678901234567890123e22}"#,
            r#"{"id":1.2345678901234568e22}"#,
        ),
        (r#"{"x":0.1}"#, r#"{"x":0.10}"#, r#"{"x":0.1000000000000000055511151231257827}"#),
        (r#"{"x":{"$gt":1e+400}}"#, r#"{"x":1.1e400}"#, r#"{"x":9.9e399}"#),
        (r#"{"x":{"$in":[1.50,2e+3]}}"#, r#"{"x":1.5}"#, r#"{"x":1999.9999999999999999}"#),
        (r#"{"x":{"$ne":9007199254740993}}"#, r#"{"x":9007199254740992}"#, r#"{"x":9007199254740993.0}"#),
        (r#"{"x":{"$gte":1e+999999999999}}"#, r#"{"x":1e999999999999}"#, r#"{"x":9e999999999998}"#),
        (r#"{"x":"\u0000"}"#, r#"{"x":"\u0000"}"#, r#"{"x":""}"#),
    ];
    let url = world.receiver.url("/success");
    for (filter, passes, fails) in cases {
        let body = format!(r#"{{"target_url":"{url}","filters":{{"payload":{filter}}}}}"#);
        let created = answer(world.request(Method::POST, "/subscriptions").body(body.clone())).await;
        assert_eq!(created.status, 201, "{filter}: {}", created.body);
        let created = created.body;
        let path = format!("/subscriptions/{}", id(&created));
        // Another member is changed, the whole is replaced, and the filters are changed: each time they stay the same.
        let renamed = world.call(Method::PATCH, &path, Some(json!({"name": "renamed"}))).await.expect(200);
        let replaced = answer(world.request(Method::PUT, &path).body(body)).await.expect(200);
        let filters = format!(r#"{{"filters":{{"payload":{filter}}}}}"#);
        let changed = answer(world.request(Method::PATCH, &path).body(filters)).await.expect(200);
        let elsewhere = answer(client().get(format!("{other}{path}")).bearer_auth(KEY)).await.expect(200);
        let log = world.get(&format!("/audit-log?target_id={}", id(&created))).await["data"][0].clone();
        for shown in [created, renamed, replaced, changed, elsewhere, log["after"].clone(), log["before"].clone()] {
            assert_eq!(shown["filters"]["payload"].to_string(), filter);
        }
        let subscription = path.rsplit('/').next().unwrap();
        assert_eq!(ingest(&world, subscription, passes).await["status"], "pending", "{filter} {passes}");
        assert_eq!(ingest(&world, subscription, fails).await["status"], "filtered", "{filter} {fails}");
    }
    let wrong = format!(r#"{{"target_url":"{url}","filters":{{"payload":{{"a.b":1e1000000000000000000}}}}}}"#);
    let problem = answer(world.request(Method::POST, "/subscriptions").body(wrong)).await.problem(422);
    assert_eq!(problem["errors"][0]["field"], "filters.payload");
    assert!(problem["detail"].as_str().unwrap().contains("(at `a.b`)"), "{problem}");
    while world.drain().await > 0 {}
    stop.cancel();
    serving.await.unwrap();
    world.finish().await;
}

#[tokio::test]
async fn a_payload_that_no_filter_can_read_is_not_published() {
    let world = World::new().await;
    for (payload, why) in unreadable_texts() {
        let event = format!(r#"{{"event_type":"a.b","payload":{payload}}}"#);
        let problem = answer(world.request(Method::POST, "/events").body(event.clone())).await.problem(422);
        assert_eq!(problem["errors"][0]["field"], "payload");
        assert!(problem["detail"].as_str().unwrap().contains(why), "{problem}");
        let batch = format!(r#"{{"events":[{{"event_type":"a.b","payload":1}},{event}]}}"#);
        let problem = answer(world.request(Method::POST, "/events/batch").body(batch)).await.problem(422);
        assert_eq!(problem["errors"][0]["field"], "events[1].payload");
        // It can be delivered to one URL, because no filter looks at it.
        let inline = format!(r#"{{"target_url":"{}","payload":{payload}}}"#, world.receiver.url("/success"));
        answer(world.request(Method::POST, "/deliveries").body(inline)).await.expect(202);
    }
    assert_eq!(world.drain().await, 3);
    let mut own = world.pool.acquire().await.unwrap();
    for (open, value, close) in [("[", "", "]"), ("[", "1", "]"), (r#"{"a":"#, "{}", "}"), (r#"{"a":"#, "[]", "}")] {
        let nested = |depth| [open.repeat(depth), value.to_owned(), close.repeat(depth)].concat();
        let depth_max = if value.len() == 2 { 511 } else { 512 };
        sql_publish(&mut own, &nested(depth_max)).await.unwrap();
        let refused = sql_publish(&mut own, &nested(depth_max + 1)).await.unwrap_err();
        assert!(refused.to_string().contains("nested at most 512 deep"), "{refused}");
    }
    drop(own);
    while world.drain().await > 0 {}
    world.finish().await;
}

#[tokio::test]
async fn what_a_filter_cannot_read_is_stored_and_told() {
    let world = World::new().await;
    let filters = json!({"metadata": {}, "payload": {"kind": {"$ne": "order"}}});
    let picky = id(&world.subscribe("/picky", json!({"event_types": ["a.b"], "filters": filters})).await);
    let easy = world.subscription("/easy").await;
    let [deep, deeper, exponent] = unreadable_texts();
    let texts = [
        deep,
        deeper,
        exponent,
        ("plain".to_owned(), "not JSON: no value at byte 0"),
        (r#"{"kind":"invoice""#.to_owned(), "not JSON: no comma and no `}` at byte 17"),
    ];
    for (payload, why) in texts {
        let post = || {
            let request = world.request(Method::POST, &format!("/webhooks/ingest/{picky}"));
            request
                .header("X-Event-Type", "a.b")
                .header("Idempotency-Key", format!("{why} {}", payload.len()))
                .body(payload.clone())
        };
        let accepted = answer(post()).await.expect(202);
        assert_eq!(accepted["status"], "unreadable", "{payload}");
        assert_eq!(accepted.get("delivery_id"), None);
        assert_eq!(answer(post()).await.expect(202), accepted, "the same answer to the same request");
        let event = accepted["event_id"].as_str().unwrap();
        let matches = world.get(&format!("/events/{event}/matches?subscription={picky}")).await;
        assert_eq!(matches["matches"], false);
        let check = matches["checks"].as_array().unwrap().last().unwrap();
        assert_eq!((&check["rule"], &check["holds"]), (&json!("payload is JSON that filters can read"), &json!(false)));
        assert!(check["found"].as_str().unwrap().contains(why), "{check}");
        // Where the type does not fit, or no filter looks, the payload does not matter.
        assert_eq!(ingest(&world, &picky, payload.clone()).await["status"], "filtered");
        assert_eq!(ingest(&world, &easy, payload).await["status"], "pending");
    }
    while world.drain().await > 0 {}
    world.finish().await;
}

/// The counts of the verdicts `passed`, `filtered` and `unreadable` that an api shows.
async fn verdicts(base: &str) -> String {
    let samples = metrics::read(base).await;
    let counts = ["passed", "filtered", "unreadable"].map(|verdict| {
        let name = format!("postrider_filter_verdicts_total{{verdict=\"{verdict}\"}}");
        samples.get(&name).copied().unwrap_or_default().to_string()
    });
    counts.join(" ")
}

#[tokio::test]
async fn verdicts_are_counted() {
    let world = World::new().await;
    let api = process("api", &world.env).await;
    let base = api.ready.rsplit(' ').next().unwrap();
    let post = async |path: &str, body: String| {
        answer(client().post(format!("{base}{path}")).bearer_auth(KEY).header("X-Event-Type", "a.b").body(body)).await
    };
    let mut ids = Vec::new();
    for settings in [
        json!({"filters": {"payload": {"n": 1}}}),
        json!({"event_types": ["a.b"], "filters": {"payload": {"n": {"$gt": 1}}}}),
        json!({"event_types": ["other"], "filters": {"payload": {"n": 1}}}),
        json!({"filters": {"metadata": {"region": "eu"}}}),
        json!({}),
    ] {
        ids.push(id(&world.subscribe("/success", settings).await));
    }
    assert_eq!(verdicts(base).await, "0 0 0");
    post("/events", r#"{"event_type":"a.b","payload":{"n":1},"metadata":{"region":"eu"}}"#.to_owned())
        .await
        .expect(202);
    assert_eq!(verdicts(base).await, "2 1 0", "of the three filters whose types fit");
    for (payload, status, counted) in
        [(r#"{"n":1}"#, "pending", "3 1 0"), (r#"{"n":2}"#, "filtered", "3 2 0"), ("plain", "unreadable", "3 2 1")]
    {
        let accepted = post(&format!("/webhooks/ingest/{}", ids[0]), payload.to_owned()).await.expect(202);
        assert_eq!(accepted["status"], status);
        assert_eq!(verdicts(base).await, counted);
    }
    post(&format!("/webhooks/ingest/{}", ids[4]), "plain".to_owned()).await.expect(202);
    post(&format!("/webhooks/ingest/{}", ids[2]), "plain".to_owned()).await.expect(202);
    assert_eq!(verdicts(base).await, "3 2 1", "where no filter looks, nothing is counted");
    api.stop().await.unwrap();
    while world.drain().await > 0 {}
    world.finish().await;
}
