//! What is done with many deliveries on the pages: they are counted, the visitor confirms, and a job shows how far it
//! is. All of it goes by links and forms.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    access::key,
    ui::{Session, world},
    world::{KEY, World, id},
};

/// Makes dead letters of a receiver that always fails; answers its subscription.
async fn dead(world: &World, path: &str, count: usize) -> String {
    let once = json!({"name": "Shop", "retry_policy": {"delays_seconds": []}});
    let subscription = id(&world.subscribe(path, once).await);
    for number in 0..count {
        world.ingest(&subscription, number.to_string()).await;
    }
    while world.drain().await > 0 {}
    subscription
}

/// The links on a page whose address contains all of these texts.
fn links(page: &str, texts: &[&str]) -> Vec<String> {
    let links = page.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next());
    let links = links.filter(|link| texts.iter().all(|text| link.contains(text)));
    links.map(|link| format!("/ui/{}", link.replace("&amp;", "&").trim_start_matches("../"))).collect()
}

/// The hidden fields of the form that begins a job.
fn hidden(page: &str) -> Vec<(String, String)> {
    let form = page.split("<form class=\"inline\" method=\"post\"").nth(1).expect("a form that confirms");
    let form = form.split("</form>").next().unwrap();
    let fields = form.split("<input type=\"hidden\" name=\"").skip(1).map(|rest| {
        let (name, rest) = rest.split_once("\" value=\"").unwrap();
        (name.to_owned(), rest.split('"').next().unwrap().replace("&amp;", "&"))
    });
    fields.collect()
}

async fn submit(session: &Session<'_>, page: &str, more: &[(&str, &str)]) {
    let hidden = hidden(page);
    let fields = hidden.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let fields: Vec<_> = fields.chain(more.iter().copied()).collect();
    let (status, page) = session.post("/ui/jobs", &fields).await;
    assert_eq!(status, 303, "{page}");
}

async fn newest_job(world: &World) -> Value {
    world.get("/jobs?limit=1").await["data"][0].clone()
}

#[tokio::test]
async fn a_group_of_dead_letters_is_counted_retried_and_seen_to_its_end() {
    let world = world().await;
    let shop = dead(&world, "/fail/503", 3).await;
    dead(&world, "/fail/404", 2).await;
    let session = Session::new(&world, KEY).await;
    let (_, page) = session.get("/ui/dead-letters").await;
    assert!(page.contains("Answered 503") && page.contains("Answered 404"), "{page}");
    let retry = links(&page, &["jobs/new?", "action=retry", &shop, "status_codes=503"]);
    assert_eq!(retry.len(), 1, "{page}");
    let (status, page) = session.get(&retry[0]).await;
    assert_eq!(status, 200, "{page}");
    assert!(page.contains("<strong>3</strong> deliveries match"), "{page}");

    let target = json!({"target_url": world.receiver.url("/success")});
    world.call(Method::PATCH, &format!("/subscriptions/{shop}"), Some(target)).await.expect(200);
    submit(&session, &page, &[("rate_per_second", "1000")]).await;
    let job = newest_job(&world).await;
    assert_eq!(
        (&job["action"], &job["rate_per_second"], &job["state"]),
        (&json!("retry"), &json!(1000), &json!("running"))
    );
    let path = format!("/ui/jobs/{}", id(&job));
    let (_, page) = session.get(&path).await;
    assert!(page.contains("Running") && page.contains("/cancel\""), "{page}");
    let (stop, worker) = world.run_worker();
    world.receiver.wait_for(8, crate::world::SOON).await.unwrap();
    world.queue_is_empty().await;
    stop.cancel();
    worker.await.unwrap();
    let (_, page) = session.get(&path).await;
    assert!(page.contains("Completed") && page.contains("3 deliveries") && !page.contains("/cancel\""), "{page}");
    let (_, page) = session.get("/ui/dead-letters").await;
    assert!(!page.contains("Answered 503") && page.contains("Answered 404"), "{page}");
    let (_, page) = session.get(&links(&page, &["view=list", "status_code=404"])[0]).await;
    assert_eq!(page.matches("/resolve\"").count(), 2, "each of the group: {page}");
    world.finish().await;
}

#[tokio::test]
async fn all_that_match_the_filters_of_the_list_are_meant() {
    let world = world().await;
    let subscription = world.subscription("/success").await;
    world.post(&format!("/subscriptions/{subscription}/pause")).await;
    for event_type in ["order.paid", "order.paid", "user.left"] {
        world.publish(json!({"event_type": event_type, "payload": 1})).await;
    }
    let session = Session::new(&world, KEY).await;
    let (_, page) = session.get("/ui/deliveries?status=pending&event_type=order.paid").await;
    let cancel = links(&page, &["jobs/new?", "action=cancel", "event_types=order.paid", "statuses=pending"]);
    let (_, page) = session.get(&cancel[0]).await;
    assert!(page.contains("<strong>2</strong> deliveries match"), "{page}");
    submit(&session, &page, &[]).await;
    submit(&session, &page, &[("confirm", "yes")]).await;
    assert_eq!(world.get("/jobs").await["data"], json!([]), "nothing begins that was not confirmed");
    submit(&session, &page, &[("confirm", "cancel")]).await;
    let job = newest_job(&world).await;
    while world.drain().await > 0 {}
    let done = world.get(&format!("/jobs/{}", id(&job))).await;
    assert_eq!((&done["state"], &done["done_count"]), (&json!("completed"), &json!(2)));
    assert_eq!(world.get("/deliveries?status=pending").await["data"].as_array().unwrap().len(), 1);

    let (status, page) = session.get("/ui/jobs/new?action=retry&error_kinds=nonsense").await;
    assert!(status == 200 && page.contains("filter.error_kinds"), "{page}");
    let (_, page) = session.get("/ui/jobs/new?action=retry&statuses=dead_letter").await;
    assert!(page.contains("Nothing can be done"), "{page}");
    for path in ["/ui/jobs", "/ui/jobs?state=completed"] {
        let (_, page) = session.get(path).await;
        assert!(page.contains("badge ok") && page.contains("order.paid"), "{path}: {page}");
    }
    let (_, page) = session.get("/ui/jobs?state=running").await;
    assert!(page.contains("No job matches"), "{page}");
    assert_eq!(world.get("/jobs?state=running").await["data"], json!([]));
    assert_eq!(id(&world.get("/jobs?state=completed").await["data"][0]), id(&job));
    world.finish().await;
}

