//! What scripts add to lists and pages: lists that look further by themselves, times in any zone, numbers that say how
//! old they are, payloads as trees, and keys that retry or are switched off.

use dev::browser::{Page, Scheme};
use serde_json::json;

use crate::{
    ui::{Session, world},
    ui_pages::{can_run, findings, heading, pictures, signed_in},
    world::{KEY, World, id},
};

/// Many events of which few have the producer's id that is looked for; those are the oldest.
async fn fill(world: &World) {
    let events = "INSERT INTO events (id, tenant_id, event_type, content_type, payload, external_id, created_at)
                  SELECT uuid_v7(), 'default', 'order.created', 'application/json', '1',
                         CASE WHEN n <= 3 THEN 'mine' END, now()
                    FROM generate_series(1, 24000) n";
    sqlx::raw_sql(events).execute(&world.pool).await.unwrap();
}

/// A picture of the page in both themes and on a phone, each of which axe has looked at.
pub async fn looked_at(page: &Page, name: &str) {
    let ways = [("light", Scheme::Light, 1280), ("dark", Scheme::Dark, 1280), ("phone", Scheme::Light, 390)];
    for (kind, scheme, width) in ways {
        page.prefer(scheme).await.unwrap();
        page.resize(width, 900).await.unwrap();
        page.screenshot(&pictures().join(format!("{name}-{kind}.png"))).await.unwrap();
        assert_eq!(findings(page).await, Vec::<String>::new(), "{name} {kind}");
        let fits = format!("document.documentElement.scrollWidth <= {width}");
        assert_eq!(page.evaluate(&fits).await.unwrap(), true, "{name} {kind} is wider than the screen");
    }
    page.resize(1280, 900).await.unwrap();
}

#[tokio::test]
async fn a_list_looks_further_by_itself_and_can_be_stopped() {
    if !can_run() {
        return;
    }
    let world = world().await;
    fill(&world).await;
    let (_browser, page) = signed_in(&world).await;
    page.open(&format!("{}/ui/events?external_id=mine", world.base)).await.unwrap();
    page.until("document.querySelectorAll('#list tbody tr').length === 3").await.unwrap();
    page.until("document.querySelector('.looked') === null").await.unwrap();
    page.until("document.getElementById('announcer').textContent === '3 rows match'").await.unwrap();
    assert_eq!(page.address().await.unwrap(), "/ui/events?external_id=mine");
    // Nothing at all is said as such.
    page.open(&format!("{}/ui/events?external_id=nobodys", world.base)).await.unwrap();
    page.shows("No event matches").await.unwrap();
    let (status, first) = Session::new(&world, KEY).await.get("/ui/events?external_id=x").await;
    assert_eq!(status, 200);
    assert!(first.contains("data-examined=\"10000\"") && first.contains("; 0 of them match."), "{first}");
    assert!(first.contains(">Look further</a>"), "without scripts there is a link: {first}");
    // Where no answer comes, there is time to stop; what was looked at by then is said, with the way on.
    let hang = "window.fetch = (_, {signal} = {}) => new Promise((_, no) => signal?.addEventListener('abort', no)); 0";
    page.before_each_page(hang).await.unwrap();
    page.open(&format!("{}/ui/events?external_id=mine", world.base)).await.unwrap();
    page.until("document.querySelector('.looked button')?.textContent === 'Stop'").await.unwrap();
    looked_at(&page, "list-looks-further").await;
    page.click(".looked button").await.unwrap();
    page.until("document.querySelector('.looked button') === null").await.unwrap();
    page.until("document.querySelector('.looked a').checkVisibility()").await.unwrap();
    page.shows("Looked at 10\u{202f}000 events, back to").await.unwrap();
    assert_eq!(page.problems(), Vec::<String>::new());
    world.api_stops().await;
}

