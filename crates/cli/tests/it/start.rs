//! How long a start takes and what an idle service holds.

use crate::support::{place::Place, server::Server};

/// A line of a process's `status`.
fn status(pid: u32, name: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix(name)).expect(name).trim().to_owned()
}

/// Resident memory of a process in MiB, from `VmRSS` in kB.
fn resident_mib(pid: u32) -> f64 {
    status(pid, "VmRSS:").trim_end_matches("kB").trim().parse::<f64>().unwrap() / 1024.0
}

#[test]
fn an_empty_store_answers_and_says_how_soon() {
    let place = Place::new();
    let server = Server::start(&place.data());
    println!("cold start on an empty store: {:?}; resident {:.1} MiB", server.started_in, resident_mib(server.pid()));
    let ready = server.connect().get("/health/ready").unwrap().ok();
    assert_eq!((&ready["ok"], &ready["worker"]), (&true.into(), &true.into()), "{ready}");
    server.stop();

    let server = Server::start(&place.data());
    println!("start on existing data: {:?}; resident {:.1} MiB", server.started_in, resident_mib(server.pid()));
    server.stop();
}

/// What is freed within a huge page stays resident; with usual pages it does not. Whoever sets the allocator's variable
/// decides.
#[test]
fn memory_lies_in_small_pages_unless_asked_for() {
    let place = Place::new();
    let server = Server::start(&place.data());
    assert_eq!(status(server.pid(), "THP_enabled:"), "0");
    server.stop();
    let server = Server::start_with(&place.data(), |command| _ = command.env("MIMALLOC_ALLOW_THP", "1"));
    assert_eq!(status(server.pid(), "THP_enabled:"), "1");
    server.stop();
}
