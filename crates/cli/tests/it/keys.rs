//! `aionis keys` and a service that takes the keys: made, used, rotated, revoked, expired; a database that is away.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use aionis_testkit::postgres::PrivateServer;
use serde_json::{Value, json};

use crate::support::{
    http::{Answer, Connection},
    place::Place,
    program::{Ended, aionis, fake, run},
    server::Server,
    until,
};

const WRITE: &str = "/v1/memory/write";
const RECALL: &str = "/v1/memory/recall_text";
const VERIFY: &str = "/v1/memory/verify";
/// How long the services of these tests remember a key.
const TTL_MS: &str = "200";
const PATIENCE: Duration = Duration::from_secs(20);
/// An id that no key has.
const NOBODY: &str = "00000000-0000-4000-8000-000000000000";

/// A directory, and the database if it is not the embedded one.
struct Store<'a> {
    place: &'a Place,
    url: Option<String>,
}

impl Store<'_> {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = aionis(self.place.path());
        command.args(args).arg("--data-dir").arg(self.place.data());
        command.envs(self.url.iter().map(|url| ("DATABASE_URL", url)));
        command
    }

    fn keys(&self, args: &[&str]) -> Ended {
        run(&mut self.command(&[&["keys"], args].concat()))
    }

    /// Makes a key of tenant acme; returns what is told of it.
    fn create(&self, role: &str, more: &[&str]) -> Value {
        let args = [&["create", "--tenant", "acme", "--role", role, "--json"], more].concat();
        self.keys(&args).exits(0).json()
    }

    fn serve(&self, settings: &[(&str, &str)]) -> Server {
        Server::start_with(&self.place.data(), |command| {
            fake(command).env("MEMORY_AUTH_MODE", "api_key").env("AIONIS_KEY_CACHE_TTL_MS", TTL_MS);
            command.env("RUST_LOG", "debug").envs(self.url.iter().map(|url| ("DATABASE_URL", url)));
            command.envs(settings.iter().copied());
        })
    }

    /// Everything that the program has written here.
    fn files(&self) -> Vec<(String, Vec<u8>)> {
        let names = self.place.names().into_iter();
        let read = |name: String| {
            let path = self.place.path().join(&name);
            path.is_file().then(|| (name, std::fs::read(path).unwrap()))
        };
        names.filter_map(read).collect()
    }
}

fn secret(told: &Value) -> &str {
    told["key"].as_str().unwrap()
}

fn id(told: &Value) -> &str {
    told["id"].as_str().unwrap()
}

fn note() -> Value {
    json!({ "scope": "s", "input_text": "x", "memory_lane": "shared",
            "nodes": [{ "client_id": "n", "type": "event", "text_summary": "The ferry leaves at noon." }] })
}

fn question() -> Value {
    json!({ "scope": "s", "query_text": "When does the ferry leave?" })
}

/// Asks with a key.
fn ask(port: u16, key: &str, path: &str, body: &Value) -> Answer {
    let body = body.to_string();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nx-api-key: {key}\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    let mut connection = Connection::open(port).unwrap();
    connection.send(format!("{head}{body}").as_bytes()).unwrap();
    connection.answer().unwrap()
}

#[track_caller]
fn assert_refused(answer: &Answer, status: u16, why: &str) {
    let message = answer.body["message"].as_str().unwrap_or_default();
    assert!(answer.status == status && message.contains(why), "{status} {why}: {answer:?}");
}

/// Asks until the key is refused; returns the refusal.
fn until_refused(port: u16, key: &str) -> Answer {
    until("the key is refused", PATIENCE, || {
        let answer = ask(port, key, RECALL, &question());
        assert!(matches!(answer.status, 200 | 401), "{answer:?}");
        (answer.status == 401).then_some(answer)
    })
}

/// What the roles may, with keys that no setting names.
fn roles_are_kept(port: u16, reader: &str, writer: &str, admin: &str) {
    ask(port, writer, WRITE, &note()).ok();
    assert_refused(&ask(port, reader, WRITE, &note()), 403, "writer");
    assert_refused(&ask(port, writer, VERIFY, &json!({ "scope": "s" })), 403, "admin");
    for key in [reader, writer, admin] {
        assert_eq!(ask(port, key, RECALL, &question()).ok()["tenant_id"], "acme");
    }
    ask(port, admin, VERIFY, &json!({ "scope": "s" })).ok();
    let elsewhere = json!({ "scope": "s", "tenant_id": "globex", "query_text": "x" });
    assert_eq!(ask(port, admin, RECALL, &elsewhere).status, 403, "a key reaches its tenant only");
    for (key, why) in [
        ("aio_", "cut off or mistyped"),
        (&reader[..60], "cut off or mistyped"),
        (&swapped(reader), "cut off or mistyped"),
        // Well formed, and nobody's.
        (&unknown_key(), "not valid"),
        ("ann", "not valid"),
    ] {
        assert_refused(&ask(port, key, RECALL, &question()), 401, why);
    }
}

