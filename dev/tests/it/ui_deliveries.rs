//! Lists of deliveries and events by what they ask for: causes, inline deliveries, replays, events without deliveries;
//! the columns, and what is done with all that match.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    access::key,
    ui::{Session, world},
    world::{KEY, World, id},
};

/// The ids that a list shows, with each page of it.
async fn ids(world: &World, path: &str) -> Vec<String> {
    world.get(path).await["data"].as_array().unwrap().iter().map(id).collect()
}

#[tokio::test]
async fn deliveries_are_listed_by_the_cause_of_their_last_failure() {
    let world = world().await;
    let once = |event_type: &str| json!({"event_types": [event_type], "retry_policy": {"delays_seconds": []}});
    for (path, event_type) in [("/fail/503", "a.a"), ("/fail/404", "b.b"), ("/success", "c.c"), ("/fail/500", "d.d")] {
        world.subscribe(path, once(event_type)).await;
    }
    // This one is tried again, so it waits, and is not a dead letter.
    world.subscribe("/fail/429", json!({"event_types": ["e.e"]})).await;
    let mut made = Vec::new();
    for event_type in ["a.a", "b.b", "c.c", "d.d", "e.e"] {
        made.extend(world.publish(json!({"event_type": event_type, "payload": 1})).await.1);
    }
    while world.drain().await > 0 {}
    let [a, b, _, d, e] = &made[..] else { panic!("{made:?}") };
    for (query, expected) in [
        ("cause=http_5xx", vec![d, a]),
        ("cause=http_404", vec![b]),
        ("cause=http_429", vec![e]),
        ("cause=http_429&status=pending", vec![e]),
        ("cause=http_429&status=dead_letter", vec![]),
        ("cause=http_5xx&status=dead_letter&event_type=a.a", vec![a]),
        ("cause=timeout", vec![]),
        ("cause=http_4xx", vec![]),
    ] {
        assert_eq!(ids(&world, &format!("/deliveries?{query}")).await.iter().collect::<Vec<_>>(), expected, "{query}");
    }
    let event = world.delivery(a).await["event_id"].as_str().unwrap().to_owned();
    assert_eq!(ids(&world, &format!("/deliveries?event_id={event}&cause=http_5xx")).await, [a.as_str()]);
    assert!(ids(&world, &format!("/deliveries?event_id={event}&cause=dns")).await.is_empty());
    let problem = world.call(Method::GET, "/deliveries?cause=nonsense", None).await.problem(422).to_string();
    assert!(problem.contains("must be one of http_3xx, http_4xx, http_404,"), "{problem}");
    assert!(world.delivery(a).await["last_duration_ms"].is_u64());
    let export = world.request(Method::GET, "/deliveries/export?cause=http_404").send().await.unwrap();
    let csv = export.text().await.unwrap();
    assert!(csv.contains(",finished_at,last_duration_ms\r\n") && csv.contains(b) && !csv.contains(a), "{csv}");

    let admin = Session::new(&world, KEY).await;
    let (_, page) = admin.get("/ui/deliveries?status=dead_letter&cause=http_5xx").await;
    assert!(page.contains("<option value=\"http_5xx\" selected>Answered 5xx</option>"), "{page}");
    assert!(page.contains(a.as_str()) && page.contains(d.as_str()) && !page.contains(b.as_str()), "{page}");
    assert!(page.contains(">Took</th>") && page.contains(" ms</td>"), "{page}");
    // A job for all that match means the same ones.
    let link = "jobs/new?action=resolve&amp;statuses=dead_letter&amp;cause=http_5xx";
    assert!(page.contains(link), "{page}");
    let (_, counted) = admin.get("/ui/jobs/new?action=resolve&statuses=dead_letter&cause=http_5xx").await;
    assert!(counted.contains("<strong>2</strong> deliveries match") && counted.contains(">500–599<"), "{counted}");
    let begun = [("action", "resolve"), ("statuses", "dead_letter"), ("cause", "http_5xx")];
    admin.act("/ui/jobs", &begun).await;
    let job = world.get("/jobs").await["data"][0].clone();
    assert_eq!(job["filter"]["error_kinds"], json!(["http_status"]));
    assert_eq!(job["filter"]["status_codes"].as_array().unwrap().len(), 100);
    let both = [("action", "retry"), ("cause", "dns"), ("error_kinds", "tls")];
    assert!(admin.act("/ui/jobs", &both).await.contains("cannot be combined"));
    // What a job cannot name has no link to one.
    let (_, page) = admin.get("/ui/deliveries?status=dead_letter&cause=http_other").await;
    assert!(!page.contains("jobs/new?"), "{page}");
    world.finish().await;
}

