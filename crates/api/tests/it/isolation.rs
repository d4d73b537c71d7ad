//! Nothing passes from one place to another: not between tenants, not between the scopes of one tenant, not between the
//! private lanes of agents and teams. Checked on both engines and in both directions.

mod reading;

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use aionis_core::{
    ids::{NodeId, ScopeKey, TenantId},
    ports::store::{ClaimRequest, EmbeddedNode, FailedItem, OutboxItem},
};
use axum::{
    body::Body,
    extract::ConnectInfo,
    http::{Request, header},
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Answer, RECALL, RECALL_TEXT, Service, WRITE, recorder, vector};

/// A tenant and a scope.
type Place = (&'static str, &'static str);

/// Two tenants; two scopes of one tenant; the default tenant, whose derived ids name no tenant, and another.
const PAIRS: [[Place; 2]; 3] = [
    [("acme", "quay"), ("globex", "quay")],
    [("acme", "quay"), ("acme", "quay-2")],
    [("default", "quay"), ("acme", "quay")],
];

/// What one of the memories in [`story`] says.
const STORM: &str = "the harbour is closed by the storm";
/// An id that nothing has.
const UNKNOWN: &str = "00000000-0000-4000-8000-0000000000ff";

/// Runs a check on an empty service of each engine for every pair of places, in both directions.
async fn between_places(check: impl AsyncFn(&Service, Place, Place)) {
    for [a, b] in PAIRS {
        for (own, other) in [(a, b), (b, a)] {
            for service in both_engines().await {
                check(&service, own, other).await;
                service.assert_sound().await;
            }
        }
    }
}

async fn both_engines() -> [Service; 2] {
    [Service::start(), Service::start_on_postgres().await]
}

fn at(place: Place, mut body: Value) -> Value {
    body["tenant_id"] = json!(place.0);
    body["scope"] = json!(place.1);
    body
}

fn link(edge_type: &str, src: &str, dst: &str) -> Value {
    json!({
        "type": edge_type, "src": { "client_id": src }, "dst": { "client_id": dst }, "weight": 0.9, "confidence": 0.9,
    })
}

/// The same memories wherever they are told, client ids, texts and vectors alike.
fn story() -> Value {
    json!({
        "input_text": "what was said",
        "memory_lane": "shared",
        "nodes": [
            { "client_id": "evt-1", "type": "event", "title": "Storm", "text_summary": STORM, "slots": { "force": 9 } },
            { "client_id": "ent-1", "type": "entity", "title": "Harbour" },
            { "client_id": "top-1", "type": "topic", "title": "Weather", "slots": { "topic_state": "active" } },
            {
                "client_id": "evt-2", "type": "event", "text_summary": "the ferry waits",
                "embedding": vector("the ferry waits"),
            },
        ],
        "edges": [
            link("related_to", "evt-1", "ent-1"),
            link("part_of", "evt-1", "top-1"),
            link("related_to", "evt-2", "evt-1"),
        ],
    })
}

/// Everything a recall can be made to show.
fn all_shown(question: Value) -> Value {
    let mut body = json!({
        "limit": 20, "include_meta": true, "include_slots": true, "return_debug": true, "include_embeddings": true,
        "min_edge_weight": 0, "min_edge_confidence": 0,
    });
    body.as_object_mut().unwrap().extend(question.as_object().unwrap().clone());
    body
}

/// Questions about [`story`], by words, names, client ids, meaning, and by ids quoted in them.
fn questions(quoted: &BTreeSet<Uuid>) -> Vec<(&'static str, Value)> {
    let quoted: Vec<String> = quoted.iter().map(Uuid::to_string).collect();
    let texts = [
        STORM.to_owned(),
        "Storm, Harbour, Weather".to_owned(),
        format!("evt-1 evt-2 ent-1 top-1 {}", quoted.join(" ")),
    ];
    let by_text = texts.into_iter().map(|text| (RECALL_TEXT, all_shown(json!({ "query_text": text }))));
    let by_vector = [STORM, "the ferry waits", "Harbour"]
        .map(|text| (RECALL, all_shown(json!({ "query_embedding": vector(text) }))));
    let from_one = (RECALL, all_shown(json!({ "query_embedding": vector("the ferry waits"), "limit": 1 })));
    by_text.chain(by_vector).chain([from_one]).collect()
}

