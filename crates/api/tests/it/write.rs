//! What a write does and says.

use serde_json::json;

use crate::harness::{Service, Vectors, WRITE, event, seeds, vector, warnings, writing};

#[tokio::test]
async fn an_update_keeps_the_chain_and_replaces_what_recall_finds() {
    let service = Service::start();
    service.write(&writing(&[event("e1", "the harbour is closed")])).await;
    service.drain().await;
    let updated = service.write(&writing(&[event("e1", "the market is open")])).await;
    assert_eq!((&updated["nodes"][0]["status"], &updated["commit_seq"]), (&json!("updated"), &json!(2)));
    assert_eq!(updated["embedding_backfill"], json!({ "enqueued": true, "pending_nodes": 1 }));

    assert!(
        seeds(&service.recall_text(&json!({ "query_text": "harbour" })).await).is_empty(),
        "the old words are gone"
    );
    assert!(seeds(&service.ask("market").await).contains("the market is open"));
    let old = json!({ "query_embedding": vector("the harbour is closed") });
    assert!(seeds(&service.recall(&old).await).is_empty(), "the old vector went with the old text");

    service.drain().await;
    let new = service.recall(&json!({ "query_embedding": vector("the market is open") })).await;
    assert!((new["seeds"][0]["similarity"].as_f64().unwrap() - 1.0).abs() < 1e-6, "{new}");
    service.assert_sound().await;
}

#[tokio::test]
async fn w_22_an_edge_may_name_an_earlier_node_by_its_client_id() {
    let service = Service::start();
    let earlier = service.write(&writing(&[event("e1", "first")])).await;
    let later = service
        .write(&json!({
            "input_text": "later",
            "nodes": [event("e2", "second")],
            "edges": [{ "type": "related_to", "src": { "client_id": " e2 " }, "dst": { "client_id": "e1" } }],
        }))
        .await;
    assert_eq!(later["edges"][0]["dst_id"], earlier["nodes"][0]["id"]);
    assert_eq!(later["edges"][0]["status"], "created");
}

#[tokio::test]
async fn an_edge_sent_again_keeps_the_larger_weights_and_its_id() {
    let service = Service::start();
    let edge = |id: &str, weight: f64, confidence: f64| {
        json!({
            "input_text": "x",
            "nodes": [event("e1", "first"), event("e2", "second")],
            "edges": [{
                "id": id, "type": "related_to", "src": { "client_id": "e1" }, "dst": { "client_id": "e2" },
                "weight": weight, "confidence": confidence,
            }],
        })
    };
    let (first, second) = ("00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002");
    service.write(&edge(first, 0.9, 0.3)).await;
    let again = service.write(&edge(second, 0.4, 0.8)).await;
    assert_eq!((&again["edges"][0]["id"], &again["edges"][0]["status"]), (&json!(first), &json!("updated")));
    let found = service.ask("first").await;
    assert_eq!(found["subgraph"]["edges"][0]["weight"], 0.9);
    let third = service.write(&edge(second, 0.1, 0.1)).await;
    assert_eq!(third["edges"][0]["status"], "unchanged");
    service.assert_sound().await;
}

#[tokio::test]
async fn a_write_without_nodes_is_a_commit_too() {
    let service = Service::start();
    let written = service.write(&json!({ "input_text": "only commit" })).await;
    assert_eq!((&written["commit_seq"], &written["nodes"]), (&json!(1), &json!([])));
    assert!(written.get("embedding_backfill").is_none() && written.get("warnings").is_none(), "{written}");
}

#[tokio::test]
async fn the_digest_wins_over_the_text() {
    let service = Service::start();
    let sha = "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9";
    let by_digest = service.write(&json!({ "input_sha256": sha, "input_text": "something else" })).await;
    let by_text = service.write(&json!({ "input_text": "hello  world" })).await;
    assert_eq!(by_text["commit_id"], by_digest["commit_id"], "the same input, so the same request");
    assert_eq!(by_text["replayed"], true);
}

#[tokio::test]
async fn a_parent_that_is_not_the_newest_commit_is_noted() {
    let service = Service::start();
    let first = service.write(&json!({ "input_text": "one" })).await;
    let head = json!({ "input_text": "two", "parent_commit_id": first["commit_id"] });
    assert_eq!(warnings(&service.write(&head).await), Vec::<&str>::new());
    let older = json!({ "input_text": "three", "parent_commit_id": first["commit_id"] });
    let written = service.write(&older).await;
    assert_eq!((warnings(&written), &written["commit_seq"]), (vec!["parent_not_head"], &json!(3)));
}

