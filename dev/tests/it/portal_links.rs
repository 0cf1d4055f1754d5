//! Portal links: what they may be, what whoever opens one sees, when they end, and where their tokens are not.

use std::collections::{BTreeSet, VecDeque};

use chrono::{DateTime, TimeDelta, Utc};
use postrider_core::access::portal_link;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    access::{Tenant, call, data, key, text},
    stored::stored,
    ui::{Session, form, read},
    world::{KEY, SOON, World, answer, id, serve},
};

/// Pages that a customer can open by links alone, at most; more would mean that links lead in circles.
const PAGES_MAX: usize = 300;

/// Makes a link; answers it.
pub async fn link(world: &World, body: Value) -> Value {
    world.call(Method::POST, "/portal-links", Some(body)).await.expect(201)
}

/// The token in a link.
pub fn token(link: &Value) -> String {
    let url = text(link, "url");
    let (page, token) = url.split_once('#').unwrap();
    assert!(page.ends_with("/ui/portal") && token.starts_with("pr_"), "{url}");
    token.to_owned()
}

/// What the form of the page answers to a token.
async fn opens(world: &World, token: &str) -> (StatusCode, String) {
    read(form(world, "/ui/sign-in", &[("portal", "yes"), ("key", token)]).send().await.unwrap()).await
}

#[tokio::test]
async fn a_link_is_made_within_bounds_by_those_who_may() {
    let world = World::new().await;
    let made = link(&world, json!({"tenant_id": "acme"})).await;
    token(&made);
    assert!(text(&made, "url").starts_with("/ui/portal#pr_"), "nobody has told the address of this api");
    assert_eq!(
        (&made["tenant_id"], &made["access"], &made["label"]),
        (&json!("acme"), &json!("view"), &json!("Portal link"))
    );
    let lasts = |link: &Value| {
        let time = |field| text(link, field).parse::<DateTime<Utc>>().unwrap();
        (time("expires_at") - time("created_at")).num_seconds()
    };
    assert!((3590..=3600).contains(&lasts(&made)), "{made}");
    for seconds in [300, 86_400] {
        let body = json!({"tenant_id": "acme", "access": "manage", "expires_in_seconds": seconds, "label": "Ada"});
        let made = link(&world, body).await;
        assert!((seconds - 10..=seconds).contains(&lasts(&made)), "{made}");
        assert_eq!((&made["access"], &made["label"]), (&json!("manage"), &json!("Ada")));
    }
    for (body, fields) in [
        (json!({}), vec!["tenant_id"]),
        (json!({"tenant_id": ""}), vec!["tenant_id"]),
        (json!({"tenant_id": 1}), vec!["tenant_id"]),
        (json!({"tenant_id": "acme", "access": "admin"}), vec!["access"]),
        (json!({"tenant_id": "acme", "access": "ingest"}), vec!["access"]),
        (json!({"tenant_id": "acme", "expires_in_seconds": 299}), vec!["expires_in_seconds"]),
        (json!({"tenant_id": "acme", "expires_in_seconds": 86_401}), vec!["expires_in_seconds"]),
        (json!({"tenant_id": "acme", "expires_in_seconds": -1}), vec!["expires_in_seconds"]),
        (json!({"tenant_id": "acme", "expires_in_seconds": "300"}), vec!["expires_in_seconds"]),
        (json!({"tenant_id": "acme", "label": ""}), vec!["label"]),
        (json!({"tenant_id": "acme", "label": "x".repeat(201)}), vec!["label"]),
        (json!({"tenant_id": "acme", "scopes": ["read"]}), vec!["scopes"]),
        (
            json!({"access": "", "expires_in_seconds": 0, "label": "\u{0}"}),
            vec!["tenant_id", "access", "expires_in_seconds", "label"],
        ),
    ] {
        let problem = world.call(Method::POST, "/portal-links", Some(body.clone())).await.problem(422);
        let wrong: Vec<_> = problem["errors"].as_array().unwrap().iter().map(|one| text(one, "field")).collect();
        assert_eq!(wrong, fields, "{body}: {problem}");
    }
    for scope in ["manage", "ingest", "read"] {
        let key = key(&world, &[scope], None).await.1;
        let body = Some(json!({"tenant_id": "acme"}));
        call(&world, &key, &Method::POST, "/portal-links", body).await.problem(403);
    }
    // A key of one tenant makes links to its own dashboard.
    let bound = key(&world, &["admin"], Some("bolt")).await.1;
    let own = call(&world, &bound, &Method::POST, "/portal-links", Some(json!({}))).await.expect(201);
    assert_eq!(own["tenant_id"], "bolt");
    let body = Some(json!({"tenant_id": "acme"}));
    call(&world, &bound, &Method::POST, "/portal-links", body).await.problem(404);
    world.finish().await;
}

