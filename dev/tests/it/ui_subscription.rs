//! A subscription's pages: how its receiver verifies, in six languages that are run here; what it would want; what was
//! changed of it; and a form that says what is wrong while it is filled in. Then the page of the machine.

use std::{path::Path, process::Stdio};

use chrono::Utc;
use dev::{
    receiver::Received,
    tools::{Tool, are_there},
    workspace,
};
use reqwest::Method;
use serde_json::{Map, json};
use tokio::process::Command;

use crate::{
    access::key,
    ui::{Session, world},
    ui_pages::{can_run, findings, signed_in},
    world::{KEY, World, id},
};

/// The languages of the page, what runs them, the file of the function, and what is written behind it.
const LANGUAGES: [(&str, &[&str], &str, &str); 6] = [
    ("Shell", &["bash"], "verify.sh", "verify \"$@\""),
    (
        "JavaScript (Node)",
        &["node"],
        "verify.mjs",
        "import { readFileSync } from 'node:fs';\n\
         process.exit(verify(JSON.parse(process.env.HEADERS), readFileSync(process.env.BODY)) ? 0 : 1);",
    ),
    (
        "Python",
        &["python3"],
        "verify.py",
        "import json, sys\n\
         sys.exit(0 if verify(json.loads(os.environ['HEADERS']), open(os.environ['BODY'], 'rb').read()) else 1)",
    ),
    ("Go", &["go", "run"], "verify.go", GO),
    (
        "Ruby",
        &["ruby"],
        "verify.rb",
        "require 'json'\nexit(verify(JSON.parse(ENV['HEADERS']), File.binread(ENV['BODY'])))",
    ),
    (
        "PHP",
        &["php"],
        "verify.php",
        "exit(verify(json_decode(getenv('HEADERS'), true), file_get_contents(getenv('BODY'))) ? 0 : 1);",
    ),
];

/// A second file for Go, where imports stand before everything else.
const GO: &str = r#"package main

import (
	"encoding/json"
	"net/http"
	"os"
)

func main() {
	var plain map[string]string
	if err := json.Unmarshal([]byte(os.Getenv("HEADERS")), &plain); err != nil {
		panic(err)
	}
	headers := http.Header{}
	for name, value := range plain {
		headers.Set(name, value)
	}
	body, err := os.ReadFile(os.Getenv("BODY"))
	if err != nil || !verify(headers, body) {
		os.Exit(1)
	}
}
"#;

/// What a receiver has, and what it got.
struct Case<'a> {
    scheme: &'a str,
    secret: &'a str,
    public_key: &'a str,
    received: &'a Received,
}

/// The function that the page shows for a language.
fn snippet(page: &str, language: &str) -> String {
    let mark = format!("aria-label=\"Verify in {language}\"><code>");
    let rest = page.split(&mark).nth(1).unwrap_or_else(|| panic!("no {language} in {page}"));
    let code = rest.split("</code>").next().unwrap();
    code.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&")
}

/// Whether this machine has what a snippet needs.
async fn can_run_it(language: &str, program: &str, scheme: &str) -> bool {
    let check: &[&str] = match (language, scheme) {
        ("Python", "standard_v1a") => &["-c", "import cryptography"],
        ("PHP", "standard_v1a") => &["-r", "exit(function_exists('sodium_crypto_sign_verify_detached') ? 0 : 1);"],
        ("Go", _) => &["version"],
        _ => &["--version"],
    };
    let output = Command::new(program).args(check).stdout(Stdio::null()).stderr(Stdio::null()).status().await;
    let is_there = output.is_ok_and(|status| status.success());
    if !is_there {
        eprintln!("skipped: {language} for {scheme}, because {program} or what it needs is not there");
    }
    is_there
}

