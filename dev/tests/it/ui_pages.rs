//! The dashboard in a browser: what a person does with it, with and without scripts, on a wide screen and on a phone.
//! On every page, nothing may be on the console, nothing may break the policy, and axe must find nothing.

use std::{fs, path::PathBuf, sync::OnceLock};

use dev::{
    browser::{Browser, Page, Scheme},
    node::dashboard_modules,
    tools::{Tool, are_there},
    workspace,
};
use serde_json::{Value, json};

use crate::{
    ui::world,
    world::{KEY, World},
};

/// The pages that the README shows. With `UPDATE_SNAPSHOTS`, their pictures are renewed.
const IN_README: [&str; 3] = ["overview", "delivery-dead", "subscription"];

/// Where the pictures of all pages are kept.
pub fn pictures() -> PathBuf {
    workspace().join("target/screenshots")
}

/// A browser with a page on which somebody has signed in; `None` where there is no browser.
pub async fn signed_in(world: &World) -> (Browser, Page) {
    let browser = Browser::start().unwrap();
    let page = browser.page().await.unwrap();
    sign_in(&page, world).await;
    (browser, page)
}

async fn sign_in(page: &Page, world: &World) {
    page.open(&format!("{}/", world.base)).await.unwrap();
    page.fill("#key", KEY).await.unwrap();
    page.click("button[type=submit]").await.unwrap();
    page.until(&heading("Overview")).await.unwrap();
}

/// Whether the page with this heading is there with all its scripts.
pub fn heading(text: &str) -> String {
    format!("document.readyState === 'complete' && document.querySelector('h1')?.textContent === '{text}'")
}

pub fn can_run() -> bool {
    are_there(&[Tool::Chromium, Tool::Node, Tool::Npm])
}

/// Everything that axe finds wrong on the page.
pub async fn findings(page: &Page) -> Vec<String> {
    static AXE: OnceLock<String> = OnceLock::new();
    let folder = dashboard_modules().await.unwrap();
    let axe = AXE.get_or_init(|| fs::read_to_string(folder.join("axe-core/axe.min.js")).unwrap());
    page.evaluate(&format!("{axe}; 0")).await.unwrap();
    let found = page
        .evaluate("axe.run({resultTypes: ['violations']}).then(found => JSON.stringify(found.violations))")
        .await
        .unwrap();
    let found: Value = serde_json::from_str(found.as_str().unwrap()).unwrap();
    let said = |one: &Value| {
        let nodes = one["nodes"].as_array().unwrap().iter().take(4);
        let places =
            nodes.map(|node| format!("{} in {}", node["failureSummary"].as_str().unwrap_or_default(), node["html"]));
        format!("{}: {}", one["help"], places.collect::<Vec<_>>().join("\n"))
    };
    found.as_array().unwrap().iter().map(said).collect()
}

/// A world in which every page has something to show.
pub async fn furnished() -> World {
    let world = world().await;
    let once = json!({"retry_policy": {"delays_seconds": []}, "name": "Billing", "event_types": ["invoice.*"]});
    let own = world.subscribe("/success", json!({"name": "Order service", "event_types": ["order.*", "user.*"]})).await;
    world.subscribe("/fail/503", once).await;
    world.subscribe("/fail/404", json!({"name": "Warehouse", "metadata": {"region": "eu"}})).await;
    world.subscribe("/success", json!({"name": "Archive", "event_types": ["nothing.at.all"]})).await;
    for (number, event_type) in ["order.created", "user.created", "invoice.paid", "order.shipped"].iter().enumerate() {
        let payload = json!({"order": number, "total": 120.5, "customer": {"name": "Ada", "country": "SE"}});
        world.publish(json!({"event_type": event_type, "payload": payload, "metadata": {"region": "eu"}})).await;
    }
    world.subscribe("/success", json!({"name": "Acme's shop", "tenant_id": "acme"})).await;
    world.publish(json!({"event_type": "order.created", "payload": {"order": 7}, "tenant_id": "acme"})).await;
    while world.drain().await > 0 {}
    let id = crate::world::id(&own);
    let range = json!({"since": "2025-01-01T00:00:00Z", "statuses": ["succeeded"]});
    world.call(reqwest::Method::POST, &format!("/subscriptions/{id}/replay"), Some(range)).await.expect(202);
    let now = chrono::Utc::now();
    postrider_core::stats::recount::recount(&world.pool, now - chrono::TimeDelta::hours(1), now).await.unwrap();
    let stream = json!({"subscription_id": id, "rate_per_second": 2.5, "event_type": "order.created"});
    let key = json!({"name": "Order service", "scopes": ["ingest"], "tenant_id": "acme"});
    let link = json!({"tenant_id": "acme", "label": "Ada of Acme"});
    for (path, body) in [("/emitters", stream), ("/api-keys", key), ("/portal-links", link)] {
        world.call(reqwest::Method::POST, path, Some(body)).await.expect(201);
    }
    sqlx::raw_sql(crate::ui_rooms::BACKLOG).execute(&world.pool).await.unwrap();
    world
}