#[tokio::test]
async fn inline_deliveries_and_replays_are_listed_by_themselves() {
    let world = world().await;
    let subscription = world.subscription("/success").await;
    let usual = world.ingest(&subscription, "1").await;
    let inline = json!({"target_url": world.receiver.url("/success"), "payload": 1});
    let inline = world.call(Method::POST, "/deliveries", Some(inline)).await.expect(202);
    let inline = inline["delivery_id"].as_str().unwrap().to_owned();
    while world.drain().await > 0 {}
    let replayed = world.call(Method::POST, &format!("/deliveries/{usual}/replay"), None).await.expect(202);
    let replay = replayed["delivery_ids"][0].as_str().unwrap().to_owned();
    for (query, expected) in [
        ("inline_only=true", vec![&inline]),
        ("inline_only=false", vec![&replay, &inline, &usual]),
        ("replays_only=true", vec![&replay]),
        ("replays_only=true&status=pending", vec![&replay]),
        ("replays_only=true&status=succeeded", vec![]),
        ("inline_only=true&replays_only=true", vec![]),
        ("inline_only=true&status=pending", vec![]),
        ("inline_only=true&status=succeeded&min_attempts=1", vec![&inline]),
    ] {
        assert_eq!(ids(&world, &format!("/deliveries?{query}")).await.iter().collect::<Vec<_>>(), expected, "{query}");
    }
    let event = world.delivery(&usual).await["event_id"].as_str().unwrap().to_owned();
    let path = format!("/deliveries?event_id={event}&replays_only=true");
    assert_eq!(ids(&world, &path).await, [replay.as_str()]);
    let admin = Session::new(&world, KEY).await;
    let (_, page) = admin.get("/ui/deliveries?inline_only=true").await;
    assert!(page.contains(&inline) && !page.contains(&usual) && page.contains("inline only: <strong>true"), "{page}");
    let link = "action=retry&amp;statuses=dead_letter&amp;inline_only=true";
    assert!(page.contains(link), "a job has this filter: {page}");
    let (_, page) = admin.get("/ui/deliveries?replays_only=true").await;
    assert!(page.contains(&replay) && !page.contains("jobs/new?"), "a job has none for replays: {page}");
    world.finish().await;
}

