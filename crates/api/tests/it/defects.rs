//! Defects of the reference that cannot happen here and belong to no other file; `docs/defects.md` lists all of them.

use std::time::{Duration, Instant};

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::harness::{DIM, RECALL, RECALL_TEXT, Service, WRITE, event, seeds, vector, writing, writing_to};

const ACTIVATE: &str = "/v1/memory/nodes/activate";
const EVALUATE: &str = "/v1/memory/rules/evaluate";
const REHYDRATE: &str = "/v1/memory/archive/rehydrate";
const STATE: &str = "/v1/memory/rules/state";

/// An id that nothing has.
const NOBODY: &str = "00000000-0000-4000-8000-000000000000";

async fn services() -> [Service; 2] {
    [Service::start(), Service::start_on_postgres().await]
}

fn with(mut node: Value, more: Value) -> Value {
    node.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    node
}

fn linked(src: &str, dst: &str) -> Value {
    json!({ "type": "related_to", "src": { "client_id": src }, "dst": { "client_id": dst }, "weight": 0.9, "confidence": 0.9 })
}

async fn set_state(service: &Service, rule: &Value, state: &str) {
    service.post(STATE, &json!({ "rule_node_id": rule, "state": state, "input_text": "reviewed" })).await.ok();
}

/// W-4: a rehydration needs no reason.
#[tokio::test(flavor = "multi_thread")]
async fn w_04_a_rehydration_without_reason_moves_what_it_names() {
    for service in services().await {
        service.write(&writing(&[with(event("old", "the harbour in winter"), json!({ "tier": "archive" }))])).await;
        assert!(seeds(&service.ask("harbour").await).is_empty());
        let moved = service.post(REHYDRATE, &json!({ "client_ids": ["old"], "input_text": "it is needed" })).await.ok();
        assert_eq!((&moved["rehydrated"]["moved_nodes"], &moved["target_tier"]), (&json!(1), &json!("warm")));
        let found = service.recall_text(&json!({ "query_text": "harbour", "include_slots": true })).await;
        assert!(seeds(&found).contains("the harbour in winter"));
        assert!(found["subgraph"]["nodes"][0]["slots"].is_object(), "{found}");
        service.assert_sound().await;
    }
}

/// W-8: no value of a slot makes a recall fail.
#[tokio::test(flavor = "multi_thread")]
async fn w_08_no_member_count_makes_a_recall_fail() {
    let odd = [
        json!("many"),
        json!("3"),
        json!(1.5),
        json!(-1),
        json!(1e300),
        json!(u64::MAX),
        json!([3]),
        json!({ "n": 3 }),
        json!(true),
        Value::Null,
    ];
    for service in services().await {
        let topics = odd.iter().enumerate().map(|(n, count)| {
            json!({ "client_id": format!("t{n}"), "type": "topic", "memory_lane": "shared", "title": format!("Harbour {n}"),
                    "slots": { "member_count": count, "topic_state": "active" } })
        });
        let nodes: Vec<Value> = topics.chain([event("hub", "the harbour")]).collect();
        let edges: Vec<Value> = (0..odd.len()).map(|n| linked("hub", &format!("t{n}"))).collect();
        service.write(&json!({ "input_text": "x", "nodes": nodes, "edges": edges })).await;
        service.drain().await;
        let questions = [json!({ "query_text": "harbour" }), json!({ "query_embedding": vector("the harbour") })];
        for (path, question) in [RECALL_TEXT, RECALL].into_iter().zip(questions) {
            let answer = service.post(path, &question).await.ok();
            let nodes = answer["subgraph"]["nodes"].as_array().unwrap();
            let topics: Vec<_> = nodes.iter().filter(|node| node["type"] == "topic").collect();
            assert_eq!(topics.len(), odd.len(), "{path}");
            for topic in topics {
                assert!(topic["member_count"].is_i64() || topic["member_count"].is_null(), "{path}: {topic}");
            }
        }
    }
}

