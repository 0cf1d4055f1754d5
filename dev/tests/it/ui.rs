//! The dashboard over HTTP: signing in, what a key sees and may do, and where links lead.

use dev::node::dashboard_modules;
use reqwest::{Method, Response, StatusCode};

use crate::{
    access::{Tenant, key},
    stored::stored,
    world::{KEY, World, id},
};

/// A browser's session with the dashboard: its cookies, and what it says of itself.
pub struct Session<'w> {
    world: &'w World,
    cookie: String,
}

impl<'w> Session<'w> {
    /// Signs in with this key.
    pub async fn new(world: &'w World, key: &str) -> Self {
        let answer = form(world, "/ui/sign-in", &[("key", key), ("next", "")]).send().await.unwrap();
        assert_eq!(answer.status(), 303, "{}", answer.text().await.unwrap());
        let cookie = answer.headers()["set-cookie"].to_str().unwrap();
        assert!(cookie.contains("HttpOnly; SameSite=Strict"), "{cookie}");
        Self { world, cookie: cookie.split(';').next().unwrap().to_owned() }
    }

    /// The cookie that the browser sends.
    pub fn cookie(&self) -> &str {
        &self.cookie
    }

    /// Opens a page.
    pub async fn get(&self, path: &str) -> (StatusCode, String) {
        let request = self.world.anonymous(Method::GET, path).header("cookie", &self.cookie);
        read(request.send().await.unwrap()).await
    }

    /// Where a page leads at once; the page itself where it leads nowhere.
    pub async fn leads(&self, path: &str) -> (StatusCode, String) {
        let request = self.world.anonymous(Method::GET, path).header("cookie", &self.cookie);
        let answer = request.send().await.unwrap();
        let place = answer.headers().get("location").map(|place| place.to_str().unwrap().to_owned());
        let (status, page) = read(answer).await;
        (status, place.unwrap_or(page))
    }

    /// Sends a form, as a page of ours does.
    pub async fn post(&self, path: &str, fields: &[(&str, &str)]) -> (StatusCode, String) {
        read(form(self.world, path, fields).header("cookie", &self.cookie).send().await.unwrap()).await
    }

    /// Sends a form, and answers the page to which it leads, with the sentence about what was done.
    pub async fn act(&self, path: &str, fields: &[(&str, &str)]) -> String {
        let sent = form(self.world, path, fields).header("cookie", &self.cookie).send().await.unwrap();
        assert_eq!(sent.status(), 303, "{path}");
        let note = sent.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
        let here = reqwest::Url::parse(&self.world.base).unwrap().join(path).unwrap();
        let there = here.join(sent.headers()["location"].to_str().unwrap()).unwrap();
        let request = self.world.client().get(there).header("cookie", format!("{}; {note}", self.cookie));
        let (status, page) = read(request.send().await.unwrap()).await;
        assert_eq!(status, 200, "{page}");
        page
    }
}

/// A world whose pages have all that they load, where npm is there to fetch it.
pub async fn world() -> World {
    world_with(&[]).await
}

/// Like [`world`], with these variables in the environment of its processes.
pub async fn world_with(variables: &[(&str, &str)]) -> World {
    let _ = dashboard_modules().await;
    World::with(variables).await
}

/// A form from a page of ours.
pub fn form(world: &World, path: &str, fields: &[(&str, &str)]) -> reqwest::RequestBuilder {
    let request = world.anonymous(Method::POST, path).header("origin", &world.base);
    let url = reqwest::Url::parse_with_params(&world.base, fields).unwrap();
    let body = url.query().unwrap_or_default().to_owned();
    request.header("content-type", "application/x-www-form-urlencoded").body(body)
}

pub async fn read(response: Response) -> (StatusCode, String) {
    let policy = response.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(!policy.contains("unsafe") && policy.contains("default-src 'none'"), "{policy}");
    (response.status(), response.text().await.unwrap())
}

