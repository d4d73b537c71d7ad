//! Two processes on one database: what one has acknowledged, the other answers from, though where little changes it looks
//! whether something has only while it searches.

use serde_json::{Value, json};

use crate::harness::{RECALL, RECALL_TEXT, Service, event, seeds, vector, warnings, writing};

/// Recalls after which a scope that nobody writes to counts as quiet, and some.
const QUIET_AFTER: usize = 8;

fn body(path: &str, text: &str) -> Value {
    match path {
        RECALL => json!({ "query_embedding": vector(text), "limit": 30 }),
        _ => json!({ "query_text": text, "limit": 30 }),
    }
}

fn with_vector(name: &str, text: &str) -> Value {
    let mut node = event(name, text);
    node["embedding"] = json!(vector(text));
    node
}

#[tokio::test]
async fn a_recall_has_seen_what_another_process_acknowledged() {
    let writer = Service::start_on_postgres().await;
    let reader = writer.beside().await;
    writer.write(&writing(&[with_vector("n", "the first of all")])).await;
    for (round, path) in [RECALL, RECALL_TEXT].into_iter().cycle().take(8).enumerate() {
        let text = format!("what was written in round {round}");
        for _ in 0..QUIET_AFTER {
            reader.post(path, &body(path, &text)).await.ok();
        }
        let written = writer.write(&writing(&[with_vector(&format!("n{round}"), &text)])).await;
        let answer = reader.post(path, &body(path, &text)).await.ok();
        assert!(seeds(&answer).contains(text.as_str()), "{path}: {answer}");
        assert_eq!(answer["as_of_commit"], written["commit_seq"], "{path}: {answer}");
        assert!(answer["context"]["text"].as_str().unwrap().contains(&text), "{answer}");
        // What is quiet again is answered the same, by whichever process.
        for _ in 0..QUIET_AFTER {
            assert_eq!(reader.post(path, &body(path, &text)).await.ok(), answer);
        }
        assert_eq!(writer.post(path, &body(path, &text)).await.ok(), answer);
    }
}

#[tokio::test]
async fn a_question_that_finds_nothing_has_seen_it_too() {
    let writer = Service::start_on_postgres().await;
    let reader = writer.beside().await;
    let mut private = with_vector("hidden", "only ann may see this");
    (private["memory_lane"], private["owner_agent_id"]) = (json!("private"), json!("ann"));
    writer.write(&writing(&[private])).await;
    let blank = json!({ "query_text": " " });
    for round in 0..3 {
        for _ in 0..QUIET_AFTER {
            for body in [&body(RECALL_TEXT, "anything"), &blank] {
                assert!(seeds(&reader.post(RECALL_TEXT, body).await.ok()).is_empty());
            }
        }
        let mut more = with_vector(&format!("hidden{round}"), &format!("nor that, {round}"));
        (more["memory_lane"], more["owner_agent_id"]) = (json!("private"), json!("ann"));
        let written = writer.write(&writing(&[more])).await;
        // Who asks first makes the others see it.
        let mut asked = [&body(RECALL_TEXT, "anything"), &blank];
        asked.rotate_left(round % 2);
        for body in asked {
            let answer = reader.post(RECALL_TEXT, body).await.ok();
            assert_eq!(answer["as_of_commit"], written["commit_seq"], "{answer}");
            let blanks = warnings(&answer).iter().filter(|code| **code == "blank_query").count();
            assert_eq!(blanks, usize::from(body == &blank), "said once: {answer}");
        }
    }
}
