//! Events on pages: posting one by the form, and the forms in which a payload is shown.

use serde_json::{Value, json};

use crate::{
    access::key,
    ui::{Session, world},
    world::{KEY, id},
};

#[tokio::test]
async fn an_event_is_posted_by_the_form() {
    let world = world().await;
    let subscription = id(&world.subscribe("/success", json!({"event_types": ["order.*"]})).await);
    let admin = Session::new(&world, KEY).await;
    let (_, page) = admin.get("/ui/events").await;
    assert!(page.contains("Post an event") && page.contains("name=\"metadata\""), "{page}");
    let given = [
        ("event_type", "order.created"),
        ("payload", "{\"total\": 1.10,\r\n \"big\": 12345678901234567890.10}\r\n"),
        ("id", "order-42"),
        ("metadata", "region: eu\r\nteam: blue"),
    ];
    let page = admin.act("/ui/events", &given).await;
    assert!(page.contains("The event is stored, and its delivery is on its way."), "{page}");
    let event = world.get("/events").await["data"][0].clone();
    assert_eq!(event["external_id"], "order-42");
    assert_eq!(event["metadata"], json!({"region": "eu", "team": "blue"}));
    let path = format!("/events/{}/payload", id(&event));
    let bytes = world.request(reqwest::Method::GET, &path).send().await.unwrap().text().await.unwrap();
    assert_eq!(bytes, "{\"total\": 1.10,\n \"big\": 12345678901234567890.10}", "byte for byte as it was typed");
    let to_one = [("event_type", "order.paid"), ("payload", "1"), ("subscription_id", subscription.as_str())];
    assert!(admin.act("/ui/events", &to_one).await.contains("its delivery is on its way"));
    assert_eq!(world.get("/events").await["data"][0]["subscription_id"], subscription.as_str());
    let filtered = [("event_type", "user.paid"), ("payload", "1"), ("subscription_id", subscription.as_str())];
    assert!(admin.act("/ui/events", &filtered).await.contains("The subscription does not want it."));
    let nobody = [("event_type", "user.paid"), ("payload", "1"), ("tenant_id", "acme")];
    assert!(admin.act("/ui/events", &nobody).await.contains("Nobody wants it"));
    assert_eq!(world.get("/events").await["data"][0]["tenant_id"], "acme");
    for (fields, field, why) in [
        (vec![("event_type", "a.b"), ("payload", "{\"a\": ")], "payload", "must be JSON"),
        (vec![("event_type", "a b"), ("payload", "1")], "event_type", "aria-invalid"),
        (vec![("payload", "1")], "event_type", "must not be empty"),
        (vec![("event_type", "a.b"), ("payload", "1"), ("metadata", "region")], "metadata", "key: value"),
        (vec![("event_type", "a.b"), ("payload", "1"), ("subscription_id", "x")], "subscription_id", "must be the id"),
        (
            vec![("event_type", "a.b"), ("payload", "1"), ("id", "1"), ("subscription_id", subscription.as_str())],
            "id",
            "is for events that go to all",
        ),
    ] {
        let (status, page) = admin.post("/ui/events", &fields).await;
        assert_eq!(status, 422, "{field}: {page}");
        let form = page.split("id=\"post-event\"").nth(1).unwrap().split("</form>").next().unwrap();
        let part = form.split(&format!("id=\"post-{field}\"")).nth(1).unwrap().split("</div>").next().unwrap();
        assert!(part.contains("aria-invalid=\"true\"") && part.contains(why), "{field}: {part}");
        assert!(page.contains("<details class=\"filters post\" id=\"post\" open>"), "{page}");
    }
    assert_eq!(world.get("/events").await["data"].as_array().unwrap().len(), 4, "nothing else was stored");
    world.finish().await;
}

