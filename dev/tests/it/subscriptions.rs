//! Subscriptions: their routes, their settings, and the `OpenAPI` document with its page.

use reqwest::Method;
use serde_json::{Value, json};

use crate::world::{World, answer, id};

#[tokio::test]
async fn a_subscription_lives() {
    let world = World::new().await;
    let body = json!({
        "target_url": world.receiver.url("/success"), "name": "Orders", "tenant_id": "acme",
        "event_types": ["order.*"], "headers": {"Authorization": "Bearer t0p", "X-Team": "blue"},
        "metadata": {"region": "eu"}, "timeout_ms": 5000,
        "retry_policy": {"max_attempts": 4, "initial_seconds": 2, "factor": 2.5, "max_seconds": 60},
    });
    let answer = world.call(Method::POST, "/subscriptions", Some(body.clone())).await;
    let location = answer.headers["location"].to_str().unwrap().to_owned();
    let created = answer.expect(201);
    assert_eq!(location, format!("/subscriptions/{}", id(&created)));
    for field in ["target_url", "name", "tenant_id", "event_types", "metadata", "timeout_ms"] {
        assert_eq!(created[field], body[field], "{field}");
    }
    assert_eq!(created["headers"], json!({"authorization": "[redacted]", "x-team": "blue"}));
    assert_eq!(created["retry_policy"]["factor"], 2.5);
    assert_eq!(created["state"], "active");
    assert!(created["secret"].as_str().unwrap().starts_with("whsec_"));

    let path = format!("/subscriptions/{}", id(&created));
    let shown = world.get(&path).await;
    assert!(shown.get("secret").is_none());
    assert_eq!(world.get(&format!("{path}/secret")).await["secret"], created["secret"]);

    // The settings that an answer showed can be sent back.
    let mut again = shown.clone();
    for field in ["id", "state", "created_at", "updated_at"] {
        again.as_object_mut().unwrap().remove(field);
    }
    let replaced = world.call(Method::PUT, &path, Some(again)).await.expect(200);
    assert_eq!(replaced["headers"], shown["headers"]);
    assert_eq!(world.get(&format!("{path}/secret")).await["secret"], created["secret"], "it stays");
    let delivery = world.request(Method::POST, &format!("/webhooks/ingest/{}", id(&created)));
    answer_of(delivery.header("X-Event-Type", "order.paid").body("x")).await;
    assert_eq!(world.drain().await, 1);
    assert_eq!(world.receiver.received()[0].header("authorization"), "Bearer t0p", "the value behind the stars stayed");

    let patch =
        json!({"name": null, "metadata": {"region": null, "tier": "gold"}, "retry_policy": {"delays_seconds": [1]}});
    let patched = world.call(Method::PATCH, &path, Some(patch)).await.expect(200);
    assert!(patched.get("name").is_none());
    assert_eq!(patched["metadata"], json!({"tier": "gold"}));
    assert_eq!(patched["retry_policy"], json!({"delays_seconds": [1], "retry_client_errors": true}));
    assert_eq!(patched["event_types"], json!(["order.*"]), "what is absent stays");
    let moved = json!({"target_url": world.receiver.url("/success"), "tenant_id": "other"});
    let problem = world.call(Method::PUT, &path, Some(moved)).await.problem(422);
    assert_eq!(problem["errors"][0]["field"], "tenant_id");
    let bare = json!({"target_url": world.receiver.url("/elsewhere")});
    let replaced = world.call(Method::PUT, &path, Some(bare)).await.expect(200);
    assert_eq!(
        (&replaced["event_types"], &replaced["headers"], &replaced["timeout_ms"]),
        (&json!([]), &json!({}), &json!(15000))
    );

    world.call(Method::DELETE, &path, None).await.expect(204);
    for method in [Method::GET, Method::DELETE] {
        world.call(method, &path, None).await.problem(404);
    }
    world.finish().await;
}

async fn answer_of(request: reqwest::RequestBuilder) -> Value {
    answer(request).await.expect(202)
}

