//! The search of the bar: what it finds, for whom, and what completes what is typed.

use serde_json::json;

use crate::{
    access::key,
    ui::{Session, world},
    world::{KEY, id},
};

/// Where the search leads, or the page that it shows.
async fn leads(session: &Session<'_>, text: &str) -> String {
    let query = reqwest::Url::parse_with_params("http://x/", [("q", text)]).unwrap();
    let (status, place) = session.leads(&format!("/ui/find?{}", query.query().unwrap())).await;
    assert!([200, 303, 400].contains(&status.as_u16()), "{status} {place}");
    place
}

#[tokio::test]
async fn the_search_finds_own_ids_hosts_and_types() {
    let world = world().await;
    let at = |url: &str, tenant: &str| json!({"target_url": url, "tenant_id": tenant, "event_types": ["none.*"]});
    let one = id(&world.subscribe("/success", at("https://hooks.acme.example:8443/in", "acme")).await);
    world.subscribe("/success", at("https://shared.example/a", "acme")).await;
    let other = id(&world.subscribe("/success", at("https://shared.example/b?c", "bolt")).await);
    let published = json!({"event_type": "order.created", "payload": 1, "id": "order.42", "tenant_id": "bolt"});
    let (event, _) = world.publish(published).await;
    let admin = Session::new(&world, KEY).await;
    for (text, place) in [
        ("order.42", format!("events/{event}")),
        ("hooks.acme.example", format!("subscriptions/{one}")),
        ("https://Hooks.acme.example:8443/in", format!("subscriptions/{one}")),
        ("order.created", "deliveries?event_type=order.created".to_owned()),
        ("order-43", "events?external_id=order-43".to_owned()),
        ("id:order-43 type:order.created", "events?external_id=order-43&event_type=order.created".to_owned()),
        ("cause:http_5xx since:1h", "deliveries?cause=http_5xx&since=1h".to_owned()),
        (&one, format!("subscriptions/{one}")),
    ] {
        assert_eq!(leads(&admin, text).await, place, "{text}");
    }
    let page = leads(&admin, "shared.example").await;
    assert!(page.contains("Subscriptions at shared.example") && page.contains("https://shared.example/a"), "{page}");
    assert!(page.contains("https://shared.example/b?c") && page.contains("2 subscriptions deliver there."), "{page}");
    let page = leads(&admin, "what is this").await;
    assert!(page.contains("This is neither an id"), "{page}");
    // A key of one tenant finds what is that tenant's.
    let bolt = Session::new(&world, &key(&world, &["read"], Some("bolt")).await.1).await;
    assert_eq!(leads(&bolt, "shared.example").await, format!("subscriptions/{other}"));
    assert_eq!(leads(&bolt, "order.42").await, format!("events/{event}"));
    let acme = Session::new(&world, &key(&world, &["read"], Some("acme")).await.1).await;
    assert_eq!(leads(&acme, "order.42").await, "events?external_id=order.42");
    world.finish().await;
}

#[tokio::test]
async fn what_is_typed_is_completed() {
    let world = world().await;
    let subscription =
        id(&world.subscribe("/success", json!({"name": "Order service", "event_types": ["none.*"]})).await);
    for (event_type, tenant) in [("order.created", "acme"), ("order.paid", "bolt"), ("user.created", "acme")] {
        world.publish(json!({"event_type": event_type, "payload": 1, "tenant_id": tenant})).await;
    }
    let admin = Session::new(&world, KEY).await;
    let offered = async |session: &Session<'_>, text: &str| {
        let query = reqwest::Url::parse_with_params("http://x/", [("q", text)]).unwrap();
        let (status, page) = session.get(&format!("/ui/find/words?{}", query.query().unwrap())).await;
        assert_eq!(status, 200, "{page}");
        let values = page.split("value=\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned());
        values.collect::<Vec<_>>()
    };
    assert!(offered(&admin, "").await.contains(&"status:".to_owned()));
    assert_eq!(offered(&admin, "st").await, ["status:"]);
    assert_eq!(offered(&admin, "since:1h status:dead").await, ["since:1h status:dead_letter"]);
    assert_eq!(offered(&admin, "type:order.").await, ["type:order.created", "type:order.paid"]);
    assert_eq!(offered(&admin, "order").await, ["order.created", "order.paid", subscription.as_str()]);
    assert_eq!(offered(&admin, "sub:SERVICE").await, [format!("sub:{subscription}")]);
    assert!(offered(&admin, "cause:http_5").await == ["cause:http_5xx"]);
    let acme = Session::new(&world, &key(&world, &["read"], Some("acme")).await.1).await;
    assert_eq!(offered(&acme, "order").await, ["order.created"], "only what is the tenant's");
    world.finish().await;
}
