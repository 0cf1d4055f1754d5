//! Parts of pages: the backlog by what it waits for, the map of the hours, lists turned back, and emitters.

use chrono::{TimeDelta, Utc};
use postrider_core::stats::recount::recount;
use reqwest::Method;
use serde_json::json;

use crate::{
    access::key,
    ui::{Session, world},
    world::{KEY, id},
};

/// The figure of a tile.
fn tile(page: &str, word: &str) -> String {
    let rest = page.split(&format!("<p class=\"word\">{word}</p><p class=\"figure\">")).nth(1);
    let rest = rest.unwrap_or_else(|| panic!("no tile {word} in {page}"));
    rest.split('<').next().unwrap().to_owned()
}

#[tokio::test]
async fn the_overview_tells_what_the_backlog_waits_for() {
    let world = world().await;
    let once = json!({"event_types": ["dead.*"], "retry_policy": {"delays_seconds": []}});
    world.subscribe("/fail", once).await;
    world.publish(json!({"event_type": "dead.letter", "payload": 1})).await;
    world.subscribe("/fail", json!({"event_types": ["retried.*"]})).await;
    world.publish(json!({"event_type": "retried.later", "payload": 1})).await;
    while world.drain().await > 0 {}
    world.subscribe("/success", json!({"event_types": ["due.*"]})).await;
    let held = id(&world.subscribe("/success", json!({"event_types": ["held.*"]})).await);
    world.post(&format!("/subscriptions/{held}/pause")).await;
    for event_type in ["due.now", "due.now", "held.back", "held.back", "held.back"] {
        world.publish(json!({"event_type": event_type, "payload": 1})).await;
    }
    let later = (Utc::now() + TimeDelta::hours(1)).to_rfc3339();
    world.publish(json!({"event_type": "due.later", "payload": 1, "deliver_at": later})).await;
    sqlx::query("SELECT measure_queue(100000)").execute(&world.pool).await.unwrap();
    let admin = Session::new(&world, KEY).await;
    let (_, page) = admin.get("/ui/").await;
    let shown = ["Due", "Scheduled", "Held", "In flight", "Dead letters"].map(|word| tile(&page, word));
    assert_eq!(shown, ["2", "2", "3", "0", "1"], "{page}");
    assert!(page.contains("none was finished in the last minutes"), "{page}");
    // With a pace there is an estimate: 90 in five minutes is 0.3 a second.
    let ended = "INSERT INTO stats_minute
                        (tenant_id, subscription_id, minute, slot, outcomes, durations, latencies, waits, bytes)
                 SELECT '', '00000000-0000-0000-0000-000000000000', date_trunc('minute', now()) - m * interval '1 min',
                        7, '{18}', '{}', '{}', '{}', 0 FROM generate_series(1, 6) m;
                 UPDATE queue_size SET due = 36";
    sqlx::raw_sql(ended).execute(&world.pool).await.unwrap();
    let (_, page) = admin.get("/ui/").await;
    assert!(page.contains("done in about 2 min at 0.3 a second, if none is added"), "{page}");
    sqlx::raw_sql("UPDATE queue_size SET due = 100000").execute(&world.pool).await.unwrap();
    let (_, page) = admin.get("/ui/").await;
    assert_eq!(tile(&page, "Due"), "100\u{202f}000+");
    assert!(page.contains("done in at least"), "{page}");
    // Lanes know no tenants.
    let reader = Session::new(&world, &key(&world, &["read"], Some("default")).await.1).await;
    assert!(!reader.get("/ui/").await.1.contains("aria-label=\"The backlog\""));
    world.finish().await;
}