#[tokio::test]
async fn links_that_work_are_listed_and_are_no_api_keys() {
    let world = World::new().await;
    let mut acmes = Vec::new();
    for label in ["one", "two", "three"] {
        acmes.insert(0, id(&link(&world, json!({"tenant_id": "acme", "label": label})).await));
    }
    let bolts = link(&world, json!({"tenant_id": "bolt"})).await;
    let key_id = key(&world, &["read"], Some("acme")).await.0;
    let ids = async |path: &str| data(&world.get(path).await).iter().map(id).collect::<Vec<_>>();
    assert_eq!(ids("/portal-links?tenant_id=acme").await, acmes);
    assert_eq!(ids("/portal-links").await.len(), 4);
    let page = world.get("/portal-links?tenant_id=acme&limit=2").await;
    let next = format!("/portal-links?tenant_id=acme&limit=2&cursor={}", text(&page, "next_cursor"));
    assert_eq!(ids(&next).await, [acmes[2].clone()]);
    assert!(data(&page).iter().all(|one| one.get("url").is_none()), "a URL is shown once: {page}");
    assert_eq!(ids("/api-keys").await, std::slice::from_ref(&key_id));

    // Neither route knows what the other has made.
    for path in [format!("/api-keys/{}", id(&bolts)), format!("/portal-links/{key_id}")] {
        world.call(Method::DELETE, &path, None).await.problem(404);
    }
    let path = format!("/portal-links/{}", acmes[0]);
    let revoked = world.call(Method::DELETE, &path, None).await.expect(200);
    assert!(revoked["revoked_at"].is_string(), "{revoked}");
    assert_eq!(world.call(Method::DELETE, &path, None).await.expect(200), revoked, "once is enough");
    let end = "UPDATE api_keys SET expires_at = now() WHERE name = 'two'";
    sqlx::query(end).execute(&world.pool).await.unwrap();
    assert_eq!(ids("/portal-links?tenant_id=acme").await, [acmes[2].clone()]);

    // The janitor removes old ones, and no other key.
    let age = "UPDATE api_keys SET expires_at = now() - interval '25 hours' WHERE name <> 'three'";
    sqlx::query(age).execute(&world.pool).await.unwrap();
    assert_eq!(portal_link::retire(&world.pool).await.unwrap(), 3);
    let left = "SELECT count(*) FROM api_keys";
    assert_eq!(sqlx::query_scalar::<_, i64>(left).fetch_one(&world.pool).await.unwrap(), 2);
    world.finish().await;
}

/// The links of a page at `path` to this server, as paths with their queries.
fn links(path: &str, page: &str) -> Vec<String> {
    let here = reqwest::Url::parse("http://here").unwrap().join(path).unwrap();
    let places = page.split(" href=\"").skip(1).filter_map(|rest| rest.split('"').next());
    let joined = places.map(|place| here.join(&place.replace("&amp;", "&")).unwrap());
    let own = joined.filter(|url| url.host() == here.host());
    own.map(|url| format!("{}?{}", url.path(), url.query().unwrap_or_default())).collect()
}

/// Follows all links from the first page on; answers the paths of all pages, with what they show.
async fn everything(session: &Session<'_>) -> Vec<(String, String)> {
    let (mut seen, mut pages) = (BTreeSet::new(), Vec::new());
    let mut next = VecDeque::from(["/ui/".to_owned()]);
    while let Some(path) = next.pop_front() {
        // Of pages that differ by filters, spans and columns, one is enough.
        let place = path.split('?').next().unwrap_or_default().to_owned();
        if place.contains("/assets/") || !seen.insert(place) {
            continue;
        }
        let (status, page) = session.get(&path).await;
        assert_eq!(status, 200, "{path}: {page}");
        next.extend(links(&path, &page));
        pages.push((path, page));
        assert!(pages.len() < PAGES_MAX, "{seen:?}");
    }
    pages
}

