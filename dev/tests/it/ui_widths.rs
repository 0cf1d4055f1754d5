//! Every page of the dashboard at the widths of a phone, a tablet, a small and a usual screen: nothing is wider than
//! the window, nothing stands out of its panel, and no word in a button or a badge is cut off.

use dev::browser::Page;
use serde_json::json;

use crate::{
    ui_pages::{can_run, furnished, pages, pictures, signed_in},
    world::World,
};

/// The widths in pixels.
const WIDTHS: [u32; 4] = [360, 760, 1024, 1440];

/// What does not fit, as a list of texts. A box that scrolls may hold what is wider than it is; what cannot be seen is
/// not looked at. A pixel more or less is a matter of rounding.
const MISFITS: &str = "(width => {
    const found = new Set();
    const seen = one => one.checkVisibility({visibilityProperty: true}) && one.getBoundingClientRect().width > 2
        && !one.closest('.unseen, .skip, .announcer');
    const text = one => one.textContent.trim().slice(0, 40);
    const called = one => `${one.localName}.${one.getAttribute('class') ?? ''} “${text(one)}”`;
    const isWider = (inner, outer) => inner.left < outer.left - 1 || inner.right > outer.right + 1;
    const isHigher = (inner, outer) => inner.top < outer.top - 1 || inner.bottom > outer.bottom + 1;
    const flow = one => getComputedStyle(one).overflowX;
    if (document.documentElement.scrollWidth > width) found.add(`${document.documentElement.scrollWidth} px wide`);
    const words = 'button, summary, kbd, .button, .badge, .code, .tag, .environment, '
        + ':is(.chips, .ranges, .tabs, .side li) a';
    for (const one of document.querySelectorAll(words)) {
        if (!seen(one)) continue;
        const range = document.createRange();
        range.selectNodeContents(one);
        const [inner, outer] = [range.getBoundingClientRect(), one.getBoundingClientRect()];
        if (isWider(inner, outer) || isHigher(inner, outer)) found.add(`cut off: ${called(one)}`);
        for (let around = one; around && !['auto', 'scroll'].includes(flow(around)); around = around.parentElement) {
            if (flow(around) !== 'visible' && isWider(inner, around.getBoundingClientRect())) {
                found.add(`covered: ${called(one)}`);
            }
        }
    }
    const parts = 'table, td > *, dl, dd, form, p, h2, h3, pre, figure, .axis > *, li, nav';
    for (const panel of document.querySelectorAll('.panel, .tile, .light, .verdict, .note')) {
        for (const one of panel.querySelectorAll(parts)) {
            if (!seen(one) || one.closest('.sure > .card')) continue;
            let around = one.parentElement;
            while (around !== panel && flow(around) === 'visible') around = around.parentElement;
            if (around === panel && isWider(one.getBoundingClientRect(), panel.getBoundingClientRect())) {
                found.add(`out of its panel: ${called(one)}`);
            }
        }
    }
    return [...found];
})";

/// Gives every time of today the longer form that those of other days have.
const OTHER_DAY: &str = "document.querySelectorAll('main time').forEach(one => {
    if (/^\\d\\d:/.test(one.textContent)) one.textContent = `27 Sep 2026, ${one.textContent}`;
})";

/// Subscriptions and events with the longest words that people choose.
async fn add_long_words(world: &World) {
    let long = json!({
        "name": "A receiver with a rather long name that somebody chose to be very exact",
        "tenant_id": "a-tenant-with-a-long-name-2026",
        "event_types": ["customer.subscription.trial_will_end", "order.created", "order.returned", "order.shipped"],
        "retry_policy": {"delays_seconds": []},
    });
    world.subscribe("/fail/503", long).await;
    let event = json!({"event_type": "customer.subscription.trial_will_end", "payload": {"order": 7},
                       "tenant_id": "a-tenant-with-a-long-name-2026"});
    for _ in 0..3 {
        world.publish(event.clone()).await;
    }
    while world.drain().await > 0 {}
    world.worker.tally().flush(&world.pool).await.unwrap();
}

async fn misfits(page: &Page, width: u32) -> Vec<String> {
    let found = page.evaluate(&format!("{MISFITS}({width})")).await.unwrap();
    found.as_array().unwrap().iter().map(|one| one.as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn every_page_fits_a_window_of_any_width() {
    if !can_run() {
        return;
    }
    let world = furnished().await;
    add_long_words(&world).await;
    let (_browser, page) = signed_in(&world).await;
    let mut found = Vec::new();
    for (name, path) in pages(&world).await {
        page.open(&format!("{}{path}", world.base)).await.unwrap();
        page.evaluate(OTHER_DAY).await.unwrap();
        for width in WIDTHS {
            page.resize(width, if width < 700 { 800 } else { 900 }).await.unwrap();
            let misfits = misfits(&page, width).await;
            if !misfits.is_empty() || width == 1024 {
                page.screenshot(&pictures().join(format!("{name}-{width}.png"))).await.unwrap();
            }
            found.extend(misfits.iter().map(|misfit| format!("{name} at {width}: {misfit}")));
        }
    }
    assert_eq!(found, Vec::<String>::new(), "{}", found.join("\n"));
    assert_eq!(page.problems(), Vec::<String>::new());
    Box::pin(world.finish()).await;
}
