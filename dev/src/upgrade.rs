//! `cargo dev upgrade [TAG]`: builds the binaries of an earlier release from its tag, and lets them work with those of
//! this tree on one database, under load: the earlier ones alone, both, the earlier ones started anew beside the newer
//! schema, the newer ones alone, and at last the earlier ones alone again. Nothing that was acknowledged may be lost.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tokio::process::Command;

use crate::{
    child::{status, succeed},
    postgres::{Durability, Postgres},
    traffic::{Balance, Traffic},
    up::{Process, build, environment, variables},
    workspace,
};

/// How long each stage lasts.
const STAGE: Duration = Duration::from_secs(5);
/// Of a hundred requests, so many may be refused: those that reach an api at the moment at which it stops.
const REFUSED_PERCENT_MAX: u64 = 1;
/// What is said where no release has been tagged.
const NO_RELEASE: &str = "no release is tagged in this repository yet, so there is nothing to upgrade from";

/// Runs the command. Without a tag, the newest release before this commit is taken.
///
/// # Errors
/// When there is no such tag or commit, its tree does not compile, something does not start, or an event is lost.
pub async fn upgrade(tag: Option<&str>) -> Result<()> {
    let tag = match tag {
        Some(tag) => tag.to_owned(),
        None => newest_release().await?.with_context(|| format!("{NO_RELEASE}; name a commit to try it"))?,
    };
    upgrade_from(&tag).await
}

/// Upgrades from the newest release before this commit. Where there is none, this says so and is content.
///
/// # Errors
/// Those of [`upgrade`].
pub async fn check() -> Result<()> {
    let Some(tag) = newest_release().await? else {
        println!("{NO_RELEASE}");
        return Ok(());
    };
    upgrade_from(&tag).await
}

/// The tag of the newest release before this commit, such as `v0.1.0`.
async fn newest_release() -> Result<Option<String>> {
    let arguments = ["tag", "--list", "v*", "--merged", "HEAD", "--no-contains", "HEAD", "--sort=-version:refname"];
    let tags = git(&arguments).await?;
    Ok(tags.lines().next().map(str::to_owned))
}

async fn upgrade_from(tag: &str) -> Result<()> {
    let commit = git(&["rev-parse", "--verify", "--quiet", "--end-of-options", &format!("{tag}^{{commit}}")]).await;
    let Ok(commit) = commit.map(|told| told.trim().to_owned()) else {
        let tags = git(&["tag", "--list"]).await?;
        let tags = if tags.is_empty() { NO_RELEASE.to_owned() } else { tags.trim().replace('\n', ", ") };
        bail!("there is no tag or commit `{tag}` here: {tags}");
    };
    println!("building this tree, and {tag} (commit {commit}), which takes minutes the first time…");
    build("debug").await?;
    let newer = Age { binaries: workspace().join("target/debug"), env: environment()? };
    let older = Age::of(&commit).await?;
    let balance = walk(&older, &newer).await?;
    println!("{balance}");
    ensure!(balance.lost == 0, "{} acknowledged events were lost", balance.lost);
    let refused_max = balance.acknowledged as u64 * REFUSED_PERCENT_MAX / 100;
    ensure!(balance.refused <= refused_max, "{} requests were refused, {refused_max} at most", balance.refused);
    println!("from {tag} to this tree and back: nothing was lost");
    Ok(())
}

/// The binaries of one release, and the variables that they are started with.
struct Age {
    binaries: PathBuf,
    env: HashMap<String, String>,
}

impl Age {
    /// Builds the binaries of a commit. Its tree is removed afterwards; what was compiled is kept for the next time.
    async fn of(commit: &str) -> Result<Self> {
        let home = workspace().join("target/upgrade");
        fs::create_dir_all(&home)?;
        let tree = Tree::check_out(&home.join(commit), commit).await?;
        let build = home.join("build");
        let mut cargo = Command::new("cargo");
        cargo.args(["build", "--quiet", "--locked", "--package", "api", "--package", "worker", "--bins"]);
        cargo.current_dir(&tree.0).env("CARGO_TARGET_DIR", &build);
        ensure!(status(&mut cargo).await?.success(), "the tree of {commit} does not compile");
        // What it does not know it does not read, and what both know is the same for both.
        let mut env: HashMap<_, _> = variables(&fs::read_to_string(tree.0.join(".env"))?)
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        env.extend(environment()?);
        Ok(Self { binaries: build.join("debug"), env })
    }

