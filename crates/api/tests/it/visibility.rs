//! Lanes: who sees what.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::{RECALL, RECALL_TEXT, Service, vector};

const OWNERS: [(&str, &str, Option<&str>, Option<&str>); 6] = [
    ("shared", "shared", None, None),
    ("shared of ann", "shared", Some("ann"), None),
    ("nobody's", "private", None, None),
    ("ann's", "private", Some("ann"), None),
    ("red's", "private", None, Some("red")),
    ("ann's and red's", "private", Some("ann"), Some("red")),
];

/// All lanes and owners; every node is linked to the first, which is shared.
async fn all_lanes() -> Service {
    let service = Service::start();
    let nodes: Vec<Value> = OWNERS
        .iter()
        .map(|(name, lane, agent, team)| {
            let mut node = json!({
                "client_id": name, "type": "event", "memory_lane": lane, "text_summary": format!("memory {name}"),
            });
            if let Some(agent) = agent {
                node["owner_agent_id"] = json!(format!(" {agent} "));
            }
            if let Some(team) = team {
                node["owner_team_id"] = json!(team);
            }
            node
        })
        .collect();
    let edges: Vec<Value> = OWNERS[1..]
        .iter()
        .map(|(name, ..)| json!({ "type": "related_to", "src": { "client_id": "shared" }, "dst": { "client_id": name }, "weight": 1, "confidence": 1 }))
        .collect();
    service.write(&json!({ "input_text": "x", "nodes": nodes, "edges": edges })).await;
    service.drain().await;
    service
}

fn viewer(mut body: Value, agent: Option<&str>, team: Option<&str>) -> Value {
    if let Some(agent) = agent {
        body["consumer_agent_id"] = json!(agent);
    }
    if let Some(team) = team {
        body["consumer_team_id"] = json!(team);
    }
    body
}

fn names<'a>(list: &'a Value) -> BTreeSet<&'a str> {
    let summary = |node: &'a Value| node["text_summary"].as_str().unwrap().strip_prefix("memory ").unwrap();
    list.as_array().unwrap().iter().map(summary).collect()
}

#[tokio::test]
async fn every_viewer_sees_what_is_shared_and_what_is_theirs() {
    let service = all_lanes().await;
    let (shared, ann, red) = (["shared", "shared of ann"], ["ann's", "ann's and red's"], ["red's", "ann's and red's"]);
    for (agent, team, own) in [
        (None, None, vec![]),
        (Some("ann"), None, ann.to_vec()),
        (Some(" ann "), Some("  "), ann.to_vec()),
        (Some("bob"), None, vec![]),
        (Some("red"), Some("ann"), vec![]),
        (None, Some("red"), red.to_vec()),
        (Some("bob"), Some("red"), red.to_vec()),
        (Some("ann"), Some("blue"), ann.to_vec()),
        (Some("ann"), Some("red"), [ann, red].concat()),
        (Some("Ann"), Some("RED"), vec![]),
    ] {
        let expected: BTreeSet<&str> = shared.into_iter().chain(own).collect();
        for (path, body) in [
            (RECALL_TEXT, json!({ "query_text": "memory", "limit": 50 })),
            (RECALL, json!({ "query_embedding": vector("memory shared"), "limit": 50 })),
            (RECALL, json!({ "query_embedding": vector("memory shared"), "limit": 1 })),
        ] {
            let whose = format!("{agent:?} {team:?} {path} {}", body["limit"]);
            let found = service.post(path, &viewer(body.clone(), agent, team)).await.ok();
            if body["limit"] == 50 {
                assert_eq!(names(&found["seeds"]), expected, "seeds of {whose}");
            }
            assert_eq!(names(&found["subgraph"]["nodes"]), expected, "subgraph of {whose}");
            assert_eq!(found["ranked"].as_array().unwrap().len(), expected.len(), "ranked of {whose}");
            assert_eq!(found["subgraph"]["edges"].as_array().unwrap().len(), expected.len() - 1, "edges of {whose}");
            let text = found["context"]["text"].as_str().unwrap();
            for (name, ..) in OWNERS {
                assert_eq!(
                    text.contains(&format!("memory {name} (")),
                    expected.contains(name),
                    "{name} in the context of {whose}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_hidden_node_cannot_be_quoted_into_view() {
    let service = all_lanes().await;
    for name in ["nobody's", "ann's"] {
        let id = service
            .write(&json!({ "input_text": "y", "nodes": [{
                "client_id": name, "type": "event", "memory_lane": "private", "text_summary": format!("memory {name}"),
                "owner_agent_id": if name == "ann's" { "ann" } else { "zoe" },
            }] }))
            .await["nodes"][0]["id"]
            .clone();
        let found = service.ask(&format!("{} {name}", id.as_str().unwrap())).await;
        assert!(!names(&found["seeds"]).contains(name));
    }
}

#[tokio::test]
async fn the_producer_owns_what_has_no_other_owner() {
    let service = Service::start();
    let node = |client_id: &str| json!({ "client_id": client_id, "type": "event", "text_summary": format!("memory {client_id}") });
    let mut given = node("given");
    given["owner_agent_id"] = json!("bob");
    let body = json!({ "input_text": "x", "producer_agent_id": "ann", "nodes": [node("kept"), given] });
    service.write(&body).await;
    for (agent, sees) in [("ann", "kept"), ("bob", "given")] {
        let found = service.recall_text(&json!({ "query_text": "memory", "consumer_agent_id": agent })).await;
        assert_eq!(names(&found["seeds"]), BTreeSet::from([sees]));
    }
}

#[tokio::test]
async fn a_node_moved_to_the_private_lane_disappears_for_others_at_once() {
    let service = Service::start();
    let node = |lane: &str| {
        json!({ "input_text": "x", "nodes": [{
        "client_id": "e1", "type": "event", "memory_lane": lane, "owner_agent_id": "ann", "text_summary": "memory moved",
    }] })
    };
    service.write(&node("shared")).await;
    service.drain().await;
    assert_eq!(names(&service.ask("memory").await["seeds"]).len(), 1);
    service.write(&node("private")).await;
    assert_eq!(names(&service.ask("memory").await["seeds"]).len(), 0);
    let own = service.recall_text(&json!({ "query_text": "memory", "consumer_agent_id": "ann" })).await;
    assert_eq!(names(&own["seeds"]).len(), 1);
}

#[tokio::test]
async fn rules_and_drafts_do_not_show_before_they_are_live() {
    let service = Service::start();
    let nodes = json!([
        { "client_id": "r", "type": "rule", "memory_lane": "shared", "text_summary": "memory rule" },
        { "client_id": "t", "type": "topic", "memory_lane": "shared", "text_summary": "memory draft", "slots": { "topic_state": "draft" } },
        { "client_id": "c", "type": "event", "memory_lane": "shared", "text_summary": "memory cold", "tier": "cold" },
        { "client_id": "w", "type": "event", "memory_lane": "shared", "text_summary": "memory warm", "tier": "warm" },
    ]);
    service.write(&json!({ "input_text": "x", "nodes": nodes })).await;
    service.drain().await;
    assert_eq!(names(&service.ask("memory").await["seeds"]), BTreeSet::from(["warm"]));
    let by_vector = service.recall(&json!({ "query_embedding": vector("memory rule") })).await;
    assert_eq!(names(&by_vector["seeds"]), BTreeSet::from(["warm"]));
}
