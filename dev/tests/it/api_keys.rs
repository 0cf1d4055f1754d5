//! API keys: what each scope opens, when a key ends, and what is written down of the key and of what it did.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    access::{Operation, Tenant, call, data, key, text},
    world::{KEY, SOON, World, answer, client, id, serve},
};

/// Each scope, with the scopes that it includes.
const SCOPES: [(&str, &[&str]); 4] = [
    ("admin", &["admin", "manage", "ingest", "read"]),
    ("manage", &["manage", "read"]),
    ("ingest", &["ingest"]),
    ("read", &["read"]),
];
/// The paths that need the scope `admin`.
const ADMINS: [&str; 4] = ["/api-keys", "/audit-log", "/portal-links", "/processes"];
/// Two signing secrets of the form that callers send.
const SECRETS: [&str; 2] = ["whsec_Zmlyc3RzZWNyZXRmaXJzdHNlY3JldDEx", "whsec_c2Vjb25kc2VjcmV0c2Vjb25kc2VjcmV0"];

/// The scope that an operation needs.
fn scope(operation: &Operation) -> &'static str {
    match (operation.method.as_str(), operation.template.as_str()) {
        (_, template) if ADMINS.iter().any(|path| template.starts_with(path)) => "admin",
        ("GET", "/subscriptions/{id}/secret") => "manage",
        ("GET", _) | ("POST", "/jobs/count") => "read",
        ("POST", "/events" | "/events/batch" | "/deliveries" | "/webhooks/ingest/{subscription_id}") => "ingest",
        _ => "manage",
    }
}

#[tokio::test]
async fn every_route_asks_for_a_key_with_its_scope() {
    let world = World::new().await;
    let nobody = Tenant::nobody();
    let mut keys = Vec::new();
    for (granted, includes) in SCOPES {
        keys.push((granted, includes, key(&world, &[granted], None).await.1));
    }
    let (mut open, mut asked) = (Vec::new(), BTreeSet::new());
    for operation in Operation::all(&world).await {
        let (method, path) = (&operation.method, operation.path("", &nobody, &nobody));
        let anonymous = answer(world.anonymous(method.clone(), &path)).await;
        if !operation.is_guarded {
            assert_ne!(anonymous.status, 401, "{path}");
            open.push(operation.template);
            continue;
        }
        assert_eq!(anonymous.status, 401, "{method} {path}: {}", anonymous.body);
        assert!(anonymous.headers.contains_key("www-authenticate"), "{method} {path}");
        assert_eq!(anonymous.problem(401)["code"], "unauthorized");
        call(&world, "pr_nobodys", method, &path, None).await.problem(401);
        let basic = world.anonymous(method.clone(), &path).header("Authorization", format!("Basic {KEY}"));
        answer(basic).await.problem(401);
        asked.insert(scope(&operation));
        for (granted, includes, key) in &keys {
            let answer = call(&world, key, method, &path, None).await;
            if includes.contains(&scope(&operation)) {
                // The ids and bodies are made up, so a refusal for those means that the key was let in.
                let passed = [200, 202, 400, 404, 422].contains(&answer.status.as_u16());
                assert!(passed, "{method} {path} with {granted}: {} {}", answer.status, answer.body);
            } else {
                assert_eq!(answer.status, 403, "{method} {path} with {granted}: {}", answer.body);
                assert_eq!(answer.problem(403)["code"], "forbidden");
            }
        }
    }
    open.sort_unstable();
    // GET and HEAD of ingest answer what providers ask, and they have no key.
    let ingest = "/webhooks/ingest/{subscription_id}";
    let public = ["/health/live", "/health/ready", "/metrics", "/subscriptions/{id}/jwks.json", ingest, ingest];
    assert_eq!(open, public);
    assert_eq!(asked, SCOPES.map(|(scope, _)| scope).into(), "each is asked for somewhere");
    world.finish().await;
}