/// Runs the function for what was received with this body.
async fn verifies(case: &Case<'_>, run: &[&str], file: &Path, body: &[u8]) -> bool {
    let folder = file.parent().unwrap();
    let content = folder.join("body");
    std::fs::write(&content, body).unwrap();
    let headers: Map<_, _> = case
        .received
        .headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), json!(value.to_str().unwrap())))
        .collect();
    let header = |name| case.received.header(name);
    let body = content.to_str().unwrap();
    let arguments: Vec<&str> = match (run[0], case.scheme) {
        ("bash", "github") => vec![header("x-hub-signature-256"), body],
        ("bash", "timestamped") => vec![header("x-webhook-timestamp"), header("x-webhook-signature"), body],
        ("bash", _) => vec![header("webhook-id"), header("webhook-timestamp"), header("webhook-signature"), body],
        _ => vec![],
    };
    let mut command = Command::new(run[0]);
    command.args(&run[1..]).arg(file);
    if run[0] == "go" {
        command.arg(folder.join("main.go"));
    }
    let output = command
        .args(arguments)
        .env("HEADERS", serde_json::to_string(&headers).unwrap())
        .env("BODY", &content)
        .env("WEBHOOK_SECRET", case.secret)
        .env("WEBHOOK_PUBLIC_KEY", case.public_key)
        .output()
        .await
        .unwrap();
    match output.status.code() {
        Some(0) => true,
        Some(1) => {
            let told = String::from_utf8_lossy(&output.stderr).replace("exit status 1", "");
            assert!(told.trim().is_empty(), "{} of {}: {told}", run[0], case.scheme);
            false
        }
        other => panic!("{} of {} ended with {other:?}: {output:?}", run[0], case.scheme),
    }
}

#[tokio::test]
async fn what_the_page_shows_verifies_deliveries_and_refuses_forged_ones() {
    if !are_there(&[Tool::Bash, Tool::Openssl, Tool::Node, Tool::Python]) {
        return;
    }
    let world = world().await;
    let admin = Session::new(&world, KEY).await;
    let folder = workspace().join("target/verification");
    std::fs::create_dir_all(&folder).unwrap();
    for scheme in ["standard", "standard_v1a", "github", "timestamped"] {
        let created = world.subscribe("/success", json!({"signature_scheme": scheme})).await;
        let subscription = id(&created);
        world.ingest(&subscription, "{\"total\": 120.50, \"name\": \"Zoë\"}").await;
        assert_eq!(world.drain().await, 1);
        let received = world.receiver.received().last().unwrap().clone();
        let (_, page) = admin.get(&format!("/ui/subscriptions/{subscription}/signing")).await;
        let case = Case {
            scheme,
            secret: created["secret"].as_str().unwrap(),
            public_key: created["public_key"].as_str().unwrap_or_default(),
            received: &received,
        };
        assert!(!page.contains(case.secret), "the secret is not on the page");
        for (language, run, name, behind) in LANGUAGES {
            let shown = snippet(&page, language);
            if !can_run_it(language, run[0], scheme).await {
                continue;
            }
            let file = folder.join(name);
            if run[0] == "go" {
                std::fs::write(&file, format!("package main\n\n{shown}\n")).unwrap();
                std::fs::write(folder.join("main.go"), behind).unwrap();
            } else {
                std::fs::write(&file, format!("{shown}\n{behind}\n")).unwrap();
            }
            assert!(verifies(&case, run, &file, &received.body).await, "{language} refuses {scheme}");
            let forged = [received.body.as_ref(), b" "].concat();
            assert!(!verifies(&case, run, &file, &forged).await, "{language} takes a forged {scheme}");
        }
    }
    world.finish().await;
}