    async fn start(&self, url: &str) -> Result<Pair> {
        let mut env = self.env.clone();
        for (name, value) in [
            ("DATABASE_URL", url),
            ("POSTRIDER_API_LISTEN", "127.0.0.1:0"),
            ("POSTRIDER_WORKER_LISTEN", "127.0.0.1:0"),
            ("POSTRIDER_LOG", "warn,sqlx=error"),
        ] {
            env.insert(name.to_owned(), value.to_owned());
        }
        let start = async |name| Process::start_program(Stdio::inherit(), name, &self.binaries.join(name), &env).await;
        Ok(Pair { api: start("api").await?, worker: start("worker").await? })
    }
}

/// A checked-out tree. Dropping it removes it.
struct Tree(PathBuf);

impl Tree {
    async fn check_out(path: &Path, commit: &str) -> Result<Self> {
        // A run that was killed has left its tree behind.
        let _ = fs::remove_dir_all(path);
        git(&["worktree", "prune"]).await?;
        let tree = Self(path.to_owned());
        git(&["worktree", "add", "--detach", &path.display().to_string(), commit]).await?;
        Ok(tree)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let mut git = std::process::Command::new("git");
        git.args(["worktree", "remove", "--force"]).arg(&self.0).current_dir(workspace());
        let _ = git.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

async fn git(arguments: &[&str]) -> Result<String> {
    succeed(Command::new("git").args(arguments).current_dir(workspace()), "git is needed").await
}

/// An api and a worker of the same release.
struct Pair {
    api: Process,
    worker: Process,
}

impl Pair {
    async fn stop(self) -> Result<()> {
        self.api.stop().await?;
        self.worker.stop().await
    }
}

/// Walks the way of an upgrade, and back.
async fn walk(older: &Age, newer: &Age) -> Result<Balance> {
    let server = Postgres::temporary("upgrade", Durability::Durable)?;
    let url = server.url("postgres");
    let first = older.start(&url).await?;
    let traffic = Traffic::start(vec![first.api.address()]).await?;
    stage("the earlier release alone", &traffic).await?;

    let second = newer.start(&url).await?;
    traffic.move_to(vec![first.api.address(), second.api.address()]);
    stage("both, on the newer schema", &traffic).await?;

    first.stop().await?;
    let first = older.start(&url).await?;
    traffic.move_to(vec![first.api.address(), second.api.address()]);
    stage("both, the earlier one started anew", &traffic).await?;

    traffic.move_to(vec![second.api.address()]);
    first.stop().await?;
    stage("the newer release alone", &traffic).await?;

    let first = older.start(&url).await?;
    traffic.move_to(vec![first.api.address()]);
    second.stop().await?;
    stage("back: the earlier release alone, on the newer schema", &traffic).await?;

    let balance = traffic.end().await;
    first.stop().await?;
    let mut doctor = Command::new(newer.binaries.join("worker"));
    doctor.arg("doctor").envs(&newer.env).env("DATABASE_URL", &url).current_dir(workspace());
    succeed(&mut doctor, "the doctor of this tree finds something").await?;
    Ok(balance)
}

/// Lets the load go on for a while, and sees that events of this time are accepted and delivered.
async fn stage(name: &str, traffic: &Traffic) -> Result<()> {
    let (begun, before) = (Instant::now(), traffic.acknowledged().len());
    tokio::time::sleep(STAGE).await;
    traffic.accepted_after(begun).await.with_context(|| name.to_owned())?;
    traffic.delivered_after(begun).await.with_context(|| name.to_owned())?;
    println!("{:>8} events accepted: {name}", traffic.acknowledged().len() - before);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_no_tag_is_said_plainly_and_before_anything_is_built() {
        for wrong in ["v999.0.0", "no such tag", "--help"] {
            let refused = upgrade(Some(wrong)).await.expect_err("there is no such tag").to_string();
            assert!(refused.contains(&format!("no tag or commit `{wrong}`")), "{refused}");
        }
    }
}
