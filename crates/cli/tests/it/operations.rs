//! What an operator runs: copying between stores, changing the embedding model, trying again what was given up.

use std::{net::SocketAddr, path::Path, process::Command, time::Duration};

use aionis_testkit::postgres::PrivateServer;
use axum::{Json, Router, routing::post};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
};

use crate::support::{
    db,
    place::Place,
    program::{aionis, fake, run},
    server::{Server, seed_ids},
    until,
};

const PATIENCE: Duration = Duration::from_secs(30);
/// Dimension of the new model.
const DIM: usize = 24;

/// A provider of OpenAI's kind on loopback that tells texts apart by their letters; gone when dropped.
struct Provider {
    address: SocketAddr,
    _runtime: Runtime,
}

impl Provider {
    fn start() -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().route("/v1/embeddings", post(vectors));
        runtime.spawn(async move { axum::serve(listener, app).await });
        Self { address, _runtime: runtime }
    }

    /// Its settings.
    fn set<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command
            .env("OPENAI_API_KEY", "key-of-a-test")
            .env("OPENAI_BASE_URL", format!("http://{}/v1", self.address))
            .env("OPENAI_EMBEDDING_MODEL", "letters")
    }

    /// The settings of a service that uses it.
    fn used<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        self.set(command).env("EMBEDDING_PROVIDER", "openai").env("EMBEDDING_DIM", DIM.to_string())
    }
}

async fn vectors(Json(request): Json<Value>) -> Json<Value> {
    let texts = request["input"].as_array().unwrap();
    let data: Vec<Value> = texts
        .iter()
        .enumerate()
        .map(|(index, text)| {
            let mut vector = [0.1; DIM];
            text.as_str().unwrap().bytes().for_each(|byte| vector[usize::from(byte) % DIM] += 1.0);
            json!({ "index": index, "embedding": vector.to_vec() })
        })
        .collect();
    Json(json!({ "object": "list", "data": data }))
}

fn note(scope: &str, number: usize) -> Value {
    let text = format!("Boat number {number} was tied to the pier.");
    json!({ "scope": scope, "input_text": text, "memory_lane": "shared",
            "nodes": [{ "client_id": format!("boat-{number}"), "type": "event", "text_summary": text }] })
}

fn boats(server: &Server, scope: &str, numbers: std::ops::Range<usize>) {
    for number in numbers {
        server.write(&note(scope, number));
    }
    server.vectors_are_ready(scope, PATIENCE);
}

/// The id of the one node of a write.
fn id_of(written: &Value) -> String {
    written["nodes"][0]["id"].as_str().unwrap().to_owned()
}

/// A command on a store that is given by its flags or settings.
fn command(place: &Path, args: &[&str]) -> Command {
    let mut command = aionis(place);
    command.args(args);
    command
}

#[test]
fn a_memory_moves_to_postgres_and_back() {
    let (place, database) = (Place::new(), PrivateServer::start(false));
    let (url, data) = (database.url("postgres"), place.data());
    let server = Server::start(&data);
    boats(&server, "harbour", 0..30);
    boats(&server, "quay", 0..3);
    let before = server.recall_text("harbour", "Which boat was tied?", 20);
    let copy = |more: &[&str]| {
        let from = data.to_str().unwrap();
        command(place.path(), &[&["copy", "--from", from, "--to", &url, "--json"], more].concat())
    };
    let refused = run(&mut copy(&["--all"])).exits(1);
    assert!(
        refused.one_line().contains("--from") && refused.one_line().contains("owns the data directory"),
        "{refused:?}"
    );
    server.stop();
    run(&mut command(place.path(), &["copy", "--from", data.to_str().unwrap(), "--to", &url])).exits(1);
    let planned = run(&mut copy(&["--all", "--dry-run"])).exits(0).json();
    assert_eq!(planned["scopes"].as_array().unwrap().len(), 2, "{planned}");
    let copied = run(&mut copy(&["--scope", "harbour", "--batch-size", "7"])).exits(0).json();
    assert_eq!((&copied["ok"], &copied["scopes"][0]["status"]), (&json!(true), &json!("copied")), "{copied}");
    assert_eq!(copied["scopes"][0]["rows"]["memory_nodes"], 30, "{copied}");
    let again = run(&mut copy(&["--all"])).exits(0).json();
    assert_eq!(again["scopes"][0]["status"], "present", "{again}");

    let on_postgres = Place::new();
    let server = Server::start_with(&on_postgres.data(), |command| {
        fake(command).env("DATABASE_URL", &url);
    });
    let after = server.recall_text("harbour", "Which boat was tied?", 20);
    assert_eq!(seed_ids(&before), seed_ids(&after));
    assert_eq!(before["as_of_commit"], after["as_of_commit"]);
    boats(&server, "harbour", 30..32);
    let before = server.recall_text("harbour", "Which boat was tied?", 20);
    server.stop();

    // The way back goes into a new directory: the old one has another history now.
    let refused = run(&mut command(place.path(), &["copy", "--from", &url, "--to", data.to_str().unwrap(), "--all"]));
    assert!(refused.exits(1).one_line().contains("another history"));
    let home = Place::new();
    let back = home.data();
    run(&mut command(place.path(), &["copy", "--from", &url, "--to", back.to_str().unwrap(), "--all"])).exits(0);
    let server = Server::start(&back);
    assert_eq!(seed_ids(&before), seed_ids(&server.recall_text("harbour", "Which boat was tied?", 20)));
    boats(&server, "harbour", 32..33);
    server.stop();
    run(command(home.path(), &["verify"]).arg("--data-dir").arg(&back)).exits(0);
}