/// Every page, by the name of its picture.
pub async fn pages(world: &World) -> Vec<(&'static str, String)> {
    let first = async |list: &str| crate::world::id(&world.get(list).await["data"][0]);
    let subscription = first("/subscriptions?failing=true").await;
    let dead = first("/dead-letters").await;
    let pending = first("/deliveries?status=pending").await;
    let (event, job) = (first("/events").await, first("/jobs").await);
    vec![
        ("overview", "/ui/".to_owned()),
        ("overview-tenant", "/ui/?tenant_id=acme".to_owned()),
        ("deliveries", "/ui/deliveries".to_owned()),
        ("deliveries-filtered", "/ui/deliveries?event_type=order.created&status=succeeded".to_owned()),
        ("deliveries-none", "/ui/deliveries?event_type=no.such.type".to_owned()),
        ("deliveries-slow", "/ui/deliveries?slower_than_ms=5000&min_attempts=2&since=24h".to_owned()),
        ("deliveries-beside", format!("/ui/deliveries?open={dead}")),
        ("delivery-dead", format!("/ui/deliveries/{dead}")),
        ("delivery-pending", format!("/ui/deliveries/{pending}")),
        ("dead-letters", "/ui/dead-letters".to_owned()),
        ("dead-letters-list", "/ui/dead-letters?view=list".to_owned()),
        ("subscriptions", "/ui/subscriptions".to_owned()),
        ("subscriptions-failures", "/ui/subscriptions?sort=failures".to_owned()),
        ("subscription-new", "/ui/subscriptions/new".to_owned()),
        ("subscription", format!("/ui/subscriptions/{subscription}")),
        ("subscription-deliveries", format!("/ui/subscriptions/{subscription}/deliveries")),
        ("subscription-settings", format!("/ui/subscriptions/{subscription}/settings")),
        ("subscription-signing", format!("/ui/subscriptions/{subscription}/signing")),
        ("subscription-try", format!("/ui/subscriptions/{subscription}/try")),
        ("subscription-audit", format!("/ui/subscriptions/{subscription}/audit")),
        ("events", "/ui/events".to_owned()),
        ("event", format!("/ui/events/{event}")),
        ("event-explained", format!("/ui/events/{event}?subscription={subscription}")),
        ("jobs", "/ui/jobs".to_owned()),
        ("job", format!("/ui/jobs/{job}")),
        ("job-new", "/ui/jobs/new".to_owned()),
        ("job-counted", "/ui/jobs/new?action=purge&statuses=dead_letter".to_owned()),
        ("emitters", "/ui/emitters".to_owned()),
        ("demo", "/ui/demo".to_owned()),
        ("live", "/ui/live".to_owned()),
        ("lanes", "/ui/lanes".to_owned()),
        ("tenants", "/ui/tenants".to_owned()),
        ("keys", "/ui/keys".to_owned()),
        ("portal-links", "/ui/portal-links".to_owned()),
        ("audit", "/ui/audit".to_owned()),
        ("about", "/ui/about".to_owned()),
        ("not-found", "/ui/nothing".to_owned()),
    ]
}

#[tokio::test]
async fn every_page_is_sound_in_the_light_theme() {
    every_page_is_sound("light", Scheme::Light, 1280).await;
}

#[tokio::test]
async fn every_page_is_sound_in_the_dark_theme() {
    every_page_is_sound("dark", Scheme::Dark, 1280).await;
}

