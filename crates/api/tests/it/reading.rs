//! Reading apart from recall: find, nodes and their history, commits, verification, earlier states.

use std::time::Duration;

use aionis_core::ids::NodeId;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    auth::keys,
    harness::{Answer, RECALL, RECALL_TEXT, Service, WRITE, event, seeds, vector, writing},
};

const FIND: &str = "/v1/memory/find";
const VERIFY: &str = "/v1/memory/verify";

async fn services() -> [Service; 2] {
    [Service::start(), Service::start_on_postgres().await]
}

async fn guarded() -> [Service; 2] {
    let embedded = Service::with(|setup| setup.api.auth = keys());
    [embedded, Service::on_postgres_with(|setup| setup.api.auth = keys()).await]
}

async fn find(service: &Service, body: Value) -> Value {
    service.post(FIND, &body).await.ok()
}

/// Keys of the nodes found, in order.
fn names(found: &Value) -> Vec<&str> {
    found["nodes"].as_array().unwrap().iter().map(|node| node["client_id"].as_str().unwrap()).collect()
}

fn ids(written: &Value) -> Vec<String> {
    written["nodes"].as_array().unwrap().iter().map(|node| node["id"].as_str().unwrap().to_owned()).collect()
}

/// Five nodes of several kinds, a minute between each and the next. Returns their ids and the times they were written at.
async fn some_nodes(service: &Service) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for (name, kind, more) in [
        ("a", "event", json!({ "slots": { "tags": ["x"], "n": 1 }, "producer_agent_id": "scribe" })),
        ("b", "topic", json!({ "slots": { "tags": ["x", "y"], "topic_state": "active" }, "owner_team_id": "red" })),
        ("c", "event", json!({ "slots": { "n": 2 }, "owner_agent_id": "ann" })),
        ("d", "entity", json!({ "tier": "cold" })),
        ("e", "event", json!({ "memory_lane": "private", "owner_agent_id": "ann" })),
    ] {
        let mut node = json!({ "client_id": name, "type": kind, "memory_lane": "shared",
            "title": format!("Title {}", name.to_uppercase()), "text_summary": format!("text of {name}") });
        node.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let id = ids(&service.write(&writing(&[node])).await).remove(0);
        all.push((id, service.engine.clock().now().to_iso()));
        service.clock.advance(Duration::from_secs(60));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn find_restricts_by_what_is_asked() {
    for service in services().await {
        let made = some_nodes(&service).await;
        let id = |at: usize| &made[at].0;
        let time = |at: usize| &made[at].1;
        let all = ["d", "c", "b", "a"];
        for (asked, expected) in [
            (json!({}), &all[..]),
            (json!({ "id": id(0) }), &["a"]),
            (json!({ "ids": [id(0), id(3)] }), &["d", "a"]),
            (json!({ "id": id(2), "ids": [id(0)], "client_id": "b" }), &["c", "b", "a"]),
            (json!({ "uri": format!("aionis://default/default/event/{}", id(0)) }), &["a"]),
            (json!({ "client_id": "b" }), &["b"]),
            (json!({ "client_ids": [" b ", "nobody"], "client_id": "c" }), &["c", "b"]),
            (json!({ "id": id(0), "type": "topic" }), &[]),
            (json!({ "type": "event" }), &["c", "a"]),
            (json!({ "types": ["topic", "entity", "topic"] }), &["d", "b"]),
            (json!({ "type": "event", "types": ["topic"] }), &["c", "b", "a"]),
            (json!({ "tier": "cold" }), &["d"]),
            (json!({ "tiers": ["hot", "warm"] }), &["c", "b", "a"]),
            (json!({ "tier": "cold", "tiers": ["hot"] }), &all),
            (json!({ "memory_lane": "shared" }), &all),
            (json!({ "memory_lane": "private" }), &[]),
            (json!({ "memory_lane": "private", "consumer_agent_id": "ann" }), &["e"]),
            (json!({ "consumer_agent_id": "ann", "limit": 2 }), &["e", "d"]),
            (json!({ "owner_agent_id": "ann" }), &["c"]),
            (json!({ "owner_agent_id": "ann", "consumer_agent_id": "ann" }), &["e", "c"]),
            (json!({ "owner_team_id": "red" }), &["b"]),
            (json!({ "producer_agent_id": "scribe" }), &["a"]),
            (json!({ "embedding_status": "pending" }), &all),
            (json!({ "embedding_status": "ready" }), &[]),
            (json!({ "title_contains": "TITLE b" }), &["b"]),
            (json!({ "text_contains": "Of" }), &all),
            (json!({ "text_contains": "title c" }), &["c"]),
            (json!({ "slots_contains": { "tags": ["x"] } }), &["b", "a"]),
            (json!({ "slots_contains": { "n": 2.0 } }), &["c"]),
            (json!({ "created_from": time(2) }), &["d", "c"]),
            (json!({ "created_before": time(2) }), &["b", "a"]),
            (json!({ "created_from": time(1), "created_before": time(3) }), &["c", "b"]),
            (json!({ "updated_from": time(3), "updated_before": time(4) }), &["d"]),
        ] {
            assert_eq!(names(&find(&service, asked.clone()).await), expected, "{asked}");
        }
        service.drain().await;
        assert_eq!(names(&find(&service, json!({ "embedding_status": "ready" })).await), all);
        let foreign = json!({ "uri": format!("aionis://default/other/event/{}", id(0)) });
        let refused = service.post(FIND, &foreign).await;
        assert_eq!(refused.issues()[0], ("uri".into(), "names another tenant or scope than the request".into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_go_on_where_they_ended() {
    for service in services().await {
        some_nodes(&service).await;
        let question = json!({ "limit": 3, "consumer_agent_id": "ann" });
        let first = find(&service, question.clone()).await;
        assert_eq!((names(&first), &first["as_of_commit"]), (vec!["e", "d", "c"], &json!(5)));
        let mut next = question.clone();
        next["cursor"] = first["next_cursor"].clone();
        // How much is shown, and how many, is no part of the question. What came in between does not shift pages.
        (next["include_meta"], next["limit"]) = (json!(true), json!(10));
        service.write(&writing(&[event("f", "later")])).await;
        let second = find(&service, next.clone()).await;
        assert_eq!((names(&second), &second["next_cursor"]), (vec!["b", "a"], &Value::Null));
        assert_eq!(names(&find(&service, json!({ "offset": 3, "limit": 2 })).await), ["b", "a"]);
        for (name, value) in [
            ("type", json!("event")),
            ("consumer_agent_id", json!("bob")),
            ("scope", json!("other")),
            ("as_of", json!(5)),
            ("title_contains", json!("t")),
        ] {
            let mut other = next.clone();
            other[name] = value;
            let refused = service.post(FIND, &other).await;
            assert_eq!(refused.status.as_u16(), 400, "{name}");
            let (path, message) = refused.issues().remove(0);
            assert!(path == "cursor" && message.contains("another question"), "{name}: {message}");
        }
        next["cursor"] = json!(format!("{}0", first["next_cursor"].as_str().unwrap()));
        assert_eq!(service.post(FIND, &next).await.issues()[0].0, "cursor");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_shows_what_is_asked_for() {
    for service in services().await {
        let made = some_nodes(&service).await;
        let of = async |shows: Value| {
            let mut body = json!({ "id": made[0].0 });
            body.as_object_mut().unwrap().extend(shows.as_object().unwrap().clone());
            find(&service, body).await["nodes"][0].clone()
        };
        let plain = of(json!({})).await;
        assert!(plain.get("slots").is_none() && plain.get("producer_agent_id").is_none(), "{plain}");
        assert_eq!((&plain["version"], &plain["tier"]), (&json!(1), &json!("hot")));
        assert_eq!(of(json!({ "include_slots": true })).await["slots"], json!({ "tags": ["x"], "n": 1 }));
        let preview = of(json!({ "include_slots_preview": true, "slots_preview_keys": 1 })).await;
        assert_eq!((&preview["slots_preview"], preview.get("slots")), (&json!({ "n": 1 }), None));
        let meta = of(json!({ "include_meta": true })).await;
        assert_eq!((&meta["producer_agent_id"], &meta["memory_lane"]), (&json!("scribe"), &json!("shared")));
        let alone = service.get(&format!("/v1/memory/nodes/{}", made[0].0)).await.ok();
        assert_eq!((&alone["node"]["slots"]["n"], &alone["node"]["commit_id"]), (&json!(1), &meta["commit_id"]));
        assert_eq!(alone["node"]["digest"], plain["digest"]);
    }
}

/// The address a node is shown with finds it again, whatever its scope is called.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_finds_its_node() {
    for service in services().await {
        for scope in ["default", "x/y", "ä ö", "event/1"] {
            let mut body = writing(&[event("e", "one")]);
            (body["tenant_id"], body["scope"]) = (json!("acme"), json!(scope));
            service.write(&body).await;
            let place = json!({ "tenant_id": "acme", "scope": scope });
            let uri = find(&service, place.clone()).await["nodes"][0]["uri"].clone();
            assert!(uri.as_str().unwrap().starts_with(&format!("aionis://acme/{scope}/event/")), "{uri}");
            let mut by_uri = place.clone();
            by_uri["uri"] = uri.clone();
            assert_eq!(names(&find(&service, by_uri).await), ["e"], "{uri}");
            let elsewhere = service.post(FIND, &json!({ "tenant_id": "acme", "scope": "z", "uri": uri })).await;
            assert_eq!(elsewhere.issues()[0].0, "uri");
        }
    }
}

/// Three commits: `a` with two contents, and `b` that comes later. Returns the ids of commits and nodes, and the times.
async fn rewritten(service: &Service) -> (Vec<String>, [String; 2], Vec<String>) {
    let (mut commits, mut times) = (Vec::new(), Vec::new());
    let mut of = [String::new(), String::new()];
    for (at, (name, text)) in
        [("a", "the old harbour"), ("a", "the new airport"), ("b", "another node")].into_iter().enumerate()
    {
        let written = service.write(&writing(&[event(name, text)])).await;
        commits.push(written["commit_id"].as_str().unwrap().to_owned());
        times.push(service.engine.clock().now().to_iso());
        of[usize::from(at == 2)] = ids(&written).remove(0);
        service.clock.advance(Duration::from_secs(60));
    }
    (commits, of, times)
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_found_as_they_were() {
    for service in services().await {
        let (commits, [a, b], times) = rewritten(&service).await;
        service.drain().await;
        for state in [json!(1), json!(commits[0]), json!(times[0]), json!("2025-10-09T10:53:30+02:00")] {
            let found = find(&service, json!({ "as_of": state })).await;
            assert_eq!((names(&found), &found["as_of_commit"]), (vec!["a"], &json!(1)), "{state}");
            assert_eq!(found["nodes"][0]["text_summary"], "the old harbour");
            let query = state.as_str().map_or_else(|| state.to_string(), |text| text.replace('+', "%2B"));
            let node = service.get(&format!("/v1/memory/nodes/{a}?as_of={query}")).await.ok();
            assert_eq!(
                (&node["node"]["text_summary"], &node["node"]["version"]),
                (&json!("the old harbour"), &json!(1))
            );
            let unborn = service.get(&format!("/v1/memory/nodes/{b}?as_of={query}")).await;
            assert_eq!(unborn.refusal(), (404, "node_not_found".to_owned()), "{state}");
            for (path, body) in [
                (RECALL_TEXT, json!({ "query_text": "the old harbour", "as_of": state })),
                (RECALL_TEXT, json!({ "query_text": "airport", "as_of": state })),
                (RECALL, json!({ "query_embedding": vector("the new airport"), "as_of": state })),
            ] {
                let then = service.post(path, &body).await.ok();
                assert_eq!(then["as_of_commit"], 1, "{body}");
                assert!(seeds(&then).is_subset(&["the old harbour"].into()), "{then}");
                assert!(!then["context"].to_string().contains("airport"), "{then}");
                if body["query_text"] == "the old harbour" {
                    assert_eq!(seeds(&then).len(), 1, "{then}");
                }
            }
        }
        let now = find(&service, json!({ "as_of": times[2] })).await;
        assert_eq!((names(&now), &now["as_of_commit"]), (vec!["b", "a"], &json!(3)));
        assert_eq!(service.ask("the old harbour").await["as_of_commit"], 3);
        for state in [json!(4), json!(Uuid::nil()), json!("2001-01-01T00:00:00Z")] {
            let refused = service.post(FIND, &json!({ "as_of": state })).await;
            assert_eq!(refused.refusal(), (404, "commit_not_found".to_owned()), "{state}");
            let refused = service.post(RECALL_TEXT, &json!({ "query_text": "x", "as_of": state })).await;
            assert_eq!(refused.refusal(), (404, "commit_not_found".to_owned()), "{state}");
        }
    }
}

/// An earlier state of a scope that is larger than allowed is not built.
#[tokio::test(flavor = "multi_thread")]
async fn earlier_states_of_large_scopes_are_refused() {
    for service in services().await {
        let nodes: Vec<Value> = (0..1_001).map(|n| event(&format!("n{n}"), "x")).collect();
        service.write(&writing(&nodes)).await;
        let refused = service.post(RECALL_TEXT, &json!({ "query_text": "x", "as_of": 1 })).await;
        assert_eq!(refused.refusal(), (400, "as_of_scope_too_large".to_owned()));
        assert_eq!(refused.json()["details"], json!({ "nodes": 1_001, "nodes_max": 1_000, "scope": "default" }));
        assert_eq!(find(&service, json!({ "as_of": 1, "limit": 1 })).await["nodes"].as_array().unwrap().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_is_shown_as_far_as_it_may_be_seen() {
    for service in services().await {
        let mut secret = event("a", "bobs secret");
        (secret["memory_lane"], secret["owner_agent_id"]) = (json!("private"), json!("bob"));
        let first = service.write(&writing(&[event("a", "first")])).await;
        let hidden = service.write(&writing(&[secret])).await;
        let third = service.write(&writing(&[event("a", "third")])).await;
        let path = format!("/v1/memory/nodes/{}/history", ids(&first)[0]);
        let shown = |history: &Value| {
            let versions = history["versions"].as_array().unwrap().clone();
            versions.iter().map(|v| (v["version"].as_u64().unwrap(), v["commit_id"].clone())).collect::<Vec<_>>()
        };
        let [one, two, three] = [(1, &first), (2, &hidden), (3, &third)].map(|(n, of)| (n, of["commit_id"].clone()));
        let all = service.get(&path).await.ok();
        assert_eq!(shown(&all), [three.clone(), one.clone()]);
        assert!(!all.to_string().contains("secret"), "{all}");
        assert_eq!(all["versions"][1]["replaced_by_commit_seq"], 2);
        let bobs = service.get(&format!("{path}?consumer_agent_id=bob")).await.ok();
        assert_eq!(shown(&bobs), [three.clone(), two, one.clone()]);
        // Pages are counted before: an empty one says where to go on.
        let (mut before, mut seen) = (String::new(), Vec::new());
        for expected in [3, 2, 1] {
            let page = service.get(&format!("{path}?limit=1{before}")).await.ok();
            seen.extend(shown(&page));
            before = format!("&before={}", page["next_before"]);
            assert_eq!(page["next_before"], if expected > 1 { json!(expected) } else { Value::Null });
        }
        assert_eq!(seen, [three, one]);
        let mut mine = event("a", "bobs again");
        (mine["memory_lane"], mine["owner_agent_id"]) = (json!("private"), json!("bob"));
        service.write(&writing(&[mine])).await;
        assert_eq!(service.get(&path).await.refusal(), (404, "node_not_found".to_owned()), "not even the shared ones");
        let then = service.get(&format!("{}?as_of=3", path.trim_end_matches("/history"))).await.ok();
        assert_eq!(then["node"]["text_summary"], "third", "what was shared then is shared of then");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_are_listed_and_read() {
    for service in services().await {
        let (commits, ..) = rewritten(&service).await;
        let list = service.get("/v1/memory/commits").await.ok();
        let listed: Vec<&str> =
            list["commits"].as_array().unwrap().iter().map(|c| c["commit_id"].as_str().unwrap()).collect();
        assert_eq!(listed, [&commits[2], &commits[1], &commits[0]]);
        assert_eq!(list["commits"][0]["parent_hash"], list["commits"][1]["hash"]);
        let (mut before, mut paged) = (String::new(), Vec::new());
        loop {
            let page = service.get(&format!("/v1/memory/commits?limit=2{before}")).await.ok();
            paged.extend(page["commits"].as_array().unwrap().clone());
            if page["next_before"].is_null() {
                break;
            }
            before = format!("&before={}", page["next_before"]);
        }
        assert_eq!(json!(paged), list["commits"]);
        for (at, id) in commits.iter().enumerate() {
            let by_id = service.get(&format!("/v1/memory/commits/{id}")).await.ok();
            assert_eq!(service.get(&format!("/v1/memory/commits/{}", at + 1)).await.ok(), by_id);
            assert_eq!((&by_id["commit"]["seq"], &by_id["changes_complete"]), (&json!(at + 1), &json!(true)));
            let op = if at == 1 { "update" } else { "create" };
            assert_eq!((&by_id["changes"][0]["kind"], &by_id["changes"][0]["op"]), (&json!("node"), &json!(op)));
        }
        assert_eq!(service.get("/v1/memory/commits?scope=empty").await.ok()["commits"], json!([]));
    }
}

/// Who is not an administrator sees of a commit what changed in nodes they see.
#[tokio::test(flavor = "multi_thread")]
async fn change_lists_are_cut_to_what_the_caller_sees() {
    for service in guarded().await {
        let ann = async |body: Value| service.post_with(WRITE, &[("x-api-key", "ann")], &body).await.ok();
        let mut private = event("mine", "private");
        private["memory_lane"] = json!("private");
        ann(writing(&[event("all", "shared"), private])).await;
        ann(json!({ "input_text": "nothing changed" })).await;
        for (key, changes, complete) in [("ann", 2, true), ("ben", 1, false), ("reader", 2, true), ("admin", 2, true)] {
            let commit = service.get_with("/v1/memory/commits/1", &[("x-api-key", key)]).await.ok();
            assert_eq!(commit["changes"].as_array().unwrap().len(), changes, "{key}");
            assert_eq!(commit["changes_complete"], complete, "{key}");
            let empty = service.get_with("/v1/memory/commits/2", &[("x-api-key", key)]).await.ok();
            assert_eq!((&empty["changes"], &empty["changes_complete"]), (&json!([]), &json!(true)), "{key}");
        }
    }
}

/// What a commit's input, request and changes hash to confirms a guess of what a private node says.
#[tokio::test(flavor = "multi_thread")]
async fn digests_of_a_commit_are_for_who_may_see_everything() {
    const DIGESTS: [&str; 3] = ["input_sha256", "request_sha256", "changes_sha256"];
    for service in guarded().await {
        let mut private = event("p", "private");
        (private["memory_lane"], private["owner_agent_id"]) = (json!("private"), json!("ann"));
        service.post_with(WRITE, &[("x-api-key", "ann")], &writing(&[private])).await.ok();
        for (key, sees_all) in [("ann", false), ("ben", false), ("reader", false), ("admin", true)] {
            let list = service.get_with("/v1/memory/commits", &[("x-api-key", key)]).await.ok();
            let one = service.get_with("/v1/memory/commits/1", &[("x-api-key", key)]).await.ok();
            for commit in [&list["commits"][0], &one["commit"]] {
                for name in DIGESTS {
                    assert_eq!(commit[name].is_string(), sees_all, "{key} {name}: {commit}");
                    assert!(commit.get(name).is_some(), "{key} {name}");
                }
                assert!(commit["hash"].is_string() && commit["parent_hash"].is_string(), "{key}");
            }
        }
    }
    for service in services().await {
        service.write(&writing(&[event("a", "one")])).await;
        let list = service.get("/v1/memory/commits").await.ok();
        assert!(
            DIGESTS.iter().all(|name| list["commits"][0][name].is_string()),
            "nobody is asked who they are: {list}"
        );
    }
}

/// A verification reads one state, however much is written meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_scope_that_is_written_to_verifies() {
    for service in services().await {
        service.write(&writing(&[event("hub", "hub")])).await;
        let (done, is_done) = tokio::sync::watch::channel(false);
        let writing_on = async {
            let mut n = 0;
            while !*is_done.borrow() {
                n += 1;
                service.write(&writing(&[event("hub", &format!("hub {n}")), event(&format!("n{n}"), "new")])).await;
            }
            n
        };
        let verifying = async {
            let (mut heads, mut tries) = (Vec::new(), 0);
            // Until enough was written in between.
            while heads.len() < 6 {
                tries += 1;
                assert!(tries < 10_000, "nothing is written: {heads:?}");
                let report = service.post(VERIFY, &json!({})).await.ok();
                assert_eq!((&report["ok"], &report["first_break"]), (&json!(true), &Value::Null), "{report}");
                heads.push(report["head_seq"].as_u64().unwrap());
                heads.dedup();
            }
            done.send_replace(true);
            heads
        };
        let (written, heads) = tokio::join!(writing_on, verifying);
        assert!(written >= 5 && heads.is_sorted(), "{written} writes, heads {heads:?}");
    }
}

/// A node is looked for by what it was called then, whatever it is called now.
#[tokio::test(flavor = "multi_thread")]
async fn client_ids_are_those_of_the_state() {
    for service in services().await {
        let id = ids(&service.write(&writing(&[event("a", "called a")])).await).remove(0);
        let nameless = |text: &str| json!({ "id": id, "type": "event", "memory_lane": "shared", "text_summary": text });
        service.write(&writing(&[nameless("called nothing")])).await;
        service.write(&writing(&[event("a", "called a again")])).await;
        service.write(&writing(&[nameless("nothing again")])).await;
        let texts = async |as_of: Value| {
            let found = find(&service, json!({ "client_id": "a", "as_of": as_of })).await;
            let nodes = found["nodes"].as_array().unwrap().clone();
            nodes.iter().map(|node| node["text_summary"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(texts(json!(1)).await, ["called a"]);
        assert!(texts(json!(2)).await.is_empty());
        assert_eq!(texts(json!(3)).await, ["called a again"]);
        assert!(texts(json!(4)).await.is_empty());
        assert!(find(&service, json!({ "client_id": "a" })).await["nodes"].as_array().unwrap().is_empty());
    }
}

async fn verify(service: &Service, key: &str) -> Answer {
    service.post_with(VERIFY, &[("x-api-key", key)], &json!({})).await
}

#[tokio::test(flavor = "multi_thread")]
async fn verification_is_for_administrators() {
    for service in guarded().await {
        let body = writing(&[event("a", "one")]);
        service.post_with(WRITE, &[("x-api-key", "ann")], &body).await.ok();
        for key in ["reader", "ann"] {
            let refused = verify(&service, key).await;
            assert_eq!(refused.refusal(), (403, "forbidden".to_owned()), "{key}");
            assert_eq!(refused.json()["details"]["required_role"], "admin");
        }
        let report = verify(&service, "admin").await.ok();
        assert_eq!(
            (&report["ok"], &report["commits"], &report["first_break"]),
            (&json!(true), &json!(1), &Value::Null)
        );
        assert_eq!((&report["tenant_id"], &report["scope"]), (&json!("acme"), &json!("default")));
    }
}

#[tokio::test]
async fn verification_finds_what_was_changed_past_the_service() {
    for (sql, object) in [
        ("UPDATE memory_nodes SET text_summary = 'forged'", "node"),
        ("UPDATE memory_node_versions SET content = replace(content, 'harbour', 'forgery')", "version"),
        ("UPDATE memory_commits SET actor = 'somebody' WHERE seq = 2", "commit"),
        ("DELETE FROM memory_nodes WHERE client_id = 'b'", "node"),
    ] {
        let service = Service::start();
        rewritten(&service).await;
        assert_eq!(service.post(VERIFY, &json!({})).await.ok()["ok"], true);
        let database = service.data_dir().join(aionis_store::sqlite::DATABASE_FILE);
        rusqlite::Connection::open(database)
            .unwrap()
            .execute_batch(&format!("PRAGMA foreign_keys = OFF; {sql}"))
            .unwrap();
        let report = service.post(VERIFY, &json!({})).await.ok();
        assert_eq!(report["ok"], false, "{sql}");
        assert_eq!(report["first_break"]["object"], object, "{sql}: {report}");
        assert!(!report["first_break"]["problem"].as_str().unwrap().is_empty(), "{sql}");
    }
}

/// An unknown id is not told from a hidden one.
#[tokio::test(flavor = "multi_thread")]
async fn a_hidden_node_is_as_an_unknown_one() {
    for service in services().await {
        let mut private = event("p", "private");
        (private["memory_lane"], private["owner_agent_id"]) = (json!("private"), json!("ann"));
        let hidden = ids(&service.write(&writing(&[private])).await).remove(0);
        let unknown = NodeId(Uuid::nil()).to_string();
        for suffix in ["", "/history", "?as_of=1", "?consumer_agent_id=bob", "/history?consumer_team_id=ann"] {
            let told = async |id: &str| {
                let answer = service.get(&format!("/v1/memory/nodes/{id}{suffix}")).await;
                (answer.status.as_u16(), answer.text().replace(id, "an id"))
            };
            let of_hidden = told(&hidden).await;
            assert_eq!(of_hidden.0, 404, "{suffix}");
            assert_eq!(of_hidden, told(&unknown).await, "{suffix}");
        }
        service.get(&format!("/v1/memory/nodes/{hidden}?consumer_agent_id=%20ann%20")).await.ok();
    }
}
