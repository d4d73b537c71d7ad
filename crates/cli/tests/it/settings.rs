//! Wrong settings are refused before anything is made; secrets are not shown.

use std::{net::TcpListener, process::Command};

use crate::support::{
    place::Place,
    program::{aionis, run},
    server::Server,
};

/// `aionis serve` with the deterministic provider, its default data directory below `place`.
fn serve(place: &Place) -> Command {
    let mut command = aionis(place.path());
    command.arg("serve").env("EMBEDDING_PROVIDER", "fake").env("PORT", "0");
    command
}

/// Variables, flags, and what one line of the message must say.
type Refused = (&'static [(&'static str, &'static str)], &'static [&'static str], &'static [&'static str]);

const BY_KEY: (&str, &str) = ("MEMORY_AUTH_MODE", "api_key");
const BY_TOKEN: (&str, &str) = ("MEMORY_AUTH_MODE", "jwt");
const KEY: (&str, &str) = ("MEMORY_API_KEYS_JSON", r#"{"hunter2":{"tenant_id":"acme"}}"#);

#[test]
fn a_wrong_setting_is_named_and_nothing_is_made() {
    let cases: &[Refused] = &[
        (&[("PORT", "abc")], &[], &["PORT", "abc", "0 to 65535"]),
        (&[("PORT", "65536")], &[], &["PORT", "65536"]),
        (&[("HOST", "nowhere")], &[], &["HOST", "nowhere"]),
        (&[("PII_REDACTION", "yes")], &[], &["yes", "PII_REDACTION", "true or false"]),
        (&[("APP_ENV", "production")], &[], &["production", "APP_ENV"]),
        (&[("EMBEDDING_PROVIDER", "word2vec")], &[], &["word2vec", "local, openai, minimax, fake, none"]),
        (&[("EMBEDDING_PROVIDER", "openai")], &[], &["OPENAI_API_KEY"]),
        (&[("EMBEDDING_PROVIDER", "minimax")], &[], &["MINIMAX_API_KEY"]),
        (&[("EMBEDDING_DIM", "0")], &[], &["EMBEDDING_DIM", "1 to 8192"]),
        (&[("MEMORY_RECALL_PROFILE", "best")], &[], &["best", "quality_first"]),
        (&[("OUTBOX_BATCH_SIZE", "0")], &[], &["OUTBOX_BATCH_SIZE", "1 to 200"]),
        (&[("MEMORY_TENANT_ID", "a/b")], &[], &["MEMORY_TENANT_ID"]),
        (&[("MEMORY_SCOPE", " ")], &[], &["MEMORY_SCOPE"]),
        (&[("APP_ENV", "prod"), KEY, BY_KEY], &[], &["EMBEDDING_PROVIDER=fake", "refused in production"]),
        (
            &[("APP_ENV", "prod"), ("EMBEDDING_PROVIDER", "none"), ("AIONIS_DATADIR", "x"), KEY, BY_KEY],
            &[],
            &["AIONIS_DATADIR"],
        ),
        (&[("APP_ENV", "prod"), ("EMBEDDING_PROVIDER", "none")], &[], &["MEMORY_AUTH_MODE=off", "production"]),
        (&[("APP_ENV", "prod"), BY_KEY], &[], &["MEMORY_API_KEYS_JSON", "no key", "production"]),
        (
            &[("APP_ENV", "prod"), BY_TOKEN, ("MEMORY_JWT_HS256_SECRET", "hunter2")],
            &[],
            &["MEMORY_JWT_HS256_SECRET", "32"],
        ),
        (&[("MEMORY_AUTH_MODE", "on")], &[], &["on", "MEMORY_AUTH_MODE"]),
        (&[BY_KEY, ("MEMORY_API_KEYS_JSON", "{\"hunter2\":1}")], &[], &["MEMORY_API_KEYS_JSON", "key 1"]),
        (&[BY_KEY, ("MEMORY_API_KEYS_JSON", "[\"hunter2\"]")], &[], &["MEMORY_API_KEYS_JSON", "JSON object"]),
        (
            &[BY_KEY, ("MEMORY_API_KEYS_JSON", "{\"hunter2\":{\"tenant_id\":\"a\",\"role\":\"root\"}}")],
            &[],
            &["key 1", "role"],
        ),
        (&[BY_TOKEN], &[], &["MEMORY_JWT_HS256_SECRET", "MEMORY_JWT_JWKS_FILE"]),
        (&[BY_TOKEN, ("MEMORY_JWT_JWKS_FILE", "nowhere.json")], &[], &["MEMORY_JWT_JWKS_FILE", "nowhere.json"]),
        (
            &[BY_TOKEN, ("MEMORY_JWT_HS256_SECRET", "x"), ("MEMORY_JWT_CLOCK_SKEW_SEC", "-1")],
            &[],
            &["MEMORY_JWT_CLOCK_SKEW_SEC"],
        ),
        (&[("DATABASE_URL", "mysql://aionis:hunter2@db/aionis")], &[], &["DATABASE_URL", "postgres://"]),
        (&[("HOST", "0.0.0.0")], &[], &["HOST=0.0.0.0", "--dev"]),
        (&[("HOST", "::")], &[], &["HOST=::", "--dev"]),
        (&[], &["--port", "abc"], &["abc", "--port"]),
        (&[], &["--unheard-of"], &["--unheard-of"]),
    ];
    for (variables, flags, wanted) in cases {
        let place = Place::new();
        let ended = run(serve(&place).envs(variables.iter().copied()).args(*flags)).exits(1);
        let said = ended.stderr.lines().find(|line| wanted.iter().all(|wanted| line.contains(wanted)));
        assert!(said.is_some(), "{variables:?} {flags:?}: no line says {wanted:?}: {ended:#?}");
        assert!(!ended.stderr.contains("hunter2"), "{ended:?}");
        let told_together = ended.stderr.lines().next().is_some_and(|line| line.ends_with(" problems:"));
        if !ended.stderr.starts_with("error: ") && !told_together {
            ended.one_line();
        }
        assert_eq!(place.names(), Vec::<String>::new(), "{variables:?} {flags:?} made something");
    }
}

/// W-37: vectors that mean nothing are never the default, and never in production.
#[test]
fn w_37_made_up_vectors_are_neither_the_default_nor_for_production() {
    let place = Place::new();
    let print = |environment: &str| {
        let mut command = aionis(place.path());
        command.args(["config", "print", "--json"]).env("APP_ENV", environment).envs([KEY, BY_KEY]);
        run(&mut command).exits(0).json()["embedding_provider"].as_str().unwrap().to_lowercase()
    };
    assert_eq!((print("dev").as_str(), print("prod").as_str()), ("local", "local"));
    let production = [("APP_ENV", "prod"), KEY, BY_KEY];
    for command in [&["serve"][..], &["worker", "--once"], &["config", "check"]] {
        let ended = run(aionis(place.path()).args(command).envs(production).env("EMBEDDING_PROVIDER", "fake")).exits(1);
        assert!(ended.stderr.contains("EMBEDDING_PROVIDER=fake"), "{command:?}: {ended:?}");
        assert_eq!(place.names(), Vec::<String>::new(), "{command:?}");
    }
}

#[test]
fn a_directory_that_cannot_be_is_refused_clearly() {
    let place = Place::new();
    std::fs::write(place.path().join("file"), "").unwrap();
    for (data, args) in [
        ("file", &["serve"][..]),
        ("file/data", &["serve"]),
        ("file/data", &["migrate"]),
        ("file/data", &["worker", "--once"]),
        ("/proc/aionis-data", &["serve"]),
    ] {
        let mut command = aionis(place.path());
        command.args(args).arg("--data-dir").arg(data);
        if args[0] != "migrate" {
            command.env("EMBEDDING_PROVIDER", "fake");
        }
        if args[0] == "serve" {
            command.env("PORT", "0");
        }
        let ended = run(&mut command).exits(1);
        let line = ended.one_line();
        assert!(line.contains(data) && line.contains("AIONIS_DATA_DIR"), "{data} {args:?}: {line}");
    }
    assert_eq!(place.names(), ["file"]);
}

/// Nor is the embedded database taken in the place of the one that was asked for.
#[test]
fn no_command_ignores_the_address_of_another_database() {
    let place = Place::new();
    for args in [&["serve"][..], &["worker", "--once"], &["migrate"], &["migrate", "--dry-run"], &["verify"]] {
        // Nobody listens there.
        let url = "postgres://aionis:hunter2@127.0.0.1:1/aionis";
        let ended = run(aionis(place.path()).args(args).env("DATABASE_URL", url)).exits(1);
        assert!(ended.one_line().contains("127.0.0.1:1"), "{args:?}: {ended:?}");
        assert!(!ended.stderr.contains("hunter2") && !ended.stdout.contains("hunter2"), "{args:?}: {ended:?}");
        assert_eq!(place.names(), Vec::<String>::new(), "{args:?}");
    }
}

#[test]
fn a_taken_port_is_refused_by_number() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let ended = run(serve(&place).env("PORT", &port)).exits(1);
    assert!(ended.one_line().contains(&port), "{ended:?}");
}

#[test]
fn other_vectors_than_the_stored_ones_are_refused() {
    let place = Place::new();
    let server = Server::start(&place.data());
    let node = serde_json::json!({ "client_id": "a", "type": "event", "text_summary": "a heron in the reeds" });
    server.write(&serde_json::json!({ "scope": "pond", "input_text": "a", "nodes": [node] }));
    server.vectors_are_ready("pond", std::time::Duration::from_secs(20));
    server.stop();
    let ended = run(serve(&place).env("EMBEDDING_DIM", "32").arg("--data-dir").arg(place.data())).exits(1);
    let line = ended.one_line();
    assert!(line.contains("16 dimensions") && line.contains("32 dimensions"), "{line}");
}

#[test]
fn a_check_of_sound_settings_makes_nothing() {
    let place = Place::new();
    for provider in ["fake", "none", "local"] {
        run(aionis(place.path()).args(["config", "check"]).env("EMBEDDING_PROVIDER", provider)).exits(0);
    }
    let checked =
        run(aionis(place.path()).args(["config", "check", "--json"]).env("AIONIS_DATADIR", "x")).exits(0).json();
    assert_eq!(checked["unknown_variables"], serde_json::json!(["AIONIS_DATADIR"]), "{checked}");
    run(aionis(place.path()).args(["config", "check"]).env("HOST", "0.0.0.0")).exits(1);
    run(aionis(place.path()).args(["config", "check", "--dev"]).env("HOST", "0.0.0.0")).exits(0);
    // Whoever is asked for a key may come from anywhere.
    run(aionis(place.path()).args(["config", "check"]).env("HOST", "0.0.0.0").envs([KEY, BY_KEY])).exits(0);
    let production = [("APP_ENV", "prod"), ("EMBEDDING_PROVIDER", "none"), KEY, BY_KEY];
    run(aionis(place.path()).args(["config", "check"]).envs(production)).exits(0);
    assert_eq!(place.names(), Vec::<String>::new());
}

const SECRETS: [&str; 6] = [
    "openai_api_key",
    "minimax_api_key",
    "admin_token",
    "database_url",
    "memory_api_keys_json",
    "memory_jwt_hs256_secret",
];

#[test]
fn secrets_are_never_printed() {
    let place = Place::new();
    let secrets = [
        ("OPENAI_API_KEY", "sk-secret-1"),
        ("MINIMAX_API_KEY", "sk-secret-2"),
        ("ADMIN_TOKEN", "sk-secret-3"),
        ("MEMORY_API_KEYS_JSON", r#"{"sk-secret-5":{"tenant_id":"acme"}}"#),
        ("MEMORY_JWT_HS256_SECRET", "sk-secret-6"),
        // Not shown even where it looks like a setting of its own.
        ("DATABASE_URL", "host=db user=aionis password=a: sk-secret-4"),
    ];
    for args in [
        &["config", "print", "--json"][..],
        &["config", "print"],
        &["config", "check"],
        &["doctor", "--json", "--port", "0"],
        &["serve", "--port", "0"],
        &["serve", "--port", "none"],
        &["serve", "--help"],
    ] {
        let ended = run(aionis(place.path()).args(args).envs(secrets).env("EMBEDDING_PROVIDER", "none"));
        assert!(!ended.stdout.contains("sk-secret") && !ended.stderr.contains("sk-secret"), "{args:?}: {ended:#?}");
    }
    let printed = run(aionis(place.path()).args(["config", "print", "--json"]).envs(secrets)).exits(0).json();
    for name in SECRETS {
        assert_eq!(printed[name], "set", "{printed}");
    }
    let printed = run(aionis(place.path()).args(["config", "print", "--json"])).exits(0).json();
    for name in SECRETS {
        assert_eq!(printed[name], "unset", "{printed}");
    }
}