#[test]
fn the_embedding_model_changes_while_the_service_runs() {
    let (place, database, provider) = (Place::new(), PrivateServer::start(false), Provider::start());
    let url = database.url("postgres");
    let old = Server::start_with(&place.data(), |command| {
        fake(command).env("DATABASE_URL", &url).env("OUTBOX_POLL_INTERVAL_MS", "50");
    });
    boats(&old, "harbour", 0..40);
    let before = seed_ids(&old.recall_text("harbour", "Which boat was tied?", 20)).len();
    let reembed = |more: &[&str]| {
        let args = [&["reembed", "--to", "openai:letters", "--dim", "24", "--json"], more].concat();
        let mut command = command(place.path(), &args);
        provider.set(fake(&mut command)).env("DATABASE_URL", &url);
        command
    };
    let planned = run(&mut reembed(&["--dry-run"])).exits(0).json();
    assert_eq!((&planned["to_derive"], &planned["present"]), (&json!(40), &json!(0)), "{planned}");
    // A process with the new settings is refused until the change is made, and told how to make it.
    let mut early = command(place.path(), &["worker", "--once"]);
    let early = run(provider.used(&mut early).env("DATABASE_URL", &url)).exits(1);
    assert!(early.one_line().contains("aionis reembed --to"), "{early:?}");
    let (done, last_id) = std::thread::scope(|scope| {
        // Written while the vectors are derived.
        let writing = scope.spawn(|| {
            (40..59).for_each(|number| _ = old.write(&note("harbour", number)));
            id_of(&old.write(&note("harbour", 59)))
        });
        let done = run(&mut reembed(&[])).exits(0).json();
        (done, writing.join().unwrap())
    });
    assert_eq!((&done["switched"], &done["from"]), (&json!(true), &json!("fake:deterministic")), "{done}");
    assert!(done["derived"].as_u64().unwrap() >= 40, "{done}");
    // The old process still answers, by the vectors it knows; it derives none any more and says so.
    assert_eq!(seed_ids(&old.recall_text("harbour", "Which boat was tied?", 20)).len(), before);
    until("the old process is not ready any more", PATIENCE, || {
        (old.connect().get("/health/ready").unwrap().status == 503).then_some(())
    });
    old.stop();
    let mut refused = command(place.path(), &["worker", "--once"]);
    let refused = run(fake(&mut refused).env("DATABASE_URL", &url)).exits(1);
    assert!(refused.one_line().contains("aionis reembed --to"), "{refused:?}");

    let new = Server::start_with(&place.data(), |command| {
        provider.used(command).env("DATABASE_URL", &url);
    });
    new.vectors_are_ready("harbour", PATIENCE);
    let answer = new.recall_text("harbour", "Boat number 59 was tied to the pier.", 5);
    assert!(seed_ids(&answer).contains(&last_id.as_str()), "{last_id} is not in {answer}");
    assert_eq!(new.connect().get("/health/ready").unwrap().status, 200);
    // Once more: whatever the old process wrote last is found and queued; then the old vectors go.
    let last = run(&mut reembed(&["--drop-old"])).exits(0).json();
    assert!(last["dropped"].as_u64().unwrap() >= 40, "{last}");
    new.vectors_are_ready("harbour", PATIENCE);
    new.stop();
    run(command(place.path(), &["verify"]).env("DATABASE_URL", &url)).exits(0);
}

