//! Portal links in a browser: a person of the operator's makes one on a page, a customer opens it, and it is revoked.

use dev::browser::{Browser, Page};
use reqwest::Method;
use serde_json::json;

use crate::{
    portal_links::{link, token},
    ui::world,
    ui_pages::{can_run, findings, heading, pictures, signed_in},
    ui_scripts::looked_at,
    world::{World, id},
};

/// A world with a tenant whose one subscription has had a delivery; answers the id of the subscription.
async fn of_acme() -> (World, String) {
    let world = world().await;
    let shop = world.subscribe("/success", json!({"name": "Shop", "tenant_id": "acme"})).await;
    world.subscribe("/success", json!({"name": "Somebody else's", "tenant_id": "bolt"})).await;
    for tenant in ["acme", "bolt"] {
        world.publish(json!({"event_type": "order.created", "payload": {"order": 1}, "tenant_id": tenant})).await;
    }
    while world.drain().await > 0 {}
    (world, id(&shop))
}

/// A browser of somebody who was never here.
async fn stranger() -> (Browser, Page) {
    let browser = Browser::start().unwrap();
    let page = browser.page().await.unwrap();
    (browser, page)
}

/// Opens a link; the page that follows has no trace of the token.
async fn open(page: &Page, url: &str) {
    page.open(url).await.unwrap();
    page.until(&heading("Overview")).await.unwrap();
    let places = "[location.href, document.referrer, ...performance.getEntries().map(one => one.name)].join(' ')";
    let places = page.evaluate(places).await.unwrap().as_str().unwrap().to_owned();
    assert!(places.contains("/ui/portal ") && !places.contains("pr_"), "{places}");
}

#[tokio::test]
async fn a_link_is_made_on_a_page_and_a_customer_opens_it() {
    if !can_run() {
        return;
    }
    let (world, subscription) = of_acme().await;
    let (_browser, admin) = signed_in(&world).await;
    admin.click("nav.side a[href$='tenants']").await.unwrap();
    admin.until(&heading("Tenants")).await.unwrap();
    admin.click("a[href='portal-links?tenant_id=acme']").await.unwrap();
    admin.until(&heading("Portal links")).await.unwrap();
    admin.shows("No link works").await.unwrap();
    admin.fill("#label", "Ada of Acme").await.unwrap();
    admin.click("input[value=manage]").await.unwrap();
    admin.click("form.inline button").await.unwrap();
    admin.shows("It is shown this once").await.unwrap();
    looked_at(&admin, "portal-link-made").await;
    let url = admin.evaluate("document.querySelector('.note .code-box code').textContent").await.unwrap();
    let url = url.as_str().unwrap().to_owned();
    assert!(url.starts_with(&format!("{}/ui/portal#pr_", world.base)), "{url}");
    let copied = "document.querySelector('.note .code-box [data-copy]').dataset.copy";
    assert_eq!(admin.evaluate(copied).await.unwrap(), *url);

    // Where somebody has signed in with a key, that session does not end unasked.
    admin.open(&url).await.unwrap();
    admin.until(&heading("Open the link as a customer?")).await.unwrap();
    looked_at(&admin, "portal-instead").await;
    admin.click(".gate a").await.unwrap();
    admin.until(&heading("Overview")).await.unwrap();
    assert_eq!(admin.evaluate("document.querySelector('.who summary').innerText").await.unwrap(), "the admin key");

    let (_other, page) = stranger().await;
    open(&page, &url).await;
    assert_eq!(page.evaluate("document.querySelector('.who summary').innerText").await.unwrap(), "acme");
    looked_at(&page, "portal-overview").await;
    page.click(".who summary").await.unwrap();
    page.shows("until the link expires").await.unwrap();
    looked_at(&page, "portal-menu").await;
    page.press("Escape").await.unwrap();
    page.click("nav.side a[href$='subscriptions']").await.unwrap();
    page.until(&heading("Subscriptions")).await.unwrap();
    page.click("a.open").await.unwrap();
    page.click("form[action$='/pause'] button").await.unwrap();
    page.until("document.querySelector('h1 .badge')?.textContent === 'Paused'").await.unwrap();
    assert_eq!(page.address().await.unwrap(), format!("/ui/subscriptions/{subscription}"));
    assert_eq!(world.get(&format!("/subscriptions/{subscription}")).await["state"], "paused");
    looked_at(&page, "portal-subscription").await;

    // Another link opens in the same tab, and by it one only looks.
    let view = token(&link(&world, json!({"tenant_id": "acme"})).await);
    open(&page, &format!("{}/ui/portal#{view}", world.base)).await;
    page.open(&format!("{}/ui/subscriptions/{subscription}", world.base)).await.unwrap();
    assert_eq!(page.evaluate("document.querySelectorAll('main form[method=post]').length").await.unwrap(), 0);
    assert_eq!(findings(&page).await, Vec::<String>::new());
    assert_eq!((page.problems(), admin.problems()), (Vec::new(), Vec::new()));
    world.finish().await;
}

