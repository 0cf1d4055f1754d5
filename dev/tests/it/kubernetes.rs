//! The manifests in `deploy/kubernetes`: they fit the schemas of Kubernetes, and what they name of ours exists: images'
//! commands, environment variables with values that are accepted, routes of probes, ports, and the metric of the
//! autoscaler.

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap},
    rc::Rc,
};

use api::config::Config as ApiConfig;
use dev::{
    python,
    tools::{Tool, are_there},
    workspace,
};
use postrider_core::process::config::Environment;
use reqwest::Method;
use serde_json::Value;
use tokio::process::Command;
use worker::{
    commands::{self, RetentionConfig},
    config::Config as WorkerConfig,
};

use crate::{
    crashes::{process, run_with},
    world::{World, answer},
};

/// Variables that every process reads before its configuration.
const OF_LOGS: [&str; 2] = ["POSTRIDER_LOG", "POSTRIDER_LOG_FORMAT"];

/// The documents of an overlay, after they were compared with their schemas.
async fn documents(folder: &str) -> Vec<Value> {
    let python = python::venv().await.unwrap().join("bin/python");
    let script = workspace().join("dev/kubernetes/build.py");
    let folder = workspace().join("deploy/kubernetes").join(folder);
    let output = Command::new(python).arg(script).arg(folder).output().await.unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn named<'d>(documents: &'d [Value], kind: &str, name: &str) -> &'d Value {
    let is_it = |document: &&Value| document["kind"] == kind && document["metadata"]["name"] == name;
    documents.iter().find(is_it).unwrap_or_else(|| panic!("no {kind} {name}"))
}

/// Each container with what surrounds it: its pod's specification.
fn containers<'d>(documents: &'d [Value]) -> Vec<(&'d Value, &'d Value)> {
    let templates = documents.iter().filter_map(|document| match document["kind"].as_str() {
        Some("Deployment" | "Job") => Some(&document["spec"]["template"]["spec"]),
        Some("CronJob") => Some(&document["spec"]["jobTemplate"]["spec"]["template"]["spec"]),
        _ => None,
    });
    let of = |pod: &'d Value| pod["containers"].as_array().into_iter().flatten().map(move |container| (pod, container));
    templates.flat_map(of).collect()
}