#[tokio::test]
async fn every_mistake_is_named_with_its_field() {
    let world = World::new().await;
    let url = world.receiver.url("/success");
    let cases = [
        (json!({}), "target_url"),
        (json!({"target_url": 5}), "target_url"),
        (json!({"target_url": "not a url"}), "target_url"),
        (json!({"target_url": "ftp://example.com/"}), "target_url"),
        (json!({"target_url": "http://169.254.169.254/latest"}), "target_url"),
        (json!({"target_url": url, "colour": "blue"}), "colour"),
        (json!({"target_url": url, "event_types": "order.*"}), "event_types"),
        (json!({"target_url": url, "event_types": ["ok", 7]}), "event_types[1]"),
        (json!({"target_url": url, "event_types": ["ok", "not ok"]}), "event_types[1]"),
        (json!({"target_url": url, "timeout_ms": 60001}), "timeout_ms"),
        (json!({"target_url": url, "timeout_ms": -1}), "timeout_ms"),
        (json!({"target_url": url, "name": ""}), "name"),
        (json!({"target_url": url, "name": "a\u{0}b"}), "name"),
        (json!({"target_url": url, "tenant_id": "x".repeat(65)}), "tenant_id"),
        (json!({"target_url": url, "secret": "whsec_short"}), "secret"),
        (json!({"target_url": url, "headers": {"Host": "x"}}), "headers"),
        (json!({"target_url": url, "headers": {"X": "a\r\nY: b"}}), "headers"),
        (json!({"target_url": url, "metadata": {"a": 1}}), "metadata.a"),
        (json!({"target_url": url, "metadata": {"a": "\u{0}"}}), "metadata"),
        (json!({"target_url": url, "retry_policy": {"delays_seconds": [1], "factor": 2.0}}), "retry_policy"),
        (json!({"target_url": url, "retry_policy": {"max_attempts": 3}}), "retry_policy"),
        (json!({"target_url": url, "retry_policy": {"delays_seconds": [604_801]}}), "retry_policy.delays_seconds"),
        (json!({"target_url": url, "retry_policy": {"speed": 1}}), "retry_policy.speed"),
        (json!([]), "(body)"),
        (json!("text"), "(body)"),
    ];
    for (body, field) in cases {
        let problem = world.call(Method::POST, "/subscriptions", Some(body.clone())).await.problem(422);
        assert_eq!(problem["errors"][0]["field"], field, "{body}: {problem}");
    }
    let both = json!({"target_url": "nope", "timeout_ms": 1});
    let problem = world.call(Method::POST, "/subscriptions", Some(both)).await.problem(422);
    assert_eq!(problem["errors"].as_array().unwrap().len(), 2, "all at once");
    assert_eq!(world.get("/subscriptions").await["data"], json!([]), "nothing half-stored");

    // In a patch, null sets a field to its default. This holds for every field that has a default, and for no other.
    let created = world.subscribe("/success", json!({"name": "x", "timeout_ms": 2000})).await;
    let path = format!("/subscriptions/{}", id(&created));
    for unknown in ["", "colour", "Name"] {
        let problem = world.call(Method::PATCH, &path, Some(json!({unknown: null}))).await.problem(422);
        assert_eq!(problem["errors"][0]["field"], unknown, "{problem}");
    }
    let document = world.get("/openapi.json").await;
    let fields = document["components"]["schemas"]["SubscriptionPatch"]["properties"].as_object().unwrap();
    let nulls = fields.keys().filter(|field| *field != "target_url").map(|field| (field.clone(), Value::Null));
    let reset = world.call(Method::PATCH, &path, Some(Value::Object(nulls.collect()))).await.expect(200);
    assert_eq!((reset.get("name"), &reset["timeout_ms"]), (None, &json!(15_000)));
    world.finish().await;
}