/// The key with its last two different neighbours changed over.
fn swapped(key: &str) -> String {
    let mut bytes = key.as_bytes().to_vec();
    let at = (5..bytes.len()).rev().find(|at| bytes[*at] != bytes[*at - 1]).unwrap();
    bytes.swap(at, at - 1);
    String::from_utf8(bytes).unwrap()
}

fn unknown_key() -> String {
    aionis_core::keys::KeyText::from_random([0xEE; 32]).secret().to_owned()
}

/// No secret stands in what is listed, in a file or in a log.
fn nothing_is_told(store: &Store<'_>, secrets: &[&str]) {
    for (name, bytes) in store.files() {
        for secret in secrets {
            let at = bytes.windows(secret.len()).position(|window| window == secret.as_bytes());
            assert_eq!(at, None, "{name} holds a key");
            // Nor the part that is random, without what stands around it.
            let random = &secret.as_bytes()[4..68];
            assert!(!bytes.windows(random.len()).any(|window| window == random), "{name} holds a part of a key");
        }
    }
}

fn listed(store: &Store<'_>, args: &[&str], secrets: &[&str]) -> Vec<(String, String)> {
    let ended = store.keys(&[&["list", "--json"], args].concat()).exits(0);
    let people = store.keys(&[&["list"], args].concat()).exits(0);
    for secret in secrets {
        assert!(!ended.stdout.contains(secret) && !people.stdout.contains(secret), "{args:?}");
    }
    let keys = ended.json()["keys"].as_array().unwrap().clone();
    assert_eq!(people.stdout.lines().count(), keys.len() + 1, "{people:?}");
    keys.iter().map(|key| (id(key).to_owned(), key["state"].as_str().unwrap().to_owned())).collect()
}

#[test]
fn keys_of_the_embedded_store_are_made_while_it_is_stopped() {
    let place = Place::new();
    let store = Store { place: &place, url: None };
    let early = store.keys(&["create", "--tenant", "acme", "--role", "reader"]).exits(1);
    assert!(early.one_line().contains("aionis migrate"), "{early:?}");
    assert_eq!(place.names(), Vec::<String>::new());
    run(&mut store.command(&["migrate"])).exits(0);
    let (reader, writer) =
        (store.create("reader", &["--name", "dashboard"]), store.create("writer", &["--team", "blue"]));
    let admin = store.create("admin", &["--agent", "root", "--expires-in", "90d"]);
    assert_eq!(
        (&admin["agent_id"], &writer["team_id"], &reader["name"]),
        (&json!("root"), &json!("blue"), &json!("dashboard"))
    );
    let secrets = [secret(&reader), secret(&writer), secret(&admin)];

    let server = store.serve(&[]);
    roles_are_kept(server.port, secrets[0], secrets[1], secrets[2]);
    for args in [
        &["create", "--tenant", "acme", "--role", "reader"][..],
        &["list"],
        &["rotate", id(&reader)],
        &["revoke", id(&reader)],
    ] {
        let ended = store.keys(args).exits(1);
        let line = ended.one_line();
        assert!(line.contains(&format!("process {}", server.pid())) && line.contains("stopped"), "{args:?}: {line}");
    }
    nothing_is_told(&store, &secrets);
    server.stop();

    let brief = store.create("reader", &["--expires-in", "1s"]);
    let rotated = store.keys(&["rotate", id(&reader), "--grace", "1h", "--json"]).exits(0).json();
    let at_once = store.keys(&["rotate", id(&writer), "--grace", "0s", "--json"]).exits(0).json();
    assert_eq!(rotated["replaces"]["replaced_by"], rotated["id"], "{rotated}");
    assert_eq!((&at_once["role"], &at_once["team_id"]), (&json!("writer"), &json!("blue")), "{at_once}");
    let told = store.keys(&["revoke", id(&admin)]).exits(0);
    assert!(told.stdout.starts_with(&format!("revoked {}", id(&admin))), "{told:?}");
    let server = store.serve(&[]);
    assert_refused(&until_refused(server.port, secret(&brief)), 401, "expired");
    for (key, why) in [(secrets[1], "expired"), (secrets[2], "revoked")] {
        assert_refused(&ask(server.port, key, RECALL, &question()), 401, why);
    }
    for key in [secrets[0], secret(&rotated), secret(&at_once)] {
        ask(server.port, key, RECALL, &question()).ok();
    }
    server.stop();
    let all = [&secrets[..], &[secret(&brief), secret(&rotated), secret(&at_once)]].concat();
    nothing_is_told(&store, &all);
    let states = listed(&store, &["--all"], &all);
    let state = |key: &Value| states.iter().find(|(of, _)| of == id(key)).unwrap().1.as_str();
    assert_eq!(
        [&reader, &writer, &admin, &brief, &rotated, &at_once].map(state),
        ["active", "expired", "revoked", "expired", "active", "active"]
    );
    assert_eq!(listed(&store, &[], &all).len(), 3, "those in use");
    assert_eq!(listed(&store, &["--tenant", "globex", "--all"], &all), []);
}

