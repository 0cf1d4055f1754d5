//! The few calls that a command makes to the api it has started: JSON in, JSON out, one connection each. It is no tool
//! for measuring.

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// Who calls, and whom.
#[derive(Clone, Debug)]
pub struct Client<'a> {
    /// Host and port of the api.
    pub address: String,
    /// The key it is called with.
    pub key: &'a str,
}

impl Client<'_> {
    /// Asks for something.
    ///
    /// # Errors
    /// When the api does not answer with JSON; what the JSON says is the caller's to judge.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.call(Method::GET, path, "").await
    }

    /// Posts a body.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn post(&self, path: &str, body: &str) -> Result<Value> {
        self.call(Method::POST, path, body).await
    }

    async fn call(&self, method: Method, path: &str, body: &str) -> Result<Value> {
        let stream = TcpStream::connect(&self.address).await.with_context(|| format!("nobody at {}", self.address))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.address)
            .header(header::AUTHORIZATION, format!("Bearer {}", self.key))
            .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))?;
        let answer = sender.send_request(request).await?.into_body().collect().await?.to_bytes();
        serde_json::from_slice(&answer).with_context(|| format!("{path} does not answer with JSON: {answer:?}"))
    }
}
