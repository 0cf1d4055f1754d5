//! What scripts add to the pages: views that the browser keeps, keys that turn a list, and the menus of the bar.

use dev::browser::{Browser, Page, Scheme};
use serde_json::json;

use crate::{
    ui::{world, world_with},
    ui_pages::{can_run, findings, heading, pictures, signed_in},
    world::World,
};

/// Opens a menu of the bar where it is not open.
async fn open(page: &Page, menu: &str) {
    if page.evaluate(&format!("document.querySelector('{menu}').open")).await.unwrap() != true {
        page.click(&format!("{menu} > summary")).await.unwrap();
    }
}

#[tokio::test]
async fn the_bar_has_the_environment_the_tenant_and_views() {
    if !can_run() {
        return;
    }
    let world = world_with(&[("POSTRIDER_ENVIRONMENT_NAME", "Production EU")]).await;
    for tenant in ["acme", "bolt"] {
        world.subscribe("/success", json!({"tenant_id": tenant, "name": format!("Shop of {tenant}")})).await;
    }
    let (_browser, page) = signed_in(&world).await;
    for (kind, scheme, width) in [
        ("light", Scheme::Light, 1280),
        ("dark", Scheme::Dark, 1280),
        ("narrow", Scheme::Light, 760),
        ("phone", Scheme::Dark, 390),
    ] {
        page.prefer(scheme).await.unwrap();
        page.resize(width, 844).await.unwrap();
        for (name, menu) in [("tenant", ".tenant"), ("views", "#views")] {
            page.open(&format!("{}/ui/subscriptions?tenant_id=acme", world.base)).await.unwrap();
            open(&page, menu).await;
            let panel = format!(
                "(() => {{ const box = document.querySelector('{menu} > div').getBoundingClientRect();
                   return box.width > 200 && box.left >= 0 && box.right <= {width}; }})()"
            );
            assert_eq!(page.evaluate(&panel).await.unwrap(), true, "{name} {kind}: the menu is on the screen");
            page.screenshot(&pictures().join(format!("menu-{name}-{kind}.png"))).await.unwrap();
            assert_eq!(findings(&page).await, Vec::<String>::new(), "{name} {kind}");
            let fits = format!("document.documentElement.scrollWidth <= {width}");
            assert_eq!(page.evaluate(&fits).await.unwrap(), true, "{name} {kind} is wider than the screen");
        }
    }
    page.resize(1280, 900).await.unwrap();
    page.shows("Shop of acme").await.unwrap();
    page.press("Escape").await.unwrap();
    open(&page, ".tenant").await;
    page.fill("#chosen-tenant", "bolt").await.unwrap();
    page.click(".tenant button").await.unwrap();
    page.shows("Shop of bolt").await.unwrap();
    assert_eq!(page.address().await.unwrap(), "/ui/subscriptions?tenant_id=bolt");
    page.press("g").await.unwrap();
    page.press("d").await.unwrap();
    page.until(&heading("Deliveries")).await.unwrap();
    assert_eq!(page.address().await.unwrap(), "/ui/deliveries?tenant_id=bolt", "the choice goes with the keys");
    assert_eq!(page.problems(), Vec::<String>::new());
    world.finish().await;
}

/// What the visitor's own views are called.
async fn own(page: &Page, names: &[&str]) {
    let names = json!(names).to_string();
    page.until(&format!(
        "JSON.stringify([...document.querySelectorAll('#own-views a')].map(link => link.textContent)) === {}",
        json!(names)
    ))
    .await
    .unwrap();
}

