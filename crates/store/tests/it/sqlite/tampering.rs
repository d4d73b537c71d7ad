//! Whatever is changed behind the engine's back is found, and named.

use std::sync::Arc;

use aionis_core::{
    canon::{Digest, sha256},
    chain::ChainBreak,
    forget::PreparedForget,
    ids::{EdgeId, NodeId},
    model::{EdgeType, NodeType, Tier},
    ports::store::Store,
};
use aionis_testkit::{
    assert_sound,
    fixtures::{DIM, Rng, WriteBuilder, node_id, scope},
    sqlite::{CrashCopy, TempStore},
    verify,
};
use rusqlite::{Connection, params, types::Value};
use serde_json::json;
use uuid::Uuid;

/// Two scopes with nodes, edges, versions and touches.
struct History {
    temp: TempStore,
    full: NodeId,
    edge: EdgeId,
}

fn full_node(round: u64) -> WriteBuilder {
    let write = WriteBuilder::new(&scope("s")).input(&format!("round {round}"));
    let write = write.request(|request| {
        request.model_version = Some("model 1".to_owned());
        request.prompt_version = Some("prompt 2".to_owned());
    });
    write.node("full", &format!("summary {round}")).title("Title").vector(Rng::new(round).vector(DIM)).with(|n| {
        n.slots = Some(json!({ "key": "value", "n": 7 }));
        (n.raw_ref, n.evidence_ref) = (Some("raw".to_owned()), Some("evidence".to_owned()));
        n.producer_agent_id = Some("producer".to_owned());
        (n.owner_agent_id, n.owner_team_id) = (Some("ann".to_owned()), Some("red".to_owned()));
    })
}

async fn history() -> History {
    let temp = TempStore::new();
    let store = temp.port();
    let write = async |write: WriteBuilder| store.write(write.prepared()).await.unwrap();
    let first = full_node(1).node("bare", "bare").node("other", "other").edge("full", "bare").strength(0.5, 0.25);
    let first = write(first.edge("bare", "other").with_edge(|e| e.edge_type = EdgeType::PartOf)).await;
    write(full_node(2)).await;
    write(full_node(3).edge("full", "bare").strength(0.75, 0.25)).await;
    write(full_node(3).input("touch").with(|n| n.tier = Some(Tier::Warm))).await;
    write(WriteBuilder::new(&scope("s")).node("rule", "rule").with(|n| n.node_type = NodeType::Rule)).await;
    write(WriteBuilder::new(&scope("t")).node("a", "a").node("b", "b").edge("a", "b")).await;
    assert_sound(&*store).await;
    History { full: node_id(&scope("s"), "full"), edge: first.edges[0].0, temp }
}

/// What is in a cell, changed in one way.
fn flips(value: &Value) -> Vec<Value> {
    let bytes_with = |bytes: &[u8], at: usize, mask: u8| {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= mask;
        bytes
    };
    match value {
        Value::Null => vec![Value::Text(String::new()), Value::Text("x".to_owned())],
        Value::Integer(n) => vec![Value::Integer(n + 1), Value::Integer(n - 1), Value::Integer(-n)],
        Value::Real(x) => vec![Value::Real(x + 0.125), Value::Real(x - 1e-9), Value::Real(0.0)],
        Value::Text(text) => {
            let bytes = text.as_bytes();
            // Every byte of a short text, some thirty of a long one.
            let mut flipped: Vec<Value> = (0..bytes.len())
                .step_by(bytes.len() / 30 + 1)
                .map(|at| Value::Text(String::from_utf8(bytes_with(bytes, at, 1)).unwrap()))
                .collect();
            flipped.push(Value::Text(format!("{text}x")));
            flipped.push(Value::Text(String::new()));
            // Not UTF-8 any more; written as text nevertheless.
            flipped.push(Value::Blob(bytes_with(bytes, bytes.len() / 2, 0x80)));
            flipped
        }
        Value::Blob(bytes) => {
            [0, bytes.len() / 2, bytes.len() - 1].map(|at| Value::Blob(bytes_with(bytes, at, 1))).to_vec()
        }
    }
}