#[tokio::test]
async fn whatever_cannot_be_understood_is_a_problem() {
    let world = World::new().await;
    let nobody = format!("/subscriptions/sub_{}", "0".repeat(32));
    let cases = [
        (Method::GET, "/nope", None, 404),
        (Method::GET, "/subscriptions/", None, 404),
        (Method::GET, "/subscriptions/nonsense", None, 404),
        (Method::GET, nobody.as_str(), None, 404),
        (Method::GET, "/deliveries/sub_0198c0de2f3a7b1c9d4e5f60718293a4", None, 404),
        (Method::GET, "/events/%F0%9F%90%8E", None, 404),
        (Method::POST, "/subscriptions", Some("{nope"), 400),
        (Method::POST, "/subscriptions", Some(""), 400),
        (Method::POST, "/subscriptions", Some("\u{feff}{}"), 400),
        (Method::GET, "/subscriptions?limit=0", None, 422),
        (Method::GET, "/subscriptions?limit=251", None, 422),
        (Method::GET, "/subscriptions?limit=many", None, 400),
        (Method::GET, "/subscriptions?cursor=nonsense", None, 422),
        (Method::GET, "/deliveries?status=lost", None, 400),
        (Method::GET, "/deliveries?subscription_id=x", None, 422),
        (Method::GET, "/events?event_type=a%20b", None, 422),
    ];
    for (method, path, body, status) in cases {
        let request = world.request(method.clone(), path).body(body.unwrap_or_default());
        let answer = answer(request).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
        answer.problem(status);
    }
    let large = json!({"target_url": "x".repeat(300_000)});
    world.call(Method::POST, "/subscriptions", Some(large)).await.problem(413);
    for deep in ["[".repeat(100_000), "{\"metadata\":".repeat(10_000)] {
        let status = if deep.starts_with('[') { 400 } else { 422 };
        answer(world.request(Method::POST, "/subscriptions").body(deep)).await.problem(status);
    }
    answer(world.request(Method::POST, "/subscriptions").body("[\"http://127.0.0.1/\"]")).await.problem(422);
    for (method, path, allow) in [
        (Method::PUT, "/subscriptions", "GET, POST"),
        (Method::POST, "/subscriptions/x", "DELETE, GET, PATCH, PUT"),
        (Method::DELETE, "/health/live", "GET"),
        (Method::POST, "/swagger", "GET"),
    ] {
        let answer = world.call(method, path, None).await;
        let mut methods: Vec<_> = answer.headers["allow"].to_str().unwrap().split(", ").collect();
        methods.sort_unstable();
        assert_eq!(methods.join(", "), allow, "{path}");
        answer.problem(405);
    }
    world.finish().await;
}

#[tokio::test]
async fn lists_are_paged_newest_first() {
    let world = World::new().await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(world.subscription("/fail").await);
    }
    ids.reverse();
    let mut seen = Vec::new();
    let mut path = "/subscriptions?limit=2".to_owned();
    loop {
        let page = world.get(&path).await;
        seen.extend(page["data"].as_array().unwrap().iter().map(id));
        let Some(cursor) = page.get("next_cursor").and_then(Value::as_str) else { break };
        path = format!("/subscriptions?limit=2&cursor={cursor}");
    }
    assert_eq!(seen, ids);

    let (first, other) = (world.ingest(&ids[0], "1").await, world.ingest(&ids[1], "2").await);
    let second = world.ingest(&ids[0], "3").await;
    let list = async |query: &str| -> Vec<String> {
        world.get(query).await["data"].as_array().unwrap().iter().map(id).collect()
    };
    assert_eq!(list("/deliveries").await, [second.clone(), other.clone(), first.clone()]);
    assert_eq!(list(&format!("/deliveries?subscription_id={}", ids[0])).await, [second.clone(), first.clone()]);
    assert_eq!(list(&format!("/subscriptions/{}/deliveries?limit=1", ids[0])).await, std::slice::from_ref(&second));
    assert_eq!(list("/deliveries?status=pending").await.len(), 3);
    for status in ["in_flight", "succeeded", "dead_letter", "canceled"] {
        assert_eq!(list(&format!("/deliveries?status={status}")).await, [""; 0], "{status}");
    }
    world.post(&format!("/deliveries/{first}/cancel")).await;
    assert_eq!(list("/deliveries?status=canceled").await, [first]);
    assert_eq!(list(&format!("/deliveries?status=pending&subscription_id={}", ids[0])).await, [second]);
    world.finish().await;
}