#[tokio::test]
async fn who_may_post_by_the_api_may_post_by_the_form() {
    let world = world().await;
    let event = [("event_type", "order.created"), ("payload", "1")];
    let count = async || world.get("/events").await["data"].as_array().unwrap().len();
    let all = [(&["read"][..], false), (&["manage"], false), (&["read", "ingest"], true), (&["admin"], true)];
    for (scopes, may) in all {
        let session = Session::new(&world, &key(&world, scopes, Some("acme")).await.1).await;
        let before = count().await;
        assert_eq!(session.get("/ui/events").await.1.contains("Post an event"), may, "{scopes:?}");
        assert_eq!(session.post("/ui/events", &event).await.0, 303, "{scopes:?}");
        assert_eq!(count().await - before, usize::from(may), "{scopes:?}");
    }
    let subscription = id(&world.subscribe("/success", json!({"tenant_id": "bolt"})).await);
    let session = Session::new(&world, &key(&world, &["read", "ingest"], Some("acme")).await.1).await;
    for more in [("subscription_id", subscription.as_str()), ("tenant_id", "bolt")] {
        let (status, page) = session.post("/ui/events", &[event[0], event[1], more]).await;
        assert_eq!(status, 404, "{page}");
    }
    // What a key may only do by managing stays closed to it.
    session.post(&format!("/ui/subscriptions/{subscription}/pause"), &[]).await;
    assert_eq!(world.get(&format!("/subscriptions/{subscription}")).await["state"], "active");
    let limited = json!({"name": "slow", "scopes": ["read", "ingest"], "rate_limit_per_second": 1});
    let limited: Value = world.call(reqwest::Method::POST, "/api-keys", Some(limited)).await.expect(201);
    let session = Session::new(&world, limited["key"].as_str().unwrap()).await;
    let before = count().await;
    for _ in 0..5 {
        session.post("/ui/events", &event).await;
    }
    assert!(count().await - before < 5, "the limit of the key holds here, too");
    world.finish().await;
}

#[tokio::test]
async fn a_payload_is_shown_in_several_forms() {
    let world = world().await;
    let admin = Session::new(&world, KEY).await;
    let subscription = world.subscription("/success").await;
    let long = format!("{{\"text\": \"{}\", \"n\": 1.50}}", "\u{fc}".repeat(40_000));
    for body in ["{\"n\": 1.50}".as_bytes(), &[0x00, 0xff, b'A'], long.as_bytes()] {
        world.ingest(&subscription, body.to_vec()).await;
    }
    let events: Vec<_> = world.get("/events").await["data"].as_array().unwrap().iter().map(id).collect();
    let [long, binary, json] = &events[..] else { panic!("{events:?}") };
    let shown = async |event: &str, query: &str| {
        let (status, page) = admin.get(&format!("/ui/events/{event}{query}")).await;
        assert_eq!(status, 200, "{page}");
        page.split("aria-label=\"Payload\"").nth(1).unwrap().split("</section>").next().unwrap().to_owned()
    };
    assert!(shown(json, "").await.contains("{\n  &quot;n&quot;: 1.50\n}"));
    assert!(shown(json, "?payload=raw").await.contains("{&quot;n&quot;: 1.50}"));
    assert!(shown(json, "?payload=hex").await.contains("00000000  7b 22 6e 22 3a 20 31 2e 35 30 7d"));
    assert!(shown(json, "?payload=hex").await.contains("{&quot;n&quot;: 1.50}</code>"));
    assert!(admin.get(&format!("/ui/events/{json}?payload=tree")).await.1.contains("data-tree"));
    assert!(shown(binary, "").await.contains("00 ff 41"));
    assert!(shown(binary, "?payload=raw").await.contains("\u{fffd}A"));
    let beginning = shown(long, "").await;
    assert!(beginning.contains("These are the first 64.0 KiB.") && beginning.contains("\u{fc}\u{fc}</code>"));
    assert!(beginning.contains("Show all of it"), "{beginning}");
    let whole = shown(long, "?whole=true").await;
    assert!(whole.contains("&quot;n&quot;: 1.50\n}</code>") && !whole.contains("Show all of it"));
    world.finish().await;
}