/// W-9: a summary stands for what it covers, whether slots are shown or not.
#[tokio::test(flavor = "multi_thread")]
async fn w_09_a_summary_stands_for_its_events_by_default() {
    for service in services().await {
        let written = service.write(&writing(&[event("e1", "the harbour was closed on monday")])).await;
        let covered = &written["nodes"][0]["id"];
        let rollup = json!({ "client_id": "c", "type": "concept", "memory_lane": "shared", "title": "Harbour closures",
            "text_summary": "the harbour was closed often",
            "slots": { "summary_kind": "compression_rollup", "source_event_count": 1, "citations": [{ "node_id": covered }] } });
        service
            .write(&json!({ "input_text": "x", "nodes": [rollup, event("e2", "the harbour opened")],
                            "edges": [linked("c", "e1"), linked("c", "e2")] }))
            .await;
        service.drain().await;
        for shown in [json!({}), json!({ "include_slots": true })] {
            let answer = service.recall_text(&with(json!({ "query_text": "harbour closed" }), shown)).await;
            assert!(seeds(&answer).contains("the harbour was closed on monday"), "it is found");
            let text = answer["context"]["text"].as_str().unwrap();
            assert!(text.contains("compression, covers=1"), "{text}");
            let items = answer["context"]["items"].as_array().unwrap();
            assert!(items.iter().all(|item| &item["node_id"] != covered), "{text}");
            assert!(text.contains("the harbour opened"), "{text}");
        }
    }
}

/// W-11: as many nodes as were asked for, however many nearer ones may not be seeds, and however small the scope.
#[tokio::test(flavor = "multi_thread")]
async fn w_11_what_may_be_no_seed_takes_no_place() {
    for service in services().await {
        let bring = |node: Value, text: &str| with(node, json!({ "embedding": vector(text) }));
        let near = |n: usize| match n % 3 {
            0 => json!({ "client_id": format!("x{n}"), "type": "evidence", "memory_lane": "shared" }),
            1 => json!({ "client_id": format!("x{n}"), "type": "rule", "memory_lane": "shared" }),
            _ => {
                json!({ "client_id": format!("x{n}"), "type": "topic", "memory_lane": "shared", "slots": { "topic_state": "draft" } })
            }
        };
        let noise: Vec<Value> = (0..1_200).map(|n| bring(near(n), "question")).collect();
        service.write(&writing_to("large", &noise)).await;
        let events: Vec<Value> =
            (0..230).map(|n| bring(event(&format!("e{n}"), "an event"), &format!("{n}"))).collect();
        service.write(&writing_to("large", &events)).await;
        service.write(&writing_to("small", &events[..7])).await;
        for (scope, wanted) in [("large", 200), ("small", 7)] {
            let asked = json!({ "scope": scope, "query_embedding": vector("question"), "limit": 200 });
            let answer = service.recall(&asked).await;
            assert_eq!(answer["seeds"].as_array().unwrap().len(), wanted, "{scope}");
        }
    }
}

/// W-12: the vector of a node is that of the text it has, also when a write is told to derive it again.
#[tokio::test(flavor = "multi_thread")]
async fn w_12_a_forced_vector_is_of_the_stored_text() {
    for service in services().await {
        service.write(&writing(&[event("e1", "the harbour is closed")])).await;
        service.drain().await;
        let mut again = writing(&[event("e1", "the market is open")]);
        again["force_reembed"] = json!(true);
        let written = service.write(&again).await;
        assert_eq!(written["nodes"][0]["status"], "updated", "what became of it is told");
        service.drain().await;
        for (text, same) in [("the market is open", true), ("the harbour is closed", false)] {
            let answer = service.recall(&json!({ "query_embedding": vector(text) })).await;
            let seed = &answer["seeds"][0];
            assert_eq!(seed["text_summary"], "the market is open");
            assert_eq!(seed["similarity"].as_f64().unwrap() > 0.999, same, "{text}: {seed}");
        }
    }
}