#[tokio::test]
async fn the_address_says_which_columns_a_list_has() {
    let world = world().await;
    let subscription = world.subscription("/success").await;
    world.ingest(&subscription, "1").await;
    let admin = Session::new(&world, KEY).await;
    let heads = |page: &str| {
        let head = page.split("<thead>").nth(1).unwrap().split("</thead>").next().unwrap().to_owned();
        let cells = head.split("scope=\"col\"").skip(1).filter_map(|cell| cell.split('>').nth(1)?.split('<').next());
        cells.filter(|text| !text.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    let (_, page) = admin.get("/ui/deliveries").await;
    let usual = ["Status", "Event", "Receiver", "Last answer", "Took", "Attempts", "Next attempt", "Created"];
    assert_eq!(heads(&page), usual, "{page}");
    let (_, page) = admin.get("/ui/deliveries?status=pending&columns=created&columns=tenant").await;
    assert_eq!(heads(&page), ["Event", "Tenant", "Created"]);
    // The columns go along with filters and chips, and are no filter.
    assert!(page.contains("href=\"deliveries?columns=created&amp;columns=tenant&amp;status=canceled\""), "{page}");
    assert!(page.contains("type=\"hidden\" name=\"columns\" value=\"tenant\""), "{page}");
    sqlx::raw_sql("DELETE FROM queue; DELETE FROM deliveries").execute(&world.pool).await.unwrap();
    let (_, page) = admin.get("/ui/deliveries?columns=created").await;
    assert!(page.contains("No deliveries yet"), "{page}");
    world.api_stops().await;
}

#[tokio::test]
async fn events_without_deliveries_are_found() {
    let world = world().await;
    world.subscribe("/success", json!({"event_types": ["wanted.*"]})).await;
    let (wanted, _) = world.publish(json!({"event_type": "wanted.now", "payload": 1})).await;
    let (first, _) = world.publish(json!({"event_type": "nobody.wants", "payload": 1, "id": "own-1"})).await;
    let (later, _) = world.publish(json!({"event_type": "later.wanted", "payload": 1})).await;
    assert_eq!(ids(&world, "/events?without_deliveries=true").await, [later.as_str(), first.as_str()]);
    assert_eq!(ids(&world, "/events?without_deliveries=false").await.len(), 3);
    assert_eq!(ids(&world, "/events?external_id=own-1").await, [first.as_str()]);
    assert!(ids(&world, "/events?external_id=own-2").await.is_empty());
    let problem = world.call(Method::GET, "/events?external_id=", None).await.problem(422).to_string();
    assert!(problem.contains("external_id"), "{problem}");
    // A replay is a delivery, too.
    world.subscribe("/success", json!({"event_types": ["later.*"]})).await;
    let replay = Some(json!({"to": "missing"}));
    let made: Value = world.call(Method::POST, &format!("/events/{later}/replay"), replay).await.expect(202);
    assert_eq!(made["delivery_ids"].as_array().unwrap().len(), 1);
    assert_eq!(ids(&world, "/events?without_deliveries=true").await, [first.as_str()]);
    let admin = Session::new(&world, KEY).await;
    let (_, page) = admin.get("/ui/events?without_deliveries=true").await;
    assert!(page.contains(&first) && !page.contains(&wanted) && !page.contains(&later), "{page}");
    world.finish().await;
}

#[tokio::test]
async fn what_was_done_is_undone_from_the_note() {
    let world = world().await;
    let once = json!({"retry_policy": {"delays_seconds": []}});
    let subscription = id(&world.subscribe("/fail/503", once).await);
    world.ingest(&subscription, "1").await;
    while world.drain().await > 0 {}
    let admin = Session::new(&world, KEY).await;
    let undo = |page: &str| {
        let form = page.split("class=\"note ok\"").nth(1).unwrap().split("</form>").next().unwrap();
        assert!(form.contains("Undo</button>"), "{form}");
        let action = form.split("action=\"").nth(1).unwrap().split('"').next().unwrap();
        format!("/ui/{}", action.trim_start_matches("../").replace("&amp;", "&"))
    };
    let state = async || world.get(&format!("/subscriptions/{subscription}")).await["state"].clone();
    let own = format!("/ui/subscriptions/{subscription}");
    for (before, change, after) in [
        ("active", "pause", "paused"),
        ("active", "disable", "disabled"),
        ("paused", "resume", "active"),
        ("paused", "disable", "disabled"),
        ("disabled", "enable", "active"),
    ] {
        sqlx::query("UPDATE subscriptions SET state = $1::subscription_state")
            .bind(before)
            .execute(&world.pool)
            .await
            .unwrap();
        let page = admin.act(&format!("{own}/{change}"), &[]).await;
        assert_eq!(state().await, after, "{before} {change}");
        admin.act(&undo(&page), &[]).await;
        assert_eq!(state().await, before, "{before} {change}, undone");
    }
    sqlx::query("UPDATE subscriptions SET state = 'active'").execute(&world.pool).await.unwrap();
    let page = admin.act(&format!("{own}/enable"), &[]).await;
    assert!(!page.contains("Undo</button>"), "nothing was changed: {page}");
    let dead = id(&world.get("/dead-letters").await["data"][0]);
    let page = admin.act(&format!("/ui/dead-letters/{dead}/resolve"), &[]).await;
    assert!(world.get("/dead-letters").await["data"].as_array().unwrap().is_empty());
    let page = admin.act(&undo(&page), &[]).await;
    assert!(page.contains("The dead letter waits for a decision again."), "{page}");
    assert_eq!(id(&world.get("/dead-letters").await["data"][0]), dead);
    let reader = Session::new(&world, &key(&world, &["read"], None).await.1).await;
    reader.post(&format!("/ui/dead-letters/{dead}/unresolve"), &[]).await;
    world.finish().await;
}

#[tokio::test]
async fn what_was_done_with_many_rows_is_undone_for_those_that_it_changed() {
    let world = world().await;
    let once = json!({"retry_policy": {"delays_seconds": []}});
    let subscription = id(&world.subscribe("/fail/503", once).await);
    for number in 0..4 {
        world.ingest(&subscription, number.to_string()).await;
    }
    while world.drain().await > 0 {}
    let dead = async || {
        let list = world.get("/dead-letters").await["data"].as_array().unwrap().clone();
        list.iter().map(id).collect::<Vec<_>>()
    };
    let all = dead().await;
    world.post(&format!("/dead-letters/{}/resolve", all[0])).await;
    let admin = Session::new(&world, KEY).await;
    let back = ("back", "dead-letters?view=list");
    let ticked = |ids: &[String]| ids.iter().map(|id| ("id".to_owned(), id.clone())).collect::<Vec<_>>();
    let send = async |path: &str, fields: &[(String, String)], more: &[(&str, &str)]| {
        let fields = fields.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        admin.act(path, &fields.chain(more.iter().copied()).collect::<Vec<_>>()).await
    };
    // Three are ticked, of which one had been resolved before.
    let page = send("/ui/deliveries/selected", &ticked(&all[..3]), &[("action", "resolve"), back]).await;
    assert!(page.contains("2 deliveries are marked as resolved. 1 left alone: marked as resolved before."), "{page}");
    assert_eq!(dead().await, all[3..]);
    let form = page.split("class=\"note ok\"").nth(1).unwrap().split("</form>").next().unwrap().to_owned();
    let after = |text: &str, mark: &str| text.split(mark).nth(1).unwrap().split('"').next().unwrap().to_owned();
    let named: Vec<_> = form.split("name=\"id\"").skip(1).map(|field| after(field, "value=\"")).collect();
    assert_eq!(named, all[1..3]);
    let path = format!("/ui/{}", after(&form, "action=\"").trim_start_matches("../"));
    let page = send(&path, &ticked(&named), &[back]).await;
    assert!(page.contains("2 deliveries wait for a decision again.") && !page.contains("Undo</button>"), "{page}");
    assert_eq!(dead().await, all[1..]);
    // Nothing undoes a retry: attempts are made by then.
    let page = send("/ui/deliveries/selected", &ticked(&all[1..2]), &[("action", "retry"), back]).await;
    assert!(page.contains("1 delivery is attempted again now.") && !page.contains("Undo</button>"), "{page}");
    world.finish().await;
}
