//! The settings as a whole: what there is, what is wrong all at once, and files of variables.

use std::path::PathBuf;

use serde_json::json;

use crate::support::{
    place::Place,
    program::{aionis, fake, run},
    server::Server,
};

/// A file of the repository.
fn committed(path: &str) -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::fs::read_to_string(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[test]
fn the_committed_reference_is_that_of_the_program() {
    let place = Place::new();
    for (format, path) in [("env", ".env.example"), ("markdown", "docs/configuration.md")] {
        let printed = run(aionis(place.path()).args(["config", "reference", "--format", format])).exits(0).stdout;
        assert!(
            printed == committed(path),
            "{path} is out of date: aionis config reference --format {format} > {path}"
        );
    }
}

#[test]
fn the_example_changes_nothing_and_holds_no_secret() {
    let place = Place::new();
    let example = committed(".env.example");
    assert!(example.lines().all(|line| line.is_empty() || line.starts_with('#')), "a default is not commented out");
    std::fs::write(place.path().join("example"), &example).unwrap();
    let print = |args: &[&str]| run(aionis(place.path()).args(["config", "print"]).args(args)).exits(0).stdout;
    let (without, with) = (print(&[]), print(&["--env-file", "example"]));
    assert_eq!(with.replace("env_file = example", "env_file = null"), without);
    // What the example says is the default is taken as it stands there.
    let active: String = example
        .lines()
        .filter_map(|line| line.strip_prefix("# "))
        .filter(|line| line.split_once('=').is_some_and(|(name, value)| is_name(name) && !value.is_empty()))
        .fold(String::new(), |all, line| all + line + "\n");
    assert!(active.lines().count() > 50, "{active}");
    std::fs::write(place.path().join("active"), active).unwrap();
    let active = print(&["--env-file", "active"]);
    assert_eq!(active.replace("env_file = active", "env_file = null"), without);
}

fn is_name(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

/// Variables, then per line of the message what it has to begin with.
#[test]
fn all_problems_are_told_at_once() {
    let place = Place::new();
    let mut command = aionis(place.path());
    command.args(["config", "check"]).envs([
        ("PORT", "70000"),
        ("AIONIS_READERS", "0"),
        ("APP_ENV", "production"),
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("EMBED_HTTP_TIMEOUT_MS", ""),
    ]);
    let ended = run(&mut command).exits(1);
    let lines: Vec<&str> = ended.stderr.lines().map(str::trim).collect();
    assert_eq!(
        lines,
        [
            "aionis: 5 problems:",
            r#"AIONIS_READERS: must be an integer from 1 to 64 (given: "0")"#,
            r#"EMBED_HTTP_TIMEOUT_MS: must be an integer from 1 to 600000 (given: "")"#,
            r#"APP_ENV: must be one of dev, ci, prod (given: "production")"#,
            "OTEL_TRACES_SAMPLER: must be one of always_on, always_off, traceidratio, parentbased_always_on, \
             parentbased_always_off, parentbased_traceidratio (given: \"sometimes\")",
            r#"PORT: must be an integer from 0 to 65535 (given: "70000")"#,
        ]
    );
    assert!(ended.stdout.is_empty());
    // Another command does not read them.
    run(aionis(place.path()).args(["config", "reference"]).env("PORT", "70000")).exits(0);
}

#[test]
fn what_several_settings_get_wrong_together_is_told_at_once() {
    let place = Place::new();
    let mut command = aionis(place.path());
    command.args(["config", "check"]).envs([
        ("APP_ENV", "prod"),
        ("MEMORY_TENANT_ID", "a/b"),
        ("DATABASE_URL", "mysql://hunter2@db"),
        ("EMBEDDING_PROVIDER", "openai"),
        ("RUST_LOG", "a=b=c"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "hunter2"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_TRACES_SAMPLER_ARG", "2"),
        ("MEMORY_TENANT", "x"),
    ]);
    let ended = run(&mut command).exits(1);
    for wanted in [
        "MEMORY_TENANT_ID must match",
        "DATABASE_URL must begin",
        "OPENAI_API_KEY",
        "RUST_LOG",
        "OTEL_EXPORTER_OTLP_ENDPOINT: ",
        "OTEL_EXPORTER_OTLP_HEADERS: ",
        "OTEL_EXPORTER_OTLP_PROTOCOL: must be http/protobuf (given: \"grpc\")",
        "OTEL_TRACES_SAMPLER_ARG: ",
        "MEMORY_TENANT: no such setting; the nearest is MEMORY_TENANT_ID",
        "MEMORY_AUTH_MODE=off",
    ] {
        assert!(ended.stderr.lines().any(|line| line.contains(wanted)), "{wanted}: {ended:#?}");
    }
    assert!(!ended.stderr.contains("hunter2"), "{ended:#?}");
}

#[test]
fn a_check_counts_what_there_is() {
    let place = Place::new();
    let mut command = aionis(place.path());
    command.args(["config", "check", "--json"]).envs([
        ("EMBEDDING_PROVIDER", "none"),
        ("PORT", "3002"),
        ("MEMORY_TENANT", "x"),
        ("MEMORY_SHADOW_DUAL_WRITE_ENABLED", "false"),
    ]);
    let checked = run(&mut command).exits(0).json();
    assert_eq!(checked["unknown_variables"], json!(["MEMORY_TENANT"]), "{checked}");
    assert_eq!(checked["retired_variables"], json!(["MEMORY_SHADOW_DUAL_WRITE_ENABLED"]), "{checked}");
    assert_eq!((&checked["variables"]["set"], &checked["variables"]["unknown"]), (&json!(2), &json!(1)));
    let (known, routes) = (checked["variables"]["known"].as_u64().unwrap(), checked["http_routes"].as_u64().unwrap());
    assert!((60..=240).contains(&known) && (15..=24).contains(&routes), "{checked}");
    let mut plain = aionis(place.path());
    plain.args(["config", "check"]).env("EMBEDDING_PROVIDER", "none").env("TOPIC_CLUSTER_ASYNC_ON_WRITE", "true");
    let said = run(&mut plain).exits(0).stdout;
    assert!(said.contains(" variables are known, 1 are set, 0 are unknown; "), "{said}");
    assert!(said.contains("TOPIC_CLUSTER_ASYNC_ON_WRITE is not read"), "{said}");
}

#[test]
fn a_start_warns_of_variables_without_effect() {
    let place = Place::new();
    let server = Server::start_with(&place.data(), |command| {
        fake(command).env("OUTBOX_BATCH_SZIE", "5").env("AUTO_TOPIC_CLUSTER_ON_WRITE", "true");
    });
    server.stop();
    let log = std::fs::read_to_string(place.path().join("log")).unwrap();
    let line = |wanted: &str| {
        let found = log.lines().find(|line| line.contains(wanted)).unwrap_or_else(|| panic!("{wanted}: {log}"));
        serde_json::from_str::<serde_json::Value>(found).unwrap()
    };
    let misspelt = line("OUTBOX_BATCH_SZIE");
    assert_eq!((&misspelt["level"], &misspelt["nearest"]), (&json!("WARN"), &json!("OUTBOX_BATCH_SIZE")));
    assert_eq!(line("AUTO_TOPIC_CLUSTER_ON_WRITE")["level"], "WARN");
}

#[test]
fn a_file_of_variables_is_read_only_when_it_is_named() {
    let place = Place::new();
    let file = place.path().join(".env");
    std::fs::write(&file, "# a remark\nEMBEDDING_PROVIDER=none\nPORT=3999\nADMIN_TOKEN='hunter 2'\n").unwrap();
    let print = |args: &[&str], variables: &[(&str, &str)]| {
        let mut command = aionis(place.path());
        command.args(["config", "print", "--json"]).args(args).envs(variables.iter().copied());
        run(&mut command).exits(0).json()
    };
    assert_eq!(print(&[], &[])["port"], "3001");
    for (args, variables) in
        [(&["--env-file", ".env"][..], &[][..]), (&["--env-file=.env"], &[]), (&[], &[("AIONIS_ENV_FILE", ".env")])]
    {
        let printed = print(args, variables);
        assert_eq!((&printed["port"], &printed["admin_token"]), (&json!("3999"), &json!("set")), "{printed}");
    }
    // What is set already wins, and a flag wins over both.
    assert_eq!(print(&["--env-file", ".env"], &[("PORT", "3888")])["port"], "3888");
    assert_eq!(print(&["--env-file", ".env", "--port", "3777"], &[])["port"], "3777");
    // What is wrong in it is told like any other value.
    std::fs::write(&file, "PORT=99999\n").unwrap();
    let ended = run(aionis(place.path()).args(["config", "check", "--env-file", ".env"])).exits(1);
    assert!(ended.one_line().contains("PORT: must be an integer"), "{ended:?}");
}

#[test]
fn a_file_that_cannot_be_read_stops_the_start_and_its_lines_are_not_shown() {
    let place = Place::new();
    let ended = run(aionis(place.path()).args(["serve", "--env-file", "nowhere"])).exits(1);
    assert!(ended.one_line().contains("nowhere"), "{ended:?}");
    std::fs::write(place.path().join("broken"), "PORT=1\nsecret hunter2\n").unwrap();
    let ended = run(aionis(place.path()).args(["serve", "--env-file", "broken"])).exits(1);
    let line = ended.one_line();
    assert!(line.contains("broken:2: has no =; write NAME=value") && !line.contains("hunter2"), "{line}");
}

#[test]
fn what_other_programs_would_read_differently_is_refused_all_at_once_and_never_shown() {
    let place = Place::new();
    let lines = "ADMIN_TOKEN=hunter2$HOME\nDATABASE_URL=postgres://u:hunter2 #x@h/d\nPORT=1\nOPENAI_API_KEY=\"hunter2";
    std::fs::write(place.path().join("ambiguous"), lines).unwrap();
    let ended = run(aionis(place.path()).args(["serve", "--env-file", "ambiguous"])).exits(1);
    let said: Vec<&str> = ended.stderr.lines().map(str::trim).collect();
    assert_eq!(said.len(), 4, "{ended:#?}");
    for (line, (place, name)) in said[1..].iter().zip([(1, "ADMIN_TOKEN"), (2, "DATABASE_URL"), (4, "OPENAI_API_KEY")])
    {
        assert!(line.starts_with(&format!("ambiguous:{place}: {name} has ")) && line.contains("; "), "{line}");
    }
    assert!(!ended.stderr.contains("hunter2"), "{ended:#?}");
}

#[test]
fn values_of_a_file_are_taken_literally() {
    let place = Place::new();
    // HOME is set in every environment: it would show if anything were substituted.
    std::fs::write(
        place.path().join("literal"),
        "MEMORY_SCOPE='a $HOME ${HOME} # b'\nOTEL_SERVICE_NAME=\"x\\$HOME\"\n",
    )
    .unwrap();
    let mut command = aionis(place.path());
    command.args(["config", "print", "--json", "--env-file", "literal"]).env("HOME", "/nowhere");
    let printed = run(&mut command).exits(0).json();
    assert_eq!(printed["memory_scope"], "a $HOME ${HOME} # b", "{printed}");
    assert_eq!(printed["otel_service_name"], "x$HOME", "{printed}");
}

#[test]
fn every_command_reads_the_file_of_variables() {
    let place = Place::new();
    std::fs::write(place.path().join("settings"), "AIONIS_READERS=0\n").unwrap();
    let id = "00000000-0000-4000-8000-000000000000";
    for args in [
        &["serve"][..],
        &["worker"],
        &["migrate"],
        &["verify"],
        &["doctor"],
        &["config", "check"],
        &["reembed", "--to", "fake"],
        &["copy", "--from", "a", "--to", "b", "--all"],
        &["keys", "create", "--tenant", "acme", "--role", "reader"],
        &["keys", "list"],
        &["keys", "rotate", id],
        &["keys", "revoke", id],
        &["job", "outbox-replay", "--all"],
    ] {
        let by_flag = run(aionis(place.path()).args(args).args(["--env-file", "settings"])).exits(1);
        let by_variable = run(aionis(place.path()).args(args).env("AIONIS_ENV_FILE", "settings")).exits(1);
        for ended in [by_flag, by_variable] {
            assert!(ended.one_line().contains("AIONIS_READERS: must be"), "{args:?}: {ended:#?}");
        }
    }
}

#[test]
fn a_variable_that_a_flag_overrides_may_hold_anything() {
    let place = Place::new();
    let check = |args: &[&str]| {
        let mut command = aionis(place.path());
        command.args(["config", "check"]).args(args).env("EMBEDDING_PROVIDER", "none");
        command.env("PORT", "abc").env("OTEL_TRACES_SAMPLER", "sometimes");
        run(&mut command)
    };
    assert!(check(&[]).exits(1).stderr.contains("2 problems"));
    assert!(check(&["--port", "3001"]).exits(1).one_line().contains("OTEL_TRACES_SAMPLER"));
    check(&["--port", "3001", "--otel-traces-sampler=always_on"]).exits(0);
}

#[test]
fn a_wait_that_the_gate_never_grants_is_refused() {
    let place = Place::new();
    let check = |wait: &str, timeout: &str, enabled: &str| {
        let mut command = aionis(place.path());
        command.args(["config", "check"]).env("EMBEDDING_PROVIDER", "none").envs([
            ("MEMORY_RECALL_ADAPTIVE_WAIT_MS", wait),
            ("API_RECALL_QUEUE_TIMEOUT_MS", timeout),
            ("MEMORY_RECALL_ADAPTIVE_DOWNGRADE_ENABLED", enabled),
        ]);
        run(&mut command)
    };
    for wait in ["500", "501"] {
        let ended = check(wait, "500", "true").exits(1);
        let line = ended.one_line();
        assert!(
            line.contains("MEMORY_RECALL_ADAPTIVE_WAIT_MS=") && line.contains("API_RECALL_QUEUE_TIMEOUT_MS=500"),
            "{line}"
        );
    }
    check("499", "500", "true").exits(0);
    check("500", "500", "false").exits(0);
}

#[test]
fn problems_are_json_for_whoever_asks_for_it() {
    let place = Place::new();
    let check = |args: &[&str], variables: &[(&str, &str)]| {
        let mut command = aionis(place.path());
        command.args(["config", "check", "--json"]).args(args).envs(variables.iter().copied());
        let ended = run(&mut command).exits(1);
        assert!(ended.stderr.is_empty(), "{ended:#?}");
        ended.json()
    };
    let every_one_is_whole = |told: &serde_json::Value, variables: &[&str]| {
        assert_eq!(told["ok"], false, "{told}");
        let problems = told["problems"].as_array().unwrap();
        let named: Vec<_> = problems.iter().map(|problem| problem["variable"].as_str().unwrap_or("")).collect();
        assert_eq!(named, variables, "{told}");
        for problem in problems {
            assert!(problem["problem"].as_str().is_some_and(|text| text.len() > 5), "{problem}");
            assert!(problem["fix"].as_str().is_some_and(|text| text.len() > 5), "{problem}");
        }
    };
    // Values that cannot be read, then settings that do not go together, then a file, then a flag.
    let told = check(&[], &[("PORT", "abc"), ("AIONIS_READERS", "0"), ("OUTBOX_BATCH_SZIE", "1")]);
    every_one_is_whole(&told, &["AIONIS_READERS", "PORT"]);
    assert_eq!(told["warnings"][0]["variable"], "OUTBOX_BATCH_SZIE", "{told}");
    let wrong = [("MEMORY_TENANT_ID", "a/b"), ("DATABASE_URL", "mysql://db"), ("EMBEDDING_PROVIDER", "openai")];
    every_one_is_whole(&check(&[], &wrong), &["MEMORY_TENANT_ID", "DATABASE_URL", "EMBEDDING_PROVIDER"]);
    std::fs::write(place.path().join("broken"), "PORT='1\nA B\n").unwrap();
    let told = check(&["--env-file", "broken"], &[]);
    assert_eq!((&told["problems"][0]["variable"], &told["problems"][1]["variable"]), (&json!("PORT"), &json!(null)));
    let told = check(&["--unheard-of"], &[]);
    assert!(told["problems"][0]["problem"].as_str().unwrap().contains("--unheard-of"), "{told}");
}

#[test]
fn the_service_takes_its_settings_from_a_file() {
    let place = Place::new();
    let file = place.path().join("settings");
    std::fs::write(&file, "EMBEDDING_PROVIDER=fake\nEMBEDDING_DIM=16\nMEMORY_TENANT_ID=acme\n").unwrap();
    let server = Server::start_with(&place.data(), |command| {
        command.arg("--env-file").arg(&file);
    });
    let written = server.write(&json!({ "scope": "pond", "input_text": "x", "nodes": [] , "edges": []}));
    assert_eq!(written["tenant_id"], "acme", "{written}");
    // The same process: whoever started it can stop it.
    server.stop();
}
