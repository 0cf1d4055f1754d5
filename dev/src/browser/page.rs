//! One page of the browser, and what a person could do with it.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::link::Link;

/// How long something may take that should happen on a page, on a busy machine.
const SOON: Duration = Duration::from_secs(30);
/// How often we look whether it has happened.
const LOOK_EVERY: Duration = Duration::from_millis(40);

/// The colours that a person has chosen for all pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Dark on light.
    Light,
    /// Light on dark.
    Dark,
}

/// An open page.
pub struct Page {
    link: Arc<Link>,
    session: String,
    problems: Arc<Mutex<Vec<String>>>,
}

impl Page {
    pub(super) async fn new(link: Arc<Link>, session: String) -> Result<Self> {
        let page = Self { link, session, problems: Arc::default() };
        page.watch();
        for domain in ["Page", "Runtime", "Log"] {
            page.call(&format!("{domain}.enable"), json!({})).await?;
        }
        page.resize(1280, 900).await?;
        Ok(page)
    }

    /// Notes whatever the page complains about.
    fn watch(&self) {
        let (mut events, session) = (self.link.events(), self.session.clone());
        let problems = Arc::clone(&self.problems);
        tokio::spawn(async move {
            while let Ok(event) = events.recv().await {
                if event["sessionId"] == *session
                    && let Some(problem) = complaint(&event)
                {
                    problems.lock().expect("nothing panics while it is held").push(problem);
                }
            }
        });
    }

