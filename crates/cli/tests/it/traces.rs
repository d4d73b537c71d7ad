//! Traces, as a collector receives them.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest, common::v1::any_value::Value as Attribute, trace::v1::Span,
};
use prost::Message;
use serde_json::json;

use crate::support::{place::Place, program::fake, server::Server, until};

const WAIT: Duration = Duration::from_secs(30);
const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// A collector that keeps what it is sent.
struct Collector {
    url: String,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    heads: Mutex<Vec<String>>,
    requests: Mutex<Vec<ExportTraceServiceRequest>>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Seen::default());
        let keeper = Arc::clone(&seen);
        // Ends with the process of the test.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                keeper.connections.fetch_add(1, Ordering::SeqCst);
                let keeper = Arc::clone(&keeper);
                std::thread::spawn(move || serve(stream, &keeper));
            }
        });
        Self { url, seen }
    }

    /// Spans of the caller's trace received so far.
    fn spans(&self) -> Vec<Span> {
        let requests = self.seen.requests.lock().unwrap();
        let scopes = requests.iter().flat_map(|r| &r.resource_spans).flat_map(|r| &r.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }
}

fn serve(stream: TcpStream, seen: &Seen) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let lower = head.to_lowercase();
        let length = lower.split("content-length: ").nth(1)?.split("\r\n").next()?.parse().ok()?;
        let mut body = vec![0; length];
        stream.read_exact(&mut body).ok()?;
        seen.heads.lock().unwrap().push(lower);
        seen.requests.lock().unwrap().push(ExportTraceServiceRequest::decode(&body[..]).unwrap());
        stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").ok()?;
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attribute(span: &Span, name: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key == name)?;
    Some(match found.value.as_ref()?.value.as_ref()? {
        Attribute::StringValue(text) => text.clone(),
        Attribute::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    })
}

fn traced(command: &mut std::process::Command, url: &str) {
    fake(command).env("OTEL_EXPORTER_OTLP_ENDPOINT", url).env("OTEL_BSP_SCHEDULE_DELAY", "50");
}

fn write_and_recall(server: &Server) {
    let node = json!({ "client_id": "a", "type": "event", "text_summary": "a heron in the reeds" });
    server.write(&json!({ "scope": "pond", "input_text": "x", "nodes": [node] }));
    let question = json!({ "scope": "pond", "query_text": "where is the heron" });
    let headers = format!("traceparent: 00-{TRACE_ID}-{CALLER}-01\r\n");
    server.connect().post_with(&headers, "/v1/memory/recall_text", &question).unwrap().ok();
}

#[test]
fn a_collector_receives_the_spans_of_a_recall_in_the_trace_of_its_caller() {
    let (place, collector) = (Place::new(), Collector::start());
    let server = Server::start_with(&place.data(), |command| {
        traced(command, &collector.url);
        command.env("OTEL_EXPORTER_OTLP_HEADERS", "x-key=k1").env("OTEL_SERVICE_NAME", "pond-service");
    });
    write_and_recall(&server);
    let of_recall = || {
        let spans = collector.spans().into_iter().filter(|span| hex(&span.trace_id) == TRACE_ID);
        spans.collect::<Vec<Span>>()
    };
    let root = until("the recall's own span arrives", WAIT, || {
        of_recall().into_iter().find(|span| span.name == "POST /v1/memory/recall_text")
    });
    assert_eq!((hex(&root.parent_span_id), root.kind), (CALLER.to_owned(), 2));
    assert_eq!(attribute(&root, "http.route").as_deref(), Some("/v1/memory/recall_text"));
    assert_eq!(attribute(&root, "http.response.status_code").as_deref(), Some("200"));
    let spans = of_recall();
    for stage in ["parse", "gate", "embed", "meaning", "words", "fuse", "expand", "vitals", "rows", "pack"] {
        let span = spans.iter().find(|span| span.name == stage).unwrap_or_else(|| panic!("{stage}: {spans:#?}"));
        assert_eq!(span.parent_span_id, root.span_id, "{stage}");
    }
    until("spans of the write and of the worker arrive", WAIT, || {
        let names: Vec<String> = collector.spans().into_iter().map(|span| span.name).collect();
        let wanted = ["POST /v1/memory/write", "prepare", "store", "worker batch", "complete"];
        wanted.iter().all(|wanted| names.iter().any(|name| name == wanted)).then_some(())
    });
    server.stop();
    let heads = collector.seen.heads.lock().unwrap();
    assert!(heads.iter().all(|head| head.starts_with("post /v1/traces ") && head.contains("x-key: k1")), "{heads:?}");
    let sent = format!("{:?}", collector.seen.requests.lock().unwrap());
    assert!(sent.contains("pond-service"));
    assert!(!sent.replace("pond-service", "").contains("pond") && !sent.contains("heron"), "{sent}");
}

