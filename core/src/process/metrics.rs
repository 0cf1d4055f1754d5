//! The metrics of our processes: what each means, the bounds of the histograms, and how they are started. The names are
//! Prometheus's: base units, `_total` for counters, and labels with few values. No label names a subscription, a tenant
//! or a URL. Where each is counted stands with what it counts; `docs/operating.md` tells what to do about them.

use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::tally::buckets::DURATION_BUCKETS;

/// Buckets of how long deliveries wait and take in all, in seconds. 10 s is the bound of the objective for waiting.
const WAIT_BUCKETS: [f64; 16] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 600.0, 3600.0, 86_400.0];
/// Buckets of how much one transaction does.
const BATCH_BUCKETS: [f64; 10] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 256.0, 500.0, 1000.0];
/// How often recorded metrics are condensed, so that they do not pile up in memory.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Every counter, and what it means.
const COUNTERS: [(&str, &str); 15] = [
    (
        "postrider_events_accepted_total",
        "Events that were stored, also those that nobody wanted, by where they came from.",
    ),
    ("postrider_filter_verdicts_total", "Decisions of filters about events whose type fits."),
    ("postrider_ingest_rate_limited_total", "Requests that were refused with 429, by whose limit it was."),
    ("postrider_ingest_event_types_missing_total", "Events whose provider's header held no event type."),
    ("postrider_connections_refused_total", "Connections of callers that were refused, by the reason."),
    ("postrider_job_deliveries_total", "Deliveries with which jobs have done something, by what it was."),
    ("postrider_deliveries_total", "Outcomes of deliveries that were recorded."),
    (
        "postrider_delivery_attempts_total",
        "Requests to receivers, by what came of them and by the class of the answer.",
    ),
    ("postrider_dead_letters_created_total", "Deliveries that were given up, by what went wrong last."),
    ("postrider_requests_resent_total", "Requests that were sent once more because a kept connection was closed."),
    ("postrider_leases_lost_total", "Outcomes that came after their lease had been lost, and changed nothing."),
    ("postrider_lanes_repaired_total", "Lanes that were due too late and were repaired, which should never happen."),
    ("postrider_spans_total", "Spans of traces that have ended, by what came of them on the way to the collector."),
    ("postrider_archive_failures_total", "Partitions that could not be written to the archive, and so were kept."),
    ("process_cpu_seconds_total", "Processor time that the process has used, in whole seconds."),
];

/// Every gauge, and what it means.
const GAUGES: [(&str, &str); 12] = [
    ("postrider_build_info", "Always 1; its label tells the version."),
    ("postrider_db_pool_connections", "Connections to the database, by what they are for."),
    ("postrider_queue_depth", "Deliveries that are not finished, by state; no count goes beyond 100,000."),
    ("postrider_queue_oldest_due_seconds", "For how long the most overdue lane has been due without a visit."),
    ("postrider_dead_letters", "Dead letters that nobody has dealt with, at most 100,000."),
    ("postrider_subscriptions", "Subscriptions by state, and whether their last attempts have all failed."),
    ("postrider_circuits", "Circuits that are not closed."),
    ("postrider_partition_runway_seconds", "For how long from now there are partitions."),
    ("postrider_worker_places", "Deliveries that this worker may hold at once, used and free."),
    ("process_resident_memory_bytes", "Memory that the process holds."),
    ("process_open_fds", "Files and connections that the process has open."),
    ("process_max_fds", "Files and connections that the process may have open."),
];

/// Every histogram, what it means, and its buckets.
const HISTOGRAMS: [(&str, &str, &[f64]); 10] = [
    ("postrider_http_request_duration_seconds", "How long the api took to answer, by route.", &DURATION_BUCKETS),
    ("postrider_store_duration_seconds", "How long storing one batch of events took.", &DURATION_BUCKETS),
    ("postrider_ingest_batch_events", "Events stored in one transaction.", &BATCH_BUCKETS),
    ("postrider_fan_out_duration_seconds", "How long a step of the fan-out took.", &DURATION_BUCKETS),
    ("postrider_claim_duration_seconds", "How long a claim took.", &DURATION_BUCKETS),
    ("postrider_record_duration_seconds", "How long recording one batch of outcomes took.", &DURATION_BUCKETS),
    ("postrider_record_batch_deliveries", "Outcomes recorded in one transaction.", &BATCH_BUCKETS),
    ("postrider_delivery_attempt_duration_seconds", "How long receivers took.", &DURATION_BUCKETS),
    ("postrider_delivery_wait_seconds", "How long deliveries were due before their attempt began.", &WAIT_BUCKETS),
    ("postrider_delivery_latency_seconds", "From accepting an event to its delivery.", &WAIT_BUCKETS),
];

/// Starts recording metrics, and a task that condenses them even if nobody reads them. The handle renders the metrics
/// in the Prometheus text format.
///
/// # Panics
/// When the process records metrics already, or outside a runtime.
#[must_use]
pub fn init() -> PrometheusHandle {
    let mut builder = PrometheusBuilder::new();
    for (name, _, buckets) in HISTOGRAMS {
        builder = builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), buckets).expect("there are buckets");
    }
    let handle = builder.install_recorder().expect("nothing has been recorded before");
    for (name, meaning) in COUNTERS {
        metrics::describe_counter!(name, meaning);
    }
    for (name, meaning) in GAUGES {
        metrics::describe_gauge!(name, meaning);
    }
    for (name, meaning, _) in HISTOGRAMS {
        metrics::describe_histogram!(name, meaning);
    }
    let kept = handle.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP_EVERY).await;
            kept.run_upkeep();
        }
    });
    handle
}

/// Shows a counter as zero before anything has been counted, for each value of its label.
pub fn at_zero(name: &'static str, label: &'static str, values: impl IntoIterator<Item = &'static str>) {
    for value in values {
        metrics::counter!(name, label => value).increment(0);
    }
}
