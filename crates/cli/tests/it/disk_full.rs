//! A full disk: refused writes leave nothing, the service lives on, and room helps without a restart.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{
    db,
    place::Place,
    program::{aionis_on, fake, run},
    server::{Server, seed_ids},
};

/// A small file system of a test's own, gone when dropped.
struct Mount(PathBuf);

impl Mount {
    /// None, with the reason printed, where mounting is not allowed.
    fn new(place: &Place, options: &str) -> Option<Self> {
        let path = place.path().join("disk");
        std::fs::create_dir(&path).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "aionis-it"]).arg(&path).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(path)),
            Ok(output) => {
                println!("skipped: no tmpfs can be mounted: {}", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(e) => {
                println!("skipped: there is no mount program: {e}");
                None
            }
        }
    }

    fn resize(&self, size: &str) {
        let status = Command::new("mount").args(["-o", &format!("remount,size={size}")]).arg(&self.0).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: after a failed test a process may still have files open for a moment.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn note(number: usize) -> Value {
    // Several kilobytes, so that the disk is full soon.
    let text = format!("entry {number} of the archive: {}", "the granary holds barley and rye; ".repeat(150));
    let nodes: Vec<Value> = (0..4)
        .map(|part| {
            json!({ "client_id": format!("n{number}-{part}"), "type": "event", "memory_lane": "shared",
                            "title": format!("granary {number} {part}"), "text_summary": text })
        })
        .collect();
    json!({ "scope": "granary", "input_text": format!("note {number}"), "nodes": nodes })
}

#[test]
fn a_full_disk_refuses_writes_and_recovers_with_room() {
    let place = Place::new();
    // The server is dropped before the mount.
    let Some(mount) = Mount::new(&place, "size=8m") else { return };
    let data = mount.0.join("data");
    let mut server = Server::start_with(&data, |command| {
        // The port file and the log are not what this is about.
        let port_file = place.path().join("port");
        fake(command).env("RUST_LOG", "off").arg("--no-worker");
        assert!(!port_file.exists());
    });
    let mut acknowledged: Vec<Value> = Vec::new();
    let started = Instant::now();
    let mut number = 0;
    let refusal = loop {
        assert!(started.elapsed() < Duration::from_secs(60), "the disk does not fill");
        let answer = server.post("/v1/memory/write", &note(number));
        number += 1;
        if answer.status != 200 {
            break answer;
        }
        acknowledged.push(answer.body);
    };
    println!("full after {} writes: {} {}", acknowledged.len(), refusal.status, refusal.body);
    assert!(matches!(refusal.status, 507 | 503), "{refusal:?}");
    assert!(acknowledged.len() > 20, "{refusal:?}");

    for _ in 0..5 {
        let answer = server.post("/v1/memory/write", &note(number));
        assert!(matches!(answer.status, 507 | 503), "{answer:?}");
    }
    assert!(server.is_alive());
    let found = server.recall_text("granary", "granary", 5);
    assert_eq!(found["seeds"].as_array().unwrap().len(), 5, "what is stored is found all the same: {found}");
    assert_eq!(found["as_of_commit"], acknowledged.len(), "nothing refused shows: {found}");

    mount.resize("64m");
    let written = server.write(&note(number));
    assert_eq!(written["commit_seq"], acknowledged.len() + 1, "a refused write takes no number: {written}");
    let found = server.recall_text("granary", &format!("granary {number}"), 10);
    assert!(seed_ids(&found).contains(&written["nodes"][0]["id"].as_str().unwrap()), "{found}");
    acknowledged.push(written);
    server.stop();
    stored(&data, &acknowledged);
}

/// Exactly the acknowledged writes are stored, and they verify.
fn stored(data: &Path, acknowledged: &[Value]) {
    let report = run(&mut aionis_on(data, &["verify", "--json", "--physical"])).exits(0).json();
    assert_eq!(report["scopes"][0]["commits"], acknowledged.len(), "{report}");
    let database = db::read_only(data);
    let commits = db::commits(&database, "default/granary");
    for write in acknowledged {
        assert_eq!(commits[&write["commit_seq"].as_u64().unwrap()].hash, write["commit_hash"].as_str().unwrap());
    }
    assert_eq!(db::nodes(&database, "default/granary").len(), 4 * acknowledged.len());
    let waiting = db::count(&database, "SELECT count(*) FROM memory_outbox");
    assert_eq!(waiting, acknowledged.len() as u64, "work is queued for exactly what was stored");
}

#[test]
fn a_kill_on_a_full_disk_loses_nothing_either() {
    let place = Place::new();
    let Some(mount) = Mount::new(&place, "size=8m") else { return };
    let data = mount.0.join("data");
    let server = Server::start_without_worker(&data);
    let mut acknowledged = Vec::new();
    for number in 0.. {
        let answer = server.post("/v1/memory/write", &note(number));
        if answer.status != 200 {
            break;
        }
        acknowledged.push(answer.body);
    }
    server.kill();
    mount.resize("64m");
    stored(&data, &acknowledged);
}

#[test]
fn a_start_on_a_full_disk_says_so() {
    let place = Place::new();
    let Some(mount) = Mount::new(&place, "size=256k") else { return };
    std::fs::write(mount.0.join("ballast"), vec![1; 256 * 1024]).unwrap();
    for args in [&["serve", "--port", "0"][..], &["migrate"]] {
        let mut command = aionis_on(&mount.0.join("data"), args);
        if args[0] == "serve" {
            fake(&mut command);
        }
        let ended = run(&mut command).exits(1);
        println!("{args:?} on a full disk: {}", ended.one_line());
        assert!(ended.one_line().contains("full") || ended.one_line().contains("No space"), "{ended:?}");
    }
}