#[tokio::test]
async fn who_signs_in_sees_what_the_key_may_see() {
    let world = world().await;
    let (status, page) = Session { world: &world, cookie: String::new() }.get("/ui/deliveries").await;
    assert_eq!(status, 401);
    assert!(page.contains("action=\"sign-in\"") && page.contains("value=\"deliveries\""), "{page}");
    for wrong in ["", "pr_nobody"] {
        let answer = form(&world, "/ui/sign-in", &[("key", wrong)]).send().await.unwrap();
        assert_eq!(answer.status(), 401, "{wrong}");
        assert!(answer.headers().get("set-cookie").is_none());
    }
    let ingest = key(&world, &["ingest"], None).await.1;
    assert_eq!(form(&world, "/ui/sign-in", &[("key", &ingest)]).send().await.unwrap().status(), 403);

    let subscription = world.subscription("/success").await;
    let own = format!("/ui/subscriptions/{subscription}");
    let admin = Session::new(&world, KEY).await;
    let (status, page) = admin.get(&own).await;
    assert_eq!(status, 200);
    assert!(page.contains("/pause\""), "a button: {page}");
    let reader = Session::new(&world, &key(&world, &["read"], None).await.1).await;
    let (status, page) = reader.get(&own).await;
    assert_eq!(status, 200);
    for absent in ["/pause\"", "/rotate\"", "Begin the replay"] {
        assert!(!page.contains(absent), "{absent} in {page}");
    }
    let (_, before) = admin.get(&own).await;
    let (status, _) = reader.post(&format!("{own}/pause"), &[]).await;
    assert_eq!(status, 303, "the reason is shown on the page");
    assert!(before.contains("Active") && admin.get(&own).await.1.contains("Active"), "nothing was done");
    for (path, status) in [("/ui/keys", 403), ("/ui/audit", 403), ("/ui/subscriptions/new", 403), ("/ui/nothing", 404)]
    {
        assert_eq!(reader.get(path).await.0, status, "{path}");
    }
    world.finish().await;
}

#[tokio::test]
async fn revoking_a_key_ends_its_sessions() {
    let world = world().await;
    let (key_id, text) = key(&world, &["manage"], None).await;
    let session = Session::new(&world, &text).await;
    assert_eq!(session.get("/ui/").await.0, 200);
    world.call(Method::DELETE, &format!("/api-keys/{key_id}"), None).await.expect(200);
    assert_eq!(session.get("/ui/").await.0, 401);
    let forged = Session { world: &world, cookie: session.cookie.replace("postrider_session=", "postrider_session=A") };
    assert_eq!(forged.get("/ui/").await.0, 401);
    world.finish().await;
}