#[tokio::test]
async fn a_customer_sees_one_tenant_and_nothing_of_the_installation() {
    let world = crate::ui::world().await;
    let (acme, bolt) = (Tenant::new(&world, "acme").await, Tenant::new(&world, "bolt").await);
    for (access, changes) in [("view", false), ("manage", true)] {
        let made = link(&world, json!({"tenant_id": "acme", "access": access, "label": "for our eyes"})).await;
        let session = Session::new(&world, &token(&made)).await;
        let pages = everything(&session).await;
        let own = format!("/ui/subscriptions/{}", acme.subscription);
        let paths: BTreeSet<_> = pages.iter().filter_map(|(path, _)| path.split('?').next()).collect();
        assert!(paths.contains(own.as_str()), "{paths:?}");
        for (path, page) in &pages {
            for place in ["ui/lanes", "ui/tenants", "ui/keys", "ui/portal-links", "ui/audit", "ui/about", "swagger"] {
                let is_there = |link: &String| link.split('?').next() == Some(format!("/{place}").as_str());
                assert!(!links(path, page).iter().any(is_there), "{access}: {path} leads to {place}");
            }
            for absent in ["bolt", &bolt.subscription, "for our eyes", "chosen-tenant"] {
                assert!(!page.contains(absent), "{access}: {absent} on {path}: {page}");
            }
        }
        let (_, page) = session.get(&own).await;
        assert_eq!(page.contains("/pause\""), changes, "{access}: {page}");
        let (status, _) = session.post(&format!("{own}/pause"), &[]).await;
        assert_eq!(status, 303);
        let state = world.get(&format!("/subscriptions/{}", acme.subscription)).await["state"].clone();
        assert_eq!(state, if changes { "paused" } else { "active" }, "{access}");
        for path in ["/ui/keys", "/ui/portal-links", "/ui/audit"] {
            assert_eq!(session.get(path).await.0, 403, "{path}");
        }
        assert_eq!(session.get(&format!("/ui/subscriptions/{}", bolt.subscription)).await.0, 404);
        // Its token is a key of the API with the same rights.
        let token = token(&made);
        let event = json!({"event_type": "a.b", "payload": 1});
        call(&world, &token, &Method::POST, "/events", Some(event)).await.problem(403);
        call(&world, &token, &Method::GET, "/portal-links", None).await.problem(403);
        call(&world, &token, &Method::GET, &format!("/subscriptions/{}", bolt.subscription), None).await.problem(404);
    }
    world.finish().await;
}

#[tokio::test]
async fn what_a_customer_signs_in_with_is_the_link_or_its_token() {
    let world = crate::ui::world().await;
    let (status, page) = read(world.anonymous(Method::GET, "/ui/portal").send().await.unwrap()).await;
    assert_eq!(status, 200);
    assert!(page.contains("action=\"sign-in\"") && page.contains("assets/portal."), "{page}");
    let token = token(&link(&world, json!({"tenant_id": "acme", "expires_in_seconds": 86_400})).await);
    for pasted in [token.clone(), format!("https://hooks.example.com/ui/portal#{token}"), format!("#{token} ")] {
        let answer = form(&world, "/ui/sign-in", &[("portal", "yes"), ("key", &pasted)]).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), &answer.headers()["location"]), (303, &"./".parse().unwrap()));
        let cookie = answer.headers()["set-cookie"].to_str().unwrap();
        assert!(cookie.contains("Max-Age=604800; HttpOnly; SameSite=Strict"), "{cookie}");
    }
    for wrong in ["", "pr_nobodys", "https://hooks.example.com/ui/portal"] {
        let (status, page) = opens(&world, wrong).await;
        assert!(status == 401 && page.contains("This link has expired"), "{status} {page}");
    }
    let session = Session::new(&world, &token).await;
    let (status, place) = session.post("/ui/sign-out", &[]).await;
    assert!(status == 303 && place.is_empty());
    world.finish().await;
}

#[tokio::test]
async fn a_session_ends_with_its_link() {
    let world = crate::ui::world().await;
    let (other, (stop, serving)) = serve(&world.env).await;
    let made = link(&world, json!({"tenant_id": "acme"})).await;
    let session = Session::new(&world, &token(&made)).await;
    let elsewhere = async || {
        let request = world.client().get(format!("{other}/ui/deliveries")).header("cookie", session.cookie());
        read(request.send().await.unwrap()).await
    };
    assert_eq!((session.get("/ui/").await.0, elsewhere().await.0), (StatusCode::OK, StatusCode::OK));
    world.call(Method::DELETE, &format!("/portal-links/{}", id(&made)), None).await.expect(200);
    let (status, page) = session.get("/ui/").await;
    assert!(status == 401 && page.contains("This link has expired"), "{page}");
    let heard = async {
        while elsewhere().await.0 != 401 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, heard).await.expect("the other process hears of it");
    assert!(opens(&world, &token(&made)).await.1.contains("This link has expired"));
    let (status, page) = session.post("/ui/theme", &[("theme", "dark")]).await;
    assert!(status == 401 && page.contains("This link has expired"), "{page}");
    stop.cancel();
    serving.await.unwrap();
    world.finish().await;
}

