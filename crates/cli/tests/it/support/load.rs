//! Many connections that write at once and keep what was acknowledged.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use rusqlite::Connection as Database;
use serde_json::{Value, json};

use super::{db, http::Connection};

/// A write the server answered with 200.
#[derive(Clone, Debug)]
pub(crate) struct Acknowledged {
    pub(crate) body: Value,
    pub(crate) client_id: String,
    pub(crate) text: String,
    pub(crate) node: String,
    pub(crate) commit_id: String,
    pub(crate) commit_hash: String,
    pub(crate) seq: u64,
}

/// What one connection wrote. Beside nodes of their own, a writer keeps one node that it writes again and again.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) notes: Vec<Acknowledged>,
    /// Contents of the repeated node, in order.
    pub(crate) counter: Vec<Acknowledged>,
    counter_client_id: String,
    /// The content of the repeated node that was sent last, when no answer came.
    unanswered_counter: Option<String>,
}

/// A word that no other (round, writer, number) has, in letters so that nothing takes it for a phone number.
pub(crate) fn word(round: u64, writer: u64, number: u64) -> String {
    let mut rest = (round * 1_000 + writer) * 100_000 + number;
    let mut word = String::from("zq");
    while rest > 0 {
        word.push(char::from(b'a' + (rest % 26) as u8));
        rest /= 26;
    }
    word.push('x');
    word
}

/// Writes on one connection until it breaks.
pub(crate) fn write_until_broken(port: u16, scope: &str, round: u64, writer: u64, acknowledged: &AtomicU64) -> Written {
    let mut written = Written { counter_client_id: format!("counter-{writer}"), ..Written::default() };
    let Ok(mut connection) = Connection::open(port) else { return written };
    for number in 0.. {
        let counts = number % 5 == 4;
        let (client_id, text) = if counts {
            (written.counter_client_id.clone(), format!("writer {writer} stands at {}", word(round, writer, number)))
        } else {
            let text = format!("the surveyor noted {} beside the river", word(round, writer, number));
            (format!("note-{round}-{writer}-{number}"), text)
        };
        let mut body = json!({
            "scope": scope, "actor": format!("writer-{writer}"), "input_text": text, "memory_lane": "shared",
            "nodes": [{ "client_id": client_id, "type": "event", "text_summary": text }],
        });
        if number % 3 == 1
            && let Some(first) = written.notes.first()
        {
            let ends = (json!({ "client_id": client_id }), json!({ "client_id": first.client_id }));
            body["edges"] = json!([{ "type": "related_to", "src": ends.0, "dst": ends.1 }]);
        }
        match connection.post("/v1/memory/write", &body) {
            Ok(answer) => {
                let write = read(body, client_id, text, &answer.ok());
                if counts { &mut written.counter } else { &mut written.notes }.push(write);
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err(e) => {
                assert!(!matches!(e.kind(), io::ErrorKind::InvalidData | io::ErrorKind::WouldBlock), "{e}");
                written.unanswered_counter = counts.then_some(text);
                break;
            }
        }
    }
    written
}

fn read(body: Value, client_id: String, text: String, answer: &Value) -> Acknowledged {
    let string = |value: &Value| value.as_str().unwrap().to_owned();
    assert_eq!(answer["nodes"][0]["client_id"], client_id.as_str(), "{answer}");
    assert_eq!(answer["replayed"], false, "{answer}");
    Acknowledged {
        node: string(&answer["nodes"][0]["id"]),
        commit_id: string(&answer["commit_id"]),
        commit_hash: string(&answer["commit_hash"]),
        seq: answer["commit_seq"].as_u64().unwrap(),
        body,
        client_id,
        text,
    }
}

/// Panics unless everything acknowledged is stored, in the commit that was named. The repeated node of a writer must
/// hold what was acknowledged last, or what was sent after that and not answered.
pub(crate) fn assert_stored(data: &Path, scope: &str, written: &[Written]) {
    let database = db::read_only(data);
    let (commits, nodes) = (db::commits(&database, scope), db::nodes(&database, scope));
    let mut owner: HashMap<u64, &str> = HashMap::new();
    for write in written.iter().flat_map(|w| w.notes.iter().chain(&w.counter)) {
        let commit = commits.get(&write.seq).unwrap_or_else(|| panic!("the commit is lost: {write:?}"));
        assert_eq!((&commit.hash, &commit.id), (&write.commit_hash, &write.commit_id), "another commit: {write:?}");
        assert!(commit.changes.contains(&write.node), "the commit does not name its node: {write:?}");
        let other = owner.insert(write.seq, &write.client_id);
        assert_eq!(other, None, "two writes were given one commit: {write:?}");
        let node = nodes.get(&write.client_id).unwrap_or_else(|| panic!("the node is lost: {write:?}"));
        assert_eq!(node.id, write.node);
    }
    for write in written.iter().flat_map(|w| &w.notes) {
        let node = &nodes[&write.client_id];
        assert_eq!((&node.text, node.commit_seq), (&write.text, write.seq), "{write:?}");
    }
    let mut allowed: HashMap<&str, Vec<&str>> = HashMap::new();
    for w in written {
        if let Some(write) = w.counter.last() {
            allowed.insert(&w.counter_client_id, vec![&write.text]);
        }
        if let (Some(text), Some(allowed)) = (&w.unanswered_counter, allowed.get_mut(w.counter_client_id.as_str())) {
            allowed.push(text);
        }
    }
    for (client_id, allowed) in allowed {
        let text = nodes[client_id].text.as_str();
        assert!(allowed.contains(&text), "an update is lost: {client_id} holds {text:?}, not one of {allowed:?}");
    }
    assert_outbox(&database);
}

/// Panics unless every node without a vector has work waiting for it.
fn assert_outbox(database: &Database) {
    let texts = |sql: &str| -> Vec<String> {
        database.prepare(sql).unwrap().query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let payloads = texts("SELECT payload FROM memory_outbox WHERE published_at IS NULL AND failed_at IS NULL");
    let waiting: HashSet<String> = payloads
        .iter()
        .map(|payload| serde_json::from_str::<Value>(payload).unwrap())
        .flat_map(|payload| payload["nodes"].as_array().unwrap().clone())
        .map(|node| node["id"].as_str().unwrap().replace('-', ""))
        .collect();
    let pending = texts("SELECT lower(hex(id)) FROM memory_nodes WHERE embedding_status = 'pending'");
    let forgotten: Vec<&String> = pending.iter().filter(|id| !waiting.contains(*id)).collect();
    assert!(forgotten.is_empty(), "nodes wait for vectors that nobody will derive: {forgotten:?}");
}