#[tokio::test]
async fn times_are_shown_in_any_zone_and_to_the_millisecond() {
    if !can_run() {
        return;
    }
    let world = world().await;
    world.publish(json!({"event_type": "order.created", "payload": 1})).await;
    let (_browser, page) = signed_in(&world).await;
    page.open(&format!("{}/ui/events", world.base)).await.unwrap();
    let word = |word: &str| format!("document.getElementById('zone').textContent === '{word}'");
    let time = "document.querySelector('#list time').textContent";
    let utc = page.evaluate(time).await.unwrap().as_str().unwrap().to_owned();
    page.click("#zones > summary").await.unwrap();
    page.until("document.getElementById('zone-choice').options.length > 100").await.unwrap();
    looked_at(&page, "menu-zones").await;
    let choose = "(() => { const list = document.getElementById('zone-choice'); list.value = 'Asia/Tokyo';
                   list.dispatchEvent(new Event('change')); })(); 0";
    page.evaluate(choose).await.unwrap();
    page.until(&word("Tokyo")).await.unwrap();
    let tokyo = page.evaluate(time).await.unwrap().as_str().unwrap().to_owned();
    let minutes = |text: &str| {
        let clock = text.rsplit(' ').next().unwrap();
        let parts: Vec<i64> = clock.split(':').map(|part| part.parse().unwrap()).collect();
        parts[0] * 60 + parts[1]
    };
    assert_eq!((minutes(&tokyo) - minutes(&utc)).rem_euclid(24 * 60), 540, "{utc} is {tokyo}");
    page.click("#exact-times").await.unwrap();
    page.until(&format!("/:\\d\\d\\.\\d\\d\\d$/.test({time})")).await.unwrap();
    page.press("Escape").await.unwrap();
    // The browser keeps it, and a key goes through the three.
    page.open(&format!("{}/ui/events", world.base)).await.unwrap();
    page.until(&word("Tokyo")).await.unwrap();
    page.until(&format!("/:\\d\\d\\.\\d\\d\\d$/.test({time})")).await.unwrap();
    for next in ["UTC", "Local time", "Tokyo"] {
        page.press("z").await.unwrap();
        page.until(&word(next)).await.unwrap();
    }
    assert_eq!(page.problems(), Vec::<String>::new());
    world.finish().await;
}

#[tokio::test]
async fn numbers_that_are_not_renewed_say_how_old_they_are() {
    if !can_run() {
        return;
    }
    let world = world().await;
    let subscription = world.subscription("/success").await;
    world.ingest(&subscription, "1").await;
    while world.drain().await > 0 {}
    let (_browser, page) = signed_in(&world).await;
    page.open(&format!("{}/ui/subscriptions/{subscription}", world.base)).await.unwrap();
    page.until("document.readyState === 'complete' && !document.querySelector('.stale')").await.unwrap();
    let heading = page.evaluate("document.querySelector('#live section h2').textContent").await.unwrap();
    // One part fails: what it had stays, and is marked.
    let broken = format!(
        "(() => {{ const real = window.fetch; window.real = real; window.fetch = async (...all) => {{
             const answer = await real(...all);
             const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
             const parts = [...page.querySelectorAll('#live section')];
             const part = parts.find(one => one.querySelector('h2')?.textContent === {heading});
             const trouble = Object.assign(page.createElement('div'), {{className: 'trouble', textContent: 'no'}});
             part?.lastElementChild?.replaceWith(trouble);
             return new Response(page.documentElement.outerHTML, {{headers: {{'content-type': 'text/html'}}}});
         }}; }})(); 0"
    );
    page.evaluate(&broken).await.unwrap();
    page.until("/^Numbers of \\d+ s ago: newer ones/.test(document.querySelector('.panel > .stale')?.textContent)")
        .await
        .unwrap();
    assert_eq!(page.evaluate("document.querySelector('#live .trouble') === null").await.unwrap(), true);
    looked_at(&page, "numbers-old").await;
    page.evaluate("window.fetch = window.real; 0").await.unwrap();
    page.until("document.querySelector('.stale') === null").await.unwrap();
    // Nothing comes: the whole page is marked, until something comes.
    page.evaluate("window.fetch = () => Promise.reject(new TypeError('gone')); 0").await.unwrap();
    page.shows("ago: the server does not answer.").await.unwrap();
    page.evaluate("window.fetch = window.real; 0").await.unwrap();
    page.until("document.querySelector('.stale') === null").await.unwrap();
    world.finish().await;
}

