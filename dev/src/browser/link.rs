//! The two pipes to the browser. A command has a number, and its answer has the same one; everything else that arrives
//! is an event. Messages are JSON, each ended by a NUL.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{ChildStdin, ChildStdout},
    sync::{broadcast, oneshot},
};

/// How long the browser may take to answer a command, on a busy machine.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Events that a slow reader may fall behind.
const EVENTS_KEPT: usize = 4096;

/// The connection to a browser.
pub(super) struct Link {
    input: tokio::sync::Mutex<ChildStdin>,
    awaited: Mutex<HashMap<u64, oneshot::Sender<Value>>>,
    events: broadcast::Sender<Value>,
    next: AtomicU64,
}

impl Link {
    /// Speaks over these pipes from now on.
    pub(super) fn new(input: ChildStdin, output: ChildStdout) -> Arc<Self> {
        let link = Arc::new(Self {
            input: tokio::sync::Mutex::new(input),
            awaited: Mutex::default(),
            events: broadcast::Sender::new(EVENTS_KEPT),
            next: AtomicU64::new(1),
        });
        tokio::spawn(Arc::clone(&link).listen(output));
        link
    }

    /// Everything that the browser tells without being asked, from now on.
    pub(super) fn events(&self) -> broadcast::Receiver<Value> {
        self.events.subscribe()
    }

    /// Sends a command to the browser, or to the page of a session, and waits for the answer.
    pub(super) async fn call(&self, session: Option<&str>, method: &str, parameters: Value) -> Result<Value> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut command = json!({"id": id, "method": method, "params": parameters});
        if let Some(session) = session {
            command["sessionId"] = session.into();
        }
        let (tell, told) = oneshot::channel();
        self.awaited.lock().expect("nothing panics while it is held").insert(id, tell);
        let mut bytes = command.to_string().into_bytes();
        bytes.push(0);
        self.input.lock().await.write_all(&bytes).await.context("the browser has ended")?;
        let answer = tokio::time::timeout(ANSWER_WITHIN, told).await;
        let mut answer =
            answer.with_context(|| format!("{method} is not answered"))?.context("the browser has ended")?;
        if answer["error"].is_object() {
            bail!("{method}: {}", answer["error"]["message"]);
        }
        Ok(answer["result"].take())
    }

    async fn listen(self: Arc<Self>, output: ChildStdout) {
        let mut reader = BufReader::new(output);
        let mut message = Vec::new();
        while reader.read_until(0, &mut message).await.is_ok_and(|bytes| bytes > 0) {
            message.pop();
            if let Ok(told) = serde_json::from_slice::<Value>(&message) {
                let awaited = told["id"]
                    .as_u64()
                    .and_then(|id| self.awaited.lock().expect("nothing panics while it is held").remove(&id));
                match awaited {
                    Some(awaited) => _ = awaited.send(told),
                    None => _ = self.events.send(told),
                }
            }
            message.clear();
        }
        // Whoever still waits learns that nothing more will come.
        self.awaited.lock().expect("nothing panics while it is held").clear();
    }
}