#[tokio::test]
async fn a_key_has_the_scopes_that_it_was_given_and_no_others() {
    let world = World::new().await;
    let both = key(&world, &["read", "ingest", "read"], None).await.1;
    let event = json!({"event_type": "a.b", "payload": 1});
    let published = call(&world, &both, &Method::POST, "/events", Some(event)).await.expect(202);
    let path = format!("/events/{}", text(&published, "event_id"));
    call(&world, &both, &Method::GET, &path, None).await.expect(200);
    call(&world, &both, &Method::POST, &format!("{path}/replay"), Some(json!({}))).await.problem(403);

    for (body, field) in [
        (json!({"name": "x", "scopes": []}), "scopes"),
        (json!({"name": "x"}), "scopes"),
        (json!({"name": "x", "scopes": ["read", "root"]}), "scopes[1]"),
        (json!({"name": "", "scopes": ["read"]}), "name"),
        (json!({"name": "x", "scopes": ["read"], "tenant_id": ""}), "tenant_id"),
        (json!({"name": "x", "scopes": ["read"], "expires_at": "2020-01-01T00:00:00Z"}), "expires_at"),
        (json!({"name": "x", "scopes": ["read"], "key": "pr_of_my_own"}), "key"),
    ] {
        let problem = world.call(Method::POST, "/api-keys", Some(body.clone())).await.problem(422);
        assert_eq!(problem["errors"][0]["field"], field, "{body}: {problem}");
    }
    let listed = data(&world.get("/api-keys").await);
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0]["scopes"], json!(["read", "ingest"]));
    assert!(listed[0].get("key").is_none(), "it was shown once");
    world.finish().await;
}

#[tokio::test]
async fn a_revoked_key_opens_nothing_on_any_process() {
    let world = World::new().await;
    let (other, (stop, serving)) = serve(&world.env).await;
    let (id, text) = key(&world, &["read"], None).await;
    let client = client();
    let at = async |base: &str| answer(client.get(format!("{base}/events")).bearer_auth(&text)).await;
    for base in [&world.base, &other] {
        at(base).await.expect(200);
    }
    let path = format!("/api-keys/{id}");
    let revoked = world.call(Method::DELETE, &path, None).await.expect(200)["revoked_at"].clone();
    assert!(revoked.is_string());
    at(&world.base).await.problem(401);
    let heard = async {
        while at(&other).await.status != 401 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, heard).await.expect("the other process hears of it");
    for base in [&other, &world.base] {
        at(base).await.problem(401);
    }
    let again = world.call(Method::DELETE, &path, None).await.expect(200);
    assert_eq!(again["revoked_at"], revoked, "once is enough");
    assert_eq!(data(&world.get(&format!("/audit-log?action=api_key.revoked&target_id={id}")).await).len(), 1);
    stop.cancel();
    serving.await.unwrap();
    world.finish().await;
}

