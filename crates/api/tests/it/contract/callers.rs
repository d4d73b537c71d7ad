//! Who may ask what: credentials, tenants, roles, owners.

use std::sync::Arc;

use aionis_api::{Auth, AuthMode, Role, StaticKeys, TokenVerifier, required_role};
use serde_json::{Value, json};

use super::{
    Table,
    document::Document,
    told,
    world::{World, posted, setup},
};
use crate::{
    auth::{KEYS, bearer, claims, now, token, token_settings},
    harness::{Service, WRITE},
};

fn recognising() -> Auth {
    let tokens = TokenVerifier::new(&token_settings()).unwrap();
    Auth::new(AuthMode::ApiKeyOrJwt).with_keys(Arc::new(StaticKeys::parse(KEYS).unwrap())).with_tokens(tokens)
}

pub(super) async fn world() -> World {
    let service = Service::with(|given| {
        setup(given);
        given.api.auth = recognising();
    });
    World::within(service, &[("x-api-key", "admin")], "acme").await
}

/// A body that names nobody, so that it can be anybody's.
fn anonymous(world: &World, document: &Document, path: &str) -> Value {
    world.body(document, path, false)
}

#[tokio::test]
async fn contract_of_callers() {
    let mut document = Document::new();
    let world = world().await;
    let mut table = Table::default();
    let mut expired = claims();
    expired["exp"] = json!(now() - 600);
    let (expired, good) = (bearer(&token(&expired)), bearer(&token(&claims())));
    for path in posted(&document) {
        let may = |role: Role| if required_role(&path).unwrap() <= role { (200, "") } else { (403, "forbidden") };
        let (reader, writer) = (may(Role::Reader), may(Role::Writer));
        let key = if writer.0 == 200 { "ann" } else { "admin" };
        for (case, headers, wanted) in [
            ("no credential", vec![], (401, "unauthorized")),
            ("an unknown key", vec![("x-api-key", "unheard-of")], (401, "unauthorized")),
            ("no token", vec![("authorization", "Bearer x")], (401, "unauthorized")),
            ("an expired token", vec![("authorization", expired.as_str())], (401, "unauthorized")),
            ("a good token", vec![("authorization", good.as_str())], writer),
            ("a good key", vec![("x-api-key", "ann")], writer),
            ("the role reader", vec![("x-api-key", "reader")], reader),
            ("the role admin", vec![("x-api-key", "admin")], (200, "")),
            (
                "the tenant of another in a header",
                vec![("x-api-key", key), ("x-tenant-id", "umbrella")],
                (403, "identity_mismatch"),
            ),
        ] {
            let answer = world.post(&path, &headers, &anonymous(&world, &document, &path)).await;
            expect(&mut table, &path, case, wanted, &answer);
            table.add(&mut document, (&path, "post"), case, &answer);
        }
        claims_of_others(&world, &mut document, &mut table, (&path, key)).await;
    }
    someone_elses(&world, &mut document, &mut table).await;
    table.assert_sound();
    insta::assert_snapshot!("contract_callers", table.text());
}

pub(super) fn expect(table: &mut Table, path: &str, case: &str, wanted: (u16, &str), answer: &crate::harness::Answer) {
    let got = told(answer);
    if (got.0, got.1.as_str()) != wanted {
        table.fault(path, case, &format!("{wanted:?}"), answer.text());
    }
}