#[tokio::test]
async fn a_session_and_its_streams_end_when_the_key_expires() {
    let world = crate::ui::world().await;
    let later = Utc::now() + TimeDelta::hours(1);
    for (path, field, body, said) in [
        ("/portal-links", "url", json!({"tenant_id": "acme"}), "This link has expired"),
        ("/api-keys", "key", json!({"name": "x", "scopes": ["read"], "expires_at": later}), "<h1>Sign in</h1>"),
    ] {
        let made = world.call(Method::POST, path, Some(body)).await.expect(201);
        let text = text(&made, field).rsplit('#').next().unwrap().to_owned();
        // No process has seen it yet, so all of them see the new end.
        let expires_at = Utc::now() + TimeDelta::seconds(3);
        sqlx::query("UPDATE api_keys SET expires_at = $1").bind(expires_at).execute(&world.pool).await.unwrap();
        let session = Session::new(&world, &text).await;
        let mut stream = world.anonymous(Method::GET, "/live").bearer_auth(&text).send().await.unwrap();
        assert_eq!(stream.status(), 200);
        let expired = async {
            loop {
                let asked = Utc::now();
                let (status, page) = session.get("/ui/deliveries").await;
                if status == 401 {
                    return assert!(Utc::now() >= expires_at - TimeDelta::seconds(1) && page.contains(said), "{page}");
                }
                assert!(status == 200 && asked < expires_at, "{status} at {asked}");
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(SOON, expired).await.expect("it expires");
        let ended = async { while stream.chunk().await.unwrap().is_some() {} };
        tokio::time::timeout(SOON, ended).await.expect("the stream ends");
    }
    world.finish().await;
}

#[tokio::test]
async fn links_are_written_down_without_their_tokens() {
    let world = World::new().await;
    let once = world.request(Method::POST, "/portal-links").header("Idempotency-Key", "once");
    let body = json!({"tenant_id": "acme", "label": "Ada", "access": "manage"}).to_string();
    let made = answer(once.try_clone().unwrap().body(body.clone())).await.expect(201);
    assert_eq!(answer(once.body(body)).await.expect(201), made, "the same request gets the same link");
    let token = token(&made);
    world.call(Method::DELETE, &format!("/portal-links/{}", id(&made)), None).await.expect(200);
    let entries = data(&world.get(&format!("/audit-log?target_id={}", id(&made))).await);
    let actions: Vec<_> = entries.iter().map(|entry| text(entry, "action")).collect();
    assert_eq!(actions, ["portal_link.revoked", "portal_link.created"]);
    for entry in &entries {
        assert_eq!((&entry["actor"], &entry["tenant_id"]), (&json!("admin_key"), &json!("acme")), "{entry}");
        assert_eq!((&entry["after"]["name"], &entry["after"]["scopes"]), (&json!("Ada"), &json!(["manage"])));
        assert!(entry["after"]["expires_at"].is_string(), "{entry}");
    }
    let kept: String = stored(&world, &[]).await.into_values().collect();
    assert!(kept.contains(&token[..9]) && !kept.contains(&token[3..]), "its beginning is kept, and no more");
    world.finish().await;
}

#[tokio::test]
async fn a_link_begins_with_the_public_url_and_leads_somewhere() {
    let off = World::with(&[("POSTRIDER_DASHBOARD", "off")]).await;
    let body = json!({"tenant_id": "acme"});
    let problem = off.call(Method::POST, "/portal-links", Some(body.clone())).await.problem(409);
    assert!(text(&problem, "detail").contains("POSTRIDER_PUBLIC_URL"), "{problem}");
    off.finish().await;
    let public = ("POSTRIDER_PUBLIC_URL", "https://hooks.example.com/postrider/");
    let world = World::with(&[public, ("POSTRIDER_DASHBOARD", "off")]).await;
    let url = text(&link(&world, body).await, "url");
    assert!(url.starts_with("https://hooks.example.com/postrider/ui/portal#pr_"), "{url}");
    world.finish().await;
    let world = World::with(&[public]).await;
    let admin = Session::new(&world, KEY).await;
    let fields = [("tenant_id", "acme"), ("access", "view"), ("expires_in_seconds", "300"), ("label", "")];
    let (status, page) = admin.post("/ui/portal-links", &fields).await;
    assert!(status == 200 && page.contains("https://hooks.example.com/postrider/ui/portal#pr_"), "{page}");
    let (status, page) = admin.post("/ui/portal-links", &[("tenant_id", ""), ("expires_in_seconds", "1")]).await;
    assert!(status == 422 && page.contains("No link was made: tenant_id") && page.contains("from 300 to 86400"));
    world.finish().await;
}
