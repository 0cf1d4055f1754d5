//! Tenants: what a key of one tenant reaches, on every route of the `OpenAPI` document.

use std::collections::BTreeSet;

use postrider_core::id::{DeliveryId, EmitterId, EventId, JobId, KeyId, SubscriptionId};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    stored::stored,
    world::{Answer, World, answer, id},
};

/// Creates an API key; answers its id and its text.
pub async fn key(world: &World, scopes: &[&str], tenant: Option<&str>) -> (String, String) {
    let body = json!({"name": "a key", "scopes": scopes, "tenant_id": tenant});
    let created = world.call(Method::POST, "/api-keys", Some(body)).await.expect(201);
    (id(&created), text(&created, "key"))
}

pub fn text(thing: &Value, field: &str) -> String {
    thing[field].as_str().unwrap_or_else(|| panic!("no {field} in {thing}")).to_owned()
}

pub fn data(list: &Value) -> Vec<Value> {
    list["data"].as_array().unwrap_or_else(|| panic!("no list: {list}")).clone()
}

/// Calls the api with this key.
pub async fn call(world: &World, key: &str, method: &Method, path: &str, body: Option<Value>) -> Answer {
    let mut request = world.anonymous(method.clone(), path).bearer_auth(key);
    if let Some(body) = body {
        request = request.body(body.to_string());
    }
    answer(request).await
}

/// What an id names.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Tenant,
    Subscription,
    Event,
    Delivery,
    Job,
    Emitter,
    ApiKey,
    PortalLink,
}

/// A tenant with one of everything that has an id, and with a key that opens all of it.
pub struct Tenant {
    name: &'static str,
    pub admin: String,
    pub subscription: String,
    event: String,
    dead_letter: String,
    job: String,
    emitter: String,
    api_key: String,
    portal_link: String,
}

impl Tenant {
    pub async fn new(world: &World, name: &'static str) -> Self {
        let admin = key(world, &["admin"], Some(name)).await.1;
        let once = json!({"tenant_id": name, "retry_policy": {"delays_seconds": []}});
        let subscription = id(&world.subscribe("/fail", once).await);
        let dead_letter = world.ingest(&subscription, "payload").await;
        while world.drain().await > 0 {}
        let delivery = world.delivery(&dead_letter).await;
        assert_eq!(delivery["status"], "dead_letter");
        let range = json!({"since": "2025-01-01T00:00:00Z", "statuses": ["succeeded"]});
        let replay = world.call(Method::POST, &format!("/subscriptions/{subscription}/replay"), Some(range)).await;
        // It is stopped at once, so that it makes nothing.
        let stream = json!({"subscription_id": subscription, "rate_per_second": 0.01});
        let emitter = id(&world.call(Method::POST, "/emitters", Some(stream)).await.expect(201));
        world.call(Method::DELETE, &format!("/emitters/{emitter}"), None).await.expect(200);
        let link = json!({"tenant_id": name});
        let portal_link = id(&world.call(Method::POST, "/portal-links", Some(link)).await.expect(201));
        Self {
            name,
            portal_link,
            emitter,
            admin,
            subscription,
            event: text(&delivery, "event_id"),
            dead_letter,
            job: id(&replay.expect(202)),
            api_key: key(world, &["read"], Some(name)).await.0,
        }
    }

    /// Ids that belong to nothing.
    pub fn nobody() -> Self {
        Self {
            name: "nobody",
            admin: String::new(),
            subscription: SubscriptionId::new().to_string(),
            event: EventId::new().to_string(),
            dead_letter: DeliveryId::new().to_string(),
            job: JobId::new().to_string(),
            emitter: EmitterId::new().to_string(),
            api_key: KeyId::new().to_string(),
            portal_link: KeyId::new().to_string(),
        }
    }

    /// The id that belongs into a route of the dashboard, such as `/ui/deliveries/:id`.
    pub fn of_route(&self, route: &str) -> &str {
        match route.split('/').nth(2) {
            Some("deliveries" | "dead-letters") => &self.dead_letter,
            Some("subscriptions") => &self.subscription,
            Some("events") => &self.event,
            Some("jobs") => &self.job,
            Some("emitters") => &self.emitter,
            Some("keys") => &self.api_key,
            Some("portal-links") => &self.portal_link,
            _ => "",
        }
    }