impl History {
    fn store(&self) -> Arc<dyn Store> {
        self.temp.port()
    }

    /// Changes a cell in every way the schema allows, and hands every break to `check`; the cell is put back.
    async fn flip(&self, table: &str, column: &str, (key, row): (&str, Value), check: impl Fn(&ChainBreak, &Value)) {
        let (raw, store) = (self.temp.raw(), self.store());
        let read = format!("SELECT {column} FROM {table} WHERE {key} = ?1");
        let original: Value = raw.query_row(&read, [&row], |found| found.get(0)).unwrap();
        let mut values = flips(&original);
        if original != Value::Null && nullable(&raw, table, column) {
            values.push(Value::Null);
        }
        if let (Value::Blob(_), false) = (&original, ["id", "node_id"].contains(&column)) {
            values.push(Value::Blob(Vec::new()));
        }
        let mut changed = 0;
        for value in values {
            let as_text = matches!((&original, &value), (Value::Text(_), Value::Blob(_)));
            let place = if as_text { "CAST(?1 AS TEXT)" } else { "?1" };
            let update = format!("UPDATE {table} SET {column} = {place} WHERE {key} = ?2");
            if raw.execute(&update, params![value, row]).is_err() {
                // The schema itself refuses it.
                continue;
            }
            changed += 1;
            let broken = verify(&*store).await;
            let broken = broken.expect_err(&format!("{table}.{column} = {value:?} instead of {original:?}"));
            check(&broken, &value);
            let back = if key == column { &value } else { &row };
            let place = if as_text && key == column { "CAST(?2 AS TEXT)" } else { "?2" };
            let restore = format!("UPDATE {table} SET {column} = ?1 WHERE {key} = {place}");
            assert_eq!(raw.execute(&restore, params![original, back]).unwrap(), 1);
        }
        assert!(changed > 0, "{table}.{column} was not changed at all");
        verify(&*store).await.expect("everything was put back");
    }

    /// What verification says of a copy that was tampered with.
    async fn tampered(&self, tamper: impl FnOnce(&Connection)) -> ChainBreak {
        let copy: CrashCopy = self.temp.crash_copy();
        tamper(&copy.raw());
        let temp = copy.open();
        verify(&*temp.port()).await.expect_err("tampering is found")
    }

    /// Runs a statement that must change rows.
    async fn after(&self, sql: &str) -> ChainBreak {
        self.tampered(|raw| assert!(raw.execute(sql, []).unwrap() > 0, "{sql}")).await
    }
}

fn nullable(raw: &Connection, table: &str, column: &str) -> bool {
    let sql = "SELECT \"notnull\" = 0 AND pk = 0 FROM pragma_table_info(?1) WHERE name = ?2";
    raw.query_row(sql, [table, column], |row| row.get(0)).unwrap()
}

