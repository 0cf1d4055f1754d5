//! A browser for tests: Chromium without a window, driven over its `DevTools` protocol. It speaks through two pipes, so
//! nothing but this process can reach it, and no WebSocket is needed. Each page has a profile of its own, so cookies of
//! one test never meet those of another.

mod link;
mod page;

use std::{
    fs,
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context, Result};
use serde_json::json;
use tokio::process::Command;

use crate::{browser::link::Link, child::Child, tools::Tool, workspace};

pub use page::{Page, Scheme};

/// How Chromium is started. Its own sandbox does not work for root, and it sees our own pages only.
const ARGUMENTS: &str = "--headless=new --no-sandbox --remote-debugging-pipe --no-first-run --no-default-browser-check \
                         --disable-gpu --disable-dev-shm-usage --disable-background-networking --disable-extensions \
                         --disable-component-update --hide-scrollbars --mute-audio --force-color-profile=srgb \
                         --font-render-hinting=none";

/// A running Chromium. Dropping it ends it and removes its profile.
pub struct Browser {
    link: Arc<Link>,
    profile: PathBuf,
    _child: Child,
}

impl Browser {
    /// Starts Chromium.
    ///
    /// # Errors
    /// When it is not installed, or does not start.
    pub fn start() -> Result<Self> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        Tool::Chromium.require()?;
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let profile = workspace().join("target/browser").join(format!("{}-{number}", std::process::id()));
        fs::create_dir_all(&profile)?;
        // Chromium reads commands from file descriptor 3 and writes to 4; the shell makes them of the two pipes.
        let script = format!(
            "exec {} {ARGUMENTS} --user-data-dir='{}' 3<&0 4>&1 </dev/null >/dev/null 2>/dev/null",
            Tool::Chromium.name(),
            profile.display()
        );
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(script).stdout(Stdio::piped());
        let mut child = Child::spawn_reading(Stdio::piped(), &mut shell)?;
        let input = child.stdin().context("its input is piped")?;
        let output = child.stdout().context("its output is piped")?;
        Ok(Self { link: Link::new(input, output), profile, _child: child })
    }

    /// Opens an empty page with a profile of its own.
    ///
    /// # Errors
    /// When the browser does not answer.
    pub async fn page(&self) -> Result<Page> {
        let context = self.link.call(None, "Target.createBrowserContext", json!({})).await?;
        let target = json!({"url": "about:blank", "browserContextId": context["browserContextId"]});
        let target = self.link.call(None, "Target.createTarget", target).await?;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = self.link.call(None, "Target.attachToTarget", attach).await?;
        let session = session["sessionId"].as_str().context("a session has an id")?.to_owned();
        Page::new(Arc::clone(&self.link), session).await
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.profile);
    }
}