#[tokio::test]
async fn every_page_is_sound_on_a_phone() {
    every_page_is_sound("phone", Scheme::Light, 390).await;
}

async fn every_page_is_sound(kind: &str, scheme: Scheme, width: u32) {
    if !can_run() {
        return;
    }
    let world = furnished().await;
    let (_browser, page) = signed_in(&world).await;
    page.prefer(scheme).await.unwrap();
    page.resize(width, if width < 700 { 844 } else { 900 }).await.unwrap();
    let mut found = Vec::new();
    for (name, path) in pages(&world).await {
        page.open(&format!("{}{path}", world.base)).await.unwrap();
        let picture = pictures().join(format!("{name}-{kind}.png"));
        page.screenshot(&picture).await.unwrap();
        if kind == "light" && IN_README.contains(&name) && std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
            fs::copy(&picture, workspace().join(format!("docs/images/{name}.png"))).unwrap();
        }
        found.extend(findings(&page).await.into_iter().map(|finding| format!("{name}: {finding}")));
        let script = format!("document.documentElement.scrollWidth <= {width}");
        if page.evaluate(&script).await.unwrap() != true {
            found.push(format!("{name}: is wider than the screen"));
        }
        if page.evaluate("document.querySelectorAll('h1').length").await.unwrap() != 1 {
            found.push(format!("{name}: has not one h1"));
        }
    }
    assert_eq!(found, Vec::<String>::new(), "{}", found.join("\n\n"));
    assert_eq!(page.problems(), Vec::<String>::new());
    Box::pin(world.finish()).await;
}

#[tokio::test]
async fn a_first_visit_shows_the_way_and_signing_in_is_sound() {
    if !can_run() {
        return;
    }
    let world = world().await;
    let browser = Browser::start().unwrap();
    let page = browser.page().await.unwrap();
    for (kind, scheme) in [("light", Scheme::Light), ("dark", Scheme::Dark)] {
        page.prefer(scheme).await.unwrap();
        page.open(&format!("{}/ui/deliveries?status=pending", world.base)).await.unwrap();
        page.screenshot(&pictures().join(format!("sign-in-{kind}.png"))).await.unwrap();
        assert_eq!(findings(&page).await, Vec::<String>::new());
    }
    page.fill("#key", "pr_wrong").await.unwrap();
    page.click("button[type=submit]").await.unwrap();
    page.shows("not known").await.unwrap();
    page.fill("#key", KEY).await.unwrap();
    page.click("button[type=submit]").await.unwrap();
    page.until(&heading("Deliveries")).await.unwrap();
    assert_eq!(page.address().await.unwrap(), "/ui/deliveries?status=pending", "the page that was asked for");
    page.open(&format!("{}/ui/", world.base)).await.unwrap();
    page.shows("Three steps to a first delivery").await.unwrap();
    page.screenshot(&pictures().join("overview-empty.png")).await.unwrap();
    assert_eq!(findings(&page).await, Vec::<String>::new());
    // The page goes on by itself when the first delivery comes.
    world.subscribe("/success", json!({"name": "First"})).await;
    world.publish(json!({"event_type": "order.created", "payload": 1})).await;
    world.drain().await;
    page.shows("Latest deliveries").await.unwrap();
    page.shows("Succeeded").await.unwrap();
    page.click(".who summary").await.unwrap();
    page.click(".who button").await.unwrap();
    page.until(&heading("Sign in")).await.unwrap();
    assert_eq!(page.problems(), Vec::<String>::new());
    world.finish().await;
}