    /// What the page has complained about so far: errors on its console, exceptions, and what its policy forbade.
    ///
    /// # Panics
    /// Never: nothing panics while the lock is held.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        self.problems.lock().expect("nothing panics while it is held").clone()
    }

    async fn call(&self, method: &str, parameters: Value) -> Result<Value> {
        self.link.call(Some(&self.session), method, parameters).await
    }

    /// Opens a URL, and waits until it is there with all that it loads.
    ///
    /// # Errors
    /// When it does not load.
    pub async fn open(&self, url: &str) -> Result<()> {
        let mut events = self.link.events();
        let opened = self.call("Page.navigate", json!({"url": url})).await?;
        ensure!(opened["errorText"].is_null(), "{url}: {}", opened["errorText"]);
        let loaded = async {
            loop {
                let event = events.recv().await.context("the browser has ended")?;
                if event["sessionId"] == *self.session && event["method"] == "Page.loadEventFired" {
                    return anyhow::Ok(());
                }
            }
        };
        tokio::time::timeout(SOON, loaded).await.with_context(|| format!("{url} does not load"))?
    }

    /// The value of an expression on the page; of what it promises, where it is a promise.
    ///
    /// # Errors
    /// When the expression throws, or the page goes away meanwhile.
    pub async fn evaluate(&self, expression: &str) -> Result<Value> {
        let parameters = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let mut answer = self.call("Runtime.evaluate", parameters).await?;
        if answer["exceptionDetails"].is_object() {
            bail!("{expression}: {}", answer["exceptionDetails"]["exception"]["description"]);
        }
        Ok(answer["result"]["value"].take())
    }

    /// Waits until an expression is true. A page that is just being left is asked again.
    ///
    /// # Errors
    /// When it does not become true; the error has what the page shows instead.
    pub async fn until(&self, expression: &str) -> Result<()> {
        let wait = async {
            while !matches!(self.evaluate(expression).await, Ok(Value::Bool(true))) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        if tokio::time::timeout(SOON, wait).await.is_err() {
            let shown = self.evaluate("document.body.innerText.slice(0, 2000)").await.unwrap_or_default();
            bail!("never true: {expression}\nat {}\n{shown}", self.address().await?);
        }
        Ok(())
    }

    /// Waits until the page shows a text, wherever it stands.
    ///
    /// # Errors
    /// Those of [`Self::until`].
    pub async fn shows(&self, text: &str) -> Result<()> {
        self.until(&format!("document.body?.innerText.includes({})", json!(text))).await
    }

    /// The address of the page, without the server.
    ///
    /// # Errors
    /// When the page does not answer.
    pub async fn address(&self) -> Result<String> {
        let address = self.evaluate("location.pathname + location.search").await?;
        Ok(address.as_str().unwrap_or_default().to_owned())
    }

    /// Clicks in the middle of the first element that the selector finds and that can be seen, as a mouse does.
    ///
    /// # Errors
    /// When there is none, or something else lies above it.
    pub async fn click(&self, selector: &str) -> Result<()> {
        let script = format!(
            "(() => {{
                const seen = [...document.querySelectorAll({selector})].find(one => one.checkVisibility());
                if (!seen) return null;
                seen.scrollIntoView({{block: 'center', behavior: 'instant'}});
                const box = seen.getBoundingClientRect();
                const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
                const hit = document.elementFromPoint(x, y);
                return {{x, y, free: hit === seen || seen.contains(hit) || !!hit?.closest('label, a')?.contains(seen)}};
            }})()",
            selector = json!(selector)
        );
        let is_free = format!("({script})?.free === true");
        let place = async {
            loop {
                self.until(&is_free).await.with_context(|| format!("nothing to click, or covered: {selector}"))?;
                // A page that was just left meanwhile has to be looked at again.
                match self.evaluate(&script).await {
                    Ok(place) if place["free"] == true => return anyhow::Ok(place),
                    Ok(_) | Err(_) => {}
                }
            }
        };
        let place = place.await?;
        for kind in ["mouseMoved", "mousePressed", "mouseReleased"] {
            let event = json!({"type": kind, "x": place["x"], "y": place["y"], "button": "left", "clickCount": 1});
            self.call("Input.dispatchMouseEvent", event).await?;
        }
        Ok(())
    }

    /// Types a text into the field that the selector finds, in place of what is there.
    ///
    /// # Errors
    /// When there is no such field.
    pub async fn fill(&self, selector: &str, text: &str) -> Result<()> {
        let focus = format!(
            "(() => {{ const one = document.querySelector({}); one?.focus(); one?.select?.(); return !!one; }})()",
            json!(selector)
        );
        self.until(&focus).await.with_context(|| format!("no field {selector}"))?;
        self.call("Input.insertText", json!({"text": text})).await?;
        Ok(())
    }

    /// Presses a key, such as `/` or `Enter`.
    ///
    /// # Errors
    /// When the browser does not answer.
    pub async fn press(&self, key: &str) -> Result<()> {
        let text = if key == "Enter" { "\r" } else { key };
        let is_text = key == "Enter" || key.chars().count() == 1;
        let mut down = json!({"type": if is_text { "keyDown" } else { "rawKeyDown" }, "key": key});
        if is_text {
            down["text"] = text.into();
        }
        if key == "Enter" {
            down["windowsVirtualKeyCode"] = 13.into();
        }
        self.call("Input.dispatchKeyEvent", down).await?;
        self.call("Input.dispatchKeyEvent", json!({"type": "keyUp", "key": key})).await?;
        Ok(())
    }

    /// Gives the page this size in pixels.
    ///
    /// # Errors
    /// When the browser does not answer.
    pub async fn resize(&self, width: u32, height: u32) -> Result<()> {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700});
        self.call("Emulation.setDeviceMetricsOverride", size).await?;
        Ok(())
    }

    /// Has the page take these colours for those that a person has chosen.
    ///
    /// # Errors
    /// When the browser does not answer.
    pub async fn prefer(&self, scheme: Scheme) -> Result<()> {
        let value = match scheme {
            Scheme::Light => "light",
            Scheme::Dark => "dark",
        };
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": value}]});
        self.call("Emulation.setEmulatedMedia", features).await?;
        Ok(())
    }

    /// Switches the page's scripts off. What a test evaluates still runs.
    ///
    /// # Errors
    /// When the browser does not answer.
    pub async fn without_scripts(&self) -> Result<()> {
        self.call("Emulation.setScriptExecutionDisabled", json!({"value": true})).await?;
        Ok(())
    }

    /// Runs a script at the beginning of each page that is opened from now on, before the page's own.
    ///
    /// # Errors
    /// When the browser does not answer.
    pub async fn before_each_page(&self, script: &str) -> Result<()> {
        self.call("Page.addScriptToEvaluateOnNewDocument", json!({"source": script})).await?;
        Ok(())
    }

    /// Writes a picture of the whole page, as long as it is.
    ///
    /// # Errors
    /// When it cannot be taken or written.
    pub async fn screenshot(&self, file: &Path) -> Result<()> {
        let parameters = json!({"format": "png", "captureBeyondViewport": true, "optimizeForSpeed": true});
        let picture = self.call("Page.captureScreenshot", parameters).await?;
        let picture = BASE64_STANDARD.decode(picture["data"].as_str().unwrap_or_default())?;
        fs::create_dir_all(file.parent().context("a file stands in a folder")?)?;
        Ok(fs::write(file, picture)?)
    }
}

/// What an event complains about; `None` where it does not.
fn complaint(event: &Value) -> Option<String> {
    let told = &event["params"];
    match event["method"].as_str()? {
        "Runtime.exceptionThrown" => Some(format!("exception: {}", told["exceptionDetails"])),
        "Runtime.consoleAPICalled" if told["type"] == "error" => Some(format!("console: {}", told["args"])),
        "Log.entryAdded" => {
            let entry = &told["entry"];
            // A page that is itself the answer to a mistake has its status, which the browser notes as well.
            let is_file = entry["url"].as_str().is_some_and(|url| url.contains("/assets/"));
            let is_loud = entry["level"] == "error" && (entry["source"] != "network" || is_file);
            is_loud.then(|| format!("{}: {} ({})", entry["source"], entry["text"], entry["url"]))
        }
        _ => None,
    }
}