/// W-14: a node that is written to another scope gets its vector there.
#[tokio::test(flavor = "multi_thread")]
async fn w_14_a_node_of_another_scope_is_derived_there() {
    for service in services().await {
        let elsewhere = with(event("e2", "written elsewhere"), json!({ "scope": "side" }));
        service.write(&writing_to("main", &[event("e1", "written here"), elsewhere])).await;
        assert_eq!(service.drain().await.vectors, 2);
        for (scope, text) in [("main", "written here"), ("side", "written elsewhere")] {
            let answer = service.recall(&json!({ "scope": scope, "query_embedding": vector(text) })).await;
            assert_eq!(answer["pending"]["nodes"], 0, "{scope}");
            assert!(answer["seeds"][0]["similarity"].as_f64().unwrap() > 0.999, "{scope}: {answer}");
            assert_eq!(answer["seeds"].as_array().unwrap().len(), 1, "{scope}");
        }
    }
}

/// W-17: an edge leads to nothing that may not be shown.
#[tokio::test(flavor = "multi_thread")]
async fn w_17_edges_do_not_lead_to_what_is_hidden() {
    for service in services().await {
        let rule = |id: &str| json!({ "client_id": id, "type": "rule", "memory_lane": "shared", "text_summary": id });
        let nodes = [
            event("hub", "the harbour"),
            with(event("cold", "cold"), json!({ "tier": "cold" })),
            with(event("archived", "archived"), json!({ "tier": "archive" })),
            with(event("warm", "warm"), json!({ "tier": "warm" })),
            with(event("alias", "alias"), json!({ "slots": { "alias_of": "x" } })),
            rule("draft"),
            rule("disabled"),
            rule("active"),
        ];
        let mut body = writing(&nodes);
        body["edges"] = nodes[1..].iter().map(|node| linked("hub", node["client_id"].as_str().unwrap())).collect();
        let written = service.write(&body).await;
        set_state(&service, &written["nodes"][6]["id"], "active").await;
        set_state(&service, &written["nodes"][6]["id"], "disabled").await;
        set_state(&service, &written["nodes"][7]["id"], "active").await;
        service.drain().await;
        let questions = [json!({ "query_text": "harbour" }), json!({ "query_embedding": vector("the harbour") })];
        for (path, question) in [RECALL_TEXT, RECALL].into_iter().zip(questions) {
            let answer = service.post(path, &question).await.ok();
            for (at, node) in nodes.iter().enumerate() {
                let (name, id) = (&node["client_id"], written["nodes"][at]["id"].as_str().unwrap());
                let shown = ["hub", "warm", "active"].contains(&name.as_str().unwrap());
                for part in ["seeds", "subgraph", "ranked", "context"] {
                    let named = answer[part].to_string().contains(id);
                    assert!(!named || shown, "{path}: {name} is in {part}");
                    assert!(named || !shown || part == "seeds", "{path}: {name} is not in {part}");
                }
            }
        }
    }
}

/// W-18: no rule holds the service up, and one that is too large does not go live.
#[tokio::test(flavor = "multi_thread")]
async fn w_18_no_condition_holds_the_service_up() {
    for service in services().await {
        let rule = |id: &str, condition: Value| {
            json!({ "client_id": id, "type": "rule", "memory_lane": "shared", "text_summary": id,
                    "slots": { "if": condition, "then": {} } })
        };
        let deep = (0..60).fold(json!({ "a": 1 }), |inner, _| json!({ "$not": inner }));
        let patterns = vec![json!({ "text": { "$regex": "x" } }); 40];
        let written = service
            .write(&writing(&[
                rule("backtracks", json!({ "text": { "$regex": "^(a+)+$" } })),
                rule("deep", deep),
                rule("many", json!({ "$or": patterns })),
            ]))
            .await;
        let id = |at: usize| &written["nodes"][at]["id"];
        set_state(&service, id(0), "active").await;
        let before = service.stored().await;
        for at in [1, 2] {
            let body = json!({ "rule_node_id": id(at), "state": "active", "input_text": "x" });
            assert_eq!(service.post(STATE, &body).await.refusal(), (400, "invalid_rule_if_json".to_owned()), "{at}");
        }
        assert_eq!(service.stored().await, before);
        let started = Instant::now();
        for (text, matched) in [(format!("{}!", "a".repeat(100_000)), 0), ("a".repeat(100_000), 1)] {
            let found = service.post(EVALUATE, &json!({ "context": { "text": text } })).await.ok();
            assert_eq!(found["matched"], matched);
        }
        // A pattern that backtracks would take longer than the universe has existed.
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    }
}

