//! Connections of the service as a process: so many at once, none of them silent for ever; and which pages may call.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::support::{
    http::Connection,
    place::Place,
    program::{aionis, fake, run},
    server::Server,
};

/// Longest time in which something that has to happen soon happens.
const SOON: Duration = Duration::from_secs(20);

fn serve(settings: &[(&str, &str)]) -> (Server, Place) {
    let place = Place::new();
    let server = Server::start_with(&place.data(), |command| {
        fake(command).envs(settings.iter().copied());
    });
    (server, place)
}

/// A connection on which some bytes were sent.
fn sent(server: &Server, bytes: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(bytes.as_bytes()).unwrap();
    stream
}

/// Everything the service says until it closes the connection; a reset is an end too.
fn said_until_the_end(mut stream: TcpStream) -> String {
    let mut said = Vec::new();
    match stream.read_to_end(&mut said) {
        Err(e) if e.kind() != std::io::ErrorKind::ConnectionReset => panic!("it is not closed: {e}"),
        _ => String::from_utf8(said).unwrap(),
    }
}

#[test]
fn a_client_that_sends_half_a_head_is_cut() {
    let (server, _place) = serve(&[("API_HEAD_TIMEOUT_MS", "300")]);
    for half in ["", "GET /health/li", "GET /health/live HTTP/1.1\r\nhost: localhost\r\n"] {
        let started = Instant::now();
        assert_eq!(said_until_the_end(sent(&server, half)), "", "{half:?}");
        assert!(started.elapsed() >= Duration::from_millis(300), "{half:?} has its time");
    }
    // One that is kept and says nothing more, after its answer.
    let idle = sent(&server, "GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n");
    assert!(said_until_the_end(idle).starts_with("HTTP/1.1 200"));
    // The time is that of the head alone: a body may take longer.
    let body = json!({ "query_text": "herons" }).to_string();
    let mut slow = server.connect();
    slow.start_post("/v1/memory/recall_text", body.len()).unwrap();
    assert_eq!(said_until_the_end(sent(&server, "GET")), "", "longer than the time for a head");
    slow.send(body.as_bytes()).unwrap();
    slow.answer().unwrap().ok();
    server.stop();
}

#[test]
fn a_head_has_a_longest_length() {
    let (server, _place) = serve(&[]);
    for (length, status) in [(1_000, "200"), (100_000, "431")] {
        let head = format!(
            "GET /health/live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx-long: {}\r\n\r\n",
            "x".repeat(length)
        );
        let said = said_until_the_end(sent(&server, &head));
        assert!(said.starts_with(&format!("HTTP/1.1 {status}")), "{length}: {said:?}");
    }
}

#[test]
fn who_opens_more_connections_than_there_may_be_does_not_stop_the_others() {
    let (server, _place) = serve(&[("API_CONNECTIONS_MAX", "4"), ("API_HEAD_TIMEOUT_MS", "500")]);
    let body = json!({ "query_text": "herons" }).to_string();
    let mut working = server.connect();
    working.start_post("/v1/memory/recall_text", body.len()).unwrap();
    let greedy: Vec<TcpStream> = (0..20).map(|_| sent(&server, "GET /health")).collect();
    // It waits until some of those that say nothing are cut.
    let mut other = server.connect();
    other.get("/health/live").unwrap().ok();
    let metrics = other.get("/metrics").unwrap();
    let open = metrics.body.as_str().unwrap().lines().find_map(|line| line.strip_prefix("aionis_http_connections "));
    let open: f64 = open.expect("the gauge").parse().unwrap();
    assert!((2.0..=4.0).contains(&open), "{open}");
    working.send(body.as_bytes()).unwrap();
    working.answer().unwrap().ok();
    for stream in greedy {
        assert_eq!(said_until_the_end(stream), "");
    }
    server.stop();
}

#[test]
fn connections_that_wait_are_no_reason_not_to_stop() {
    let (server, _place) = serve(&[("API_CONNECTIONS_MAX", "1")]);
    let body = json!({ "query_text": "herons" }).to_string();
    let mut working = server.connect();
    working.start_post("/v1/memory/recall_text", body.len()).unwrap();
    let _waits = server.connect();
    server.tell_to_stop();
    working.send(body.as_bytes()).unwrap();
    working.answer().unwrap().ok();
    assert!(server.ended(SOON).success());
}

/// What a request with such headers is answered, head and all.
fn raw(server: &Server, headers: &str) -> String {
    said_until_the_end(sent(server, &format!("GET /openapi.json HTTP/1.1\r\nconnection: close\r\n{headers}\r\n")))
}

#[test]
fn pages_and_made_up_names_are_kept_out_unless_they_are_named() {
    let (page, rebound) = ("host: localhost\r\norigin: https://app.example\r\n", "host: memory.example\r\n");
    let (server, _place) = serve(&[]);
    assert!(raw(&server, page).starts_with("HTTP/1.1 403") && raw(&server, page).contains("origin_not_allowed"));
    assert!(raw(&server, rebound).starts_with("HTTP/1.1 403") && raw(&server, rebound).contains("host_not_allowed"));
    let program = raw(&server, "host: localhost\r\n");
    assert!(program.starts_with("HTTP/1.1 200") && !program.contains("access-control-"), "{program:.400}");

    let named = [("AIONIS_ALLOWED_HOSTS", "memory.example"), ("CORS_ALLOW_ORIGINS", "https://app.example")];
    let (server, _place) = serve(&named);
    let allowed = raw(&server, page);
    assert!(allowed.starts_with("HTTP/1.1 200"), "{allowed:.400}");
    assert!(allowed.contains("access-control-allow-origin: https://app.example"), "{allowed:.400}");
    assert!(raw(&server, rebound).starts_with("HTTP/1.1 200"));

    let by_key = [("MEMORY_AUTH_MODE", "api_key"), ("MEMORY_API_KEYS_JSON", r#"{"hunter2":{"tenant_id":"acme"}}"#)];
    let (server, _place) = serve(&by_key);
    let any = raw(&server, page);
    assert!(any.starts_with("HTTP/1.1 200") && any.contains("access-control-allow-origin: *"), "{any:.400}");
    assert!(raw(&server, rebound).starts_with("HTTP/1.1 200"), "a page has no credential");
}

#[test]
fn bounds_that_cannot_hold_stop_the_start() {
    for (variable, value, wanted) in [
        ("API_BODIES_MAX_BYTES", "5242879", &["API_BODIES_MAX_BYTES", "5242880"][..]),
        ("API_CONNECTIONS_MAX", "0", &["API_CONNECTIONS_MAX", "1"]),
        ("API_COMMIT_WAITERS_MAX", "0", &["API_COMMIT_WAITERS_MAX", "1"]),
        ("AIONIS_ALLOWED_HOSTS", "memory.example:80", &["memory.example:80", "without port"]),
    ] {
        let place = Place::new();
        let mut command = aionis(place.path());
        command.args(["serve", "--port", "0"]).env("EMBEDDING_PROVIDER", "fake").env(variable, value);
        let ended = run(&mut command).exits(1);
        let said = ended.stderr.lines().find(|line| wanted.iter().all(|wanted| line.contains(wanted)));
        assert!(said.is_some(), "{variable}={value}: no line says {wanted:?}: {ended:#?}");
    }
}

#[test]
fn one_connection_takes_many_requests() {
    let (server, _place) = serve(&[("API_CONNECTIONS_MAX", "1")]);
    let mut connection: Connection = server.connect();
    for _ in 0..20 {
        connection.get("/health/live").unwrap().ok();
    }
}