/// What a recall answers, but for the echo of the question and the time it took.
async fn ask(service: &Service, path: &str, body: &Value) -> Value {
    // Who calls from the same machine may see embeddings too.
    let peer = ConnectInfo(SocketAddr::from(([127, 0, 0, 1], 9)));
    let request = Request::post(path).header(header::CONTENT_TYPE, "application/json").extension(peer);
    let mut answer = service.send(request.body(Body::from(body.to_string())).unwrap()).await.ok();
    let members = answer.as_object_mut().unwrap();
    members.remove("query");
    if let Some(debug) = members.get_mut("debug") {
        debug.as_object_mut().unwrap().remove("timings_ms");
    }
    answer
}

async fn ask_all(service: &Service, place: Place, quoted: &BTreeSet<Uuid>) -> Vec<Value> {
    let mut answers = Vec::new();
    for (path, body) in questions(quoted) {
        answers.push(ask(service, path, &at(place, body)).await);
    }
    answers
}

/// Every UUID in a text.
fn ids_in(text: &str) -> BTreeSet<Uuid> {
    text.as_bytes().windows(36).filter_map(|word| Uuid::try_parse_ascii(word).ok()).collect()
}

/// Writes, which must succeed; returns the ids of everything that was written.
async fn tell(service: &Service, place: Place, body: Value) -> BTreeSet<Uuid> {
    ids_in(&service.write(&at(place, body)).await.to_string())
}

fn key_of(place: Place) -> ScopeKey {
    ScopeKey::new(&TenantId::parse(place.0).unwrap(), place.1).unwrap()
}

/// Everything that is stored of a place: head and counts, commits, nodes with vitals and vectors, edges, versions.
async fn stored_in(service: &Service, place: Place) -> String {
    let (store, scope) = (service.engine.store(), key_of(place));
    let mut heads = store.scopes(Some(place.0), None).await.unwrap();
    heads.retain(|head| head.scope_key == scope.as_str());
    let status = store.scope_status(&scope).await.unwrap();
    let commits = store.commits(&scope, 0, 1_000).await.unwrap();
    let nodes = store.nodes(&scope, None, 1_000).await.unwrap();
    let ids: Vec<NodeId> = nodes.iter().map(|node| NodeId(node.id)).collect();
    let rows = store.rows(&scope, &ids).await.unwrap();
    let vectors = store.stored_vectors(&scope, &ids).await.unwrap();
    let edges = store.edges(&scope, None, 1_000).await.unwrap();
    let versions = store.versions(&scope, None, 1_000).await.unwrap();
    format!("{heads:?}\n{status:?}\n{commits:?}\n{nodes:?}\n{rows:?}\n{vectors:?}\n{edges:?}\n{versions:?}")
}

