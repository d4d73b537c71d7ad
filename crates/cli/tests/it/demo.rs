//! The demo, and that its check can fail.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::{
    db,
    place::Place,
    program::{Ended, aionis, fake, run},
    server::Server,
};

const PARAPHRASES: [&str; 2] = [
    "Which nuts or foods could trigger an allergic reaction in our guest?",
    "What medical emergency should the kitchen prepare for, such as anaphylaxis?",
];

/// The directory of the real model, if this machine has it.
fn model_dir() -> Option<PathBuf> {
    let dir = ["AIONIS_TEST_MODEL_DIR", "AIONIS_MODEL_DIR"].into_iter().find_map(std::env::var_os);
    if dir.is_none() {
        println!("skipped: neither AIONIS_TEST_MODEL_DIR nor AIONIS_MODEL_DIR names the model");
    }
    dir.map(PathBuf::from)
}

fn flags(result: &Value) -> (bool, bool) {
    let flag = |name: &str| result[name].as_bool().unwrap();
    (flag("memory_recall_improved"), flag("cross_session_recall_stable"))
}

/// Runs a demo command; returns how it ended and what it wrote into its result file.
fn shown(place: &Place, args: &[&str], provider: &str) -> (Ended, Value) {
    let file = place.path().join("result.json");
    let mut command = aionis(place.path());
    fake(command.args(args).arg("--result-file").arg(&file));
    command.env("EMBEDDING_PROVIDER", provider);
    if provider == "local" {
        command.env_remove("EMBEDDING_DIM").arg("--model-dir").arg(model_dir().unwrap());
    }
    let ended = run(&mut command);
    let result = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{e}: {ended:?}"));
    (ended, serde_json::from_str(&result).unwrap())
}

#[test]
fn without_vectors_the_quickstart_fails() {
    for provider in ["none", "fake"] {
        let place = Place::new();
        let (ended, result) = shown(&place, &["quickstart", "--require-success"], provider);
        ended.exits(2);
        assert_eq!(flags(&result), (false, false), "{provider}: {result}");
        assert_eq!(result["server_restarted"], true, "{result}");
        let (ended, _) = shown(&place, &["quickstart"], provider);
        ended.exits(0);
    }
}

#[test]
fn with_the_model_the_quickstart_succeeds() {
    if model_dir().is_none() {
        return;
    }
    let place = Place::new();
    let (ended, result) = shown(&place, &["quickstart", "--require-success", "--json"], "local");
    assert_eq!(ended.exits(0).json(), result);
    assert_eq!(flags(&result), (true, true), "{result}");
    println!("quickstart: vectors ready after {} ms, restart {} ms", result["vectors_ready_ms"], result["restart_ms"]);
}

/// Rank from 1 of the memory for a question, as the demo finds it.
fn rank(server: &Server, scope: &str, question: &str) -> Option<usize> {
    let body = json!({ "scope": scope, "query_text": question, "limit": 50, "max_nodes": 50 });
    let answer = server.post("/v1/memory/recall_text", &body).ok();
    let texts =
        answer["seeds"].as_array().unwrap().iter().map(|seed| seed["text_summary"].as_str().unwrap_or_default());
    texts.into_iter().position(|text| text.starts_with("Priya is severely allergic")).map(|at| at + 1)
}

#[test]
fn a_broken_index_shows_in_what_the_demo_measures() {
    let Some(model_dir) = model_dir() else { return };
    let place = Place::new();
    let data = place.data();
    let (ended, result) = shown(&place, &["demo", "--require-success", "--data-dir", data.to_str().unwrap()], "local");
    ended.exits(0);
    let scope = result["scope"].as_str().unwrap();
    let start = || {
        Server::start_with(&data, |command| {
            command.arg("--model-dir").arg(&model_dir);
        })
    };
    let server = start();
    for question in PARAPHRASES {
        assert_eq!(rank(&server, scope, question), Some(1), "{question}");
    }
    server.stop();

    let database = db::writable(&data);
    // Its server clustered them by itself; topics have vectors too.
    let of_topics = "DELETE FROM memory_vectors WHERE node_id IN (SELECT id FROM memory_nodes WHERE type = 'topic')";
    database.execute(of_topics, []).unwrap();
    assert_eq!(database.execute("DELETE FROM memory_vectors", []).unwrap(), 31);
    drop(database);
    let server = start();
    let ranks = PARAPHRASES.map(|question| rank(&server, scope, question));
    assert!(ranks.iter().any(|rank| rank.is_none_or(|rank| rank > 3)), "vectors made no difference: {ranks:?}");
    server.stop();
}