#[tokio::test]
async fn the_hours_in_which_attempts_failed_are_on_the_subscriptions_page() {
    let world = world().await;
    let once = json!({"retry_policy": {"delays_seconds": []}});
    let subscription = id(&world.subscribe("/fail/503", once).await);
    let admin = Session::new(&world, KEY).await;
    let path = format!("/ui/subscriptions/{subscription}");
    let (_, page) = admin.get(&path).await;
    assert!(page.contains("Nothing was attempted in these days"), "{page}");
    for number in 0..3 {
        world.ingest(&subscription, number.to_string()).await;
    }
    while world.drain().await > 0 {}
    let now = Utc::now();
    recount(&world.pool, now - TimeDelta::hours(1), now).await.unwrap();
    let (_, page) = admin.get(&path).await;
    assert!(page.contains("3 of 3 failed, 100 %") && page.contains("class=\"many\" title="), "{page}");
    assert!(page.contains("3 of 3 attempts failed. The worst hour was that from"), "{page}");
    assert!(page.contains("class=\"mark\"") && page.contains("subscription created sub_"), "what was changed: {page}");
    let reader = Session::new(&world, &key(&world, &["read"], None).await.1).await;
    assert!(!reader.get(&path).await.1.contains("class=\"mark\""), "only those who may see the audit log");
    let list = admin.get("/ui/subscriptions").await.1;
    assert!(
        list.contains("In the last 24 hours, 0 attempts succeeded and 3 failed.") && list.contains("0.0 %"),
        "{list}"
    );
    // With a fixed end, the numbers are those of that time.
    let until = (now - TimeDelta::hours(2)).format("%Y-%m-%dT%H:%M");
    let (_, page) = admin.get(&format!("{path}?range=1h&until={until}")).await;
    assert!(page.contains("In the chosen hour, 0 attempts succeeded") && page.contains("hour before <time"), "{page}");
    let (_, page) = admin.get(&path).await;
    let map = page.split("<table class=\"hours\">").nth(1).unwrap().split("</table>").next().unwrap();
    assert_eq!((map.matches("<tr>").count(), map.matches("<td").count()), (8, 7 * 24), "{map}");
    world.finish().await;
}

