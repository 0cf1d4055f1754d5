//! Measures the lists on a database with a month of history: the first and the hundredth page of each. Nothing else
//! runs meanwhile.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{history::History, load::quantile_ms};
use crate::client::Client;

/// Every page is read this often; the median counts.
const READS: usize = 5;
/// The page that is measured besides the first.
const LATER_PAGE: usize = 100;
/// What each of these pages may take.
const LIMIT: Duration = Duration::from_millis(50);

/// The lists; `SUBSCRIPTION` stands for a subscription with history.
const LISTS: [&str; 16] = [
    "/events?",
    "/events?tenant_id=default&",
    "/events?event_type=type.7&",
    "/events?tenant_id=tenant_7&event_type=type.7&",
    "/events?metadata=region:eu&",
    "/deliveries?",
    "/deliveries?tenant_id=default&",
    "/deliveries?tenant_id=tenant_7&",
    "/deliveries?subscription_id=SUBSCRIPTION&",
    "/deliveries?status=succeeded&",
    "/deliveries?status=dead_letter&",
    "/deliveries?status=canceled&",
    "/deliveries?status=pending&",
    "/deliveries?event_type=type.7&",
    "/dead-letters?",
    "/dead-letters?subscription_id=SUBSCRIPTION&",
];

/// Measures every list.
///
/// # Errors
/// When a page takes longer than it may, or does not come at all.
pub async fn lists(history: &History) -> Result<Value> {
    println!("lists:            first page   page {LATER_PAGE}   (ms, median of {READS})");
    let client = history.client();
    let mut slow = Vec::new();
    let mut answer = json!({});
    for list in LISTS {
        let path = list.replace("SUBSCRIPTION", &history.subscription);
        let read = async |cursor: &Option<String>| page(&client, &path, cursor.as_deref()).await;
        let mut cursor = None;
        let first = median(async || read(&None).await).await?;
        for _ in 1..LATER_PAGE {
            cursor = read(&cursor).await?;
            if cursor.is_none() {
                break;
            }
        }
        let later = if cursor.is_some() { Some(median(async || read(&cursor).await).await?) } else { None };
        let shown = later.map_or("none".to_owned(), |later| format!("{later:.1}"));
        println!("                {first:>12.1} {shown:>10}   {list}");
        answer[list] = json!({"first_page_ms": first, "hundredth_page_ms": later});
        if first.max(later.unwrap_or_default()) > LIMIT.as_secs_f64() * 1000.0 {
            slow.push(list);
        }
    }
    ensure!(slow.is_empty(), "these pages took longer than {LIMIT:?}: {slow:?}");
    Ok(answer)
}

/// The median time of a read in milliseconds.
async fn median(read: impl AsyncFn() -> Result<Option<String>>) -> Result<f64> {
    let mut times = Vec::new();
    for _ in 0..READS {
        let started = Instant::now();
        read().await?;
        times.push(started.elapsed());
    }
    times.sort_unstable();
    Ok(quantile_ms(&times, 0.5))
}

/// Reads a page; answers the cursor of the next one.
async fn page(client: &Client<'_>, path: &str, cursor: Option<&str>) -> Result<Option<String>> {
    let cursor = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
    let answer = client.get(&format!("{path}limit=50{cursor}")).await?;
    ensure!(answer["data"].is_array(), "{answer}");
    Ok(answer["next_cursor"].as_str().map(str::to_owned))
}