    fn id(&self, kind: Kind) -> &str {
        match kind {
            Kind::Tenant => self.name,
            Kind::Subscription => &self.subscription,
            Kind::Event => &self.event,
            Kind::Delivery => &self.dead_letter,
            Kind::Job => &self.job,
            Kind::Emitter => &self.emitter,
            Kind::ApiKey => &self.api_key,
            Kind::PortalLink => &self.portal_link,
        }
    }
}

/// An operation of the `OpenAPI` document.
pub struct Operation {
    pub method: Method,
    pub template: String,
    /// The parameters that are ids: the name, what the id names, and whether every request needs it.
    ids: Vec<(String, Kind, bool)>,
    is_list: bool,
    pub is_guarded: bool,
    takes_body: bool,
}

impl Operation {
    pub async fn all(world: &World) -> Vec<Self> {
        let document = world.get("/openapi.json").await;
        let mut all = Vec::new();
        for (template, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let parameters: Vec<_> = operation["parameters"].as_array().into_iter().flatten().collect();
                let ids = parameters.iter().filter_map(|parameter| {
                    let name = parameter["name"].as_str().unwrap().to_owned();
                    kind(template, parameter).map(|kind| (name, kind, parameter["required"] == true))
                });
                all.push(Self {
                    method: method.to_uppercase().parse().unwrap(),
                    template: template.clone(),
                    ids: ids.collect(),
                    is_list: !template.contains('{')
                        && parameters.iter().any(|parameter| parameter["name"] == "cursor"),
                    is_guarded: operation["security"].as_array().is_some_and(|schemes| !schemes.is_empty()),
                    takes_body: operation.get("requestBody").is_some(),
                });
            }
        }
        all
    }

    /// A path in which the parameter `probed` has the id of `whose`, and all other ids are those of `others`.
    pub fn path(&self, probed: &str, whose: &Tenant, others: &Tenant) -> String {
        let (mut path, mut query) = (self.template.clone(), Vec::new());
        for (name, kind, required) in &self.ids {
            let value = if name == probed { whose.id(*kind) } else { others.id(*kind) };
            let place = format!("{{{name}}}");
            if path.contains(&place) {
                path = path.replace(&place, value);
            } else if *required || name == probed {
                query.push(format!("{name}={value}"));
            }
        }
        if query.is_empty() { path } else { format!("{path}?{}", query.join("&")) }
    }

    /// A body that breaks no rule; `None` where the operation takes no body.
    fn body(&self, world: &World) -> Option<Value> {
        self.takes_body.then(|| match (self.method.as_str(), self.template.as_str()) {
            (
                "POST",
                "/webhooks/ingest/{subscription_id}"
                | "/events/{id}/replay"
                | "/subscriptions/{id}/rotate-secret"
                | "/subscriptions/{id}/test",
            )
            | ("PATCH", "/jobs/{id}") => json!({}),
            ("PUT" | "PATCH", "/subscriptions/{id}") => json!({"target_url": world.receiver.url("/success")}),
            ("POST", "/subscriptions/{id}/replay") => json!({"since": "2025-01-01T00:00:00Z"}),
            (method, template) => panic!("no test knows what body {method} {template} takes"),
        })
    }
}

/// What the id in a parameter names; `None` where the parameter is no id.
fn kind(template: &str, parameter: &Value) -> Option<Kind> {
    let name = parameter["name"].as_str().unwrap();
    let named = match parameter["in"].as_str().unwrap() {
        "path" => template.split(&format!("/{{{name}}}")).next()?.rsplit('/').next()?,
        // These may name anything at all; `a_list_shows_a_key_its_own_tenants_things_only` tries the first one.
        "query" if (name == "target_id" && template == "/audit-log") || name == "external_id" => return None,
        "query" if name == "subscription" || name.ends_with("_id") => name,
        _ => return None,
    };
    Some(match named {
        "tenant_id" => Kind::Tenant,
        "subscriptions" | "ingest" | "subscription" | "subscription_id" => Kind::Subscription,
        "events" | "event_id" => Kind::Event,
        "deliveries" | "dead-letters" => Kind::Delivery,
        "jobs" | "job_id" => Kind::Job,
        "emitters" => Kind::Emitter,
        "api-keys" => Kind::ApiKey,
        "portal-links" => Kind::PortalLink,
        unknown => panic!("no test knows what `{name}` of {template} names: {unknown}"),
    })
}