#[tokio::test]
async fn w_23_what_nobody_will_see_is_noted() {
    let service = Service::start();
    let node = json!({ "client_id": "e1", "type": "event", "text_summary": "to nobody" });
    let written = service.write(&json!({ "input_text": "x", "nodes": [node] })).await;
    assert_eq!(warnings(&written), ["private_without_owner"]);
    for owner in ["producer_agent_id", "owner_agent_id", "owner_team_id"] {
        let mut owned = json!({ "input_text": owner, "nodes": [node] });
        owned[owner] = json!("ann");
        assert_eq!(warnings(&service.write(&owned).await), Vec::<&str>::new(), "{owner}");
    }
}

#[tokio::test]
async fn clustering_that_is_asked_for_is_due_at_once() {
    let service = Service::start();
    let mut body = writing(&[event("e1", "one")]);
    assert!(service.write(&body).await.get("topic_cluster").is_none(), "it was not asked for");
    body["trigger_topic_cluster"] = json!(true);
    body["topic_cluster_async"] = json!(false);
    let written = service.write(&body).await;
    assert_eq!(written["topic_cluster"], json!({ "enqueued": true }));
    assert!(written.get("warnings").is_none(), "{written}");
    let mut body = writing(&[json!({ "client_id": "n", "type": "entity", "title": "Ada" })]);
    body["trigger_topic_cluster"] = json!(true);
    assert!(service.write(&body).await.get("topic_cluster").is_none(), "there are no events");
}

#[tokio::test]
async fn a_vector_the_caller_brings_is_found_at_once() {
    let service = Service::start();
    let mut node = event("e1", "carried along");
    node["embedding"] = json!(vector("anything"));
    node["embedding_model"] = json!(" my:model ");
    let written = service.write(&writing(&[node])).await;
    assert!(written.get("embedding_backfill").is_none(), "{written}");
    let found = service.recall(&json!({ "query_embedding": vector("anything"), "include_meta": true })).await;
    assert!(seeds(&found).contains("carried along"));
    let meta = &found["subgraph"]["nodes"][0];
    assert_eq!((&meta["embedding_status"], &meta["embedding_model"]), (&json!("ready"), &json!("my:model")));
    assert_eq!(found["pending"], json!({ "nodes": 0, "oldest_ms": null }));
}

#[tokio::test]
async fn a_node_not_to_be_embedded_waits_for_nothing() {
    let service = Service::start();
    let mut body = writing(&[event("e1", "words only")]);
    body["auto_embed"] = json!(false);
    let written = service.write(&body).await;
    assert!(written.get("embedding_backfill").is_none(), "{written}");
    let found = service.recall_text(&json!({ "query_text": "words", "include_meta": true })).await;
    assert_eq!(found["pending"]["nodes"], 0);
    assert_eq!(found["subgraph"]["nodes"][0]["embedding_status"], "failed");
}

#[tokio::test]
async fn a_forced_vector_is_derived_again() {
    let service = Service::start();
    let body = writing(&[event("e1", "words")]);
    service.write(&body).await;
    assert_eq!(service.drain().await.vectors, 1);
    let mut forced = body.clone();
    forced["force_reembed"] = json!(true);
    let written = service.write(&forced).await;
    assert_eq!(
        (&written["nodes"][0]["status"], &written["embedding_backfill"]["pending_nodes"]),
        (&json!("unchanged"), &json!(1))
    );
    assert_eq!(service.drain().await.vectors, 1);
}

#[tokio::test]
async fn without_a_provider_a_write_says_so() {
    for (vectors, code) in
        [(Vectors::Disabled, "no_embedding_provider"), (Vectors::ModelMissing, "embedding_model_missing")]
    {
        let waits = matches!(vectors, Vectors::ModelMissing);
        let service = Service::with(|setup| setup.vectors = vectors);
        let written = service.write(&writing(&[event("e1", "words")])).await;
        assert_eq!(warnings(&written), [code]);
        assert_eq!(
            written.get("embedding_backfill").is_some(),
            waits,
            "a model that is to come finds its work waiting"
        );
        let mut quiet = writing(&[event("e2", "more")]);
        quiet["auto_embed"] = json!(false);
        assert_eq!(warnings(&service.write(&quiet).await), Vec::<&str>::new(), "nothing was asked for");
    }
}