#[test]
fn keys_on_postgres_take_effect_while_services_run() {
    let mut database = PrivateServer::start(false);
    let (place, second_place) = (Place::new(), Place::new());
    let url = Some(database.url("postgres"));
    let store = Store { place: &place, url: url.clone() };
    let other = Store { place: &second_place, url };
    let fixed = ("MEMORY_API_KEYS_JSON", r#"{"fixed":{"tenant_id":"acme","role":"reader"}}"#);
    let servers = [store.serve(&[fixed]), other.serve(&[fixed])];
    let [reader, writer, admin] = ["reader", "writer", "admin"].map(|role| store.create(role, &[]));
    let brief = store.create("reader", &["--expires-in", "10s"]);
    for server in &servers {
        ask(server.port, secret(&brief), RECALL, &question()).ok();
    }
    for server in &servers {
        roles_are_kept(server.port, secret(&reader), secret(&writer), secret(&admin));
        ask(server.port, "fixed", RECALL, &question()).ok();
    }
    // Rotated: both are accepted; without a grace only the new one is, everywhere and soon.
    let graced = store.keys(&["rotate", id(&writer), "--json"]).exits(0).json();
    let at_once = store.keys(&["rotate", id(&reader), "--grace", "0s", "--json"]).exits(0).json();
    store.keys(&["revoke", id(&admin)]).exits(0);
    for server in &servers {
        for key in [&writer, &graced, &at_once] {
            ask(server.port, secret(key), RECALL, &question()).ok();
        }
        assert_refused(&until_refused(server.port, secret(&reader)), 401, "expired");
        assert_refused(&until_refused(server.port, secret(&admin)), 401, "revoked");
        assert_refused(&until_refused(server.port, secret(&brief)), 401, "expired");
    }
    let all = [&reader, &writer, &admin, &brief, &graced, &at_once].map(secret);
    nothing_is_told(&store, &all);
    assert_eq!((listed(&store, &[], &all).len(), listed(&store, &["--all"], &all).len()), (3, 6));

    // A database that is away is neither a refusal nor a welcome; a key that cannot be one is refused all the same.
    database.kill();
    let port = servers[0].port;
    for key in [unknown_key().as_str(), secret(&reader)] {
        let answer = until("the database is missed", PATIENCE, || {
            let answer = ask(port, key, RECALL, &question());
            (answer.status != 401).then_some(answer)
        });
        assert_eq!((answer.status, &answer.body["error"]), (503, &json!("storage_unavailable")), "{answer:?}");
    }
    assert_refused(&ask(port, "aio_x", RECALL, &question()), 401, "mistyped");
    assert_refused(&ask(port, "fixed", WRITE, &note()), 403, "writer");
    database.restart();
    until("the key is accepted again", PATIENCE, || {
        (ask(port, secret(&graced), RECALL, &question()).status == 200).then_some(())
    });
    servers.into_iter().for_each(Server::stop);
}

/// A key that works goes on to work for the time it is remembered, and for no longer.
#[test]
fn a_revoked_key_works_no_longer_than_it_is_remembered() {
    let database = PrivateServer::start(false);
    let place = Place::new();
    let store = Store { place: &place, url: Some(database.url("postgres")) };
    let key = store.create("reader", &[]);
    for (ttl_ms, longest) in [("0", Duration::ZERO), ("1500", Duration::from_millis(1_500))] {
        let key = if ttl_ms == "0" { key.clone() } else { store.create("reader", &[]) };
        let server = store.serve(&[("AIONIS_KEY_CACHE_TTL_MS", ttl_ms)]);
        ask(server.port, secret(&key), RECALL, &question()).ok();
        store.keys(&["revoke", id(&key)]).exits(0);
        let revoked = Instant::now();
        // Asked at a time, it is refused by the time the limit is over.
        let mut last_welcome = Duration::ZERO;
        until("the key is refused", PATIENCE, || {
            let asked = revoked.elapsed();
            let is_refused = ask(server.port, secret(&key), RECALL, &question()).status == 401;
            if !is_refused {
                last_welcome = asked;
            }
            is_refused.then_some(())
        });
        assert!(last_welcome <= longest, "{ttl_ms}: welcome after {last_welcome:?}");
        server.stop();
    }
}

#[test]
fn a_production_service_needs_a_key_somewhere() {
    let place = Place::new();
    let store = Store { place: &place, url: None };
    run(&mut store.command(&["migrate"])).exits(0);
    let production =
        [("APP_ENV", "prod"), ("MEMORY_AUTH_MODE", "api_key"), ("EMBEDDING_PROVIDER", "none"), ("EMBEDDING_DIM", "16")];
    let refused = |store: &Store<'_>| {
        let ended = run(store.command(&["serve", "--port", "0"]).envs(production)).exits(1);
        // Logs go to stdout; what went wrong is one line on stderr.
        let lines: Vec<&str> = ended.stderr.lines().collect();
        assert!(lines.len() == 1 && lines[0].contains("aionis keys create"), "{ended:?}");
        let doctor = run(store.command(&["doctor", "--port", "0"]).envs(production)).exits(2);
        assert!(doctor.stdout.contains("aionis keys create"), "{doctor:?}");
    };
    refused(&store);
    let key = store.create("reader", &[]);
    let server = store.serve(&production);
    ask(server.port, secret(&key), RECALL, &question()).ok();
    server.stop();
    store.keys(&["revoke", id(&key)]).exits(0);
    refused(&store);
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let place = Place::new();
    let store = Store { place: &place, url: None };
    run(&mut store.command(&["migrate"])).exits(0);
    let key = store.create("reader", &[]);
    store.keys(&["revoke", id(&key)]).exits(0);
    let (long, writer) = ("x".repeat(513), ["create", "--role", "writer", "--tenant"]);
    for (args, why) in [
        (&["create", "--role", "reader"][..], "--tenant"),
        (&["create", "--tenant", "acme"], "--role"),
        (&["create", "--tenant", "acme", "--role", "root"], "reader, writer or admin"),
        (&[&writer[..], &["a/b"]].concat(), "--tenant"),
        (&[&writer[..], &["*"]].concat(), "--tenant"),
        (&[&writer[..], &["acme", "--agent", " "]].concat(), "--agent is blank"),
        (&[&writer[..], &["acme", "--agent", &long]].concat(), "--agent"),
        (&[&writer[..], &["acme", "--team", "a\nb"]].concat(), "--team"),
        (&[&writer[..], &["acme", "--name", "a\tb"]].concat(), "--name"),
        (&[&writer[..], &["acme", "--expires-in", "0d"]].concat(), "--expires-in"),
        (&[&writer[..], &["acme", "--expires-in", "soon"]].concat(), "90d"),
        (&["list", "--tenant", "a/b"], "--tenant"),
        (&["rotate", NOBODY], NOBODY),
        (&["rotate", id(&key)], "revoked"),
        (&["rotate", id(&key), "--grace", "1"], "--grace"),
        (&["revoke", NOBODY], "keys list --all"),
        (&["revoke", "one"], "one"),
    ] {
        let ended = store.keys(args).exits(1);
        assert!(ended.stderr.contains(why) && ended.stdout.is_empty(), "{args:?}: {ended:?}");
        if !ended.stderr.starts_with("error: ") {
            ended.one_line();
        }
    }
    assert_eq!(listed(&store, &["--all"], &[]).len(), 1, "nothing was made");
    // Nobody listens there; the embedded store is not taken in its place.
    let mut command = aionis(place.path());
    command.args(["keys", "list"]).env("DATABASE_URL", "postgres://aionis:hunter2@127.0.0.1:1/aionis");
    let ended = run(&mut command).exits(1);
    assert!(ended.one_line().contains("127.0.0.1:1") && !ended.stderr.contains("hunter2"), "{ended:?}");
}