#[tokio::test]
async fn a_failed_delivery_is_found_and_retried_and_succeeds() {
    if !can_run() {
        return;
    }
    let world = world().await;
    world.receiver.switch_to(500);
    let once = json!({"name": "Shop", "retry_policy": {"delays_seconds": []}});
    let subscription = crate::world::id(&world.subscribe("/switch", once).await);
    world.ingest(&subscription, "{\"order\": 42}").await;
    while world.drain().await > 0 {}
    let (_browser, page) = signed_in(&world).await;
    page.shows("1 dead letter waits for a decision").await.unwrap();
    page.click("nav.side a[href$='dead-letters']").await.unwrap();
    page.until(&heading("Dead letters")).await.unwrap();
    page.shows("Answered 500").await.unwrap();
    page.click("a.open").await.unwrap();
    page.until("document.readyState === 'complete' && location.search.includes('view=list')").await.unwrap();
    page.click("a.open").await.unwrap();
    // It opens beside the list, from where one goes to its own page.
    page.until("document.querySelector('.beside')?.innerText.includes('answered 500')").await.unwrap();
    page.click(".beside .actions a").await.unwrap();
    page.shows("recomputed").await.unwrap();
    page.click(".request .code-box code").await.unwrap();
    page.shows("Path: order").await.unwrap();
    world.receiver.switch_to(200);
    page.click(".actions button.main").await.unwrap();
    page.shows("is attempted again now").await.unwrap();
    while world.drain().await > 0 {}
    page.until("document.querySelector('h1 .badge')?.textContent === 'Succeeded'").await.unwrap();
    page.shows("Attempt 2").await.unwrap();
    assert_eq!(page.problems(), Vec::<String>::new());
    world.finish().await;
}

#[tokio::test]
async fn a_subscription_is_paused_and_resumed_and_its_secret_replaced() {
    if !can_run() {
        return;
    }
    let world = world().await;
    let created = world.subscribe("/success", json!({"name": "Shop"})).await;
    let (subscription, old) = (crate::world::id(&created), created["secret"].as_str().unwrap().to_owned());
    let (_browser, page) = signed_in(&world).await;
    page.open(&format!("{}/ui/subscriptions/{subscription}", world.base)).await.unwrap();
    let badge = |word: &str| format!("document.querySelector('h1 .badge')?.textContent === '{word}'");
    page.click("form[action$='/pause'] button").await.unwrap();
    page.until(&badge("Paused")).await.unwrap();
    page.click("form[action$='/resume'] button").await.unwrap();
    page.until(&badge("Active")).await.unwrap();
    page.click(".sure summary").await.unwrap();
    page.click(".sure button.danger").await.unwrap();
    page.until(&badge("Disabled")).await.unwrap();
    page.click("form[action$='/enable'] button").await.unwrap();
    page.until(&badge("Active")).await.unwrap();
    page.click(".tabs a[href$='/signing']").await.unwrap();
    page.click("form[action$='/reveal'] button").await.unwrap();
    page.shows(&old).await.unwrap();
    page.click("form[action$='/rotate'] button").await.unwrap();
    page.shows("The secret is replaced").await.unwrap();
    let secret = world.get(&format!("/subscriptions/{subscription}/secret")).await;
    assert_ne!(secret["secret"], *old);
    page.shows(secret["secret"].as_str().unwrap()).await.unwrap();
    assert_eq!(page.problems(), Vec::<String>::new());
    world.finish().await;
}

#[tokio::test]
async fn everything_works_without_scripts_on_a_phone() {
    if !can_run() {
        return;
    }
    let world = furnished().await;
    let browser = Browser::start().unwrap();
    let page = browser.page().await.unwrap();
    page.without_scripts().await.unwrap();
    page.resize(390, 844).await.unwrap();
    sign_in(&page, &world).await;
    page.click("nav.side a[href$='dead-letters']").await.unwrap();
    page.until(&heading("Dead letters")).await.unwrap();
    page.click(".chips a[href*='view=list']").await.unwrap();
    page.until("document.querySelectorAll('td.pick input').length > 0").await.unwrap();
    page.click("td.pick input").await.unwrap();
    page.click(".selection button[value=retry]").await.unwrap();
    page.shows("1 delivery is attempted again now.").await.unwrap();
    while world.drain().await > 0 {}
    page.click(".chips a[href='dead-letters']").await.unwrap();
    page.until("document.querySelectorAll('td.pick').length === 0").await.unwrap();
    page.click("td.do a[href*='action=resolve']").await.unwrap();
    page.until(&heading("Resolve all that match")).await.unwrap();
    page.click("form.inline[method=post] button").await.unwrap();
    page.shows("begins within a second").await.unwrap();
    page.click("nav.side a[href$='subscriptions']").await.unwrap();
    page.until(&heading("Subscriptions")).await.unwrap();
    page.click("a.open").await.unwrap();
    page.click("form[action$='/pause'] button").await.unwrap();
    page.until("document.querySelector('h1 .badge')?.textContent === 'Paused'").await.unwrap();
    page.click(".themes button[value=dark]").await.unwrap();
    page.until("document.documentElement.dataset.theme === 'dark'").await.unwrap();
    page.screenshot(&pictures().join("without-scripts.png")).await.unwrap();
    assert_eq!(page.problems(), Vec::<String>::new());
    world.finish().await;
}