#[tokio::test]
async fn texts_of_all_kinds_come_back_as_they_were() {
    let service = Service::start();
    let slots = json!({
        "__proto__": { "polluted": true }, "constructor": { "prototype": 1 }, "": "empty key", "emoji": "👩‍👩‍👧‍👦",
        "big": 12_345_678_901_234_567_890_u64, "small": 5e-324, "nested": [[[{ "a": null }]]], "tail\u{200b}": "\u{feff}x",
    });
    let mut node = event("e1", "ünïcode 日本語 \u{1F980}\u{0301} and \u{202e}rtl");
    node["slots"] = slots.clone();
    node["raw_ref"] = json!("s3://bucket/ключ");
    service.write(&writing(&[node])).await;
    let found =
        service.recall_text(&json!({ "query_text": "日本語", "include_slots": true, "include_meta": true })).await;
    let shown = &found["subgraph"]["nodes"][0];
    assert_eq!(shown["text_summary"], "ünïcode 日本語 \u{1F980}\u{0301} and \u{202e}rtl");
    assert_eq!((&shown["slots"], &shown["raw_ref"]), (&slots, &json!("s3://bucket/ключ")));
    service.assert_sound().await;
}

#[tokio::test]
async fn a_long_text_is_cut_between_characters() {
    let service = Service::start();
    service.write(&writing(&[event("crab", &format!("harbour {}", "🦀".repeat(5_000)))])).await;
    let found = service.ask("harbour").await;
    let summary = found["seeds"][0]["text_summary"].as_str().unwrap();
    assert!(summary.ends_with("🦀…") && summary.encode_utf16().count() <= 8_000);
}

#[tokio::test]
async fn every_node_type_tier_and_edge_type_is_stored() {
    let service = Service::start();
    let types = ["event", "entity", "topic", "rule", "evidence", "concept", "procedure", "self_model"];
    let tiers = ["hot", "warm", "cold", "archive"];
    let nodes: Vec<_> = types
        .iter()
        .zip(tiers.iter().cycle())
        .map(|(kind, tier)| {
            json!({
                "client_id": kind, "type": kind, "tier": tier, "memory_lane": "shared", "title": format!("A {kind}"),
                "salience": 0, "importance": 1, "confidence": 0.123_456_789,
            })
        })
        .collect();
    let edges: Vec<_> = ["part_of", "related_to", "derived_from"]
        .iter()
        .map(|kind| json!({ "type": kind, "src": { "client_id": "event" }, "dst": { "client_id": "topic" }, "decay_rate": 1 }))
        .collect();
    let written = service.write(&json!({ "input_text": "x", "nodes": nodes, "edges": edges })).await;
    let statuses = |list: &str| written[list].as_array().unwrap().iter().filter(|i| i["status"] == "created").count();
    assert_eq!((statuses("nodes"), statuses("edges")), (8, 3));
    service.assert_sound().await;
}

#[tokio::test]
async fn the_largest_write_is_stored_in_one_commit() {
    let service = Service::with(|setup| setup.write_limits.nodes_max = 300);
    let nodes: Vec<_> = (0..300).map(|n| event(&format!("e{n}"), &format!("note number{n}"))).collect();
    let edges: Vec<_> = (1..300)
        .map(|n| json!({ "type": "related_to", "src": { "client_id": "e0" }, "dst": { "client_id": format!("e{n}") } }))
        .collect();
    let written = service.write(&json!({ "input_text": "x", "nodes": nodes, "edges": edges })).await;
    assert_eq!((written["nodes"].as_array().unwrap().len(), written["edges"].as_array().unwrap().len()), (300, 299));
    assert_eq!(written["commit_seq"], 1);
    assert!(seeds(&service.ask("number299").await).contains("note number299"));
}

#[tokio::test]
async fn keys_stand_in_the_documented_order() {
    let service = Service::start();
    let answer = service
        .post(
            WRITE,
            &json!({
                "input_text": "x", "nodes": [event("a", "one"), event("b", "two")],
                "edges": [{ "type": "part_of", "src": { "client_id": "a" }, "dst": { "client_id": "b" } }],
            }),
        )
        .await;
    let raw = answer.text();
    let documented = [
        "{\"tenant_id\"",
        ",\"scope\"",
        ",\"commit_id\"",
        ",\"commit_hash\"",
        ",\"nodes\":[{\"id\"",
        ",\"client_id\"",
        ",\"type\"",
        ",\"edges\":[{\"id\"",
        ",\"type\"",
        ",\"src_id\"",
        ",\"dst_id\"",
        ",\"embedding_backfill\":{\"enqueued\"",
        ",\"pending_nodes\"",
    ];
    let mut at = 0;
    for key in documented {
        at += raw[at..].find(key).unwrap_or_else(|| panic!("{key} is not after byte {at} of {raw}")) + key.len();
    }
}
