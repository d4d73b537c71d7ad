//! Whole runs against a stub server.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use clap::Parser;
use serde_json::Value;

use super::client::Failure;
use super::seed::DrainState;
use super::{BenchArgs, BenchError, BenchReport};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    bench: BenchArgs,
}

/// What the stub answers: a status and a body for a path and the JSON sent; 0 closes the connection.
type Answer = dyn Fn(&str, &Value) -> (u16, String) + Send + Sync;

fn serve(answer: Arc<Answer>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let answer = Arc::clone(&answer);
            thread::spawn(move || connection(stream.unwrap(), answer.as_ref()));
        }
    });
    address
}

fn connection(mut stream: TcpStream, answer: &Answer) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while let Some((path, body)) = request(&mut reader) {
        let json = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let (status, text) = answer(&path, &json);
        if status == 0 {
            return;
        }
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", text.len());
        if stream.write_all((head + &text).as_bytes()).is_err() {
            return;
        }
    }
}

fn request(reader: &mut impl BufRead) -> Option<(String, Vec<u8>)> {
    let (mut path, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        } else if path.is_empty() {
            path = line.split(' ').nth(1)?.to_owned();
        } else if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((path, body))
}

async fn bench(address: SocketAddr, flags: &str) -> Result<BenchReport, BenchError> {
    let url = format!("http://{address}");
    let flags = ["bench", "--url", &url].into_iter().chain(flags.split_whitespace());
    super::run(Cli::try_parse_from(flags).map(|cli| cli.bench).unwrap()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_run() {
    let polls = AtomicU64::new(0);
    let address = serve(Arc::new(move |path, json| match path {
        "/health/ready" => (200, r#"{"embedding":{"dim":8}}"#.to_owned()),
        "/v1/memory/recall" if json["query_embedding"].as_array().map(Vec::len) != Some(8) => (400, String::new()),
        "/v1/memory/recall_text" => {
            let pending = 2u64.saturating_sub(polls.fetch_add(1, Ordering::Relaxed));
            (200, format!(r#"{{"pending":{{"nodes":{pending}}}}}"#))
        }
        _ => (200, "{}".to_owned()),
    }));
    let pid = std::process::id();
    let flags = format!("--nodes 450 --duration-s 0.2 --warmup-s 0.05 --concurrency 1,4 --server-pid {pid}");
    let report = bench(address, &flags).await.unwrap();

    assert!(report.scope.starts_with("bench-"));
    assert_eq!(report.dim, Some(8));
    let seeding = report.seeding.as_ref().unwrap();
    assert_eq!((seeding.nodes, seeding.requests, seeding.edges), (450, 3, 432 + 449));
    assert_eq!((seeding.drain.state, seeding.drain.pending), (DrainState::Drained, Some(0)));
    assert!(seeding.drain.elapsed_s >= 0.4);
    assert_eq!(report.runs.len(), 8);
    for run in &report.runs {
        assert!(run.ok > 0 && run.ok == run.requests, "{run:?}");
        assert!(run.errors_by_status.is_empty() && run.transport_errors.is_empty(), "{run:?}");
        assert!(run.client_cpu_s.is_some() && run.server_cpu_s.is_some() && run.server_rss_bytes.is_some());
        assert_eq!((run.reconnects, run.late), (0, None));
    }
    assert_eq!(report.runs[0].nodes_in_scope, 450);
    assert!(report.runs[7].nodes_in_scope > 450 + report.runs[4].ok);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_open_loop_counts_from_the_schedule() {
    let address = serve(Arc::new(|_, _| {
        thread::sleep(Duration::from_millis(20));
        (200, "{}".to_owned())
    }));
    let flags = "--nodes 0 --operations recall-text --duration-s 0.5 --warmup-s 0";
    let calm = bench(address, &format!("{flags} --rate 40 --max-in-flight 8")).await.unwrap();
    let run = &calm.runs[0];
    // A machine that stands still for a moment drops some: what is due is counted all the same.
    assert_eq!((run.mode, run.requests + run.dropped.unwrap()), ("open", 20));
    assert!(run.latency.as_ref().unwrap().p50_us >= 20_000);

    let busy = bench(address, &format!("{flags} --rate 200 --max-in-flight 1")).await.unwrap();
    let run = &busy.runs[0];
    assert_eq!(run.requests + run.dropped.unwrap(), 100);
    assert!(run.dropped > Some(50) && run.late > Some(0), "{run:?}");
    assert!(run.latency.as_ref().unwrap().p99_us > 200_000, "{run:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_are_told_apart() {
    let count = AtomicU64::new(0);
    let address = serve(Arc::new(move |_, _| match count.fetch_add(1, Ordering::Relaxed) {
        0 => (200, "{}".to_owned()),
        n if n % 10 == 5 => (0, String::new()),
        n if n % 2 == 0 => (429, "{}".to_owned()),
        _ => (200, "{}".to_owned()),
    }));
    let flags = "--nodes 0 --operations recall-text --duration-s 5 --warmup-s 0 --concurrency 2 --max-requests 100";
    let report = bench(address, flags).await.unwrap();
    let run = &report.runs[0];
    let (limited, broken) = (run.errors_by_status[&429], run.transport_errors[&Failure::Exchange]);
    assert_eq!(run.requests, 100);
    assert_eq!(run.ok + limited + broken, 100);
    assert!(limited >= 45 && (8..=12).contains(&broken), "{run:?}");
    assert!(run.reconnects + 2 >= broken);
}

#[tokio::test]
async fn a_refusal_ends_the_run() {
    let address = serve(Arc::new(|path, _| match path {
        "/health/ready" => (200, "{}".to_owned()),
        _ => (401, r#"{"error":"unauthorized"}"#.to_owned()),
    }));
    let error = bench(address, "--nodes 10 --operations write-1").await.unwrap_err().to_string();
    assert_eq!(error, r#"seeding was answered 401: {"error":"unauthorized"}"#);
    let error = bench(address, "--nodes 0 --operations recall").await.unwrap_err().to_string();
    assert_eq!(error, "the server does not report a dimension; pass --dim");
    let closed = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).unwrap();
    let error = bench(closed, "--nodes 0 --operations write-1").await.unwrap_err().to_string();
    assert_eq!(error, "write-1: no connection could be made");
}
