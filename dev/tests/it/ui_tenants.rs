//! Tenants on the pages: what each uses, and the choice of one of them.

use chrono::{TimeDelta, Utc};
use postrider_core::{
    stats::{
        recount::recount,
        tenants::{self, TenantUsage},
    },
    tally::class::{Class, Kind},
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    access::{call, key},
    ui::{Session, world},
    world::{KEY, World, id},
};

/// What is said of a tenant: subscriptions; and of a span: events, deliveries that succeeded, failed attempts, dead
/// letters and bytes of payloads.
type Said = (i64, [u64; 5]);

fn said(one: &TenantUsage) -> Said {
    let day = &one.day;
    let of = |class| day.outcomes.of(class);
    let failed = day.outcomes.of_kind(Kind::Failure);
    (one.subscriptions, [day.accepted.events, of(Class::Succeeded), failed, of(Class::DeadLetter), day.accepted.bytes])
}

/// The tenants on a page of the API.
fn names(page: &Value) -> Vec<&str> {
    page["data"].as_array().unwrap().iter().map(|one| one["tenant_id"].as_str().unwrap()).collect()
}

/// A world with the tenants `acme`, whose deliveries fail, `bolt`, whose succeed, and `inline`, which has no
/// subscription.
async fn three_tenants() -> World {
    let world = world().await;
    let once = json!({"tenant_id": "acme", "name": "Shop", "retry_policy": {"delays_seconds": []}});
    world.subscribe("/fail/503", once).await;
    for name in ["One", "Two"] {
        world.subscribe("/success", json!({"tenant_id": "bolt", "name": name})).await;
    }
    for (tenant, event_type) in [("acme", "order.paid"), ("bolt", "user.left"), ("bolt", "user.left")] {
        world.publish(json!({"tenant_id": tenant, "event_type": event_type, "payload": 12345})).await;
    }
    let inline = json!({"target_url": world.receiver.url("/success"), "payload": "x", "tenant_id": "inline"});
    world.call(Method::POST, "/deliveries", Some(inline)).await.expect(202);
    while world.drain().await > 0 {}
    let now = Utc::now();
    recount(&world.pool, now - TimeDelta::hours(1), now).await.unwrap();
    world
}

#[tokio::test]
async fn tenants_are_shown_with_what_they_have_used() {
    let world = three_tenants().await;
    let long_ago = "SELECT ensure_partitions(current_date - 40, current_date);
         INSERT INTO accepted_hour (tenant_id, event_type, hour, events, bytes)
         SELECT t, '', date_trunc('hour', now() - d * interval '1 day'), 100, 1000
           FROM unnest(ARRAY['acme', 'silent']) t, unnest(ARRAY[10, 35]) d;
         INSERT INTO stats_hour (tenant_id, subscription_id, hour, outcomes, durations, latencies, waits, bytes)
         SELECT 'acme', '00000000-0000-0000-0000-000000000000', date_trunc('hour', now() - d * interval '1 day'),
                '{90,0,0,0,0,0,7}', '{}', '{}', '{}', 1 FROM unnest(ARRAY[10, 35]) d";
    sqlx::raw_sql(long_ago).execute(&world.pool).await.unwrap();
    key(&world, &["read"], Some("keys only")).await;
    let (revoked, _) = key(&world, &["read"], Some("revoked")).await;
    world.call(Method::DELETE, &format!("/api-keys/{revoked}"), None).await.expect(200);
    let found = tenants::list(&world.pool, None, 10, Utc::now()).await.unwrap();
    let all: Vec<_> = found.iter().map(|one| (one.tenant_id.as_str(), said(one))).collect();
    let expected = [
        ("acme", (1, [1, 0, 1, 1, 5])),
        ("bolt", (2, [2, 4, 0, 0, 10])),
        ("inline", (0, [1, 1, 0, 0, 3])),
        ("keys only", (0, [0; 5])),
        ("silent", (0, [0; 5])),
    ];
    assert_eq!(all, expected);
    let month = &found[0].month;
    assert_eq!((month.accepted.events, month.accepted.bytes), (101, 1005), "35 days ago is not counted");
    assert_eq!((month.outcomes.of(Class::Succeeded), month.outcomes.of_kind(Kind::Failure)), (90, 8));
    assert_eq!(tenants::of(&world.pool, "acme", Utc::now()).await.unwrap(), found[0]);
    assert_eq!(said(&tenants::of(&world.pool, "nobody", Utc::now()).await.unwrap()), (0, [0; 5]));

    let page = world.get("/tenants?limit=3").await;
    assert_eq!(names(&page), ["acme", "bolt", "inline"]);
    let acme = json!({
        "tenant_id": "acme", "subscriptions": 1,
        "last_24_hours":
            {"events": 1, "payload_bytes": 5, "deliveries_succeeded": 0, "attempts_failed": 1, "dead_letters": 1},
        "last_30_days": {
            "events": 101, "payload_bytes": 1005, "deliveries_succeeded": 90, "attempts_failed": 8, "dead_letters": 1
        },
    });
    assert_eq!(page["data"][0], acme);
    let rest = world.get(&format!("/tenants?limit=3&cursor={}", page["next_cursor"].as_str().unwrap())).await;
    assert_eq!((names(&rest), rest.get("next_cursor")), (vec!["keys only", "silent"], None));
    assert_eq!(names(&world.get("/tenants?tenant_id=bolt").await), ["bolt"]);

    let admin = Session::new(&world, KEY).await;
    let (status, page) = admin.get("/ui/tenants").await;
    assert_eq!(status, 200);
    for tenant in ["acme", "bolt", "inline", "silent"] {
        assert!(page.contains(&format!("href=\"keys?tenant_id={tenant}\"")), "{tenant}: {page}");
    }
    // A key of one tenant sees its own numbers, and no choice.
    let bolt = key(&world, &["read"], Some("bolt")).await.1;
    let own = call(&world, &bolt, &Method::GET, "/tenants", None).await.expect(200);
    assert_eq!((names(&own), own.get("next_cursor")), (vec!["bolt"], None));
    let bolt = Session::new(&world, &bolt).await;
    let (_, page) = bolt.get("/ui/tenants").await;
    for absent in ["acme", "inline", "silent", "keys?", "chosen-tenant", "rel=\"next\""] {
        assert!(!page.contains(absent), "{absent}: {page}");
    }
    assert!(page.contains("bolt"), "{page}");
    world.finish().await;
}

