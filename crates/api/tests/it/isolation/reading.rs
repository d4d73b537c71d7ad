//! Readings and forgetting: what belongs to one place, agent or team is to another as if it were not there.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    OWNERS, Place, UNKNOWN, at, between_places, both_engines, by, ids_in, ids_of, private_memories, stored_in, story,
    tell, viewers,
};
use crate::harness::{Answer, Service};

const FIND: &str = "/v1/memory/find";
const FORGET: &str = "/v1/memory/forget";

fn encoded(text: &str) -> String {
    text.replace('/', "%2F")
}

async fn get(service: &Service, path: &str, place: Place) -> Answer {
    service.get(&format!("{path}?tenant_id={}&scope={}", place.0, encoded(place.1))).await
}

/// Reads everything a place shows.
async fn read_all(service: &Service, place: Place, named: &BTreeSet<Uuid>) -> String {
    let ids: Vec<String> = named.iter().map(Uuid::to_string).collect();
    let mut told = String::new();
    let shown = json!({ "include_meta": true, "include_slots": true });
    for asked in [json!({}), json!({ "ids": ids }), json!({ "client_ids": ["evt-1", "ent-1"] }), json!({ "as_of": 1 })]
    {
        let mut body = at(place, asked);
        body.as_object_mut().unwrap().extend(shown.as_object().unwrap().clone());
        told += service.post(FIND, &body).await.text();
    }
    told += get(service, "/v1/memory/commits", place).await.text();
    told += get(service, "/v1/memory/commits/1", place).await.text();
    told += service.post("/v1/memory/verify", &at(place, json!({}))).await.text();
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn readings_of_two_places_never_mix() {
    between_places(async |service: &Service, own: Place, other: Place| {
        let foreign = tell(service, other, story()).await;
        let stored = service.stored().await;
        let before = read_all(service, own, &foreign).await;
        assert!(ids_in(&before).is_disjoint(&foreign), "{own:?} is empty, yet: {before}");
        assert!(before.contains("scope_not_found") && before.contains("commit_not_found"), "{before}");
        assert_eq!(service.stored().await, stored, "asking makes no place");
        let kept = tell(service, own, story()).await;
        let told = read_all(service, own, &foreign).await;
        assert!(ids_in(&told).is_disjoint(&foreign), "{own:?} sees what {other:?} has: {told}");
        assert!(!ids_in(&told).is_disjoint(&kept), "{told}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_or_forgotten_elsewhere_is_as_what_is_unknown() {
    between_places(async |service: &Service, own: Place, other: Place| {
        let foreign = tell(service, other, story()).await;
        let node = json!([{ "client_id": "mine", "type": "event", "text_summary": "mine" }]);
        tell(service, own, json!({ "input_text": "x", "memory_lane": "shared", "nodes": node })).await;
        let nodes = service.post(FIND, &at(other, json!({}))).await.ok();
        let stored = (service.stored().await, stored_in(service, other).await);
        for id in &foreign {
            let id = id.to_string();
            let told = async |id: &str, kind: &str| {
                let path = format!("/v1/memory/{}", kind.replace("{id}", id));
                let answer = get(service, &path, own).await;
                (answer.status.as_u16(), answer.text().replace(id, "an id"))
            };
            for kind in ["nodes/{id}", "nodes/{id}/history", "commits/{id}"] {
                let theirs = told(&id, kind).await;
                assert_eq!(theirs.0, 404, "{kind} {theirs:?}");
                assert_eq!(theirs, told(UNKNOWN, kind).await);
            }
            for name in ["as_of"] {
                let state = |id: &str| at(own, json!({ name: id }));
                let refused = service.post(FIND, &state(&id)).await;
                assert_eq!(refused.status.as_u16(), 404);
                assert_eq!(refused.text(), service.post(FIND, &state(UNKNOWN)).await.text());
            }
            let look = service.post(FORGET, &at(own, json!({ "node_ids": [id] }))).await;
            assert_eq!(look.refusal(), (404, "forget_no_resolved_nodes".to_owned()));
        }
        for client_id in ["evt-1", "nobody"] {
            let look = service.post(FORGET, &at(own, json!({ "client_ids": [client_id] }))).await;
            assert_eq!(look.refusal(), (404, "forget_no_resolved_nodes".to_owned()), "{client_id}");
        }
        // A token and a cursor are good where they were given.
        let theirs = json!({ "client_ids": ["evt-1"] });
        let token = service.post(FORGET, &at(other, theirs.clone())).await.ok()["confirmation_token"].clone();
        let mut taken = json!({ "client_ids": ["mine"] });
        taken["confirmation_token"] = token.clone();
        assert_eq!(service.post(FORGET, &at(own, taken)).await.refusal(), (409, "forget_selection_changed".to_owned()));
        let cursor = service.post(FIND, &at(other, json!({ "limit": 1 }))).await.ok()["next_cursor"].clone();
        let refused = service.post(FIND, &at(own, json!({ "limit": 1, "cursor": cursor }))).await;
        assert_eq!(refused.issues()[0].0, "cursor");
        let uri = &nodes["nodes"][0]["uri"];
        assert_eq!(service.post(FIND, &at(own, json!({ "uri": uri }))).await.issues()[0].0, "uri");
        assert_eq!((service.stored().await, stored_in(service, other).await), stored);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forgetting_in_one_place_takes_nothing_of_another() {
    between_places(async |service: &Service, own: Place, other: Place| {
        // The same ids in both, so that nothing but the scope tells them apart.
        let id = "00000000-0000-4000-8000-000000000001";
        let node = json!({ "id": id, "type": "event", "text_summary": "the harbour is closed" });
        let body = json!({ "input_text": "x", "memory_lane": "shared", "nodes": [node] });
        for place in [own, other] {
            service.write(&at(place, body.clone())).await;
            tell(service, place, story()).await;
        }
        service.drain().await;
        let kept = stored_in(service, other).await;
        let told = read_all(service, other, &BTreeSet::from([id.parse().unwrap()])).await;
        let all = json!({ "filter": { "tier": "hot" } });
        let token = service.post(FORGET, &at(own, all.clone())).await.ok()["confirmation_token"].clone();
        let mut erase = at(own, all);
        erase["confirmation_token"] = token;
        assert_eq!(service.post(FORGET, &erase).await.ok()["nodes"], 5);
        assert_eq!(get(service, &format!("/v1/memory/nodes/{id}"), own).await.status.as_u16(), 410);
        assert_eq!(get(service, &format!("/v1/memory/nodes/{id}"), other).await.status.as_u16(), 200);
        assert_eq!(stored_in(service, other).await, kept);
        assert_eq!(read_all(service, other, &BTreeSet::from([id.parse().unwrap()])).await, told);
    })
    .await;
}

fn query_of(viewer: &Value) -> String {
    let pairs = viewer.as_object().unwrap().iter();
    pairs.map(|(name, value)| format!("{name}={}", value.as_str().unwrap())).collect::<Vec<_>>().join("&")
}

/// Everything a viewer can be told of some nodes by reading.
async fn told_of(service: &Service, viewer: &Value, ids: &BTreeSet<Uuid>, (owner, word): (&str, &str)) -> Vec<Answer> {
    let named: Vec<String> = ids.iter().map(Uuid::to_string).collect();
    let mut all = Vec::new();
    for asked in [
        json!({}),
        json!({ "ids": named }),
        json!({ "client_ids": [format!("note-{owner}"), format!("name-{owner}")] }),
        json!({ "text_contains": word }),
        json!({ "slots_contains": { "metal": word } }),
        json!({ "owner_agent_id": owner }),
        json!({ "owner_team_id": owner }),
        json!({ "memory_lane": "private", "as_of": 1 }),
        json!({ "limit": 1, "offset": 1 }),
    ] {
        let mut body = by(viewer, asked);
        (body["include_meta"], body["include_slots"]) = (json!(true), json!(true));
        all.push(service.post(FIND, &body).await);
    }
    for id in named {
        for suffix in ["?", "/history?", "?as_of=1&"] {
            all.push(service.get(&format!("/v1/memory/nodes/{id}{suffix}{}", query_of(viewer))).await);
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn private_memories_are_read_by_their_owner_only() {
    for service in both_engines().await {
        let written = service.write(&private_memories()).await;
        for erased in [false, true] {
            if erased {
                // What was private is as hidden when it is gone.
                let all = json!({ "filter": { "memory_lane": "private" } });
                let look = service.post(FORGET, &all).await.ok();
                assert_eq!(look["nodes"], 2 * OWNERS.len());
                let mut erase = all;
                erase["confirmation_token"] = look["confirmation_token"].clone();
                service.post(FORGET, &erase).await.ok();
            }
            for (viewer, sees) in viewers() {
                for (_, owner, word) in OWNERS {
                    let ids = ids_of(owner, &written);
                    let mut seen = BTreeSet::new();
                    for answer in told_of(&service, &viewer, &ids, (owner, word)).await {
                        let own = sees == Some(owner);
                        if own || answer.status.as_u16() == 200 {
                            seen.extend(ids_in(answer.text()));
                        } else {
                            assert_eq!(answer.refusal(), (404, "node_not_found".to_owned()), "{viewer}");
                        }
                        if !own {
                            assert!(!answer.text().contains(word), "{viewer} reads of {owner}: {}", answer.text());
                        }
                    }
                    assert_eq!(ids.is_subset(&seen), sees == Some(owner), "{viewer} of {owner}, erased: {erased}");
                    assert!(sees == Some(owner) || ids.is_disjoint(&seen), "{viewer} sees of {owner}: {seen:?}");
                }
            }
        }
        service.assert_sound().await;
    }
}
