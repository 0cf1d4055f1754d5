//! The subscriptions of a run: one of every kind, each with a receiver of its own.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    chaos::{
        log::{Rate, Subscription},
        receivers::Receivers,
    },
    client::Client,
};

/// Types of events that producers post; patterns of the subscriptions fit them.
pub const WIDE: &str = "wide.done";
/// Wanted by subscriptions with an order.
pub const ORDER: &str = "order.placed";
/// Wanted by subscriptions with limits.
pub const LIMITED: &str = "limited.done";
/// Wanted by subscriptions with a circuit that opens soon.
pub const CIRCUIT: &str = "circuit.done";
/// Wanted by a subscription with an order, in which no event has a key.
pub const LINE: &str = "line.done";

/// The tenant of everything in a run.
pub const TENANT: &str = "chaos";
/// How long an attempt may take; a lease lasts twice as long and five seconds more.
pub const TIMEOUT: Duration = Duration::from_secs(1);

/// A subscription that is to be made.
struct Wanted {
    name: &'static str,
    event_types: &'static [&'static str],
    settings: Value,
    /// How long its receiver takes to answer.
    latency: Duration,
}

fn wanted() -> Vec<Wanted> {
    let one = |name, event_types, latency_ms, settings| {
        let latency = Duration::from_millis(latency_ms);
        Wanted { name, event_types, settings, latency }
    };
    let circuit = json!({"failures_in_a_row": 3, "cooldown_seconds": 1, "cooldown_max_seconds": 3});
    let eager = json!({"failures_in_a_row": 2, "cooldown_seconds": 1, "cooldown_max_seconds": 2, "probes": 3,
                       "successes_to_close": 3});
    vec![
        one("plain", &["wide.*"], 0, json!({})),
        one("plain, slow", &["wide.*", "circuit.*"], 30, json!({})),
        one("everything", &["*"], 2, json!({})),
        one("fifo", &["order.*"], 2, json!({"ordering": "fifo"})),
        one("fifo, limited", &["order.*"], 10, json!({"ordering": "fifo", "max_in_flight": 3})),
        one("fifo, circuit", &["order.*"], 5, json!({"ordering": "fifo", "circuit": circuit})),
        one("fifo, one line", &["line.*"], 0, json!({"ordering": "fifo"})),
        one("rate limit", &["limited.*"], 1, json!({"rate_limit_per_second": 15, "rate_limit_burst": 5})),
        one("max in flight", &["limited.*"], 60, json!({"max_in_flight": 3})),
        one(
            "both limits",
            &["limited.*"],
            40,
            json!({"max_in_flight": 2, "rate_limit_per_second": 25,
                                                       "rate_limit_burst": 3}),
        ),
        one("circuit", &["circuit.*"], 2, json!({"circuit": circuit})),
        one("circuit, limited", &["circuit.*"], 20, json!({"circuit": eager, "max_in_flight": 4})),
    ]
}

/// Makes the subscriptions, each with a receiver of its own.
///
/// # Errors
/// When the api refuses one.
pub async fn subscribe(api: &Client<'_>, receivers: &mut Receivers) -> Result<Vec<Subscription>> {
    let mut all = Vec::new();
    for one in wanted() {
        let url = receivers.add(one.latency).await?;
        let mut body = json!({
            "target_url": url, "name": one.name, "tenant_id": TENANT, "event_types": one.event_types,
            "timeout_ms": TIMEOUT.as_millis(), "circuit": null, "disable_after_days": null,
            "retry_policy": {"delays_seconds": vec![1; 99]},
        });
        for (name, value) in one.settings.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        let answer = api.post("/subscriptions", &body.to_string()).await?;
        let id = answer["id"].as_str().with_context(|| format!("no id in {answer}"))?;
        let limit = |name: &str| one.settings[name].as_u64();
        all.push(Subscription {
            id: Uuid::parse_str(id.trim_start_matches("sub_"))?,
            name: one.name.to_owned(),
            event_types: one.event_types.iter().map(|&pattern| pattern.to_owned()).collect(),
            is_ordered: one.settings["ordering"] == "fifo",
            max_in_flight: limit("max_in_flight").and_then(|max| usize::try_from(max).ok()),
            rate: one.settings["rate_limit_per_second"]
                .as_f64()
                .zip(limit("rate_limit_burst"))
                .map(|(per_second, burst)| Rate { per_second, burst: u32::try_from(burst).unwrap_or(u32::MAX) }),
        });
    }
    Ok(all)
}
