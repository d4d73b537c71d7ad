//! Forgetting: look, token, erase; what is left of it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    auth::keys,
    harness::{Answer, RECALL, RECALL_TEXT, Service, WRITE, event, seeds, vector, writing},
};

const FIND: &str = "/v1/memory/find";
const FORGET: &str = "/v1/memory/forget";

async fn services() -> [Service; 2] {
    [Service::start(), Service::start_on_postgres().await]
}

fn ids(written: &Value) -> Vec<String> {
    written["nodes"].as_array().unwrap().iter().map(|node| node["id"].as_str().unwrap().to_owned()).collect()
}

fn with(mut body: Value, name: &str, value: &Value) -> Value {
    body[name] = value.clone();
    body
}

/// Looks, and erases what was seen.
async fn forget(service: &Service, headers: &[(&str, &str)], selection: Value) -> Value {
    let look = service.post_with(FORGET, headers, &selection).await.ok();
    let body = with(selection, "confirmation_token", &look["confirmation_token"]);
    service.post_with(FORGET, headers, &body).await.ok()
}

/// Two nodes with an edge between them, one of them written twice.
async fn two_nodes(service: &Service) -> Vec<String> {
    service.write(&writing(&[event("a", "the zebra of before")])).await;
    let mut body = writing(&[event("a", "the zebra of today"), event("b", "the lion")]);
    body["edges"] = json!([{ "type": "related_to", "src": { "client_id": "b" }, "dst": { "client_id": "a" } }]);
    let written = service.write(&body).await;
    service.drain().await;
    ids(&written)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_changes_nothing_and_its_token_erases() {
    for service in services().await {
        let id = two_nodes(&service).await;
        let before = service.stored().await;
        let named = json!({ "node_ids": [id[0]], "actor": "ann" });
        let look = service.post(FORGET, &named).await.ok();
        for (member, value) in [
            ("dry_run", json!(true)),
            ("nodes", json!(1)),
            ("node_ids", json!([id[0]])),
            ("edges", json!(1)),
            ("versions", json!(1)),
            ("feedback", json!(0)),
            ("missing_node_ids", json!([])),
            ("missing_client_ids", json!([])),
        ] {
            assert_eq!(look[member], value, "{member}: {look}");
        }
        assert!(look.get("commit_id").is_none());
        let token = &look["confirmation_token"];
        let kept = with(with(named.clone(), "confirmation_token", token), "dry_run", &json!(true));
        assert_eq!(service.post(FORGET, &kept).await.ok(), look, "dry_run wins over a token");
        assert_eq!(service.stored().await, before);

        let apply = with(with(named, "confirmation_token", token), "dry_run", &json!(false));
        let done = service.post(FORGET, &apply).await.ok();
        assert_eq!((&done["dry_run"], &done["replayed"]), (&json!(false), &json!(false)));
        assert_eq!((&done["commit_seq"], &done["edges"], &done["versions"]), (&json!(3), &json!(1), &json!(1)));
        let commit = service.get("/v1/memory/commits/3").await.ok();
        assert_eq!(commit["commit"]["commit_id"], done["commit_id"]);
        assert_eq!((&commit["commit"]["kind"], &commit["commit"]["actor"]), (&json!("forget"), &json!("ann")));
        assert!(commit["changes"].as_array().unwrap().iter().all(|change| change["op"] == "erase"));
        nothing_is_left_of(&service, &id).await;
        service.assert_sound().await;
    }
}

/// The first of two nodes is gone for every kind of question; the other is there.
async fn nothing_is_left_of(service: &Service, id: &[String]) {
    for path in ["", "/history", "?as_of=1"] {
        let gone = service.get(&format!("/v1/memory/nodes/{}{path}", id[0])).await;
        assert_eq!(gone.refusal(), (410, "erased".to_owned()), "{path}");
        let details = &gone.json()["details"];
        assert_eq!((&details["node_id"], &details["commit_seq"]), (&json!(id[0]), &json!(3)), "{path}");
        assert_eq!(details["digest"].as_str().unwrap().len(), 64);
    }
    let found = service.post(FIND, &json!({ "ids": id })).await.ok();
    assert_eq!(found["nodes"][0]["id"], json!(id[1]));
    assert_eq!((found["nodes"].as_array().unwrap().len(), &found["erased"][0]["node_id"]), (1, &json!(id[0])));
    let listed = service.post(FIND, &json!({})).await.ok();
    assert!(listed.get("erased").is_none() && !listed.to_string().contains("zebra"));
    for (path, body) in [
        (RECALL_TEXT, json!({ "query_text": "zebra lion" })),
        (RECALL_TEXT, json!({ "query_text": format!("{} a", id[0]) })),
        (RECALL_TEXT, json!({ "query_text": "zebra", "as_of": 1 })),
        (RECALL_TEXT, json!({ "query_text": "zebra", "as_of": 2 })),
        (RECALL, json!({ "query_embedding": vector("the zebra of today") })),
    ] {
        let mut answer = service.post(path, &body).await.ok();
        answer.as_object_mut().unwrap().remove("query");
        let text = answer.to_string();
        assert!(!text.contains("zebra") && !text.contains(&id[0]), "{body}: {text}");
    }
    assert_eq!(seeds(&service.ask("lion").await).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_erased_is_refused() {
    for service in services().await {
        let id = two_nodes(&service).await;
        let of_a = service.post(FORGET, &json!({ "node_ids": [id[0]] })).await.ok()["confirmation_token"].clone();
        let before = service.stored().await;
        for (body, path, message) in [
            (json!({ "node_ids": [id[0]], "dry_run": false }), "confirmation_token", "is required to erase"),
            (json!({ "filter": {} }), "filter", "must restrict something"),
            (json!({ "filter": { "unheard_of": 1 } }), "filter", "must restrict something"),
            (json!({ "filter": { "type": "zebra" } }), "filter.type", "must be one of"),
            (json!({}), "", "one of node_ids, client_ids or filter is required"),
        ] {
            let refused = service.post(FORGET, &body).await;
            assert_eq!(refused.status.as_u16(), 400, "{body}");
            let (at, said) = refused.issues().remove(0);
            assert!(at == path && said.contains(message), "{body}: {at}: {said}");
        }
        for (body, refusal) in [
            (json!({ "node_ids": [id[0]], "confirmation_token": "0".repeat(64) }), (409, "forget_selection_changed")),
            (json!({ "node_ids": id, "confirmation_token": of_a }), (409, "forget_selection_changed")),
            (json!({ "client_ids": ["nobody"] }), (404, "forget_no_resolved_nodes")),
            (json!({ "filter": { "text_contains": "unicorn" } }), (404, "forget_no_resolved_nodes")),
            (json!({ "node_ids": [id[0]], "scope": "empty" }), (404, "forget_no_resolved_nodes")),
        ] {
            assert_eq!(service.post(FORGET, &body).await.refusal(), (refusal.0, refusal.1.to_owned()), "{body}");
        }
        assert_eq!(service.stored().await, before);
        service.write(&writing(&[event("a", "other content")])).await;
        let stale = json!({ "node_ids": [id[0]], "confirmation_token": of_a });
        assert_eq!(service.post(FORGET, &stale).await.refusal(), (409, "forget_selection_changed".to_owned()));
        service.get(&format!("/v1/memory/nodes/{}", id[0])).await.ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_selected_by_id_key_and_filter_together() {
    for service in services().await {
        let nodes = ["a", "b", "c", "d", "e"].map(|name| event(name, &format!("text of {name}")));
        let id = ids(&service.write(&writing(&nodes)).await);
        let unknown = "00000000-0000-4000-8000-0000000000ff";
        let selection = json!({
            "node_ids": [id[0], unknown, id[0]], "client_ids": [" b ", "nobody", "a"],
            "filter": { "text_contains": "OF C", "type": "event" },
        });
        let look = service.post(FORGET, &selection).await.ok();
        let mut expected = id[..3].to_vec();
        expected.sort_unstable();
        assert_eq!((&look["nodes"], &look["node_ids"]), (&json!(3), &json!(expected)));
        let missing = (&look["missing_node_ids"], &look["missing_client_ids"]);
        assert_eq!(missing, (&json!([unknown]), &json!(["nobody"])));
        let done = forget(&service, &[], selection).await;
        assert_eq!(done["node_ids"], json!(expected));
        let left = service.post(FIND, &json!({})).await.ok();
        assert_eq!(left["nodes"].as_array().unwrap().len(), 2);
        let created = left["nodes"][0]["client_id"].clone();
        let rest = forget(&service, &[], json!({ "filter": { "client_ids": ["d", "e"], "tier": "hot" } })).await;
        assert_eq!(rest["nodes"], 2, "{created}");
        service.assert_sound().await;
    }
}

/// A filter lets nothing through any more when the request comes again: it is known by its key all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_key_answers_what_was_done() {
    for service in services().await {
        two_nodes(&service).await;
        let selection = json!({ "filter": { "text_contains": "zebra" }, "client_ids": ["nobody"] });
        let key = [("idempotency-key", "k-1")];
        // A look uses up no key.
        let look = service.post_with(FORGET, &key, &selection).await.ok();
        let body = with(selection.clone(), "confirmation_token", &look["confirmation_token"]);
        let first = service.post_with(FORGET, &key, &body).await.ok();
        service.clock.advance(Duration::from_secs(5));
        let stored = service.stored().await;
        let mut second = service.post_with(FORGET, &key, &body).await.ok();
        assert_eq!((&first["replayed"], &second["replayed"]), (&json!(false), &json!(true)));
        second["replayed"] = json!(false);
        assert_eq!(second, first);
        let other = json!({ "client_ids": ["b"], "confirmation_token": look["confirmation_token"] });
        let refused = service.post_with(FORGET, &key, &other).await;
        assert_eq!(refused.refusal(), (409, "idempotency_key_reused".to_owned()));
        assert_eq!(service.stored().await, stored);
        let unkeyed = service.post(FORGET, &body).await;
        assert_eq!(unkeyed.refusal(), (404, "forget_no_resolved_nodes".to_owned()));
    }
}

fn by(key: &'static str) -> [(&'static str, &'static str); 1] {
    [("x-api-key", key)]
}

#[tokio::test(flavor = "multi_thread")]
async fn private_nodes_of_others_are_not_forgotten() {
    let on_postgres = Service::on_postgres_with(|setup| setup.api.auth = keys()).await;
    for service in [Service::with(|setup| setup.api.auth = keys()), on_postgres] {
        let mut private = event("mine", "a zebra of my own");
        private["memory_lane"] = json!("private");
        let body = writing(&[event("all", "a zebra for all"), private]);
        let id = ids(&service.post_with(WRITE, &by("ann"), &body).await.ok());
        let ask = async |key: &'static str, body: Value| -> Answer { service.post_with(FORGET, &by(key), &body).await };
        let refused = ask("reader", json!({ "node_ids": id })).await;
        assert_eq!(refused.refusal(), (403, "forbidden".to_owned()));
        assert_eq!(refused.json()["details"]["required_role"], "writer");
        for selection in [
            json!({ "node_ids": [id[1]] }),
            json!({ "client_ids": ["mine"] }),
            json!({ "filter": { "title_contains": "x", "id": id[1] } }),
            json!({ "filter": { "memory_lane": "private" } }),
        ] {
            for key in ["ben", "other", "bare"] {
                let told = ask(key, selection.clone()).await;
                assert_eq!(told.refusal(), (404, "forget_no_resolved_nodes".to_owned()), "{key} {selection}");
                assert!(!told.text().contains(&id[1]) && !told.text().contains("mine"), "{}", told.text());
            }
        }
        let both = ask("ben", json!({ "node_ids": id, "client_ids": ["mine"] })).await.ok();
        assert_eq!((&both["node_ids"], &both["missing_node_ids"]), (&json!([id[0]]), &json!([id[1]])));
        assert_eq!(both["missing_client_ids"], json!(["mine"]));
        let filtered = forget(&service, &by("ben"), json!({ "filter": { "text_contains": "zebra" } })).await;
        assert_eq!(filtered["node_ids"], json!([id[0]]));
        let path = format!("/v1/memory/nodes/{}", id[1]);
        service.get_with(&path, &by("ann")).await.ok();
        // The administrator may change what belongs to others.
        forget(&service, &by("admin"), json!({ "node_ids": [id[1]] })).await;
        assert_eq!(service.get_with(&path, &by("ann")).await.refusal(), (410, "erased".to_owned()));
        for key in ["ben", "bare", "other"] {
            let told = service.get_with(&path, &by(key)).await;
            assert_eq!(told.refusal(), (404, "node_not_found".to_owned()), "{key} learns that something was erased");
            let found = service.post_with(FIND, &by(key), &json!({ "id": id[1] })).await.ok();
            assert!(found.get("erased").is_none(), "{key}: {found}");
        }
        service.assert_sound().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_of_a_forgotten_rule_cannot_be_made_again() {
    for service in services().await {
        let rule = json!({ "client_id": "r", "type": "rule", "memory_lane": "shared", "text_summary": "deploys need psql",
            "slots": { "if": {}, "then": { "tool": { "prefer": ["psql"] } } } });
        let id = ids(&service.write(&writing(&[rule])).await).remove(0);
        let operation = |more: Value| {
            let mut body = json!({ "rule_node_id": id, "input_text": "x" });
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            body
        };
        service.post("/v1/memory/rules/state", &operation(json!({ "state": "active" }))).await.ok();
        service.post("/v1/memory/feedback", &operation(json!({ "outcome": "positive" }))).await.ok();
        let asked = json!({ "context": {}, "candidates": ["curl", "psql"] });
        let chosen = service.post("/v1/memory/tools/select", &asked).await.ok();
        assert_eq!(chosen["selection"]["selected"], "psql");
        let replay = format!("/v1/memory/decisions/{}/replay", chosen["decision"]["decision_id"].as_str().unwrap());
        service.post(&replay, &json!({})).await.ok();
        assert_eq!(forget(&service, &[], json!({ "node_ids": [id] })).await["feedback"], 1);
        let gone = service.post(&replay, &json!({})).await;
        assert_eq!(gone.refusal(), (410, "erased".to_owned()));
        assert_eq!(gone.json()["details"]["policy_sha256"], chosen["decision"]["policy_sha256"]);
        let again = service.post("/v1/memory/tools/select", &asked).await.ok();
        assert_eq!(again["selection"]["selected"], "curl");
        let unknown = service.post("/v1/memory/feedback", &operation(json!({ "outcome": "positive" }))).await;
        assert_eq!(unknown.refusal(), (400, "rule_not_found_in_scope".to_owned()));
        service.assert_sound().await;
    }
}

/// A filter that lets more through than is forgotten at once says so, and so do names of more nodes.
#[tokio::test(flavor = "multi_thread")]
async fn too_much_at_once_is_refused() {
    for service in services().await {
        let nodes: Vec<Value> = (0..1_001).map(|n| event(&format!("n{n}"), "x")).collect();
        let id = ids(&service.write(&writing(&nodes)).await);
        let before = service.stored().await;
        for selection in
            [json!({ "filter": { "text_contains": "x" } }), json!({ "node_ids": id[..1_000], "client_ids": ["n1000"] })]
        {
            let refused = service.post(FORGET, &selection).await;
            assert_eq!(refused.refusal(), (400, "forget_too_large".to_owned()));
            assert!(refused.json()["details"].is_object(), "{}", refused.text());
        }
        assert_eq!(service.stored().await, before);
        let done = forget(&service, &[], json!({ "node_ids": id[..1_000] })).await;
        assert_eq!(done["nodes"], 1_000);
        service.assert_sound().await;
    }
}

/// A forgotten node may be written again: it is new, has one content, and may be forgotten again.
#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_node_may_be_written_again() {
    for service in services().await {
        let id = two_nodes(&service).await;
        for round in 0..2 {
            forget(&service, &[], json!({ "client_ids": ["a"] })).await;
            let path = format!("/v1/memory/nodes/{}", id[0]);
            assert_eq!(service.get(&path).await.refusal(), (410, "erased".to_owned()), "{round}");
            let written = service.write(&writing(&[event("a", &format!("giraffe {round}"))])).await;
            assert_eq!(
                (&written["nodes"][0]["id"], &written["nodes"][0]["status"]),
                (&json!(id[0]), &json!("created"))
            );
            service.drain().await;
            let node = service.get(&path).await.ok();
            assert_eq!((&node["node"]["version"], &node["node"]["embedding_status"]), (&json!(1), &json!("ready")));
            let history = service.get(&format!("{path}/history")).await.ok();
            assert_eq!(history["versions"].as_array().unwrap().len(), 1);
            let found = service.post(FIND, &json!({ "id": id[0] })).await.ok();
            assert!(found.get("erased").is_none() && found["nodes"].as_array().unwrap().len() == 1);
            assert_eq!(seeds(&service.ask("giraffe").await), [format!("giraffe {round}").as_str(), "the lion"].into());
            // Of the state before there is nothing, also now that the node is there again.
            let then = service.get(&format!("{path}?as_of=2")).await;
            assert_eq!(then.status.as_u16(), 404, "{}", then.text());
            service.assert_sound().await;
        }
    }
}

/// What a process keeps of rules to evaluate them goes with the rule, not with the next evaluation.
#[tokio::test(flavor = "multi_thread")]
async fn compiled_rules_go_with_their_rule() {
    for service in services().await {
        let rule = json!({ "client_id": "r", "type": "rule", "memory_lane": "shared", "text_summary": "zebras first",
            "slots": { "if": {}, "then": { "tool": { "prefer": ["zebra"] } } } });
        let id = ids(&service.write(&writing(&[rule])).await).remove(0);
        let state = json!({ "rule_node_id": id, "state": "active", "actor": "ann", "input_text": "go" });
        service.post("/v1/memory/rules/state", &state).await.ok();
        let ask = json!({ "context": {}, "candidates": ["zebra", "lion"] });
        let chosen = service.post("/v1/memory/tools/select", &ask).await.ok();
        let scope = aionis_core::ids::ScopeKey::new(&aionis_core::ids::TenantId::parse("default").unwrap(), "default");
        let scope = scope.unwrap();
        assert_eq!(service.engine.compiled_rules(&scope), 1, "{chosen}");
        let look = service.post(FORGET, &json!({ "node_ids": [id] })).await.ok();
        assert_eq!(service.engine.compiled_rules(&scope), 1, "a look changes nothing");
        let erase = json!({ "node_ids": [id], "confirmation_token": look["confirmation_token"] });
        service.post(FORGET, &erase).await.ok();
        assert_eq!(service.engine.compiled_rules(&scope), 0);
    }
}