/// On the list of deliveries: ticks rows, copies an id and a link, and opens a row beside the list.
async fn rows_are_ticked_and_opened_by_keys(page: &Page) {
    let ticked = |count: usize| format!("document.getElementById('selection-count').textContent === '{count} ticked:'");
    for key in ["j", "j", "x"] {
        page.press(key).await.unwrap();
    }
    page.until(&ticked(1)).await.unwrap();
    assert_eq!(findings(page).await, Vec::<String>::new(), "with a row that is ticked");
    let reach = "document.querySelectorAll('td.pick input')[3].dispatchEvent(
                     new MouseEvent('click', {bubbles: true, shiftKey: true})); 0";
    page.evaluate(reach).await.unwrap();
    page.until(&ticked(3)).await.unwrap();
    assert_eq!(page.evaluate("document.querySelector('.all-that-match').hidden").await.unwrap(), true);
    page.click("#select-all").await.unwrap();
    page.until("document.querySelector('.all-that-match').checkVisibility()").await.unwrap();
    page.click("#select-all").await.unwrap();
    page.until("document.getElementById('selected').hidden").await.unwrap();
    page.evaluate("navigator.clipboard.writeText = async text => { window.copied = text; }; 0").await.unwrap();
    let second = page.evaluate("document.querySelectorAll('a.open')[1].getAttribute('href')").await.unwrap();
    page.press("y").await.unwrap();
    page.until(&format!("{second}.endsWith('/' + window.copied)")).await.unwrap();
    page.press("c").await.unwrap();
    page.until("window.copied === location.href").await.unwrap();
    page.evaluate("document.querySelectorAll('a.open')[1].focus(); 0").await.unwrap();
    page.press("Enter").await.unwrap();
    page.until(&format!("document.querySelector('.beside h2 a')?.getAttribute('href') === {second}")).await.unwrap();
    page.until("document.readyState === 'complete' && document.querySelector('tr.chosen a.open') !== null")
        .await
        .unwrap();
    page.press("Escape").await.unwrap();
    page.until("document.readyState === 'complete' && document.querySelector('.beside') === null").await.unwrap();
    // Its own page leads on to the next one in the list, and back.
    let third = page.evaluate("document.querySelectorAll('a.open')[2].getAttribute('href')").await.unwrap();
    page.evaluate(&format!("location.assign({second}); 0")).await.unwrap();
    page.until("document.readyState === 'complete' && document.querySelector('.way a[rel=next]') !== null")
        .await
        .unwrap();
    assert_eq!(findings(page).await, Vec::<String>::new(), "with the way to other deliveries");
    page.press("j").await.unwrap();
    page.until(&format!("document.readyState === 'complete' && location.pathname.endsWith({third})")).await.unwrap();
    page.shows("Back to the list (3 of ").await.unwrap();
}

#[tokio::test]
async fn keys_lead_through_the_pages() {
    if !can_run() {
        return;
    }
    let world = furnished().await;
    let (_browser, page) = signed_in(&world).await;
    page.press("g").await.unwrap();
    page.press("d").await.unwrap();
    page.until(&heading("Deliveries")).await.unwrap();
    rows_are_ticked_and_opened_by_keys(&page).await;
    page.press("/").await.unwrap();
    page.until("document.activeElement.id === 'q'").await.unwrap();
    page.fill("#q", "invoice.paid").await.unwrap();
    page.press("Enter").await.unwrap();
    page.until("location.search === '?event_type=invoice.paid'").await.unwrap();
    page.until("document.readyState === 'complete' && document.querySelectorAll('tbody tr').length > 0").await.unwrap();
    page.press("z").await.unwrap();
    page.until("document.getElementById('zone').textContent === 'Local time'").await.unwrap();
    assert_eq!(page.problems(), Vec::<String>::new());
    world.finish().await;
}