#[tokio::test]
async fn whatever_is_another_tenants_is_not_there_on_any_route() {
    let world = World::new().await;
    let (acme, bolt, nobody) = (Tenant::new(&world, "acme").await, Tenant::new(&world, "bolt").await, Tenant::nobody());
    // Two tables are left out: the last uses of keys and the visits to lanes are written at any time.
    let before = stored(&world, &["api_keys", "lanes"]).await;
    let mut probes = 0;
    let mut operations = Operation::all(&world).await;
    // Routes without a key, such as those of public keys, are open to every tenant.
    operations.retain(|operation| operation.is_guarded);
    for operation in &operations {
        for (probed, ..) in &operation.ids {
            let mut answers = Vec::new();
            for whose in [&acme, &nobody] {
                let path = operation.path(probed, whose, &bolt);
                let answer = call(&world, &bolt.admin, &operation.method, &path, operation.body(&world)).await;
                assert_eq!(answer.status, 404, "{} {path}: {}", operation.method, answer.body);
                answers.push(answer.problem(404));
            }
            assert_eq!(answers[0], answers[1], "what exists looks like what does not");
            probes += 1;
        }
    }
    assert!(probes >= 42, "{probes} ids were tried");
    assert_eq!(stored(&world, &["api_keys", "lanes"]).await, before, "nothing was changed");
    let revoked = "SELECT count(*) FROM api_keys WHERE revoked_at IS NOT NULL";
    assert_eq!(sqlx::query_scalar::<_, i64>(revoked).fetch_one(&world.pool).await.unwrap(), 0);

    for operation in operations.iter().filter(|operation| !operation.ids.is_empty()) {
        let fresh = if operation.method == Method::GET { None } else { Some(Tenant::new(&world, "acme").await) };
        let own = fresh.as_ref().unwrap_or(&acme);
        for (probed, ..) in &operation.ids {
            let path = operation.path(probed, own, own);
            let answer = call(&world, &own.admin, &operation.method, &path, operation.body(&world)).await;
            let fits = answer.status.is_success() || answer.status == 409;
            assert!(fits, "{} {path} by its owner: {} {}", operation.method, answer.status, answer.body);
        }
    }
    while world.drain().await > 0 {}
    world.finish().await;
}

#[tokio::test]
async fn a_list_shows_a_key_its_own_tenants_things_only() {
    let world = World::new().await;
    let acme = Tenant::new(&world, "acme").await;
    let (stranger, stranger_key) = key(&world, &["admin"], Some("stranger")).await;
    let lists: BTreeSet<String> =
        Operation::all(&world).await.into_iter().filter(|one| one.is_list).map(|one| one.template).collect();
    let expected = [
        "/api-keys",
        "/audit-log",
        "/dead-letters",
        "/deliveries",
        "/deliveries/export",
        "/emitters",
        "/events",
        "/jobs",
        "/portal-links",
        "/subscriptions",
        "/tenants",
    ];
    assert_eq!(lists, expected.map(str::to_owned).into(), "each is tried here, or where it is named");
    // These have tests of their own: numbers of tenants change at any time, and an export is no JSON.
    for list in lists.into_iter().filter(|list| !["/tenants", "/deliveries/export"].contains(&list.as_str())) {
        let everybodys = data(&world.get(&list).await);
        let owners = data(&call(&world, &acme.admin, &Method::GET, &list, None).await.expect(200));
        let strangers = data(&call(&world, &stranger_key, &Method::GET, &list, None).await.expect(200));
        let of = |name: &str| everybodys.iter().filter(|one| tenant(one) == name).cloned().collect::<Vec<_>>();
        assert!(!owners.is_empty(), "{list}");
        assert_eq!(owners, of("acme"), "{list}");
        assert_eq!(strangers, of("stranger"), "{list}");
        match list.as_str() {
            "/api-keys" => assert_eq!(strangers.iter().map(id).collect::<Vec<_>>(), std::slice::from_ref(&stranger)),
            "/audit-log" => assert_eq!(strangers.iter().map(|one| &one["target_id"]).collect::<Vec<_>>(), [&stranger]),
            _ => assert_eq!(strangers, Vec::<Value>::new(), "{list}"),
        }
    }
    for target in [&acme.subscription, &acme.api_key, &acme.job] {
        let path = format!("/audit-log?target_id={target}");
        assert_eq!(data(&call(&world, &acme.admin, &Method::GET, &path, None).await.expect(200)).len(), 1);
        assert_eq!(data(&call(&world, &stranger_key, &Method::GET, &path, None).await.expect(200)).len(), 0);
    }
    world.finish().await;
}