#[tokio::test]
async fn over_https_the_session_belongs_to_this_host_only() {
    let world = world().await;
    let behind_proxy = form(&world, "/ui/sign-in", &[("key", KEY)]).header("x-forwarded-proto", "https");
    let answer = behind_proxy.send().await.unwrap();
    let cookie = answer.headers()["set-cookie"].to_str().unwrap();
    assert!(cookie.starts_with("__Host-postrider_session=") && cookie.ends_with("; Secure"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap().to_owned();
    assert_eq!(Session { world: &world, cookie }.get("/ui/").await.0, 200);
    world.finish().await;
}

#[tokio::test]
async fn a_first_view_is_small() {
    let world = world().await;
    let session = Session::new(&world, KEY).await;
    let packed = async |path: String| {
        let request = world.anonymous(Method::GET, &path).header("cookie", &session.cookie);
        let answer = request.header("accept-encoding", "gzip").send().await.unwrap();
        assert_eq!(answer.headers()["content-encoding"], "gzip", "{path}");
        answer.bytes().await.unwrap().len()
    };
    let (_, page) = session.get("/ui/").await;
    let mut bytes = packed("/ui/".to_owned()).await;
    let mut files: Vec<_> = page.split(['"', '#']).filter(|part| part.starts_with("assets/")).collect();
    files.sort_unstable();
    files.dedup();
    assert!(files.len() >= 4, "{files:?}");
    for file in &files {
        bytes += packed(format!("/ui/{file}")).await;
    }
    assert!(bytes < 60_000, "{bytes} bytes for {files:?}");
    assert_eq!(world.anonymous(Method::GET, "/ui/assets/style.css").send().await.unwrap().status(), 404);
    world.finish().await;
}

#[tokio::test]
async fn a_form_from_another_site_is_not_taken() {
    let world = world().await;
    let subscription = world.subscription("/success").await;
    let session = Session::new(&world, KEY).await;
    let path = format!("/ui/subscriptions/{subscription}/pause");
    let sent = |name: &'static str, value: &'static str| {
        let request = world.anonymous(Method::POST, &path).header("cookie", &session.cookie);
        request.header(name, value).send()
    };
    for (name, value) in [
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("sec-fetch-site", "none"),
        ("x-nothing", "said"),
    ] {
        assert_eq!(sent(name, value).await.unwrap().status(), 403, "{name}: {value}");
    }
    assert_eq!(world.get(&format!("/subscriptions/{subscription}")).await["state"], "active");
    assert_eq!(sent("sec-fetch-site", "same-origin").await.unwrap().status(), 303);
    assert_eq!(world.get(&format!("/subscriptions/{subscription}")).await["state"], "paused");
    // A link from elsewhere brings no cookie; the page then has the browser come again from here.
    let request = world.anonymous(Method::GET, "/ui/").header("sec-fetch-site", "cross-site");
    let (status, page) = read(request.header("sec-fetch-mode", "navigate").send().await.unwrap()).await;
    assert!(status == 200 && page.contains("http-equiv=\"refresh\""), "{page}");
    world.finish().await;
}

#[tokio::test]
async fn whatever_is_another_tenants_is_not_there_on_any_page() {
    let world = world().await;
    let (acme, bolt, nobody) = (Tenant::new(&world, "acme").await, Tenant::new(&world, "bolt").await, Tenant::nobody());
    let before = stored(&world, &["api_keys", "lanes"]).await;
    let (stranger, owner) = (Session::new(&world, &bolt.admin).await, Session::new(&world, &acme.admin).await);
    let mut probes = 0;
    for (method, route) in api::ui::routes::ROUTES.into_iter().filter(|(_, route)| route.contains(":id")) {
        let mut answers = Vec::new();
        for whose in [&acme, &nobody] {
            let path = route.replace(":id", whose.of_route(route));
            let (status, page) =
                if method == "GET" { stranger.get(&path).await } else { stranger.post(&path, &[]).await };
            assert_eq!(status, 404, "{method} {path}");
            answers.push(page.replace(whose.of_route(route), ""));
        }
        assert_eq!(answers[0], answers[1], "what exists looks like what does not: {method} {route}");
        probes += 1;
    }
    assert!(probes >= 25, "{probes} routes were tried");
    assert_eq!(stored(&world, &["api_keys", "lanes"]).await, before, "nothing was changed");
    for (method, route) in api::ui::routes::ROUTES {
        if method == "GET" {
            let path = route.replace(":id", acme.of_route(route));
            let (status, page) = owner.get(&path).await;
            let fits = if route.ends_with("/find") { status == 303 } else { status == 200 };
            assert!(fits, "{path}: {status} {page}");
            let (_, page) = stranger.get(route).await;
            assert!(!page.contains("acme"), "{route} tells a stranger of acme: {page}");
        }
    }
    for query in ["deliveries?tenant_id=acme", "subscriptions?tenant_id=acme", "events?tenant_id=acme"] {
        let (status, page) = stranger.get(&format!("/ui/{query}")).await;
        assert!(status == 200 && page.contains("no such tenant"), "{query}: {page}");
    }
    world.finish().await;
}

#[tokio::test]
async fn links_are_relative_and_the_root_leads_to_the_pages() {
    let world = world().await;
    for path in ["/", "/ui"] {
        let answer = world.anonymous(Method::GET, path).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), &answer.headers()["location"]), (302, &"ui/".parse().unwrap()), "{path}");
    }
    let subscription = world.subscription("/success").await;
    let delivery = world.ingest(&subscription, "{}").await;
    world.drain().await;
    let session = Session::new(&world, KEY).await;
    for path in [
        "/ui/".to_owned(),
        "/ui/deliveries".to_owned(),
        format!("/ui/deliveries/{delivery}"),
        format!("/ui/subscriptions/{subscription}/settings"),
    ] {
        let (status, page) = session.get(&path).await;
        assert_eq!(status, 200, "{page}");
        for attribute in ["href=\"/", "src=\"/", "action=\"/", "hx-get=\"/", "style=\"", "onclick", "<script>", "hx-on"]
        {
            assert!(!page.contains(attribute), "{attribute} on {path}");
        }
        let root = "../".repeat(path.matches('/').count() - 2);
        assert!(page.contains(&format!("src=\"{root}assets/copy.")), "{path}");
    }
    world.finish().await;
}