fn strings(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// The environment of a container; each secret gets a value that is accepted in production.
fn environment(documents: &[Value], container: &Value) -> HashMap<String, String> {
    let secrets = HashMap::from([
        ("DATABASE_URL", "postgres://postrider:secret@db.example.com:5432/postrider".to_owned()),
        ("POSTRIDER_ADMIN_KEY", format!("pr_{}", "5e".repeat(24))),
        ("POSTRIDER_ENCRYPTION_KEYS", "2026:MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=".to_owned()),
    ]);
    let mut env = HashMap::new();
    for source in container["envFrom"].as_array().into_iter().flatten() {
        let config = named(documents, "ConfigMap", source["configMapRef"]["name"].as_str().unwrap());
        for (name, value) in config["data"].as_object().unwrap() {
            env.insert(name.clone(), value.as_str().unwrap().to_owned());
        }
    }
    for variable in container["env"].as_array().into_iter().flatten() {
        let name = variable["name"].as_str().unwrap();
        let value = if let Some(value) = variable["value"].as_str() {
            assert!(!secrets.contains_key(name), "{name} is secret and stands in plain text");
            value.to_owned()
        } else {
            let reference = &variable["valueFrom"]["secretKeyRef"];
            assert_eq!((&reference["name"], &reference["key"]), (&"postrider".into(), &name.into()), "{variable}");
            secrets[name].clone()
        };
        env.insert(name.to_owned(), value);
    }
    env
}

/// Reads a configuration; returns the names that it has asked for.
fn read<C>(
    env: &HashMap<String, String>,
    parse: impl FnOnce(Environment) -> Result<C, Vec<String>>,
) -> BTreeSet<String> {
    let (asked, env) = (Rc::new(RefCell::new(BTreeSet::new())), env.clone());
    let noted = Rc::clone(&asked);
    let lookup = move |name: &str| {
        noted.borrow_mut().insert(name.to_owned());
        env.get(name).cloned()
    };
    let problems = parse(Environment::new(lookup)).err().unwrap_or_default();
    assert_eq!(problems, [""; 0]);
    asked.take()
}

#[tokio::test]
async fn the_manifests_fit_their_schemas_and_configure_what_exists() {
    if !are_there(&[Tool::Python]) {
        return;
    }
    for folder in ["base", "overlays/example"] {
        let documents = documents(folder).await;
        let mut commands = BTreeSet::new();
        // What any process reads: all share one ConfigMap.
        let mut known: BTreeSet<String> = OF_LOGS.map(str::to_owned).into();
        let mut given = BTreeSet::new();
        for (pod, container) in containers(&documents) {
            let env = environment(&documents, container);
            given.extend(env.keys().cloned());
            let command = strings(&container["command"]).join(" ");
            known.extend(match command.as_str() {
                "api" => read(&env, ApiConfig::from),
                "worker" => read(&env, WorkerConfig::from),
                "worker migrate" => read(&env, commands::database),
                "worker retention --once" => read(&env, RetentionConfig::from),
                other => panic!("{other}: not a command of ours"),
            });
            commands.insert(command);
            is_restricted(pod, container);
            let stop = env["POSTRIDER_SHUTDOWN_TIMEOUT_SECONDS"].parse::<u64>().unwrap() * 2;
            let pause = container["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().unwrap_or_default();
            assert!(pod["terminationGracePeriodSeconds"].as_u64().is_none_or(|grace| grace > stop + pause), "{pod}");
        }
        assert_eq!(commands.len(), 4, "{commands:?}");
        let unknown: Vec<_> = given.difference(&known).collect();
        assert!(unknown.is_empty(), "nobody reads {unknown:?}");
    }
    assert!(run_with("worker migrates", &[]).await.status.code() == Some(2), "commands are told apart");
}

/// Asserts what the strictest level of Kubernetes's own rules for pods asks for, and a root that is not written to.
fn is_restricted(pod: &Value, container: &Value) {
    let (of_pod, own) = (&pod["securityContext"], &container["securityContext"]);
    assert_eq!(of_pod["runAsNonRoot"], true, "{pod}");
    assert!(of_pod["runAsUser"].as_u64().is_some_and(|user| user > 0), "{pod}");
    assert_eq!(of_pod["seccompProfile"]["type"], "RuntimeDefault", "{pod}");
    assert_eq!(pod["automountServiceAccountToken"], false, "{pod}");
    assert_eq!(own["allowPrivilegeEscalation"], false, "{container}");
    assert_eq!(own["readOnlyRootFilesystem"], true, "{container}");
    assert_eq!(strings(&own["capabilities"]["drop"]), ["ALL"], "{container}");
    for (kind, what) in [("requests", "cpu"), ("requests", "memory"), ("limits", "memory")] {
        assert!(container["resources"][kind][what].is_string(), "no {kind} of {what}: {container}");
    }
}

#[tokio::test]
async fn probes_ports_and_routes_of_the_manifests_exist() {
    if !are_there(&[Tool::Python]) {
        return;
    }
    let world = World::new().await;
    let worker = process("worker", &world.env).await;
    let worker_address = worker.ready.rsplit(' ').next().unwrap();
    let documents = documents("overlays/example").await;
    for (name, listens) in [("api", "POSTRIDER_API_LISTEN"), ("worker", "POSTRIDER_WORKER_LISTEN")] {
        let deployment = named(&documents, "Deployment", &format!("postrider-{name}"));
        let container = &deployment["spec"]["template"]["spec"]["containers"][0];
        let port = &container["ports"][0];
        let address = &environment(&documents, container)[listens];
        assert_eq!(*address, format!("0.0.0.0:{}", port["containerPort"]));
        let service = named(&documents, "Service", &format!("postrider-{name}"));
        assert_eq!(service["spec"]["ports"][0]["targetPort"], port["name"]);
        let budget = named(&documents, "PodDisruptionBudget", &format!("postrider-{name}"));
        let labels = deployment["spec"]["template"]["metadata"]["labels"].as_object().unwrap();
        for (kind, selector) in [
            ("Deployment", &deployment["spec"]["selector"]["matchLabels"]),
            ("Service", &service["spec"]["selector"]),
            ("PodDisruptionBudget", &budget["spec"]["selector"]["matchLabels"]),
        ] {
            let fits = selector.as_object().unwrap().iter().all(|(key, value)| labels.get(key) == Some(value));
            assert!(fits, "{kind} {name}: {selector}");
        }
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            let get = &container[probe]["httpGet"];
            assert_eq!(get["port"], port["name"], "{name}: {probe}");
            let path = get["path"].as_str().unwrap();
            let status = if name == "api" {
                answer(world.anonymous(Method::GET, path)).await.status.as_u16()
            } else {
                let url = format!("http://{worker_address}{path}");
                world.client().get(url).send().await.unwrap().status().as_u16()
            };
            assert_eq!(status, 200, "{name}: {probe}: {path}");
        }
    }
    is_routed(&documents);
    is_scaled_by_a_metric_that_exists(&documents);
    worker.stop().await.unwrap();
    world.finish().await;
}

/// Asserts that the Ingress leads to every route of the API but those that need no key.
fn is_routed(documents: &[Value]) {
    let spec: Value =
        serde_json::from_str(&std::fs::read_to_string(workspace().join("docs/openapi.json")).unwrap()).unwrap();
    let heads = spec["paths"].as_object().unwrap().keys().map(|path| path.split('/').nth(1).unwrap().to_owned());
    let paths = &named(documents, "Ingress", "postrider")["spec"]["rules"][0]["http"]["paths"];
    let routed: BTreeSet<_> = (0..paths.as_array().unwrap().len())
        .map(|index| paths[index]["path"].as_str().unwrap().trim_start_matches('/').to_owned())
        .collect();
    let private = ["health", "metrics"].map(str::to_owned);
    let pages = ["ui", "swagger", "openapi.json"].map(str::to_owned);
    let expected: BTreeSet<_> = heads.filter(|head| !private.contains(head)).chain(pages).collect();
    assert_eq!(routed, expected);
}

fn is_scaled_by_a_metric_that_exists(documents: &[Value]) {
    let scaler = named(documents, "HorizontalPodAutoscaler", "postrider-worker");
    let metric = &scaler["spec"]["metrics"][0]["external"]["metric"];
    let name = metric["name"].as_str().unwrap();
    let listed = std::fs::read_to_string(workspace().join("core/src/process/metrics.rs")).unwrap();
    assert!(listed.contains(&format!("(\"{name}\"")), "{name} is no metric of ours");
    assert_eq!(metric["selector"]["matchLabels"]["state"], "due");
    let page = std::fs::read_to_string(workspace().join("docs/kubernetes.md")).unwrap();
    assert!(page.contains(&format!("seriesQuery: '{name}")), "docs/kubernetes.md shows how {name} is served");
}