/// The headers of the first request to a collector, of a server started so.
fn head_of_first_request(start: impl FnOnce(&mut std::process::Command)) -> String {
    let (place, collector) = (Place::new(), Collector::start());
    let server = Server::start_with(&place.data(), |command| {
        traced(command, &collector.url);
        start(command);
    });
    write_and_recall(&server);
    server.stop();
    let heads = collector.seen.heads.lock().unwrap();
    heads.first().expect("something was sent").clone()
}

#[test]
fn headers_of_a_flag_replace_those_of_its_variable() {
    let head = head_of_first_request(|command| {
        command.env("OTEL_EXPORTER_OTLP_HEADERS", "x-key=variable,x-more=variable");
        command.args(["--otel-exporter-otlp-headers", "x-key=fl%61g"]);
    });
    assert!(head.contains("x-key: flag\r\n") && !head.contains("variable"), "{head}");
    assert!(head.contains("content-type: application/x-protobuf\r\n"), "{head}");
}

#[test]
fn headers_of_traces_replace_the_others_and_their_flag_its_variable() {
    let both = |command: &mut std::process::Command| {
        command.env("OTEL_EXPORTER_OTLP_HEADERS", "x-key=general");
        command.env("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "x-key=own");
    };
    let head = head_of_first_request(both);
    assert!(head.contains("x-key: own\r\n") && !head.contains("general"), "{head}");
    let head = head_of_first_request(|command| {
        both(command);
        command.args(["--otel-exporter-otlp-traces-headers", "x-key=flag"]);
    });
    assert!(head.contains("x-key: flag\r\n") && !head.contains("own") && !head.contains("general"), "{head}");
}

#[test]
fn nothing_is_sent_when_traces_are_off() {
    let (place, collector) = (Place::new(), Collector::start());
    let server = Server::start_with(&place.data(), |command| {
        traced(command, &collector.url);
        command.env("OTEL_SDK_DISABLED", "true");
    });
    write_and_recall(&server);
    // The end sends what is left, so that there is nothing to wait for after it.
    server.stop();
    assert_eq!(collector.seen.connections.load(Ordering::SeqCst), 0);
}

#[test]
fn a_sampler_that_keeps_nothing_sends_nothing() {
    let (place, collector) = (Place::new(), Collector::start());
    let server = Server::start_with(&place.data(), |command| {
        traced(command, &collector.url);
        command.env("OTEL_TRACES_SAMPLER", "always_off");
    });
    write_and_recall(&server);
    server.stop();
    assert_eq!(collector.seen.connections.load(Ordering::SeqCst), 0);
}

#[test]
fn a_dead_collector_is_named_once_and_slows_nothing() {
    let place = Place::new();
    // Nobody listens there.
    let server = Server::start_with(&place.data(), |command| traced(command, "http://127.0.0.1:1"));
    let log = || std::fs::read_to_string(place.path().join("log")).unwrap();
    let started = Instant::now();
    write_and_recall(&server);
    until("the failure is logged", WAIT, || log().contains("traces cannot be sent").then_some(()));
    for _ in 0..20 {
        write_and_recall(&server);
    }
    assert!(started.elapsed() < Duration::from_secs(20));
    server.stop();
    assert_eq!(log().matches("traces cannot be sent").count(), 1, "{}", log());
}

#[test]
fn a_collector_that_never_answers_does_not_hold_the_end() {
    let place = Place::new();
    // Connections are accepted by the system, and nobody answers on them.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let server = Server::start_with(&place.data(), |command| traced(command, &url));
    write_and_recall(&server);
    let told = Instant::now();
    server.tell_to_stop();
    let status = server.ended(Duration::from_secs(15));
    assert!(status.success() && told.elapsed() < Duration::from_secs(8), "{status} after {:?}", told.elapsed());
}
