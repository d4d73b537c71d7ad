//! `kill -9` under load, again and again on the same data: nothing acknowledged is ever lost.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::Stdio,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use serde_json::json;

use crate::support::{
    db,
    load::{Written, assert_stored, write_until_broken},
    place::Place,
    program::{aionis_on, fake, run},
    rng::Rng,
    server::{Server, seed_ids},
    until,
};

const WRITERS: u64 = 100;
const SCOPE: &str = "crash";
const SCOPE_KEY: &str = "default/crash";
const SEED: u64 = 0x00a1_0415_2026;

/// `AIONIS_TEST_KILL_ROUNDS=20` for the full show.
fn rounds() -> u64 {
    std::env::var("AIONIS_TEST_KILL_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(6)
}

#[test]
fn w_02_kill_9_under_load_loses_nothing_that_was_acknowledged() {
    let place = Place::new();
    let mut rng = Rng(SEED);
    let mut written = Vec::new();
    for round in 1..=rounds() {
        let started = Instant::now();
        let server = start(&place);
        let (after, delay) = (rng.between(50, 2_000), Duration::from_micros(rng.between(0, 20_000)));
        let of_round = kill_under_load(server, round, after, delay);
        let acknowledged: usize = of_round.iter().map(|w| w.notes.len() + w.counter.len()).sum();
        written.extend(of_round);
        let report = run(&mut aionis_on(&place.data(), &["verify", "--json"])).exits(0).json();
        assert_stored(&place.data(), SCOPE_KEY, &written);
        println!(
            "round {round}: {acknowledged} writes acknowledged before the kill, {} commits stored, {:.1} s",
            report["scopes"][0]["commits"],
            started.elapsed().as_secs_f64()
        );
    }
    let total: usize = written.iter().map(|w| w.notes.len() + w.counter.len()).sum();
    println!("{total} acknowledged writes in {} rounds, none lost", rounds());
    assert!(total > 50 * rounds() as usize, "too little was written to show anything");
    afterwards(&place, &written);
}

fn start(place: &Place) -> Server {
    start_with_jobs(place, true)
}

fn start_with_jobs(place: &Place, jobs: bool) -> Server {
    Server::start_with(&place.data(), |command| {
        // What a killed worker had claimed must be free again within the test.
        fake(command).env("OUTBOX_CLAIM_TIMEOUT_MS", "500").env("AIONIS_JOBS_ENABLED", jobs.to_string());
    })
}

/// Kills the server once `after` writes are acknowledged and `delay` more has passed, in the midst of all others.
fn kill_under_load(server: Server, round: u64, after: u64, delay: Duration) -> Vec<Written> {
    let acknowledged = AtomicU64::new(0);
    let port = server.port;
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let acknowledged = &acknowledged;
                scope.spawn(move || write_until_broken(port, SCOPE, round, writer, acknowledged))
            })
            .collect();
        until("enough writes are acknowledged", Duration::from_secs(30), || {
            (acknowledged.load(Ordering::Relaxed) >= after || writers.iter().any(|w| w.is_finished())).then_some(())
        });
        // Not to wait for anything: to hit another place of the write path each time.
        std::thread::sleep(delay);
        server.kill();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    })
}

/// What was written before the kills is found, can be sent again without effect, and gets its vectors.
fn afterwards(place: &Place, written: &[Written]) {
    // Without jobs, which would make commits of their own between the two looks at the head.
    let server = start_with_jobs(place, false);
    server.vectors_are_ready(SCOPE, Duration::from_secs(60));
    let commits = server.recall_text(SCOPE, "surveyor", 1)["as_of_commit"].clone();
    let notes: Vec<_> = written.iter().flat_map(|w| &w.notes).collect();
    for note in notes.iter().step_by(notes.len().div_ceil(25)) {
        let answer = server.recall_text(SCOPE, note.text.split(' ').nth(3).unwrap(), 10);
        assert!(seed_ids(&answer).contains(&note.node.as_str()), "{note:?} is not found: {answer}");
        let again = server.write(&note.body);
        let same = json!([note.seq, note.commit_hash, true]);
        assert_eq!(json!([again["commit_seq"], again["commit_hash"], again["replayed"]]), same, "{note:?}");
    }
    assert_eq!(server.recall_text(SCOPE, "surveyor", 1)["as_of_commit"], commits, "what was sent again made commits");
    server.stop();
    run(&mut aionis_on(&place.data(), &["verify", "--physical"])).exits(0);
    let database = db::read_only(&place.data());
    let nodes = db::count(&database, "SELECT count(*) FROM memory_nodes");
    assert_eq!(db::count(&database, "SELECT count(*) FROM memory_vectors"), nodes, "every node has its vector");
    assert_eq!(db::count(&database, "SELECT count(*) FROM memory_outbox WHERE published_at IS NULL"), 0);
    assert_stored(&place.data(), SCOPE_KEY, written);
}

/// A kill while the directory is made: the next start finishes what is missing.
#[test]
fn kill_9_during_the_first_start_leaves_a_usable_directory() {
    let mut rng = Rng(SEED);
    for _ in 0..12 {
        let place = Place::new();
        let mut child =
            fake(&mut aionis_on(&place.data(), &["serve", "--port", "0"])).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(rng.between(500, 60_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        let server = start(&place);
        server.write(&json!({ "scope": SCOPE, "input_text": "a", "nodes": [
            { "client_id": "a", "type": "event", "text_summary": "the first entry" }] }));
        server.stop();
        run(&mut aionis_on(&place.data(), &["verify", "--physical"])).exits(0);
    }
}

/// What the test above asserts can fail: each kind of loss is noticed.
#[test]
fn a_lost_write_would_be_noticed() {
    let place = Place::new();
    let server = start(&place);
    let written = kill_under_load(server, 1, 1_000, Duration::ZERO);
    let note = written.iter().find_map(|w| w.notes.first()).unwrap();
    assert_stored(&place.data(), SCOPE_KEY, &written);
    for (at, (loss, wanted)) in [
        (format!("DELETE FROM memory_commits WHERE seq = {}", note.seq), "one commit per number"),
        (format!("UPDATE memory_commits SET hash = zeroblob(32) WHERE seq = {}", note.seq), "another commit"),
        (format!("DELETE FROM memory_nodes WHERE client_id = '{}'", note.client_id), "the node is lost"),
        (format!("UPDATE memory_nodes SET text_summary = 'x' WHERE client_id = '{}'", note.client_id), &note.text),
        ("UPDATE memory_nodes SET text_summary = 'x' WHERE client_id LIKE 'counter-%'".to_owned(), "an update is lost"),
        (
            "DELETE FROM memory_outbox; UPDATE memory_nodes SET embedding_status = 'pending'".to_owned(),
            "nobody will derive",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let data = place.copy(&place.data(), &format!("loss-{at}"));
        db::writable(&data).execute_batch(&loss).unwrap();
        let noticed = catch_unwind(AssertUnwindSafe(|| assert_stored(&data, SCOPE_KEY, &written))).unwrap_err();
        let said = noticed.downcast_ref::<String>().cloned().unwrap_or_default();
        assert!(said.contains(wanted), "{loss}: {said}");
    }
}
