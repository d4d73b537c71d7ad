//! One keep-alive HTTP/1.1 connection per worker, without a pool in between.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::BenchError;

/// The largest answer that is kept to be looked at.
const MAX_KEPT: usize = 64 * 1024 * 1024;

/// Why a request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Failure {
    /// No connection could be made.
    Connect,
    /// The connection failed before the answer's head was read.
    Exchange,
    /// The connection failed within the answer's body.
    Body,
    /// The answer was not complete in time.
    Timeout,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "no connection could be made",
            Self::Exchange => "the connection failed",
            Self::Body => "the connection failed within the answer",
            Self::Timeout => "no answer in time",
        })
    }
}

/// Where requests go.
#[derive(Debug)]
pub(crate) struct Target {
    host: String,
    port: u16,
    authority: HeaderValue,
    base: String,
    api_key: Option<HeaderValue>,
    bearer: Option<HeaderValue>,
}

impl Target {
    /// Reads `--url`; only plain HTTP is spoken.
    pub(crate) fn new(url: &str, api_key: Option<&str>) -> Result<Self, BenchError> {
        let bad = |why: &str| BenchError::Args(format!("--url {url}: {why}"));
        let uri: Uri = url.parse().map_err(|_| bad("not a URL"))?;
        if uri.scheme_str() != Some("http") {
            return Err(bad("must start with http://"));
        }
        let authority = uri.authority().ok_or_else(|| bad("has no host"))?;
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err(bad("may only have a host, a port and a path"));
        }
        let key = api_key.map(HeaderValue::from_str).transpose();
        let mut api_key = key.map_err(|_| BenchError::Args("--api-key: not a header value".to_owned()))?;
        if let Some(key) = &mut api_key {
            key.set_sensitive(true);
        }
        Ok(Self {
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(80),
            authority: HeaderValue::from_str(authority.as_str()).map_err(|_| bad("has no usable host"))?,
            base: uri.path().trim_end_matches('/').to_owned(),
            api_key,
            bearer: None,
        })
    }

    /// Sends a bearer token too.
    pub(crate) fn with_bearer(mut self, token: Option<&str>) -> Result<Self, BenchError> {
        let Some(token) = token else { return Ok(self) };
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| BenchError::Args("the bearer token is not a header value".to_owned()))?;
        value.set_sensitive(true);
        self.bearer = Some(value);
        Ok(self)
    }

    fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, http::Error> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(key) = &self.api_key {
            request = request.header("x-api-key", key);
        }
        if let Some(token) = &self.bearer {
            request = request.header(AUTHORIZATION, token);
        }
        request.body(Full::new(body))
    }
}

/// A connection and the task that drives it; dropping it closes the socket.
#[derive(Debug)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A client with at most one connection, made again after an error.
#[derive(Debug)]
pub(crate) struct Client {
    target: Arc<Target>,
    timeout: Duration,
    connection: Option<Connection>,
    /// Connections made.
    pub(crate) connects: u64,
}

impl Client {
    /// A client that has not connected yet.
    pub(crate) fn new(target: Arc<Target>, timeout: Duration) -> Self {
        Self { target, timeout, connection: None, connects: 0 }
    }

    /// Connects, if there is no usable connection.
    pub(crate) async fn connect(&mut self) -> Result<(), Failure> {
        match tokio::time::timeout(self.timeout, self.connection()).await {
            Ok(connected) => connected.map(drop),
            Err(_) => Err(Failure::Timeout),
        }
    }

    /// Posts `body` and reads the whole answer: its status and the length of its body.
    pub(crate) async fn send(&mut self, path: &str, body: Bytes) -> Result<(u16, u64), Failure> {
        self.bounded(Method::POST, path, body, async |response| {
            let status = response.status().as_u16();
            Ok((status, drain(response.into_body()).await?))
        })
        .await
    }

    /// Sends a request and keeps the answer's body.
    pub(crate) async fn fetch(&mut self, method: Method, path: &str, body: Bytes) -> Result<(u16, Bytes), Failure> {
        self.bounded(method, path, body, async |response| {
            let status = response.status().as_u16();
            let collected = Limited::new(response.into_body(), MAX_KEPT).collect().await;
            Ok((status, collected.map_err(|_| Failure::Body)?.to_bytes()))
        })
        .await
    }

    /// One exchange within the timeout; the connection is given up when it fails.
    async fn bounded<T>(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
        read: impl AsyncFnOnce(Response<Incoming>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let timeout = self.timeout;
        let exchange = async { read(self.exchange(method, path, body).await?).await };
        let outcome = tokio::time::timeout(timeout, exchange).await.unwrap_or(Err(Failure::Timeout));
        if outcome.is_err() {
            self.connection = None;
        }
        outcome
    }

    async fn exchange(&mut self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, Failure> {
        let request = self.target.request(method, path, body).map_err(|_| Failure::Exchange)?;
        let sender = self.connection().await?;
        sender.send_request(request).await.map_err(|_| Failure::Exchange)
    }

    /// The usable connection; an idle one that the server closed is replaced.
    async fn connection(&mut self) -> Result<&mut SendRequest<Full<Bytes>>, Failure> {
        let usable = match &mut self.connection {
            Some(connection) => connection.sender.ready().await.is_ok(),
            None => false,
        };
        if !usable {
            self.connection = None;
            self.connects += 1;
            self.connection = Some(open(&self.target).await.ok_or(Failure::Connect)?);
        }
        self.connection.as_mut().map(|connection| &mut connection.sender).ok_or(Failure::Connect)
    }
}

async fn open(target: &Target) -> Option<Connection> {
    let stream = TcpStream::connect((target.host.as_str(), target.port)).await.ok()?;
    stream.set_nodelay(true).ok()?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    // An error of the connection also reaches the request that waits on it.
    let driver = tokio::spawn(async move { drop(connection.await) });
    Some(Connection { sender, driver })
}

/// Reads a body to its end and counts its bytes.
async fn drain(mut body: Incoming) -> Result<u64, Failure> {
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Failure::Body)?;
        bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let target = Target::new("http://127.0.0.1:3001/", None).unwrap();
        assert_eq!((target.host.as_str(), target.port, target.base.as_str()), ("127.0.0.1", 3001, ""));
        let target = Target::new("http://[::1]/sub/", Some("k")).unwrap();
        assert_eq!((target.host.as_str(), target.port, target.base.as_str()), ("::1", 80, "/sub"));
        for url in ["https://x", "x:1", "http://u:p@x", "/x", "http://x?y", ""] {
            assert!(Target::new(url, None).is_err(), "{url}");
        }
        assert!(Target::new("http://x", Some("a\nb")).is_err());
        let target = Target::new("http://x", Some("hunter2")).unwrap().with_bearer(Some("swordfish")).unwrap();
        let shown = format!("{target:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("swordfish"));
        assert!(Target::new("http://x", None).unwrap().with_bearer(Some("a\nb")).is_err());
    }
}