#[tokio::test]
async fn a_key_expires_by_itself() {
    let world = World::new().await;
    let expires_at = Utc::now() + TimeDelta::seconds(2);
    let body = json!({"name": "for a moment", "scopes": ["read"], "expires_at": expires_at.to_rfc3339()});
    let created = world.call(Method::POST, "/api-keys", Some(body)).await.expect(201);
    let expired = async {
        loop {
            let asked = Utc::now();
            let answer = call(&world, &text(&created, "key"), &Method::GET, "/events", None).await;
            if answer.status == 401 {
                answer.problem(401);
                return Utc::now();
            }
            answer.expect(200);
            assert!(asked < expires_at, "it was good for something at {asked}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let expired = tokio::time::timeout(SOON, expired).await.expect("it expires");
    assert!(expired >= expires_at, "good for nothing at {expired} already");
    world.finish().await;
}

#[tokio::test]
async fn when_a_key_was_last_used_is_written_down_at_the_latest_when_the_api_stops() {
    let world = World::new().await;
    let (other, (stop, serving)) = serve(&world.env).await;
    let (used, text) = key(&world, &["read"], None).await;
    let unused = key(&world, &["read"], None).await.0;
    let shown = async |id: &str| data(&world.get("/api-keys").await).into_iter().find(|one| one["id"] == id).unwrap();
    assert!(shown(&used).await.get("last_used_at").is_none());
    let before = Utc::now();
    answer(client().get(format!("{other}/events")).bearer_auth(&text)).await.expect(200);
    let after = Utc::now();
    stop.cancel();
    serving.await.unwrap();
    let last: DateTime<Utc> = shown(&used).await["last_used_at"].as_str().unwrap().parse().unwrap();
    assert!((before.timestamp_micros()..=after.timestamp_micros()).contains(&last.timestamp_micros()), "{last}");
    assert!(shown(&unused).await.get("last_used_at").is_none());
    world.finish().await;
}

/// The entries of the audit log, the oldest first.
async fn entries(world: &World, query: &str) -> Vec<Value> {
    let mut entries = data(&world.get(&format!("/audit-log?limit=250&{query}")).await);
    entries.reverse();
    entries
}

#[tokio::test]
async fn every_change_is_written_down_and_no_secret_with_it() {
    let world = World::new().await;
    let (actor, key) = key(&world, &["admin"], Some("acme")).await;
    let act = async |method: Method, path: &str, body: Value| {
        let answer = call(&world, &key, &method, path, Some(body).filter(|body| !body.is_null())).await;
        assert!(answer.status.is_success(), "{method} {path}: {}", answer.body);
        answer.body
    };
    let headers = |secret: &str| json!({"authorization": format!("Bearer sesame-{secret}"), "x-team": "blue"});
    let target = world.receiver.url("/success");
    let body = json!({"target_url": target, "name": "was", "headers": headers("one"), "secret": SECRETS[0]});
    let subscription = id(&act(Method::POST, "/subscriptions", body).await);
    let path = format!("/subscriptions/{subscription}");
    act(Method::PATCH, &path, json!({"name": "is", "headers": headers("two"), "secret": SECRETS[1]})).await;
    for verb in ["pause", "pause", "resume"] {
        act(Method::POST, &format!("{path}/{verb}"), Value::Null).await;
    }
    act(Method::GET, &format!("{path}/secret"), Value::Null).await;
    act(Method::DELETE, &path, Value::Null).await;
    let spare = act(Method::POST, "/api-keys", json!({"name": "spare", "scopes": ["read"]})).await;
    act(Method::DELETE, &format!("/api-keys/{}", id(&spare)), Value::Null).await;

    let of_subscription = entries(&world, &format!("target_id={subscription}")).await;
    let shown =
        of_subscription.iter().map(|one| (text(one, "action"), one["before"].is_object(), one["after"].is_object()));
    let expected = [
        ("subscription.created", false, true),
        ("subscription.changed", true, true),
        ("subscription.paused", true, true),
        ("subscription.resumed", true, true),
        ("subscription.secret_shown", false, false),
        ("subscription.deleted", true, false),
    ];
    assert_eq!(shown.collect::<Vec<_>>(), expected.map(|(action, before, after)| (action.to_owned(), before, after)));
    let of_spare = entries(&world, &format!("target_id={}", id(&spare))).await;
    assert_eq!(
        of_spare.iter().map(|one| text(one, "action")).collect::<Vec<_>>(),
        ["api_key.created", "api_key.revoked"]
    );
    for entry in of_subscription.iter().chain(&of_spare) {
        assert_eq!((&entry["actor"], &entry["tenant_id"]), (&json!(actor), &json!("acme")), "{entry}");
    }
    let changes = [
        (&of_subscription[0], "name", Value::Null, json!("was")),
        (&of_subscription[1], "name", json!("was"), json!("is")),
        (&of_subscription[1], "secret", Value::Null, json!("[changed]")),
        (&of_subscription[1], "target_url", json!(target), json!(target)),
        (&of_subscription[2], "state", json!("active"), json!("paused")),
        (&of_subscription[3], "state", json!("paused"), json!("active")),
        (&of_subscription[5], "name", json!("is"), Value::Null),
        (&of_spare[0], "hint", Value::Null, spare["hint"].clone()),
        (&of_spare[1], "name", json!("spare"), json!("spare")),
    ];
    for (entry, field, before, after) in changes {
        assert_eq!((&entry["before"][field], &entry["after"][field]), (&before, &after), "{field} of {entry}");
    }
    assert!(of_spare[1]["before"]["revoked_at"].is_null() && of_spare[1]["after"]["revoked_at"].is_string());
    assert_eq!(of_subscription[0]["after"]["headers"], json!({"authorization": "[redacted]", "x-team": "blue"}));
    let everything = json!(entries(&world, "").await).to_string();
    for secret in [SECRETS[0], SECRETS[1], "sesame", &key, &text(&spare, "key")] {
        assert!(!everything.contains(secret), "{secret} was written down");
    }
    world.finish().await;
}

#[tokio::test]
async fn the_audit_log_is_filtered_by_who_what_whose_and_when() {
    let world = World::new().await;
    let (acme, bolt) = (Tenant::new(&world, "acme").await, Tenant::new(&world, "bolt").await);
    let actor = data(&call(&world, &acme.admin, &Method::GET, "/api-keys", None).await.expect(200)).pop().unwrap();
    let actor = id(&actor);
    call(&world, &acme.admin, &Method::POST, &format!("/subscriptions/{}/pause", acme.subscription), None)
        .await
        .expect(200);
    world.post(&format!("/subscriptions/{}/pause", bolt.subscription)).await;
    // One entry is moved an hour into the past.
    let moved = "UPDATE audit_log SET created_at = created_at - interval '1 hour',
                        id = uuid_floor(created_at - interval '1 hour')
                  WHERE action = 'subscription.paused' AND target_id = $1";
    let moved = sqlx::query(moved).bind(&bolt.subscription).execute(&world.pool).await.unwrap();
    assert_eq!(moved.rows_affected(), 1);

    let all = entries(&world, "").await;
    let which = |field: &str, value: &str| all.iter().filter(|one| one[field] == value).cloned().collect::<Vec<_>>();
    for (field, value) in [
        ("action", "subscription.paused"),
        ("action", "api_key.created"),
        ("actor", "admin_key"),
        ("actor", &actor),
        ("tenant_id", "bolt"),
        ("target_id", &acme.subscription),
    ] {
        let expected = which(field, value);
        assert!(!expected.is_empty() && expected.len() < all.len(), "{field}={value}");
        assert_eq!(entries(&world, &format!("{field}={value}")).await, expected, "{field}={value}");
    }
    let times = |minutes: i64| (Utc::now() - TimeDelta::minutes(minutes)).format("%Y-%m-%dT%H:%M:%SZ").to_string();
    let (long_ago, half_an_hour_ago, later) = (times(90), times(30), times(-5));
    assert_eq!(entries(&world, &format!("until={half_an_hour_ago}")).await, all[..1]);
    assert_eq!(entries(&world, &format!("since={half_an_hour_ago}")).await, all[1..]);
    assert_eq!(entries(&world, &format!("since={long_ago}&until={later}")).await, all);
    assert_eq!(entries(&world, &format!("since={later}")).await, [] as [Value; 0]);
    assert_eq!(entries(&world, &format!("until={long_ago}")).await, [] as [Value; 0]);
    let both = format!("action=subscription.paused&tenant_id=acme&actor={actor}&since={half_an_hour_ago}");
    assert_eq!(entries(&world, &both).await, [all.last().unwrap().clone()]);
    assert_eq!(entries(&world, &format!("{both}&target_id={}", bolt.subscription)).await, [] as [Value; 0]);
    let upside_down = format!("/audit-log?since={later}&until={long_ago}");
    world.call(Method::GET, &upside_down, None).await.problem(422);

    let (mut paged, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = world.get(&format!("/audit-log?limit=2{cursor}")).await;
        paged.extend(data(&page));
        let Some(next) = page.get("next_cursor") else { break };
        cursor = format!("&cursor={}", next.as_str().unwrap());
    }
    paged.reverse();
    assert_eq!(paged, all);
    world.finish().await;
}
