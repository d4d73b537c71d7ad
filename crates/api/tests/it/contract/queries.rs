//! Queries made from the document: good ones, and every way a member can be wrong; and who may ask them.

use std::fmt::Write as _;

use axum::body::Body;
use serde_json::{Value, json};

use super::{
    REFUSALS, Table,
    document::{Document, escaped},
    told,
    world::{World, setup},
};
use crate::harness::{Answer, Service};

/// A member of a query: its name, where the document describes its value, and that description.
struct Member {
    name: String,
    pointer: String,
    schema: Value,
}

/// Paths of all readings below `/v1` that take no body, with the members of their queries.
fn readings(document: &Document) -> Vec<(String, Vec<Member>)> {
    let of = |(path, _, operation): (String, String, Value)| {
        let references = operation["parameters"].as_array().cloned().unwrap_or_default();
        let named = references.iter().filter_map(|reference| reference["$ref"].as_str().map(|at| at[1..].to_owned()));
        let members = named.filter_map(|at| {
            let parameter = document.json.pointer(&at)?;
            (parameter["in"] == "query").then(|| Member {
                name: parameter["name"].as_str().unwrap().to_owned(),
                pointer: format!("{at}/schema"),
                schema: parameter["schema"].clone(),
            })
        });
        (path, members.collect())
    };
    let operations = document.operations().into_iter();
    operations.filter(|(path, method, _)| method == "get" && path.starts_with("/v1/")).map(of).collect()
}

pub(crate) fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut all, byte| {
        let _ = if byte.is_ascii_alphanumeric() { write!(all, "{}", byte as char) } else { write!(all, "%{byte:02X}") };
        all
    })
}

fn query(pairs: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = pairs.iter().map(|(name, text)| format!("{}={}", encoded(name), encoded(text))).collect();
    pairs.join("&")
}

fn takes(schema: &Value, kind: &str) -> bool {
    schema["type"] == kind || schema["type"].as_array().is_some_and(|of| of.contains(&json!(kind)))
}