#[tokio::test]
async fn an_event_is_judged_without_being_sent() {
    let world = world().await;
    let wanted = json!({"event_types": ["order.*"],
                        "filters": {"payload": {"order.total": {"$gte": 100}}, "metadata": {"region": "eu"}}});
    let subscription = id(&world.subscribe("/success", wanted).await);
    let (event, _) = world.publish(json!({"event_type": "order.paid", "payload": {"order": {"total": 7}}})).await;
    let admin = Session::new(&world, KEY).await;
    let judge = format!("/ui/subscriptions/{subscription}/judge");
    let (status, page) = admin
        .post(
            &judge,
            &[("event_type", "order.paid"), ("payload", "{\"order\": {\"total\": 120}}"), ("metadata", "region: eu")],
        )
        .await;
    assert!(status == 200 && page.contains("It wants this event."), "{page}");
    let (_, page) = admin.post(&judge, &[("event_id", &event)]).await;
    assert!(page.contains("2 conditions fail") && page.contains("has <code>7</code>"), "{page}");
    assert!(page.contains("metadata.region is eu"), "{page}");
    let (_, page) = admin.post(&judge, &[("event_type", "user.left"), ("payload", "not json")]).await;
    assert!(page.contains("3 conditions fail") && page.contains("payload is JSON that filters can read"), "{page}");
    for (field, value, said) in
        [("event_type", "a b", "must be segments"), ("metadata", "x", "is not"), ("event_id", "evt_1", "is no event")]
    {
        let (status, page) = admin.post(&judge, &[(field, value)]).await;
        assert!(status == 200 && page.contains(said) && page.contains("aria-invalid=\"true\""), "{field}: {page}");
    }
    // The form offers events of the tenant.
    let (_, page) = admin.get(&format!("/ui/subscriptions/{subscription}/try")).await;
    assert!(page.contains(&format!("<option value=\"{event}\">order.paid</option>")), "{page}");
    let stranger = Session::new(&world, &key(&world, &["manage"], Some("stranger")).await.1).await;
    assert_eq!(stranger.post(&judge, &[("event_type", "order.paid")]).await.0, 404);
    assert_eq!(world.drain().await, 0, "nothing was sent");
    world.finish().await;
}

#[tokio::test]
async fn those_who_may_see_the_audit_log_see_what_was_changed_of_a_subscription() {
    let world = world().await;
    let [subscription, other] = [world.subscription("/success").await, world.subscription("/success").await];
    let path = format!("/subscriptions/{subscription}");
    world.call(Method::PATCH, &path, Some(json!({"name": "Renamed"}))).await.expect(200);
    world.post(&format!("/subscriptions/{other}/pause")).await;
    let admin = Session::new(&world, KEY).await;
    let (_, page) = admin.get(&format!("/ui{path}")).await;
    assert!(page.contains(&format!("{subscription}/audit\"")), "a tab: {page}");
    let (status, page) = admin.get(&format!("/ui{path}/audit")).await;
    assert!(status == 200 && page.contains("subscription.created"), "{page}");
    assert!(page.contains("<ins>&quot;Renamed&quot;</ins>") && !page.contains("subscription.paused"), "{page}");
    let manager = Session::new(&world, &key(&world, &["manage"], None).await.1).await;
    assert_eq!(manager.get(&format!("/ui{path}/audit")).await.0, 403);
    assert!(!manager.get(&format!("/ui{path}")).await.1.contains("/audit\""));
    let strangers = key(&world, &["admin"], Some("stranger")).await.1;
    assert_eq!(Session::new(&world, &strangers).await.get(&format!("/ui{path}/audit")).await.0, 404);
    world.finish().await;
}

