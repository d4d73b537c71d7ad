//! `aionis verify` notices every change made behind the program's back, and says where.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, params, types::Value as Stored};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    db,
    place::Place,
    program::{aionis_on, run},
    server::Server,
};

const SCOPE: &str = "default/vault";

/// A store with everything that verification covers, written over HTTP: four commits in the scope `vault`, one in
/// another scope and one of another tenant.
struct Vault {
    place: Place,
    /// The node with a value in every column of content.
    full: Uuid,
    edge: Uuid,
}

impl Vault {
    fn new() -> Self {
        let place = Place::new();
        let server = Server::start(&place.data());
        let full = json!({
            "client_id": "full", "type": "evidence", "title": "Night log", "text_summary": "The vault was opened at dawn.",
            "slots": { "door": "north", "guards": 2 }, "raw_ref": "s3://logs/7", "evidence_ref": "camera/3",
            "memory_lane": "private", "producer_agent_id": "scribe", "owner_agent_id": "warden", "owner_team_id": "night",
        });
        let write = |scope: &str, more: Value| {
            let mut body = json!({
                "scope": scope, "actor": "tester", "input_text": "input", "model_version": "m-1", "prompt_version": "p-1",
            });
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            server.write(&body)
        };
        write(
            "vault",
            json!({ "nodes": [{ "client_id": "plain", "type": "event", "text_summary": "A quiet evening." }] }),
        );
        let written = write("vault", json!({ "nodes": [full] }));
        let edge = write(
            "vault",
            json!({ "edges": [
            { "type": "related_to", "src": { "client_id": "plain" }, "dst": { "client_id": "full" }, "weight": 0.75 }] }),
        );
        // Makes an earlier version.
        write(
            "vault",
            json!({ "nodes": [{ "client_id": "plain", "type": "event", "text_summary": "A loud evening." }] }),
        );
        write("attic", json!({ "nodes": [{ "client_id": "a", "type": "event", "text_summary": "Dust." }] }));
        write(
            "vault",
            json!({ "tenant_id": "acme", "nodes": [{ "client_id": "a", "type": "event", "text_summary": "Gold." }] }),
        );
        server.stop();
        let id = |value: &Value| value.as_str().unwrap().parse().unwrap();
        Self { full: id(&written["nodes"][0]["id"]), edge: id(&edge["edges"][0]["id"]), place }
    }

    /// Changes a copy; returns where it is.
    fn tampered(&self, name: &str, tamper: impl FnOnce(&Connection)) -> PathBuf {
        let data = self.place.copy(&self.place.data(), name);
        let database = db::writable(&data);
        database.pragma_update(None, "foreign_keys", false).unwrap();
        tamper(&database);
        drop(database);
        data
    }
}

/// Insists on a broken scope `vault`; returns the lines for people and the first break.
fn broken(data: &Path) -> (String, Value) {
    let told = run(&mut aionis_on(data, &["verify", "--tenant", "default", "--scope", "vault"])).exits(2).stdout;
    assert!(told.contains("BROKEN default/vault"), "{told}");
    let report = run(&mut aionis_on(data, &["verify", "--json"])).exits(2).json();
    assert_eq!(report["ok"], false);
    let scopes = report["scopes"].as_array().unwrap();
    let scope = scopes.iter().find(|s| s["tenant_id"] == "default" && s["scope"] == "vault").unwrap();
    assert_eq!(scope["ok"], false);
    (told, scope["first_break"].clone())
}

/// The value with as little changed as can be.
fn flipped(value: Stored) -> Stored {
    match value {
        Stored::Integer(number) => Stored::Integer(number ^ 1),
        Stored::Real(number) => Stored::Real(f64::from_bits(number.to_bits() ^ 1)),
        Stored::Text(text) => {
            let at = text.bytes().position(|byte| byte.is_ascii_alphanumeric()).unwrap();
            let mut bytes = text.into_bytes();
            bytes[at] ^= 1;
            Stored::Text(String::from_utf8(bytes).unwrap())
        }
        Stored::Blob(mut bytes) => {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            Stored::Blob(bytes)
        }
        Stored::Null => panic!("nothing is stored that could be flipped"),
    }
}

/// Flips one column of the row with `key = value`.
fn flip(database: &Connection, table: &str, column: &str, key: &str, value: &dyn rusqlite::ToSql) {
    let sql = format!("SELECT {column} FROM {table} WHERE scope_key = ?1 AND {key} = ?2");
    let stored: Stored = database.query_row(&sql, params![SCOPE, value], |row| row.get(0)).unwrap();
    let sql = format!("UPDATE {table} SET {column} = ?3 WHERE scope_key = ?1 AND {key} = ?2");
    let changed = database.execute(&sql, params![SCOPE, value, flipped(stored)]).unwrap();
    assert_eq!(changed, 1, "{table}.{column}");
}

