//! Runs the examples of the documentation as they are written: all `sh` blocks of a page in one shell, against a
//! running system. Blocks with another mark are not run.

use std::{fs, process::Stdio, time::Duration};

use dev::tools::{Tool, are_there};
use tokio::process::Command;

use crate::world::{KEY, World};

/// Pages without examples: they are not about using Postrider, or need a cluster, or take minutes.
const WITHOUT_EXAMPLES: [&str; 5] = ["STYLE.md", "capacity.md", "dashboard.md", "kubernetes.md", "reliability.md"];
/// How long the examples of one page may take.
const PAGE_TIME: Duration = Duration::from_secs(120);

/// The `sh` blocks of a page, one after the other.
fn script(page: &str) -> String {
    let mut script = String::new();
    let mut inside = false;
    for line in page.lines() {
        match (inside, line) {
            (false, "```sh") => inside = true,
            (true, "```") => inside = false,
            (true, line) => {
                script.push_str(line);
                script.push('\n');
            }
            (false, _) => {}
        }
    }
    script
}

/// The programs that a script calls.
fn tools(script: &str) -> Vec<Tool> {
    let words: Vec<_> = script.split(|character: char| !character.is_alphanumeric()).collect();
    Tool::ALL.into_iter().filter(|tool| *tool == Tool::Bash || words.contains(&tool.name())).collect()
}

async fn run(name: &str, page: &str) {
    if !are_there(&tools(&script(page))) {
        return;
    }
    let world = World::new().await;
    let (stop, running) = world.run_worker();
    let shell = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &script(page)])
        .env("API", &world.base)
        .env("KEY", format!("Authorization: Bearer {KEY}"))
        .env("RECEIVER", world.receiver.url(""))
        .env("DATABASE_URL", &world.env["DATABASE_URL"])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PAGE_TIME, shell).await;
    let output = output.unwrap_or_else(|_| panic!("{name} is not done after {PAGE_TIME:?}")).expect("there is a shell");
    let told = [&*output.stdout, &*output.stderr].map(String::from_utf8_lossy);
    assert!(output.status.success(), "{name}: {}\n{}\n{}", output.status, told[0], told[1]);
    stop.cancel();
    running.await.unwrap();
    world.finish().await;
}

#[tokio::test]
async fn every_example_of_the_documentation_works_as_it_is_written() {
    let folder = dev::workspace().join("docs");
    let mut pages: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    pages.retain(|path| path.file_name().is_some_and(|name| WITHOUT_EXAMPLES.iter().all(|without| name != *without)));
    pages.push(dev::workspace().join("README.md"));
    pages.sort();
    assert!(pages.len() >= 19, "{pages:?}");
    for path in pages {
        let name = path.display().to_string();
        let page = fs::read_to_string(&path).unwrap();
        assert!(!script(&page).is_empty(), "{name} has no examples");
        run(&name, &page).await;
    }
}