/// The tenant of a thing; a dead letter names the tenant in its delivery.
fn tenant(thing: &Value) -> &str {
    thing.get("delivery").unwrap_or(thing)["tenant_id"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn what_a_key_creates_is_its_own_tenants() {
    let world = World::new().await;
    let (acme, bolt) = (Tenant::new(&world, "acme").await, Tenant::new(&world, "bolt").await);
    let before = stored(&world, &["api_keys", "lanes"]).await;
    let target = world.receiver.url("/success");
    let event = json!({"event_type": "a.b", "payload": 1});
    let cases = [
        ("/events", "event_id", event.clone()),
        ("/deliveries", "delivery_id", json!({"target_url": target, "payload": 1})),
        ("/subscriptions", "id", json!({"target_url": target})),
        ("/emitters", "id", json!({"rate_per_second": 0.01})),
        ("/api-keys", "id", json!({"name": "made by bolt", "scopes": ["read"]})),
        ("/portal-links", "id", json!({"label": "made by bolt"})),
    ];
    let create = async |path: &str, body: Value| call(&world, &bolt.admin, &Method::POST, path, Some(body)).await;
    let named = |body: &Value, tenant: &str| {
        let mut body = body.clone();
        body["tenant_id"] = tenant.into();
        body
    };
    for (path, _, body) in &cases {
        create(path, named(body, "acme")).await.problem(404);
    }
    create("/events/batch", json!({"events": [event, named(&event, "acme")]})).await.problem(404);
    assert_eq!(stored(&world, &["api_keys", "lanes"]).await, before, "nothing was created");

    for (path, field, body) in &cases {
        for body in [body.clone(), named(body, "bolt")] {
            let made = create(path, body).await;
            assert!(made.status.is_success(), "{path}: {}", made.body);
            let made = text(&made.body, field);
            let listed = data(&world.get(path).await).into_iter().find(|one| one["id"] == made).unwrap();
            assert_eq!(tenant(&listed), "bolt", "{path}");
        }
    }
    // One delivery to Acme is expected: the dead letter of Acme's own subscription.
    for owed in data(&world.get("/deliveries").await) {
        let to = owed.get("subscription_id").unwrap_or(&Value::Null);
        assert!(tenant(&owed) == "bolt" || *to == acme.subscription && owed["id"] == acme.dead_letter, "{owed}");
    }
    while world.drain().await > 0 {}
    world.finish().await;
}

#[tokio::test]
async fn dead_letters_in_bulk_are_the_keys_own_tenants_only() {
    let world = World::new().await;
    let (acme, bolt) = (Tenant::new(&world, "acme").await, Tenant::new(&world, "bolt").await);
    let before = world.get("/dead-letters?tenant_id=acme").await;
    assert_eq!(data(&before).len(), 1);
    let bulk = async |verb: &str, body: Value| {
        call(&world, &bolt.admin, &Method::POST, &format!("/dead-letters/{verb}"), Some(body)).await
    };
    let (all, ever) = (json!({}), json!({"until": "2999-01-01T00:00:00Z"}));
    for (verb, body) in [("retry", &all), ("purge", &ever)] {
        for (field, value) in [("tenant_id", "acme"), ("subscription_id", &acme.subscription)] {
            let mut body = body.clone();
            body[field] = value.into();
            bulk(verb, body).await.problem(404);
        }
    }
    assert_eq!(bulk("retry", all.clone()).await.expect(200)["count"], 1, "its own");
    assert_eq!(world.drain().await, 1);
    assert_eq!(bulk("purge", ever).await.expect(200)["count"], 1, "its own");
    assert_eq!(bulk("retry", all).await.expect(200)["count"], 0);
    assert_eq!(data(&world.get("/dead-letters?tenant_id=bolt").await).len(), 0);
    assert_eq!(world.get("/dead-letters?tenant_id=acme").await, before);
    world.finish().await;
}