#[tokio::test]
async fn a_form_says_what_is_wrong_while_it_is_filled_in() {
    if !can_run() {
        return;
    }
    let world = world().await;
    let subscription = world.subscription("/success").await;
    let (_browser, page) = signed_in(&world).await;
    let leave = async |page: &dev::browser::Page, field: &str, text: &str| {
        let (field, text) = (json!(field), json!(text));
        let script = format!(
            "(() => {{ const field = document.getElementById({field}); field.focus(); field.value = {text};
               field.dispatchEvent(new Event('change', {{bubbles: true}})); return 0; }})()"
        );
        page.evaluate(&script).await.unwrap();
    };
    for path in ["/ui/subscriptions/new".to_owned(), format!("/ui/subscriptions/{subscription}/settings")] {
        page.open(&format!("{}{path}", world.base)).await.unwrap();
        leave(&page, "target_url", "ftp://example.com").await;
        page.until("document.getElementById('target_url-error').textContent.includes('http')").await.unwrap();
        leave(&page, "filters.payload", "{\"a\": {\"$huh\": 1}}").await;
        page.until("document.getElementById('filters.payload-error').textContent !== ''").await.unwrap();
        leave(&page, "event_types", "order.*\nnot a type!").await;
        page.until("document.getElementById('event_types-error').textContent !== ''").await.unwrap();
        // What is mended is told, and what was typed stays.
        leave(&page, "target_url", &world.receiver.url("/success")).await;
        page.until("document.getElementById('target_url-error').textContent === ''").await.unwrap();
        let typed = page.evaluate("document.getElementById('event_types').value").await.unwrap();
        assert_eq!(typed, "order.*\nnot a type!", "{path}");
        assert_eq!(findings(&page).await, Vec::<String>::new(), "{path}");
    }
    assert_eq!(page.problems(), Vec::<String>::new());
    assert_eq!(world.get("/subscriptions").await["data"].as_array().unwrap().len(), 1, "nothing was created");
    world.finish().await;
}

/// Waits until a worker and an api have told their settings.
async fn told(world: &World) {
    let told = "SELECT count(DISTINCT kind) FROM processes WHERE settings IS NOT NULL";
    for _ in 0..200 {
        if sqlx::query_scalar::<_, i64>(told).fetch_one(&world.pool).await.unwrap() == 2 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("the processes do not tell their settings");
}

#[tokio::test]
async fn whether_the_machine_is_sound_is_told_to_those_who_run_it() {
    let world = world().await;
    let subscription = world.subscription("/success").await;
    let delivery = world.ingest(&subscription, "1").await;
    world.drain().await;
    sqlx::query("SELECT measure_queue(100000)").execute(&world.pool).await.unwrap();
    let (stop, worker) = world.run_worker();
    told(&world).await;
    let admin = Session::new(&world, KEY).await;
    let (_, page) = admin.get("/ui/lanes").await;
    for shown in ["POSTRIDER_WORKER_CONCURRENCY", "POSTRIDER_API_CONNECTIONS_MAX", "backlog_minute", "partitions until"]
    {
        assert!(page.contains(shown), "{shown} in {page}");
    }
    let url = page.split("DATABASE_URL</th>").nth(1).unwrap().split("</tr>").next().unwrap();
    assert!(url.contains("set, not shown") && !page.contains("postgres://") && !page.contains(KEY), "{url}");
    let (_, page) = admin.post("/ui/lanes/examine", &[]).await;
    assert!(page.contains("Every rule holds, and nothing is stuck."), "{page}");
    stop.cancel();
    worker.await.unwrap();
    let broken = "UPDATE deliveries SET status = 'pending', finished_at = NULL WHERE subscription_id IS NOT NULL";
    sqlx::raw_sql(broken).execute(&world.pool).await.unwrap();
    let (_, page) = admin.post("/ui/lanes/examine", &[]).await;
    assert!(page.contains("1 rules do not hold") && page.contains("unfinished delivery without a queue row"), "{page}");
    assert!(page.contains(&format!("href=\"../deliveries/{delivery}\"")), "{page}");
    let now = Utc::now();
    sqlx::query("UPDATE deliveries SET status = 'succeeded', finished_at = $1")
        .bind(now)
        .execute(&world.pool)
        .await
        .unwrap();
    for (scopes, tenant) in [(&["manage"][..], None), (&["admin"][..], Some("acme"))] {
        let session = Session::new(&world, &key(&world, scopes, tenant).await.1).await;
        assert!(!session.get("/ui/lanes").await.1.contains("Settings in force"), "{scopes:?} {tenant:?}");
        assert_eq!(session.post("/ui/lanes/examine", &[]).await.0, 303, "the reason is shown on the page");
    }
    world.finish().await;
}
