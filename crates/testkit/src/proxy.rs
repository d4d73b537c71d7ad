//! A TCP proxy that misbehaves when told to: it stalls, slows, cuts or refuses the connections that go through it.

use std::{
    io::{self, ErrorKind},
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    runtime::{Builder, Runtime},
    sync::{Semaphore, watch},
};

/// Most connections at once; further ones wait to be let in.
const CONNECTIONS_MAX: usize = 256;
/// Bytes passed on at once.
const CHUNK_BYTES: usize = 16 * 1024;
/// Pause after a connection could not be taken, for want of descriptors or the like.
const TAKE_AGAIN: Duration = Duration::from_millis(10);

/// What the proxy does at present.
#[derive(Clone, Copy, Debug, Default)]
struct Mode {
    stalled: bool,
    refusing: bool,
    delay: Duration,
    /// How often all connections were cut.
    cuts: u64,
}

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicUsize,
    sent: AtomicUsize,
}

/// A proxy on loopback in front of one address. What a method asks for holds for every byte and every connection that
/// arrives after it has returned. Dropping the proxy ends its connections.
#[derive(Debug)]
pub struct ChaosProxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    counts: Arc<Counts>,
    /// A runtime of its own, so that tests without one can use the proxy; taken out when dropped.
    runtime: Option<Runtime>,
}

impl ChaosProxy {
    /// Starts a proxy that passes everything on to `upstream`.
    ///
    /// # Panics
    /// No port or no thread can be had.
    pub fn start(upstream: SocketAddr) -> Self {
        Self::bounded(upstream, CONNECTIONS_MAX)
    }

    fn bounded(upstream: SocketAddr, connections_max: usize) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("chaos-proxy")
            .enable_io()
            .enable_time()
            .build()
            .expect("a runtime can be made");
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener).unwrap()
        };
        let mode = watch::Sender::new(Mode::default());
        let counts = Arc::new(Counts::default());
        runtime.spawn(take(listener, upstream, mode.subscribe(), Arc::clone(&counts), connections_max));
        Self { address, mode, counts, runtime: Some(runtime) }
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Nothing flows any more in either direction, not even the end of a connection, on present and on new connections.
    /// New ones are taken all the same.
    pub fn stall(&self) {
        self.mode.send_modify(|mode| mode.stalled = true);
    }

    /// Every chunk is passed on only after a delay.
    pub fn slow(&self, delay: Duration) {
        self.mode.send_modify(|mode| mode.delay = delay);
    }

    /// Resets all present connections. New ones are taken as usual.
    pub fn cut(&self) {
        self.mode.send_modify(|mode| mode.cuts += 1);
    }

    /// New connections are closed at once; present ones go on.
    pub fn refuse(&self) {
        self.mode.send_modify(|mode| mode.refusing = true);
    }

    /// Ends stalling, slowing and refusing. What was held back flows on.
    pub fn resume(&self) {
        self.mode.send_modify(|mode| *mode = Mode { cuts: mode.cuts, ..Mode::default() });
    }

    /// Connections let in so far, those that have ended included; not the refused ones.
    pub fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::Relaxed)
    }

    /// How often clients have sent something so far. What is sent at once, in up to 16 KiB, counts once: a client that waits
    /// for each answer has made so many round trips.
    pub fn sent(&self) -> usize {
        self.counts.sent.load(Ordering::Relaxed)
    }
}

impl Drop for ChaosProxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Not waited for: the one who drops it may be on a runtime, where nothing may block.
            runtime.shutdown_background();
        }
    }
}

/// Takes connections, each with a task of its own.
async fn take(
    listener: TcpListener,
    upstream: SocketAddr,
    mode: watch::Receiver<Mode>,
    counts: Arc<Counts>,
    connections_max: usize,
) {
    let places = Arc::new(Semaphore::new(connections_max));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(TAKE_AGAIN).await;
            continue;
        };
        let now = *mode.borrow();
        if now.refusing {
            // Dropping it closes it.
            continue;
        }
        counts.connections.fetch_add(1, Ordering::Relaxed);
        let (mode, counts) = (mode.clone(), Arc::clone(&counts));
        tokio::spawn(async move {
            relay(client, upstream, mode, now.cuts, &counts.sent).await;
            drop(place);
        });
    }
}

