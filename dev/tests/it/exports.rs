//! Deliveries as a file: in both formats, by the API and from the pages, with the same filters and the same access as
//! the list.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    access::key,
    ui::{Session, world},
    world::{KEY, World, id},
};

/// The text of a file, as a key gets it.
async fn file(world: &World, key: &str, query: &str) -> String {
    let request = world.anonymous(Method::GET, &format!("/deliveries/export?{query}")).bearer_auth(key);
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 200, "{query}");
    assert!(answer.headers()["content-disposition"].to_str().unwrap().starts_with("attachment"), "{query}");
    answer.text().await.unwrap()
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn deliveries_are_exported_as_they_are_listed() {
    let world = world().await;
    let once = json!({"retry_policy": {"delays_seconds": []}, "tenant_id": "=acme, \"north\""});
    let failing = id(&world.subscribe("/fail/503", once).await);
    let other = world.subscription("/success").await;
    // More than one page of the reading behind an export.
    for number in 0..520 {
        world.ingest(&other, number.to_string()).await;
    }
    world.ingest(&failing, "dead").await;
    while world.drain().await > 0 {}
    let admin = key(&world, &["read"], None).await.1;

    let all = lines(&file(&world, &admin, "format=ndjson").await);
    assert_eq!(all.last(), Some(&json!({"export": {"complete": true, "rows": 521}})));
    let ids: Vec<_> = all[..521].iter().map(id).collect();
    assert!(ids.windows(2).all(|pair| pair[0] > pair[1]), "the newest first, and none twice");
    let listed = world.get("/deliveries?limit=250").await;
    assert_eq!(all[..250].to_vec(), *listed["data"].as_array().unwrap(), "each line is what the list shows");

    let rest = lines(&file(&world, &admin, &format!("format=ndjson&cursor={}", ids[500])).await);
    assert_eq!(rest.iter().take(20).map(id).collect::<Vec<_>>(), ids[501..], "an export goes on behind a cursor");

    let csv = file(&world, &admin, "status=dead_letter").await;
    let rows: Vec<_> = csv.split("\r\n").collect();
    assert!(rows[0].starts_with("id,event_id,tenant_id,subscription_id,"), "{csv}");
    // A spreadsheet would take the name of this tenant for a formula.
    assert!(rows[1].contains(",\"'=acme, \"\"north\"\"\",") && rows[1].contains(",dead_letter,1,"), "{csv}");
    assert_eq!(rows[2..], ["# rows: 1, these are all", ""]);

    let stranger = key(&world, &["read"], Some("stranger")).await.1;
    assert_eq!(file(&world, &stranger, "format=ndjson").await, "{\"export\":{\"complete\":true,\"rows\":0}}\n");
    for (query, status) in [("format=xml", 400), ("cursor=nowhere", 422), ("tenant_id=default", 404)] {
        let request = world.anonymous(Method::GET, &format!("/deliveries/export?{query}")).bearer_auth(&stranger);
        assert_eq!(request.send().await.unwrap().status(), status, "{query}");
    }

    let admin = Session::new(&world, KEY).await;
    let (_, page) = admin.get("/ui/deliveries?status=dead_letter").await;
    assert!(page.contains("href=\"deliveries/export?status=dead_letter&amp;format=csv\""), "{page}");
    let (status, from_page) = admin.get("/ui/deliveries/export?status=dead_letter&format=csv").await;
    assert_eq!((status.as_u16(), from_page), (200, csv));
    let (status, page) = admin.get("/ui/deliveries/export?format=xml").await;
    assert!(status == 422 && page.contains("must be csv or ndjson"), "{page}");
    let stranger = Session::new(&world, &stranger).await;
    let (_, nothing) = stranger.get("/ui/deliveries/export?format=ndjson").await;
    assert_eq!(nothing, "{\"export\":{\"complete\":true,\"rows\":0}}\n");
    world.finish().await;
}
