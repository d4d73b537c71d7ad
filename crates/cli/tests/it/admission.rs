//! Limits, gates and recall profiles as settings name them: wrong ones stop the start, right ones hold.

use std::process::Command;

use serde_json::json;

use crate::support::{
    place::Place,
    program::{aionis, fake, run},
    server::Server,
};

const BY_KEY: (&str, &str) = ("MEMORY_AUTH_MODE", "api_key");
const KEY: (&str, &str) = ("MEMORY_API_KEYS_JSON", r#"{"hunter2":{"tenant_id":"acme"}}"#);

/// `aionis serve` with the deterministic provider, its default data directory below `place`.
fn serve(place: &Place) -> Command {
    let mut command = aionis(place.path());
    command.arg("serve").env("EMBEDDING_PROVIDER", "fake").env("PORT", "0");
    command
}

#[test]
fn a_wrong_limit_is_named_and_nothing_is_made() {
    for (variable, value, wanted) in [
        ("MEMORY_RECALL_ADAPTIVE_WAIT_MS", "0", &["MEMORY_RECALL_ADAPTIVE_WAIT_MS", "1 to 60000"][..]),
        ("MEMORY_RECALL_ADAPTIVE_TARGET_PROFILE", "fast", &["fast", "quality_first or lean"]),
        ("RATE_LIMIT_ENABLED", "yes", &["yes", "RATE_LIMIT_ENABLED", "true or false"]),
        ("RECALL_RATE_LIMIT_RPS", "0", &["RECALL_RATE_LIMIT_RPS", "per second"]),
        ("RECALL_RATE_LIMIT_RPS", "nan", &["RECALL_RATE_LIMIT_RPS", "per second"]),
        ("WRITE_RATE_LIMIT_BURST", "0", &["WRITE_RATE_LIMIT_BURST"]),
        ("WRITE_RATE_LIMIT_MAX_WAIT_MS", "5001", &["WRITE_RATE_LIMIT_MAX_WAIT_MS", "0 to 5000"]),
        ("AIONIS_TRUSTED_PROXIES", "10.0.0.0/8,proxy", &["proxy", "10.0.0.0/8"]),
    ] {
        let place = Place::new();
        let ended = run(serve(&place).env(variable, value)).exits(1);
        let said = ended.stderr.lines().find(|line| wanted.iter().all(|wanted| line.contains(wanted)));
        assert!(said.is_some(), "{variable}={value}: no line says {wanted:?}: {ended:#?}");
        assert_eq!(place.names(), Vec::<String>::new(), "{variable}={value} made something");
    }
}

/// Each stops `serve` with one line that names the path within the policy and what is allowed there.
#[test]
fn a_broken_recall_policy_stops_the_start() {
    let policy = "MEMORY_RECALL_PROFILE_POLICY_JSON";
    let profiles = "legacy, strict_edges, quality_first or lean";
    for (variable, value, wanted) in [
        (policy, "{\"endpoint\":", &["not valid JSON", "EOF"][..]),
        (policy, r#"{"endpoint":{"recall":"fast"}}"#, &["endpoint.recall", profiles, "got fast"]),
        (policy, r#"{"endpoint":{"write":"lean"}}"#, &["endpoint.write is unknown", "recall or recall_text"]),
        (policy, r#"{"tenant_default":{" ":"lean"}}"#, &["tenant_default.", "blank"]),
        (policy, r#"{"tenant_default":{"a/b":"lean"}}"#, &["tenant_default.a/b", "must match"]),
        (policy, r#"{"tenants":{}}"#, &["tenants is unknown", "endpoint, tenant_default or tenant_endpoint"]),
        (policy, r#"{"tenant_endpoint":["lean"]}"#, &["tenant_endpoint must be an object"]),
        (policy, r#"{"tenant_endpoint":{"acme":{"recall_text":7}}}"#, &["tenant_endpoint.acme.recall_text", profiles]),
        ("MEMORY_RECALL_ADAPTIVE_TARGET_PROFILE", "quality_first", &["quality_first", "cheaper than no other", "lean"]),
    ] {
        let place = Place::new();
        for command in [&mut serve(&place), aionis(place.path()).args(["config", "check"])] {
            let ended = run(command.env(variable, value)).exits(1);
            let line = ended.one_line();
            assert!(line.contains(variable) && wanted.iter().all(|wanted| line.contains(wanted)), "{value}: {line}");
        }
        assert_eq!(place.names(), Vec::<String>::new(), "{value}");
    }
}

#[test]
fn production_is_not_without_limits() {
    let place = Place::new();
    let production = [("APP_ENV", "prod"), ("EMBEDDING_PROVIDER", "none"), KEY, BY_KEY];
    for (name, value) in
        [("RATE_LIMIT_ENABLED", "false"), ("TENANT_QUOTA_ENABLED", "false"), ("RATE_LIMIT_BYPASS_LOOPBACK", "true")]
    {
        let ended = run(serve(&place).envs(production).env(name, value)).exits(1);
        assert!(ended.one_line().contains(&format!("{name}={value} is refused in production")), "{ended:?}");
        run(aionis(place.path()).args(["config", "check"]).env("EMBEDDING_PROVIDER", "none").env(name, value)).exits(0);
    }
    let print = |variables: &[(&str, &str)]| {
        let mut command = aionis(place.path());
        run(command.args(["config", "print", "--json"]).envs(variables.iter().copied())).exits(0).json()
    };
    for (variables, limited) in [(&production[..], true), (&[], false)] {
        let printed = print(variables);
        assert_eq!(printed["rate_limit_enabled"], limited, "{printed}");
        assert_eq!(printed["tenant_quota_enabled"], limited, "{printed}");
        assert_eq!(printed["rate_limit_bypass_loopback"], !limited, "{printed}");
    }
}

#[test]
fn recalls_at_once_are_not_more_than_connections() {
    let place = Place::new();
    // Nobody listens there; the settings are looked at before.
    let url = ("DATABASE_URL", "postgres://aionis:hunter2@127.0.0.1:1/aionis");
    let ended = run(serve(&place).envs([url, ("API_RECALL_MAX_INFLIGHT", "31")])).exits(1);
    let line = ended.one_line();
    assert!(line.contains("API_RECALL_MAX_INFLIGHT=31") && line.contains("DB_POOL_MAX=30"), "{line}");
    for (variables, inflight) in [
        (&[][..], 256),
        (&[("API_RECALL_MAX_INFLIGHT", "300")], 300),
        (&[url], 30),
        (&[url, ("DB_POOL_MAX", "12")], 12),
        (&[url, ("DB_POOL_MAX", "400")], 256),
        (&[url, ("API_RECALL_MAX_INFLIGHT", "30")], 30),
    ] {
        let mut command = aionis(place.path());
        let printed = run(command.args(["config", "print", "--json"]).envs(variables.iter().copied())).exits(0).json();
        assert_eq!(printed["api_recall_max_inflight"], inflight, "{variables:?}");
    }
}

#[test]
fn limits_hold_as_they_are_set() {
    let slow = [
        ("RECALL_RATE_LIMIT_RPS", "0.01"),
        ("RECALL_RATE_LIMIT_BURST", "2"),
        ("TENANT_WRITE_RATE_LIMIT_RPS", "0.01"),
        ("TENANT_WRITE_RATE_LIMIT_BURST", "1"),
    ];
    let recall = json!({ "query_text": "herons" });
    let write =
        json!({ "input_text": "x", "nodes": [{ "client_id": "a", "type": "event", "text_summary": "a heron" }] });
    for (switches, recalls, writes) in [
        (&[][..], [200, 200, 200], [200, 200]),
        (&[("RATE_LIMIT_ENABLED", "true")], [200, 200, 200], [200, 200]),
        (&[("RATE_LIMIT_ENABLED", "true"), ("RATE_LIMIT_BYPASS_LOOPBACK", "false")], [200, 200, 429], [200, 200]),
        (&[("TENANT_QUOTA_ENABLED", "true")], [200, 200, 200], [200, 429]),
    ] {
        let place = Place::new();
        let server = Server::start_with(&place.data(), |command| {
            fake(command).envs(slow).envs(switches.iter().copied());
        });
        for status in recalls {
            let answer = server.post("/v1/memory/recall_text", &recall);
            assert_eq!(answer.status, status, "{switches:?}: {answer:?}");
            if status == 429 {
                assert_eq!(answer.body["error"], "rate_limited_recall");
            }
        }
        for status in writes {
            let answer = server.post("/v1/memory/write", &write);
            assert_eq!(answer.status, status, "{switches:?}: {answer:?}");
            if status == 429 {
                assert_eq!(answer.body["error"], "tenant_rate_limited_write");
                assert_eq!(answer.body["details"]["tenant_id"], "default");
            }
        }
        server.stop();
    }
}