#[tokio::test]
async fn a_payload_is_searched_as_a_tree() {
    if !can_run() {
        return;
    }
    let world = world().await;
    let items = json!([{"sku": "A-1", "price": 1}, {"sku": "B-2", "note": "a, b: {c}"}]);
    let payload = json!({"order": 42, "items": items, "to": {}});
    let payload = payload.to_string().replace("\"price\":1", "\"price\":12345678901234567890.10");
    let event = format!("{{\"event_type\": \"order.created\", \"payload\": {payload}}}");
    let event = serde_json::from_str::<Box<serde_json::value::RawValue>>(&event).unwrap();
    let request = world.request(reqwest::Method::POST, "/events").body(event.get().to_owned());
    let event = request.send().await.unwrap().text().await.unwrap();
    let event: serde_json::Value = serde_json::from_str(&event).unwrap();
    let event = event["event_id"].as_str().unwrap();
    let (_browser, page) = signed_in(&world).await;
    page.open(&format!("{}/ui/events/{event}", world.base)).await.unwrap();
    page.click("nav.ranges a[href*='payload=tree']").await.unwrap();
    page.until("document.querySelector('.tree .hint')?.textContent === '10 lines'").await.unwrap();
    assert_eq!(page.evaluate("document.querySelector('.payload .code-box').hidden").await.unwrap(), true);
    page.shows("12345678901234567890.10").await.unwrap();
    page.shows("list of 2 items").await.unwrap();
    page.fill("#tree-search", "sku").await.unwrap();
    page.until("document.querySelector('.tree .hint').textContent === '2 of 10 lines match'").await.unwrap();
    page.until("!document.querySelector('.tree').innerText.includes('order')").await.unwrap();
    looked_at(&page, "event-tree").await;
    page.evaluate("navigator.clipboard.writeText = async text => { window.copied = text; }; 0").await.unwrap();
    page.click(".tree li.hit .key").await.unwrap();
    page.until("window.copied === 'items.0.sku'").await.unwrap();
    page.click("nav.ranges a[href*='payload=hex']").await.unwrap();
    page.shows("00000000  7b").await.unwrap();
    looked_at(&page, "event-hex").await;
    assert_eq!(page.problems(), Vec::<String>::new());
    world.finish().await;
}

#[tokio::test]
async fn an_event_is_posted_again_from_what_the_browser_keeps() {
    if !can_run() {
        return;
    }
    let world = world().await;
    world.subscribe("/success", json!({"name": "Shop"})).await;
    let (_browser, page) = signed_in(&world).await;
    page.open(&format!("{}/ui/events", world.base)).await.unwrap();
    page.click("#post > summary").await.unwrap();
    page.fill("#post-event_type", "order.created").await.unwrap();
    page.fill("#post-payload", "{\"order\": ").await.unwrap();
    page.shows("Not JSON yet:").await.unwrap();
    looked_at(&page, "events-post").await;
    page.fill("#post-payload", "{\"order\": 42}").await.unwrap();
    page.shows("This is JSON.").await.unwrap();
    page.click("#post-event button.main").await.unwrap();
    page.until(&heading("order.created")).await.unwrap();
    page.shows("its delivery is on its way").await.unwrap();
    page.open(&format!("{}/ui/events", world.base)).await.unwrap();
    page.click("#post > summary").await.unwrap();
    page.until("document.getElementById('post-earlier').options.length === 2").await.unwrap();
    let choose = "(() => { const list = document.getElementById('post-earlier'); list.value = '0';
                   list.dispatchEvent(new Event('change')); })(); 0";
    page.evaluate(choose).await.unwrap();
    page.until("document.getElementById('post-payload').value === '{\"order\": 42}'").await.unwrap();
    page.fill("#q", "order").await.unwrap();
    page.until("[...document.querySelectorAll('#search-words option')].some(one => one.value === 'order.created')")
        .await
        .unwrap();
    assert_eq!(page.problems(), Vec::<String>::new());
    world.finish().await;
}