#[tokio::test]
async fn the_document_describes_every_route_and_each_asks_for_a_key() {
    let world = World::new().await;
    let text = world.anonymous(Method::GET, "/openapi.json").send().await.unwrap().text().await.unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();

    let snapshot = dev::workspace().join("docs/openapi.json");
    let committed = std::fs::read_to_string(&snapshot).unwrap_or_default();
    if committed.trim_end() != text && std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&snapshot, format!("{text}\n")).unwrap();
    } else {
        assert!(
            committed.trim_end() == text,
            "the document has changed: if that is meant, run the tests with UPDATE_SNAPSHOTS=1"
        );
    }

    let open = ["/health/live", "/health/ready", "/metrics", "/subscriptions/{id}/jwks.json"];
    let paths = document["paths"].as_object().unwrap();
    for (path, operations) in paths {
        for (method, operation) in operations.as_object().unwrap() {
            assert!(operation["summary"].is_string() && operation["operationId"].is_string(), "{method} {path}");
            let method: Method = method.to_uppercase().parse().unwrap();
            let concrete =
                path.replace("{id}", &format!("sub_{}", "0".repeat(32))).replace("{subscription_id}", "sub_0");
            let wrong = world.anonymous(method.clone(), &concrete).bearer_auth("pr_wrong").body("{}");
            // A provider that asks at registration has no key.
            let is_asked = ["GET", "HEAD"].contains(&method.as_str()) && path.starts_with("/webhooks/ingest/");
            if open.contains(&path.as_str()) || is_asked {
                let expected = if path.contains('{') { 404 } else { 200 };
                assert_eq!(answer(wrong).await.status, expected, "{path}");
                continue;
            }
            answer(wrong).await.problem(401);
            let without = answer(world.anonymous(method, &concrete).body("{}")).await;
            assert!(without.headers["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
            without.problem(401);
            assert!(operation["security"].is_array(), "{path} tells how to authenticate");
        }
    }
    world.finish().await;
}

#[tokio::test]
async fn swagger_ui_needs_nothing_from_elsewhere() {
    let world = World::new().await;
    let home = world.anonymous(Method::GET, "/").send().await.unwrap();
    assert_eq!((home.status().as_u16(), &home.headers()["location"]), (302, &"ui/".parse().unwrap()));
    let get = async |path: &str| world.anonymous(Method::GET, path).send().await.unwrap();
    let page = get("/swagger").await;
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.contains("default-src 'none'") && policy.contains("script-src 'self'"), "{policy}");
    assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
    let page = page.text().await.unwrap();
    // Every script and style is a file of this server, and nothing is inline.
    let files: Vec<_> = ["src=\"", "href=\""].iter().flat_map(|mark| page.split(mark).skip(1)).collect();
    let files: Vec<_> = files.iter().map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(files.len() >= 4 && !page.contains("style=") && !page.contains("<script>"), "{page}");
    for file in files.iter().filter(|file| **file != "data:,") {
        let file = get(&format!("/{file}")).await;
        assert_eq!(file.status(), 200);
        assert_eq!(file.headers()["x-content-type-options"], "nosniff");
        assert!(file.text().await.unwrap().len() > 50);
    }
    assert!(get("/swagger/swagger-ui.js").await.text().await.unwrap().contains("SwaggerUIBundle"));
    // All other answers allow a browser nothing, and no answer sets a cookie.
    for path in ["/", "/openapi.json", "/health/live", "/subscriptions", "/nowhere", "/swagger", "/swagger/x"] {
        let headers = get(path).await.headers().clone();
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(path == "/swagger" || policy.starts_with("default-src 'none'; base-uri 'none'"), "{path}: {policy}");
        assert_eq!(headers["x-frame-options"], "DENY", "{path}");
        assert_eq!(headers["referrer-policy"], "no-referrer", "{path}");
        assert!(!headers.contains_key("set-cookie"), "{path}");
    }
    world.finish().await;
}

#[tokio::test]
async fn states_change_as_asked_and_conflicts_are_told() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    let path = |verb: &str| format!("/subscriptions/{subscription}/{verb}");
    for (verb, status, state) in [
        ("pause", 200, "paused"),
        ("pause", 200, "paused"),
        ("enable", 409, ""),
        ("resume", 200, "active"),
        ("resume", 200, "active"),
        ("enable", 200, "active"),
        ("disable", 200, "disabled"),
        ("pause", 409, ""),
        ("resume", 409, ""),
        ("disable", 200, "disabled"),
        ("enable", 200, "active"),
    ] {
        let answer = world.call(Method::POST, &path(verb), None).await;
        if status == 200 {
            assert_eq!(answer.expect(200)["state"], state, "{verb}");
        } else {
            answer.problem(status);
        }
    }
    world.finish().await;
}
