//! Serves connections: so many at once, each with a limit of time for the head of a request.
//!
//! Over the bound no connection is accepted: those that come wait in the system's backlog until another one ends. A
//! connection that sends nothing, or half a head, ends after its time, so that the bound is not taken for good.

use std::{
    convert::Infallible,
    io::{self, ErrorKind},
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use axum::{Router, body::Body, extract::ConnectInfo, response::Response};
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tower::ServiceExt;

/// Longest head of a request.
const HEAD_MAX_BYTES: usize = 64 * 1024;
/// How long to wait after a failure to accept that will not be over at once: too many open files, for example.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Bounds of connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Connections at once.
    pub(crate) connections_max: usize,
    /// Longest time for the head of a request, from the opening of the connection or the answer before it: a kept
    /// connection may be idle as long.
    pub(crate) head_timeout: Duration,
}

/// An open connection, counted until dropped.
struct Open(#[expect(dead_code, reason = "given back when dropped")] OwnedSemaphorePermit);

impl Open {
    fn new(place: OwnedSemaphorePermit) -> Self {
        metrics::gauge!("aionis_http_connections").increment(1.0);
        Self(place)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        metrics::gauge!("aionis_http_connections").decrement(1.0);
    }
}

/// Serves until told to stop, then takes no new connection, and returns when those that are open have had their answers.
pub(crate) async fn run(listener: TcpListener, app: Router, bounds: Bounds, stop: impl Future<Output = ()>) {
    let (places, graceful) = (Arc::new(Semaphore::new(bounds.connections_max)), GracefulShutdown::new());
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(bounds.head_timeout);
    // Of what has come in one piece the buffer's bound alone would let more pass.
    server.max_header_size(HEAD_MAX_BYTES).max_buf_size(HEAD_MAX_BYTES);
    let mut stop = pin!(stop);
    loop {
        let next = async {
            // It is never closed; without a place nothing is accepted.
            let place = Arc::clone(&places).acquire_owned().await.ok()?;
            Some((accept(&listener).await, Open::new(place)))
        };
        let ((stream, peer), open) = tokio::select! {
            next = next => match next { Some(next) => next, None => break },
            () = &mut stop => break,
        };
        let connection = graceful.watch(server.serve_connection(TokioIo::new(stream), service(app.clone(), peer)));
        tokio::spawn(async move {
            let _open = open;
            if let Err(e) = connection.await {
                tracing::debug!(error = %e, "a connection ended early");
            }
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(e) if is_of_the_client(&e) => {}
            Err(e) => {
                tracing::error!(error = %e, "no connection can be accepted; it is tried again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether only the connection that was about to be accepted has failed.
fn is_of_the_client(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset)
}

/// The interface for one connection, which is told whose it is.
fn service(
    app: Router,
    peer: SocketAddr,
) -> impl Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send> + Send {
    service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        app.clone().oneshot(request)
    })
}
