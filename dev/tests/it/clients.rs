//! Clients that generators make from the api's `OpenAPI` document, in Python and in TypeScript. Each creates a
//! subscription, publishes events, reads the pages of their deliveries and reads problems, all as typed values. The
//! programs stand in `dev/clients`.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use dev::{
    node, python,
    tools::{Tool, are_there},
};
use tokio::process::Command;

use crate::world::{KEY, World};

/// How long one program may take; the TypeScript compiler is the slowest.
const PROGRAM_TIME: Duration = Duration::from_secs(120);

/// Makes a folder for this process that holds the document of a running api.
async fn folder_with_document(world: &World, language: &str) -> PathBuf {
    let folder = dev::workspace().join(format!("target/generated-{language}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    let document = world.anonymous(reqwest::Method::GET, "/openapi.json").send().await.unwrap().text().await.unwrap();
    fs::write(folder.join("openapi.json"), document).unwrap();
    folder
}

/// Runs a program in a folder and asserts that it succeeds.
async fn run(command: &mut Command, folder: &Path) {
    let output = command.current_dir(folder).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(PROGRAM_TIME, output).await.expect("it ends in time").expect("it runs");
    let [told, complained] = [&*output.stdout, &*output.stderr].map(String::from_utf8_lossy);
    assert!(output.status.success(), "{command:?}: {}\n{told}\n{complained}", output.status);
}

fn sources() -> PathBuf {
    dev::workspace().join("dev/clients")
}

#[tokio::test]
async fn a_generated_python_client_works() {
    if !are_there(&[Tool::Python]) {
        return;
    }
    let world = World::new().await;
    let programs = python::venv().await.unwrap().join("bin");
    let folder = folder_with_document(&world, "python").await;
    // The generator formats its output with a program that stands beside it.
    let mut path = OsString::from(&programs);
    path.push(":");
    path.push(env::var_os("PATH").unwrap_or_default());
    let mut generate = Command::new(programs.join("openapi-python-client"));
    generate.args(["generate", "--path", "openapi.json", "--output-path", "postrider_client", "--meta", "none"]);
    run(generate.arg("--fail-on-warning").env("PATH", path), &folder).await;
    let mut client = Command::new(programs.join("python"));
    client.arg(sources().join("client.py")).args([&world.base, KEY, &world.receiver.url("/success")]);
    run(client.env("PYTHONPATH", &folder), &folder).await;
    fs::remove_dir_all(folder).unwrap();
    world.finish().await;
}

#[tokio::test]
async fn a_generated_typescript_client_works() {
    if !are_there(&[Tool::Node, Tool::Npm]) {
        return;
    }
    let world = World::new().await;
    let modules = node::client_modules().await.unwrap().join("node_modules");
    let folder = folder_with_document(&world, "typescript").await;
    std::os::unix::fs::symlink(&modules, folder.join("node_modules")).unwrap();
    for name in ["package.json", "tsconfig.json", "client.ts"] {
        fs::copy(sources().join(name), folder.join(name)).unwrap();
    }
    let generator = modules.join("openapi-typescript/bin/cli.js");
    run(Command::new("node").arg(generator).args(["openapi.json", "--output", "schema.d.ts"]), &folder).await;
    // With the client's `tsconfig.json`, tsc writes nothing where a type does not fit.
    run(Command::new("node").arg(modules.join("typescript/bin/tsc")), &folder).await;
    let mut client = Command::new("node");
    client.arg("built/client.js").args([&world.base, KEY, &world.receiver.url("/success")]);
    run(&mut client, &folder).await;
    fs::remove_dir_all(folder).unwrap();
    world.finish().await;
}
