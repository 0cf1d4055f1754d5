//! What stands in `deploy`: rules, alerts and the dashboard. Each metric that they name is exported by real processes,
//! and each place that they point to exists.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    process::{Command, Stdio},
};

use dev::{
    tools::{Tool, are_there},
    up::Process,
    workspace,
};
use serde_json::{Value, json};

use crate::{
    crashes::binaries,
    metrics::family,
    world::{SOON, World, client},
};

const RULES: [&str; 2] = ["deploy/prometheus/recording.yml", "deploy/prometheus/alerts.yml"];
const DASHBOARD: &str = "deploy/grafana/dashboards/postrider.json";

fn read(path: &str) -> String {
    fs::read_to_string(workspace().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The names of metrics in a text: those of rules, which begin with `job:`, and those of processes.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|character: char| !(character.is_ascii_alphanumeric() || "_:".contains(character)));
    let is_name =
        |word: &&str| word.starts_with("job:") || word.starts_with("postrider_") || word.starts_with("process_");
    words.filter(is_name).collect()
}

#[test]
fn the_rules_are_sound_and_their_tests_pass() {
    if !are_there(&[Tool::Promtool]) {
        return;
    }
    for arguments in [
        &["check", "config", "prometheus.yml"][..],
        &["check", "rules", "recording.yml", "alerts.yml"],
        &["test", "rules", "recording_test.yml", "alerts_test.yml"],
    ] {
        let mut promtool = Command::new("promtool");
        let done = promtool.args(arguments).current_dir(workspace().join("deploy/prometheus")).output().unwrap();
        let said = [done.stdout, done.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
        assert!(done.status.success(), "{arguments:?}: {said:?}");
    }
}

#[test]
fn alerts_and_the_dashboard_point_to_what_is_there() {
    let alerts = read("deploy/prometheus/alerts.yml");
    let manual = read("docs/operating.md");
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "an id occurs twice");
    let values = |key: &str| -> Vec<String> {
        let of_line = |line: &str| line.trim().strip_prefix(key).map(|value| value.trim().to_owned());
        alerts.lines().filter_map(of_line).collect()
    };
    let named = values("- alert:");
    assert_eq!(named.iter().collect::<BTreeSet<_>>().len(), 8);
    for key in ["severity:", "summary:", "runbook_url:", "dashboard_url:"] {
        assert_eq!(values(key).len(), named.len(), "{key}");
    }
    for (name, runbook) in named.iter().zip(values("runbook_url:")) {
        assert_eq!(runbook, format!("docs/operating.md#{}", name.to_lowercase()));
        assert!(manual.contains(&format!("\n### {name}\n")), "docs/operating.md has no section {name}");
    }
    for url in values("dashboard_url:") {
        let panel = url.strip_prefix("/d/postrider/postrider?viewPanel=").unwrap_or_else(|| panic!("{url}"));
        assert!(ids.contains(&panel.parse().unwrap()), "{url}");
    }
    assert_eq!(dashboard["uid"], "postrider");
    let text = read(DASHBOARD);
    let links: BTreeSet<_> = text.split("${ui}/").skip(1).filter_map(|rest| rest.split(['"', '?']).next()).collect();
    assert!(links.len() >= 5, "{links:?}");
    for link in links {
        let page = format!("/ui/{link}");
        let is_there = api::ui::routes::ROUTES.iter().any(|(method, path)| *method == "GET" && *path == page);
        assert!(is_there, "there is no page {page}");
    }
}

#[tokio::test]
async fn every_metric_that_rules_and_dashboard_name_is_exported() {
    let world = World::new().await;
    binaries();
    let api = Process::start("api", "debug", &world.env).await.unwrap();
    let base = api.ready.rsplit(' ').next().unwrap().to_owned();
    world.subscribe("/success", json!({"event_types": ["good"]})).await;
    let body = json!({"event_type": "good", "payload": {}}).to_string();
    let post = client().post(format!("{base}/events")).bearer_auth(crate::world::KEY).body(body);
    assert_eq!(post.send().await.unwrap().status(), 202);
    sqlx::query("SELECT publish('good', '{}')").execute(&world.pool).await.unwrap();
    let worker = Process::start("worker", "debug", &world.env).await.unwrap();
    let worker_base = format!("http://{}", worker.ready.rsplit(' ').next().unwrap());
    world.receiver.wait_for(2, SOON).await.unwrap();
    world.queue_is_empty().await;

    let mut named = BTreeMap::new();
    for path in RULES.into_iter().chain([DASHBOARD]) {
        named.insert(path, read(path));
    }
    let recorded: BTreeSet<_> =
        named[RULES[0]].lines().filter_map(|line| line.trim().strip_prefix("- record: ")).map(str::to_owned).collect();
    let last = RefCell::new(Vec::new());
    let missing = async {
        loop {
            let text = scrape(&base).await + &scrape(&worker_base).await;
            let samples = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
            let exported: BTreeSet<_> = samples.map(family).collect();
            let of_file = |(path, text): (&&'static str, &String)| {
                let unknown = |name: &&str| match name.strip_prefix("job:") {
                    Some(_) => !recorded.contains(*name),
                    None => !exported.contains(family(name)),
                };
                names(text).into_iter().filter(unknown).map(|name| format!("{path}: {name}")).collect::<Vec<_>>()
            };
            let missing: Vec<_> = named.iter().flat_map(of_file).collect();
            if missing.is_empty() {
                return text;
            }
            // Outcomes are counted a moment after they were written down.
            *last.borrow_mut() = missing;
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    };
    let text = tokio::time::timeout(SOON, missing).await;
    let text = text.unwrap_or_else(|_| panic!("never exported: {:?}", last.borrow()));
    let bucket = "postrider_delivery_wait_seconds_bucket{attempt=\"first\",le=\"10\"}";
    assert!(text.contains(bucket), "the objective has a bucket of its own");
    for base in [&base, &worker_base] {
        check_metrics(&scrape(base).await);
    }
    api.stop().await.unwrap();
    worker.stop().await.unwrap();
    world.finish().await;
}

async fn scrape(base: &str) -> String {
    client().get(format!("{base}/metrics")).send().await.unwrap().text().await.unwrap()
}

/// Lets promtool judge names, units and descriptions.
fn check_metrics(text: &str) {
    if !are_there(&[Tool::Promtool]) {
        return;
    }
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().unwrap();
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let done = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && said.trim().is_empty(), "{said}");
}
