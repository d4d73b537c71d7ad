//! A small HTTP/1.1 JSON client for commands that talk to a running server.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::failure::Failure;

/// A server's address; one connection per request.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    authority: String,
    timeout: Duration,
    api_key: Option<HeaderValue>,
}

impl Client {
    /// A client of `http://host:port`.
    pub(crate) fn new(url: &str, timeout: Duration) -> Result<Self, Failure> {
        let uri: Uri = url.parse().map_err(|e| Failure::new(format!("--url {url:?} is not a URL: {e}")))?;
        match (uri.scheme_str(), uri.authority()) {
            (Some("http"), Some(authority)) => {
                let port = authority.port_u16().unwrap_or(80);
                Ok(Self { authority: format!("{}:{port}", authority.host()), timeout, api_key: None })
            }
            _ => Err(Failure::new(format!("--url {url:?} must look like http://127.0.0.1:3001"))),
        }
    }

    /// The same client, with an API key in every request.
    pub(crate) fn with_key(mut self, api_key: Option<&str>) -> Result<Self, Failure> {
        let key = api_key.map(HeaderValue::from_str).transpose();
        self.api_key = key.map_err(|_| Failure::new("AIONIS_API_KEY is no header value; give the key alone"))?;
        if let Some(key) = &mut self.api_key {
            key.set_sensitive(true);
        }
        Ok(self)
    }

    /// Asks and reads the whole answer.
    pub(crate) async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Value), Failure> {
        tokio::time::timeout(self.timeout, self.send(method, path, body))
            .await
            .map_err(|_| Failure::new(format!("{} {path} took longer than {:?}", self.authority, self.timeout)))?
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<(StatusCode, Value), Failure> {
        let lost =
            |e: &dyn std::fmt::Display| Failure::new(format!("http://{}{path} cannot be reached: {e}", self.authority));
        let stream = TcpStream::connect(&self.authority).await.map_err(|e| lost(&e))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| lost(&e))?;
        // The connection ends with the answer; what goes wrong on it shows in the request below.
        let driver = tokio::spawn(connection);
        let bytes = body.map(Value::to_string).unwrap_or_default();
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.authority)
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(key) = &self.api_key {
            request = request.header("x-api-key", key);
        }
        let request = request.body(Full::new(Bytes::from(bytes))).map_err(|e| lost(&e))?;
        let response = sender.send_request(request).await.map_err(|e| lost(&e))?;
        let status = response.status();
        let bytes = response.into_body().collect().await.map_err(|e| lost(&e))?.to_bytes();
        driver.abort();
        let value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Ok((status, value))
    }

    /// POSTs and insists on 200.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let (status, answer) = self.request(Method::POST, path, Some(body)).await?;
        if status == StatusCode::OK {
            return Ok(answer);
        }
        Err(Failure::new(format!("POST {path} was answered {status}: {answer}")))
    }

    /// GETs.
    pub(crate) async fn get(&self, path: &str) -> Result<(StatusCode, Value), Failure> {
        self.request(Method::GET, path, None).await
    }
}
