//! `aionis model` and `aionis doctor`.

use std::net::TcpListener;

use serde_json::Value;

use crate::support::{
    place::Place,
    program::{aionis, aionis_on, fake, run},
};

/// Names of findings that failed.
fn failed(findings: &Value) -> Vec<&str> {
    let findings = findings.as_array().unwrap().iter();
    findings.filter(|finding| finding["status"] != "ok").map(|finding| finding["check"].as_str().unwrap()).collect()
}

#[test]
fn a_missing_model_is_a_negative_verdict() {
    let place = Place::new();
    let status = run(&mut aionis_on(&place.data(), &["model", "status", "--json"])).exits(2).json();
    assert_eq!(status["status"], "missing", "{status}");
    let told = run(&mut aionis_on(&place.data(), &["model", "status"])).exits(2);
    assert!(told.stdout.contains("aionis model pull"), "{told:?}");
    assert_eq!(place.names(), Vec::<String>::new(), "asking makes nothing");
}

#[test]
fn an_import_of_other_files_leaves_no_file() {
    let place = Place::new();
    let source = place.path().join("source");
    std::fs::create_dir(&source).unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::write(source.join(name), "{}").unwrap();
    }
    let ended = run(aionis_on(&place.data(), &["model", "import"]).arg(&source)).exits(1);
    assert!(ended.one_line().contains("is not the file of the pinned model"), "{ended:?}");
    let files: Vec<String> = place.names().into_iter().filter(|name| place.path().join(name).is_file()).collect();
    assert_eq!(files, ["source/config.json", "source/model.safetensors", "source/tokenizer.json"]);
    run(&mut aionis_on(&place.data(), &["model", "status"])).exits(2);
    let ended = run(aionis_on(&place.data(), &["model", "import"]).arg(place.path().join("nowhere"))).exits(1);
    assert!(ended.one_line().contains("nowhere"), "{ended:?}");
}

#[test]
fn a_damaged_model_stops_the_start_and_is_named() {
    let place = Place::new();
    let dir = place.data().join("models/potion-base-8M");
    std::fs::create_dir_all(&dir).unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::write(dir.join(name), "{}").unwrap();
    }
    let status = run(&mut aionis_on(&place.data(), &["model", "status", "--json"])).exits(2).json();
    assert_eq!(status["status"], "corrupt", "{status}");
    let ended = run(&mut aionis_on(&place.data(), &["serve", "--port", "0"])).exits(1);
    assert!(ended.one_line().contains("aionis model pull"), "{ended:?}");
    assert!(!place.data().join("aionis.db").exists());
}

#[test]
fn a_service_without_its_model_starts_and_says_so() {
    let place = Place::new();
    let server = crate::support::server::Server::start_with(&place.data(), |_| {});
    let ready = server.connect().get("/health/ready").unwrap().ok();
    assert_eq!(ready["embedding"]["status"], "model_missing", "{ready}");
    assert!(ready["embedding"]["hint"].as_str().unwrap().contains("aionis model pull"), "{ready}");
    server.stop();
    let ended = run(&mut aionis_on(&place.data(), &["worker", "--once"])).exits(1);
    assert!(ended.one_line().contains("aionis model pull"), "{ended:?}");
}

#[test]
fn the_doctor_tells_what_is_wrong_by_its_exit_code() {
    let place = Place::new();
    let doctor = || aionis_on(&place.data(), &["doctor", "--json"]);
    let sound = run(fake(&mut doctor()).args(["--port", "0"])).exits(0).json();
    assert_eq!(failed(&sound), Vec::<&str>::new(), "{sound}");

    let model = run(doctor().args(["--port", "0"])).exits(2).json();
    assert_eq!(failed(&model), ["embedding"], "{model}");

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let port = run(fake(&mut doctor()).args(["--port", &port])).exits(2).json();
    assert_eq!(failed(&port), ["port"], "{port}");

    let misspelt = run(fake(&mut doctor()).args(["--port", "0"]).env("AIONIS_DATADIR", "x")).exits(2).json();
    assert_eq!(failed(&misspelt), ["variables"], "{misspelt}");

    let open = run(fake(&mut doctor()).args(["--port", "0", "--host", "0.0.0.0"])).exits(2).json();
    assert_eq!(failed(&open), ["address"], "{open}");

    std::fs::write(place.path().join("file"), "").unwrap();
    let store = run(fake(aionis(place.path()).args(["doctor", "--json", "--port", "0", "--data-dir", "file/data"])));
    let store = store.exits(2).json();
    assert_eq!(failed(&store), ["store"], "{store}");
}