#[tokio::test]
async fn keys_retry_and_can_be_switched_off() {
    if !can_run() {
        return;
    }
    let world = world().await;
    let once = json!({"retry_policy": {"delays_seconds": []}, "event_types": ["dead.*"]});
    world.subscribe("/fail/503", once).await;
    world.subscribe("/success", json!({"event_types": ["well.*"]})).await;
    let (_, dead) = world.publish(json!({"event_type": "dead.one", "payload": 1})).await;
    let (_, well) = world.publish(json!({"event_type": "well.done", "payload": 1})).await;
    while world.drain().await > 0 {}
    let (_browser, page) = signed_in(&world).await;
    let attempts = async |id: &str| world.attempts(id).await.len();
    // A dead letter of a list is retried at once.
    page.open(&format!("{}/ui/deliveries?status=dead_letter", world.base)).await.unwrap();
    for key in ["j", "r"] {
        page.press(key).await.unwrap();
    }
    page.shows("1 delivery is attempted again now.").await.unwrap();
    while world.drain().await > 0 {}
    assert_eq!(attempts(&dead[0]).await, 2);
    // What has succeeded is asked for, on its page and in the list.
    page.open(&format!("{}/ui/deliveries/{}", world.base, well[0])).await.unwrap();
    page.until("document.readyState === 'complete' && document.querySelector('.timeline') !== null").await.unwrap();
    page.press("r").await.unwrap();
    page.until("document.activeElement.closest('.sure[open] form')?.action.endsWith('/retry')").await.unwrap();
    assert_eq!(attempts(&well[0]).await, 1);
    page.press("Enter").await.unwrap();
    page.shows("The delivery is attempted again now.").await.unwrap();
    while world.drain().await > 0 {}
    assert_eq!(attempts(&well[0]).await, 2);
    page.open(&format!("{}/ui/deliveries?status=succeeded", world.base)).await.unwrap();
    page.until(&heading("Deliveries")).await.unwrap();
    for key in ["j", "r"] {
        page.press(key).await.unwrap();
    }
    page.until("document.activeElement.value === 'retry'").await.unwrap();
    // Columns are chosen in a menu.
    page.open(&format!("{}/ui/deliveries?status=succeeded", world.base)).await.unwrap();
    page.click(".filter-row > .sure > summary").await.unwrap();
    looked_at(&page, "menu-columns").await;
    page.click(".columns-menu input[value=tenant]").await.unwrap();
    page.click(".columns-menu button").await.unwrap();
    page.until("/status=succeeded&.*columns=tenant/.test(location.search)").await.unwrap();
    page.until("[...document.querySelectorAll('th')].some(th => th.textContent === 'Tenant')").await.unwrap();
    page.until(&heading("Deliveries")).await.unwrap();
    // Keys are switched off in the menu of the visitor's key, and Esc still closes it.
    page.click(".who summary").await.unwrap();
    page.click("#keys-toggle").await.unwrap();
    page.shows("Keys are off").await.unwrap();
    page.press("Escape").await.unwrap();
    page.until("!document.querySelector('.who').open").await.unwrap();
    page.press("z").await.unwrap();
    page.press("?").await.unwrap();
    assert_eq!(page.evaluate("document.getElementById('zone').textContent").await.unwrap(), "UTC");
    page.click(".who summary").await.unwrap();
    page.click("#keys-toggle").await.unwrap();
    page.shows("Keys are on").await.unwrap();
    page.press("Escape").await.unwrap();
    page.press("z").await.unwrap();
    page.until("document.getElementById('zone').textContent === 'Local time'").await.unwrap();
    // What was done is undone by the button in its note.
    let subscription = id(&world.get("/subscriptions").await["data"][0]);
    page.open(&format!("{}/ui/subscriptions/{subscription}", world.base)).await.unwrap();
    page.click("form[action$='/pause'] button").await.unwrap();
    page.shows("It is paused.").await.unwrap();
    looked_at(&page, "note-undo").await;
    page.click(".note form button").await.unwrap();
    page.until("document.querySelector('h1 .badge')?.textContent === 'Active'").await.unwrap();
    assert_eq!(page.problems(), Vec::<String>::new());
    world.finish().await;
}