/// W-20: what the reference answers with 500 although the caller made the mistake.
#[tokio::test(flavor = "multi_thread")]
async fn w_20_callers_mistakes_are_never_a_500() {
    for service in services().await {
        service.write(&writing(&[event("e1", "one")])).await;
        let before = service.stored().await;
        let node = |more: Value| writing(&[with(event("e2", "two"), more)]);
        let edges = |edges: Value| with(writing(&[event("e2", "two")]), json!({ "edges": edges }));
        let edge = |src: Value, dst: Value| json!({ "type": "related_to", "src": src, "dst": dst });
        let (e1, e2) = (json!({ "client_id": "e1" }), json!({ "client_id": "e2" }));
        let two = |id: &str, dst: Value| with(edge(e1.clone(), dst), json!({ "id": id }));
        let mut elsewhere = writing(&[event("e2", "two"), with(event("e3", "three"), json!({ "scope": "side" }))]);
        elsewhere["edges"] = json!([edge(e2.clone(), json!({ "client_id": "e3" }))]);
        let agent_rule = json!({ "type": "rule", "slots": { "if": {}, "then": {}, "rule_scope": "agent" } });
        let mistakes = [
            (WRITE, node(json!({ "embedding": vec![0.5; DIM + 1] })), "a wrong dimension"),
            (WRITE, node(json!({ "embedding": vec![1e300; DIM] })), "numbers that are not finite"),
            (RECALL, json!({ "query_embedding": vec![0.5; DIM - 1] }), "a question of a wrong dimension"),
            (WRITE, edges(json!([edge(e2.clone(), json!({ "client_id": "nobody" }))])), "an unknown client id"),
            (WRITE, edges(json!([edge(e2.clone(), json!({ "id": NOBODY }))])), "an unknown end"),
            (WRITE, elsewhere, "an edge between scopes"),
            (WRITE, with(node(json!({})), json!({ "parent_commit_id": NOBODY })), "an unknown parent"),
            (WRITE, node(json!({ "client_id": " " })), "a blank client id"),
            (WRITE, with(node(json!({})), json!({ "input_text": " \n" })), "a blank input"),
            (WRITE, node(agent_rule), "an agent's rule without agent"),
            (WRITE, edges(json!([edge(e2.clone(), e2.clone())])), "an edge to itself"),
            (WRITE, node(json!({ "text_summary": "a\u{0}b" })), "NUL in a text"),
            (
                WRITE,
                edges(json!([two(NOBODY, e2.clone()), two(NOBODY, json!({ "client_id": "x" }))])),
                "an edge id twice",
            ),
        ];
        for (path, body, what) in &mistakes {
            let refused = service.post(path, body).await;
            assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{what}: {}", refused.text());
        }
        let raw: [(&str, &str, u16); 5] = [
            ("application/json", "{", 400),
            ("application/json", "", 400),
            ("application/json", "[]", 400),
            ("text/plain", "{}", 415),
            ("application/x-www-form-urlencoded", "a=b", 415),
        ];
        for (kind, body, status) in raw {
            for path in [WRITE, RECALL, RECALL_TEXT, STATE, EVALUATE, ACTIVATE, REHYDRATE] {
                let request = axum::http::Request::post(path).header("content-type", kind);
                let refused = service.send(request.body(body.into()).unwrap()).await;
                assert_eq!(refused.status.as_u16(), status, "{path} {kind} {body:?}: {}", refused.text());
                assert!(refused.json()["error"].is_string(), "the application's shape: {}", refused.text());
            }
        }
        let large = format!("{{\"input_text\":\"{}\"}}", "x".repeat(5 * 1024 * 1024));
        assert_eq!(service.post_raw(WRITE, &[], large).await.refusal(), (413, "body_too_large".to_owned()));
        assert_eq!(service.stored().await, before, "nothing of it is stored");
        // No mistakes here: members that only look dangerous, and an id that another scope has too.
        let same = json!({ "input_text": "x", "__proto__": { "a": 1 }, "nodes": [{ "id": NOBODY, "type": "event" }] });
        for scope in ["a", "b"] {
            service.write(&with(same.clone(), json!({ "scope": scope }))).await;
        }
    }
}

