//! The demo and emitters in a browser: one click, and the cards go green, yellow and red.

use dev::browser::Scheme;
use serde_json::json;

use crate::{
    demo::world,
    ui_pages::{can_run, findings, heading, pictures, signed_in},
    world::id,
};

#[tokio::test]
async fn the_demo_is_run_with_one_click_and_its_cards_change_while_one_looks() {
    if !can_run() {
        return;
    }
    let world = world(&[]).await;
    let (stop, worker) = world.run_worker();
    let (_browser, page) = signed_in(&world).await;
    page.click("form[action$='demo'] button").await.unwrap();
    page.until(&heading("Demo")).await.unwrap();
    let card =
        |kind: &str, light: &str| format!("document.getElementById('light-{kind}')?.dataset.light === '{light}'");
    page.until(&card("success", "green")).await.unwrap();
    page.until(&card("flaky", "yellow")).await.unwrap();
    page.until(&card("slow", "yellow")).await.unwrap();
    page.until(&card("failing", "red")).await.unwrap();
    page.shows("Circuit open").await.unwrap();
    page.shows("Latest deliveries").await.unwrap();
    for (kind, scheme, width) in
        [("light", Scheme::Light, 1280), ("dark", Scheme::Dark, 1280), ("phone", Scheme::Light, 390)]
    {
        page.prefer(scheme).await.unwrap();
        page.resize(width, 900).await.unwrap();
        page.screenshot(&pictures().join(format!("demo-running-{kind}.png"))).await.unwrap();
        assert_eq!(findings(&page).await, Vec::<String>::new(), "{kind}");
        let fits = format!("document.documentElement.scrollWidth <= {width}");
        assert_eq!(page.evaluate(&fits).await.unwrap(), true, "{kind} is wider than the screen");
    }
    page.resize(1280, 900).await.unwrap();
    page.click("form[action$='demo/stop'] button").await.unwrap();
    page.shows("What it had made is removed").await.unwrap();
    page.until("document.querySelector('.verdict .sentence')?.textContent.startsWith('It has ended')").await.unwrap();
    assert_eq!(world.get("/demo").await["state"], "ended");
    assert_eq!(page.problems(), Vec::<String>::new());
    stop.cancel();
    worker.await.unwrap();
    world.finish().await;
}

#[tokio::test]
async fn a_stream_is_started_on_the_page_of_a_subscription_and_stopped_in_the_list() {
    if !can_run() {
        return;
    }
    let world = world(&[]).await;
    let (stop, worker) = world.run_worker();
    let subscription = id(&world.subscribe("/success", json!({"name": "Shop"})).await);
    let (_browser, page) = signed_in(&world).await;
    page.open(&format!("{}/ui/subscriptions/{subscription}/try", world.base)).await.unwrap();
    page.fill("#template", "{\"order\": \"{{date}}\"}").await.unwrap();
    page.click("form[action$='/emit'] button").await.unwrap();
    page.shows("No stream was started").await.unwrap();
    page.fill("#rate_per_second", "2.5").await.unwrap();
    page.fill("#template", "{\"order\": \"{{number}}\"}").await.unwrap();
    page.click("form[action$='/emit'] button").await.unwrap();
    page.until(&heading("Emitters")).await.unwrap();
    let made = "Number(document.querySelector('td[data-label=Made]')?.textContent) > 2";
    page.until(made).await.unwrap();
    assert_eq!(findings(&page).await, Vec::<String>::new());
    page.screenshot(&pictures().join("emitters-running.png")).await.unwrap();
    page.click("form[action$='/stop'] button").await.unwrap();
    page.until("document.querySelector('tbody .badge')?.textContent === 'Stopped'").await.unwrap();
    assert_eq!(page.problems(), Vec::<String>::new());
    world.queue_is_empty().await;
    stop.cancel();
    worker.await.unwrap();
    world.finish().await;
}