#[tokio::test]
async fn the_dashboard_can_be_switched_off() {
    let world = World::with(&[("POSTRIDER_DASHBOARD", "off")]).await;
    let root = world.anonymous(Method::GET, "/").send().await.unwrap();
    assert_eq!((root.status().as_u16(), &root.headers()["location"]), (302, &"swagger".parse().unwrap()));
    for path in ["/ui", "/ui/", "/ui/deliveries"] {
        assert_eq!(world.anonymous(Method::GET, path).send().await.unwrap().status(), 404, "{path}");
    }
    assert_eq!(world.anonymous(Method::GET, "/swagger").send().await.unwrap().status(), 200);
    world.finish().await;
}

#[tokio::test]
async fn a_form_with_mistakes_says_so_at_its_fields() {
    let world = world().await;
    let session = Session::new(&world, KEY).await;
    let wrong = [("target_url", "ftp://nowhere"), ("timeout_ms", "5"), ("event_types", "a b..c")];
    let (status, page) = session.post("/ui/subscriptions/new", &wrong).await;
    assert_eq!(status, 422, "{page}");
    for field in ["target_url-error", "timeout_ms-error", "event_types-error"] {
        assert!(page.contains(&format!("id=\"{field}\"")), "{field} in {page}");
    }
    assert!(page.contains("value=\"ftp://nowhere\""), "what was typed is still there");
    let target = world.receiver.url("/success");
    let (status, page) = session.post("/ui/subscriptions/new", &[("target_url", &target), ("name", "Orders")]).await;
    assert!(status == 200 && page.contains("whsec_"), "{page}");
    let made = id(&world.get("/subscriptions").await["data"][0]);
    let (_, page) = session.get(&format!("/ui/subscriptions/{made}/settings")).await;
    let stamp = page.split("name=\"updated_at\" value=\"").nth(1).unwrap().split('"').next().unwrap();
    let fields = [("target_url", target.as_str()), ("name", "Renamed"), ("circuit", "on"), ("updated_at", stamp)];
    let path = format!("/ui/subscriptions/{made}/settings");
    assert_eq!(session.post(&path, &fields).await.0, 303);
    assert_eq!(world.get(&format!("/subscriptions/{made}")).await["name"], "Renamed");
    let fields = [("target_url", target.as_str()), ("name", "Late"), ("updated_at", stamp)];
    assert_eq!(session.post(&path, &fields).await.0, 303, "the reason is shown on the page");
    assert_eq!(world.get(&format!("/subscriptions/{made}")).await["name"], "Renamed", "somebody else was faster");
    world.finish().await;
}