fn bytes(id: Uuid) -> Value {
    Value::Blob(id.as_bytes().to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_column_of_a_node_that_is_bound() {
    let history = history().await;
    for column in [
        "id",
        "client_id",
        "type",
        "title",
        "text_summary",
        "slots",
        "raw_ref",
        "evidence_ref",
        "memory_lane",
        "producer_agent_id",
        "owner_agent_id",
        "owner_team_id",
        "digest",
        "commit_seq",
        "commit_id",
    ] {
        for name in ["full", "bare"] {
            let id = node_id(&scope("s"), name);
            let key = ("id", bytes(id.0));
            history
                .flip("memory_nodes", column, key, |broken, value| {
                    assert_eq!(
                        (broken.object.as_str(), broken.scope_key.as_str()),
                        ("node", "default/s"),
                        "{broken:?}"
                    );
                    let named = Uuid::parse_str(&broken.id).unwrap();
                    assert!(named == id.0 || bytes(named) == *value, "{column}: {broken:?}");
                })
                .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_column_of_an_edge() {
    let history = history().await;
    for column in ["id", "type", "src_id", "dst_id", "weight", "confidence", "decay_rate", "commit_seq"] {
        let id = history.edge.0;
        history
            .flip("memory_edges", column, ("id", bytes(id)), |broken, value| {
                assert_eq!((broken.object.as_str(), broken.scope_key.as_str()), ("edge", "default/s"), "{broken:?}");
                let named = Uuid::parse_str(&broken.id).unwrap();
                assert!(named == id || bytes(named) == *value, "{column}: {broken:?}");
            })
            .await;
    }
    for (column, other) in [("src_id", "other"), ("dst_id", "other"), ("type", "part_of")] {
        let other = match column {
            "type" => Value::Text(other.to_owned()),
            _ => bytes(node_id(&scope("s"), other).0),
        };
        let broken = history
            .tampered(|raw| {
                let sql = format!("UPDATE memory_edges SET {column} = ?1 WHERE id = ?2");
                assert_eq!(raw.execute(&sql, params![other, bytes(history.edge.0)]).unwrap(), 1);
            })
            .await;
        assert_eq!((broken.object, broken.id), ("edge".to_owned(), history.edge.to_string()), "{column}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_column_of_a_commit() {
    let history = history().await;
    let rows: Vec<(i64, i64)> = {
        let raw = history.temp.raw();
        let sql =
            "SELECT rowid, seq FROM memory_commits WHERE scope_key = 'default/s' AND seq IN (1, 3, 5) ORDER BY seq";
        let mut statement = raw.prepare(sql).unwrap();
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
    };
    for column in [
        "id",
        "parent_hash",
        "hash",
        "kind",
        "actor",
        "model_version",
        "prompt_version",
        "input_sha256",
        "request_sha256",
        "changes",
        "created_at",
    ] {
        for (row, seq) in &rows {
            history
                .flip("memory_commits", column, ("rowid", Value::Integer(*row)), |broken, _| {
                    assert_eq!(
                        (broken.object.as_str(), broken.scope_key.as_str()),
                        ("commit", "default/s"),
                        "{broken:?}"
                    );
                    assert_eq!(broken.seq, Some(u64::try_from(*seq).unwrap()), "{column}: {broken:?}");
                })
                .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_moved_taken_out_or_put_in() {
    let history = history().await;
    for (sql, object, seq) in [
        ("UPDATE memory_commits SET seq = 9 WHERE seq = 3", "commit", Some(4)),
        ("UPDATE memory_commits SET seq = 9 WHERE seq = 5", "commit", Some(9)),
        ("UPDATE memory_commits SET scope_key = 'default/x' WHERE seq = 3", "commit", Some(4)),
        ("DELETE FROM memory_commits WHERE scope_key = 'default/s' AND seq = 1", "commit", Some(2)),
        ("DELETE FROM memory_commits WHERE scope_key = 'default/s' AND seq = 3", "commit", Some(4)),
        ("DELETE FROM memory_commits WHERE scope_key = 'default/s' AND seq = 5", "head", None),
        ("DELETE FROM memory_commits WHERE scope_key = 'default/s'", "head", None),
        (
            "INSERT INTO memory_commits SELECT scope_key, 6, randomblob(16), hash, randomblob(32), kind, actor, \
             model_version, prompt_version, input_sha256, request_sha256, changes, created_at \
             FROM memory_commits WHERE scope_key = 'default/s' AND seq = 5",
            "commit",
            Some(6),
        ),
    ] {
        let broken = history.after(sql).await;
        assert_eq!((broken.object.as_str(), broken.seq), (object, seq), "{sql}: {broken:?}");
        assert_eq!(broken.scope_key, "default/s", "{sql}");
    }
    let swapped = history
        .tampered(|raw| {
            let swap = "UPDATE memory_commits SET seq = 99 WHERE scope_key = 'default/s' AND seq = 2;
                        UPDATE memory_commits SET seq = 2 WHERE scope_key = 'default/s' AND seq = 3;
                        UPDATE memory_commits SET seq = 3 WHERE scope_key = 'default/s' AND seq = 99;";
            raw.execute_batch(swap).unwrap();
        })
        .await;
    assert_eq!((swapped.object.as_str(), swapped.seq), ("commit", Some(2)));
    // A tail cut off together with its head is told by the objects it made.
    let cut = history
        .tampered(|raw| {
            let cut = "DELETE FROM memory_commits WHERE scope_key = 'default/s' AND seq = 5;
                       UPDATE memory_scopes SET head_seq = 4, head_hash = (SELECT hash FROM memory_commits c
                           WHERE c.scope_key = 'default/s' AND c.seq = 4) WHERE scope_key = 'default/s';";
            raw.execute_batch(cut).unwrap();
        })
        .await;
    assert_eq!((cut.object, cut.id), ("node".to_owned(), node_id(&scope("s"), "rule").to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bound_column_of_a_kept_version() {
    let history = history().await;
    let (full, temp) = (history.full, &history.temp);
    let row: i64 =
        temp.raw().query_row("SELECT rowid FROM memory_node_versions WHERE version = 2", [], |row| row.get(0)).unwrap();
    for column in ["content", "from_seq"] {
        history
            .flip("memory_node_versions", column, ("rowid", Value::Integer(row)), |broken, _| {
                assert_eq!(
                    (broken.object.as_str(), broken.id.as_str()),
                    ("version", format!("{full}/2").as_str()),
                    "{broken:?}"
                );
            })
            .await;
    }
    for column in ["node_id", "version"] {
        history
            .flip("memory_node_versions", column, ("rowid", Value::Integer(row)), |broken, _| {
                assert_eq!(broken.object, "version", "{column}: {broken:?}");
            })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_taken_out_or_put_in() {
    let history = history().await;
    let (s, t) = (scope("s"), scope("t"));
    let full = history.full;
    let missing = history.tampered(|raw| {
        assert_eq!(raw.execute("DELETE FROM memory_nodes WHERE id = ?1", [bytes(full.0)]).unwrap(), 1);
    });
    let missing = missing.await;
    assert!(
        (missing.object == "node" && missing.id == full.to_string())
            || (missing.object == "edge" && missing.id == history.edge.to_string()),
        "the node, or its edge that now hangs in the air: {missing:?}"
    );
    let bare = node_id(&t, "b");
    let unlinked = history.tampered(|raw| {
        raw.execute("DELETE FROM memory_nodes WHERE id = ?1", [bytes(node_id(&s, "rule").0)]).unwrap();
    });
    let unlinked = unlinked.await;
    assert_eq!((unlinked.object, unlinked.id), ("node".to_owned(), node_id(&s, "rule").to_string()));
    let no_edge = history.tampered(|raw| {
        assert_eq!(raw.execute("DELETE FROM memory_edges WHERE id = ?1", [bytes(history.edge.0)]).unwrap(), 1);
    });
    let no_edge = no_edge.await;
    assert_eq!((no_edge.object, no_edge.id), ("edge".to_owned(), history.edge.to_string()));
    for version in [1, 2] {
        let broken = history.after(&format!("DELETE FROM memory_node_versions WHERE version = {version}")).await;
        assert_eq!((broken.object, broken.id), ("version".to_owned(), format!("{full}/{version}")));
    }
    // A node of another scope, copied with everything that belongs to it.
    let foreign = "INSERT INTO memory_nodes (scope_key, id, client_id, type, title, text_summary, slots, raw_ref, \
         evidence_ref, memory_lane, producer_agent_id, owner_agent_id, owner_team_id, tier, salience, salience_at, \
         importance, confidence, version, digest, content_seq, commit_seq, commit_id, created_at, updated_at, \
         embedding_status, recall_flags, term_count) \
         SELECT 'default/s', id, client_id, type, title, text_summary, slots, raw_ref, evidence_ref, memory_lane, \
         producer_agent_id, owner_agent_id, owner_team_id, tier, salience, salience_at, importance, confidence, version, \
         digest, content_seq, commit_seq, commit_id, created_at, updated_at, embedding_status, recall_flags, term_count \
         FROM memory_nodes WHERE scope_key = 'default/t' AND client_id = 'b'";
    let broken = history.after(foreign).await;
    assert_eq!((broken.object, broken.id), ("node".to_owned(), bare.to_string()));
    let edge = "INSERT INTO memory_edges SELECT scope_key, dst_id, type, src_id, randomblob(16), weight, confidence, \
                decay_rate, last_activated, created_at, commit_seq FROM memory_edges WHERE scope_key = 'default/t'";
    assert_eq!(history.after(edge).await.object, "edge");
    let version = "INSERT INTO memory_node_versions SELECT scope_key, node_id, 3, from_seq, to_seq, content \
                   FROM memory_node_versions WHERE version = 2";
    let broken = history.after(version).await;
    assert_eq!((broken.object, broken.id), ("version".to_owned(), format!("{full}/3")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_head_of_a_scope() {
    let history = history().await;
    for sql in [
        "UPDATE memory_scopes SET head_seq = head_seq + 1 WHERE scope_key = 'default/s'",
        "UPDATE memory_scopes SET head_seq = 0 WHERE scope_key = 'default/s'",
        "UPDATE memory_scopes SET head_hash = zeroblob(32) WHERE scope_key = 'default/s'",
        "UPDATE memory_scopes SET node_count = node_count + 1 WHERE scope_key = 'default/s'",
        "UPDATE memory_scopes SET edge_count = edge_count - 1 WHERE scope_key = 'default/s'",
        "UPDATE memory_scopes SET scope_key = 'default/r' WHERE scope_key = 'default/s'",
        "DELETE FROM memory_scopes WHERE scope_key = 'default/s'",
    ] {
        let broken = history.after(sql).await;
        assert_eq!(broken.object, "head", "{sql}: {broken:?}");
        assert!(["default/s", "default/r"].contains(&broken.scope_key.as_str()), "{broken:?}");
    }
}

/// Rows of a scope nobody ever wrote to.
#[tokio::test(flavor = "multi_thread")]
async fn a_scope_out_of_nowhere() {
    let history = history().await;
    for (table, object) in [
        ("memory_commits", "commit"),
        ("memory_nodes", "node"),
        ("memory_edges", "edge"),
        ("memory_node_versions", "version"),
    ] {
        let sql = format!("UPDATE {table} SET scope_key = 'aaa/x' WHERE scope_key = 'default/s'");
        let broken = history.after(&sql).await;
        assert_eq!((broken.scope_key.as_str(), broken.object.as_str()), ("aaa/x", object), "{broken:?}");
    }
}

/// What is kept of a forgotten node is bound too, and so is that it is gone.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_of_forgotten_nodes() {
    let history = history().await;
    let (s, store) = (scope("s"), history.temp.port());
    let bare = node_id(&s, "bare");
    let asked = |token| PreparedForget {
        scope: s.clone(),
        actor: "a".to_owned(),
        ids: vec![bare],
        missing_client_ids: Vec::new(),
        viewer: None,
        token,
        request_digest: sha256("forget"),
        idempotency: None,
    };
    let row = "CREATE TABLE kept AS SELECT * FROM memory_nodes WHERE scope_key = 'default/s' AND client_id = 'bare'";
    history.temp.raw().execute_batch(row).unwrap();
    let look = store.forget(asked(None)).await.unwrap();
    store.forget(asked(Digest::from_hex(&look.token).ok())).await.unwrap();
    assert_sound(&*store).await;
    for sql in [
        "DELETE FROM memory_erasures",
        "UPDATE memory_erasures SET digest = zeroblob(32)",
        "UPDATE memory_erasures SET commit_seq = commit_seq - 1",
        "UPDATE memory_erasures SET id = randomblob(16)",
        "INSERT INTO memory_erasures SELECT scope_key, randomblob(16), digest, memory_lane, owner_agent_id, owner_team_id, \
             commit_seq, erased_at FROM memory_erasures",
    ] {
        let broken = history.after(sql).await;
        assert_eq!(broken.object, "erasure", "{sql}: {broken:?}");
    }
    let back = history.after("INSERT INTO memory_nodes SELECT * FROM kept").await;
    assert_eq!((back.object.as_str(), back.id), ("node", bare.to_string()));
    assert!(back.problem.contains("erased it"), "{}", back.problem);
}
