//! How long a start takes and what an idle service holds.

use std::time::Duration;

use crate::support::{place::Place, server::Server};

/// Resident memory of a process in MiB, from `VmRSS` in kB.
fn resident_mib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<f64>().unwrap() / 1024.0
}

#[test]
fn an_empty_store_answers_soon() {
    let place = Place::new();
    let server = Server::start(&place.data());
    println!("cold start on an empty store: {:?}; resident {:.1} MiB", server.started_in, resident_mib(server.pid()));
    assert!(server.started_in < Duration::from_secs(5), "{:?}", server.started_in);
    let ready = server.connect().get("/health/ready").unwrap().ok();
    assert_eq!((&ready["ok"], &ready["worker"]), (&true.into(), &true.into()), "{ready}");
    server.stop();

    let server = Server::start(&place.data());
    println!("start on existing data: {:?}; resident {:.1} MiB", server.started_in, resident_mib(server.pid()));
    assert!(server.started_in < Duration::from_secs(5), "{:?}", server.started_in);
    server.stop();
}
