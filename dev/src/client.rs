//! A small HTTP client for a command that has started an api: it sends and reads JSON, and opens a connection for each
//! call. It is too slow to measure with.

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response,
    client::conn::http1,
    header::{self, HeaderName},
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// The address of an api, and the key to call it with.
#[derive(Clone, Debug)]
pub struct Client<'a> {
    /// Host and port of the api, such as `127.0.0.1:8080`.
    pub address: String,
    /// The key that is sent with each call.
    pub key: &'a str,
}

impl Client<'_> {
    /// Sends a GET request and answers the JSON body.
    ///
    /// # Errors
    /// When the api does not answer with JSON. An answer that is a problem is not an error: the caller has to look at
    /// it.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.call(Method::GET, path, "").await
    }

    /// Posts a body and answers the JSON body.
    ///
    /// # Errors
    /// Those of [`Self::get`].
    pub async fn post(&self, path: &str, body: &str) -> Result<Value> {
        self.call(Method::POST, path, body).await
    }

    /// Posts a body with the key and these headers, and answers whatever comes.
    ///
    /// # Errors
    /// When no answer arrives.
    pub async fn try_post(&self, path: &str, headers: &[(&'static str, &str)], body: &str) -> Result<Response<Bytes>> {
        let key = format!("Bearer {}", self.key);
        let mut all = vec![(header::AUTHORIZATION, key.as_str())];
        for (name, value) in headers {
            all.push((HeaderName::from_bytes(name.as_bytes())?, *value));
        }
        self.send(Method::POST, path, &all, body).await
    }

    async fn call(&self, method: Method, path: &str, body: &str) -> Result<Value> {
        let key = format!("Bearer {}", self.key);
        let answer = self.send(method, path, &[(header::AUTHORIZATION, &key)], body).await?.into_body();
        serde_json::from_slice(&answer).with_context(|| format!("{path} does not answer with JSON: {answer:?}"))
    }

    /// Sends a request with these headers, and without the key unless it is among them.
    ///
    /// # Errors
    /// When no answer arrives.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, &str)],
        body: &str,
    ) -> Result<Response<Bytes>> {
        let stream = TcpStream::connect(&self.address).await.with_context(|| format!("nobody at {}", self.address))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, &self.address);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes())))?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
    }
}