#[test]
fn a_server_that_derives_no_vectors_fails_the_demo() {
    let Some(model_dir) = model_dir() else { return };
    let place = Place::new();
    let server = Server::start_with(&place.data(), |command| {
        command.arg("--model-dir").arg(&model_dir).arg("--no-worker");
    });
    let url = format!("http://127.0.0.1:{}", server.port);
    let (ended, result) = shown(&place, &["demo", "--require-success", "--vectors-wait-s", "1", "--url", &url], "none");
    ended.exits(2);
    assert_eq!(flags(&result), (false, false), "{result}");
    assert_eq!((&result["vectors_ready_ms"], &result["server_restarted"]), (&Value::Null, &json!(false)), "{result}");
    server.stop();
}

/// A service that asks for a key, as a stack does.
fn stack(place: &Place, configure: impl FnOnce(&mut std::process::Command)) -> Server {
    Server::start_with(&place.data(), |command| {
        command
            .env("MEMORY_AUTH_MODE", "api_key")
            .env("MEMORY_API_KEYS_JSON", r#"{"k-writer":{"tenant_id":"default"}}"#);
        configure(command);
    })
}

fn quickstart_on(place: &Place, server: &Server, key: &str) -> Ended {
    let url = format!("http://127.0.0.1:{}", server.port);
    // The provider of this side says nothing about the server's: none is needed here.
    run(aionis(place.path())
        .args(["quickstart", "--stack", "--vectors-wait-s", "10", "--base-url", &url])
        .env("AIONIS_API_KEY", key)
        .env("EMBEDDING_PROVIDER", "none"))
}

#[test]
fn a_stack_is_shown_with_its_key_and_without_a_model_on_this_side() {
    let Some(model_dir) = model_dir() else { return };
    let place = Place::new();
    let server = stack(&place, |command| {
        command.arg("--model-dir").arg(&model_dir);
    });
    let ended = quickstart_on(&place, &server, "k-writer").exits(0);
    assert!(ended.stdout.contains("cross_session_recall_stable = true"), "{ended:?}");
    server.stop();
}

#[test]
fn p1_1_a_stack_whose_demo_fails_is_a_negative_verdict() {
    let place = Place::new();
    let server = stack(&place, |command| {
        fake(command);
    });
    let ended = quickstart_on(&place, &server, "k-writer").exits(2);
    assert!(ended.stdout.contains("memory_recall_improved = false"), "{ended:?}");
    let ended = quickstart_on(&place, &server, "k-nobody").exits(1);
    assert!(ended.one_line().contains("401"), "{ended:?}");
    let ended = quickstart_on(&place, &server, "").exits(1);
    assert!(ended.one_line().contains("401"), "{ended:?}");
    server.stop();
}

#[test]
fn a_demo_that_cannot_run_is_an_error_and_no_verdict() {
    let place = Place::new();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{closed}");
    let ended = run(aionis(place.path()).args(["demo", "--require-success", "--url", &url])).exits(1);
    assert!(ended.one_line().contains("cannot be reached"), "{ended:?}");
    let ended = run(aionis(place.path()).args(["quickstart", "--url", &url])).exits(1);
    assert!(ended.one_line().contains("quickstart starts a server of its own"), "{ended:?}");
    let ended = run(aionis(place.path()).args(["quickstart"]).env("EMBEDDING_PROVIDER", "openai")).exits(1);
    assert!(ended.one_line().contains("OPENAI_API_KEY"), "{ended:?}");
}