/// W-21: activations and writes of the same nodes at once, in whichever order they name them: none fails, none is lost.
#[tokio::test(flavor = "multi_thread")]
async fn w_21_activations_at_once_lose_no_count() {
    const TIMES: usize = 16;
    for service in services().await {
        service.write(&writing(&[event("a", "the harbour"), event("b", "the market")])).await;
        let activate = |n: usize| {
            let names = if n.is_multiple_of(2) { json!(["a", "b"]) } else { json!(["b", "a"]) };
            json!({ "client_ids": names, "outcome": "positive", "run_id": format!("r{n}"), "input_text": "it helped" })
        };
        let update = |n: usize| {
            let nodes = [event("a", &format!("the harbour {n}")), event("b", &format!("the market {n}"))];
            let mut body =
                if n.is_multiple_of(2) { writing(&nodes) } else { writing(&[nodes[1].clone(), nodes[0].clone()]) };
            body["input_text"] = json!(format!("update {n}"));
            body
        };
        let (service, mut work) = (std::sync::Arc::new(service), tokio::task::JoinSet::new());
        for n in 0..TIMES {
            for (path, body) in [(ACTIVATE, activate(n)), (WRITE, update(n))] {
                let service = std::sync::Arc::clone(&service);
                work.spawn(async move { service.post(path, &body).await.ok() });
            }
        }
        work.join_all().await;
        let shown = service.recall_text(&json!({ "query_text": "harbour market", "include_slots": true })).await;
        let nodes = shown["subgraph"]["nodes"].as_array().unwrap();
        assert_eq!(nodes.len(), 2);
        for node in nodes {
            assert_eq!(node["slots"]["feedback_positive"], TIMES, "{node}");
        }
        service.assert_sound().await;
    }
}

/// W-36: what is derived of a private memory is seen by nobody who may not see the memory.
#[tokio::test(flavor = "multi_thread")]
async fn w_36_clustering_shows_nothing_private() {
    for service in services().await {
        for (n, owner) in
            [json!({}), json!({ "owner_agent_id": "ann" }), json!({ "owner_team_id": "blue" })].iter().enumerate()
        {
            let node = json!({ "client_id": format!("p{n}"), "type": "event", "text_summary": format!("the secret word zanzibar {n}") });
            let body = json!({ "input_text": "x", "nodes": [with(node, owner.clone())],
                               "trigger_topic_cluster": true, "topic_cluster_async": n.is_multiple_of(2) });
            service.write(&body).await;
        }
        service.drain().await;
        for viewer in [json!({}), json!({ "consumer_agent_id": "ben" }), json!({ "consumer_team_id": "red" })] {
            for (path, question) in [
                (
                    RECALL_TEXT,
                    json!({ "query_text": "secret word zanzibar", "include_slots": true, "include_meta": true }),
                ),
                (
                    RECALL,
                    json!({ "query_embedding": vector("the secret word zanzibar 0"), "limit": 200, "include_slots": true }),
                ),
            ] {
                let answer = service.post(path, &with(question, viewer.clone())).await.ok();
                let shown =
                    json!([answer["seeds"], answer["subgraph"], answer["ranked"], answer["context"]]).to_string();
                assert!(!shown.contains("zanzibar"), "{path} {viewer}: {shown}");
            }
        }
        let own = json!({ "query_text": "secret word zanzibar", "consumer_agent_id": "ann" });
        assert_eq!(seeds(&service.recall_text(&own).await).len(), 1, "its owner sees it");
    }
}