/// An answer with every id in it made equal: status, headers, body.
fn without_ids(answer: &Answer) -> (u16, Vec<(String, String)>, String) {
    let headers = answer.headers.iter().filter(|(name, _)| *name != "x-request-id");
    let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    let mut text = answer.text().to_owned();
    for id in ids_in(answer.text()) {
        text = text.replace(&id.to_string(), "an id");
    }
    (answer.status.as_u16(), headers, text)
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_memories_of_two_places_never_mix() {
    between_places(async |service: &Service, own: Place, other: Place| {
        let foreign = tell(service, other, story()).await;
        let stored = service.stored().await;
        for answer in ask_all(service, own, &foreign).await {
            assert!(ids_in(&answer.to_string()).is_empty(), "{own:?} is empty, yet: {answer}");
            assert_eq!((&answer["as_of_commit"], &answer["pending"]["nodes"]), (&json!(0), &json!(0)));
        }
        assert_eq!(service.stored().await, stored, "asking makes no place");
        let kept = tell(service, own, story()).await;
        assert!(kept.is_disjoint(&foreign), "nodes, edges and commits have ids of their own");
        for derived in [false, true] {
            for answer in ask_all(service, own, &foreign).await {
                let seen = ids_in(&answer.to_string());
                assert!(seen.is_subset(&kept), "{own:?} sees what it has not written: {answer}");
                assert!(!answer["seeds"].as_array().unwrap().is_empty(), "{answer}");
                let pending = if derived { 0 } else { 3 };
                assert_eq!((&answer["as_of_commit"], &answer["pending"]["nodes"]), (&json!(1), &json!(pending)));
                let counts = &answer["debug"]["neighborhood_counts"];
                assert!(counts["nodes"].as_u64() <= Some(4) && counts["edges"].as_u64() <= Some(3), "{counts}");
            }
            service.drain().await;
        }
    })
    .await;
}

/// Writes of every kind: new content, vitals, new nodes and edges, repetitions, and some that are refused.
async fn write_all_kinds(service: &Service, place: Place, round: u32) {
    let body = at(
        place,
        json!({
            "input_text": format!("what was said in round {round}"),
            "memory_lane": "shared",
            "nodes": [
                { "client_id": "evt-1", "type": "event", "text_summary": format!("open again {round}") },
                { "client_id": "ent-1", "type": "entity", "title": "Harbour", "salience": 0.9 },
                { "client_id": format!("evt-3-{round}"), "type": "event", "text_summary": STORM },
                {
                    "client_id": "evt-2", "type": "event", "text_summary": "the ferry waits",
                    "embedding": vector(&format!("moved {round}")),
                },
            ],
            "edges": [link("related_to", &format!("evt-3-{round}"), "evt-1"), link("derived_from", "evt-1", "ent-1")],
        }),
    );
    service.write(&body).await;
    assert_eq!(service.write(&body).await["replayed"], true);
    let again =
        json!({ "client_id": "top-1", "type": "topic", "title": "Weather", "slots": { "topic_state": "active" } });
    let forced =
        json!({ "input_text": format!("{round}"), "memory_lane": "shared", "force_reembed": true, "nodes": [again] });
    service.write(&at(place, forced)).await;
    let refused = json!({ "input_text": "x", "edges": [link("part_of", "evt-1", "nowhere")] });
    assert_eq!(service.post(WRITE, &at(place, refused)).await.status.as_u16(), 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_in_one_place_change_nothing_in_another() {
    between_places(async |service: &Service, own: Place, other: Place| {
        let kept = tell(service, own, story()).await;
        let foreign = tell(service, other, story()).await;
        // Both have been asked before, so that whatever is held in memory for them is in use.
        let (stored, told) = (stored_in(service, own).await, ask_all(service, own, &foreign).await);
        ask_all(service, other, &kept).await;
        write_all_kinds(service, other, 1).await;
        assert_eq!(ask_all(service, own, &foreign).await, told, "{own:?} after writes in {other:?}");
        assert_eq!(stored_in(service, own).await, stored);
        service.drain().await;
        // Vectors were derived of each place's own texts, although nodes of both have the same client ids.
        for (place, text) in [(own, STORM), (other, "open again 1")] {
            let question = json!({ "query_embedding": vector(text), "limit": 1, "include_meta": true });
            let found = service.recall(&at(place, question)).await;
            assert_eq!(found["seeds"][0]["text_summary"], text, "{place:?}");
            assert!(found["seeds"][0]["similarity"].as_f64().unwrap() > 0.999_999);
        }
        let (stored, told) = (stored_in(service, own).await, ask_all(service, own, &foreign).await);
        write_all_kinds(service, other, 2).await;
        service.drain().await;
        assert_eq!(ask_all(service, own, &foreign).await, told, "{own:?} after more of them");
        assert_eq!(stored_in(service, own).await, stored);
        for answer in ask_all(service, other, &kept).await {
            assert!(ids_in(&answer.to_string()).is_disjoint(&kept), "{other:?} sees what {own:?} has: {answer}");
        }
    })
    .await;
}

/// A write of one edge.
fn joining(src: &Value, dst: &Value) -> Value {
    json!({ "input_text": "x", "edges": [{ "type": "related_to", "src": src, "dst": dst }] })
}

/// A place with a story and something that only it has.
async fn tell_more(service: &Service, place: Place) -> (Value, BTreeSet<Uuid>) {
    let more = json!({ "client_id": "only-there", "type": "event", "text_summary": "a secret" });
    let more = json!({ "input_text": "more", "memory_lane": "shared", "nodes": [more] });
    let mut ids = tell(service, place, more).await;
    let written = service.write(&at(place, story())).await;
    ids.extend(ids_in(&written.to_string()));
    (written, ids)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_foreign_is_refused_exactly_as_what_is_unknown() {
    between_places(async |service: &Service, own: Place, other: Place| {
        let mine = json!([{ "client_id": "mine", "type": "event", "text_summary": "mine" }]);
        service.write(&at(own, json!({ "input_text": "x", "memory_lane": "shared", "nodes": mine }))).await;
        let too_early = at(own, json!({ "query_text": "x", "min_commit": 2 }));
        let answer_before = without_ids(&service.post(RECALL_TEXT, &too_early).await);
        assert_eq!(answer_before.0, 409);
        let (_, foreign) = tell_more(service, other).await;
        assert_eq!(without_ids(&service.post(RECALL_TEXT, &too_early).await), answer_before, "commits elsewhere");
        let stored = (service.stored().await, stored_in(service, own).await, stored_in(service, other).await);

        let mine = json!({ "client_id": "mine" });
        let wrong = |id: &str| {
            let named = json!({ "id": id });
            let parent = json!({ "input_text": "x", "parent_commit_id": id });
            [joining(&mine, &named), joining(&named, &mine), parent]
        };
        for id in &foreign {
            for (theirs, nobodys) in wrong(&id.to_string()).into_iter().zip(wrong(UNKNOWN)) {
                let refused = service.post(WRITE, &at(own, theirs)).await;
                assert_eq!(refused.status.as_u16(), 400, "{}", refused.text());
                assert_eq!(without_ids(&refused), without_ids(&service.post(WRITE, &at(own, nobodys)).await));
            }
        }
        let mut answers = Vec::new();
        for client_id in ["only-there", "evt-1", "only-where"] {
            let named = json!({ "client_id": client_id });
            let mut both = Vec::new();
            for body in [joining(&mine, &named), joining(&named, &mine)] {
                let refused = service.post(WRITE, &at(own, body)).await;
                assert_eq!(refused.status.as_u16(), 400, "{}", refused.text());
                both.push(without_ids(&refused));
            }
            answers.push(both);
        }
        assert!(answers.iter().all(|answer| *answer == answers[2]), "{answers:?}");
        let after = (service.stored().await, stored_in(service, own).await, stored_in(service, other).await);
        assert_eq!(after, stored, "what was refused left no trace anywhere");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_are_taken_elsewhere_are_as_free_as_others() {
    between_places(async |service: &Service, own: Place, other: Place| {
        let (written, foreign) = tell_more(service, other).await;
        let body = json!({
            "input_text": "x", "memory_lane": "shared", "auto_embed": false,
            "nodes": [
                { "client_id": "mine", "type": "event", "text_summary": "mine" },
                { "client_id": "mine-2", "type": "event", "text_summary": "mine too" },
            ],
        });
        service.write(&at(own, body)).await;
        // Without vectors and words in common, a question shows nothing but what its ids open.
        let unknown = ask(service, RECALL_TEXT, &at(own, all_shown(json!({ "query_text": UNKNOWN })))).await;
        assert!(unknown["seeds"].as_array().unwrap().is_empty());
        for id in &foreign {
            let quoting = at(own, all_shown(json!({ "query_text": id.to_string() })));
            assert_eq!(ask(service, RECALL_TEXT, &quoting).await, unknown, "{id} opens something in {own:?}");
        }
        let stored = stored_in(service, other).await;
        let mut answers = Vec::new();
        for id in [written["nodes"][0]["id"].as_str().unwrap(), UNKNOWN] {
            let node = json!({ "id": id, "type": "event", "text_summary": "an id of my own" });
            let body = json!({ "input_text": "x", "memory_lane": "shared", "nodes": [node] });
            let answer = service.post(WRITE, &at(own, body)).await;
            let mut body = answer.ok();
            assert_eq!(body["nodes"][0]["status"], "created");
            for number in ["commit_hash", "commit_seq"] {
                body.as_object_mut().unwrap().remove(number);
            }
            let text =
                ids_in(answer.text()).iter().fold(body.to_string(), |text, id| text.replace(&id.to_string(), "an id"));
            answers.push(text);
        }
        assert_eq!(answers[0], answers[1]);
        for (edge_type, id) in [("related_to", written["edges"][0]["id"].as_str().unwrap()), ("part_of", UNKNOWN)] {
            let mut edge = link(edge_type, "mine", "mine-2");
            edge["id"] = json!(id);
            let answer = service.write(&at(own, json!({ "input_text": "x", "edges": [edge] }))).await;
            assert_eq!((&answer["edges"][0]["id"], &answer["edges"][0]["status"]), (&json!(id), &json!("created")));
        }
        service.drain().await;
        for answer in ask_all(service, other, &ids_in(&written.to_string())).await {
            assert!(!answer.to_string().contains("an id of my own"), "{other:?} sees a namesake of its node: {answer}");
        }
        let ready = stored_in(service, other).await;
        assert_eq!(ready.lines().nth(2), stored.lines().nth(2), "the chain of {other:?}");
        service.write(&at(own, json!({ "input_text": "y", "edges": [link("derived_from", "mine", "mine-2")] }))).await;
        assert_eq!(stored_in(service, other).await, ready);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_answers_only_in_the_place_it_was_used_in() {
    between_places(async |service: &Service, own: Place, other: Place| {
        let body = |text: &str| {
            let node = json!({ "client_id": text, "type": "event", "text_summary": text });
            json!({ "input_text": "x", "memory_lane": "shared", "nodes": [node] })
        };
        let send = async |headers: &[(&str, &str)], place: Place, text: &str| {
            service.post_with(WRITE, headers, &at(place, body(text))).await.ok()
        };
        for (n, headers) in [&[("idempotency-key", "k-1")][..], &[("x-request-id", "r-1")], &[]].into_iter().enumerate()
        {
            let text = format!("said {n}");
            let theirs = send(headers, other, &text).await;
            let ours = send(headers, own, &text).await;
            assert_eq!((&theirs["replayed"], &ours["replayed"]), (&json!(false), &json!(false)), "{headers:?}");
            assert!(ids_in(&theirs.to_string()).is_disjoint(&ids_in(&ours.to_string())), "{headers:?}");
            for (place, first) in [(other, &theirs), (own, &ours)] {
                let again = send(headers, place, &text).await;
                assert_eq!(again["replayed"], true, "{headers:?} {place:?}");
                assert_eq!(again["commit_id"], first["commit_id"], "{headers:?} {place:?}");
            }
        }
        // Nor is the key used up for another request.
        let key = [("idempotency-key", "k-2")];
        send(&key, other, "one").await;
        assert_eq!(send(&key, own, "two").await["replayed"], false);
        let conflict = service.post_with(WRITE, &key, &at(own, body("one"))).await;
        assert_eq!(conflict.refusal(), (409, "idempotency_key_reused".to_owned()), "it is used in {own:?} by now");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn work_done_for_one_place_changes_no_node_of_another() {
    between_places(async |service: &Service, own: Place, other: Place| {
        // The same ids and contents in both, so that nothing but the scope tells them apart.
        let id = json!("00000000-0000-4000-8000-000000000001");
        let node = json!({ "id": id, "type": "event", "text_summary": STORM });
        let body = json!({ "input_text": "x", "memory_lane": "shared", "nodes": [node] });
        for place in [own, other] {
            service.write(&at(place, body.clone())).await;
        }
        let (store, now) = (service.engine.store(), service.engine.clock().now());
        let claim = ClaimRequest { worker: "w".to_owned(), now, lease: Duration::from_secs(60), limit: 10 };
        let items = store.claim(claim).await.unwrap();
        let texts = store.pending_texts(&items).await.unwrap();
        let (ours, theirs): (Vec<OutboxItem>, Vec<OutboxItem>) =
            items.into_iter().partition(|item| item.scope == key_of(own));
        assert_eq!((ours.len(), theirs.len(), texts.len()), (1, 1, 2));
        let vectors: Vec<EmbeddedNode> = texts
            .into_iter()
            .map(|text| EmbeddedNode {
                scope: text.scope,
                id: text.id,
                digest: text.digest,
                result: Ok(vector("derived")),
            })
            .collect();
        let untouched = stored_in(service, other).await;
        // Vectors for both come with the claim of one.
        assert_eq!(store.complete(&ours, vectors, "m", now).await.unwrap(), 1);
        assert_eq!(stored_in(service, other).await, untouched, "work for {own:?} reached {other:?}");
        let pending = async |place: Place| store.scope_status(&key_of(place)).await.unwrap().pending;
        assert_eq!((pending(own).await, pending(other).await), (0, 1));
        let question = json!({ "query_embedding": vector("derived") });
        assert_eq!(service.recall(&at(own, question.clone())).await["seeds"].as_array().unwrap().len(), 1);
        assert_eq!(service.recall(&at(other, question)).await["seeds"].as_array().unwrap().len(), 0);
        let done = stored_in(service, own).await;
        let failed = theirs
            .into_iter()
            .map(|item| FailedItem { item, error: "refused".to_owned(), retry_at: None, counts: true })
            .collect();
        store.fail(failed, now).await.unwrap();
        assert_eq!(stored_in(service, own).await, done, "a failure in {other:?} reached {own:?}");
        assert_eq!(pending(other).await, 0);
    })
    .await;
}

/// Owners of private memories, each with a word that stands in nothing but what it owns.
const OWNERS: [(&str, &str, &str); 4] = [
    ("agent_id", "agent-x", "zinc"),
    ("agent_id", "agent-y", "cobalt"),
    ("team_id", "team-x", "nickel"),
    ("team_id", "team-y", "silver"),
];

/// A shared node, and for every owner two private ones, all of them linked to it and to each other.
fn private_memories() -> Value {
    let mut nodes = vec![json!({
        "client_id": "hub", "type": "event", "memory_lane": "shared", "text_summary": "the log of the harbour",
    })];
    let mut edges = Vec::new();
    for (kind, owner, word) in OWNERS {
        let (note, name) = (format!("note-{owner}"), format!("name-{owner}"));
        edges.push(link("related_to", "hub", &note));
        edges.push(link("part_of", "hub", &name));
        edges.push(link("derived_from", &note, &name));
        for mut node in [
            json!({
                "client_id": note, "type": "event", "title": format!("{word} note"),
                "text_summary": format!("the {word} of the harbour"), "slots": { "metal": word },
                "raw_ref": format!("raw-{word}"), "evidence_ref": format!("seen-{word}"),
            }),
            json!({ "client_id": name, "type": "topic", "title": word, "slots": { "topic_state": "active" } }),
        ] {
            node[format!("owner_{kind}")] = json!(owner);
            nodes.push(node);
        }
    }
    json!({ "input_text": "what was said", "memory_lane": "private", "nodes": nodes, "edges": edges })
}

/// Questions after the memories of one owner.
fn questions_after(owner: &str, word: &str, ids: &BTreeSet<Uuid>) -> Vec<(&'static str, Value)> {
    let ids: Vec<String> = ids.iter().map(Uuid::to_string).collect();
    let summary = format!("the {word} of the harbour");
    let by_text = [
        summary.clone(),
        format!("{word} note, {word}"),
        format!("note-{owner} name-{owner} {} the log of the harbour", ids.join(" ")),
    ];
    let by_text = by_text.map(|text| (RECALL_TEXT, all_shown(json!({ "query_text": text }))));
    let by_vector = [summary.as_str(), word, "the log of the harbour"];
    let by_vector = by_vector.map(|text| (RECALL, all_shown(json!({ "query_embedding": vector(text) }))));
    // With the shared node as the only seed, everything else can come by its edges alone.
    let hub = all_shown(json!({ "query_embedding": vector("the log of the harbour"), "limit": 1 }));
    by_text.into_iter().chain(by_vector).chain([(RECALL, hub)]).collect()
}

/// Who asks, and whose memories it may see.
fn viewers() -> [(Value, Option<&'static str>); 6] {
    [
        (json!({}), None),
        (json!({ "consumer_agent_id": "agent-x" }), Some("agent-x")),
        (json!({ "consumer_agent_id": "agent-y" }), Some("agent-y")),
        (json!({ "consumer_team_id": "team-x" }), Some("team-x")),
        (json!({ "consumer_team_id": "team-y" }), Some("team-y")),
        // An agent that is named as a team, and a team that is named as an agent.
        (json!({ "consumer_agent_id": "team-x", "consumer_team_id": "agent-x" }), None),
    ]
}

fn by(viewer: &Value, mut body: Value) -> Value {
    body.as_object_mut().unwrap().extend(viewer.as_object().unwrap().clone());
    body
}

/// The ids of an owner's nodes in the answer of a write.
fn ids_of(owner: &str, written: &Value) -> BTreeSet<Uuid> {
    let nodes = written["nodes"].as_array().unwrap().iter();
    let own = nodes.filter(|node| node["client_id"].as_str().unwrap().ends_with(owner));
    own.map(|node| node["id"].as_str().unwrap().parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn private_memories_show_to_their_owner_only() {
    for service in both_engines().await {
        let written = service.write(&private_memories()).await;
        // Before there are vectors, and with them.
        for _ in 0..2 {
            for (viewer, sees) in viewers() {
                let mut seen = BTreeSet::new();
                for (_, asked_after, asked_word) in OWNERS {
                    for (path, body) in questions_after(asked_after, asked_word, &ids_of(asked_after, &written)) {
                        let answer = ask(&service, path, &by(&viewer, body)).await;
                        let text = answer.to_string();
                        seen.extend(ids_in(&text));
                        for (_, owner, word) in OWNERS.iter().filter(|(_, owner, _)| sees != Some(*owner)) {
                            assert!(
                                ids_in(&text).is_disjoint(&ids_of(owner, &written)),
                                "{viewer} sees {owner}: {text}"
                            );
                            assert!(!text.contains(word), "{viewer} reads of {owner}: {text}");
                        }
                        let counts = &answer["debug"]["neighborhood_counts"];
                        let (nodes, edges) = if sees.is_some() { (3, 3) } else { (1, 0) };
                        assert!(counts["nodes"].as_u64() <= Some(nodes), "{viewer} counts hidden nodes: {text}");
                        assert!(counts["edges"].as_u64() <= Some(edges), "{viewer} counts hidden edges: {text}");
                    }
                }
                if let Some(owner) = sees {
                    assert!(ids_of(owner, &written).is_subset(&seen), "the questions would find what is hidden");
                }
            }
            service.drain().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_by_vector_do_not_depend_on_what_others_hide() {
    for service in both_engines().await {
        let written = service.write(&private_memories()).await;
        service.drain().await;
        for (n, (kind, hiding, _)) in OWNERS.into_iter().enumerate() {
            let ask_others = async || {
                let mut answers = Vec::new();
                for (viewer, _) in viewers().into_iter().filter(|(_, sees)| *sees != Some(hiding)) {
                    for (_, owner, word) in OWNERS {
                        let asked = questions_after(owner, word, &ids_of(owner, &written));
                        for (path, body) in asked.into_iter().filter(|(path, _)| *path == RECALL) {
                            let mut answer = ask(&service, path, &by(&viewer, body)).await;
                            // Scopes are counted as a whole.
                            for of_scope in ["as_of_commit", "pending"] {
                                answer.as_object_mut().unwrap().remove(of_scope);
                            }
                            answers.push(answer);
                        }
                    }
                }
                answers
            };
            let before = ask_others().await;
            let mut node = json!({
                "client_id": format!("late-{n}"), "type": "event", "text_summary": "the log of the harbour, copied",
                "embedding": vector("the log of the harbour"),
            });
            node[format!("owner_{kind}")] = json!(hiding);
            let body = json!({
                "input_text": "x", "memory_lane": "private", "nodes": [node],
                "edges": [link("related_to", "hub", &format!("late-{n}"))],
            });
            service.write(&body).await;
            assert_eq!(ask_others().await, before, "{hiding} has hidden one more node");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_metrics_tell_of_no_place() {
    let handle = recorder();
    let services = [Service::with(|setup| setup.metrics = Some(handle)), Service::start_on_postgres().await];
    let mut ids = BTreeSet::new();
    for service in &services {
        for place in [("acme", "quay"), ("globex", "quay-2")] {
            ids.extend(tell(service, place, story()).await);
            ask_all(service, place, &ids).await;
            service.post(WRITE, &at(place, json!({ "input_text": "x", "edges": [link("part_of", "a", "b")] }))).await;
            service.drain().await;
            tell(
                service,
                place,
                json!({ "input_text": "later", "nodes": [{ "client_id": "evt-9", "type": "event" }] }),
            )
            .await;
        }
    }
    for service in &services {
        for path in ["/health", "/health/live", "/health/ready", "/metrics"] {
            // There is one recorder for the whole process; it counts for both services.
            let answer = service.get(path).await;
            let text = answer.text();
            for hidden in ["acme", "globex", "quay", "tenant", "evt-", "harbour", "ferry"] {
                assert!(!text.contains(hidden), "{path} tells of {hidden}: {text}");
            }
            assert!(ids_in(text).is_disjoint(&ids), "{path}: {text}");
        }
    }
    assert!(services[0].get("/metrics").await.text().contains("aionis_commits_total"));
}

/// A rule that is live in a place, with a decision made by it.
async fn governed(service: &Service, place: Place) -> (String, String) {
    let rule = json!({ "client_id": "rule", "type": "rule", "text_summary": "prefer psql", "memory_lane": "shared",
        "slots": { "if": {}, "then": { "tool": { "prefer": ["psql"] } } } });
    let written = service.write(&at(place, json!({ "input_text": "x", "nodes": [rule] }))).await;
    let rule = written["nodes"][0]["id"].as_str().unwrap().to_owned();
    let state = json!({ "rule_node_id": rule, "state": "active", "input_text": "x" });
    service.post("/v1/memory/rules/state", &at(place, state)).await.ok();
    let chosen = service.post("/v1/memory/tools/select", &at(place, tools())).await.ok();
    (rule, chosen["decision"]["decision_id"].as_str().unwrap().to_owned())
}

fn tools() -> Value {
    json!({ "context": { "intent": "ask" }, "candidates": ["curl", "psql"] })
}

/// Rules and decisions of one place steer, count and show in no other, and naming one from elsewhere is as naming none.
#[tokio::test(flavor = "multi_thread")]
async fn rules_and_decisions_belong_to_their_place() {
    between_places(async |service, own, other| {
        let (rule, decision) = governed(service, own).await;
        service.write(&at(other, story())).await;
        let before = service.stored().await;
        let seen = service.post("/v1/memory/rules/evaluate", &at(other, tools())).await.ok();
        assert_eq!((&seen["considered"], &seen["active"]), (&json!(0), &json!([])));
        let unsteered = service.post("/v1/memory/tools/select", &at(other, tools())).await.ok();
        assert_eq!(unsteered["selection"]["selected"], "curl");
        let report = |decision: &str| {
            json!({ "decision_id": decision, "outcome": "negative", "context": {}, "candidates": ["curl", "psql"],
                "selected_tool": "psql", "input_text": "x" })
        };
        for (path, body) in [
            (
                "/v1/memory/rules/state".to_owned(),
                json!({ "rule_node_id": rule, "state": "disabled", "input_text": "x" }),
            ),
            (
                "/v1/memory/feedback".to_owned(),
                json!({ "rule_node_id": rule, "outcome": "negative", "input_text": "x" }),
            ),
            ("/v1/memory/tools/feedback".to_owned(), report(&decision)),
            (format!("/v1/memory/decisions/{decision}/replay"), json!({})),
            ("/v1/memory/nodes/activate".to_owned(), json!({ "client_ids": ["rule"], "input_text": "x" })),
            ("/v1/memory/archive/rehydrate".to_owned(), json!({ "client_ids": ["rule"], "input_text": "x" })),
        ] {
            let foreign = service.post(&path, &at(other, body.clone())).await;
            let unknown = body.to_string().replace(&rule, UNKNOWN).replace(&decision, UNKNOWN);
            let unknown = at(other, serde_json::from_str(&unknown.replace("\"rule\"", "\"nobody\"")).unwrap());
            let nothing = service.post(&path.replace(&decision, UNKNOWN), &unknown).await;
            assert_eq!(foreign.status, 400, "{path}");
            let told = |answer: &Answer| answer.text().replace(&rule, UNKNOWN).replace(&decision, UNKNOWN);
            assert_eq!(told(&foreign), told(&nothing), "{path}");
        }
        // By id alone nothing is found either; that is no mistake of the caller.
        for path in ["/v1/memory/nodes/activate", "/v1/memory/archive/rehydrate"] {
            let body = at(other, json!({ "node_ids": [rule], "input_text": "x" }));
            let answer = service.post(path, &body).await.ok();
            assert_eq!(answer["commit_id"], Value::Null, "{path}");
        }
        assert_eq!(service.stored().await, before);
        let own_rules = service.post("/v1/memory/rules/evaluate", &at(own, tools())).await.ok();
        assert_eq!(own_rules["active"][0]["stats"], json!({ "positive": 0, "negative": 0 }));
    })
    .await;
}