fn columns(data: &Path, table: &str) -> Vec<String> {
    let database = db::read_only(data);
    let mut statement = database.prepare("SELECT name FROM pragma_table_info(?1)").unwrap();
    statement.query_map([table], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

#[test]
fn what_nobody_touched_verifies() {
    let vault = Vault::new();
    let copy = vault.tampered("copy", |_| {});
    for data in [&vault.place.data(), &copy] {
        let report = run(&mut aionis_on(data, &["verify", "--json", "--physical"])).exits(0).json();
        assert_eq!((&report["ok"], &report["physical"]), (&json!(true), &json!([])), "{report}");
        let scopes = report["scopes"].as_array().unwrap();
        assert_eq!(scopes.len(), 3);
        let scope = scopes.iter().find(|s| s["tenant_id"] == "default" && s["scope"] == "vault").unwrap();
        let counts = ["commits", "objects", "versions", "first_break"].map(|name| &scope[name]);
        assert_eq!(counts, [&json!(4), &json!(3), &json!(1), &Value::Null], "{scope}");
    }
    let told = run(&mut aionis_on(&copy, &["verify"])).exits(0).stdout;
    assert!(told.ends_with("3 scope(s) verified, 0 broken\n"), "{told}");
}

#[test]
fn filters_choose_scopes_and_an_unknown_one_is_an_error() {
    let vault = Vault::new();
    let data = vault.tampered("attic-is-damaged", |database| {
        let changed =
            database.execute("UPDATE memory_nodes SET text_summary = 'Rust.' WHERE scope_key = 'default/attic'", []);
        assert_eq!(changed.unwrap(), 1);
    });
    let verify = |filter: &[&str]| run(&mut aionis_on(&data, &[&["verify", "--json"], filter].concat()));
    let names = |report: &Value| -> Vec<String> {
        let scopes = report["scopes"].as_array().unwrap().iter();
        scopes.map(|s| format!("{}/{}", s["tenant_id"].as_str().unwrap(), s["scope"].as_str().unwrap())).collect()
    };
    for (filter, code, wanted) in [
        (&[][..], 2, &["acme/vault", "default/attic", "default/vault"][..]),
        (&["--scope", "vault"], 0, &["acme/vault", "default/vault"]),
        (&["--tenant", "acme"], 0, &["acme/vault"]),
        (&["--tenant", "default"], 2, &["default/attic", "default/vault"]),
        (&["--tenant", "default", "--scope", "attic"], 2, &["default/attic"]),
        (&["--tenant", "default", "--scope", "vault"], 0, &["default/vault"]),
    ] {
        assert_eq!(names(&verify(filter).exits(code).json()), wanted, "{filter:?}");
    }
    for filter in [&["--scope", "cellar"][..], &["--tenant", "nobody"], &["--tenant", "acme", "--scope", "attic"]] {
        assert!(verify(filter).exits(1).one_line().contains("--tenant"), "{filter:?}");
    }
    let nowhere = vault.place.path().join("nowhere");
    let ended = run(&mut aionis_on(&nowhere, &["verify"])).exits(1);
    assert!(ended.one_line().contains(nowhere.to_str().unwrap()), "{ended:?}");
    assert!(!nowhere.exists(), "a check makes nothing");
}

/// Every column of a commit is bound; the commit is named by its number.
#[test]
fn one_flipped_bit_in_any_column_of_a_commit_is_found() {
    let vault = Vault::new();
    for column in columns(&vault.place.data(), "memory_commits") {
        let data = vault.tampered(&format!("commit-{column}"), |database| match column.as_str() {
            // A flipped bit would be the number of another commit.
            "seq" => {
                let sql = "UPDATE memory_commits SET seq = 1002 WHERE scope_key = ?1 AND seq = 2";
                assert_eq!(database.execute(sql, [SCOPE]).unwrap(), 1);
            }
            column => flip(database, "memory_commits", column, "seq", &2),
        });
        let (told, found) = broken(&data);
        assert_eq!(found["object"], "commit", "{column}: {found}");
        // A commit that is missing shows at the one after it.
        let seq = if matches!(column.as_str(), "seq" | "scope_key") { 3 } else { 2 };
        assert_eq!(found["seq"], seq, "{column}: {found}");
        assert!(told.contains(&format!("at commit {seq}")), "{column}: {told}");
    }
}

/// Columns of a node that describe its use, not its meaning, or that are derived; see section 3 of the design.
const NODE_NOT_BOUND: &[&str] = &[
    "activity",
    "node_no",
    "tier",
    "salience",
    "salience_at",
    "importance",
    "confidence",
    "last_activated",
    "version",
    "content_seq",
    "created_at",
    "updated_at",
    "embedding_status",
    "embedding_model",
    "embedding_attempts",
    "embedding_last_error",
    "embedding_last_attempt_at",
    "embedding_ready_at",
    "embedding_pending_at",
    "recall_flags",
    "term_count",
    "name_key",
];

#[test]
fn one_flipped_bit_in_the_content_of_a_node_is_found() {
    let vault = Vault::new();
    let id = vault.full.as_bytes().to_vec();
    for column in columns(&vault.place.data(), "memory_nodes") {
        if NODE_NOT_BOUND.contains(&column.as_str()) {
            continue;
        }
        let data = vault.tampered(&format!("node-{column}"), |database| {
            flip(database, "memory_nodes", &column, "id", &id);
        });
        let (told, found) = broken(&data);
        if matches!(column.as_str(), "id" | "scope_key") {
            // The node is missing under its name; which of the two names is told first does not matter.
            assert!(matches!(found["object"].as_str().unwrap(), "node" | "edge"), "{column}: {found}");
        } else {
            assert_eq!((&found["object"], &found["id"]), (&json!("node"), &json!(vault.full)), "{column}: {found}");
        }
        assert!(told.contains(found["id"].as_str().unwrap()), "{column}: {told}");
    }
}

#[test]
fn one_flipped_bit_in_an_edge_is_found() {
    let vault = Vault::new();
    let id = vault.edge.as_bytes().to_vec();
    for column in columns(&vault.place.data(), "memory_edges") {
        if matches!(column.as_str(), "last_activated" | "created_at") {
            continue;
        }
        let data = vault.tampered(&format!("edge-{column}"), |database| {
            flip(database, "memory_edges", &column, "id", &id);
        });
        let (told, found) = broken(&data);
        if !matches!(column.as_str(), "id" | "scope_key") {
            assert_eq!((&found["object"], &found["id"]), (&json!("edge"), &json!(vault.edge)), "{column}: {found}");
        }
        assert!(told.contains(found["id"].as_str().unwrap()), "{column}: {told}");
    }
}

#[test]
fn missing_added_and_moved_rows_are_found() {
    let vault = Vault::new();
    let cases: &[(&str, &str)] = &[
        ("the last commit", "DELETE FROM memory_commits WHERE scope_key = 'default/vault' AND seq = 4"),
        ("the first commit", "DELETE FROM memory_commits WHERE scope_key = 'default/vault' AND seq = 1"),
        ("a node", "DELETE FROM memory_nodes WHERE scope_key = 'default/vault' AND client_id = 'full'"),
        ("an edge", "DELETE FROM memory_edges WHERE scope_key = 'default/vault'"),
        ("an earlier version", "DELETE FROM memory_node_versions WHERE scope_key = 'default/vault'"),
        (
            "text of an earlier version",
            "UPDATE memory_node_versions SET content = replace(content, 'quiet', 'quick') WHERE scope_key = 'default/vault'",
        ),
        (
            "number of an earlier version",
            "UPDATE memory_node_versions SET version = version + 1 WHERE scope_key = 'default/vault'",
        ),
        (
            "commit of an earlier version",
            "UPDATE memory_node_versions SET from_seq = from_seq + 1 WHERE scope_key = 'default/vault'",
        ),
        ("the head's number", "UPDATE memory_scopes SET head_seq = 3 WHERE scope_key = 'default/vault'"),
        ("the head's hash", "UPDATE memory_scopes SET head_hash = zeroblob(32) WHERE scope_key = 'default/vault'"),
        ("the count of nodes", "UPDATE memory_scopes SET node_count = 3 WHERE scope_key = 'default/vault'"),
        ("the count of edges", "UPDATE memory_scopes SET edge_count = 0 WHERE scope_key = 'default/vault'"),
        (
            "a node of another tenant",
            "UPDATE memory_nodes SET scope_key = 'default/vault', client_id = 'b' WHERE scope_key = 'acme/vault'",
        ),
        (
            "the tail with its head",
            "DELETE FROM memory_commits WHERE scope_key = 'default/vault' AND seq = 4;
          UPDATE memory_scopes SET head_seq = 3, head_hash = (SELECT hash FROM memory_commits c WHERE \
            c.scope_key = 'default/vault' AND c.seq = 3) WHERE scope_key = 'default/vault'",
        ),
    ];
    for (at, (what, sql)) in cases.iter().enumerate() {
        let data = vault.tampered(&format!("rows-{at}"), |database| {
            database.execute_batch(sql).unwrap();
            assert!(database.changes() > 0, "{what}: nothing was changed");
        });
        let (_, found) = broken(&data);
        assert!(!found["problem"].as_str().unwrap().is_empty(), "{what}: {found}");
        println!("{what}: {} {}: {}", found["object"], found["id"], found["problem"]);
    }
}

/// A scope with a live rule that has feedback.
fn governed() -> Vault {
    let place = Place::new();
    let server = Server::start(&place.data());
    let rule = json!({ "client_id": "rule", "type": "rule", "text_summary": "Ask first.", "memory_lane": "shared",
        "slots": { "if": {}, "then": { "tool": { "deny": ["rm"] } } } });
    let written = server.write(&json!({ "scope": "vault", "input_text": "input", "nodes": [rule] }));
    let id = written["nodes"][0]["id"].clone();
    let state = json!({ "scope": "vault", "rule_node_id": id, "state": "active", "input_text": "input" });
    server.post("/v1/memory/rules/state", &state).ok();
    let feedback = json!({ "scope": "vault", "rule_node_id": id, "outcome": "positive", "run_id": "run 1",
        "note": "It helped.", "input_text": "input" });
    let feedback = server.post("/v1/memory/feedback", &feedback).ok();
    server.stop();
    let id_of = |value: &Value| value.as_str().unwrap().parse().unwrap();
    Vault { full: id_of(&id), edge: id_of(&feedback["feedback_id"]), place }
}

#[test]
fn changed_rule_states_and_feedback_are_found() {
    let vault = governed();
    run(&mut aionis_on(&vault.place.data(), &["verify"])).exits(0);
    let cases: &[(&str, &str, &str)] = &[
        ("rule", "its state", "UPDATE memory_rule_defs SET state = 'disabled'"),
        ("rule", "its row", "DELETE FROM memory_rule_defs"),
        ("rule", "its first state", "UPDATE memory_rule_defs SET state = 'draft'"),
        ("feedback", "its outcome", "UPDATE memory_rule_feedback SET outcome = 'negative'"),
        ("feedback", "its run", "UPDATE memory_rule_feedback SET run_id = 'run 2'"),
        ("feedback", "its note", "UPDATE memory_rule_feedback SET note = 'It hindered.'"),
        ("feedback", "its source", "UPDATE memory_rule_feedback SET source = 'tools_feedback'"),
        ("feedback", "its decision", "UPDATE memory_rule_feedback SET decision_id = rule_node_id"),
        ("feedback", "its rule", "UPDATE memory_rule_feedback SET rule_node_id = id"),
        ("feedback", "its commit", "UPDATE memory_rule_feedback SET commit_seq = 2"),
        ("feedback", "its row", "DELETE FROM memory_rule_feedback"),
        (
            "feedback",
            "an added row",
            "INSERT INTO memory_rule_feedback SELECT scope_key, rule_node_id, rule_node_id, outcome, run_id, note, source, \
             decision_id, commit_seq, created_at FROM memory_rule_feedback",
        ),
    ];
    for (at, (object, what, sql)) in cases.iter().enumerate() {
        let data = vault.tampered(&format!("governed-{at}"), |database| {
            assert_eq!(database.execute(sql, []).unwrap(), 1, "{what}");
        });
        let (_, found) = broken(&data);
        assert_eq!(found["object"], *object, "{what}: {found}");
        let id = if *object == "rule" || *what == "an added row" { vault.full } else { vault.edge };
        assert_eq!(found["id"], json!(id), "{what}: {found}");
    }
}

/// Without its head a scope is not listed; its rows must not thereby escape verification.
#[test]
fn a_scope_without_its_head_is_found() {
    let vault = Vault::new();
    let data = vault.tampered("headless", |database| {
        assert_eq!(database.execute("DELETE FROM memory_scopes WHERE scope_key = ?1", [SCOPE]).unwrap(), 1);
    });
    let report = run(&mut aionis_on(&data, &["verify", "--json"]));
    assert_eq!(report.code, Some(2), "{report:#?}");
}

/// Damage below the rows: a page of the file is overwritten.
#[test]
fn a_damaged_page_never_verifies() {
    let vault = Vault::new();
    let data = vault.tampered("page", |database| {
        database.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    });
    let page = db::count(&db::read_only(&data), "SELECT rootpage FROM sqlite_master WHERE name = 'memory_commits'");
    let size = db::count(&db::read_only(&data), "PRAGMA page_size");
    let file = data.join("aionis.db");
    let mut bytes = std::fs::read(&file).unwrap();
    let start = usize::try_from((page - 1) * size).unwrap();
    bytes[start..start + 512].fill(0xa5);
    std::fs::write(&file, bytes).unwrap();
    for args in [&["verify", "--physical"][..], &["verify"]] {
        let ended = run(&mut aionis_on(&data, args));
        println!("{args:?}: {ended:?}");
        assert!(matches!(ended.code, Some(1 | 2)), "{ended:?}");
        assert!(ended.stdout.contains("BROKEN") || ended.one_line().contains("malformed"), "{ended:?}");
    }
}