#[tokio::test]
async fn the_list_of_tenants_is_turned_forwards_and_back() {
    let world = world().await;
    for number in 0..60 {
        world.subscribe("/success", json!({"tenant_id": format!("tenant {number:02}")})).await;
    }
    let admin = Session::new(&world, KEY).await;
    let (mut path, mut firsts) = ("/ui/tenants".to_owned(), Vec::new());
    let first = |page: &str| page.split("<a class=\"open\"").nth(1).unwrap()[..80].to_owned();
    let link = |page: &str, way: &str| {
        let (_, rest) = page.split_once(&format!("rel=\"{way}\" href=\""))?;
        Some(format!("/ui/{}", rest.split('"').next()?.replace("&amp;", "&")))
    };
    let mut shown = 0;
    loop {
        let (_, page) = admin.get(&path).await;
        shown += page.matches("class=\"open\"").count();
        firsts.push((path, first(&page)));
        match link(&page, "next") {
            Some(next) => path = next,
            None => break,
        }
    }
    assert_eq!((shown, firsts.len()), (60, 3), "{firsts:?}");
    let (mut path, _) = firsts.pop().unwrap();
    while let Some((_, expected)) = firsts.pop() {
        let (_, page) = admin.get(&path).await;
        path = link(&page, "prev").unwrap_or_else(|| panic!("no way back: {page}"));
        assert_eq!(first(&admin.get(&path).await.1), expected, "{path}");
    }
    assert_eq!(link(&admin.get(&path).await.1, "prev"), None, "it is the first page");
    assert!(admin.get("/ui/tenants?cursor=tenant_1").await.1.contains("is no place in this list"));
    world.finish().await;
}

#[tokio::test]
async fn the_chosen_tenant_narrows_every_list_and_goes_with_the_links() {
    let world = three_tenants().await;
    let admin = Session::new(&world, KEY).await;
    for path in ["", "deliveries", "events", "subscriptions", "dead-letters", "dead-letters?view=list"] {
        let mark = if path.contains('?') { '&' } else { '?' };
        let (_, page) = admin.get(&format!("/ui/{path}")).await;
        assert!(page.contains("All tenants"), "{path}");
        let (status, page) = admin.get(&format!("/ui/{path}{mark}tenant_id=acme")).await;
        assert_eq!(status, 200, "{path}");
        for absent in ["user.left", ">Two<", "This could not be loaded"] {
            assert!(!page.contains(absent), "{absent} on {path}: {page}");
        }
        for link in ["deliveries", "subscriptions", "jobs", "lanes"] {
            assert!(page.contains(&format!("href=\"{link}?tenant_id=acme\"")), "{link} on {path}: {page}");
        }
        assert!(page.contains("href=\"tenants\""), "one chooses another tenant there");
    }
    let (_, page) = admin.get("/ui/?tenant_id=acme").await;
    assert!(page.contains("1 dead letter waits") && !page.contains("aria-label=\"The backlog\""), "{page}");
    let (_, page) = admin.get("/ui/?tenant_id=bolt").await;
    assert!(!page.contains("dead letter waits") && page.contains("Deliveries flow"), "{page}");
    // The way out, without the tenant but with the other filters.
    let (_, page) = admin.get("/ui/deliveries?status=succeeded&tenant_id=bolt").await;
    assert!(page.contains("href=\"deliveries?status=succeeded\""), "{page}");
    // A page of one thing carries it on, and a search, too.
    let subscription = id(&world.get("/subscriptions?tenant_id=bolt").await["data"][0]);
    let (_, page) = admin.get(&format!("/ui/subscriptions/{subscription}?tenant_id=bolt")).await;
    assert!(page.contains("href=\"../deliveries?tenant_id=bolt\""), "{page}");
    assert!(page.contains("name=\"tenant_id\" value=\"bolt\""), "{page}");
    let path = format!("/ui/subscriptions/{subscription}/pause?tenant_id=bolt");
    assert_eq!(admin.post(&path, &[]).await.0, 303);
    world.finish().await;
}

#[tokio::test]
async fn the_name_of_the_environment_stands_on_every_page() {
    let world = World::with(&[("POSTRIDER_ENVIRONMENT_NAME", "Staging <EU>")]).await;
    let admin = Session::new(&world, KEY).await;
    for path in ["/ui/", "/ui/deliveries", "/ui/about"] {
        let (_, page) = admin.get(path).await;
        assert!(page.contains("class=\"bar marked amber\"") && page.contains("Staging &lt;EU&gt;"), "{page}");
        assert!(page.contains(" · Staging &lt;EU&gt; · Postrider</title>"), "{page}");
    }
    world.finish().await;
}