#[tokio::test]
async fn a_list_is_turned_back_page_by_page() {
    let world = world().await;
    let subscription = world.subscription("/success").await;
    for number in 0..120 {
        world.ingest(&subscription, number.to_string()).await;
    }
    let admin = Session::new(&world, KEY).await;
    let ids = |page: &str| {
        let links = page.split("<a class=\"open\" href=\"deliveries/").skip(1);
        links.map(|rest| rest.split('"').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let link = |page: &str, way: &str| {
        let rest = page.split(&format!("rel=\"{way}\" href=\"")).nth(1)?;
        Some(format!("/ui/{}", rest.split('"').next()?.replace("&amp;", "&")))
    };
    let (_, first) = admin.get("/ui/deliveries?status=pending").await;
    let (_, second) = admin.get(&link(&first, "next").unwrap()).await;
    let (_, third) = admin.get(&link(&second, "next").unwrap()).await;
    assert_eq!([&first, &second, &third].map(|page| ids(page).len()), [50, 50, 20]);
    assert_eq!((link(&first, "prev"), link(&third, "next")), (None, None));
    let (_, back) = admin.get(&link(&third, "prev").unwrap()).await;
    assert_eq!(ids(&back), ids(&second));
    let start = link(&back, "prev").unwrap();
    assert_eq!(start, "/ui/deliveries?status=pending");
    assert_eq!(ids(&admin.get(&start).await.1), ids(&first));
    // A link that somebody else has sent knows no way back, but the way to the newest rows; another filter begins anew.
    let cursor = ids(&first).pop().unwrap();
    let (_, page) = admin.get(&format!("/ui/deliveries?cursor={cursor}")).await;
    assert!(link(&page, "prev").is_none() && page.contains(">Newest</a>"), "{page}");
    assert!(third.contains("href=\"deliveries?status=succeeded\""), "{third}");
    // What comes meanwhile does not move the page, which asks from time to time how much it is.
    let newest = &ids(&first)[0];
    let look = first.split("id=\"newer\" hx-get=\"").nth(1).unwrap().split('"').next().unwrap().replace("&amp;", "&");
    assert_eq!(look, format!("deliveries?status=pending&newest={newest}"));
    assert!(!third.contains("id=\"newer\""), "an older page does not look: {third}");
    assert!(!admin.get(&format!("/ui/{look}")).await.1.contains("newer: show"));
    world.ingest(&subscription, "one more").await;
    let (_, page) = admin.get(&format!("/ui/{look}")).await;
    assert!(page.contains("href=\"deliveries?status=pending\">1 newer: show</a>"), "{page}");
    world.api_stops().await;
}

#[tokio::test]
async fn emitters_are_started_where_they_are_listed() {
    let world = world().await;
    let subscription = id(&world.subscribe("/success", json!({"name": "Shop", "tenant_id": "acme"})).await);
    let admin = Session::new(&world, KEY).await;
    let (_, page) = admin.get("/ui/emitters").await;
    assert!(page.contains("Start the stream") && page.contains("aria-current=\"page\""), "{page}");
    let more = [("rate_per_second", "2"), ("duration_seconds", "60"), ("template", "{\"n\": \"{{number}}\"}")];
    let send = async |session: &Session<'_>, to: &[(&str, &str)]| {
        let fields: Vec<_> = to.iter().copied().chain(more).collect();
        session.post("/ui/emitters", &fields).await.0
    };
    assert_eq!(send(&admin, &[("subscription_id", &subscription), ("tenant_id", "ignored")]).await, 303);
    assert_eq!(send(&admin, &[("tenant_id", "bolt"), ("event_type", "order.paid")]).await, 303);
    let started = world.get("/emitters").await["data"].clone();
    assert_eq!((&started[0]["tenant_id"], &started[0]["event_type"]), (&json!("bolt"), &json!("order.paid")));
    assert_eq!((&started[1]["subscription_id"], &started[1]["tenant_id"]), (&json!(subscription), &json!("acme")));
    assert_eq!(send(&admin, &[("rate_per_second", "fast")]).await, 303, "the reason is shown on the page");
    let (_, page) = admin.get("/ui/emitters?tenant_id=bolt").await;
    assert!(page.contains("order.paid") && !page.contains("Shop"), "{page}");
    assert!(page.contains("name=\"tenant_id\" type=\"text\"") && page.contains("value=\"bolt\""), "{page}");
    // A key that only reads sees no form; one of another tenant starts nothing for it.
    let reader = Session::new(&world, &key(&world, &["read"], None).await.1).await;
    assert!(!reader.get("/ui/emitters").await.1.contains("Start the stream"));
    assert_eq!(send(&reader, &[]).await, 303, "the reason is shown on the page");
    let stranger = Session::new(&world, &key(&world, &["manage"], Some("stranger")).await.1).await;
    assert_eq!(send(&stranger, &[("subscription_id", &subscription)]).await, 404);
    assert_eq!(send(&stranger, &[("tenant_id", "acme")]).await, 404);
    assert_eq!(world.get("/emitters").await["data"].as_array().unwrap().len(), 2);
    world.call(Method::DELETE, &format!("/emitters/{}", id(&started[0])), None).await.expect(200);
    world.call(Method::DELETE, &format!("/emitters/{}", id(&started[1])), None).await.expect(200);
    world.finish().await;
}

#[tokio::test]
async fn a_signature_is_verified_on_the_page_of_its_delivery() {
    let world = world().await;
    let subscription = world.subscription("/success").await;
    let delivery = world.ingest(&subscription, "{\"order\": 1}").await;
    while world.drain().await > 0 {}
    let received = world.receiver.received().remove(0);
    let (signature, timestamp) = (received.header("webhook-signature"), received.header("webhook-timestamp"));
    let session = Session::new(&world, KEY).await;
    let (_, page) = session.get(&format!("/ui/deliveries/{delivery}")).await;
    assert!(page.contains(&format!("value=\"{timestamp}\"")), "the form knows the time of the attempt: {page}");
    let other = format!("v1,{}=", "A".repeat(43));
    let body = "{\"order\":1}";
    for (signature, timestamp, body, said) in [
        (signature, timestamp, "", "The signature fits the secret, the timestamp and the body."),
        (signature, timestamp, "{\"order\": 1}", "The signature fits the secret, the timestamp and the body."),
        (signature, timestamp, body, "differs from it at byte 9"),
        (signature, "1700000000", "", "fits attempt 1, whose timestamp is"),
        (&other, timestamp, "", "The signature does not fit"),
        (signature, "now", "", "must be seconds since 1970"),
    ] {
        let fields = [("signature", signature), ("timestamp", timestamp), ("body", body)];
        let page = session.act(&format!("/ui/deliveries/{delivery}/verify"), &fields).await;
        assert!(page.contains(said), "{said}: {page}");
    }
    // Who may only read gets no form: signatures are hidden from them.
    let reader = Session::new(&world, &key(&world, &["read"], None).await.1).await;
    assert!(!reader.get(&format!("/ui/deliveries/{delivery}")).await.1.contains("/verify\""));
    world.finish().await;
}