/// Bodies that claim another tenant, agent or team than the credential's.
async fn claims_of_others(world: &World, document: &mut Document, table: &mut Table, (path, key): (&str, &str)) {
    let schema = document.resolve(&super::world::schema_of(document, path)).clone();
    // Owners and producers that are looked for are claimed by nobody: what is found is what the caller sees.
    let looks_for = path == "/v1/memory/find";
    let claims = |member: &str| !looks_for || member == "tenant_id" || member.starts_with("consumer_");
    let takes = |member: &str| claims(member) && !schema["properties"][member].is_null();
    let names =
        ["tenant_id", "consumer_agent_id", "consumer_team_id", "producer_agent_id", "owner_agent_id", "owner_team_id"];
    for name in names.into_iter().filter(|name| takes(name)) {
        let mut body = anonymous(world, document, path);
        body[name] = json!("umbrella");
        let answer = world.post(path, &[("x-api-key", key)], &body).await;
        let case = format!("{name} of another");
        expect(table, path, &case, (403, "identity_mismatch"), &answer);
        table.add(document, (path, "post"), &case, &answer);
    }
    for name in ["context", "rules_context"].into_iter().filter(|name| takes(name)) {
        for (case, claim) in [
            ("agent", json!({ "agent": { "id": "ben" } })),
            ("agent_id", json!({ "agent_id": "ben" })),
            ("team", json!({ "agent": { "team_id": "red" } })),
        ] {
            let mut body = anonymous(world, document, path);
            body[name] = claim;
            let answer = world.post(path, &[("x-api-key", key)], &body).await;
            let case = format!("{name} with the {case} of another");
            expect(table, path, &case, (403, "identity_mismatch"), &answer);
            table.add(document, (path, "post"), &case, &answer);
        }
    }
}

/// What another agent keeps in its private lane, and what another tenant has, is not there.
async fn someone_elses(world: &World, document: &mut Document, table: &mut Table) {
    let slots = json!({ "if": {}, "then": {} });
    let private = json!({ "scope": "demo", "input_text": "x", "nodes": [
        { "client_id": "bens-rule", "type": "rule", "memory_lane": "private", "slots": slots },
        { "client_id": "bens-note", "type": "event", "memory_lane": "private", "title": "x", "tier": "cold" },
    ] });
    let written = world.post(WRITE, &[("x-api-key", "ben")], &private).await.ok();
    let (rule, note) = (&written["nodes"][0]["id"], &written["nodes"][1]["id"]);
    let input = |mut body: Value| {
        body["input_text"] = json!("x");
        body
    };
    let taken = json!({ "nodes": [{ "client_id": "bens-note", "type": "event", "title": "mine" }] });
    for (path, body, wanted) in [
        (
            "/v1/memory/rules/state",
            json!({ "rule_node_id": rule, "state": "active" }),
            (400, "rule_not_found_in_scope"),
        ),
        (
            "/v1/memory/feedback",
            json!({ "rule_node_id": rule, "outcome": "positive" }),
            (400, "rule_not_found_in_scope"),
        ),
        (
            "/v1/memory/nodes/activate",
            json!({ "client_ids": ["bens-note"] }),
            (400, "nodes_activate_no_resolved_nodes"),
        ),
        ("/v1/memory/archive/rehydrate", json!({ "client_ids": ["bens-note"] }), (400, "rehydrate_no_resolved_nodes")),
        (WRITE, taken, (403, "node_belongs_to_another")),
        ("/v1/memory/nodes/activate", json!({ "node_ids": [note] }), (200, "")),
    ] {
        let answer = world.post(path, &[("x-api-key", "ann")], &input(body)).await;
        let case = format!("what another keeps private ({})", wanted.0);
        expect(table, path, &case, wanted, &answer);
        table.add(document, (path, "post"), &case, &answer);
        if wanted.0 == 200 {
            assert_eq!(answer.json()["activated"]["found_nodes"], 0, "{}", answer.text());
        }
    }
    let rule = json!({ "rule_node_id": world.rule, "outcome": "positive" });
    for (path, body, code) in [
        ("/v1/memory/feedback", input(rule), "rule_not_found_in_scope"),
        ("/v1/memory/decisions/{id}/replay", json!({}), "decision_not_found_in_scope"),
    ] {
        let answer = world.post(path, &[("x-api-key", "other")], &body).await;
        expect(table, path, "what another tenant has", (400, code), &answer);
        table.add(document, (path, "post"), "what another tenant has", &answer);
    }
}