fn good(member: &Member) -> String {
    let value = [&member.schema["examples"][0], &member.schema["default"]].into_iter().find(|value| !value.is_null());
    let value = value.unwrap_or_else(|| panic!("{} has no example", member.name));
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// What the text of a member says: a number, where the member may be one and the text is nothing else.
fn said(member: &Member, text: &str) -> Value {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && takes(&member.schema, "integer");
    digits.then(|| text.parse::<u64>().ok()).flatten().map_or_else(|| json!(text), Value::from)
}

/// Texts for a member, each with what it shows.
fn texts(member: &Member) -> Vec<(String, String)> {
    let mut all = vec![
        ("empty".to_owned(), String::new()),
        ("blank".to_owned(), " ".to_owned()),
        ("with NUL".to_owned(), "a\0b".to_owned()),
        ("of another pattern".to_owned(), "A/../\u{85}".to_owned()),
    ];
    if takes(&member.schema, "integer") {
        for text in ["x", "1.5", "-1", "+1", "true", "null", "[1]", "99999999999999999999"] {
            all.push((format!("the text {text}"), text.to_owned()));
        }
        let (min, max) = (member.schema["minimum"].as_u64().unwrap(), member.schema["maximum"].as_u64().unwrap());
        // Beyond 2^53 the next number is not another one to a judge that counts in floats.
        for number in [min - 1, min, max, max + if max < 1 << 53 { 1 } else { 2 }] {
            all.push((format!("the number {number}"), number.to_string()));
        }
    }
    if takes(&member.schema, "string") && takes(&member.schema, "integer") {
        for text in [
            "2026-02-16T09:36:07Z",
            "2999-01-01t00:00:00.5+02:00",
            "2999-01-01 00:00:00Z",
            "2026-02-16",
            "yesterday",
            "5D6092C4-30A5-5D16-980F-3AEDC3E11A08",
            "5d6092c430a55d16980f3aedc3e11a08",
        ] {
            all.push((format!("the text {text}"), text.to_owned()));
        }
    }
    if let Some(max) = member.schema["x-max-bytes"].as_u64().and_then(|max| usize::try_from(max).ok()) {
        for text in ["x".repeat(max), "x".repeat(max + 1), "é".repeat(max / 2 + 1)] {
            all.push((format!("of {} bytes, {} characters", text.len(), text.chars().count()), text));
        }
    }
    all
}

async fn ask(world: &World, path: &str, headers: &[(&str, &str)], query: &str) -> Answer {
    world.send("get", &format!("{path}?{query}"), headers, Body::empty()).await
}

async fn table_of(world: &World, document: &mut Document) -> Table {
    let mut table = Table::default();
    for (path, members) in readings(document) {
        let all: Vec<(&str, String)> = members.iter().map(|member| (member.name.as_str(), good(member))).collect();
        let full: Vec<(&str, &str)> = all.iter().map(|(name, text)| (*name, text.as_str())).collect();
        for (case, asked) in [("no query", String::new()), ("full", query(&full))] {
            let answer = ask(world, &path, &[], &asked).await;
            if answer.status.as_u16() != 200 {
                table.fault(&path, case, "200", answer.text());
            }
            table.add(document, (&path, "get"), case, &answer);
        }
        for member in &members {
            for (what, text) in texts(member) {
                let case = format!("{} {what}", member.name);
                let answer = ask(world, &path, &[], &query(&[(&member.name, &text)])).await;
                table.add(document, (&path, "get"), &case, &answer);
                judge(&mut table, document, (&path, &case, member), &text, &answer);
            }
        }
        repeated(world, document, &mut table, &path).await;
    }
    table
}

fn judge(
    table: &mut Table,
    document: &mut Document,
    (path, case, member): (&str, &str, &Member),
    text: &str,
    answer: &Answer,
) {
    let (status, code) = told(answer);
    let refused = status == 400 && REFUSALS.contains(&code.as_str());
    match document.refuses_at(&member.pointer, &said(member, text)) {
        Some(why) if !refused => table.fault(path, case, &format!("a refusal, for {why}"), answer.text()),
        None if refused => table.fault(path, case, "the schema's consent", answer.text()),
        _ => {}
    }
    if refused && code == "invalid_request" && answer.issues()[0].0 != member.name {
        table.fault(path, case, "the name of the member", answer.text());
    }
}

/// A member too many is ignored; one that stands there twice says nothing.
async fn repeated(world: &World, document: &mut Document, table: &mut Table, path: &str) {
    for (asked, wanted) in [
        ("unheard_of=1", None),
        ("unheard_of=1&unheard_of=1", Some("unheard_of")),
        ("scope=demo&scope=demo", Some("scope")),
        // Bytes that are no text are replaced, as everywhere in URLs, and then name another scope.
        ("scope=%FF", None),
    ] {
        let answer = ask(world, path, &[], asked).await;
        let got = (answer.status.as_u16() == 400).then(|| answer.issues()[0].0.clone());
        if got.as_deref() != wanted {
            table.fault(path, asked, &format!("{wanted:?}"), answer.text());
        }
        table.add(document, (path, "get"), asked, &answer);
    }
}

#[tokio::test]
async fn contract_of_queries() {
    let mut document = Document::new();
    let world = World::new(Service::with(setup)).await;
    let table = table_of(&world, &mut document).await;
    table.assert_sound();
    assert!(table.rows.len() > 150, "{} cases", table.rows.len());
    insta::assert_snapshot!("contract_queries", table.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_of_queries_on_both_engines() {
    let mut document = Document::new();
    let embedded = World::new(Service::with(setup)).await;
    let postgres = World::new(Service::on_postgres_with(setup).await).await;
    let one = table_of(&embedded, &mut document).await;
    let other = table_of(&postgres, &mut document).await;
    other.assert_sound();
    assert_eq!(one.text(), other.text());
}

/// Ids of paths in every spelling: what is no id is refused, what names nothing is not there.
#[tokio::test]
async fn ids_in_paths_have_one_spelling() {
    let mut document = Document::new();
    let world = World::new(Service::with(setup)).await;
    let upper = world.guest.to_uppercase();
    let unknown = "00000000-0000-4000-8000-0000000000ff";
    for (template, cases) in [
        (
            "/v1/memory/nodes/{id}",
            vec![(world.guest.as_str(), 200), (unknown, 404), (&upper, 400), ("7", 400), ("%FF", 400), ("%20", 400)],
        ),
        (
            "/v1/memory/nodes/{id}/history",
            vec![(world.guest.as_str(), 200), (unknown, 404), (&upper, 400), ("7", 400), ("%FF", 400)],
        ),
        (
            "/v1/memory/commits/{id}",
            vec![
                (world.commit.as_str(), 200),
                ("1", 200),
                ("999", 404),
                ("9999999999999999", 404),
                (unknown, 404),
                ("0", 400),
                ("01", 400),
                ("%2B1", 400),
                ("-1", 400),
                ("1.0", 400),
                ("10000000000000000", 400),
                ("18446744073709551616", 400),
                (&upper, 400),
                ("%FF", 400),
            ],
        ),
    ] {
        for (id, wanted) in cases {
            let answer = world.send("get", &template.replace("{id}", id), &[], Body::empty()).await;
            assert_eq!(answer.status.as_u16(), wanted, "{template} {id}: {}", answer.text());
            assert_eq!(document.faults(template, "get", &answer), Vec::<String>::new(), "{template} {id}");
            let schema = format!("/paths/{}/get/parameters", escaped(template));
            let parameters = document.json.pointer(&schema).unwrap().as_array().unwrap().clone();
            let at = parameters.iter().position(|parameter| parameter["in"] == "path").unwrap();
            let text = if id.contains('%') { "\u{fffd}" } else { id };
            let refused = document.refuses_at(&format!("{schema}/{at}/schema"), &json!(text));
            assert_eq!(refused.is_some(), wanted == 400, "{template} {id}: {refused:?}");
        }
    }
}

/// Where there is no body, what describes one says nothing; and nothing is stored that a key could name.
#[tokio::test]
async fn headers_of_bodies_say_nothing_of_queries() {
    let world = World::new(Service::with(setup)).await;
    for (path, _) in readings(&Document::new()) {
        for header in [("idempotency-key", ""), ("content-type", "text/plain"), ("content-length", "99999999")] {
            let answer = ask(&world, &path, &[header], "").await;
            assert_eq!(answer.status.as_u16(), 200, "{path} {header:?}: {}", answer.text());
        }
    }
    let (path, json) = ("/v1/memory/decisions/{id}/replay", ("content-type", "application/json"));
    let answer = world.send("post", &path.replace("{id}", "%FF"), &[json], "{}").await;
    assert_eq!(told(&answer), (400, "invalid_request".to_owned()));
    assert_eq!(Document::new().faults(path, "post", &answer), Vec::<String>::new());
}

/// The tenant of a query counts before that of the header; neither shows what is another's.
#[tokio::test]
async fn a_tenant_is_named_by_query_or_header() {
    let world = World::new(Service::with(setup)).await;
    for (path, _) in readings(&Document::new()) {
        let elsewhere = if path.contains("{id}") { 404 } else { 200 };
        for (headers, asked, wanted) in [
            (&[][..], "", 200),
            (&[("x-tenant-id", "default")], "", 200),
            (&[("x-tenant-id", "umbrella")], "", elsewhere),
            (&[], "tenant_id=umbrella", elsewhere),
            (&[("x-tenant-id", "umbrella")], "tenant_id=default", 200),
            (&[("x-tenant-id", "default")], "tenant_id=umbrella", elsewhere),
        ] {
            let answer = ask(&world, &path, headers, asked).await;
            assert_eq!(answer.status.as_u16(), wanted, "{path} {headers:?} {asked}: {}", answer.text());
            if elsewhere == 200 {
                let own = !answer.json()["commits"].as_array().unwrap().is_empty();
                assert_eq!(own, answer.json()["tenant_id"] == "default", "{path} {headers:?} {asked}");
            }
        }
    }
}

/// Readings are bound to their callers as bodies are.
#[tokio::test]
async fn contract_of_callers_that_query() {
    let mut document = Document::new();
    let world = super::callers::world().await;
    let mut table = Table::default();
    for (path, _) in readings(&document) {
        let elsewhere = if path.contains("/nodes/") { (404, "node_not_found") } else { (404, "commit_not_found") };
        let of_another = if path.contains("{id}") { elsewhere } else { (200, "") };
        for (case, headers, asked, wanted) in [
            ("no credential", vec![], "", (401, "unauthorized")),
            ("an unknown key", vec![("x-api-key", "unheard-of")], "", (401, "unauthorized")),
            ("a good key", vec![("x-api-key", "ann")], "", (200, "")),
            ("the role reader", vec![("x-api-key", "reader")], "", (200, "")),
            ("the role admin", vec![("x-api-key", "admin")], "", (200, "")),
            ("its own names", vec![("x-api-key", "ann")], "tenant_id=acme&consumer_agent_id=ann", (200, "")),
            ("the key of another tenant", vec![("x-api-key", "other")], "", of_another),
            ("tenant_id of another", vec![("x-api-key", "ann")], "tenant_id=umbrella", (403, "identity_mismatch")),
            (
                "consumer_agent_id of another",
                vec![("x-api-key", "ann")],
                "consumer_agent_id=ben",
                (403, "identity_mismatch"),
            ),
            (
                "consumer_team_id of another",
                vec![("x-api-key", "ann")],
                "consumer_team_id=red",
                (403, "identity_mismatch"),
            ),
            (
                "a tenant named twice",
                vec![("x-api-key", "ann")],
                "tenant_id=acme&tenant_id=umbrella",
                (403, "identity_mismatch"),
            ),
            (
                "the tenant of another in a header",
                vec![("x-api-key", "ann"), ("x-tenant-id", "umbrella")],
                "",
                (403, "identity_mismatch"),
            ),
        ] {
            let answer = ask(&world, &path, &headers, asked).await;
            super::callers::expect(&mut table, &path, case, wanted, &answer);
            table.add(&mut document, (&path, "get"), case, &answer);
        }
    }
    table.assert_sound();
    insta::assert_snapshot!("contract_callers_that_query", table.text());
}