#[test]
fn the_embedding_model_of_an_embedded_store_changes_too() {
    let (place, provider) = (Place::new(), Provider::start());
    let data = place.data();
    let server = Server::start(&data);
    boats(&server, "harbour", 0..10);
    let seventh = id_of(&server.write(&note("harbour", 7)));
    let bare = json!({ "scope": "harbour", "input_text": "bare", "memory_lane": "shared",
                       "nodes": [{ "client_id": "bare", "type": "event", "embedding": [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0,
                                   0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0] }] });
    server.write(&bare);
    server.stop();
    let reembed = |to: &str, more: &[&str]| {
        let mut command = command(place.path(), &[&["reembed", "--to", to], more].concat());
        command.arg("--data-dir").arg(&data);
        provider.set(&mut command);
        command
    };
    for (to, why) in [("none", "--to"), ("nonsense", "--to"), ("local:other", "--to"), ("fake", "another dimension")] {
        let refused = run(&mut reembed(to, &[])).exits(1);
        assert!(refused.one_line().contains(why), "{to}: {refused:?}");
    }
    // What would be lost is told, and nothing is switched.
    let kept = run(&mut reembed("openai:letters", &["--dim", "24"])).exits(2);
    assert!(kept.stdout.contains("1 node(s) have a vector from a caller and no text"), "{kept:?}");
    let done = run(&mut reembed("openai:letters", &["--dim", "24", "--json", "--accept-loss"])).exits(0).json();
    assert_eq!(
        (&done["derived"], &done["present"]),
        (&json!(0), &json!(10)),
        "what was derived before was kept: {done}"
    );
    let server = Server::start_with(&data, |command| {
        provider.used(command);
    });
    let answer = server.recall_text("harbour", "Boat number 7 was tied to the pier.", 5);
    assert!(seed_ids(&answer).contains(&seventh.as_str()), "{seventh} is not in {answer}");
    server.stop();
}

#[test]
fn what_was_given_up_is_tried_again() {
    let place = Place::new();
    let data = place.data();
    let server = Server::start_without_worker(&data);
    (0..3).for_each(|number| _ = server.write(&note("harbour", number)));
    server.stop();
    let spoil = "UPDATE memory_outbox SET failed_at = 1, failed_reason = 'max_attempts_exceeded', attempts = 25; \
                 UPDATE memory_nodes SET embedding_status = 'failed';";
    db::writable(&data).execute_batch(spoil).unwrap();
    let replay = |more: &[&str]| {
        let mut command = command(place.path(), &[&["job", "outbox-replay"], more].concat());
        command.arg("--data-dir").arg(&data);
        command
    };
    let refused = run(&mut replay(&[])).exits(1);
    assert!(refused.stderr.contains("--all"), "which scopes has to be said: {refused:?}");
    let planned = run(&mut replay(&["--all", "--dry-run", "--json"])).exits(0).json();
    assert_eq!(planned["total"], json!({ "dead_items": 3, "unreadable_items": 0, "failed_nodes": 3 }));
    let elsewhere = run(&mut replay(&["--tenant", "nobody", "--json"])).exits(1);
    assert!(elsewhere.stderr.contains("nothing is stored for tenant \"nobody\""), "{elsewhere:?}");
    let done = run(&mut replay(&["--scope", "harbour"])).exits(0);
    assert!(done.stdout.contains("default/harbour: dead_items 3, failed_nodes 3"), "{done:?}");
    let listed = |more: &[&str]| {
        let mut command = command(place.path(), &[&["job", "runs", "--json"], more].concat());
        command.arg("--data-dir").arg(&data);
        run(&mut command).exits(0).json()
    };
    let runs = listed(&["--job", "outbox-replay"]);
    let kept: Vec<_> = runs["runs"].as_array().unwrap().iter().map(|run| (&run["dry_run"], &run["status"])).collect();
    assert_eq!(kept, [(&json!(false), &json!("done")), (&json!(true), &json!("done"))]);
    assert_eq!(listed(&["--tenant", "acme"])["runs"], json!([]));
    let server = Server::start(&data);
    server.vectors_are_ready("harbour", PATIENCE);
    // Readiness tells a moment late.
    until("nothing waits and nothing is given up", PATIENCE, || {
        let ready = server.connect().get("/health/ready").unwrap().ok();
        ((&ready["outbox"]["pending"], &ready["outbox"]["dead"]) == (&json!(0), &json!(0))).then_some(())
    });
    server.stop();
}
