//! A write is found by its words the moment its 200 is there, long before its vector.

use serde_json::json;

use crate::support::{
    place::Place,
    server::{Server, seed_ids},
};

#[test]
fn a_write_is_found_by_the_next_request() {
    let place = Place::new();
    let server = Server::start_without_worker(&place.data());
    let (mut writer, mut reader) = (server.connect(), server.connect());
    for (number, fruit) in ["quince", "medlar", "persimmon", "tamarind", "loquat", "rambutan"].into_iter().enumerate() {
        let body = json!({
            "scope": "pantry", "input_text": fruit,
            "nodes": [{ "client_id": fruit, "type": "event", "memory_lane": "shared",
                        "text_summary": format!("There is a jar of {fruit} jam on the shelf.") }],
        });
        let written = writer.post("/v1/memory/write", &body).unwrap().ok();
        let question = json!({ "scope": "pantry", "query_text": format!("where is the {fruit}?") });
        let answer = reader.post("/v1/memory/recall_text", &question).unwrap().ok();
        assert_eq!(seed_ids(&answer).first(), Some(&written["nodes"][0]["id"].as_str().unwrap()), "{answer}");
        assert_eq!(answer["as_of_commit"], written["commit_seq"], "{answer}");
        assert_eq!(answer["pending"]["nodes"], number + 1, "the lag of vectors shows: {answer}");
        assert!(answer["context"]["text"].as_str().unwrap().contains(fruit), "{answer}");
    }
    server.stop();
}