/// One connection from beginning to end. `cuts` tells how often all were cut before it was there.
async fn relay(
    mut client: TcpStream,
    upstream: SocketAddr,
    mode: watch::Receiver<Mode>,
    cuts: u64,
    sent: &AtomicUsize,
) {
    let Ok(mut server) = TcpStream::connect(upstream).await else { return };
    // A small message must not wait until the one before it is acknowledged.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let broken = tokio::select! {
        biased;
        () = cut(mode.clone(), cuts) => true,
        ended = both_ways(&mut client, &mut server, &mode, cuts, sent) => ended.is_err(),
    };
    if broken {
        // Dropped like this, both are reset; otherwise each side would see an orderly end.
        let _ = (client.set_zero_linger(), server.set_zero_linger());
    }
}

/// Returns when the connections are cut.
async fn cut(mut mode: watch::Receiver<Mode>, cuts: u64) {
    // An error means that the proxy is gone, which is a cut too.
    let _ = mode.wait_for(|mode| mode.cuts != cuts).await;
}

/// Passes on in both directions until both have ended or one has failed.
async fn both_ways(
    client: &mut TcpStream,
    server: &mut TcpStream,
    mode: &watch::Receiver<Mode>,
    cuts: u64,
    sent: &AtomicUsize,
) -> io::Result<()> {
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    tokio::try_join!(
        pass_on(from_client, to_server, mode.clone(), cuts, Some(sent)),
        pass_on(from_server, to_client, mode.clone(), cuts, None),
    )?;
    Ok(())
}

/// Passes on in one direction until its end, which is passed on too.
async fn pass_on(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut mode: watch::Receiver<Mode>,
    cuts: u64,
    sent: Option<&AtomicUsize>,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = from.read(&mut chunk).await?;
        // Asked after reading: what arrives once the mode is set must not slip through.
        let delay = may_flow(&mut mode, cuts).await?;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
            may_flow(&mut mode, cuts).await?;
        }
        if read == 0 {
            return to.shutdown().await;
        }
        // Before it is passed on, so that whoever has an answer finds it counted.
        sent.inspect(|sent| _ = sent.fetch_add(1, Ordering::Relaxed));
        to.write_all(&chunk[..read]).await?;
    }
}