#[tokio::test]
async fn views_are_kept_in_the_browser_and_go_as_text() {
    if !can_run() {
        return;
    }
    let world = world().await;
    let (_browser, page) = signed_in(&world).await;
    page.open(&format!("{}/ui/deliveries?status=dead_letter&event_type=order.paid", world.base)).await.unwrap();
    open(&page, "#views").await;
    page.fill("#view-name", "Lost orders").await.unwrap();
    page.click("#keep-view button").await.unwrap();
    own(&page, &["Lost orders"]).await;
    // It is there on other pages, and leads back.
    page.open(&format!("{}/ui/subscriptions/new", world.base)).await.unwrap();
    open(&page, "#views").await;
    page.click("#own-views a").await.unwrap();
    page.until(&heading("Deliveries")).await.unwrap();
    assert_eq!(page.address().await.unwrap(), "/ui/deliveries?status=dead_letter&event_type=order.paid");
    // As text it goes to another browser. What leads elsewhere is not taken.
    open(&page, "#views").await;
    page.click(".as-text > summary").await.unwrap();
    let text = page.evaluate("document.getElementById('views-text').value").await.unwrap();
    assert_eq!(text, "Lost orders = deliveries?status=dead_letter&event_type=order.paid");
    let lines = ["Start = ?range=7d", "Evil = //evil.example", "Worse = javascript:alert(1)", "Jobs = jobs"];
    page.fill("#views-text", &lines.join("\n")).await.unwrap();
    page.click("#views-text-form button").await.unwrap();
    own(&page, &["Start", "Jobs"]).await;
    page.click("#own-views a").await.unwrap();
    page.until(&heading("Overview")).await.unwrap();
    assert_eq!(page.address().await.unwrap(), "/ui/?range=7d");
    open(&page, "#views").await;
    page.click("#own-views .drop").await.unwrap();
    own(&page, &["Jobs"]).await;
    assert_eq!(page.evaluate("document.getElementById('views').open").await.unwrap(), true, "the menu stays open");
    page.click("#views .places a").await.unwrap();
    page.until(&heading("Subscriptions")).await.unwrap();
    assert_eq!(page.address().await.unwrap(), "/ui/subscriptions?failing=true");
    open(&page, "#views").await;
    page.click("#views .places a[href*=slower_than_ms]").await.unwrap();
    page.until(&heading("Deliveries")).await.unwrap();
    assert_eq!(page.address().await.unwrap(), "/ui/deliveries?slower_than_ms=5000");
    page.shows("No delivery matches").await.unwrap();
    // A relative time stays so in a link, unless one asks for a link with fixed times.
    page.click(".ranges a[href*='since=1h']").await.unwrap();
    page.until("location.search.endsWith('&since=1h')").await.unwrap();
    page.until("document.readyState === 'complete'").await.unwrap();
    page.evaluate("navigator.clipboard.writeText = async text => { window.copied = text; }; 0").await.unwrap();
    open(&page, "#views").await;
    page.click("[data-link=live]").await.unwrap();
    page.until("window.copied === location.href").await.unwrap();
    page.click("[data-link=fixed]").await.unwrap();
    page.until("/ms=5000&since=2\\d{3}-.*&until=2\\d{3}-/.test(window.copied)").await.unwrap();
    page.press("Escape").await.unwrap();
    page.press("/").await.unwrap();
    page.fill("#q", "status:dead_letter type:order.paid meta.region:eu").await.unwrap();
    page.press("Enter").await.unwrap();
    page.until("location.search === '?status=dead_letter&event_type=order.paid&metadata=region%3Aeu'").await.unwrap();
    assert_eq!(page.problems(), Vec::<String>::new());
    world.finish().await;
}

#[tokio::test]
async fn without_scripts_there_are_no_views_but_tenants_and_pages_of_lists() {
    if !can_run() {
        return;
    }
    let world = deliveries().await;
    let browser = Browser::start().unwrap();
    let page = browser.page().await.unwrap();
    page.without_scripts().await.unwrap();
    page.open(&format!("{}/ui/", world.base)).await.unwrap();
    page.fill("#key", crate::world::KEY).await.unwrap();
    page.click("button[type=submit]").await.unwrap();
    page.until(&heading("Overview")).await.unwrap();
    assert_eq!(page.evaluate("document.getElementById('views').checkVisibility()").await.unwrap(), false);
    open(&page, ".tenant").await;
    page.fill("#chosen-tenant", "default").await.unwrap();
    page.click(".tenant button").await.unwrap();
    page.until("location.search === '?tenant_id=default'").await.unwrap();
    page.click("nav.side a[href*='deliveries']").await.unwrap();
    page.until(&heading("Deliveries")).await.unwrap();
    page.click(".paging a[rel=next]").await.unwrap();
    page.until("document.querySelectorAll('a.open').length === 5").await.unwrap();
    page.click(".paging a[rel=prev]").await.unwrap();
    page.until("location.search === '?tenant_id=default'").await.unwrap();
    assert_eq!(page.problems(), Vec::<String>::new());
    world.finish().await;
}

/// A world with one page of deliveries and five more.
async fn deliveries() -> World {
    let world = world().await;
    let subscription = world.subscription("/success").await;
    for number in 0..55 {
        world.ingest(&subscription, number.to_string()).await;
    }
    while world.drain().await > 0 {}
    world
}

#[tokio::test]
async fn brackets_turn_the_pages_of_a_list() {
    if !can_run() {
        return;
    }
    let world = deliveries().await;
    let (_browser, page) = signed_in(&world).await;
    page.open(&format!("{}/ui/deliveries", world.base)).await.unwrap();
    let rows = |count: usize| {
        format!("document.readyState === 'complete' && document.querySelectorAll('a.open').length === {count}")
    };
    page.until(&rows(50)).await.unwrap();
    page.press("]").await.unwrap();
    page.until(&rows(5)).await.unwrap();
    page.press("[").await.unwrap();
    page.until(&rows(50)).await.unwrap();
    assert_eq!(page.address().await.unwrap(), "/ui/deliveries");
    assert_eq!(page.problems(), Vec::<String>::new());
    world.finish().await;
}