#[tokio::test]
async fn a_link_that_is_revoked_ends_what_it_has_opened() {
    if !can_run() {
        return;
    }
    let (world, _) = of_acme().await;
    let (_browser, admin) = signed_in(&world).await;
    let made = link(&world, json!({"tenant_id": "acme", "label": "Ada of Acme"})).await;
    let url = format!("{}/ui/portal#{}", world.base, token(&made));
    let (_other, page) = stranger().await;
    open(&page, &url).await;
    page.click("nav.side a[href$='jobs']").await.unwrap();
    page.until(&heading("Jobs")).await.unwrap();
    admin.open(&format!("{}/ui/portal-links", world.base)).await.unwrap();
    admin.click(".sure summary").await.unwrap();
    admin.click(".sure button.danger").await.unwrap();
    admin.shows("opens nothing any more").await.unwrap();
    assert_eq!((page.problems(), admin.problems()), (Vec::new(), Vec::new()));
    page.open(&format!("{}/ui/deliveries", world.base)).await.unwrap();
    page.until(&heading("This link has expired")).await.unwrap();
    looked_at(&page, "portal-expired").await;
    page.open(&url).await.unwrap();
    page.until(&heading("This link has expired")).await.unwrap();
    assert_eq!(page.evaluate("location.hash").await.unwrap(), "");
    page.click("details.other summary").await.unwrap();
    looked_at(&page, "portal-expired-open").await;
    assert_eq!(page.problems(), Vec::<String>::new());
    world.finish().await;
}

#[tokio::test]
async fn a_page_that_is_open_tells_that_the_link_has_ended() {
    if !can_run() {
        return;
    }
    let (world, _) = of_acme().await;
    let made = link(&world, json!({"tenant_id": "acme"})).await;
    let (_browser, page) = stranger().await;
    open(&page, &format!("{}/ui/portal#{}", world.base, token(&made))).await;
    world.call(Method::DELETE, &format!("/portal-links/{}", id(&made)), None).await.expect(200);
    page.until(&heading("This link has expired")).await.unwrap();
    world.finish().await;
}

#[tokio::test]
async fn without_scripts_a_link_is_pasted() {
    if !can_run() {
        return;
    }
    let (world, _) = of_acme().await;
    let made = link(&world, json!({"tenant_id": "acme"})).await;
    let (_browser, page) = stranger().await;
    page.without_scripts().await.unwrap();
    page.open(&format!("{}/ui/portal", world.base)).await.unwrap();
    page.shows("Paste your link here").await.unwrap();
    page.screenshot(&pictures().join("portal-without-scripts.png")).await.unwrap();
    page.fill("#key", &format!("{}/ui/portal#{}", world.base, token(&made))).await.unwrap();
    page.click("button[type=submit]").await.unwrap();
    page.until(&heading("Overview")).await.unwrap();
    page.click(".who summary").await.unwrap();
    page.click(".who form button").await.unwrap();
    page.until(&heading("Open the dashboard")).await.unwrap();
    assert_eq!(page.problems(), Vec::<String>::new());
    world.finish().await;
}