/// Waits while nothing flows; returns the delay of a chunk. An error means that the connection was cut.
async fn may_flow(mode: &mut watch::Receiver<Mode>, cuts: u64) -> io::Result<Duration> {
    let now = mode.wait_for(|mode| mode.cuts != cuts || !mode.stalled).await.map(|mode| *mode);
    match now {
        Ok(mode) if mode.cuts == cuts => Ok(mode.delay),
        _ => Err(ErrorKind::ConnectionReset.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::time::timeout;

    use super::*;

    /// Longest time something may take that has to come.
    const PATIENCE: Duration = Duration::from_secs(20);
    /// How long is waited for what must not come.
    const NEVER: Duration = Duration::from_millis(150);

    /// A server that sends back what it gets.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = client.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        address
    }

    async fn connect(proxy: &ChaosProxy) -> TcpStream {
        timeout(PATIENCE, TcpStream::connect(proxy.address())).await.unwrap().unwrap()
    }

    /// Reads the byte that comes next; an error when the connection has ended.
    async fn next(connection: &mut TcpStream) -> io::Result<u8> {
        timeout(PATIENCE, connection.read_u8()).await.expect("a byte or the end comes in time")
    }

    /// Sends a byte and insists on getting it back.
    async fn echoes(connection: &mut TcpStream, byte: u8) {
        connection.write_all(&[byte]).await.unwrap();
        assert_eq!(next(connection).await.unwrap(), byte);
    }

    async fn is_silent(connection: &mut TcpStream) -> bool {
        timeout(NEVER, connection.read_u8()).await.is_err()
    }

    #[tokio::test]
    async fn it_passes_on_what_comes_and_the_end_of_it() {
        let proxy = ChaosProxy::start(echo().await);
        let mut connection = connect(&proxy).await;
        echoes(&mut connection, 1).await;
        let long = vec![7; 5 * CHUNK_BYTES];
        let (mut from, mut to) = connection.split();
        let sent = async {
            to.write_all(&long).await.unwrap();
            to.shutdown().await.unwrap();
        };
        let mut back = Vec::new();
        let both = async { tokio::join!(sent, from.read_to_end(&mut back)).1 };
        timeout(PATIENCE, both).await.unwrap().unwrap();
        assert!(back == long, "{} bytes came back", back.len());
        assert_eq!(proxy.connections(), 1);
    }

    #[tokio::test]
    async fn a_stall_holds_everything_back_until_it_ends() {
        let proxy = ChaosProxy::start(echo().await);
        let mut present = connect(&proxy).await;
        echoes(&mut present, 1).await;
        proxy.stall();
        let mut new = connect(&proxy).await;
        for connection in [&mut present, &mut new] {
            connection.write_all(&[2]).await.unwrap();
            assert!(is_silent(connection).await);
        }
        proxy.resume();
        for connection in [&mut present, &mut new] {
            assert_eq!(next(connection).await.unwrap(), 2, "nothing was lost");
            echoes(connection, 3).await;
        }
    }

    #[tokio::test]
    async fn slowing_delays_every_chunk() {
        let proxy = ChaosProxy::start(echo().await);
        let mut connection = connect(&proxy).await;
        echoes(&mut connection, 1).await;
        let delay = Duration::from_millis(40);
        proxy.slow(delay);
        let started = Instant::now();
        echoes(&mut connection, 2).await;
        assert!(started.elapsed() >= 2 * delay, "there and back in {:?}", started.elapsed());
        proxy.resume();
        echoes(&mut connection, 3).await;
    }

    #[tokio::test]
    async fn a_cut_ends_present_connections_only() {
        let proxy = ChaosProxy::start(echo().await);
        let (mut idle, mut stalled) = (connect(&proxy).await, connect(&proxy).await);
        echoes(&mut idle, 1).await;
        echoes(&mut stalled, 1).await;
        proxy.stall();
        stalled.write_all(&[2]).await.unwrap();
        proxy.cut();
        assert!(next(&mut idle).await.is_err());
        assert!(next(&mut stalled).await.is_err(), "a stall does not hold back a cut");
        proxy.resume();
        echoes(&mut connect(&proxy).await, 3).await;
        assert_eq!(proxy.connections(), 3);
    }

    #[tokio::test]
    async fn refusing_closes_new_connections_only() {
        let proxy = ChaosProxy::start(echo().await);
        let mut present = connect(&proxy).await;
        echoes(&mut present, 1).await;
        proxy.refuse();
        assert!(next(&mut connect(&proxy).await).await.is_err());
        echoes(&mut present, 2).await;
        assert_eq!(proxy.connections(), 1);
        proxy.resume();
        echoes(&mut connect(&proxy).await, 3).await;
        assert_eq!(proxy.connections(), 2);
    }

    #[tokio::test]
    async fn one_connection_more_than_allowed_waits() {
        let proxy = ChaosProxy::bounded(echo().await, 1);
        let (mut first, mut second) = (connect(&proxy).await, connect(&proxy).await);
        echoes(&mut first, 1).await;
        second.write_all(&[2]).await.unwrap();
        assert!(is_silent(&mut second).await);
        drop(first);
        assert_eq!(next(&mut second).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn dropping_it_ends_its_connections() {
        let proxy = ChaosProxy::start(echo().await);
        let mut connection = connect(&proxy).await;
        echoes(&mut connection, 1).await;
        drop(proxy);
        assert!(next(&mut connection).await.is_err());
    }
}