#[tokio::test]
async fn a_key_that_only_reads_sees_no_buttons_and_begins_nothing() {
    let world = world().await;
    dead(&world, "/fail", 2).await;
    let reader = Session::new(&world, &key(&world, &["read"], None).await.1).await;
    for path in ["/ui/dead-letters", "/ui/deliveries", "/ui/deliveries?status=dead_letter", "/ui/jobs"] {
        let (status, page) = reader.get(path).await;
        assert_eq!(status, 200);
        assert!(!page.contains("jobs/new"), "{path}: {page}");
    }
    assert_eq!(reader.get("/ui/jobs/new").await.0, 403);
    assert_eq!(reader.get("/ui/jobs/new?action=purge").await.0, 403);
    let (status, _) = reader.post("/ui/jobs", &[("action", "purge"), ("confirm", "purge")]).await;
    assert_eq!(status, 303, "the reason is shown on the page");
    assert_eq!(world.get("/jobs").await["data"], json!([]));
    // A tenant's key counts and changes what is its tenant's.
    let stranger = Session::new(&world, &key(&world, &["manage"], Some("stranger")).await.1).await;
    let (_, page) = stranger.get("/ui/jobs/new?action=purge").await;
    assert!(page.contains("Nothing can be done"), "{page}");
    assert_eq!(stranger.get("/ui/jobs/new?action=purge&tenant_id=default").await.0, 404);
    world.finish().await;
}

#[tokio::test]
async fn ticked_rows_are_retried_resolved_replayed_and_canceled() {
    let world = world().await;
    dead(&world, "/fail/503", 4).await;
    let session = Session::new(&world, KEY).await;
    let (_, page) = session.get("/ui/dead-letters?view=list").await;
    assert_eq!(page.matches("name=\"id\" value=\"dlv_").count(), 4, "{page}");
    let letters: Vec<_> = world.get("/dead-letters").await["data"].as_array().unwrap().iter().map(id).collect();
    let send = async |session: &Session<'_>, action: &str, ids: &[&str]| {
        let ids = ids.iter().map(|id| ("id", *id));
        let fields: Vec<_> = ids.chain([("action", action), ("back", "dead-letters?view=list")]).collect();
        session.post("/ui/deliveries/selected", &fields).await.0
    };
    let stranger = Session::new(&world, &key(&world, &["manage"], Some("stranger")).await.1).await;
    let reader = Session::new(&world, &key(&world, &["read"], None).await.1).await;
    for session in [&stranger, &reader] {
        assert_eq!(send(session, "retry", &[&letters[0]]).await, 303, "the reason is shown on the page");
    }
    assert!(!reader.get("/ui/deliveries").await.1.contains("name=\"id\""), "who may only read ticks nothing");
    for (action, ids) in [("explode", vec![&*letters[0]]), ("retry", vec![]), ("purge", vec![&*letters[0]])] {
        assert_eq!(send(&session, action, &ids).await, 303, "the reason is shown on the page");
    }
    let statuses = async || {
        let mut statuses = Vec::new();
        for id in &letters {
            statuses.push(world.delivery(id).await["status"].as_str().unwrap().to_owned());
        }
        statuses
    };
    assert_eq!(statuses().await, ["dead_letter"; 4], "nothing was done");
    assert_eq!(send(&session, "resolve", &[&letters[0], &letters[1]]).await, 303);
    assert_eq!(world.get("/dead-letters").await["data"].as_array().unwrap().len(), 2);
    // What is not there does not keep the others from it.
    let nobody = postrider_core::id::DeliveryId::new().to_string();
    assert_eq!(send(&session, "retry", &[&letters[2], &nobody, &letters[3]]).await, 303);
    assert_eq!(statuses().await, ["dead_letter", "dead_letter", "pending", "pending"]);
    assert_eq!(send(&session, "cancel", &[&letters[2], &letters[3], &letters[0]]).await, 303);
    assert_eq!(statuses().await, ["dead_letter", "dead_letter", "canceled", "canceled"]);
    assert_eq!(send(&session, "replay", &[&letters[2], &letters[3]]).await, 303);
    assert_eq!(world.get("/deliveries?status=pending").await["data"].as_array().unwrap().len(), 2);
    while world.drain().await > 0 {}
    world.finish().await;
}
