//! All tests that do I/O, in one binary. They call the real api over HTTP, with a real Postgres and a real receiver.
#![expect(clippy::unwrap_used, reason = "tests speak for themselves")]

mod world;

mod access;
mod api_keys;
mod archive;
mod attempts;
mod bystanders;
mod circuits;
mod clients;
mod collector;
mod configuration;
mod connections;
mod crashes;
mod database_crashes;
mod databases;
mod dead_letters;
mod deliveries;
mod delivery_rates;
mod demo;
mod document;
mod documented;
mod early_answers;
mod emitters;
mod events;
mod exports;
mod failing;
mod failover;
mod filters;
mod flow_control;
mod flow_invariants;
mod flow_races;
mod flow_settings;
mod fuzz;
mod health;
mod hostile_bodies;
mod hostile_callers;
mod hostile_receivers;
mod hostile_tls;
mod idempotency;
mod idempotency_at_once;
mod ingest;
mod ingest_challenges;
mod ingest_signatures;
mod inline_deliveries;
mod interop;
mod jobs;
mod kubernetes;
mod lane_model;
mod late_lanes;
mod limit_races;
mod lists;
mod live;
#[cfg(target_os = "linux")]
mod machine;
mod metrics;
mod observability;
mod operational_events;
mod ordering;
mod outages;
mod packed_payloads;
mod plans;
mod portal_links;
mod processes;
mod queue;
mod races;
mod rate_limits;
mod raw;
mod replays;
mod retention;
mod retry_decisions;
mod samples;
mod schema;
mod sealing;
mod signatures;
mod sql_publish;
mod sql_publish_order;
mod stats;
mod stored;
mod subscriptions;
mod targets;
mod traces;
mod ui;
mod ui_deliveries;
mod ui_demo;
mod ui_events;
mod ui_jobs;
mod ui_lists;
mod ui_pages;
mod ui_portal;
mod ui_rooms;
mod ui_scripts;
mod ui_search;
mod ui_subscription;
mod ui_tenants;
mod ui_views;
mod ui_widths;
mod upgrades;
mod waits;

/// A file that no `mod` names would not even be compiled, and its tests would never fail.
#[test]
fn every_file_beside_this_one_is_a_module() {
    let folder = dev::workspace().join("dev/tests/it");
    let named = std::fs::read_to_string(folder.join("main.rs")).unwrap();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(name == "main" || named.contains(&format!("\nmod {name};\n")), "{name}");
    }
}
